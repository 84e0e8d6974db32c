//===- RepackWeights.cpp - Weights to operands of the values' product -----===//
//
// Lowers repack_weights and repack_raw_weights.  Neighbours: PMKVQLaneOps.td,
// UnitLowering.cpp.
//
// Accumulators have queries along t, B operands along g: one 8x8 transposition
// of 16-bit elements turns one into the other.  For tokens a = g and c = g + 8
// of a block the word {high a, high c, low a, low c} makes a lane of the result
// hold column g' (query g' / 2, high or low) of tokens 2 t', 2 t' + 8,
// 2 t' + 1, 2 t' + 9: the order of tokens in FragmentLayout.
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_REPACKWEIGHTS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;

/// Integers are at most this, with room below 2^16 for weights a bit above 1.
/// Sums stay below 2^31: a byte of 65000 >> 8 = 253 times 256, times the
/// largest field (255 at 8 bits and 32 tokens, 240 at 4 and 64, 192 at 2 and
/// 128).
static constexpr double kLargest = 65000.0;
/// Below, the largest range counts as this, so that its inverse is finite.
static constexpr double kSmallestRange = 1e-4;

static Value largestRange(LaneBuilder &b, const Values &ranges) {
  Value largest = ranges[0];
  for (Value word : llvm::drop_begin(ranges))
    largest = b.maxHalves(largest, word);
  auto maximum = [&](Value x, Value y) -> Value {
    return arith::MaxUIOp::create(b, x, y);
  };
  Value bits = maximum(b.andBits(largest, 0xffff), b.shr(largest, 16));
  for (int64_t mask : {4, 8, 16})
    bits = maximum(bits, b.shuffleXor(bits, mask));
  return b.maxF(b.half(bits, 0), b.f32(kSmallestRange));
}

static SmallVector<Value> repack(LaneBuilder &b, RepackWeightsOp op) {
  Values weights = b.unpack(op.getWeights()), ranges = b.unpack(op.getRanges());
  Value largest = largestRange(b, ranges);
  Value scale = b.mulF(b.reciprocal(largest), b.f32(kLargest));
  // 2^23: the sum's low bits are the rounded integer.
  Value rounder = b.f32(8388608.0);
  Values operand;
  for (size_t i = 0; i < ranges.size(); ++i) {
    auto integer = [&](int64_t half) {
      Value factor = b.mulF(b.half(ranges[i], half), scale);
      Value sum = b.fma(weights[2 * i + half], factor, rounder);
      return b.bitcast(sum, b.getI32Type());
    };
    // Named, so that every compiler emits them in this order.
    Value low = integer(0), high = integer(1);
    Value word = b.permute(low, high, 0x4051);
    operand.push_back(b.transpose(word));
  }
  return {b.pack(operand), b.mulF(largest, b.f32(1.0 / kLargest))};
}

static SmallVector<Value> repackRaw(LaneBuilder &b, RepackRawWeightsOp op) {
  Values operand;
  for (Value weight : b.unpack(op.getWeights())) {
    Value high = b.packBrainFloats(weight, b.f32(0.0));
    Value rounded = b.bitcast(b.shl(high, 16), b.getF32Type());
    operand.push_back(
        b.transpose(b.packBrainFloats(weight, b.subF(weight, rounded))));
  }
  return {b.pack(operand)};
}

namespace {
class RepackWeightsPass
    : public mlir::pmkvq::impl::RepackWeightsBase<RepackWeightsPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<RepackWeightsOp>(getOperation(), repack);
    replaceEach<RepackRawWeightsOp>(getOperation(), repackRaw);
  }
};
} // namespace
