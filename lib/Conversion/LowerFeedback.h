//===- LowerFeedback.h - Shifts with feedback on the CPU --------*- C++ -*-===//
//
// Neighbours: LowerCodes.cpp (which calls it), FeedbackRounding.h (the
// arithmetic).  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_LOWERFEEDBACK_H
#define PMKVQ_LIB_CONVERSION_LOWERFEEDBACK_H

#include "TileBuilder.h"

namespace mlir::pmkvq {

/// Puts a page's keys at 8 or 4 bits to half of it, in the memory of `source`,
/// whose first half of blocks the result has.
/// `feedback`: the address of what the kv head's keys fall with (Abi.h).
void shiftWithFeedback(TileBuilder &b, TileType from, const TileFields &source,
                       Value feedback);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_LOWERFEEDBACK_H
