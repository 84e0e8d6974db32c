//===- Paper.cpp - The format of the paper's own code ---------------------===//
//
// The format `paper`: 16-bit codes from the start, one group a token, scale and
// zero in bf16, the scale rewritten at each level.  Kept as the paper's code
// has it, to be compared with.  Source: PM-KVQ, arXiv 2505.18610, equations 1
// to 3. Neighbours: lib/Reference/Paper.cpp (the same as a specification).
//
//===----------------------------------------------------------------------===//

#include "Formats.h"
#include "VectorOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "pmkvq/IR/PMKVQ.h"

using namespace mlir;
using namespace mlir::pmkvq;

/// bf16 nearest to finite `x`, ties to even, in f32 and as its 16 bits.
/// Arithmetic on the bits: conversion instructions flush denormals.
static std::pair<Value, Value> roundToBf16(ImplicitLocOpBuilder &b, Value x) {
  auto f32 = cast<VectorType>(x.getType());
  auto i32 = f32.clone(b.getI32Type());
  auto i16 = f32.clone(b.getI16Type());
  Value bits = arith::BitcastOp::create(b, i32, x);
  Value sixteen = splatInt(b, i32, 16);
  Value odd = arith::AndIOp::create(b, arith::ShRUIOp::create(b, bits, sixteen),
                                    splatInt(b, i32, 1));
  bits = arith::AddIOp::create(
      b, bits, arith::AddIOp::create(b, odd, splatInt(b, i32, 0x7fff)));
  Value upper = arith::ShRUIOp::create(b, bits, sixteen);
  Value narrow = arith::TruncIOp::create(b, i16, upper);
  Value wide = arith::ShLIOp::create(b, upper, sixteen);
  return {arith::BitcastOp::create(b, f32, wide), narrow};
}

namespace {
class Paper : public FormatModel {
public:
  llvm::StringRef getName() const override { return "paper"; }
  GroupAxis getGroupAxis() const override { return GroupAxis::Token; }
  /// Scale and zero.
  unsigned getNumParameters() const override { return 2; }
  ParameterType getParameterType() const override {
    return ParameterType::BF16;
  }
  int64_t getFirstLevel() const override { return 16; }
  bool rotatesByDefault() const override { return false; }
  bool rewritesParameters() const override { return true; }

  /// scale = max((max - min) / 65535, 1e-5), each step rounded to bf16; zero =
  /// -min.
  Parameters emitParameters(ImplicitLocOpBuilder &b, FormatAttr, Value min,
                            Value max) const override {
    Type f32 = min.getType();
    Value range = roundToBf16(b, arith::SubFOp::create(b, max, min)).first;
    Value scale = arith::DivFOp::create(b, range, splat(b, f32, 65535.0));
    scale = roundToBf16(b, scale).first;
    Value least = roundToBf16(b, splat(b, f32, 1e-5)).first;
    scale = arith::MaxNumFOp::create(b, scale, least);
    Value zero = arith::NegFOp::create(b, min);
    // A non-finite element makes the range non-finite.
    Value infinity = splat(b, f32, std::numeric_limits<double>::infinity());
    Value representable =
        arith::CmpFOp::create(b, arith::CmpFPredicate::OLT, range, infinity);
    return {{roundToBf16(b, scale).second, roundToBf16(b, zero).second},
            representable};
  }

  Value emitCode(ImplicitLocOpBuilder &b, FormatAttr, Value x,
                 ValueRange parameters) const override {
    Type f32 = x.getType();
    Type i32 = cast<VectorType>(f32).clone(b.getI32Type());
    Value offset = arith::AddFOp::create(b, x, parameters[1]);
    Value code = math::RoundEvenOp::create(
        b, arith::DivFOp::create(b, offset, parameters[0]));
    code = arith::MaxNumFOp::create(b, code, splat(b, f32, 0.0));
    code = arith::MinNumFOp::create(b, code, splat(b, f32, 65535.0));
    return arith::FPToSIOp::create(b, i32, code);
  }

  Value emitShift(ImplicitLocOpBuilder &b, FormatAttr, Value codes,
                  int64_t from) const override {
    return equivalentShift(b, codes, from);
  }

  llvm::SmallVector<Value> emitShiftedParameters(ImplicitLocOpBuilder &b,
                                                 FormatAttr,
                                                 ValueRange parameters,
                                                 int64_t from) const override {
    Value factor = splat(b, parameters[0].getType(),
                         static_cast<double>((1 << (from / 2)) + 1));
    Value scale = arith::MulFOp::create(b, parameters[0], factor);
    return {roundToBf16(b, scale).second, roundToBf16(b, parameters[1]).second};
  }

  /// The code decodes as code * scale - zero at every level.
  Affine emitAffine(ImplicitLocOpBuilder &b, FormatAttr, ValueRange parameters,
                    int64_t) const override {
    return {arith::NegFOp::create(b, parameters[1]), parameters[0]};
  }
};
} // namespace

std::unique_ptr<FormatModel> mlir::pmkvq::createPaperFormat() {
  return std::make_unique<Paper>();
}
