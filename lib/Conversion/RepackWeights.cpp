//===- RepackWeights.cpp - Weights to operands of the values' product -----===//
//
// Lowers repack_weights and repack_raw_weights.  Neighbours: PMKVQLaneOps.td,
// UnitLowering.cpp.
//
// Accumulators have queries along t, B operands along g: one 8x8 transposition
// of 16-bit elements turns one into the other.  Of bytes, an element is what
// tokens g and g + 8 of a block have of a column: a lane of the result holds
// column g' of tokens 2 t', 2 t' + 8, 2 t' + 1, 2 t' + 9, the order of
// FragmentLayout.
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

/// Integers are at most this times the largest weight, which the softmax keeps
/// below 1: two bytes.
static constexpr double kLargestWeight = 65000.0;
/// 2^23: a sum's low bits are the rounded integer.
static constexpr uint32_t kRounderBits = 0x4b000000;
/// Where all ranges are zero the largest counts as this, f16's smallest number,
/// so that its inverse is finite.
static constexpr double kSmallestRange = 0x1p-24;

static Value largestRange(LaneBuilder &b, const Values &ranges) {
  Value largest = ranges[0];
  for (Value word : llvm::drop_begin(ranges))
    largest = b.maxHalves(largest, word);
  auto maximum = [&](Value x, Value y) -> Value {
    return arith::MaxUIOp::create(b, x, y);
  };
  Value low = b.andBits(largest, 0xffff);
  Value bits = maximum(low, b.shr(largest, 16));
  for (int64_t mask : {4, 8, 16})
    bits = maximum(bits, b.shuffleXor(bits, mask));
  return b.maxF(b.half(bits, 0), b.f32(kSmallestRange));
}

/// The sum of `integers`, each with the bits of 2^23 above it.
static Value sumIntegers(LaneBuilder &b, const Values &integers) {
  Value sum = integers[0];
  for (Value integer : llvm::drop_begin(integers))
    sum = b.add(sum, integer);
  auto above = static_cast<uint32_t>(integers.size()) * kRounderBits;
  return b.toF32(b.sub(sum, b.i32(static_cast<int32_t>(above))));
}

static SmallVector<Value> repack(LaneBuilder &b, RepackWeightsOp op) {
  Values ranges = b.unpack(op.getRanges());
  Value largest = largestRange(b, ranges);
  Value scale = b.mulF(b.reciprocal(largest), b.f32(kLargestWeight));
  Value rounder = b.bitcast(b.i32(kRounderBits), b.getF32Type());
  Values factors;
  for (Value word : ranges)
    for (int64_t half : {0, 1})
      factors.push_back(b.mulF(b.half(word, half), scale));
  // [query][block] {high of token g, of g + 8, low of g, of g + 8}.
  SmallVector<Values> words;
  Values sums;
  for (Value operand : op.getWeights()) {
    Values weights = b.unpack(operand), integers;
    for (auto [weight, factor] : llvm::zip(weights, factors))
      integers.push_back(
          b.bitcast(b.fma(weight, factor, rounder), b.getI32Type()));
    Values &mine = words.emplace_back();
    for (size_t i = 0; i < integers.size(); i += 2)
      mine.push_back(b.permute(integers[i], integers[i + 1], 0x4051));
    sums.push_back(sumIntegers(b, integers));
  }
  SmallVector<Values> columns(words.size());
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (words.size() == 1) {
      columns[0].push_back(b.transpose(words[0][i]));
      continue;
    }
    // Of each set two queries' high, then their low bytes.
    for (size_t set = 0; set < words.size(); set += 2)
      for (auto [operand, selector] : {std::pair(0, 0x5410), {1, 0x7632}})
        columns[set + operand].push_back(
            b.transpose(b.permute(words[set][i], words[set + 1][i], selector)));
  }
  SmallVector<Value> results;
  for (const Values &operand : columns)
    results.push_back(b.pack(operand));
  Value inverse = b.mulF(largest, b.f32(1.0 / kLargestWeight));
  results.push_back(inverse);
  for (Value sum : sums)
    results.push_back(b.mulF(sum, inverse));
  return results;
}

static SmallVector<Value> repackRaw(LaneBuilder &b, RepackRawWeightsOp op) {
  SmallVector<Values> weights, columns(op.getColumns().size());
  for (Value operand : op.getWeights())
    weights.push_back(b.unpack(operand));
  auto rest = [&](Value weight) -> Value {
    Value high = b.packBrainFloats(weight, b.f32(0.0));
    Value rounded = b.bitcast(b.shl(high, 16), b.getF32Type());
    return b.subF(weight, rounded);
  };
  for (size_t i = 0; i < weights[0].size(); ++i) {
    if (weights.size() == 1) {
      Value weight = weights[0][i];
      columns[0].push_back(
          b.transpose(b.packBrainFloats(weight, rest(weight))));
      continue;
    }
    for (size_t set = 0; set < weights.size(); set += 2) {
      Value first = weights[set][i], firstRest = rest(first);
      Value second = weights[set + 1][i], secondRest = rest(second);
      columns[set].push_back(b.transpose(b.packBrainFloats(first, second)));
      columns[set + 1].push_back(
          b.transpose(b.packBrainFloats(firstRest, secondRest)));
    }
  }
  SmallVector<Value> results;
  for (const Values &operand : columns)
    results.push_back(b.pack(operand));
  return results;
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
