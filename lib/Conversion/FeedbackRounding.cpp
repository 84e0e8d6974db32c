//===- FeedbackRounding.cpp - Rounding with feedback ----------------------===//
//
// See FeedbackRounding.h.
//
//===----------------------------------------------------------------------===//

#include "FeedbackRounding.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace mlir::pmkvq;

/// `element`, in a vector as long as `type` if it is one.
static Type like(Type type, Type element) {
  auto vector = dyn_cast<VectorType>(type);
  return vector ? Type(vector.clone(element)) : element;
}

FeedbackRounding::FeedbackRounding(ImplicitLocOpBuilder &b, FormatAttr format,
                                   int64_t from, Value offsetAt2, Value stepAt2)
    : b(b), from(from), partOffset(offsetAt2), partStep(stepAt2) {
  const FormatModel &model = format.getModel();
  Type f32 = b.getF32Type();
  partBefore = constant(f32, model.getPartsOfRange(format, 8).step);
  if (from == 4)
    return;
  auto parts = model.getPartsOfRange(format, from / 2);
  partOffset = constant(f32, parts.offset);
  partStep = constant(f32, parts.step);
}

Value FeedbackRounding::constant(Type type, double value) {
  auto element =
      b.getFloatAttr(cast<FloatType>(getElementTypeOrSelf(type)), value);
  if (auto vector = dyn_cast<VectorType>(type))
    return arith::ConstantOp::create(b,
                                     DenseElementsAttr::get(vector, element));
  return arith::ConstantOp::create(b, element);
}

Value FeedbackRounding::spread(Value scalar, Type type) {
  return isa<VectorType>(type)
             ? vector::BroadcastOp::create(b, type, scalar).getResult()
             : scalar;
}

FeedbackGrid FeedbackRounding::gridOf(Value range) {
  Type type = range.getType();
  auto part = [&](Value of) -> Value {
    return arith::MulFOp::create(b, range, spread(of, type));
  };
  FeedbackGrid grid = {part(partBefore), part(partOffset), part(partStep), {}};
  Value zero = constant(type, 0.0);
  Value isEmpty =
      arith::CmpFOp::create(b, arith::CmpFPredicate::OEQ, range, zero);
  Value inverse = arith::DivFOp::create(b, constant(type, 1.0), grid.step);
  grid.inverse = arith::SelectOp::create(b, isEmpty, zero, inverse);
  return grid;
}

Value FeedbackRounding::targetsOf(Value codes, Value before) {
  Value exact =
      arith::SIToFPOp::create(b, like(codes.getType(), b.getF32Type()), codes);
  // A code of 4 bits stands for what 17 times it stands for at 8.
  if (from == 4)
    exact = arith::MulFOp::create(b, exact, constant(exact.getType(), 17.0));
  return arith::MulFOp::create(b, before, exact);
}

FeedbackRounding::Choice FeedbackRounding::choose(Value target,
                                                  const FeedbackGrid &grid) {
  Type f32 = target.getType();
  Type i32 = like(f32, b.getI32Type());
  Value above = arith::SubFOp::create(b, target, grid.offset);
  Value code = arith::MulFOp::create(b, above, grid.inverse);
  code = arith::MaxNumFOp::create(b, code, constant(f32, 0.0));
  const int64_t highest = (int64_t{1} << from / 2) - 1;
  code = arith::MinNumFOp::create(b, code,
                                  constant(f32, static_cast<double>(highest)));
  // 1.5 * 2^23 rounds to an integer, ties to even, in the low bits.
  Value magic = constant(f32, 12582912.0);
  Value rounded = arith::AddFOp::create(b, code, magic);
  Value bits = arith::BitcastOp::create(b, i32, rounded);
  Value whole = arith::SubFOp::create(b, rounded, magic);
  Value value = math::FmaOp::create(b, grid.step, whole, grid.offset);
  auto mask = b.getIntegerAttr(b.getI32Type(), highest);
  Value low = isa<VectorType>(i32)
                  ? arith::ConstantOp::create(
                        b, DenseElementsAttr::get(cast<VectorType>(i32),
                                                  Attribute(mask)))
                  : arith::ConstantOp::create(b, mask);
  return {arith::AndIOp::create(b, bits, low),
          arith::SubFOp::create(b, value, target)};
}
