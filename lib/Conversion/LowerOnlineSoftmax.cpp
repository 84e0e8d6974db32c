//===- LowerOnlineSoftmax.cpp - Weights against the largest score so far --===//
//
// Lowers online_softmax.  Neighbours: PMKVQLaneOps.td, UnitLowering.cpp.
//
// Why no branch around the rescaling, though few units raise a maximum: it
// would cut a unit in two blocks of instructions, whose latencies hide each
// other worse, and the first unit of every segment would be weighed twice.
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERONLINESOFTMAX
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;

/// A weight is 2^(score - maximum - kHeadroom): half at most.  Maximum and
/// weight round a score differently, by 2^-24 of it; weights stay below 1 for
/// scores of up to 2^23.
static constexpr double kHeadroom = 1.0;

namespace {
/// Scores of one query.
struct Scores {
  Values products, factors, biases;
};
} // namespace

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

static Values weigh(LaneBuilder &b, const Scores &scores, Value maximum) {
  Values weights;
  llvm::SmallDenseMap<Value, Value> below;
  Value start = b.addF(maximum, b.f32(kHeadroom));
  for (size_t i = 0; i < scores.products.size(); ++i) {
    Value &bias = below[scores.biases[i]];
    if (!bias)
      bias = b.subF(scores.biases[i], start);
    weights.push_back(
        b.exp2(b.fma(scores.products[i], scores.factors[i], bias)));
  }
  return weights;
}

/// Four at a time, so that few additions wait for each other.
static Value sumOf(LaneBuilder &b, ArrayRef<Value> weights) {
  constexpr size_t kAtOnce = 4;
  Value sum;
  for (size_t i = 0; i < weights.size(); i += kAtOnce) {
    Value part = weights[i];
    for (Value weight : weights.drop_front(i).take_front(kAtOnce).drop_front())
      part = b.addF(part, weight);
    sum = sum ? b.addF(sum, part) : part;
  }
  return sum;
}

static SmallVector<Value> lowerSoftmax(LaneBuilder &b, OnlineSoftmaxOp op) {
  SmallVector<Value> maxima, sums, offsets, outputs, weights;
  for (size_t i = 0; i < op.getMaxima().size(); ++i) {
    Scores scores;
    scores.products = b.unpack(op.getProducts()[i]);
    scores.factors = b.unpack(op.getFactors()[i]);
    scores.biases = b.unpack(op.getBiases()[i]);
    Value maximum = raiseMaximum(b, scores, op.getMaxima()[i]);
    Value rescale = b.exp2(b.subF(op.getMaxima()[i], maximum));
    Values mine = weigh(b, scores, maximum);
    Value sum = sumOf(b, mine);
    Values rescaled;
    for (Value output : b.unpack(op.getOutputs()[i]))
      rescaled.push_back(b.mulF(output, rescale));
    maxima.push_back(maximum);
    sums.push_back(b.fma(op.getSums()[i], rescale, sum));
    offsets.push_back(b.mulF(op.getOffsets()[i], rescale));
    outputs.push_back(b.pack(rescaled));
    weights.push_back(b.pack(mine));
  }
  // Results are grouped by what they are, not by query.
  SmallVector<Value> results;
  for (const auto *group : {&maxima, &sums, &offsets, &outputs, &weights})
    llvm::append_range(results, *group);
  return results;
}

namespace {
class LowerOnlineSoftmaxPass
    : public mlir::pmkvq::impl::LowerOnlineSoftmaxBase<LowerOnlineSoftmaxPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<OnlineSoftmaxOp>(getOperation(), lowerSoftmax);
  }
};
} // namespace
