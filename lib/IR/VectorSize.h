//===- VectorSize.h - Elements of a vector ----------------------*- C++ -*-===//
//
// What verifiers of ops on lanes and on warpgroups compare.  Private to lib/IR.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_IR_VECTORSIZE_H
#define PMKVQ_LIB_IR_VECTORSIZE_H

#include "mlir/IR/BuiltinTypes.h"

namespace mlir::pmkvq {

inline int64_t sizeOf(Type type) {
  return cast<VectorType>(type).getNumElements();
}
inline int64_t sizeOf(Value vector) { return sizeOf(vector.getType()); }

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_IR_VECTORSIZE_H
