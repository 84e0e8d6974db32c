//===- StepBuilder.cpp - The tensor ops of a decoder ----------------------===//
//
// Neighbours: StepBuilder.h.
//
//===----------------------------------------------------------------------===//

#include "StepBuilder.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;

//===----------------------------------------------------------------------===//
// Small things
//===----------------------------------------------------------------------===//

static RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

static int64_t lastSize(Value value) { return typeOf(value).getShape().back(); }

static Value toF32(OpBuilder &b, Location loc, Value x) {
  if (x.getType().isF32())
    return x;
  return arith::ExtFOp::create(b, loc, b.getF32Type(), x);
}

static Value constantF32(OpBuilder &b, Location loc, double value) {
  return arith::ConstantOp::create(
      b, loc, b.getF32FloatAttr(static_cast<float>(value)));
}

void StepBuilder::setRows(Value tensor) {
  rows = tensor::DimOp::create(b, tensor, 0);
}

Value StepBuilder::empty(ArrayRef<int64_t> sizes) {
  SmallVector<OpFoldResult> shape = {rows};
  for (int64_t size : sizes)
    shape.push_back(b.getIndexAttr(size));
  return tensor::EmptyOp::create(b, shape, b.getF32Type());
}

Value StepBuilder::zeros(Value into) {
  Value zero = constantF32(b, b.getLoc(), 0);
  return linalg::FillOp::create(b, zero, into).getResult(0);
}

Value StepBuilder::zeros(int64_t columns) { return zeros(empty({columns})); }

Value StepBuilder::elementwise(ValueRange inputs,
                               ArrayRef<SmallVector<int64_t>> dims, Value init,
                               Body body) {
  int64_t rank = typeOf(init).getRank();
  SmallVector<AffineMap> maps;
  for (ArrayRef<int64_t> inputDims : dims) {
    SmallVector<AffineExpr> exprs;
    for (int64_t dim : inputDims)
      exprs.push_back(b.getAffineDimExpr(dim));
    maps.push_back(AffineMap::get(rank, 0, exprs, b.getContext()));
  }
  maps.push_back(b.getMultiDimIdentityMap(rank));
  SmallVector<utils::IteratorType> iterators(rank,
                                             utils::IteratorType::parallel);
  auto generic = linalg::GenericOp::create(
      b, TypeRange(init.getType()), inputs, ValueRange(init), maps, iterators,
      [&](OpBuilder &builder, Location loc, ValueRange arguments) {
        Value result = body(builder, loc, arguments);
        linalg::YieldOp::create(builder, loc, result);
      });
  return generic.getResult(0);
}

//===----------------------------------------------------------------------===//
// Embedding and linear layers
//===----------------------------------------------------------------------===//

Value StepBuilder::gatherRows(Value table, Value ids) {
  Value init = empty({lastSize(table)});
  return elementwise(
      ids, {{0}}, init, [&](OpBuilder &b, Location loc, ValueRange arguments) {
        Value row =
            arith::IndexCastOp::create(b, loc, b.getIndexType(), arguments[0]);
        Value column = linalg::IndexOp::create(b, loc, 1);
        Value x =
            tensor::ExtractOp::create(b, loc, table, ValueRange{row, column});
        return toF32(b, loc, x);
      });
}

Value StepBuilder::linear(Value x, Value weight, Value init) {
  return linalg::MatmulTransposeBOp::create(
             b, b.getLoc(), TypeRange(init.getType()), ValueRange{x, weight},
             ValueRange(init))
      ->getResult(0);
}

Value StepBuilder::broadcastBias(Value bias) {
  Value init = empty({lastSize(bias)});
  return elementwise(bias, {{1}}, init,
                     [](OpBuilder &b, Location loc, ValueRange arguments) {
                       return toF32(b, loc, arguments[0]);
                     });
}

Value StepBuilder::addBias(Value x, Value bias) {
  Value init = empty({lastSize(x)});
  return elementwise(
      {x, bias}, {{0, 1}, {1}}, init,
      [](OpBuilder &b, Location loc, ValueRange arguments) -> Value {
        return arith::AddFOp::create(b, loc, arguments[0],
                                     toF32(b, loc, arguments[1]));
      });
}

//===----------------------------------------------------------------------===//
// RMS norm
//===----------------------------------------------------------------------===//

Value StepBuilder::sumOfSquares(Value x) {
  Value init = zeros(empty({}));
  AffineMap both = b.getMultiDimIdentityMap(2);
  AffineMap row = AffineMap::get(2, 0, b.getAffineDimExpr(0));
  auto generic = linalg::GenericOp::create(
      b, TypeRange(init.getType()), ValueRange(x), ValueRange(init),
      ArrayRef<AffineMap>{both, row},
      ArrayRef<utils::IteratorType>{utils::IteratorType::parallel,
                                    utils::IteratorType::reduction},
      [](OpBuilder &b, Location loc, ValueRange arguments) {
        Value square =
            arith::MulFOp::create(b, loc, arguments[0], arguments[0]);
        Value sum = arith::AddFOp::create(b, loc, arguments[1], square);
        linalg::YieldOp::create(b, loc, sum);
      });
  return generic.getResult(0);
}

Value StepBuilder::inverseRms(Value x, double eps) {
  double columns = static_cast<double>(lastSize(x));
  Value init = empty({});
  return elementwise(
      sumOfSquares(x), {{0}}, init,
      [&](OpBuilder &b, Location loc, ValueRange arguments) -> Value {
        Value mean = arith::DivFOp::create(b, loc, arguments[0],
                                           constantF32(b, loc, columns));
        Value sum =
            arith::AddFOp::create(b, loc, mean, constantF32(b, loc, eps));
        return math::RsqrtOp::create(b, loc, sum);
      });
}

Value StepBuilder::rmsNorm(Value x, Value weight, double eps) {
  Value scale = inverseRms(x, eps);
  Value init = empty({lastSize(x)});
  return elementwise(
      {x, scale, weight}, {{0, 1}, {0}, {1}}, init,
      [](OpBuilder &b, Location loc, ValueRange arguments) -> Value {
        Value scaled =
            arith::MulFOp::create(b, loc, arguments[0], arguments[1]);
        return arith::MulFOp::create(b, loc, scaled,
                                     toF32(b, loc, arguments[2]));
      });
}

//===----------------------------------------------------------------------===//
// SwiGLU
//===----------------------------------------------------------------------===//

Value StepBuilder::swiGLU(Value gate, Value up) {
  Value init = empty({lastSize(gate)});
  return elementwise(
      {gate, up}, {{0, 1}, {0, 1}}, init,
      [](OpBuilder &b, Location loc, ValueRange arguments) -> Value {
        Value negated = arith::NegFOp::create(b, loc, arguments[0]);
        Value exp = math::ExpOp::create(b, loc, negated);
        Value sum = arith::AddFOp::create(b, loc, exp, constantF32(b, loc, 1));
        Value silu = arith::DivFOp::create(b, loc, arguments[0], sum);
        return arith::MulFOp::create(b, loc, silu, arguments[1]);
      });
}

//===----------------------------------------------------------------------===//
// RoPE
//===----------------------------------------------------------------------===//

/// theta^(-2i / headDim), rounded to f32 where PyTorch rounds.
static DenseElementsAttr inverseFrequencies(Builder &b, double theta,
                                            int64_t headDim) {
  SmallVector<float> values;
  for (int64_t i = 0; i < headDim; i += 2) {
    float exponent = static_cast<float>(i) / static_cast<float>(headDim);
    values.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  auto type = RankedTensorType::get({headDim / 2}, b.getF32Type());
  return DenseElementsAttr::get(type, ArrayRef<float>(values));
}

template <typename MathOp>
static Value turned(OpBuilder &b, Location loc, ValueRange arguments) {
  Value position =
      arith::SIToFPOp::create(b, loc, b.getF32Type(), arguments[0]);
  Value angle = arith::MulFOp::create(b, loc, position, arguments[1]);
  return MathOp::create(b, loc, angle);
}

StepBuilder::Angles StepBuilder::ropeAngles(Value positions, double theta,
                                            int64_t headDim) {
  Value frequencies =
      arith::ConstantOp::create(b, inverseFrequencies(b, theta, headDim));
  SmallVector<SmallVector<int64_t>> dims = {{0}, {1}};
  Value inputs[] = {positions, frequencies};
  Value cos =
      elementwise(inputs, dims, empty({headDim / 2}), turned<math::CosOp>);
  Value sin =
      elementwise(inputs, dims, empty({headDim / 2}), turned<math::SinOp>);
  return {cos, sin};
}

/// Offsets, sizes and strides of one half of the last dimension of `x`.
static std::array<SmallVector<OpFoldResult>, 3>
halfSlice(OpBuilder &b, Value x, Value rows, bool upper) {
  ArrayRef<int64_t> shape = typeOf(x).getShape();
  int64_t half = shape[2] / 2;
  OpFoldResult zero = b.getIndexAttr(0), one = b.getIndexAttr(1);
  return {{{zero, zero, b.getIndexAttr(upper ? half : 0)},
           {rows, b.getIndexAttr(shape[1]), b.getIndexAttr(half)},
           {one, one, one}}};
}

Value StepBuilder::half(Value x, bool upper) {
  auto [offsets, sizes, strides] = halfSlice(b, x, rows, upper);
  return tensor::ExtractSliceOp::create(b, x, offsets, sizes, strides);
}

Value StepBuilder::withHalf(Value x, Value half, bool upper) {
  auto [offsets, sizes, strides] = halfSlice(b, x, rows, upper);
  return tensor::InsertSliceOp::create(b, half, x, offsets, sizes, strides);
}

/// Writes x * cos - y * sin, for the upper half x * cos + y * sin, into one
/// half of `into`, in place.
Value StepBuilder::ropeHalf(Value into, Value x, Value y, const Angles &angles,
                            bool upper) {
  Value result = elementwise(
      {x, y, angles.cos, angles.sin}, {{0, 1, 2}, {0, 1, 2}, {0, 2}, {0, 2}},
      half(into, upper),
      [&](OpBuilder &b, Location loc, ValueRange arguments) -> Value {
        Value along = arith::MulFOp::create(b, loc, arguments[0], arguments[2]);
        Value across =
            arith::MulFOp::create(b, loc, arguments[1], arguments[3]);
        if (upper)
          return arith::AddFOp::create(b, loc, along, across);
        return arith::SubFOp::create(b, loc, along, across);
      });
  return withHalf(into, result, upper);
}

Value StepBuilder::rope(Value x, const Angles &angles) {
  ArrayRef<int64_t> shape = typeOf(x).getShape();
  Value lower = half(x, false), upper = half(x, true);
  Value result = empty(shape.drop_front());
  result = ropeHalf(result, lower, upper, angles, false);
  return ropeHalf(result, upper, lower, angles, true);
}

//===----------------------------------------------------------------------===//
// Heads
//===----------------------------------------------------------------------===//

Value StepBuilder::splitHeads(Value x, int64_t heads) {
  int64_t headDim = lastSize(x) / heads;
  auto type = RankedTensorType::get({ShapedType::kDynamic, heads, headDim},
                                    b.getF32Type());
  SmallVector<ReassociationIndices> groups = {{0}, {1, 2}};
  SmallVector<OpFoldResult> shape = {rows, b.getIndexAttr(heads),
                                     b.getIndexAttr(headDim)};
  return tensor::ExpandShapeOp::create(b, type, x, groups, shape);
}

Value StepBuilder::joinHeads(Value x) {
  SmallVector<ReassociationIndices> groups = {{0}, {1, 2}};
  return tensor::CollapseShapeOp::create(b, x, groups);
}
