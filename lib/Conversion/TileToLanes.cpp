//===- TileToLanes.cpp - Kernels over units as code of lanes --------------===//
//
// Turns kernels in tile form over segments and units into functions of a
// gpu.module.  Neighbours: QueryStage.h (queries), UnitLowering.cpp (one
// unit), DeviceAbi.h (arguments and work list), SharedLayout.h (shared memory).
//
//===----------------------------------------------------------------------===//

#include "LaneParameters.h"
#include "LanePass.h"
#include "QueryStage.h"
#include "SegmentWork.h"
#include "UnitLowering.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/Passes.h"
#include "pmkvq_rt/DeviceAbi.h"

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
/// The tile ops that a kernel over units is made of.
struct DecodeParts {
  ForSegmentOp segments;
  LoadRowsOp load;
  /// Null if queries come in the keys' basis.
  HadamardOp rotate;
  ScaleOp scale;
  ForUnitOp units;
  StoreMergedOp store;
};

class DecodeLowering {
public:
  DecodeLowering(KernelOp kernel, OpBuilder &at,
                 const ConvertTileToLanesOptions &options)
      : kernel(kernel), b(kernel.getLoc(), at),
        dependentLaunch(options.dependentLaunch),
        bulkCopies(options.bulkCopies), sharedBytes(options.sharedBytes),
        keysPerToken(options.keysPerToken), valueBytes(options.valueBytes) {}

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

  /// Errors: what the kernel lacks.
  LogicalResult findParts() {
    kernel.walk([&](Operation *op) {
      if (auto part = dyn_cast<ForSegmentOp>(op))
        parts.segments = part;
      else if (auto part = dyn_cast<ForUnitOp>(op))
        parts.units = part;
      else if (auto part = dyn_cast<StoreMergedOp>(op))
        parts.store = part;
      lowers |= isa<StoreLoweredOp>(op);
    });
    if (!parts.segments || !parts.units || !parts.store)
      return kernel.emitOpError("is not over segments and units");
    for (Operation &op : parts.segments.getBody().front()) {
      if (auto part = dyn_cast<LoadRowsOp>(op))
        parts.load = part;
      else if (auto part = dyn_cast<HadamardOp>(op))
        parts.rotate = part;
      else if (auto part = dyn_cast<ScaleOp>(op))
        parts.scale = part;
    }
    return success();
  }

  LogicalResult match() {
    if (failed(findParts()))
      return failure();
    DenseFPElementsAttr factor;
    Value loaded = parts.load ? parts.load.getResult() : Value();
    if (parts.rotate && parts.rotate.getSource() == loaded)
      loaded = parts.rotate.getResult();
    if (!loaded || !parts.scale || parts.scale.getRows() != loaded ||
        !matchPattern(parts.scale.getBy(), m_Constant(&factor)) ||
        !factor.isSplat())
      return kernel.emitOpError("expected queries times a constant");
    scale = factor.getSplatValue<APFloat>().convertToFloat();
    shared.headDim = parts.load.getType().getWidth();
    shared.group = parts.load.getGroup();
    shared.rows = parts.load.getType().getQueries() / shared.group;
    if (shared.usedQueries() > SharedLayout::kMaxQueries)
      return kernel.emitOpError("has ")
             << shared.usedQueries()
             << " queries a kv head; a GPU supports up to "
             << SharedLayout::kMaxQueries;
    ArrayRef<int64_t> levels = parts.units.getKinds();
    for (size_t i = 0; i < levels.size(); i += 2)
      kinds.push_back({static_cast<int32_t>(levels[i]),
                       static_cast<int32_t>(levels[i + 1])});
    for (Region &region : parts.units.getBodies()) {
      auto keys = cast<TileType>(region.getArgument(2).getType());
      auto values = cast<TileType>(region.getArgument(3).getType());
      if (failed(checkFormat(keys)) || failed(checkFormat(values)))
        return failure();
      if (!keys.isRaw() && !keys.groupsAlongReduction())
        keysPerToken = true;
      valueBytes = std::min(valueBytes, groupBytes(values));
    }
    for (rt::UnitKind kind : kinds)
      shared.fit(kind, keysPerToken, valueBytes);
    if (shared.fitInto(sharedBytes, /*mayShare=*/!bulkCopies))
      return success();
    return kernel.emitOpError("takes ")
           << shared.bytes() << " bytes of shared memory for a head_dim of "
           << shared.headDim << " and " << shared.usedQueries()
           << " queries a kv head; a thread block has " << sharedBytes;
  }

  /// Lanes multiply codes as they are; ranges of values scale weights, so they
  /// are per token.
  LogicalResult checkFormat(TileType tile) {
    if (tile.isRaw())
      return success();
    bool isKey = tile.getPart() == Part::Key;
    const FormatModel &model = tile.getFormat().getModel();
    if (hasLaneParameters(tile.getPart(), model) &&
        model.hasLinearGrid(tile.getLevel()) &&
        (isKey || model.getGroupAxis() == GroupAxis::Token))
      return success();
    return kernel.emitOpError("has ")
           << (isKey ? "keys" : "values") << " of the format '"
           << model.getName() << "' at level " << tile.getLevel()
           << ", which a GPU does not support; use "
           << (isKey ? "per_channel or per_token"
                     : "per_token or per_token_symmetric");
  }

  /// Units of few dims are few bytes: two thread blocks have as many of them in
  /// flight as one of 128 dims.  Scores of many queries with 128 tokens leave
  /// registers for one.
  int32_t blocksPerMultiprocessor() {
    bool isLarge =
        shared.sets() > 1 ||
        (shared.queriesPerLane() > 1 &&
         llvm::any_of(kinds, [](rt::UnitKind k) { return k.key == 2; }));
    return shared.headDim == 64 && !isLarge ? 2 : 1;
  }

  void createFunction() {
    arguments =
        b.startFunction(kernel.getSymName(), sizeof(rt::DecodeArgs),
                        SharedLayout::kWarps * 32, blocksPerMultiprocessor());
  }

  Value pointerField(size_t offset) {
    return b.pointerArgument(arguments, offset);
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
    Value first = b.mul(segmentsPerRow, sizeof(rt::WorkSegment));
    first = b.add(first, b.mul(warp, taskBytes()));
    tasks = b.at(b.at(row, sizeof(rt::WorkHeader)), first);
    base = LLVM::AddressOfOp::create(b, b.pointer(kSharedSpace),
                                     kSharedMemoryName);
    ring = b.at(base, b.mul(warp, shared.ringBytes()));
    barriers = b.at(base, shared.barriers());
    barriers = b.at(barriers, b.mul(warp, shared.slots * 8));
  }

  /// One load hop to everything but the queries; queries before the copies, or
  /// they wait behind the flood of these.
  void startRow() {
    Values header = b.loadWords(row, 4);
    segmentCount = header[0];
    UnitWork first = UnitWork::load(b, tasks, lowers);
    second = UnitWork::load(b, b.at(tasks, taskStride()), lowers);
    firstSegment = loadSegment(b.i32(0));
    firstInfo = first.info;
    firstLowered = first.lowered;
    // This warp's units of all segments: warp, warp + 8, ...
    myUnits = unitsBefore(header[1]);
    isLeader = b.compare(arith::CmpIPredicate::eq, lane, 0);
    auto branch = scf::IfOp::create(b, isLeader, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      for (int64_t i = 0; i < shared.slots && bulkCopies; ++i)
        b.initBarrier(b.at(barriers, i * 8));
      if (bulkCopies)
        b.fenceBarrierInit();
    }
    policy = b.evictFirstPolicy();
    b.syncWarp();
    Value hasFirst = b.compare(arith::CmpIPredicate::ne, myUnits, 0);
    auto loadFirst = [&] {
      if (queriesAhead())
        firstQueries =
            queryStage().load(firstSegment.pair, firstSegment.moreRows);
    };
    if (!dependentLaunch) {
      loadFirst();
      if (!issuesLate())
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
    loadFirst();
  }

  int64_t kvHeads() {
    return static_cast<int64_t>(parts.segments.getKvHeads());
  }
  /// Of merges, where a segment may have several rows of queries.
  Value existing(const SegmentWork &segment) {
    return shared.rows > 1 ? segment.moreRows : Value();
  }
  IntegerAttr groupAttr() { return b.getI64IntegerAttr(shared.group); }
  IntegerAttr rowsAttr() {
    return shared.rows > 1 ? b.getI64IntegerAttr(shared.rows) : IntegerAttr();
  }
  IntegerAttr strideAttr() {
    return shared.rows > 1 ? b.getI64IntegerAttr(shared.group * kvHeads())
                           : IntegerAttr();
  }

  int64_t taskBytes() {
    return lowers ? sizeof(rt::LoweringTask) : sizeof(rt::UnitTask);
  }
  int64_t taskStride() { return SharedLayout::kWarps * taskBytes(); }

  /// How many of the row's first `units` units are this warp's.
  Value unitsBefore(Value units) {
    Value ahead = b.add(b.sub(units, warp), SharedLayout::kWarps - 1);
    return b.shr(ahead, llvm::Log2_64(SharedLayout::kWarps));
  }

  void issue(Value number, const UnitWork &task, Value exists) {
    SmallVector<int64_t> levels(parts.units.getKinds());
    RingIssueOp::create(
        b, ring, barriers, number, exists, codes, parameters, task.key,
        task.value, task.slot, task.info, policy, levels, shared.slots,
        shared.slotBytes, shared.headDim, keysPerToken,
        valueBytes == ::pmkvq::kGroupBytes ? IntegerAttr()
                                           : b.getI64IntegerAttr(valueBytes));
  }

  SegmentWork loadSegment(Value index) {
    Value segments = b.at(row, sizeof(rt::WorkHeader));
    Value place = b.at(segments, b.mul(index, sizeof(rt::WorkSegment)));
    Values words = b.loadWords(place, 4);
    static_assert(offsetof(rt::WorkSegment, shares) ==
                  offsetof(rt::WorkSegment, share) + 2);
    constexpr int64_t kUnitBits = 24;
    static_assert(rt::kMaxSegmentUnits == (1 << kUnitBits) - 1);
    const bool isOne = shared.rows == 1;
    return {words[0],
            isOne ? words[1] : b.andBits(words[1], rt::kMaxSegmentUnits),
            isOne ? b.i32(0) : b.shr(words[1], kUnitBits),
            b.andBits(words[2], 0xffff),
            b.shr(words[2], 16),
            words[3]};
  }

  //===--------------------------------------------------------------------===//
  // Segments and units
  //===--------------------------------------------------------------------===//

  /// Whether a segment's queries are loaded while the one before is worked on;
  /// two sets of them would take the registers of outputs.
  bool queriesAhead() { return shared.sets() == 1; }

  QueryStage queryStage() {
    return {b,     shared,  kinds,     static_cast<bool>(parts.rotate),
            scale, queries, kvHeads(), base,
            warp,  lane,    isLeader};
  }

  LogicalResult lowerSegments() {
    // Units so far; the next task to work on and to issue; the segment, and its
    // queries.
    SmallVector<Value> init = {b.i32(0), firstInfo};
    llvm::append_range(init, firstLowered);
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

  /// What units share, once queries are staged.
  SegmentLanes loadLanes() {
    SegmentLanes lanes = {
        shared, keysPerToken, parts.scale.getResult(), base, lane, {}, scale};
    Value factors = b.at(base, shared.factors());
    Value mine =
        b.at(factors, b.mul(b.andBits(lane, 3), shared.laneStride() * 4));
    for (int64_t i = 0; i < shared.queriesPerLane(); ++i)
      lanes.factors.push_back(
          b.load(b.getF32Type(), b.at(mine, SharedLayout::toQuery(i) * 4), 4));
    return lanes;
  }

  LogicalResult lowerSegment(scf::ForOp loop) {
    ValueRange carried = loop.getRegionIterArgs();
    Value before = carried[0], info = carried[1];
    carried = carried.drop_front(2);
    Values lowered = UnitWork::takeLowered(carried, lowers);
    UnitWork next = UnitWork::take(carried, lowers);
    SegmentWork segment = SegmentWork::take(carried);
    Values q(carried);
    queryStage().store(
        queriesAhead() ? q : queryStage().load(segment.pair, segment.moreRows));
    b.barrier();
    Value last = b.sub(segmentCount, b.i32(1));
    Value following =
        arith::MinUIOp::create(b, b.add(loop.getInductionVar(), 1), last);
    SegmentWork nextSegment = loadSegment(following);
    Values nextQueries;
    if (queriesAhead())
      nextQueries = queryStage().load(nextSegment.pair, nextSegment.moreRows);

    SegmentLanes lanes = loadLanes();
    Value end = b.add(before, segment.units);
    if (issuesLate()) {
      Value number = unitsBefore(before);
      UnitWork task =
          UnitWork::load(b, b.at(tasks, b.mul(number, taskStride())), lowers);
      issue(number, task,
            b.compare(arith::CmpIPredicate::ult, number, unitsBefore(end)));
    }
    SmallVector<Value> init = {info};
    llvm::append_range(init, lowered);
    next.append(init);
    for (int64_t i = 0; i < shared.queriesPerLane(); ++i)
      LaneState::initial(b, shared.headDim).append(init);
    Value firstUnit = unitsBefore(before), endUnit = unitsBefore(end);
    auto units = scf::ForOp::create(b, firstUnit, endUnit, b.i32(1), init);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(units.getBody());
      if (failed(lowerUnits(units, lanes)))
        return failure();
    }
    ValueRange after = units.getResults();
    Value infoAfter = after[0];
    after = after.drop_front(1);
    Values loweredAfter = UnitWork::takeLowered(after, lowers);
    UnitWork nextAfter = UnitWork::take(after, lowers);
    Value partial = b.add(segment.partial, segment.share);
    MergeWarpsOp::create(b, base, results, partials, segment.pair,
                         segment.shares, partial, after, freeSlot(end),
                         existing(segment), groupAttr(), rowsAttr(),
                         strideAttr(), b.getI64IntegerAttr(shared.headDim),
                         b.getI64IntegerAttr(shared.ringBytes()));
    SmallVector<Value> yielded = {end, infoAfter};
    llvm::append_range(yielded, loweredAfter);
    nextAfter.append(yielded);
    nextSegment.append(yielded);
    llvm::append_range(yielded, nextQueries);
    scf::YieldOp::create(b, yielded);
    return success();
  }

  /// Whether a segment's first unit is issued only when the states of the
  /// segment before, which lie in the same slot, are merged.
  bool issuesLate() { return shared.recordsInRing && shared.slots == 1; }

  /// Where this warp may leave its state once it has worked on its part of the
  /// row's first `units` units, if that is in its ring: of two slots the next
  /// unit goes to the other.
  Value freeSlot(Value units) {
    if (!shared.recordsInRing)
      return Value();
    if (shared.slots == 1)
      return b.mul(warp, shared.ringBytes());
    Value slot = b.andBits(b.add(unitsBefore(units), 1), shared.slots - 1);
    Value mine = b.mul(warp, shared.ringBytes());
    return b.add(mine, b.mul(slot, shared.slotBytes));
  }

  /// What a unit's entry says of its sides that fall; it was loaded two units
  /// before.
  UnitFall fallOf(Value info, const Values &lowered) {
    UnitFall fall = {codes, info, {}};
    llvm::copy(lowered, fall.places);
    return fall;
  }

  /// Waits for a unit, starts the copies of the next, works; or the last two
  /// the other way round, where there is one slot for both.
  LogicalResult lowerUnits(scf::ForOp loop, const SegmentLanes &lanes) {
    ValueRange carried = loop.getRegionIterArgs();
    Value info = carried[0], number = loop.getInductionVar();
    carried = carried.drop_front(1);
    Values lowered = UnitWork::takeLowered(carried, lowers);
    UnitWork next = UnitWork::take(carried, lowers);
    SmallVector<LaneState> states;
    for (int64_t i = 0; i < shared.queriesPerLane(); ++i)
      states.push_back(LaneState::take(carried, shared.headDim));
    const UnitFall fall = fallOf(info, lowered);
    Value slot = RingWaitOp::create(b, b.pointer(kSharedSpace), ring, barriers,
                                    number, shared.slots, shared.slotBytes);
    Value following = b.add(number, 1);
    auto issueNext = [&] {
      Value end = issuesLate() ? loop.getUpperBound() : myUnits;
      issue(following, next,
            b.compare(arith::CmpIPredicate::ult, following, end));
    };
    if (shared.slots > 1)
      issueNext();
    Value place = b.mul(b.add(number, 2), taskStride());
    UnitWork afterNext = UnitWork::load(b, b.at(tasks, place), lowers);
    SmallVector<Value> worked;
    if (failed(lowerKinds(info, slot, fall, lanes, states, 0, worked)))
      return failure();
    b.syncWarp();
    if (shared.slots == 1)
      issueNext();
    SmallVector<Value> yielded = {next.info};
    llvm::append_range(yielded, next.lowered);
    afterNext.append(yielded);
    llvm::append_range(yielded, worked);
    scf::YieldOp::create(b, yielded);
    return success();
  }

  /// The code of kind `i` or, if the unit is of another, of those after it.
  LogicalResult lowerKinds(Value info, Value slot, const UnitFall &fall,
                           const SegmentLanes &lanes,
                           ArrayRef<LaneState> states, size_t i,
                           SmallVectorImpl<Value> &worked) {
    auto lowerThis = [&](SmallVectorImpl<Value> &to) -> LogicalResult {
      // A signed byte.
      Value tokens = b.shrSigned(b.shl(info, 16), 24);
      Value isSecondHalf;
      if (kinds[i].isHalfGrain())
        isSecondHalf = b.compare(arith::CmpIPredicate::ne,
                                 b.andBits(info, rt::UnitTask::kSecondHalf), 0);
      auto next = lowerUnit(b, parts.units.getBodies()[i], lanes, slot, tokens,
                            isSecondHalf, fall, states);
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
    if (failed(lowerKinds(info, slot, fall, lanes, states, i + 1, others)))
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
    SegmentWork segment = loadSegment(loop.getInductionVar());
    Value isShared = b.compare(arith::CmpIPredicate::ugt, segment.shares, 1);
    Value isLast = b.compare(arith::CmpIPredicate::eq, b.add(segment.share, 1),
                             segment.shares);
    auto branch =
        scf::IfOp::create(b, arith::AndIOp::create(b, isShared, isLast),
                          /*withElseRegion=*/false);
    b.setInsertionPointToStart(branch.thenBlock());
    MergeSharesOp::create(b, results, partials, segment.pair, segment.shares,
                          segment.partial, existing(segment), groupAttr(),
                          rowsAttr(), strideAttr(),
                          b.getI64IntegerAttr(shared.headDim), IntegerAttr());
  }

public:
  static constexpr llvm::StringLiteral kSharedMemoryName = "shared_memory";

private:
  KernelOp kernel;
  LaneBuilder b;
  bool dependentLaunch, bulkCopies;
  int64_t sharedBytes;
  DecodeParts parts;
  SharedLayout shared;
  SmallVector<rt::UnitKind> kinds;
  bool keysPerToken;
  /// Whether units may be stored one level lower.
  bool lowers = false;
  int64_t valueBytes;
  double scale = 1.0;

  Value arguments, codes, parameters, queries, results, partials;
  Value row, tasks, thread, warp, lane, base, ring, barriers;
  Value segmentCount, myUnits, isLeader, policy, firstInfo;
  Values firstLowered;
  UnitWork second;
  SegmentWork firstSegment;
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
    Block *module = getLaneModule(getOperation());
    OpBuilder builder = OpBuilder::atBlockBegin(module);
    // An external array of no size is the kernel's dynamic shared memory.
    auto type = LLVM::LLVMArrayType::get(builder.getI8Type(), 0);
    LLVM::GlobalOp::create(builder, getOperation().getLoc(), type,
                           /*isConstant=*/false, LLVM::Linkage::External,
                           DecodeLowering::kSharedMemoryName, Attribute(),
                           /*alignment=*/128, kSharedSpace);
    for (KernelOp kernel : kernels) {
      builder.setInsertionPointToEnd(module);
      if (failed(DecodeLowering(kernel, builder,
                                {dependentLaunch, bulkCopies, sharedBytes,
                                 keysPerToken, valueBytes})
                     .run()))
        return signalPassFailure();
      kernel.erase();
    }
  }
};
} // namespace
