//===- SegmentsToWarpgroups.cpp - Decoding many tokens on warpgroups ------===//
//
// Turns kernels in tile form over segments of pages into functions of a
// gpu.module.  Neighbours: SplitRows.cpp (the tile form), WarpgroupLayout.h
// (who has which codes, shared memory), TileToWarpgroups.cpp (prefill),
// TileToLanes.cpp (the same over units, for few queries).
//
// All warpgroups do the same, each with every n-th page of a segment and a
// state of its own.  Of a page keys are multiplied, weights go through shared
// memory, values are multiplied; while one warpgroup waits, the others work.
// A last warpgroup has a warp for each of them, which copies pages' codes and
// parameters to a ring of slots ahead of it.
//
//===----------------------------------------------------------------------===//

#include "CodeConstants.h"
#include "PrefillKernel.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/Target/SlotLayout.h"
#include "pmkvq_rt/DeviceAbi.h"
#include <map>

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FragmentLayout;
using ::pmkvq::HalfTile;
using ::pmkvq::OperandShare;
using ::pmkvq::ParameterLayout;
using ::pmkvq::SharedRowsLayout;

/// How far above the largest score a maximum is set, log2.
static constexpr double kColumnHeadroom = 4.0;
/// A maximum that every score exceeds.
static constexpr double kNoMaximum = -1e30;

static mlir::pmkvq::Part irPartOf(rt::Part part) {
  return part == rt::kKey ? mlir::pmkvq::Part::Key : mlir::pmkvq::Part::Value;
}

namespace {
/// The tile ops that a kernel over segments of pages is made of.
struct SegmentParts {
  ForSegmentOp segments;
  LoadRowsOp load;
  /// Null if queries come in the keys' basis.
  HadamardOp rotate;
  ScaleOp scale;
  ForPageOp pages;
  StoreMergedOp store;
  ByLevelOp levels[rt::kParts];
};

/// WorkSegment, in registers.
struct PageSegment {
  Value pair, pages, moreRows, share, shares, partial;
};

/// What a warpgroup carries from page to page.
struct ColumnState {
  /// The slot of the next piece to work on, and which of two tiles of weights.
  RingTurn turn;
  Value tile;
  Values maxima, sums, outputs;

  void append(SmallVectorImpl<Value> &to) const {
    llvm::append_range(to, ArrayRef<Value>{turn.stage, turn.parity, tile});
    for (const Values *values : {&maxima, &sums, &outputs})
      llvm::append_range(to, *values);
  }
  /// The same from values of a loop, sizes as they are here.
  ColumnState with(ValueRange from) const {
    ColumnState state = *this;
    auto take = [&](Value &value) {
      value = from.front();
      from = from.drop_front();
    };
    for (Value *value : {&state.turn.stage, &state.turn.parity, &state.tile})
      take(*value);
    for (Values *values : {&state.maxima, &state.sums, &state.outputs})
      for (Value &value : *values)
        take(value);
    return state;
  }
};

class SegmentLowering {
public:
  SegmentLowering(KernelOp kernel, OpBuilder &at,
                  const WarpgroupOptions &options)
      : kernel(kernel), b(kernel.getLoc(), at), options(options) {}

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
    copy();
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
      else if (auto part = dyn_cast<HadamardOp>(op))
        parts.rotate = part;
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
    for (rt::Part part : {rt::kKey, rt::kValue})
      if (failed(findLevels(kernel, parts.levels[part], options.levels[part],
                            levels[part], formats[part])) ||
          failed(findForms(part)))
        return failure();
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

  /// Slot `number` of the warpgroup that attends, of all warpgroups' slots.
  Value slotIndex(Value number) {
    return b.add(b.mul(ring, SharedRowsLayout::kSlots), number);
  }
  Value slotBarrier(SharedRowsLayout::Barrier which, Value number) {
    return b.at(b.at(base, shared.barriers(which)),
                b.shl(slotIndex(number), 3));
  }
  Value slotAt(Value number) {
    return b.at(b.at(base, shared.ring()),
                b.mul(slotIndex(number), SharedRowsLayout::kSlotBytes));
  }
  RingTurn after(const RingTurn &turn) {
    Value next = b.add(turn.stage, 1);
    Value wraps =
        b.compare(arith::CmpIPredicate::eq, next, SharedRowsLayout::kSlots);
    return {b.select(wraps, b.i32(0), next),
            b.select(wraps, b.xorBits(turn.parity, 1), turn.parity)};
  }

  //===--------------------------------------------------------------------===//
  // Segments
  //===--------------------------------------------------------------------===//

  PageSegment loadSegment(Value index) {
    Value segments = b.at(row, sizeof(rt::WorkHeader));
    Values words =
        b.loadWords(b.at(segments, b.mul(index, sizeof(rt::WorkSegment))), 4);
    static_assert(offsetof(rt::WorkSegment, shares) ==
                  offsetof(rt::WorkSegment, share) + 2);
    constexpr int64_t kUnitBits = 24;
    static_assert(rt::kMaxSegmentUnits == (1 << kUnitBits) - 1);
    return {words[0],
            b.andBits(words[1], rt::kMaxSegmentUnits),
            b.shr(words[1], kUnitBits),
            b.andBits(words[2], 0xffff),
            b.shr(words[2], 16),
            words[3]};
  }

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
  int64_t stride() { return group * kvHeads; }

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

  PageEntries pages() { return {b, entries, lane, warp}; }

  /// Attends over a segment's pages; gives the slot after the last.
  RingTurn attendSegment(const PageSegment &segment, const RingTurn &turn) {
    ColumnState state = start(turn);
    stageQueries(segment);
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
        b.pack(state.sums), b.pack(state.outputs), segment.moreRows,
        attr(group), attr(rows), attr(stride()), attr(shared.warpgroups));
    return state.turn;
  }

  ColumnState start(const RingTurn &turn) {
    ColumnState state;
    state.turn = turn;
    state.tile = b.i32(0);
    state.maxima.assign(queriesOfLane(), b.f32(kNoMaximum));
    state.sums.assign(queriesOfLane(), b.f32(0.0));
    state.outputs.assign(shared.rows, b.f32(0.0));
    return state;
  }

  size_t queriesOfLane() { return static_cast<size_t>(shared.rows / 4); }
  /// Query i of lane t is 2 t and this.
  static int64_t queryOffset(size_t i) {
    return static_cast<int64_t>(i / 2 * 8 + i % 2);
  }

  //===--------------------------------------------------------------------===//
  // Queries
  //===--------------------------------------------------------------------===//

  /// A warp stages a query at a time, 4 dims a lane; all loads come first.
  void stageQueries(const PageSegment &segment) {
    Value count = b.mul(b.add(segment.moreRows, 1), group);
    const int64_t warps = OperandShare::kWarps * shared.warpgroups;
    Values numbers;
    SmallVector<Values> loaded;
    for (int64_t first = 0; first < shared.rows; first += warps) {
      numbers.push_back(b.add(b.shr(thread, 5), first));
      loaded.push_back(loadQuery(
          segment.pair, numbers.back(),
          b.compare(arith::CmpIPredicate::ult, numbers.back(), count)));
    }
    for (auto [number, q] : llvm::zip(numbers, loaded)) {
      if (parts.rotate)
        q = b.hadamard(q, lane, HalfTile::kColumns, /*run=*/4);
      auto branch = scf::IfOp::create(
          b, b.compare(arith::CmpIPredicate::ult, number, shared.rows),
          /*withElseRegion=*/false);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      storeQuery(number, q);
    }
  }

  void storeQuery(Value number, Values q) {
    for (Value &value : q)
      value = b.mulF(value, b.f32(scale));
    // Dims 4 lane .. + 3 are elements e of lane t's in half h of block c: of
    // the step of 16 columns 2 c + h, columns 2 t (e0 e2) and 8 + 2 t (e1 e3).
    Value step = b.shr(lane, 2), t = b.andBits(lane, 3);
    Value place = b.mul(b.shr(step, 2), shared.halfBytes());
    place = b.add(place, b.mul(number, HalfTile::kRowBytes));
    place = b.add(place, b.shl(t, 2));
    Value swizzle = b.andBits(number, HalfTile::kSwizzleRows - 1);
    Value chunk = b.shl(b.andBits(step, 3), 1);
    Value tile = b.at(base, shared.queries());
    for (size_t odd : {0, 1}) {
      Value at = arith::XOrIOp::create(
          b, b.add(chunk, static_cast<int64_t>(odd)), swizzle);
      Value address =
          b.at(tile, b.add(place, b.mul(at, HalfTile::kChunkBytes)));
      b.store(b.packHalves(q[odd], q[odd + 2]), address, 4);
    }
  }

  /// This lane's dims of a query, or zeros.
  Values loadQuery(Value pair, Value number, Value isThere) {
    SmallVector<Type> types(4, b.getF32Type());
    auto branch = scf::IfOp::create(b, types, isThere, /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, Values(4, b.f32(0.0)));
    b.setInsertionPointToStart(branch.thenBlock());
    // From row to row, queries of the other kv heads lie between.
    Value query = b.add(b.mul(pair, group), number);
    Value inRow = arith::DivUIOp::create(b, number, b.i32(group));
    query = b.add(query, b.mul(inRow, stride() - group));
    Value place = b.farAt(queries, query, HalfTile::kColumns * 4);
    Values loaded;
    for (Value word : b.loadWords(b.at(place, b.shl(lane, 4)), 4))
      loaded.push_back(b.bitcast(word, b.getF32Type()));
    scf::YieldOp::create(b, loaded);
    return Values(branch.getResults());
  }

  //===--------------------------------------------------------------------===//
  // The ring
  //===--------------------------------------------------------------------===//

  static OperandShare operandShare(rt::Part part, int64_t level) {
    return {part, static_cast<int32_t>(level)};
  }

  /// What the last warpgroup does: a warp copies for each of the others.
  void copy() {
    ring = warp;
    auto branch = scf::IfOp::create(
        b, b.compare(arith::CmpIPredicate::ult, warp, shared.warpgroups),
        /*withElseRegion=*/false);
    b.setInsertionPointToStart(branch.thenBlock());
    Value count = b.loadWords(row, 4)[0];
    // Pages so far, and the next slot.
    SmallVector<Value> init(3, b.i32(0));
    auto loop = scf::ForOp::create(b, b.i32(0), count, b.i32(1), init);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    ValueRange carried = loop.getRegionIterArgs();
    PageSegment segment = loadSegment(loop.getInductionVar());
    RingTurn turn = copySegment(segment, carried[0], {carried[1], carried[2]});
    scf::YieldOp::create(b, ValueRange{b.add(carried[0], segment.pages),
                                       turn.stage, turn.parity});
  }

  /// A page's entry is loaded while the one before it is copied.
  RingTurn copySegment(const PageSegment &segment, Value before,
                       const RingTurn &turn) {
    entries = b.farAt(rowPages, before, sizeof(rt::PrefillPage));
    Value last = b.sub(segment.pages, b.i32(1));
    auto load = [&](Value number) {
      return pages().load(arith::MinUIOp::create(b, number, last));
    };
    SmallVector<Value> init = {turn.stage, turn.parity, load(warp)};
    auto loop = scf::ForOp::create(b, warp, segment.pages,
                                   b.i32(shared.warpgroups), init);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      ValueRange carried = loop.getRegionIterArgs();
      Value entry = carried[2];
      Value next = load(b.add(loop.getInductionVar(), shared.warpgroups));
      RingTurn now = {carried[0], carried[1]};
      for (rt::Part part : {rt::kKey, rt::kValue}) {
        SmallVector<Type> types(2, b.getI32Type());
        SmallVector<Value> results = pages().byLevel(
            part, pages().info(entry), levels[part], types, [&](size_t i) {
              RingTurn mine = now;
              OperandShare share = operandShare(part, levels[part][i]);
              for (int32_t piece = 0; piece < share.pieces(); ++piece) {
                copyPiece(part, share, piece, entry, mine);
                mine = after(mine);
              }
              return SmallVector<Value>{mine.stage, mine.parity};
            });
        now = {results[0], results[1]};
      }
      scf::YieldOp::create(b, ValueRange{now.stage, now.parity, next});
    }
    return {loop.getResult(0), loop.getResult(1)};
  }

  /// Each lane makes one of the copies.
  void copyPiece(rt::Part part, const OperandShare &share, int32_t piece,
                 Value entry, const RingTurn &turn) {
    constexpr int64_t blockBytes = OperandShare::kBlockBytes;
    constexpr int64_t parameterBytes =
        SharedRowsLayout::kSlotEntry - SharedRowsLayout::kSlotParameters;
    static_assert(parameterBytes == HalfTile::kColumns * ::pmkvq::kGroupBytes);
    const bool raw = share.level() == 16;
    // Bytes from the part's begin, and the block that they are in.
    Value start =
        b.add(b.mul(lane, share.copyStart(0, 1)), share.copyStart(piece, 0));
    constexpr int64_t firstBlock = offsetof(rt::PrefillPage, blocks) / 4;
    Value block = b.add(b.shr(start, llvm::Log2_64(blockBytes)),
                        firstBlock + part * int64_t{rt::kMaxBlocksPerPart});
    Value id = b.shuffle(entry, block);
    Value number = pages().field(entry, offsetof(rt::PrefillPage, slot));
    Value first = pages().field(entry, offsetof(rt::PrefillPage, first));
    Value info = pages().info(entry);
    Value full = slotBarrier(SharedRowsLayout::kFull, turn.stage);
    Value slot = slotAt(turn.stage);
    b.waitBarrier(slotBarrier(SharedRowsLayout::kEmpty, turn.stage),
                  b.xorBits(turn.parity, 1));
    Value leads = b.compare(arith::CmpIPredicate::eq, lane, 0);
    auto leading = scf::IfOp::create(b, leads, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(leading.thenBlock());
      // What masks and levels need, beside the codes.
      static_assert(offsetof(rt::PrefillPage, info) ==
                    offsetof(rt::PrefillPage, first) + 4);
      b.storeWords({first, info}, b.at(slot, SharedRowsLayout::kSlotEntry));
      b.expectBytes(full,
                    b.i32(share.pieceBytes() + (raw ? 0 : parameterBytes)));
      if (!raw)
        copyParameters(part, number, slot, full);
    }
    auto copying = scf::IfOp::create(
        b, b.compare(arith::CmpIPredicate::ult, lane, share.copies()),
        /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(copying.thenBlock());
    Value from = b.farAt(codes, id, rt::kDeviceGrainBytes);
    from = b.at(from, b.andBits(start, blockBytes - 1));
    b.bulkCopy(b.at(slot, b.mul(lane, share.copyBytes())), from, full,
               b.i32(share.copyBytes()), policy);
  }

  /// Those of a part of a page.
  void copyParameters(rt::Part part, Value number, Value slot, Value full) {
    constexpr int64_t headDim = HalfTile::kColumns;
    Value from =
        b.farAt(parameters, number,
                ::pmkvq::deviceSlotBytes(headDim, /*keysPerToken=*/false));
    if (part == rt::kValue)
      from = b.at(from, ::pmkvq::deviceValueParameters(headDim,
                                                       /*keysPerToken=*/false));
    b.bulkCopy(b.at(slot, SharedRowsLayout::kSlotParameters), from, full,
               b.i32(headDim * ::pmkvq::kGroupBytes), policy);
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
    b.waitBarrier(slotBarrier(SharedRowsLayout::kFull, state.turn.stage),
                  state.turn.parity);
    Values entry = b.loadWords(
        b.at(slotAt(state.turn.stage), SharedRowsLayout::kSlotEntry), 2);
    Values scores = multiply(rt::kKey, entry[1], state,
                             b.at(base, shared.queries()), Values());
    scores = mask(scores, entry);
    Value tile = b.at(base, shared.weights(0));
    Value tiles = b.add(b.shl(warpgroup, 1), state.tile);
    tile = b.at(tile, b.mul(tiles, shared.operandBytes()));
    weigh(state, scores, tile);
    state.outputs = multiply(rt::kValue, entry[1], state, tile, state.outputs);
    state.tile = b.xorBits(state.tile, 1);
  }

  /// Products of a part of the page with the right operand at `right`.
  Values multiply(rt::Part part, Value info, ColumnState &state, Value right,
                  const Values &accumulators) {
    SmallVector<Type> types(static_cast<size_t>(shared.rows), b.getF32Type());
    types.append(2, b.getI32Type());
    SmallVector<Value> results =
        pages().byLevel(part, info, levels[part], types, [&](size_t i) {
          ColumnState mine = state;
          Values sums =
              multiplyLevel(part, levels[part][i], mine, right, accumulators);
          llvm::append_range(
              sums, ArrayRef<Value>{mine.turn.stage, mine.turn.parity});
          return sums;
        });
    ValueRange rest = ValueRange(results).drop_front(shared.rows);
    state.turn = {rest[0], rest[1]};
    return Values(ArrayRef<Value>(results).take_front(shared.rows));
  }

  Values multiplyLevel(rt::Part part, int64_t level, ColumnState &state,
                       Value right, Values sums) {
    OperandShare mine = operandShare(part, level);
    for (int32_t piece = 0; piece < mine.pieces(); ++piece) {
      b.waitBarrier(slotBarrier(SharedRowsLayout::kFull, state.turn.stage),
                    state.turn.parity);
      Value slot = slotAt(state.turn.stage);
      Values words = loadPiece(part, level, slot);
      const int64_t first = int64_t{piece} * mine.pieceBlocks();
      if (level < 16 && piece == 0)
        storeConstants(part, level, slot);
      // A block's constants are loaded while the one before is decoded.
      Value constants = loadConstants(level, first);
      for (int64_t j = 0; j < mine.pieceBlocks(); ++j) {
        Value following;
        if (j + 1 < mine.pieceBlocks())
          following = loadConstants(level, first + j + 1);
        sums = multiplyBlock(part, level, first + j, words, constants, right,
                             sums);
        constants = following;
      }
      endPiece(state);
    }
    return b.unpack(AwaitProductsOp::create(b, b.pack(sums), 0));
  }

  /// Where this warp's constants of a block's half are.
  Value constantsAt(Value block, Value lane, int64_t half) {
    Value mine = b.add(b.shl(warpgroup, 2), warp);
    Value all = b.at(b.at(base, shared.constants()),
                     b.mul(mine, SharedRowsLayout::kConstantBytes));
    Value t = b.shl(b.andBits(lane, 3), 4);
    return b.at(all, b.add(b.add(t, b.shl(block, 7)), half * 64));
  }

  /// Steps and offsets of a part, which all lanes with the same t need: lanes
  /// g make those of block g % 4.
  void storeConstants(rt::Part part, int64_t level, Value slot) {
    auto layout = operandShare(part, level).layout;
    const int64_t bytes =
        2 * (part == rt::kKey
                 ? ParameterLayout::perChannel(32, 1, HalfTile::kColumns)
                 : ParameterLayout::perToken(32, 1));
    Value self = b.andBits(b.threadId(), 31);
    Value block = b.andBits(b.shr(self, 2), 3);
    Value from = b.at(slot, SharedRowsLayout::kSlotParameters);
    Value groups =
        LoadGroupsOp::create(b, b.words(8), irPartOf(part), level, attr(0),
                             warp, self, b.at(from, b.mul(block, bytes)));
    Values made =
        codeConstants(b, forms[part][level], layout, b.unpack(groups));
    auto branch =
        scf::IfOp::create(b, b.compare(arith::CmpIPredicate::ult, self, 16),
                          /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      for (size_t h : {0, 1})
        b.storeWords(
            {made[2 * h], made[2 * h + 1], made[4 + 2 * h], made[5 + 2 * h]},
            constantsAt(block, self, static_cast<int64_t>(h)));
    }
    b.syncWarp();
  }

  /// Of a block; null at level 16.
  Value loadConstants(int64_t level, int64_t block) {
    if (level == 16)
      return {};
    Values steps, offsets;
    for (int64_t h : {0, 1}) {
      Values words = b.loadWords(constantsAt(b.i32(block), lane, h), 4);
      steps.append(words.begin(), words.begin() + 2);
      offsets.append(words.begin() + 2, words.end());
    }
    llvm::append_range(steps, offsets);
    return b.pack(steps);
  }

  Values multiplyBlock(rt::Part part, int64_t level, int64_t block,
                       const Values &words, Value constants, Value right,
                       const Values &sums) {
    Value operands =
        DecodeOperandsOp::create(b, b.words(16), irPartOf(part), level,
                                 constants ? formats[part] : FormatAttr(),
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

  /// Weights to `tile`, for all warps to see; sums, and maxima where they rise.
  void weigh(ColumnState &state, const Values &scores, Value tile) {
    Values sums;
    Value above = storeWeights(scores, state.maxima, tile, sums);
    Value rises = b.syncAny(barrier, SharedRowsLayout::kWarpgroup, above);
    SmallVector<Value> kept;
    for (const Values *values :
         {&state.maxima, &state.sums, &sums, &state.outputs})
      llvm::append_range(kept, *values);
    auto branch =
        scf::IfOp::create(b, ValueRange(kept).getTypes(), rises,
                          /*addThenBlock=*/true, /*addElseBlock=*/true);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.elseBlock());
      scf::YieldOp::create(b, kept);
      b.setInsertionPointToStart(branch.thenBlock());
      raise(state, scores, tile, sums);
    }
    ValueRange results = branch.getResults();
    for (Values *values : {&state.maxima, &state.sums, &sums, &state.outputs})
      for (Value &value : *values) {
        value = results.front();
        results = results.drop_front();
      }
    for (size_t i = 0; i < sums.size(); ++i)
      state.sums[i] = b.addF(state.sums[i], sums[i]);
  }

  /// Gives whether a weight is too large.
  Value storeWeights(const Values &scores, const Values &maxima, Value tile,
                     Values &sums) {
    auto op =
        WeighColumnsOp::create(b, b.words(shared.rows / 2),
                               b.floats(static_cast<int64_t>(queriesOfLane())),
                               b.getI1Type(), b.pack(scores), b.pack(maxima));
    StoreWeightsOp::create(b, op.getWords(), warp, lane, tile);
    b.fenceShared();
    sums = b.unpack(op.getSums());
    return op.getAbove();
  }

  /// Maxima rise to kColumnHeadroom above the largest score, and the page is
  /// weighed again.  Seldom run but for a segment's first pages.
  void raise(const ColumnState &before, const Values &scores, Value tile,
             Values sums) {
    ColumnState state = before;
    Values largest = largestOfWarps(scores);
    Values rescale;
    for (size_t i = 0; i < largest.size(); ++i) {
      Value score = b.mulF(largest[i], b.f32(1.0 / HalfTile::kUnit));
      Value old = state.maxima[i];
      Value isAbove =
          arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, score, old);
      state.maxima[i] =
          b.select(isAbove, b.addF(score, b.f32(kColumnHeadroom)), old);
      rescale.push_back(b.exp2(b.subF(old, state.maxima[i])));
      state.sums[i] = b.mulF(state.sums[i], rescale[i]);
    }
    const size_t count = state.outputs.size() / 2;
    for (size_t i = 0; i < state.outputs.size(); ++i)
      state.outputs[i] =
          b.mulF(state.outputs[i], rescale[i % count / 4 * 2 + i % 2]);
    (void)storeWeights(scores, state.maxima, tile, sums);
    b.syncThreads(barrier, SharedRowsLayout::kWarpgroup);
    SmallVector<Value> yielded;
    for (const Values *values :
         {&state.maxima, &state.sums, &sums, &state.outputs})
      llvm::append_range(yielded, *values);
    scf::YieldOp::create(b, yielded);
  }

  /// Largest score of each of the lane's queries, over all warps.
  Values largestOfWarps(const Values &scores) {
    Values mine = b.unpack(LargestOfColumnsOp::create(
        b, b.floats(static_cast<int64_t>(queriesOfLane())), b.pack(scores)));
    Value t = b.shl(b.andBits(lane, 3), 1);
    Value all = b.at(base, shared.perWarp());
    Value ofWarpgroup = b.mul(b.shl(warpgroup, 2), shared.rows);
    auto placeOf = [&](Value ofWarp, size_t i) {
      Value place = b.add(ofWarp, b.add(t, queryOffset(i)));
      return b.at(all, b.shl(b.add(ofWarpgroup, place), 2));
    };
    Value isFirst = b.compare(arith::CmpIPredicate::ult, lane, 4);
    auto branch = scf::IfOp::create(b, isFirst, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      for (size_t i = 0; i < mine.size(); ++i)
        b.store(mine[i], placeOf(b.mul(warp, shared.rows), i), 4);
    }
    b.syncThreads(barrier, SharedRowsLayout::kWarpgroup);
    Values largest;
    for (size_t i = 0; i < mine.size(); ++i) {
      Value most;
      for (int64_t w = 0; w < OperandShare::kWarps; ++w) {
        Value one =
            b.load(b.getF32Type(), placeOf(b.i32(w * shared.rows), i), 4);
        most = most ? b.maxF(most, one) : one;
      }
      largest.push_back(most);
    }
    return largest;
  }

  KernelOp kernel;
  WarpgroupBuilder b;
  const WarpgroupOptions &options;
  SegmentParts parts;
  SharedRowsLayout shared;
  SmallVector<int64_t> levels[rt::kParts];
  FormatAttr formats[rt::kParts];
  /// By level, below 16.
  std::map<int64_t, AffineForm> forms[rt::kParts];
  double scale = 1.0;
  /// Query heads a kv head, kv heads, rows of queries of a segment.
  int64_t group = 1, kvHeads = 1, rows = 1;

  // Arguments, the row of the work list, and who we are.
  Value codes, parameters, queries, results, partials, row, rowPages;
  Value thread, warpgroup, warp, lane, barrier, base, policy;
  /// Whose ring it is that we fill or use.
  Value ring;
  /// The segment's, for who copies.
  Value entries;
};
} // namespace

LogicalResult mlir::pmkvq::lowerSegments(KernelOp kernel, OpBuilder &at,
                                         const WarpgroupOptions &options) {
  return SegmentLowering(kernel, at, options).run();
}
