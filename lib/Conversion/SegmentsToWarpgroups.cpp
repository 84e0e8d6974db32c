//===- SegmentsToWarpgroups.cpp - Decoding many tokens on warpgroups ------===//
//
// Turns kernels in tile form over segments of pages into functions of a
// gpu.module.  Neighbours: SplitRows.cpp (the tile form), WarpgroupLayout.h
// (who has which codes, shared memory), SegmentKernel.h (queries, weights
// and who copies), TileToWarpgroups.cpp (prefill), TileToLanes.cpp (the same
// over units, for few queries).
//
// All warpgroups do the same, each with every n-th page of a segment and a
// state of its own.  Of a page keys are multiplied, weights go through shared
// memory, values are multiplied; while one warpgroup waits, the others work.
// A last warpgroup has a warp for each of them, which copies pages' codes and
// parameters to a ring of slots ahead of it.
//
//===----------------------------------------------------------------------===//

#include "SegmentKernel.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq_rt/DeviceAbi.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FoldedUnits;
using ::pmkvq::FragmentLayout;
using ::pmkvq::HalfTile;
using ::pmkvq::OperandShare;
using ::pmkvq::SharedRowsLayout;

/// A maximum that every score exceeds.
static constexpr double kNoMaximum = -1e30;

namespace {
/// The tile ops that a kernel over segments of pages is made of.
struct SegmentParts {
  ForSegmentOp segments;
  LoadRowsOp load;
  ScaleOp scale;
  ForPageOp pages;
  StoreMergedOp store;
  ByLevelOp levels[rt::kParts];
};

class SegmentLowering : SegmentKernel {
public:
  SegmentLowering(KernelOp kernel, OpBuilder &at,
                  const WarpgroupOptions &options)
      : SegmentKernel(kernel.getLoc(), at), kernel(kernel), options(options) {}

  LogicalResult run() {
    if (failed(match()))
      return failure();
    createFunction();
    initBarriers();
    Value attends =
        b.compare(arith::CmpIPredicate::ult, warpgroup, shared.warpgroups);
    auto branch = scf::IfOp::create(b, attends, /*withElseRegion=*/true);
    b.setInsertionPointToStart(branch.thenBlock());
    b.setRegisters(shared.registers(), /*increase=*/true);
    attend();
    b.setInsertionPointToStart(branch.elseBlock());
    b.setRegisters(SharedRowsLayout::kCopyRegisters, /*increase=*/false);
    copySegments(*this);
    return success();
  }

private:
  //===--------------------------------------------------------------------===//
  // The kernel
  //===--------------------------------------------------------------------===//

  LogicalResult findParts() {
    kernel.walk([&](Operation *op) {
      if (auto part = dyn_cast<ForSegmentOp>(op))
        parts.segments = part;
      else if (auto part = dyn_cast<LoadRowsOp>(op))
        parts.load = part;
      else if (isa<HadamardOp>(op))
        rotates = true;
      else if (auto part = dyn_cast<ScaleOp>(op))
        parts.scale = part;
      else if (auto part = dyn_cast<ForPageOp>(op))
        parts.pages = part;
      else if (auto part = dyn_cast<StoreMergedOp>(op))
        parts.store = part;
      else if (auto part = dyn_cast<ByLevelOp>(op))
        parts.levels[part.getPart() == Part::Key ? rt::kKey : rt::kValue] =
            part;
    });
    if (!parts.segments || !parts.load || !parts.scale || !parts.pages ||
        !parts.store || !parts.levels[rt::kKey] || !parts.levels[rt::kValue])
      return kernel.emitOpError("is not over segments of pages");
    return success();
  }

  LogicalResult match() {
    if (failed(findParts()))
      return failure();
    DenseFPElementsAttr factor;
    if (!matchPattern(parts.scale.getBy(), m_Constant(&factor)) ||
        !factor.isSplat())
      return kernel.emitOpError("expected queries times a constant");
    scale = factor.getSplatValue<APFloat>().convertToFloat();
    group = static_cast<int64_t>(parts.load.getGroup());
    kvHeads = static_cast<int64_t>(parts.segments.getKvHeads());
    const int64_t queryCount = parts.load.getType().getQueries();
    rows = queryCount / group;
    if (int64_t width = parts.load.getType().getWidth();
        width != HalfTile::kColumns)
      return kernel.emitOpError("has a head_dim of ")
             << width << "; warpgroups support " << HalfTile::kColumns;
    if (queryCount > SharedRowsLayout::kMaxRows)
      return kernel.emitOpError("has ")
             << queryCount << " queries a kv head; warpgroups support up to "
             << SharedRowsLayout::kMaxRows;
    shared = SharedRowsLayout::of(queryCount);
    if (options.warpgroups)
      shared.warpgroups = options.warpgroups;
    if (shared.warpgroups < 1 ||
        shared.warpgroups > SharedRowsLayout::kMostWarpgroups)
      return kernel.emitOpError("expected 1 to ")
             << SharedRowsLayout::kMostWarpgroups << " warpgroups, got "
             << shared.warpgroups;
    wideRanges = options.wideRanges;
    folds = shared.folds(wideRanges);
    for (rt::Part part : {rt::kKey, rt::kValue})
      if (failed(findLevels(kernel, parts.levels[part], options.levels[part],
                            levels[part], formats[part])) ||
          failed(findForms(part)))
        return failure();
    if (folds)
      chooseExponents(*this);
    return success();
  }

  LogicalResult findForms(rt::Part part) {
    for (int64_t level : levels[part]) {
      if (level == 16)
        continue;
      auto form = affineForm(kernel, formats[part], level);
      if (failed(form))
        return failure();
      forms[part][level] = *form;
    }
    return success();
  }

  void createFunction() {
    Value arguments =
        b.startFunction(kernel.getSymName(), sizeof(rt::DecodeArgs),
                        static_cast<int32_t>(shared.allThreads()));
    auto pointer = [&](size_t offset) {
      return b.pointerArgument(arguments, offset);
    };
    auto word = [&](size_t offset) {
      return b.load(b.getI32Type(), b.at(arguments, offset), 4);
    };
    codes = pointer(offsetof(rt::DecodeArgs, codes));
    parameters = pointer(offsetof(rt::DecodeArgs, parameters));
    queries = pointer(offsetof(rt::DecodeArgs, queries));
    results = pointer(offsetof(rt::DecodeArgs, results));
    partials = pointer(offsetof(rt::DecodeArgs, partials));
    Value work = pointer(offsetof(rt::DecodeArgs, work));
    row = b.at(work,
               b.mul(b.blockId(), word(offsetof(rt::DecodeArgs, rowBytes))));
    Value segmentBytes = b.mul(word(offsetof(rt::DecodeArgs, segmentsPerRow)),
                               sizeof(rt::WorkSegment));
    rowPages = b.at(b.at(row, sizeof(rt::WorkHeader)), segmentBytes);
    thread = b.threadId();
    warpgroup = b.shr(thread, 7);
    warp = b.andBits(b.shr(thread, 5), 3);
    lane = b.andBits(thread, 31);
    // Barrier 0 is the whole block's.
    barrier = b.add(warpgroup, 1);
    base = LLVM::AddressOfOp::create(b, b.pointer(kSharedSpace),
                                     kWarpgroupMemoryName);
    policy = b.evictFirstPolicy();
  }

  /// Who copies a piece arrives at its slot, and each warp that has used it.
  void initBarriers() {
    Value isFirst = b.compare(arith::CmpIPredicate::eq, thread, 0);
    auto branch = scf::IfOp::create(b, isFirst, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      for (int64_t i = 0; i < shared.warpgroups * SharedRowsLayout::kSlots;
           ++i) {
        for (auto [which, arrivals] :
             {std::pair(SharedRowsLayout::kFull, 1),
              {SharedRowsLayout::kEmpty, OperandShare::kWarps}})
          b.initBarrierFor(b.at(base, shared.barriers(which) + i * 8),
                           arrivals);
      }
      b.fenceBarrierInit();
    }
    b.barrier();
    if (!options.dependentLaunch)
      return;
    b.launchDependents();
    b.waitForDependency();
  }

  //===--------------------------------------------------------------------===//
  // Segments
  //===--------------------------------------------------------------------===//

  /// What the warpgroups do that attend.
  void attend() {
    ring = warpgroup;
    Value count = b.loadWords(row, 4)[0];
    SmallVector<Value> init(2, b.i32(0));
    auto loop = scf::ForOp::create(b, b.i32(0), count, b.i32(1), init);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      ValueRange carried = loop.getRegionIterArgs();
      PageSegment segment = loadSegment(loop.getInductionVar());
      RingTurn turn = attendSegment(segment, {carried[0], carried[1]});
      scf::YieldOp::create(b, ValueRange{turn.stage, turn.parity});
    }
    mergeShared(count);
  }

  IntegerAttr attr(int64_t value) { return b.getI64IntegerAttr(value); }

  /// Merges shared pairs at the end, so that no segment waits for another.
  void mergeShared(Value count) {
    auto loop = scf::ForOp::create(b, b.i32(0), count, b.i32(1));
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    PageSegment segment = loadSegment(loop.getInductionVar());
    Value isShared = b.compare(arith::CmpIPredicate::ugt, segment.shares, 1);
    Value isLast = b.compare(arith::CmpIPredicate::eq, b.add(segment.share, 1),
                             segment.shares);
    auto branch =
        scf::IfOp::create(b, arith::AndIOp::create(b, isShared, isLast),
                          /*withElseRegion=*/false);
    b.setInsertionPointToStart(branch.thenBlock());
    const bool several = rows > 1;
    MergeSharesOp::create(b, results, partials, segment.pair, segment.shares,
                          segment.partial, several ? segment.moreRows : Value(),
                          attr(group), several ? attr(rows) : IntegerAttr(),
                          several ? attr(stride()) : IntegerAttr(),
                          attr(HalfTile::kColumns), attr(shared.threads()));
  }

  /// Attends over a segment's pages; gives the slot after the last.
  RingTurn attendSegment(const PageSegment &segment, const RingTurn &turn) {
    ColumnState state = start(turn);
    stageQueries(*this, segment);
    b.fenceShared();
    b.syncThreads(b.i32(0), shared.threads());
    SmallVector<Value> init;
    state.append(init);
    auto loop = scf::ForOp::create(b, warpgroup, segment.pages,
                                   b.i32(shared.warpgroups), init);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      ColumnState page = state.with(loop.getRegionIterArgs());
      attendPage(page);
      SmallVector<Value> yielded;
      page.append(yielded);
      scf::YieldOp::create(b, yielded);
    }
    state = state.with(loop.getResults());
    MergeWarpgroupsOp::create(
        b, base, results, partials, segment.pair, segment.shares,
        b.add(segment.partial, segment.share), b.pack(state.maxima),
        b.pack(state.sums), b.pack(state.outputs),
        folds ? b.pack(state.offsets) : Value(),
        folds ? b.getDenseI32ArrayAttr(outputExponents()) : DenseI32ArrayAttr(),
        segment.moreRows, attr(group), attr(rows), attr(stride()),
        attr(shared.warpgroups));
    return state.turn;
  }

  ColumnState start(const RingTurn &turn) {
    ColumnState state;
    state.turn = turn;
    state.tile = b.i32(0);
    state.maxima.assign(queriesOfLane(), b.f32(kNoMaximum));
    state.sums.assign(queriesOfLane(), b.f32(0.0));
    state.outputs.assign(shared.rows, b.f32(0.0));
    if (folds)
      state.offsets = state.sums;
    return state;
  }

  //===--------------------------------------------------------------------===//
  // The ring
  //===--------------------------------------------------------------------===//

  void waitFull(const RingTurn &turn) {
    b.waitBarrier(slotBarrier(SharedRowsLayout::kFull, turn.stage),
                  turn.parity);
  }

  /// The piece has been read.
  void endPiece(ColumnState &state) {
    b.syncWarp();
    Value leads = b.compare(arith::CmpIPredicate::eq, lane, 0);
    auto branch = scf::IfOp::create(b, leads, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      b.arriveBarrier(slotBarrier(SharedRowsLayout::kEmpty, state.turn.stage));
    }
    state.turn = after(state.turn);
  }

  /// The warp's words of the piece.
  Values loadPiece(rt::Part part, int64_t level, Value slot) {
    OperandShare mine = operandShare(part, level);
    constexpr int64_t vectorBytes = FragmentLayout::kVectorBytes;
    Value place = b.shl(lane, 4);
    if (mine.loadWords() < 4)
      place = b.add(place,
                    b.mul(b.andBits(warp, 1), int64_t{4} * mine.firstWord(1)));
    // Numbers of a warp's vectors: w % 2 and w / 2 add to them.
    int64_t low = mine.inPiece(1, 0) - mine.inPiece(0, 0);
    int64_t high = mine.inPiece(2, 0) - mine.inPiece(0, 0);
    if (high == 2 * low)
      place = b.add(place, b.mul(warp, low * vectorBytes));
    else
      place = b.add(place, b.mul(b.shr(warp, 1), high * vectorBytes));
    Value mineAt = b.at(slot, place);
    Values words;
    for (int32_t i = 0; i < mine.loads(); ++i)
      llvm::append_range(
          words, b.loadWords(b.at(mineAt, mine.inPiece(0, i) * vectorBytes),
                             mine.loadWords()));
    return words;
  }

  //===--------------------------------------------------------------------===//
  // A page
  //===--------------------------------------------------------------------===//

  void attendPage(ColumnState &state) {
    // Until the first of a page's pieces is there, so is its entry.
    waitFull(state.turn);
    Values entry = b.loadWords(
        b.at(slotAt(state.turn.stage), SharedRowsLayout::kSlotEntry), 2);
    PageScores page = multiplyKeys(entry[1], state);
    page.scores = mask(page.scores, entry);
    Value tile = operandTiles();
    if (!folds)
      tile = b.at(tile, b.mul(state.tile, shared.operandBytes()));
    weighColumns(*this, state, page, tokenFactors(entry[1], state.turn), tile);
    multiplyValues(entry[1], state, tile);
    if (!folds)
      state.tile = b.xorBits(state.tile, 1);
  }

  PageScores multiplyKeys(Value info, ColumnState &state) {
    const size_t more = folds ? queriesOfLane() : 0;
    SmallVector<Type> types(static_cast<size_t>(shared.rows) + kRows + more,
                            b.getF32Type());
    types.append(2, b.getI32Type());
    SmallVector<Value> results =
        pages().byLevel(rt::kKey, info, levels[rt::kKey], types, [&](size_t i) {
          const int64_t level = levels[rt::kKey][i];
          ColumnState mine = state;
          FoldedScores folded;
          Values sums = multiplyLevel(rt::kKey, level, mine, Values(), [&] {
            folded = foldedScores(level, mine.turn);
            return folded.queries;
          });
          // Loaded while products are under way.
          Values offsets(more, b.f32(0.0));
          if (folds && level < 16)
            offsets = loadScoreOffsets(*this);
          Values all = await(sums);
          llvm::append_range(all, folded.factors);
          llvm::append_range(all, offsets);
          return append(all, mine.turn);
        });
    ValueRange rest = results;
    auto take = [&](size_t count) {
      Values values(rest.take_front(count));
      rest = rest.drop_front(count);
      return values;
    };
    PageScores page;
    page.scores = take(static_cast<size_t>(shared.rows));
    page.factors = take(kRows);
    page.more = take(more);
    state.turn = {rest[0], rest[1]};
    return page;
  }

  void multiplyValues(Value info, ColumnState &state, Value tile) {
    SmallVector<Type> types(static_cast<size_t>(shared.rows), b.getF32Type());
    types.append(2, b.getI32Type());
    SmallVector<Value> results = pages().byLevel(
        rt::kValue, info, levels[rt::kValue], types, [&](size_t i) {
          ColumnState mine = state;
          Values sums = multiplyLevel(rt::kValue, levels[rt::kValue][i], mine,
                                      state.outputs, [&] { return tile; });
          return append(await(sums), mine.turn);
        });
    ValueRange rest = ValueRange(results).drop_front(shared.rows);
    state.turn = {rest[0], rest[1]};
    state.outputs = Values(ArrayRef<Value>(results).take_front(shared.rows));
  }

  Values await(const Values &products) {
    return b.unpack(AwaitProductsOp::create(b, b.pack(products), 0));
  }

  static SmallVector<Value> append(const Values &values, const RingTurn &turn) {
    SmallVector<Value> all(values);
    all.append({turn.stage, turn.parity});
    return all;
  }

  /// The right operand of keys at a level, and what makes scores of products.
  FoldedScores foldedScores(int64_t level, const RingTurn &turn) {
    if (folds && level < 16)
      return foldKeys(*this, level, slotAt(turn.stage));
    // Nobody writes weights that others still multiply: there is one tile.
    if (folds)
      b.syncThreads(barrier, SharedRowsLayout::kWarpgroup);
    const double unit = level == 16 ? HalfTile::kRawUnit : HalfTile::kUnit;
    return {b.at(base, shared.queries()),
            Values(kRows, b.f32(1.0 / (SharedRowsLayout::kQueryUnit * unit)))};
  }

  /// Factors and offsets of the lane's tokens, if they are folded.
  Values tokenFactors(Value info, const RingTurn &turn) {
    if (!folds)
      return {};
    waitFull(turn);
    SmallVector<Type> types(2 * kRows, b.getF32Type());
    SmallVector<Value> results = pages().byLevel(
        rt::kValue, info, levels[rt::kValue], types, [&](size_t i) {
          const int64_t level = levels[rt::kValue][i];
          if (level < 16)
            return SmallVector<Value>(
                foldValues(*this, level, slotAt(turn.stage)));
          const double unit = std::ldexp(
              FoldedUnits::kCode / HalfTile::kRawUnit, weightExponent);
          SmallVector<Value> raw(kRows, b.f32(unit));
          raw.append(kRows, b.f32(0.0));
          return raw;
        });
    return Values(results);
  }

  /// `rightOf` makes the right operand, while codes are loaded.
  Values multiplyLevel(rt::Part part, int64_t level, ColumnState &state,
                       Values sums, function_ref<Value()> rightOf) {
    OperandShare mine = operandShare(part, level);
    Value right;
    const bool decodes = level < 16 && !folds;
    for (int32_t piece = 0; piece < mine.pieces(); ++piece) {
      // Others look at the first of a page's pieces, and fold the parameters in
      // that of its values, before.
      if (piece > 0 || !(part == rt::kKey || folds))
        waitFull(state.turn);
      Value slot = slotAt(state.turn.stage);
      Values words = loadPiece(part, level, slot);
      const int64_t first = int64_t{piece} * mine.pieceBlocks();
      if (decodes && piece == 0)
        storeConstants(*this, part, level, slot);
      if (piece == 0)
        right = rightOf();
      // A block's constants are loaded while the one before is decoded.
      Value constants = decodes ? loadConstants(*this, first) : Value();
      for (int64_t j = 0; j < mine.pieceBlocks(); ++j) {
        Value following;
        if (decodes && j + 1 < mine.pieceBlocks())
          following = loadConstants(*this, first + j + 1);
        sums = multiplyBlock(part, level, first + j, words, constants, right,
                             sums);
        constants = following;
      }
      endPiece(state);
    }
    return sums;
  }

  Values multiplyBlock(rt::Part part, int64_t level, int64_t block,
                       const Values &words, Value constants, Value right,
                       const Values &sums) {
    Value operands = DecodeOperandsOp::create(
        b, b.words(16), irPart(part), level,
        constants ? formats[part] : FormatAttr(), constants && wideRanges,
        folds ? b.getDenseI32ArrayAttr(exponentsOf(part, level))
              : DenseI32ArrayAttr(),
        block, b.pack(words), constants);
    return b.unpack(MultiplyOperandsOp::create(
        b, b.floats(shared.rows), operands, right,
        sums.empty() ? Value() : b.pack(sums), block));
  }

  /// Hides what rows must not see, where there is any.
  Values mask(const Values &scores, const Values &entry) {
    Value count = b.shr(entry[1], 8);
    Value seen = b.sub(b.i32(1), entry[0]);
    Value hides =
        b.compare(arith::CmpIPredicate::slt,
                  arith::MinSIOp::create(b, seen, count), rt::kPageTokens);
    auto branch =
        scf::IfOp::create(b, ValueRange(scores).getTypes(), hides,
                          /*addThenBlock=*/true, /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, scores);
    b.setInsertionPointToStart(branch.thenBlock());
    // Seldom run: what it needs is not kept for it.
    Value self = b.forget(thread);
    Value t = b.shl(b.andBits(self, 3), 1);
    Values visible;
    for (size_t i = 0; i < queriesOfLane(); ++i) {
      Value inRow =
          arith::DivUIOp::create(b, b.add(t, queryOffset(i)), b.i32(group));
      visible.push_back(arith::MinSIOp::create(b, b.add(seen, inRow), count));
    }
    Value token = b.shl(b.andBits(b.shr(self, 5), 3), 5);
    token = b.add(token, b.andBits(b.shr(self, 2), 7));
    Value masked =
        MaskColumnsOp::create(b, b.pack(scores), token, b.pack(visible));
    scf::YieldOp::create(b, b.unpack(masked));
    return Values(branch.getResults());
  }

  /// Of a lane, 2 m + u: row 8 u + g of product m.
  static constexpr size_t kRows = 4;

  KernelOp kernel;
  const WarpgroupOptions &options;
  SegmentParts parts;
  FormatAttr formats[rt::kParts];
};
} // namespace

LogicalResult mlir::pmkvq::lowerSegments(KernelOp kernel, OpBuilder &at,
                                         const WarpgroupOptions &options) {
  return SegmentLowering(kernel, at, options).run();
}
