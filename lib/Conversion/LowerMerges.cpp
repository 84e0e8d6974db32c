//===- LowerMerges.cpp - States of warps and thread blocks become one -----===//
//
// Lowers merge_warps and merge_warpgroups, and merge_shares by MergeShares.cpp.
// Neighbours: Merging.h, SharedLayout.h and WarpgroupLayout.h (records of warps
// and of warpgroups), DeviceAbi.h (partial results).
//
// This code decides short contexts: it runs once, with nothing beside it to
// hide its latency.  So sizes are constants, indices 32 bits, and there is no
// division but the last.
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "Merging.h"
#include "WarpgroupBuilder.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/SharedLayout.h"
#include "pmkvq/Target/WarpgroupLayout.h"
#include "pmkvq_rt/DeviceAbi.h"
#include <cmath>

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERMERGES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FoldedUnits;
using ::pmkvq::HalfTile;
using ::pmkvq::SharedLayout;
using ::pmkvq::SharedRowsLayout;

static ResultPlace placeOf(MergeWarpgroupsOp op) {
  return {op.getOut(), op.getPair(), static_cast<int64_t>(op.getStride())};
}
static ResultPlace placeOf(MergeWarpsOp op) {
  return {op.getOut(), op.getPair(),
          static_cast<int64_t>(op.getStride().value_or(0))};
}

/// Runs `body` for what lies in shared memory: a share is one access.
static void forShares(LaneBuilder &b, const MergeShape &shared,
                      function_ref<void(const Share &)> body) {
  const int64_t width = shared.elements() > 2 * shared.threads ? 4 : 2;
  forShares(b, shared, width, /*batch=*/1,
            [&](ArrayRef<Share> shares) { body(shares.front()); });
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
                            const MergeShape &shared) {
  Value thread = b.threadId();
  Value warp = b.shr(thread, 5), lane = b.andBits(thread, 31);
  Value g = b.shr(lane, 2), t = b.andBits(lane, 3);
  int64_t perLane = shared.queriesPerLane();
  int64_t count = op.getStates().size() / perLane;
  for (int64_t mine = 0; mine < perLane; ++mine) {
    Values state(op.getStates().slice(mine * count, count));
    Value sum = sumOverTokens(b, state[1]), offset = sumOverTokens(b, state[2]);
    Value query =
        b.add(b.mul(t, shared.laneStride()), SharedLayout::toQuery(mine));
    Value record = shared.recordsInRing
                       ? query
                       : b.add(b.mul(warp, shared.queries()), query);
    Value place = b.add(b.mul(record, shared.recordFloats()), g);
    Value records = shared.recordsInRing
                        ? b.at(op.getShared(), op.getRecord())
                        : b.at(op.getShared(), shared.records());
    Value address = b.at(records, b.mul(place, 4));
    for (int64_t i = 0; i + 3 < count; ++i) {
      Value output = b.addF(state[3 + i], offset);
      b.store(output, b.at(address, i * 32), 4);
    }
    Value first = b.compare(arith::CmpIPredicate::eq, g, 0);
    auto branch = scf::IfOp::create(b, first, /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    Value index = b.add(b.mul(query, SharedLayout::kWarps), warp);
    Value slot = b.at(op.getShared(), b.mul(index, 4));
    b.store(state[0], b.at(slot, shared.maxima()), 4);
    b.store(sum, b.at(slot, shared.sums()), 4);
    if (shared.recordsInRing && mine == 0) {
      Value places = b.at(op.getShared(), shared.places());
      b.store(op.getRecord(), b.at(places, b.shl(warp, 2)), 4);
    }
  }
}

static Merged mergeWarpStates(LaneBuilder &b, Value base, const Share &share,
                              const MergeShape &shared) {
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
  Value records = b.at(base, b.mul(place, 4));
  Values places;
  for (int64_t i = 0; i < kWarps && shared.recordsInRing; i += 4)
    llvm::append_range(places,
                       b.loadWords(b.at(base, shared.places() + i * 4), 4));
  for (int64_t warp = 0; warp < kWarps; ++warp) {
    Value weight = b.exp2(b.subF(maxima[warp], merged.maximum));
    merged.sum = b.fma(weight, sums[warp], merged.sum);
    Value address =
        shared.recordsInRing
            ? b.at(records, places[warp])
            : b.at(records, shared.records() + warp * shared.recordBytes());
    Values outputs = loadFloats(b, address, share.width);
    for (auto [sum, output] : llvm::zip(merged.outputs, outputs))
      sum = b.fma(weight, output, sum);
  }
  return merged;
}

static void storePartial(LaneBuilder &b, const Merged &merged,
                         const Share &share, const MergeShape &shared,
                         Value record) {
  Value sum = positiveSum(b, merged, shared);
  Value inverse = b.reciprocal(sum);
  Value logSum = b.addF(b.log2(sum), merged.maximum);
  auto bits = [&](Value value) { return b.bitcast(value, b.getI32Type()); };
  for (int64_t i = 0; i < share.width; i += 2) {
    Values words = {bits(b.mulF(merged.outputs[i], inverse)),
                    bits(b.mulF(merged.outputs[i + 1], inverse)), bits(logSum),
                    bits(b.f32(rt::kPartialTag))};
    b.storeWhole(words,
                 b.at(record, i / 2 * int64_t{sizeof(rt::PartialRecord)}));
  }
}

/// Stores what all workers of this thread block have: the result, if there is
/// no other share.
template <typename OpTy>
static void storeMerged(LaneBuilder &b, const Merged &merged,
                        const Share &share, const MergeShape &shared, OpTy op) {
  Value alone = b.compare(arith::CmpIPredicate::eq, op.getShares(), 1);
  auto branch = scf::IfOp::create(b, alone, /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  storeResults(b, merged, share, shared, placeOf(op));
  b.setInsertionPointToStart(branch.elseBlock());
  storePartial(b, merged, share, shared,
               recordAt(b, op.getPartials(), op.getPartial(), share, shared));
}

static SmallVector<Value> mergeWarps(LaneBuilder &b, MergeWarpsOp op) {
  MergeShape shared = queriesOf(op);
  shared.slots = 1;
  shared.slotBytes = op.getRingBytes();
  shared.recordsInRing = static_cast<bool>(op.getRecord());
  storeWarpStates(b, op, shared);
  b.barrier();
  forShares(b, shared, [&](const Share &share) {
    ifQuery(b, share, shared, op.getMoreRows(), [&] {
      storeMerged(b, mergeWarpStates(b, op.getShared(), share, shared), share,
                  shared, op);
    });
  });
  return {};
}

//===----------------------------------------------------------------------===//
// Warpgroups
//===----------------------------------------------------------------------===//

static SharedRowsLayout layoutOf(MergeWarpgroupsOp op) {
  SharedRowsLayout layout =
      SharedRowsLayout::of(static_cast<int64_t>(op.getGroup() * op.getRows()));
  layout.warpgroups = static_cast<int64_t>(op.getWarpgroups());
  return layout;
}

/// Each warpgroup leaves outputs, maxima, and sums of its warps.
static void storeWarpgroupStates(LaneBuilder &b, MergeWarpgroupsOp op,
                                 const SharedRowsLayout &layout) {
  Value thread = b.threadId();
  Value warpgroup = b.shr(thread, 7), lane = b.andBits(thread, 31);
  Value warp = b.andBits(b.shr(thread, 5), 3);
  Value g = b.shr(lane, 2), t = b.andBits(lane, 3);
  Values maxima = b.unpack(op.getMaxima()), sums = b.unpack(op.getSums()),
         outputs = b.unpack(op.getOutputs());
  const size_t n = outputs.size();
  const bool folds = static_cast<bool>(op.getOffsets());
  Value records = b.at(op.getShared(), layout.records());
  records = b.at(records, b.mul(warpgroup, layout.recordBytes()));
  Value dim = b.add(b.shl(warp, 5), g);
  Value mine = b.mul(b.shl(t, 1), SharedRowsLayout::kRecordFloats);
  Value first = b.at(records, b.shl(b.add(mine, dim), 2));
  for (size_t i = 0; i < n; ++i) {
    size_t inProduct = i % (n / 2);
    auto query = static_cast<int64_t>(inProduct / 4 * 8 + inProduct % 2);
    auto further =
        static_cast<int64_t>(i / (n / 2) * 16 + inProduct % 4 / 2 * 8);
    int64_t place = query * SharedRowsLayout::kRecordFloats + further;
    double unit = HalfTile::kUnit;
    if (folds)
      unit = std::ldexp(FoldedUnits::kCode,
                        (*op.getExponents())[i / (n / 2) * 2 + i % 4 / 2]);
    b.store(b.mulF(outputs[i], b.f32(1.0 / unit)), b.at(first, place * 4), 4);
  }
  Values offsets;
  if (folds)
    offsets = b.unpack(op.getOffsets());
  for (Values *values : {&sums, &offsets})
    for (Value &value : *values)
      value = sumOverTokens(b, value);
  Value isFirst = b.compare(arith::CmpIPredicate::eq, g, 0);
  auto branch = scf::IfOp::create(b, isFirst, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  Value inWarp = b.add(b.shl(warpgroup, 2), warp);
  for (size_t i = 0; i < sums.size(); ++i) {
    Value query = b.add(b.shl(t, 1), static_cast<int64_t>(i / 2 * 8 + i % 2));
    Value place = b.shl(b.add(b.mul(inWarp, layout.rows), query), 2);
    b.store(sums[i], b.at(b.at(op.getShared(), layout.perWarp()), place), 4);
    if (folds) {
      Value inOrder = b.add(b.mul(warpgroup, layout.rows), query);
      inOrder = b.shl(b.add(b.shl(inOrder, 2), warp), 2);
      b.store(offsets[i],
              b.at(b.at(op.getShared(), layout.warpOffsets()), inOrder), 4);
    }
    // All warps have the same maximum.
    place = b.shl(b.add(b.mul(warpgroup, layout.rows), query), 2);
    b.store(maxima[i], b.at(b.at(op.getShared(), layout.maxima()), place), 4);
  }
}

static Merged mergeWarpgroupStates(LaneBuilder &b, Value base,
                                   const Share &share,
                                   const SharedRowsLayout &layout, bool folds) {
  auto of = [&](int64_t start, int64_t number) {
    Value place = b.shl(b.add(share.query, number * layout.rows), 2);
    return b.load(b.getF32Type(), b.at(b.at(base, start), place), 4);
  };
  Values maxima;
  Merged merged;
  for (int64_t i = 0; i < layout.warpgroups; ++i) {
    maxima.push_back(of(layout.maxima(), i));
    merged.maximum = i ? b.maxF(merged.maximum, maxima.back()) : maxima.back();
  }
  merged.sum = b.f32(0.0);
  merged.outputs.assign(share.width, b.f32(0.0));
  Value place = b.mul(share.query, SharedRowsLayout::kRecordFloats);
  place = b.shl(b.add(place, share.dim), 2);
  for (int64_t i = 0; i < layout.warpgroups; ++i) {
    Value weight = b.exp2(b.subF(maxima[i], merged.maximum));
    for (int64_t warp = 0; warp < 4; ++warp)
      merged.sum =
          b.fma(weight, of(layout.perWarp(), 4 * i + warp), merged.sum);
    Value offset;
    if (folds) {
      Value at = b.shl(b.add(share.query, i * layout.rows), 4);
      for (Value more :
           loadFloats(b, b.at(b.at(base, layout.warpOffsets()), at), 4))
        offset = offset ? b.addF(offset, more) : more;
    }
    Value record = b.at(base, layout.records() + i * layout.recordBytes());
    Values outputs = loadFloats(b, b.at(record, place), share.width);
    for (auto [sum, output] : llvm::zip(merged.outputs, outputs)) {
      if (folds)
        output = b.addF(output, offset);
      sum = b.fma(weight, output, sum);
    }
  }
  return merged;
}

static SmallVector<Value> mergeWarpgroups(LaneBuilder &b,
                                          MergeWarpgroupsOp op) {
  SharedRowsLayout layout = layoutOf(op);
  MergeShape shared;
  shared.group = static_cast<int64_t>(op.getGroup());
  shared.rows = static_cast<int64_t>(op.getRows());
  shared.headDim = HalfTile::kColumns;
  shared.threads = layout.threads();
  storeWarpgroupStates(b, op, layout);
  // Others, that copy, do not wait here.
  WarpgroupBuilder(op.getLoc(), b).syncThreads(b.i32(0), layout.threads());
  forShares(b, shared, [&](const Share &share) {
    ifQuery(b, share, shared, op.getMoreRows(), [&] {
      storeMerged(b,
                  mergeWarpgroupStates(b, op.getShared(), share, layout,
                                       static_cast<bool>(op.getOffsets())),
                  share, shared, op);
    });
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
    replaceEach<MergeWarpgroupsOp>(getOperation(), mergeWarpgroups);
    replaceEach<MergeSharesOp>(getOperation(), mergeShares);
  }
};
} // namespace
