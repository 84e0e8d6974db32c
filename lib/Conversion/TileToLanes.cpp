//===- TileToLanes.cpp - Kernels over units as code of lanes --------------===//
//
// Turns kernels in tile form over segments and units into functions of a
// gpu.module.  Neighbours: UnitLowering.cpp (one unit), DeviceAbi.h (arguments
// and work list), SharedLayout.h (shared memory).
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "UnitLowering.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/Passes.h"
#include "pmkvq_rt/DeviceAbi.h"
#include <limits>

namespace mlir::pmkvq {
#define GEN_PASS_DEF_CONVERTTILETOLANES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::SharedLayout;

namespace {

/// A UnitTask's words.
struct Task {
  Value key, value, slot, info;

  static Task load(LaneBuilder &b, Value address) {
    Values words = b.loadWords(address, 4);
    return {words[0], words[1], words[2], words[3]};
  }
  void append(SmallVectorImpl<Value> &to) const {
    llvm::append_range(to, ArrayRef<Value>{key, value, slot, info});
  }
  static Task take(ValueRange &from) {
    Task task = {from[0], from[1], from[2], from[3]};
    from = from.drop_front(4);
    return task;
  }
};

/// A WorkSegment's fields.
struct Segment {
  Value pair, units, share, shares, partial;

  void append(SmallVectorImpl<Value> &to) const {
    llvm::append_range(to,
                       ArrayRef<Value>{pair, units, share, shares, partial});
  }
  static Segment take(ValueRange &from) {
    Segment segment = {from[0], from[1], from[2], from[3], from[4]};
    from = from.drop_front(5);
    return segment;
  }
};

/// The tile ops that a kernel over units is made of.
struct Parts {
  ForSegmentOp segments;
  LoadRowsOp load;
  ScaleOp scale;
  ForUnitOp units;
  StoreMergedOp store;
};

class DecodeLowering {
public:
  DecodeLowering(KernelOp kernel, OpBuilder &at, bool dependentLaunch)
      : kernel(kernel), b(kernel.getLoc(), at),
        dependentLaunch(dependentLaunch) {}

  LogicalResult run() {
    if (failed(match()))
      return failure();
    createFunction();
    loadArguments();
    startRow();
    return lowerSegments();
  }

private:
  //===--------------------------------------------------------------------===//
  // The kernel
  //===--------------------------------------------------------------------===//

  LogicalResult match() {
    kernel.walk([&](Operation *op) {
      if (auto part = dyn_cast<ForSegmentOp>(op))
        parts.segments = part;
      else if (auto part = dyn_cast<ForUnitOp>(op))
        parts.units = part;
      else if (auto part = dyn_cast<StoreMergedOp>(op))
        parts.store = part;
    });
    if (!parts.segments || !parts.units || !parts.store)
      return kernel.emitOpError("is not over segments and units");
    for (Operation &op : parts.segments.getBody().front()) {
      if (auto part = dyn_cast<LoadRowsOp>(op))
        parts.load = part;
      else if (auto part = dyn_cast<ScaleOp>(op))
        parts.scale = part;
    }
    DenseFPElementsAttr factor;
    if (!parts.load || !parts.scale ||
        !matchPattern(parts.scale.getBy(), m_Constant(&factor)) ||
        !factor.isSplat())
      return kernel.emitOpError("expected queries times a constant");
    scale = factor.getSplatValue<APFloat>().convertToFloat();
    shared.headDim = parts.load.getType().getWidth();
    shared.group = parts.load.getGroup();
    if (shared.headDim != 128)
      return kernel.emitOpError("has a head_dim of ")
             << shared.headDim << "; a GPU supports 128";
    if (shared.group > SharedLayout::kWarps)
      return kernel.emitOpError("has ")
             << shared.group << " queries a kv head; a GPU supports up to "
             << SharedLayout::kWarps;
    ArrayRef<int64_t> levels = parts.units.getKinds();
    for (size_t i = 0; i < levels.size(); i += 2)
      kinds.push_back({static_cast<int32_t>(levels[i]),
                       static_cast<int32_t>(levels[i + 1])});
    for (auto [kind, region] : llvm::zip(kinds, parts.units.getBodies())) {
      auto keys = cast<TileType>(region.getArgument(2).getType());
      if (!keys.isRaw() && !keys.groupsAlongReduction())
        keysPerToken = true;
    }
    for (rt::UnitKind kind : kinds)
      shared.fit(kind, keysPerToken);
    return success();
  }

  /// A function whose only argument is the struct of arguments, by value.
  void createFunction() {
    MLIRContext *context = b.getContext();
    auto function = LLVM::LLVMFuncOp::create(
        b, kernel.getSymName(),
        LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context),
                                    {LLVM::LLVMPointerType::get(context)}));
    auto bytes =
        LLVM::LLVMArrayType::get(b.getI64Type(), sizeof(rt::DecodeArgs) / 8);
    function.setArgAttr(0, LLVM::LLVMDialect::getByValAttrName(),
                        TypeAttr::get(bytes));
    function.setArgAttr(0, LLVM::LLVMDialect::getAlignAttrName(),
                        b.getI64IntegerAttr(8));
    function->setAttr("nvvm.kernel", b.getUnitAttr());
    function->setAttr("nvvm.reqntid",
                      b.getDenseI32ArrayAttr({SharedLayout::kWarps * 32}));
    function->setAttr("nvvm.minctasm", b.getI32IntegerAttr(1));
    Block *entry = function.addEntryBlock(b);
    b.setInsertionPointToStart(entry);
    LLVM::ReturnOp::create(b, ValueRange());
    b.setInsertionPoint(entry->getTerminator());
    arguments = entry->getArgument(0);
  }

  Value pointerField(size_t offset) {
    Value address = b.load(b.pointer(0), b.at(arguments, offset), 8);
    return LLVM::AddrSpaceCastOp::create(b, b.pointer(kGlobalSpace), address);
  }

  void loadArguments() {
    codes = pointerField(offsetof(rt::DecodeArgs, codes));
    parameters = pointerField(offsetof(rt::DecodeArgs, parameters));
    queries = pointerField(offsetof(rt::DecodeArgs, queries));
    results = pointerField(offsetof(rt::DecodeArgs, results));
    partials = pointerField(offsetof(rt::DecodeArgs, partials));
    Value work = pointerField(offsetof(rt::DecodeArgs, work));
    auto word = [&](size_t offset) {
      return b.load(b.getI32Type(), b.at(arguments, offset), 4);
    };
    Value rowBytes = word(offsetof(rt::DecodeArgs, rowBytes));
    Value segmentsPerRow = word(offsetof(rt::DecodeArgs, segmentsPerRow));
    row = b.at(work, b.mul(b.blockId(), rowBytes));
    thread = b.threadId();
    warp = b.shr(thread, 5);
    lane = b.andBits(thread, 31);
    // This warp's first task.
    Value first = b.add(b.mul(segmentsPerRow, sizeof(rt::WorkSegment)),
                        b.mul(warp, sizeof(rt::UnitTask)));
    tasks = b.at(b.at(row, sizeof(rt::WorkHeader)), first);
    base = LLVM::AddressOfOp::create(b, b.pointer(kSharedSpace),
                                     kSharedMemoryName);
    ring = b.at(base, b.mul(warp, shared.ringBytes()));
    barriers = b.at(b.at(base, shared.barriers()),
                    b.mul(warp, SharedLayout::kSlots * 8));
  }

  /// One load hop to everything but the queries; queries before the copies, or
  /// they wait behind the flood of these.
  void startRow() {
    Values header = b.loadWords(row, 4);
    segmentCount = header[0];
    Task first = Task::load(b, tasks);
    second = Task::load(b, b.at(tasks, taskStride()));
    firstSegment = loadSegment(b.i32(0));
    firstInfo = first.info;
    // This warp's units of all segments: warp, warp + 8, ...
    myUnits = unitsBefore(header[1]);
    isLeader = b.compare(arith::CmpIPredicate::eq, lane, 0);
    auto branch = scf::IfOp::create(b, isLeader, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      for (int64_t i = 0; i < SharedLayout::kSlots; ++i)
        b.initBarrier(b.at(barriers, i * 8));
      b.fenceBarrierInit();
    }
    policy = b.evictFirstPolicy();
    b.syncWarp();
    Value hasFirst = b.compare(arith::CmpIPredicate::ne, myUnits, 0);
    if (!dependentLaunch) {
      firstQueries = loadQueries(firstSegment.pair);
      issue(b.i32(0), first, hasFirst);
      return;
    }
    // What the launch before may still write is copied after it.  The second
    // unit is not: its copies would slow down that launch's merges.
    b.launchDependents();
    Value early = b.compare(arith::CmpIPredicate::ult, warp, header[2]);
    issue(b.i32(0), first, arith::AndIOp::create(b, hasFirst, early));
    b.waitForDependency();
    Value late = arith::XOrIOp::create(
        b, early, arith::ConstantOp::create(b, b.getBoolAttr(true)));
    issue(b.i32(0), first, arith::AndIOp::create(b, hasFirst, late));
    firstQueries = loadQueries(firstSegment.pair);
  }

  int64_t taskStride() { return SharedLayout::kWarps * sizeof(rt::UnitTask); }

  /// How many of the row's first `units` units are this warp's.
  Value unitsBefore(Value units) {
    Value ahead = b.add(b.sub(units, warp), SharedLayout::kWarps - 1);
    return b.shr(ahead, llvm::Log2_64(SharedLayout::kWarps));
  }

  void issue(Value number, const Task &task, Value exists) {
    Value leader = arith::AndIOp::create(b, exists, isLeader);
    SmallVector<int64_t> levels(parts.units.getKinds());
    RingIssueOp::create(b, ring, barriers, number, leader, codes, parameters,
                        task.key, task.value, task.slot, task.info, policy,
                        levels, shared.slotBytes, shared.headDim, keysPerToken);
  }

  Segment loadSegment(Value index) {
    Value place = b.at(b.at(row, sizeof(rt::WorkHeader)),
                       b.mul(index, sizeof(rt::WorkSegment)));
    Values words = b.loadWords(place, 4);
    static_assert(offsetof(rt::WorkSegment, shares) ==
                  offsetof(rt::WorkSegment, share) + 2);
    return {words[0], words[1], b.andBits(words[2], 0xffff),
            b.shr(words[2], 16), words[3]};
  }

  //===--------------------------------------------------------------------===//
  // Queries
  //===--------------------------------------------------------------------===//

  /// Warp w takes 4 dims a lane of query w.
  Values loadQueries(Value pair) {
    SmallVector<Type> types(4, b.getF32Type());
    Value exists = b.compare(arith::CmpIPredicate::ult, warp, shared.group);
    auto branch = scf::IfOp::create(b, types, exists, /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, Values(4, b.f32(0.0)));
    b.setInsertionPointToStart(branch.thenBlock());
    Value query = b.add(b.mul(pair, shared.group), warp);
    Value place = b.add(b.mul(query, shared.headDim * 4), b.shl(lane, 4));
    Values loaded;
    for (Value word : b.loadWords(b.at(queries, place), 4))
      loaded.push_back(b.bitcast(word, b.getF32Type()));
    scf::YieldOp::create(b, loaded);
    return Values(branch.getResults());
  }

  /// Writes query w as B operands to shared memory: in f16, normalized by a
  /// power of two so that its product with any f16 range stays in f16, and in
  /// bf16 with the rest of the rounding beside it.
  void stageQueries(Values q) {
    Value exists = b.compare(arith::CmpIPredicate::ult, warp, shared.queries());
    auto branch = scf::IfOp::create(b, exists, /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    if (llvm::any_of(kinds, [](rt::UnitKind k) { return k.key < 16; }))
      stageHalfQueries(q);
    if (llvm::any_of(kinds, [](rt::UnitKind k) { return k.key == 16; }))
      stageRawQueries(q);
  }

  /// Columns between those of neighbouring queries.
  int64_t columnsPerQuery() { return 2 / shared.queriesPerLane(); }

  /// Where query `warp`'s first column begins in the operand at `start`.
  Value columnPlace(int64_t start) {
    int64_t bytes = columnsPerQuery() * SharedLayout::kColumnBytes;
    return b.at(b.at(base, start), b.mul(warp, bytes));
  }

  /// Leaves in `q` what f16 left.  Raw keys must be weighed by the same: with a
  /// channel of keys at 300, q rounded to 11 bits moves scores by some 0.01,
  /// which cancels in the softmax only if it moves all of them.
  void stageHalfQueries(Values &q) {
    Value largest;
    for (Value value : q) {
      Value bits = b.andBits(b.bitcast(value, b.getI32Type()), 0x7fffffff);
      largest =
          largest ? Value(arith::MaxUIOp::create(b, largest, bits)) : bits;
    }
    Value exponent = b.shr(b.maxOverWarp(largest), 23);
    constexpr int64_t kNotFinite = 255;
    Value isFinite = b.compare(arith::CmpIPredicate::ult, exponent, kNotFinite);
    exponent = arith::MaxUIOp::create(b, exponent, b.i32(1));
    exponent = arith::MinUIOp::create(b, exponent, b.i32(251));
    // The largest lands in [1/4, 1/2): times the largest f16 it is below 2^15.
    auto power = [&](Value biased) {
      return b.bitcast(b.shl(biased, 23), b.getF32Type());
    };
    Value normalize = power(b.sub(b.i32(252), exponent));
    // Bytes cannot say that a query is no number; the factor of its scores can.
    Value restore = b.select(isFinite, power(b.add(exponent, 2)),
                             b.f32(std::numeric_limits<float>::quiet_NaN()));
    auto write = scf::IfOp::create(b, isLeader, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(write.thenBlock());
      b.store(b.mulF(restore, b.f32(scale)),
              b.at(b.at(base, shared.factors()), b.shl(warp, 2)), 4);
    }
    Values scaled;
    for (Value value : q)
      scaled.push_back(b.mulF(value, normalize));
    Value first = b.packHalves(scaled[0], scaled[1]);
    Value rest = b.packHalves(scaled[2], scaled[3]);
    for (int64_t i = 0; i < 4; ++i)
      q[i] = b.mulF(b.half(i < 2 ? first : rest, i % 2), restore);
    // Dims 4 lane .. + 3 = 32 kb + 16 h + 4 t .. + 3: words 2 h, 2 h + 1 of
    // lane (g, t), vector kb.
    Value kb = b.shr(lane, 3), h = b.andBits(b.shr(lane, 2), 1),
          t = b.andBits(lane, 3);
    Value place = b.add(b.add(b.shl(kb, 9), b.shl(t, 4)), b.shl(h, 3));
    Value address = b.at(columnPlace(shared.halfQueries()), place);
    Value pair = LLVM::UndefOp::create(b, b.words(2));
    pair = LLVM::InsertElementOp::create(b, pair, first, b.i32(0));
    pair = LLVM::InsertElementOp::create(b, pair, rest, b.i32(1));
    for (int64_t column = 0; column < columnsPerQuery(); ++column)
      b.store(pair, b.at(address, column * SharedLayout::kColumnBytes), 8);
  }

  void stageRawQueries(const Values &q) {
    // Dims 4 lane .. + 3 of block lane / 4: word (block % 2) * 2 + half of
    // lanes (g, t) and (g, t + 1), vector block / 2.
    Value block = b.shr(lane, 2), half = b.andBits(b.shr(lane, 1), 1);
    Value t = b.shl(b.andBits(lane, 1), 1);
    Value place = b.add(b.shl(b.shr(block, 1), 9), b.shl(t, 4));
    Value word = b.add(b.shl(b.andBits(block, 1), 1), half);
    place = b.add(place, b.shl(word, 2));
    Value address = b.at(columnPlace(shared.rawQueries()), place);
    int64_t toRest = shared.operands() == 1 ? SharedLayout::kColumnBytes
                                            : shared.operandBytes();
    for (int64_t i = 0; i < 2; ++i) {
      Value low = q[2 * i], high = q[2 * i + 1];
      Value rounded = b.packBrainFloats(low, high);
      Value lowBack = b.bitcast(b.shl(rounded, 16), b.getF32Type());
      Value highBack = b.bitcast(
          b.andBits(rounded, static_cast<int32_t>(0xffff0000)), b.getF32Type());
      Value rest =
          b.packBrainFloats(b.subF(low, lowBack), b.subF(high, highBack));
      b.store(rounded, b.at(address, i * 16), 4);
      b.store(rest, b.at(address, i * 16 + toRest), 4);
    }
  }

  //===--------------------------------------------------------------------===//
  // Segments and units
  //===--------------------------------------------------------------------===//

  LogicalResult lowerSegments() {
    // Units so far; the next task to work on and to issue; the segment, and its
    // queries.
    SmallVector<Value> init = {b.i32(0), firstInfo};
    second.append(init);
    firstSegment.append(init);
    llvm::append_range(init, firstQueries);
    auto loop = scf::ForOp::create(b, b.i32(0), segmentCount, b.i32(1), init);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      if (failed(lowerSegment(loop)))
        return failure();
    }
    mergeShared();
    return success();
  }

  LogicalResult lowerSegment(scf::ForOp loop) {
    ValueRange carried = loop.getRegionIterArgs();
    Value before = carried[0], info = carried[1];
    carried = carried.drop_front(2);
    Task next = Task::take(carried);
    Segment segment = Segment::take(carried);
    Values q(carried);
    stageQueries(q);
    b.barrier();
    Value last = b.sub(segmentCount, b.i32(1));
    Value following =
        arith::MinUIOp::create(b, b.add(loop.getInductionVar(), 1), last);
    Segment nextSegment = loadSegment(following);
    Values nextQueries = loadQueries(nextSegment.pair);

    SegmentLanes lanes = {shared, keysPerToken, base, lane, {}, scale};
    Value mine = b.at(b.at(base, shared.factors()),
                      b.mul(b.andBits(lane, 3), shared.queriesPerLane() * 4));
    for (int64_t i = 0; i < shared.queriesPerLane(); ++i)
      lanes.factors.push_back(b.load(b.getF32Type(), b.at(mine, i * 4), 4));

    Value end = b.add(before, segment.units);
    SmallVector<Value> init = {info};
    next.append(init);
    for (int64_t i = 0; i < shared.queriesPerLane(); ++i)
      LaneState::initial(b, shared.headDim).append(init);
    auto units = scf::ForOp::create(b, unitsBefore(before), unitsBefore(end),
                                    b.i32(1), init);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(units.getBody());
      if (failed(lowerUnits(units, lanes)))
        return failure();
    }
    ValueRange after = units.getResults();
    Value infoAfter = after[0];
    after = after.drop_front(1);
    Task nextAfter = Task::take(after);
    MergeWarpsOp::create(b, base, results, partials, segment.pair,
                         segment.shares, b.add(segment.partial, segment.share),
                         after, shared.group, shared.headDim, shared.slotBytes);
    SmallVector<Value> yielded = {end, infoAfter};
    nextAfter.append(yielded);
    nextSegment.append(yielded);
    llvm::append_range(yielded, nextQueries);
    scf::YieldOp::create(b, yielded);
    return success();
  }

  /// Waits for a unit, starts the copies of the next, works.
  LogicalResult lowerUnits(scf::ForOp loop, const SegmentLanes &lanes) {
    ValueRange carried = loop.getRegionIterArgs();
    Value info = carried[0], number = loop.getInductionVar();
    carried = carried.drop_front(1);
    Task next = Task::take(carried);
    SmallVector<LaneState> states;
    for (int64_t i = 0; i < shared.queriesPerLane(); ++i)
      states.push_back(LaneState::take(carried, shared.headDim));
    Value slot = RingWaitOp::create(b, b.pointer(kSharedSpace), ring, barriers,
                                    number, shared.slotBytes);
    Value following = b.add(number, 1);
    issue(following, next,
          b.compare(arith::CmpIPredicate::ult, following, myUnits));
    Value place = b.mul(b.add(number, 2), taskStride());
    Task afterNext = Task::load(b, b.at(tasks, place));
    SmallVector<Value> worked;
    if (failed(lowerKinds(info, slot, lanes, states, 0, worked)))
      return failure();
    b.syncWarp();
    SmallVector<Value> yielded = {next.info};
    afterNext.append(yielded);
    llvm::append_range(yielded, worked);
    scf::YieldOp::create(b, yielded);
    return success();
  }

  /// The code of kind `i` or, if the unit is of another, of those after it.
  LogicalResult lowerKinds(Value info, Value slot, const SegmentLanes &lanes,
                           ArrayRef<LaneState> states, size_t i,
                           SmallVectorImpl<Value> &worked) {
    auto lowerThis = [&](SmallVectorImpl<Value> &to) -> LogicalResult {
      Value tokens = b.andBits(b.shr(info, 8), 0xff);
      Value isSecondHalf;
      if (kinds[i].isHalfGrain())
        isSecondHalf = b.compare(arith::CmpIPredicate::ne,
                                 b.andBits(info, rt::UnitTask::kSecondHalf), 0);
      auto next = lowerUnit(b, parts.units.getBodies()[i], lanes, slot, tokens,
                            isSecondHalf, states);
      if (failed(next))
        return failure();
      for (const LaneState &state : *next)
        state.append(to);
      return success();
    };
    if (i + 1 == kinds.size())
      return lowerThis(worked);
    Value isKind = b.compare(arith::CmpIPredicate::eq, b.andBits(info, 0xff),
                             kinds[i].index());
    SmallVector<Value> current;
    for (const LaneState &state : states)
      state.append(current);
    auto branch = scf::IfOp::create(b, ValueRange(current).getTypes(), isKind,
                                    /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    SmallVector<Value> here, others;
    b.setInsertionPointToStart(branch.thenBlock());
    if (failed(lowerThis(here)))
      return failure();
    scf::YieldOp::create(b, here);
    b.setInsertionPointToStart(branch.elseBlock());
    if (failed(lowerKinds(info, slot, lanes, states, i + 1, others)))
      return failure();
    scf::YieldOp::create(b, others);
    llvm::append_range(worked, branch.getResults());
    return success();
  }

  /// Merges shared pairs at the end, so that no segment waits for another.
  void mergeShared() {
    auto loop = scf::ForOp::create(b, b.i32(0), segmentCount, b.i32(1));
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Segment segment = loadSegment(loop.getInductionVar());
    Value isShared = b.compare(arith::CmpIPredicate::ugt, segment.shares, 1);
    Value isLast = b.compare(arith::CmpIPredicate::eq, b.add(segment.share, 1),
                             segment.shares);
    auto branch =
        scf::IfOp::create(b, arith::AndIOp::create(b, isShared, isLast),
                          /*withElseRegion=*/false);
    b.setInsertionPointToStart(branch.thenBlock());
    MergeSharesOp::create(b, results, partials, segment.pair, segment.shares,
                          segment.partial, shared.group, shared.headDim);
  }

public:
  static constexpr llvm::StringLiteral kSharedMemoryName = "shared_memory";

private:
  KernelOp kernel;
  LaneBuilder b;
  bool dependentLaunch;
  Parts parts;
  SharedLayout shared;
  SmallVector<rt::UnitKind> kinds;
  bool keysPerToken = false;
  double scale = 1.0;

  Value arguments, codes, parameters, queries, results, partials;
  Value row, tasks, thread, warp, lane, base, ring, barriers;
  Value segmentCount, myUnits, isLeader, policy, firstInfo;
  Task second;
  Segment firstSegment;
  Values firstQueries;
};

class ConvertTileToLanesPass
    : public mlir::pmkvq::impl::ConvertTileToLanesBase<ConvertTileToLanesPass> {
public:
  using ConvertTileToLanesBase::ConvertTileToLanesBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }

  void runOnOperation() override {
    SmallVector<KernelOp> kernels;
    for (KernelOp kernel : getOperation().getOps<KernelOp>())
      if (!kernel.getBody().front().getOps<ForSegmentOp>().empty())
        kernels.push_back(kernel);
    if (kernels.empty())
      return;
    OpBuilder builder = OpBuilder::atBlockEnd(getOperation().getBody());
    auto module =
        gpu::GPUModuleOp::create(builder, getOperation().getLoc(), "kernels");
    builder.setInsertionPointToStart(module.getBody());
    // An external array of no size is the kernel's dynamic shared memory.
    auto type = LLVM::LLVMArrayType::get(builder.getI8Type(), 0);
    LLVM::GlobalOp::create(builder, module.getLoc(), type, /*isConstant=*/false,
                           LLVM::Linkage::External,
                           DecodeLowering::kSharedMemoryName, Attribute(),
                           /*alignment=*/128, kSharedSpace);
    for (KernelOp kernel : kernels) {
      builder.setInsertionPointToEnd(module.getBody());
      if (failed(DecodeLowering(kernel, builder, dependentLaunch).run()))
        return signalPassFailure();
      kernel.erase();
    }
  }
};
} // namespace
