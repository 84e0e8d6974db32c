//===- LaneForms.cpp - Values of the tile form, as a lane has them --------===//
//
// Neighbours: LaneForms.h.
//
//===----------------------------------------------------------------------===//

#include "LaneForms.h"
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
