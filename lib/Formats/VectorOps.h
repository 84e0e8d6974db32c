//===- VectorOps.h - Constants and roundings on vectors ---------*- C++ -*-===//
//
// Small emitters that formats share.  Private to lib/Formats.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_FORMATS_VECTOROPS_H
#define PMKVQ_LIB_FORMATS_VECTOROPS_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace mlir::pmkvq {

/// A constant vector of `type`, every element `value`.
inline Value splat(ImplicitLocOpBuilder &b, Type type, double value) {
  auto vector = cast<VectorType>(type);
  auto element =
      b.getFloatAttr(cast<FloatType>(vector.getElementType()), value);
  return arith::ConstantOp::create(b, DenseElementsAttr::get(vector, element));
}

inline Value splatInt(ImplicitLocOpBuilder &b, Type type, int64_t value) {
  auto vector = cast<VectorType>(type);
  auto element = b.getIntegerAttr(vector.getElementType(), value);
  return arith::ConstantOp::create(b, DenseElementsAttr::get(vector, element));
}

/// (factor * (codes + summand)) >> shift, in the unsigned lanes of `codes`.
inline Value multiplyShift(ImplicitLocOpBuilder &b, Value codes, int64_t factor,
                           int64_t summand, int64_t shift) {
  Type type = codes.getType();
  Value sum = arith::AddIOp::create(b, codes, splatInt(b, type, summand));
  Value product = arith::MulIOp::create(b, sum, splatInt(b, type, factor));
  return arith::ShRUIOp::create(b, product, splatInt(b, type, shift));
}

/// PM-KVQ's equivalent right shift from level `from` = 2b to b:
/// ((2^2b - 2^b + 1) * (code + 2^(b-1))) >> 3b, which is round(code / (2^b +
/// 1)). Source: arXiv 2505.18610, equation 3.
inline Value equivalentShift(ImplicitLocOpBuilder &b, Value codes,
                             int64_t from) {
  int64_t half = from / 2;
  return multiplyShift(b, codes, (int64_t(1) << from) - (1 << half) + 1,
                       1 << (half - 1), 3 * half);
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_FORMATS_VECTOROPS_H
