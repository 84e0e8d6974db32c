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
#include "llvm/ADT/Sequence.h"

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
  ArrayRef<int64_t> outer = typeOf(x).getShape().drop_front().drop_back();
  Value init = zeros(empty(outer));
  auto rank = static_cast<unsigned>(typeOf(x).getRank());
  AffineMap all = b.getMultiDimIdentityMap(rank);
  AffineMap allButLast = all.dropResult(rank - 1);
  SmallVector<utils::IteratorType> iterators(rank,
                                             utils::IteratorType::parallel);
  iterators.back() = utils::IteratorType::reduction;
  auto generic = linalg::GenericOp::create(
      b, TypeRange(init.getType()), ValueRange(x), ValueRange(init),
      ArrayRef<AffineMap>{all, allButLast}, iterators,
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
  Value sums = sumOfSquares(x);
  auto outer = llvm::to_vector(llvm::seq(typeOf(sums).getRank()));
  Value init = empty(typeOf(sums).getShape().drop_front());
  return elementwise(
      sums, outer, init,
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
  int64_t rank = typeOf(x).getRank();
  auto all = llvm::to_vector(llvm::seq(rank));
  auto outer = llvm::to_vector(llvm::seq(rank - 1));
  Value init = empty(typeOf(x).getShape().drop_front());
  return elementwise(
      {x, scale, weight}, {all, outer, {rank - 1}}, init,
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

template <typename MathOp>
static Value turned(OpBuilder &b, Location loc, ValueRange arguments,
                    float factor) {
  Value position =
      arith::SIToFPOp::create(b, loc, b.getF32Type(), arguments[0]);
  Value angle = arith::MulFOp::create(b, loc, position, arguments[1]);
  Value result = MathOp::create(b, loc, angle);
  if (factor == 1)
    return result;
  return arith::MulFOp::create(b, loc, result, constantF32(b, loc, factor));
}

StepBuilder::Angles StepBuilder::ropeAngles(Value positions,
                                            ArrayRef<float> frequencies,
                                            float factor) {
  auto half = static_cast<int64_t>(frequencies.size());
  auto type = RankedTensorType::get({half}, b.getF32Type());
  Value constant =
      arith::ConstantOp::create(b, DenseElementsAttr::get(type, frequencies));
  auto elements = [&](auto turn) {
    return elementwise({positions, constant}, {{0}, {1}}, empty({half}),
                       [&](OpBuilder &b, Location loc, ValueRange arguments) {
                         return turn(b, loc, arguments, factor);
                       });
  };
  return {elements(turned<math::CosOp>), elements(turned<math::SinOp>)};
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
