//===- LowerLazySoftmax.cpp - A maximum that is seldom raised -------------===//
//
// Lowers lazy_softmax.  Neighbours: PMKVQLaneOps.td, UnitLowering.cpp.
//
// Weights are 2^(score - maximum - kHeadroom), so a score may exceed the
// maximum by kHeadroom before its weight exceeds 1.  More headroom means fewer
// raises, but weights become 16-bit integers, and typical ones lose as many
// bits as there is headroom.
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

namespace {
/// Scores of one lane.
struct Scores {
  Values products, factors, bias;
};

struct Weights {
  Values values, packed;
};
} // namespace

static Weights weigh(LaneBuilder &b, const Scores &scores, Value maximum) {
  Weights weights;
  llvm::SmallDenseMap<Value, Value> below;
  Value start = b.addF(maximum, b.f32(kHeadroom));
  for (size_t i = 0; i < scores.products.size(); ++i) {
    Value &bias = below[scores.bias[i]];
    if (!bias)
      bias = b.subF(scores.bias[i], start);
    weights.values.push_back(
        b.exp2(b.fma(scores.products[i], scores.factors[i], bias)));
  }
  for (size_t i = 0; i < weights.values.size(); i += 2)
    weights.packed.push_back(
        b.packHalves(weights.values[i], weights.values[i + 1]));
  return weights;
}

/// Whether a weight of the warp exceeds 1 (or is no number).  Weights are not
/// negative, so their bits compare as integers.
static Value exceedsOne(LaneBuilder &b, const Values &packed) {
  Value largest = packed[0];
  for (Value word : llvm::drop_begin(packed))
    largest = b.maxHalves(largest, word);
  constexpr int64_t kOne = 0x3c00;
  Value high = b.compare(arith::CmpIPredicate::ugt, b.shr(largest, 16), kOne);
  Value low =
      b.compare(arith::CmpIPredicate::ugt, b.andBits(largest, 0xffff), kOne);
  return b.any(arith::OrIOp::create(b, high, low));
}

/// The largest score of query t in the warp, or the maximum so far.
static Value raiseMaximum(LaneBuilder &b, const Scores &scores, Value maximum) {
  Value largest;
  for (size_t i = 0; i < scores.products.size(); ++i) {
    Value score = b.fma(scores.products[i], scores.factors[i], scores.bias[i]);
    largest = largest ? b.maxF(largest, score) : score;
  }
  for (int64_t mask : {4, 8, 16})
    largest = b.maxF(largest, b.shuffleXor(largest, mask));
  return b.maxF(largest, maximum);
}

static SmallVector<Value> lowerSoftmax(LaneBuilder &b, LazySoftmaxOp op) {
  Scores scores = {b.unpack(op.getProducts()), b.unpack(op.getFactors()),
                   b.unpack(op.getBias())};
  Values sums(op.getSums()), outputs = b.unpack(op.getOutputs());
  Weights weights = weigh(b, scores, op.getMaximum());

  // maximum, sums, outputs, weights, packed
  SmallVector<Value> usual = {op.getMaximum()};
  for (const Values *values :
       {&sums, &outputs, &weights.values, &weights.packed})
    llvm::append_range(usual, *values);
  auto branch = scf::IfOp::create(b, ValueRange(usual).getTypes(),
                                  exceedsOne(b, weights.packed),
                                  /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, usual);
    b.setInsertionPointToStart(branch.thenBlock());
    Value maximum = raiseMaximum(b, scores, op.getMaximum());
    Value rescale = b.exp2(b.subF(op.getMaximum(), maximum));
    SmallVector<Value> raised = {maximum};
    for (const Values *values : {&sums, &outputs})
      for (Value value : *values)
        raised.push_back(b.mulF(value, rescale));
    Weights again = weigh(b, scores, maximum);
    llvm::append_range(raised, again.values);
    llvm::append_range(raised, again.packed);
    scf::YieldOp::create(b, raised);
  }
  ValueRange rest = branch.getResults();
  auto take = [&](size_t count) {
    Values values(rest.take_front(count));
    rest = rest.drop_front(count);
    return values;
  };
  SmallVector<Value> results = take(1 + sums.size());
  results.push_back(b.pack(take(outputs.size())));
  results.push_back(b.pack(take(weights.values.size())));
  results.push_back(b.pack(take(weights.packed.size())));
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
