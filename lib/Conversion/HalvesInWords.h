//===- HalvesInWords.h - Two lanes of 16 bits in one word -------*- C++ -*-===//
//
// Arithmetic on vector<2xi16> as arithmetic on i32.  A GPU multiplies and
// shifts words, not halves of them.  Neighbours: PagesToLanes.cpp and
// ShiftCodes.cpp (who ask), Format.h (what formats promise of their shifts).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_HALVESINWORDS_H
#define PMKVQ_LIB_CONVERSION_HALVESINWORDS_H

#include "LaneBuilder.h"
#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// What `emit` makes of two unsigned halves, none of whose intermediates leaves
/// its half: sums, products with constants and logical shifts become one or two
/// operations on the word; anything else stays on the vector.
/// Shapes: `word` and the result are i32; `emit` takes and gives vector<2xi16>.
Value emitOnHalves(LaneBuilder &b, Value word, function_ref<Value(Value)> emit);

/// Four codes of `format`, a byte each, from level `from` to half of it.
Value emitShiftOfBytes(LaneBuilder &b, FormatAttr format, Value word,
                       int64_t from);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_HALVESINWORDS_H
