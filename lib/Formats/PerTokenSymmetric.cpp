//===- PerTokenSymmetric.cpp - A range in a byte per token ----------------===//
//
// The format `per_token_symmetric`: the head dims of a token share one range
// that lies evenly around 0, in one byte (E5M3, rounded up).  All else is
// UniformFormat with -range / 2 as the minimum.  For rotated values, whose
// middle is near 0: at head_dim 128 a value takes 0.0625 bits of parameters
// where per_token takes 0.25.  Neighbours: UniformFormat.h.
//
//===----------------------------------------------------------------------===//

#include "Formats.h"
#include "VectorOps.h"
#include "pmkvq/Formats/UniformFormat.h"
#include "pmkvq/IR/PMKVQ.h"

using namespace mlir;
using namespace mlir::pmkvq;

/// Minimum and range of a range.
static std::array<Value, 2> aroundZero(ImplicitLocOpBuilder &b, Value range) {
  return {arith::MulFOp::create(b, range, splat(b, range.getType(), -0.5)),
          range};
}

namespace {
class PerTokenSymmetric : public UniformFormat {
  llvm::StringRef getName() const override { return "per_token_symmetric"; }
  GroupAxis getGroupAxis() const override { return GroupAxis::Token; }
  unsigned getNumParameters() const override { return 1; }
  ParameterType getParameterType() const override {
    return ParameterType::E5M3;
  }

  Parameters emitParameters(ImplicitLocOpBuilder &b, FormatAttr, Value min,
                            Value max) const override {
    // MaximumF: a NaN stays one.
    Value largest =
        arith::MaximumFOp::create(b, max, arith::NegFOp::create(b, min));
    Value range = arith::AddFOp::create(b, largest, largest);
    auto i16 = cast<VectorType>(min.getType()).clone(b.getI16Type());
    Value bits =
        arith::BitcastOp::create(b, i16, roundToHalf(b, range, /*up=*/true));
    // fp16's mantissa has 7 bits more.
    Value up = arith::AddIOp::create(b, bits, splatInt(b, i16, 127));
    Value upper = arith::ShRUIOp::create(b, up, splatInt(b, i16, 7));
    constexpr int64_t infinity = 0xf8;
    Value representable = arith::CmpIOp::create(
        b, arith::CmpIPredicate::ult, upper, splatInt(b, i16, infinity));
    return {{arith::TruncIOp::create(b, i16.clone(b.getI8Type()), upper)},
            representable};
  }

  Value emitCode(ImplicitLocOpBuilder &b, FormatAttr format, Value x,
                 ValueRange parameters) const override {
    return UniformFormat::emitCode(b, format, x,
                                   aroundZero(b, parameters.front()));
  }

  Affine emitAffine(ImplicitLocOpBuilder &b, FormatAttr format,
                    ValueRange parameters, int64_t level) const override {
    return UniformFormat::emitAffine(b, format,
                                     aroundZero(b, parameters.front()), level);
  }
};
} // namespace

std::unique_ptr<FormatModel> mlir::pmkvq::createPerTokenSymmetricFormat() {
  return std::make_unique<PerTokenSymmetric>();
}
