//===- PagesToLanes.cpp - Kernels over pages as code of lanes -------------===//
//
// Turns kernels in tile form that write one part of a page, flush and
// requantize, into functions of a gpu.module.  Neighbours: TileKernels.cpp (the
// tile form), PageQuads.h (who has what), DeviceAbi.h (arguments),
// TileToLanes.cpp (the kernels that read).
//
// Mental model.  A thread block takes one part of one page, and each warp a
// *slice* of it: 32 elements of one axis (16 of 80 head dims), all of the
// other.  A lane holds the same elements at every level (FragmentLayout.h), in
// *quads* of 4 neighbours along k, so loading, shifting, quantizing and storing
// stay in the lane; only the extremes of a group go through shuffles, among the
// 8 lanes that have its rows or the 4 that have its k, and keys that fall with
// feedback through shared memory (FeedbackInLanes.h).  Which axis is sliced
// follows from the groups: all of a group lies in one slice.
//
//   quad (row block, half of its rows, k / 16):
//     raw     two words of two bf16
//     codes   one word, a code a byte
//
// A part is read whole before any of it is written, so that a page is lowered
// in place; and nothing is written if one of its groups can not be represented.
//
//===----------------------------------------------------------------------===//

#include "FeedbackInLanes.h"
#include "HalvesInWords.h"
#include "LaneParameters.h"
#include "LanePass.h"
#include "LinearMap.h"
#include "PageCodes.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/SlotLayout.h"
#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/DeviceAbi.h"
#include "llvm/ADT/TypeSwitch.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_CONVERTPAGESTOLANES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
using ::pmkvq::FragmentLayout;
using ::pmkvq::ParameterLayout;
namespace rt = ::pmkvq::rt;

namespace {
class PageLowering {
public:
  PageLowering(KernelOp kernel, OpBuilder &at)
      : kernel(kernel), b(kernel.getLoc(), at) {}

  LogicalResult run() {
    if (failed(match()))
      return failure();
    startLanes();
    return lowerBlock(kernel.getBody().front());
  }

private:
  //===--------------------------------------------------------------------===//
  // The kernel
  //===--------------------------------------------------------------------===//

  LogicalResult match() {
    StoreOp store;
    Operation *source = nullptr;
    kernel.walk([&](Operation *op) {
      if (auto found = dyn_cast<StoreOp>(op))
        store = found;
      else if (isa<TakeOp, FetchFixedOp>(op))
        source = op;
    });
    takesPage = isa_and_present<TakeOp>(source);
    if (!store || !source)
      return kernel.emitOpError("writes no page from a page or a window");
    target = store.getTile().getType();
    cache = store.getPage().getType().getCache();
    shape.part = target.getPart();
    shape.headDim = target.getHeadDim();
    if (auto format = target.getFormat()) {
      const FormatModel &model = format.getModel();
      if (model.getFirstLevel() != 8 || model.rewritesParameters() ||
          target.hasPartialGroups() || !hasLaneParameters(shape.part, model))
        return kernel.emitOpError("writes format ")
               << format << "; a GPU supports formats whose first level is 8, "
               << "with two fp16 parameters, of values also one byte, that are "
                  "written once and groups of a whole axis";
      if (!target.isRaw())
        shape.sliceRows = !groupsAlongK();
    }
    // Codes that are only moved: whole vectors of every level are slices of
    // tokens.
    bool quantizes = false;
    kernel.walk([&](QuantizeOp) { quantizes = true; });
    if (!quantizes)
      shape.sliceRows = shape.isKey();
    return success();
  }

  /// Whether an element of k has a group of its own (else a row has).
  bool groupsAlongK() const { return target.groupsAlongReduction(); }

  void startLanes() {
    threads = static_cast<int32_t>(shape.slices() * 32);
    // Enough warps to hide what memory and special functions take; a window's
    // addresses need more registers, and so do sums that are fed back.
    bool feedsBack =
        !kernel.getBody().front().getOps<FetchFeedbackOp>().empty();
    int32_t blocks = (!takesPage ? 256 : feedsBack ? 384 : 512) / threads;
    Value arguments = b.startFunction(kernel.getSymName(),
                                      sizeof(rt::PagesArgs), threads, blocks);
    auto pointer = [&](size_t offset) {
      return b.pointerArgument(arguments, offset);
    };
    codes = pointer(offsetof(rt::PagesArgs, codes));
    parameters = pointer(offsetof(rt::PagesArgs, parameters));
    outcomes = pointer(offsetof(rt::PagesArgs, outcomes));
    keyFeedback = pointer(offsetof(rt::PagesArgs, keyFeedback));
    Value tasks = pointer(offsetof(rt::PagesArgs, tasks));
    task = b.at(tasks, b.mul(b.blockId(), sizeof(rt::PagePartTask)));
    Value thread = b.threadId();
    slice = b.shr(thread, 5);
    lane = b.andBits(thread, 31);
    g = b.shr(lane, 2);
    t = b.andBits(lane, 3);
    pageCodes.emplace(b, shape, codes, task, slice, lane);
  }

  LogicalResult lowerBlock(Block &block) {
    for (Operation &op : block) {
      LogicalResult lowered =
          llvm::TypeSwitch<Operation *, LogicalResult>(&op)
              .Case<TakeOp, FetchFixedOp, FetchFeedbackOp, QuantizeOp, ShiftOp,
                    StoreOp, scf::IfOp>([&](auto op) { return lower(op); })
              .Case<PageTaskOp, FetchOp, ReturnOp, scf::YieldOp,
                    arith::ConstantOp>([](auto) { return success(); })
              .Default([](Operation *op) {
                return op->emitOpError("has no form in lanes of a GPU");
              });
      if (failed(lowered))
        return failure();
    }
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Sources
  //===--------------------------------------------------------------------===//

  LogicalResult lower(TakeOp op) {
    TileType type = op.getTile().getType();
    tiles[op.getTile()] = pageCodes->load(PageOrder(shape, type.getLevel()));
    return success();
  }

  /// A window: its tokens follow the sink's, so its quads are not those of a
  /// page.
  LogicalResult lower(FetchFixedOp op) {
    const PageOrder order(shape, 16);
    const FragmentLayout &layout = order.layout;
    Value window = b.load(b.getI32Type(),
                          b.at(task, offsetof(rt::PagePartTask, window)), 4);
    Value area = b.atRecord(codes, window, rt::kDeviceGrainBytes);
    int64_t sink = cache.getSink();
    int64_t tokens = rt::deviceFixedTokens(sink);
    auto placeOf = [&](Value x, int64_t size, bool isToken) {
      return emitLinear(b, x, size, [&](int64_t i) {
        int64_t token = isToken ? i : 0, dim = isToken ? 0 : i;
        return token / layout.tokens * rt::blockBytes(shape.headDim) +
               layout.place(token % layout.tokens, dim).byte;
      });
    };
    LaneTile tile;
    Value shift = b.mul(slice, shape.sliceBlocks() * kQuads);
    for (const QuadPlace &quad : shape.quads()) {
      // Of the quad's row and first element of k, this lane's.
      Value row = b.add(g, kRows * quad.row + 8 * quad.upper);
      int64_t step = layout.quadPlace(1, 0);
      Value k = b.add(b.mul(t, step), kQuads * quad.k);
      (shape.sliceRows ? row : k) = b.add(shape.sliceRows ? row : k, shift);
      Values words;
      for (int64_t half : {0, 1}) {
        Values elements;
        for (int64_t e : {0, 1}) {
          Value at = b.add(k, order.rawElement(half, e));
          Value token = b.add(shape.isKey() ? row : at, sink);
          Value dim = shape.isKey() ? at : row;
          Value place = placeOf(token, tokens, /*isToken=*/true);
          place = b.add(place, placeOf(dim, shape.headDim, /*isToken=*/false));
          Value element = b.load(b.getI16Type(), b.at(area, place), 2);
          elements.push_back(
              arith::ExtUIOp::create(b, b.getI32Type(), element));
        }
        words.push_back(
            arith::OrIOp::create(b, elements[0], b.shl(elements[1], 16)));
      }
      tile.quads[quad] = words;
    }
    tiles[op.getTile()] = std::move(tile);
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Shift
  //===--------------------------------------------------------------------===//

  LogicalResult lower(FetchFeedbackOp op) {
    Value number = b.load(b.getI32Type(),
                          b.at(task, offsetof(rt::PagePartTask, feedback)), 4);
    feedback = b.atRecord(keyFeedback, number,
                          rt::keyFeedbackFloats(shape.headDim) * 4);
    feedbackInLanes.emplace(b, kernel.getSymName(), shape, target.getFormat(),
                            threads, slice, lane);
    return success();
  }

  /// Has the ranges of the page known before its codes are shifted.
  void findRanges(const LaneTile &tile) {
    if (tile.parameters.empty())
      return feedbackInLanes->forEachGroup([&](Value group) {
        Value slot = slotAddress();
        Value half = b.load(b.getF16Type(), b.at(slot, byGroup(group)), 2);
        feedbackInLanes->setRange(
            group, arith::ExtFOp::create(b, b.getF32Type(), half));
      });
    ifHasGroups([&] {
      const FormatModel &model = target.getFormat().getModel();
      Values ranges = b.unpack(
          widenParameters(b, tile.parameters.back(), model.getParameterType()));
      Value first = b.mul(slice, shape.sliceBlocks() * kQuads);
      first = b.add(first,
                    groupsAlongK() ? b.mul(t, layout8().quadPlace(1, 0)) : g);
      for (int64_t group = 0; group < groups(); ++group)
        feedbackInLanes->setRange(b.add(first, numberOf(group)), ranges[group]);
    });
  }

  LogicalResult lower(ShiftOp op) {
    TileType type = op.getSource().getType();
    LaneTile tile = tiles.at(op.getSource());
    FormatAttr format = type.getFormat();
    if (op.getFeedback()) {
      if (!hasRanges)
        findRanges(tile);
      hasRanges = true;
      while (tile.level > op.getResult().getType().getLevel())
        feedbackInLanes->shift(tile, feedback);
      tiles[op.getResult()] = std::move(tile);
      return success();
    }
    for (; tile.level > op.getResult().getType().getLevel(); tile.level /= 2)
      for (auto &[place, quad] : tile.quads)
        quad = {emitShiftOfBytes(b, format, quad[0], tile.level)};
    tiles[op.getResult()] = std::move(tile);
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Quantize
  //===--------------------------------------------------------------------===//

  /// Which of the lane's groups an element of a quad belongs to.
  int64_t groupOf(QuadPlace quad, int64_t byte) const {
    return groupsAlongK() ? quad.k * kQuad + byte : quad.row * 2 + quad.upper;
  }
  /// Groups of a lane.
  int64_t groups() const {
    return shape.sliceBlocks() * (groupsAlongK() ? kQuad : 2);
  }

  /// f32 elements of a raw quad, in the order of its bytes below level 16.
  Values elementsOf(const PageOrder &order, const Values &words) {
    Values elements(kQuad);
    for (int64_t half : {0, 1})
      for (int64_t e : {0, 1})
        elements[order.quadByte(half, e)] = b.brainFloat(words[half], e);
    return elements;
  }

  /// The smallest and the largest of something, null before the first.
  struct Extremes {
    Value low, high;
  };

  /// NaN stays, so that a format sees it.
  void takeIn(Extremes &into, Value low, Value high) {
    into.low = into.low ? b.minimumBrainFloats(into.low, low) : low;
    into.high = into.high ? b.maximumBrainFloats(into.high, high) : high;
  }

  /// The groups' extremes, over all lanes that have elements of them: f32
  /// vectors.  Found in words of two bf16, which are two groups if those lie
  /// along k, else two elements of one.
  std::pair<Value, Value> findExtremes(const PageOrder &order,
                                       const LaneTile &raw) {
    bool alongK = groupsAlongK();
    std::map<std::pair<int64_t, int64_t>, Extremes> words;
    for (auto &[place, quad] : raw.quads)
      for (int64_t half : {0, 1})
        takeIn(words[alongK ? std::pair(place.k, half)
                            : std::pair(place.row, place.upper)],
               quad[half], quad[half]);
    SmallVector<int64_t> masks = {1, 2};
    if (alongK)
      masks = {4, 8, 16};
    Values lowest(groups()), highest(groups());
    for (auto &[key, extremes] : words) {
      for (int64_t mask : masks) {
        Value low = b.shuffleXor(extremes.low, mask);
        Value high = b.shuffleXor(extremes.high, mask);
        takeIn(extremes, low, high);
      }
      if (!alongK) {
        // Both halves of the word belong to the group.
        Value low = b.shr(extremes.low, 16), high = b.shr(extremes.high, 16);
        takeIn(extremes, low, high);
      }
      for (int64_t e : {0, 1}) {
        if (!alongK && e)
          continue;
        int64_t group = alongK
                            ? key.first * kQuad + order.quadByte(key.second, e)
                            : key.first * 2 + key.second;
        lowest[group] = b.brainFloat(extremes.low, e);
        highest[group] = b.brainFloat(extremes.high, e);
      }
    }
    return {b.pack(lowest), b.pack(highest)};
  }

  LogicalResult lower(QuantizeOp op) {
    const PageOrder order(shape, 16);
    LaneTile raw = tiles.at(op.getSource());
    FormatAttr format = op.getResult().getType().getFormat();
    const FormatModel &model = format.getModel();
    auto [low, high] = findExtremes(order, raw);
    FormatModel::Parameters made = model.emitParameters(b, format, low, high);
    Value fits;
    for (Value bit : b.unpack(made.representable))
      fits = fits ? Value(arith::AndIOp::create(b, fits, bit)) : bit;
    representable[op.getOk()] = fits;

    LaneTile tile;
    tile.raw = false;
    tile.level = op.getResult().getType().getLevel();
    tile.parameters = made.values;
    // Codes are made of parameters as they are stored.
    SmallVector<Values> stored;
    for (Value values : made.values) {
      Value wide = widenParameters(b, values, model.getParameterType());
      stored.push_back(b.unpack(wide));
    }
    hasWideRange = findWideRange(stored.back());
    for (auto &[place, words] : raw.quads) {
      Values mine;
      for (const Values &all : stored) {
        Values of;
        for (int64_t byte = 0; byte < kQuad; ++byte)
          of.push_back(all[groupOf(place, byte)]);
        mine.push_back(b.pack(of));
      }
      Value codes =
          model.emitCode(b, format, b.pack(elementsOf(order, words)), mine);
      tile.quads[place] = {packBytes(b.unpack(codes))};
    }
    tiles[op.getResult()] = std::move(tile);
    return success();
  }

  /// Whether one of the lane's groups has a range above kNarrowRange.
  Value findWideRange(const Values &ranges) {
    Value widest;
    for (Value range : ranges)
      widest = widest ? b.maxF(widest, range) : range;
    return arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, widest,
                                 b.f32(rt::kNarrowRange));
  }

  void tell(rt::PageOutcome outcome) {
    b.store(b.i32(outcome), b.at(outcomes, b.shl(b.blockId(), 2)), 4);
  }

  Value packBytes(const Values &codes) {
    Value low = b.permute(codes[0], codes[1], 0x0040);
    Value high = b.permute(codes[2], codes[3], 0x0040);
    return b.permute(low, high, 0x5410);
  }

  //===--------------------------------------------------------------------===//
  // Store
  //===--------------------------------------------------------------------===//

  /// if %ok of a quantize: of all the block's lanes, which have read their
  /// elements by then.
  LogicalResult lower(scf::IfOp op) {
    auto known = representable.find(op.getCondition());
    if (known == representable.end() || op.getNumResults() || op.elseBlock())
      return op.emitOpError("expected to depend on what quantize says");
    Value all = b.barrierAnd(known->second);
    didSynchronize = true;
    auto branch = scf::IfOp::create(b, all, /*withElseRegion=*/true);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      if (failed(lowerBlock(op.getThenRegion().front())))
        return failure();
      auto isWide =
          scf::IfOp::create(b, hasWideRange, /*withElseRegion=*/false);
      b.setInsertionPointToStart(isWide.thenBlock());
      tell(rt::kPageHasWideRange);
      b.setInsertionPointToStart(branch.elseBlock());
      tell(rt::kPageNotRepresentable);
    }
    return success();
  }

  LogicalResult lower(StoreOp op) {
    if (!didSynchronize)
      b.barrier();
    didSynchronize = true;
    const LaneTile &tile = tiles.at(op.getTile());
    pageCodes->store(PageOrder(shape, tile.level), tile);
    if (op.getWithParameters())
      storeParameters(tile);
    return success();
  }

  /// Where the part's parameter `which` of a group begins in a slot.
  int64_t parameterByte(int64_t group, int32_t which) const {
    const FormatModel &model = target.getFormat().getModel();
    if (model.getNumParameters() == 1)
      return ParameterLayout::perTokenByte(group);
    bool perToken = model.getGroupAxis() == GroupAxis::Token;
    int64_t index =
        perToken ? ParameterLayout::perToken(group, which)
                 : ParameterLayout::perChannel(group, which, shape.headDim);
    return index * 2;
  }

  /// Byte of the last parameter of a group, in the part's place of a slot.
  Value byGroup(Value group) {
    auto which = static_cast<int32_t>(
        target.getFormat().getModel().getNumParameters() - 1);
    Value byte = emitLinear(
        b, group, groupsAlongK() ? shape.kBlocks() * kQuads : rt::kPageTokens,
        [&](int64_t i) { return parameterByte(i, which); });
    return b.add(byte, parameterByte(0, which));
  }

  /// Where the part's parameters begin in the page's slot.
  Value slotAddress() {
    bool keysPerToken =
        cache.getKey().getModel().getGroupAxis() == GroupAxis::Token;
    Value id =
        b.load(b.getI32Type(), b.at(task, offsetof(rt::PagePartTask, slot)), 4);
    Value slot = b.atRecord(
        parameters, id,
        ::pmkvq::deviceSlotBytes(shape.headDim, keysPerToken,
                                 cache.getValue().getModel().getGroupBytes()));
    return shape.isKey() ? slot
                         : b.at(slot, ::pmkvq::deviceValueParameters(
                                          shape.headDim, keysPerToken));
  }

  /// if (the lane has groups of its own).  The lanes of g 0, or t 0, have all
  /// groups of a slice.
  void ifHasGroups(function_ref<void()> body) {
    Value first =
        b.compare(arith::CmpIPredicate::eq, groupsAlongK() ? g : t, 0);
    auto branch = scf::IfOp::create(b, first, /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    body();
  }

  FragmentLayout layout8() const { return PageOrder(shape, 8).layout; }

  /// Number of a lane's group, from that of its first on: of k, 16 k +
  /// quadPlace(0, byte); of rows, 16 row + 8 upper.  Lanes lie quadPlace(t, 0),
  /// or g, apart, and slices 32, or 16.
  int64_t numberOf(int64_t group) const {
    return groupsAlongK()
               ? kQuads * (group / kQuad) +
                     layout8().quadPlace(0, static_cast<int32_t>(group % kQuad))
               : kRows * (group / 2) + 8 * (group % 2);
  }

  void storeParameters(const LaneTile &tile) {
    Value slot = slotAddress();
    const auto bytes = static_cast<unsigned>(
        bytesOf(target.getFormat().getModel().getParameterType()));
    ifHasGroups([&] {
      for (int32_t which = 0;
           which < static_cast<int32_t>(tile.parameters.size()); ++which)
        storeParameter(tile, which, slot, bytes);
    });
  }

  void storeParameter(const LaneTile &tile, int32_t which, Value slot,
                      unsigned bytes) {
    Values stored = b.unpack(tile.parameters[which]);
    auto byteOf = [&](int64_t group) { return parameterByte(group, which); };
    Value mine = pageCodes->bySlice(
        [&](int64_t s) { return byteOf(shape.sliceBlocks() * kQuads * s); });
    auto byLane = [&](Value x, int64_t size, int64_t step) {
      return emitLinear(b, x, size,
                        [&](int64_t i) { return byteOf(i * step); });
    };
    mine = b.add(mine, groupsAlongK() ? byLane(t, 4, layout8().quadPlace(1, 0))
                                      : byLane(g, 8, 1));
    for (int64_t group = 0; group < groups(); ++group)
      b.store(stored[group], b.at(slot, b.add(mine, byteOf(numberOf(group)))),
              bytes);
  }

  KernelOp kernel;
  LaneBuilder b;
  CacheType cache;
  TileType target;
  PageShape shape = {};
  int32_t threads = 0;

  Value codes, parameters, outcomes, keyFeedback, task, slice, lane, g, t;
  std::optional<PageCodes> pageCodes;
  /// Of keys that fall with feedback: how, and what with.
  std::optional<FeedbackInLanes> feedbackInLanes;
  Value feedback;
  bool hasRanges = false;
  DenseMap<Value, LaneTile> tiles;
  /// Results of quantize, as far as a lane's groups go.
  DenseMap<Value, Value> representable;
  /// Of the lane's groups, once they are quantized.
  Value hasWideRange;
  bool didSynchronize = false;
  /// Whether a page is written in place (else a window becomes one).
  bool takesPage = false;
};

class ConvertPagesToLanesPass
    : public mlir::pmkvq::impl::ConvertPagesToLanesBase<
          ConvertPagesToLanesPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }

  void runOnOperation() override {
    if (failed(lowerKernels<PageTaskOp, PageLowering>(getOperation())))
      signalPassFailure();
  }
};
} // namespace
