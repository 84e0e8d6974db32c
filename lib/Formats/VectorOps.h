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

/// fp16 nearest to `x`, an f32 vector, moved one step down (or up) where
/// rounding went the other way.  Arithmetic on the bits: fp16 values of one
/// sign are ordered as their bits are.
inline Value roundToHalf(ImplicitLocOpBuilder &b, Value x, bool up) {
  auto f32 = cast<VectorType>(x.getType());
  auto f16 = f32.clone(b.getF16Type());
  auto i16 = f32.clone(b.getI16Type());
  Value half = arith::TruncFOp::create(b, f16, x);
  Value back = arith::ExtFOp::create(b, f32, half);
  Value wrong = arith::CmpFOp::create(
      b, up ? arith::CmpFPredicate::OLT : arith::CmpFPredicate::OGT, back, x);

  Value bits = arith::BitcastOp::create(b, i16, half);
  Value zero = splatInt(b, i16, 0);
  Value negative =
      arith::CmpIOp::create(b, arith::CmpIPredicate::slt, bits, zero);
  // Away from zero is bits + 1, towards zero bits - 1; from either zero the
  // step leads to the smallest denormal of the wanted sign.
  Value away = arith::AddIOp::create(b, bits, splatInt(b, i16, 1));
  Value towards = arith::SubIOp::create(b, bits, splatInt(b, i16, 1));
  Value stepped = up ? arith::SelectOp::create(b, negative, towards, away)
                     : arith::SelectOp::create(b, negative, away, towards);
  Value magnitude = arith::AndIOp::create(b, bits, splatInt(b, i16, 0x7fff));
  Value isZero =
      arith::CmpIOp::create(b, arith::CmpIPredicate::eq, magnitude, zero);
  Value smallest = splatInt(b, i16, up ? 0x0001 : -0x7fff);
  stepped = arith::SelectOp::create(b, isZero, smallest, stepped);
  Value result = arith::SelectOp::create(b, wrong, stepped, bits);
  return arith::BitcastOp::create(b, f16, result);
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_FORMATS_VECTOROPS_H
