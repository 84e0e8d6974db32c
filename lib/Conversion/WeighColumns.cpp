//===- WeighColumns.cpp - Softmax of a segment's pages --------------------===//
//
// Scores of a page become f16 weights in shared memory, under maxima that
// seldom rise.  Neighbours: SegmentKernel.h, SegmentsToWarpgroups.cpp,
// LowerTileSoftmax.cpp (what the ops become).
//
//===----------------------------------------------------------------------===//

#include "SegmentKernel.h"

using namespace mlir;
using namespace mlir::pmkvq;

/// How far above the largest score a maximum is set, log2.
static constexpr double kColumnHeadroom = 4.0;

namespace {
class ColumnWeighing : SegmentKernel {
public:
  explicit ColumnWeighing(const SegmentKernel &kernel)
      : SegmentKernel(kernel) {}

  void run(ColumnState &state, const Values &scores, Value tile) {
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

private:
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
      Value score =
          b.mulF(largest[i], b.f32(1.0 / SharedRowsLayout::kScoreUnit));
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
};
} // namespace

void mlir::pmkvq::weighColumns(SegmentKernel &kernel, ColumnState &state,
                               const LaneBuilder::Values &scores, Value tile) {
  ColumnWeighing(kernel).run(state, scores, tile);
}
