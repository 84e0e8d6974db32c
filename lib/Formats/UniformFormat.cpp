//===- UniformFormat.cpp - Asymmetric uniform quantization ----------------===//
//
// Emits the algebra of UniformFormat.h on vectors.  Neighbours: PerChannel.cpp
// and PerToken.cpp, which choose the axis.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Formats/UniformFormat.h"
#include "VectorOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/BuiltinTypes.h"
#include "pmkvq/IR/PMKVQ.h"

using namespace mlir;
using namespace mlir::pmkvq;

FormatModel::~FormatModel() = default;

llvm::SmallVector<Value>
FormatModel::emitShiftedParameters(ImplicitLocOpBuilder &, FormatAttr,
                                   ValueRange, int64_t) const {
  return {};
}

FormatModel::PartsOfRange FormatModel::getPartsOfRange(FormatAttr,
                                                       int64_t) const {
  llvm_unreachable("a format without ranges");
}

Value FormatModel::emitGrid(ImplicitLocOpBuilder &b, FormatAttr, Value codes,
                            int64_t) const {
  auto type = cast<VectorType>(codes.getType()).clone(b.getF32Type());
  return arith::SIToFPOp::create(b, type, codes);
}

/// i1 vector: |half| is neither infinite nor NaN.
static Value isFiniteHalf(ImplicitLocOpBuilder &b, Value half) {
  auto i16 = cast<VectorType>(half.getType()).clone(b.getI16Type());
  Value bits = arith::BitcastOp::create(b, i16, half);
  Value magnitude = arith::AndIOp::create(b, bits, splatInt(b, i16, 0x7fff));
  return arith::CmpIOp::create(b, arith::CmpIPredicate::ult, magnitude,
                               splatInt(b, i16, 0x7c00));
}

FormatModel::Parameters UniformFormat::emitParameters(ImplicitLocOpBuilder &b,
                                                      FormatAttr, Value min,
                                                      Value max) const {
  // Adding 0 turns -0 into 0, so that equal parameters have equal bits.
  min = arith::AddFOp::create(b, min, splat(b, min.getType(), 0.0));
  Value minHalf = roundToHalf(b, min, /*up=*/false);
  Value minBack = arith::ExtFOp::create(b, max.getType(), minHalf);
  Value rangeHalf =
      roundToHalf(b, arith::SubFOp::create(b, max, minBack), /*up=*/true);
  // A non-finite element makes the minimum or the range non-finite.
  Value minIsFinite = isFiniteHalf(b, minHalf);
  Value representable =
      arith::AndIOp::create(b, minIsFinite, isFiniteHalf(b, rangeHalf));
  return {{minHalf, rangeHalf}, representable};
}

Value UniformFormat::emitCode(ImplicitLocOpBuilder &b, FormatAttr, Value x,
                              ValueRange parameters) const {
  Type f32 = x.getType();
  Type i32 = cast<VectorType>(f32).clone(b.getI32Type());
  Value min = parameters[0], range = parameters[1];
  Value scaled = arith::MulFOp::create(b, arith::SubFOp::create(b, x, min),
                                       splat(b, f32, 255.0));
  // scaled / range, rounded once, with one reciprocal for all elements of a
  // group: the remainder of a first quotient is exact, and corrected by it the
  // quotient is off by some 2^-23 of its last bit before it is rounded.  That
  // cannot be on the other side of a midpoint of two floats: a range has 11
  // bits, so quotients stay 2^-12 of their last bit away from those.
  Value reciprocal = arith::DivFOp::create(b, splat(b, f32, 1.0), range);
  Value first = arith::MulFOp::create(b, scaled, reciprocal);
  Value negative = arith::NegFOp::create(b, range);
  Value remainder = math::FmaOp::create(b, negative, first, scaled);
  Value code = math::FmaOp::create(b, remainder, reciprocal, first);
  // Range 0: x equals min, the quotient is NaN, the code 0.
  code = arith::MaxNumFOp::create(b, code, splat(b, f32, 0.0));
  code = arith::MinNumFOp::create(b, code, splat(b, f32, 255.0));
  // 1.5 * 2^23 rounds to an integer, ties to even, in the low bits.
  code = arith::AddFOp::create(b, code, splat(b, f32, 12582912.0));
  return arith::AndIOp::create(b, arith::BitcastOp::create(b, i32, code),
                               splatInt(b, i32, 255));
}

Value UniformFormat::emitShift(ImplicitLocOpBuilder &b, FormatAttr, Value codes,
                               int64_t from) const {
  if (from <= 4)
    return arith::ShRUIOp::create(b, codes,
                                  splatInt(b, codes.getType(), from / 2));
  // The largest intermediate, 241 * 263 = 63,383, fits unsigned 16 bits.
  return equivalentShift(b, codes, from);
}

FormatModel::PartsOfRange UniformFormat::getPartsOfRange(FormatAttr format,
                                                         int64_t level) const {
  double clip = level == 2   ? format.getClip()
                : level == 1 ? kSpreadAtLevel1
                             : 1.0;
  return {(1.0 - clip) / 2, clip / static_cast<double>((1 << level) - 1)};
}

FormatModel::Affine UniformFormat::emitAffine(ImplicitLocOpBuilder &b,
                                              FormatAttr format,
                                              ValueRange parameters,
                                              int64_t level) const {
  Value min = parameters[0], range = parameters[1];
  Type type = range.getType();
  PartsOfRange parts = getPartsOfRange(format, level);
  Value step = arith::MulFOp::create(b, range, splat(b, type, parts.step));
  if (parts.offset == 0)
    return {min, step};
  Value margin = arith::MulFOp::create(b, range, splat(b, type, parts.offset));
  return {arith::AddFOp::create(b, min, margin), step};
}
