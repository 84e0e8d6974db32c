//===- Rounding.h - Roundings to fp16 ---------------------------*- C++ -*-===//
//
// Private to lib/Formats.  Neighbours: UniformFormat.cpp (which defines it).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_FORMATS_ROUNDING_H
#define PMKVQ_LIB_FORMATS_ROUNDING_H

#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace mlir::pmkvq {

/// fp16 nearest to `x`, an f32 vector, moved one step down (or up) where
/// rounding went the other way.
Value roundToHalf(ImplicitLocOpBuilder &b, Value x, bool up);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_FORMATS_ROUNDING_H
