//===- WeighColumns.cpp - Softmax of a segment's pages --------------------===//
//
// Scores of a page become f16 weights in shared memory, under maxima that
// seldom rise.  Neighbours: SegmentKernel.h, SegmentsToWarpgroups.cpp,
// LowerTileSoftmax.cpp (what the ops become).
//
//===----------------------------------------------------------------------===//

#include "SegmentKernel.h"
#include <array>

using namespace mlir;
using namespace mlir::pmkvq;

/// How far above the largest score a maximum is set, log2.
static constexpr double kColumnHeadroom = 4.0;

namespace {
class ColumnWeighing : SegmentKernel {
public:
  ColumnWeighing(const SegmentKernel &kernel, const PageScores &page,
                 const Values &folding, Value tile)
      : SegmentKernel(kernel), page(page), folding(folding), tile(tile) {}

  void run(ColumnState &state) {
    PageSums sums;
    Value above = storeWeights(state.maxima, sums);
    Value rises = b.syncAny(barrier, SharedRowsLayout::kWarpgroup, above);
    SmallVector<Value> kept;
    for (const Values *values : carried(state, sums))
      llvm::append_range(kept, *values);
    auto branch =
        scf::IfOp::create(b, ValueRange(kept).getTypes(), rises,
                          /*addThenBlock=*/true, /*addElseBlock=*/true);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.elseBlock());
      scf::YieldOp::create(b, kept);
      b.setInsertionPointToStart(branch.thenBlock());
      raise(state, sums);
    }
    ValueRange results = branch.getResults();
    for (Values *values : carried(state, sums))
      for (Value &value : *values) {
        value = results.front();
        results = results.drop_front();
      }
    for (size_t i = 0; i < queriesOfLane(); ++i) {
      state.sums[i] = b.addF(state.sums[i], sums.weights[i]);
      if (folds)
        state.offsets[i] = b.addF(state.offsets[i], sums.offsets[i]);
    }
  }

private:
  /// The lane's sums over one page.
  struct PageSums {
    Values weights, offsets;
  };

  static std::array<Values *, 6> carried(ColumnState &state, PageSums &sums) {
    return {&state.maxima,  &state.sums,    &sums.weights,
            &state.outputs, &state.offsets, &sums.offsets};
  }

  /// Gives whether a weight is too large.
  Value storeWeights(const Values &maxima, PageSums &sums) {
    auto perQuery = b.floats(static_cast<int64_t>(queriesOfLane()));
    // What the page adds to all scores of a query is taken off its maximum.
    Values below(maxima);
    for (auto [maximum, more] : llvm::zip(below, page.more))
      maximum = b.subF(maximum, more);
    auto op = WeighColumnsOp::create(
        b, b.words(shared.rows / 2), perQuery, b.getI1Type(),
        folds ? Type(perQuery) : Type(), b.pack(page.scores), page.factors,
        b.pack(below), folds ? b.pack(folding) : Value());
    StoreWeightsOp::create(b, op.getWords(), warp, lane, tile);
    b.fenceShared();
    sums.weights = b.unpack(op.getSums());
    if (folds)
      sums.offsets = b.unpack(op.getOffsetSums());
    return op.getAbove();
  }

  /// Maxima rise to kColumnHeadroom above the largest score, and the page is
  /// weighed again.  Seldom run but for a segment's first pages.
  void raise(const ColumnState &before, PageSums sums) {
    ColumnState state = before;
    Values largest = largestOfWarps(finalScores());
    Values rescale;
    for (size_t i = 0; i < largest.size(); ++i) {
      Value score = largest[i];
      if (!page.more.empty())
        score = b.addF(score, page.more[i]);
      Value old = state.maxima[i];
      Value isAbove =
          arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, score, old);
      state.maxima[i] =
          b.select(isAbove, b.addF(score, b.f32(kColumnHeadroom)), old);
      rescale.push_back(b.exp2(b.subF(old, state.maxima[i])));
      state.sums[i] = b.mulF(state.sums[i], rescale[i]);
      if (folds)
        state.offsets[i] = b.mulF(state.offsets[i], rescale[i]);
    }
    const size_t count = state.outputs.size() / 2;
    for (size_t i = 0; i < state.outputs.size(); ++i)
      state.outputs[i] =
          b.mulF(state.outputs[i], rescale[i % count / 4 * 2 + i % 2]);
    (void)storeWeights(state.maxima, sums);
    b.syncThreads(barrier, SharedRowsLayout::kWarpgroup);
    SmallVector<Value> yielded;
    for (const Values *values : carried(state, sums))
      llvm::append_range(yielded, *values);
    scf::YieldOp::create(b, yielded);
  }

  /// Scores in units of log2, but for what the page adds to all of a query.
  Values finalScores() {
    Values scores = page.scores;
    for (size_t i = 0; i < scores.size(); ++i)
      scores[i] = b.mulF(scores[i],
                         page.factors[i / (scores.size() / 2) * 2 + i % 4 / 2]);
    return scores;
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

  const PageScores &page;
  const Values &folding;
  Value tile;
};
} // namespace

void mlir::pmkvq::weighColumns(SegmentKernel &kernel, ColumnState &state,
                               const PageScores &scores,
                               const LaneBuilder::Values &folding, Value tile) {
  ColumnWeighing(kernel, scores, folding, tile).run(state);
}
