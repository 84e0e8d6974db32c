//===- VerifyProgram.h - Ops on caches that fit together --------*- C++ -*-===//
//
// What verifiers of single ops cannot see: a program has one cache type, one
// description, and caches that are used in order.  Neighbours: PMKVQToTile.cpp
// (which lowers what passes).  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_VERIFYPROGRAM_H
#define PMKVQ_LIB_CONVERSION_VERIFYPROGRAM_H

#include "mlir/IR/BuiltinOps.h"
#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// The ops on whole caches of a module, in its order.
struct CacheOps {
  SmallVector<CreateOp> creates;
  SmallVector<AppendOp> appends;
  SmallVector<AttendOp> attends;
  /// flush and requantize.
  SmallVector<Operation *> pageOps;
};

CacheOps collectCacheOps(ModuleOp module);

/// Checks that
///  - every cache is planned, and all are of one type but for clips;
///  - formats have groups of whole axes;
///  - creates lie in one function of their own, in the order of layers, and
///    agree; flush and requantize have a function each;
///  - no cache is used after an append to it: there is no copy to use;
///  - all attends have as many query heads;
///  - `@step`, if there are creates, takes and gives back one cache a layer, in
///    order.
/// Errors: a diagnostic on the op.
LogicalResult verifyProgram(ModuleOp module, const CacheOps &ops);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_VERIFYPROGRAM_H
