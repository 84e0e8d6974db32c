//===- VerifyShifts.h - Whether codes can be shifted ------------*- C++ -*-===//
//
// One check that ops of both floors share.  Private to lib/IR.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_IR_VERIFYSHIFTS_H
#define PMKVQ_LIB_IR_VERIFYSHIFTS_H

#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// Whether pages of `format` can be lowered from level `from` to `to`; if not,
/// a diagnostic on `op` that cites `constraint`.
LogicalResult verifyShifts(Operation *op, StringRef constraint,
                           FormatAttr format, int64_t from, int64_t to);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_IR_VERIFYSHIFTS_H
