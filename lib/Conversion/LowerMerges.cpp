//===- LowerMerges.cpp - States of warps and thread blocks become one -----===//
//
// Lowers merge_warps and merge_shares.  Neighbours: SharedLayout.h (records of
// warps), DeviceAbi.h (partial results).
//
// This code decides short contexts: it runs once, and a lone warp takes about 5
// clocks an instruction.  So sizes are constants, indices 32 bits, and there is
// no division but the last.
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/SharedLayout.h"
#include "pmkvq_rt/Abi.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERMERGES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::SharedLayout;

namespace {
constexpr int64_t kThreads = SharedLayout::kWarps * 32;

/// The elements of a pair's results that one thread merges: `width` neighbours
/// of one query.
struct Share {
  int64_t width;
  /// Query, first head dim, and their common index.
  Value query, dim, element;

  static Share of(LaneBuilder &b, const SharedLayout &shared) {
    Share share;
    share.width = shared.queries() * shared.headDim / kThreads;
    share.element = b.mul(b.threadId(), share.width);
    share.query =
        arith::DivUIOp::create(b, share.element, b.i32(shared.headDim));
    share.dim = arith::RemUIOp::create(b, share.element, b.i32(shared.headDim));
    return share;
  }
};

/// A running merge of `width` outputs: maximum, sum of weights, outputs.
struct Merged {
  Value maximum, sum;
  Values outputs;
};
} // namespace

static Values loadFloats(LaneBuilder &b, Value address, int64_t count) {
  if (count == 1)
    return {b.load(b.getF32Type(), address, 4)};
  Values values;
  for (Value word : b.loadWords(address, count))
    values.push_back(b.bitcast(word, b.getF32Type()));
  return values;
}

static void storeFloats(LaneBuilder &b, const Values &values, Value address) {
  if (values.size() == 1)
    return b.store(values[0], address, 4);
  Value vector = LLVM::UndefOp::create(b, b.floats(values.size()));
  for (auto [i, value] : llvm::enumerate(values))
    vector = LLVM::InsertElementOp::create(b, vector, value, b.i32(i));
  b.store(vector, address, values.size() * 4);
}

/// Stores outputs / sum to the pair's results.
static void storeResults(LaneBuilder &b, const Merged &merged,
                         const Share &share, const SharedLayout &shared,
                         Value results, Value pair) {
  Value inverse = b.reciprocal(merged.sum);
  Values scaled;
  for (Value output : merged.outputs)
    scaled.push_back(b.mulF(output, inverse));
  Value index =
      b.add(b.mul(pair, shared.group * shared.headDim), share.element);
  storeFloats(b, scaled, b.at(results, b.mul(index, 4)));
}

/// Runs `body` in threads whose query exists.
static void ifQuery(LaneBuilder &b, const Share &share,
                    const SharedLayout &shared, function_ref<void()> body) {
  if (shared.group == shared.queries())
    return body();
  Value exists =
      b.compare(arith::CmpIPredicate::ult, share.query, shared.group);
  auto branch = scf::IfOp::create(b, exists, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  body();
}

//===----------------------------------------------------------------------===//
// Warps
//===----------------------------------------------------------------------===//

/// Sum over the lanes of a query.
static Value sumOverTokens(LaneBuilder &b, Value value) {
  for (int64_t mask : {4, 8, 16})
    value = b.addF(value, b.shuffleXor(value, mask));
  return value;
}

/// Each warp leaves outputs, maxima and sums in shared memory.
static void storeWarpStates(LaneBuilder &b, MergeWarpsOp op,
                            const SharedLayout &shared) {
  Value thread = b.threadId();
  Value warp = b.shr(thread, 5), lane = b.andBits(thread, 31);
  Value g = b.shr(lane, 2), t = b.andBits(lane, 3);
  int64_t count = op.getStates().size() / shared.operands();
  for (int64_t operand = 0; operand < shared.operands(); ++operand) {
    Values state(op.getStates().slice(operand * count, count));
    Value sum = sumOverTokens(b, state[1]), offset = sumOverTokens(b, state[2]);
    Value query = b.add(t, operand * SharedLayout::kQueriesPerOperand);
    Value record = b.add(b.mul(warp, shared.queries()), query);
    Value place = b.add(b.mul(record, shared.recordFloats()), g);
    Value address =
        b.at(b.at(op.getShared(), shared.records()), b.mul(place, 4));
    for (int64_t i = 0; i + 3 < count; ++i)
      b.store(b.addF(state[3 + i], offset), b.at(address, i * 32), 4);
    Value first = b.compare(arith::CmpIPredicate::eq, g, 0);
    auto branch = scf::IfOp::create(b, first, /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    Value index = b.add(b.mul(query, SharedLayout::kWarps), warp);
    Value slot = b.at(op.getShared(), b.mul(index, 4));
    b.store(state[0], b.at(slot, shared.maxima()), 4);
    b.store(sum, b.at(slot, shared.sums()), 4);
  }
}

static Merged mergeWarpStates(LaneBuilder &b, Value base, const Share &share,
                              const SharedLayout &shared) {
  constexpr int64_t kWarps = SharedLayout::kWarps;
  Value stats = b.at(base, b.mul(share.query, kWarps * 4));
  Values maxima, sums;
  for (int64_t i = 0; i < kWarps; i += 4) {
    llvm::append_range(maxima,
                       loadFloats(b, b.at(stats, shared.maxima() + i * 4), 4));
    llvm::append_range(sums,
                       loadFloats(b, b.at(stats, shared.sums() + i * 4), 4));
  }
  Merged merged;
  merged.maximum = maxima[0];
  for (Value maximum : llvm::drop_begin(maxima))
    merged.maximum = b.maxF(merged.maximum, maximum);
  merged.sum = b.f32(0.0);
  merged.outputs.assign(share.width, b.f32(0.0));
  Value place = b.add(b.mul(share.query, shared.recordFloats()), share.dim);
  Value records = b.at(b.at(base, shared.records()), b.mul(place, 4));
  for (int64_t warp = 0; warp < kWarps; ++warp) {
    Value weight = b.exp2(b.subF(maxima[warp], merged.maximum));
    merged.sum = b.fma(weight, sums[warp], merged.sum);
    int64_t offset = warp * shared.queries() * shared.recordFloats() * 4;
    Values outputs = loadFloats(b, b.at(records, offset), share.width);
    for (auto [sum, output] : llvm::zip(merged.outputs, outputs))
      sum = b.fma(weight, output, sum);
  }
  return merged;
}

/// Bytes of one partial result.
static int64_t partialBytes(const SharedLayout &shared) {
  return rt::partialFloats(shared.group, shared.headDim) * 4;
}

static Value partialAt(LaneBuilder &b, Value partials, Value index,
                       const SharedLayout &shared) {
  return b.at(partials, b.mul(index, partialBytes(shared)));
}

/// Outputs first, then maximum and sum of each query.
static void storePartial(LaneBuilder &b, const Merged &merged,
                         const Share &share, const SharedLayout &shared,
                         Value record) {
  storeFloats(b, merged.outputs, b.at(record, b.mul(share.element, 4)));
  Value first = b.compare(arith::CmpIPredicate::eq, share.dim, 0);
  auto branch = scf::IfOp::create(b, first, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  Value stats = b.at(b.at(record, shared.group * shared.headDim * 4),
                     b.mul(share.query, 8));
  storeFloats(b, {merged.maximum, merged.sum}, stats);
}

static SharedLayout sharedOf(int64_t group, int64_t headDim,
                             int64_t slotBytes) {
  SharedLayout shared;
  shared.group = group;
  shared.headDim = headDim;
  shared.slotBytes = slotBytes;
  return shared;
}

static SmallVector<Value> mergeWarps(LaneBuilder &b, MergeWarpsOp op) {
  SharedLayout shared =
      sharedOf(op.getGroup(), op.getHeadDim(), op.getSlotBytes());
  storeWarpStates(b, op, shared);
  b.barrier();
  Share share = Share::of(b, shared);
  Merged merged = mergeWarpStates(b, op.getShared(), share, shared);
  ifQuery(b, share, shared, [&] {
    Value alone = b.compare(arith::CmpIPredicate::eq, op.getShares(), 1);
    auto branch = scf::IfOp::create(b, alone, /*withElseRegion=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    storeResults(b, merged, share, shared, op.getOut(), op.getPair());
    b.setInsertionPointToStart(branch.elseBlock());
    storePartial(b, merged, share, shared,
                 partialAt(b, op.getPartials(), op.getPartial(), shared));
  });
  return {};
}

//===----------------------------------------------------------------------===//
// Thread blocks
//===----------------------------------------------------------------------===//

/// Whether this thread block is the last of its pair; the counter is zero again
/// then.
static Value arriveLast(LaneBuilder &b, MergeSharesOp op,
                        const SharedLayout &shared) {
  Value flag = b.at(op.getShared(), shared.flag());
  b.barrier();
  Value first = b.compare(arith::CmpIPredicate::eq, b.threadId(), 0);
  auto branch = scf::IfOp::create(b, first, /*withElseRegion=*/false);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    Value counter = b.at(op.getCounters(), b.mul(op.getPartial(), 4));
    Value before = b.countArrival(counter);
    Value last =
        b.compare(arith::CmpIPredicate::eq, b.add(before, 1), op.getShares());
    b.store(arith::ExtUIOp::create(b, b.getI32Type(), last), flag, 4);
    auto reset = scf::IfOp::create(b, last, /*withElseRegion=*/false);
    b.setInsertionPointToStart(reset.thenBlock());
    b.store(b.i32(0), counter, 4);
  }
  b.barrier();
  return b.compare(arith::CmpIPredicate::ne, b.load(b.getI32Type(), flag, 4),
                   0);
}

/// Adds `count` partial results from `first` on; those past the last have no
/// weight.  All loads are in flight before the first is used.
static Merged addShares(LaneBuilder &b, MergeSharesOp op, const Share &share,
                        const SharedLayout &shared, Value first,
                        const Merged &before, int64_t count) {
  SmallVector<Values> outputs;
  Values maxima, sums;
  int64_t statsOffset = shared.group * shared.headDim * 4;
  SmallVector<Type> types(share.width + 2, b.getF32Type());
  for (int64_t i = 0; i < count; ++i) {
    Value index = b.add(first, i);
    Value exists = b.compare(arith::CmpIPredicate::ult, index, op.getShares());
    auto branch = scf::IfOp::create(b, types, exists, /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.elseBlock());
      Values none(share.width + 2, b.f32(0.0));
      none[0] = b.f32(-1e30);
      scf::YieldOp::create(b, none);
      b.setInsertionPointToStart(branch.thenBlock());
      Value record =
          partialAt(b, op.getPartials(), b.add(op.getPartial(), index), shared);
      Values loaded = loadFloats(
          b, b.at(b.at(record, statsOffset), b.mul(share.query, 8)), 2);
      llvm::append_range(
          loaded,
          loadFloats(b, b.at(record, b.mul(share.element, 4)), share.width));
      scf::YieldOp::create(b, loaded);
    }
    maxima.push_back(branch.getResult(0));
    sums.push_back(branch.getResult(1));
    outputs.push_back(Values(branch.getResults().drop_front(2)));
  }
  Merged merged;
  merged.maximum = before.maximum;
  for (Value maximum : maxima)
    merged.maximum = b.maxF(merged.maximum, maximum);
  Value rescale = b.exp2(b.subF(before.maximum, merged.maximum));
  merged.sum = b.mulF(before.sum, rescale);
  for (Value output : before.outputs)
    merged.outputs.push_back(b.mulF(output, rescale));
  for (int64_t i = 0; i < count; ++i) {
    Value weight = b.exp2(b.subF(maxima[i], merged.maximum));
    merged.sum = b.fma(weight, sums[i], merged.sum);
    for (auto [sum, output] : llvm::zip(merged.outputs, outputs[i]))
      sum = b.fma(weight, output, sum);
  }
  return merged;
}

static SmallVector<Value> mergeShares(LaneBuilder &b, MergeSharesOp op) {
  SharedLayout shared =
      sharedOf(op.getGroup(), op.getHeadDim(), op.getSlotBytes());
  Value last = arriveLast(b, op, shared);
  auto branch = scf::IfOp::create(b, last, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  Share share = Share::of(b, shared);
  ifQuery(b, share, shared, [&] {
    constexpr int64_t kAtOnce = 16;
    SmallVector<Value> init = {b.f32(-1e30), b.f32(0.0)};
    init.append(share.width, b.f32(0.0));
    auto loop =
        scf::ForOp::create(b, b.i32(0), op.getShares(), b.i32(kAtOnce), init);
    {
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(loop.getBody());
      ValueRange carried = loop.getRegionIterArgs();
      Merged before = {carried[0], carried[1], Values(carried.drop_front(2))};
      Merged merged = addShares(b, op, share, shared, loop.getInductionVar(),
                                before, kAtOnce);
      SmallVector<Value> next = {merged.maximum, merged.sum};
      llvm::append_range(next, merged.outputs);
      scf::YieldOp::create(b, next);
    }
    Merged merged = {loop.getResult(0), loop.getResult(1),
                     Values(loop.getResults().drop_front(2))};
    storeResults(b, merged, share, shared, op.getOut(), op.getPair());
  });
  return {};
}

namespace {
class LowerMergesPass
    : public mlir::pmkvq::impl::LowerMergesBase<LowerMergesPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<MergeWarpsOp>(getOperation(), mergeWarps);
    replaceEach<MergeSharesOp>(getOperation(), mergeShares);
  }
};
} // namespace
