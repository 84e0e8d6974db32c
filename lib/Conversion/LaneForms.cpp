//===- LaneForms.cpp - Values of the tile form, as a lane has them --------===//
//
// Neighbours: LaneForms.h, UnitLowering.h (states).
//
//===----------------------------------------------------------------------===//

#include "LaneForms.h"
#include "UnitLowering.h"
#include "llvm/ADT/DenseMap.h"

using namespace mlir;
using namespace mlir::pmkvq;

void Affine::multiply(LaneBuilder &b, function_ref<Value(size_t)> factor) {
  for (size_t i = 0; i < products.size(); ++i) {
    Value by = factor(i);
    auto times = [&](Value &value, bool isOne) {
      value = value ? b.mulF(value, by) : isOne ? by : value;
    };
    times(factors[i], /*isOne=*/true);
    times(bias[i], /*isOne=*/false);
  }
}

void Affine::addBias(LaneBuilder &b, function_ref<Value(size_t)> more) {
  for (size_t i = 0; i < products.size(); ++i)
    bias[i] = bias[i] ? b.addF(bias[i], more(i)) : more(i);
}

void Affine::scaleFactors(LaneBuilder &b, Value by) {
  llvm::SmallDenseMap<Value, Value> done;
  Value zero = b.f32(0.0);
  for (size_t i = 0; i < products.size(); ++i) {
    auto times = [&](Value value) {
      Value &result = done[value];
      if (!result)
        result = b.mulF(value, by);
      return result;
    };
    factors[i] = factors[i] ? times(factors[i]) : by;
    bias[i] = bias[i] ? times(bias[i]) : zero;
  }
}

LaneState LaneState::initial(LaneBuilder &b, int64_t headDim) {
  Value zero = b.f32(0.0);
  // Finite, so that the difference of two such maxima is no NaN.
  return {b.f32(-1e30), zero, zero, LaneBuilder::Values(headDim / 8, zero)};
}

void LaneState::append(SmallVectorImpl<Value> &to) const {
  llvm::append_range(to, ArrayRef<Value>{maximum, sum, offset});
  llvm::append_range(to, outputs);
}

LaneState LaneState::take(ValueRange &from, int64_t headDim) {
  LaneState state = {from[0], from[1], from[2], {}};
  state.outputs = LaneBuilder::Values(from.slice(3, headDim / 8));
  from = from.drop_front(3 + headDim / 8);
  return state;
}
