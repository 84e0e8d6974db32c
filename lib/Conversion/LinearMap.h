//===- LinearMap.h - Places that are linear in the bits of a number -*- C++
//-*-=//
//
// Emits f(x) of a lane's number x, for a function that a layout gives on the
// host.  Neighbours: FragmentLayout.h (such functions), PagesToLanes.cpp and
// AppendToLanes.cpp (who asks).
//
// Mental model.  Orders of codes permute bits: f(x) is f(0) plus what each bit
// of x that is set adds.  Runs of neighbouring bits whose places double move
// together, so a map of n bits costs a shift and a mask a run.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_LINEARMAP_H
#define PMKVQ_LIB_CONVERSION_LINEARMAP_H

#include "LaneBuilder.h"
#include "llvm/Support/MathExtras.h"
#include <cassert>
#include <cstdint>

namespace mlir::pmkvq {

/// f(x) - f(0), an i32, for x in 0 .. size - 1.
/// Shapes: `x` is an i32; `size` is the number of values that x takes.
template <typename Function>
Value emitLinear(LaneBuilder &b, Value x, int64_t size, Function f) {
  auto of = [&](int64_t value) { return int64_t{f(value)} - int64_t{f(0)}; };
#ifndef NDEBUG
  for (int64_t i = 0; i < size; ++i) {
    int64_t sum = 0;
    for (int64_t bit = 1; bit < size; bit *= 2)
      sum += i & bit ? of(bit) : 0;
    assert(sum == of(i) && "not linear in the bits");
  }
#endif
  Value result = b.i32(0);
  for (int64_t bit = 1; bit < size;) {
    int64_t place = of(bit), end = bit * 2;
    while (end < size && of(end) == place * (end / bit))
      end *= 2;
    if (place != 0) {
      Value run = b.andBits(x, end - bit);
      result =
          b.add(result, place % bit == 0
                            ? b.mul(run, place / bit)
                            : b.mul(b.shr(run, llvm::Log2_64(bit)), place));
    }
    bit = end;
  }
  return result;
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_LINEARMAP_H
