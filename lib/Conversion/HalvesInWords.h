//===- HalvesInWords.h - Two lanes of 16 bits in one word -------*- C++ -*-===//
//
// Arithmetic on vector<2xi16> as arithmetic on i32.  A GPU multiplies and
// shifts words, not halves of them.  Neighbours: PagesToLanes.cpp (who asks),
// Format.h (what formats promise of their shifts).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_HALVESINWORDS_H
#define PMKVQ_LIB_CONVERSION_HALVESINWORDS_H

#include "LaneBuilder.h"

namespace mlir::pmkvq {

/// What `emit` makes of two unsigned halves, none of whose intermediates leaves
/// its half: sums, products with constants and logical shifts become one or two
/// operations on the word; anything else stays on the vector.
/// Shapes: `word` and the result are i32; `emit` takes and gives vector<2xi16>.
Value emitOnHalves(LaneBuilder &b, Value word, function_ref<Value(Value)> emit);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_HALVESINWORDS_H
