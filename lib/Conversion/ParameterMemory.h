//===- ParameterMemory.h - A tile's parameters in memory --------*- C++ -*-===//
//
// Neighbours: LowerCodes.cpp and LowerFeedback.cpp (who use it),
// LaneParameters.h (what widens parameters).  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_PARAMETERMEMORY_H
#define PMKVQ_LIB_CONVERSION_PARAMETERMEMORY_H

#include "LaneParameters.h"
#include "TileBuilder.h"

namespace mlir::pmkvq {

/// Memory of a tile's parameters, one after the other, as they are stored.
///
/// bf16 is moved and widened as integers: LLVM carries vectors of it from block
/// to block as f32, and truncates them by calls (see toBf16Bits).
class ParameterMemory {
public:
  ParameterMemory(TileBuilder &b, TileType type, Value memory)
      : b(b), groups(type.getGroups()),
        count(type.getFormat().getModel().getNumParameters()),
        stored(type.getFormat().getModel().getParameterType()),
        memory(memory ? memory : b.scratch(bytes())) {}

  Value address() const { return memory; }
  int64_t bytes() const { return count * groups * bytesOf(stored); }

  void store(ValueRange values) {
    for (auto [i, value] : llvm::enumerate(values))
      b.store(value, place(i), bytesOf(stored));
  }

  /// Each parameter of all groups, in f32.
  SmallVector<Value> load() {
    SmallVector<Value> values;
    for (int64_t i = 0; i < count; ++i)
      values.push_back(widenParameters(
          b, b.load(vector(elementType()), place(i), bytesOf(stored)), stored));
    return values;
  }

private:
  VectorType vector(Type element) { return VectorType::get({groups}, element); }

  Value place(int64_t parameter) {
    return b.offset(memory, parameter * groups * bytesOf(stored));
  }

  Type elementType() {
    switch (stored) {
    case ParameterType::F16:
      return b.getF16Type();
    case ParameterType::BF16:
      return b.getI16Type();
    case ParameterType::E5M3:
      return b.getI8Type();
    }
    llvm_unreachable("a type of parameters that has no name");
  }

  TileBuilder &b;
  int64_t groups, count;
  ParameterType stored;
  Value memory;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_PARAMETERMEMORY_H
