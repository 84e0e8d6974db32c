//===- AffineForm.h - A format's algebra as numbers -------------*- C++ -*-===//
//
// Offset and step of a level as linear forms of a group's parameters, read off
// what the format emits.  Neighbours: Format.h (emitAffine),
// DequantizeTiles.cpp (who multiplies f16 parameters, and so must know the
// constants).  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_AFFINEFORM_H
#define PMKVQ_LIB_CONVERSION_AFFINEFORM_H

#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// offset = offset[0] * minimum + offset[1] * range, step = step * range.
struct AffineForm {
  double offset[2];
  double step;
};

/// Errors: a diagnostic on `op` if the format has other parameters, or its
/// offset or step is no such form.
FailureOr<AffineForm> affineForm(Operation *op, FormatAttr format,
                                 int64_t level);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_AFFINEFORM_H
