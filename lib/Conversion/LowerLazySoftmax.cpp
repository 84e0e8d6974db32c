//===- LowerLazySoftmax.cpp - A maximum that is seldom raised -------------===//
//
// Lowers lazy_softmax.  Neighbours: PMKVQLaneOps.td, UnitLowering.cpp.
//
// Weights are 2^(score - maximum - kHeadroom), so a score may exceed the
// maximum by kHeadroom before its weight exceeds 1.  More headroom means fewer
// raises, but weights become 16-bit integers, and typical ones lose as many
// bits as there is headroom.
//
// No weight exceeds 1 if no sum of four does, and sums are made anyway.  After
// a raise weights are at most 2^-kHeadroom, four of them at most 1: equal
// scores do not raise again and again.  Sums of what is no number are none, so
// that the state tells; comparisons with it raise nothing.
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERLAZYSOFTMAX
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;

static constexpr double kHeadroom = 2.0;
/// Weights that are compared as one sum: 2^kHeadroom.
static constexpr size_t kAtOnce = 4;
/// Rounding may put four equal weights a little above 1 after a raise.
static constexpr double kLimit = 1.0 + 1.0 / 256.0;

namespace {
/// Scores of one query.
struct Scores {
  Values products, factors, biases;
};

struct Weights {
  Values values;
  /// Their sum, and the largest sum of four.
  Value sum, largest;
};
} // namespace

static Weights weigh(LaneBuilder &b, const Scores &scores, Value maximum) {
  Weights weights;
  llvm::SmallDenseMap<Value, Value> below;
  Value start = b.addF(maximum, b.f32(kHeadroom));
  for (size_t i = 0; i < scores.products.size(); ++i) {
    Value &bias = below[scores.biases[i]];
    if (!bias)
      bias = b.subF(scores.biases[i], start);
    weights.values.push_back(
        b.exp2(b.fma(scores.products[i], scores.factors[i], bias)));
  }
  for (size_t i = 0; i < weights.values.size(); i += kAtOnce) {
    auto four =
        ArrayRef<Value>(weights.values).drop_front(i).take_front(kAtOnce);
    Value part = four[0];
    for (Value weight : four.drop_front())
      part = b.addF(part, weight);
    weights.sum = i ? b.addF(weights.sum, part) : part;
    weights.largest = i ? b.maxF(weights.largest, part) : part;
  }
  return weights;
}

/// Whether a sum of the warp exceeds the limit.
static Value exceedsOne(LaneBuilder &b, ArrayRef<Weights> queries) {
  Value largest = queries[0].largest;
  for (const Weights &weights : queries.drop_front())
    largest = b.maxF(largest, weights.largest);
  return b.any(arith::CmpFOp::create(b, arith::CmpFPredicate::OGT, largest,
                                     b.f32(kLimit)));
}

/// The largest score of the query in the warp, or the maximum so far.
static Value raiseMaximum(LaneBuilder &b, const Scores &scores, Value maximum) {
  Value largest;
  for (size_t i = 0; i < scores.products.size(); ++i) {
    Value score =
        b.fma(scores.products[i], scores.factors[i], scores.biases[i]);
    largest = largest ? b.maxF(largest, score) : score;
  }
  for (int64_t mask : {4, 8, 16})
    largest = b.maxF(largest, b.shuffleXor(largest, mask));
  return b.maxF(largest, maximum);
}

static SmallVector<Value> lowerSoftmax(LaneBuilder &b, LazySoftmaxOp op) {
  size_t queries = op.getMaxima().size();
  SmallVector<Scores> scores;
  SmallVector<Weights> weights;
  for (size_t i = 0; i < queries; ++i) {
    scores.push_back({b.unpack(op.getProducts()[i]),
                      b.unpack(op.getFactors()[i]),
                      b.unpack(op.getBiases()[i])});
    weights.push_back(weigh(b, scores[i], op.getMaxima()[i]));
  }
  // For each query: maximum, sum, offset, outputs, weights.
  SmallVector<Value> usual, raised;
  auto append = [&](SmallVector<Value> &to, ArrayRef<Value> state,
                    const Values &outputs, const Weights &w) {
    llvm::append_range(to, state);
    llvm::append_range(to, outputs);
    llvm::append_range(to, w.values);
  };
  for (size_t i = 0; i < queries; ++i)
    append(usual,
           {op.getMaxima()[i], b.addF(op.getSums()[i], weights[i].sum),
            op.getOffsets()[i]},
           b.unpack(op.getOutputs()[i]), weights[i]);
  auto branch = scf::IfOp::create(b, ValueRange(usual).getTypes(),
                                  exceedsOne(b, weights), /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, usual);
    b.setInsertionPointToStart(branch.thenBlock());
    for (size_t i = 0; i < queries; ++i) {
      Value maximum = raiseMaximum(b, scores[i], op.getMaxima()[i]);
      Value rescale = b.exp2(b.subF(op.getMaxima()[i], maximum));
      Weights again = weigh(b, scores[i], maximum);
      Values outputs;
      for (Value output : b.unpack(op.getOutputs()[i]))
        outputs.push_back(b.mulF(output, rescale));
      Value sum = b.fma(op.getSums()[i], rescale, again.sum);
      append(raised, {maximum, sum, b.mulF(op.getOffsets()[i], rescale)},
             outputs, again);
    }
    scf::YieldOp::create(b, raised);
  }
  // Results are grouped by what they are, not by query.
  SmallVector<Value> maxima, sums, offsets, outputs, values;
  ValueRange rest = branch.getResults();
  auto take = [&](size_t count) {
    Values taken(rest.take_front(count));
    rest = rest.drop_front(count);
    return taken;
  };
  for (size_t i = 0; i < queries; ++i) {
    Values state = take(3);
    maxima.push_back(state[0]);
    sums.push_back(state[1]);
    offsets.push_back(state[2]);
    auto size = [](Value vector) {
      return cast<VectorType>(vector.getType()).getNumElements();
    };
    outputs.push_back(b.pack(take(size(op.getOutputs()[i]))));
    values.push_back(b.pack(take(size(op.getProducts()[i]))));
  }
  SmallVector<Value> results;
  for (const auto *group : {&maxima, &sums, &offsets, &outputs, &values})
    llvm::append_range(results, *group);
  return results;
}

namespace {
class LowerLazySoftmaxPass
    : public mlir::pmkvq::impl::LowerLazySoftmaxBase<LowerLazySoftmaxPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<LazySoftmaxOp>(getOperation(), lowerSoftmax);
  }
};
} // namespace
