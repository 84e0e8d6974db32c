//===- LowerSoftmax.cpp - Online softmax ----------------------------------===//
//
// Lowers softmax states, which lie in memory and are updated in place: every
// state has one user.  Neighbours: TileBuilder.h (StateMemory), pmkvq_rt/Abi.h
// (partialFloats: the same layout between kernels).
//
//===----------------------------------------------------------------------===//

#include "TileLowering.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "pmkvq_rt/Abi.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {

/// The maximum before any token: low, but finite, so that differences are.
constexpr double kLowest = -1e30;

Value loadFloat(TileBuilder &b, Value memory, Value index) {
  return b.load(b.getF32Type(), b.at(memory, index));
}

/// 2^x of a scalar.
Value exp2Scalar(TileBuilder &b, Value x) {
  Value lanes = b.exp2(b.broadcast(x, b.f32Vector()));
  return vector::ExtractOp::create(b, lanes, ArrayRef<int64_t>{0});
}

Value outputRow(TileBuilder &b, const StateMemory &state, SoftmaxType type,
                Value query) {
  return b.at(state.outputs, b.mul(query, type.getHeadDim()));
}

Value scoreLanes(TileBuilder &b, RowsType type, Value rows, Value query,
                 Value column) {
  int64_t stride = TileBuilder::rowStride(type.getWidth());
  return b.at(rows, b.add(b.mul(query, stride), column));
}
} // namespace

static Lowered lowerCausalMask(TileBuilder &b, CausalMaskOp op,
                               CausalMaskOp::Adaptor values) {
  RowsType type = op.getScores().getType();
  int64_t stride = TileBuilder::rowStride(type.getWidth());
  Value result = b.scratchFloats(type.getQueries() * stride);
  Value visible = b.toI64(values.getVisible());
  auto i32 = b.i32Vector();
  SmallVector<int32_t> lanes(kLanes);
  for (auto [i, lane] : llvm::enumerate(lanes))
    lane = static_cast<int32_t>(i);
  Value iota = arith::ConstantOp::create(
      b, DenseElementsAttr::get(i32, ArrayRef<int32_t>(lanes)));
  Value hidden =
      b.splat(b.f32Vector(), -std::numeric_limits<double>::infinity());
  b.forEach(type.getQueries(), [&](Value query) {
    Value limit = b.add(visible, b.divide(query, op.getGroup()));
    b.forEach(
        stride,
        [&](Value column) {
          Value left = arith::SubIOp::create(b, limit, column);
          left = arith::TruncIOp::create(b, b.getI32Type(), left);
          Value keep = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, iota,
                                             b.broadcast(left, i32));
          Value x = b.loadLanes(
              scoreLanes(b, type, values.getScores(), query, column));
          Value masked = arith::SelectOp::create(b, keep, x, hidden);
          b.store(masked, scoreLanes(b, type, result, query, column), 4);
        },
        kLanes);
  });
  return {result};
}

static Lowered lowerSoftmaxInit(TileBuilder &b, SoftmaxInitOp op,
                                SoftmaxInitOp::Adaptor) {
  SoftmaxType type = op.getState().getType();
  int64_t floats = rt::partialFloats(type.getQueries(), type.getHeadDim());
  Value memory = b.scratchFloats(floats);
  LLVM::MemsetOp::create(b, memory, b.splatInt(b.getI8Type(), 0),
                         b.constI64(floats * 4), /*isVolatile=*/false);
  StateMemory state = b.state(memory, type);
  b.forEach(type.getQueries(), [&](Value query) {
    b.store(b.constF32(kLowest), b.at(state.maxima, query));
  });
  return {memory};
}

/// Multiplies the state's sum and outputs of `query` by `factor`.
static void rescale(TileBuilder &b, const StateMemory &state, SoftmaxType type,
                    Value query, Value factor) {
  Value outputs = outputRow(b, state, type, query);
  const int64_t lanes = b.lanes(type.getHeadDim());
  Value factors = b.broadcast(factor, b.f32Vector(lanes));
  b.forEach(
      type.getHeadDim(),
      [&](Value dim) {
        Value address = b.at(outputs, dim);
        Value x = b.loadLanes(address, lanes);
        b.store(arith::MulFOp::create(b, x, factors), address, 4);
      },
      lanes);
  Value sum = b.at(state.sums, query);
  b.store(arith::MulFOp::create(b, b.load(b.getF32Type(), sum), factor), sum);
}

/// Raises the maximum of `query` to at least `candidate` and rescales; gives
/// the new maximum.
static Value raiseMaximum(TileBuilder &b, const StateMemory &state,
                          SoftmaxType type, Value query, Value candidate) {
  Value old = loadFloat(b, state.maxima, query);
  Value next = b.larger(candidate, old);
  Value factor = exp2Scalar(b, arith::SubFOp::create(b, old, next));
  rescale(b, state, type, query, factor);
  b.store(next, b.at(state.maxima, query));
  return next;
}

/// The largest scores of `count` queries from `first` on.
static Value highestScores(TileBuilder &b, RowsType type, Value scores,
                           Value first, int64_t count) {
  int64_t stride = TileBuilder::rowStride(type.getWidth());
  const int64_t lanes = b.lanes(stride);
  SmallVector<Value> lowest(static_cast<size_t>(count),
                            b.splat(b.f32Vector(lanes), kLowest));
  auto highest =
      b.loop(stride, lanes, lowest,
             [&](Value column, ValueRange running) -> SmallVector<Value> {
               SmallVector<Value> next;
               for (auto [q, sofar] : llvm::enumerate(running)) {
                 Value query = b.add(first, static_cast<int64_t>(q));
                 Value x = b.loadLanes(
                     scoreLanes(b, type, scores, query, column), lanes);
                 next.push_back(b.larger(sofar, x));
               }
               return next;
             });
  return b.reduceLanes(highest,
                       [&](Value x, Value y) { return b.larger(x, y); });
}

/// Weights of `query` relative to its maximum; gives their sum over all lanes
/// yet to be added up.
static Value weighScores(TileBuilder &b, RowsType type, Value scores,
                         Value weights, Value query, Value maximum) {
  int64_t stride = TileBuilder::rowStride(type.getWidth());
  const int64_t lanes = b.lanes(stride);
  maximum = b.broadcast(maximum, b.f32Vector(lanes));
  auto sums =
      b.loop(stride, lanes, {b.splat(b.f32Vector(lanes), 0.0)},
             [&](Value column, ValueRange running) -> SmallVector<Value> {
               Value x = b.loadLanes(scoreLanes(b, type, scores, query, column),
                                     lanes);
               Value p = b.exp2(arith::SubFOp::create(b, x, maximum));
               b.store(p, scoreLanes(b, type, weights, query, column), 4);
               return {arith::AddFOp::create(b, running[0], p)};
             });
  return sums[0];
}

/// Elements of `memory` of a block of `count` queries from `first` on; those of
/// no query are the first's.
static Value loadBlock(TileBuilder &b, Value memory, Value first, int64_t count,
                       VectorType type) {
  Value block = b.broadcast(loadFloat(b, memory, first), type);
  for (int64_t q = 1; q < count; ++q)
    block = vector::InsertOp::create(b, loadFloat(b, memory, b.add(first, q)),
                                     block, ArrayRef<int64_t>{q});
  return block;
}

static Lowered lowerSoftmaxUpdate(TileBuilder &b, SoftmaxUpdateOp op,
                                  SoftmaxUpdateOp::Adaptor values) {
  SoftmaxType type = op.getState().getType();
  RowsType rows = op.getScores().getType();
  StateMemory state = b.state(values.getState(), type);
  Value weights = b.scratchFloats(rows.getQueries() *
                                  TileBuilder::rowStride(rows.getWidth()));
  b.forEachRowBlock(type.getQueries(), [&](Value first, int64_t count) {
    Value highest = highestScores(b, rows, values.getScores(), first, count);
    auto block = cast<VectorType>(highest.getType());
    Value old = loadBlock(b, state.maxima, first, count, block);
    Value next = b.larger(highest, old);
    Value factors = b.exp2(arith::SubFOp::create(b, old, next));
    SmallVector<Value> sums;
    for (int64_t q = 0; q < count; ++q) {
      Value query = b.add(first, q);
      auto ofQuery = [&](Value vector) -> Value {
        return vector::ExtractOp::create(b, vector, ArrayRef<int64_t>{q});
      };
      Value maximum = ofQuery(next), factor = ofQuery(factors);
      b.store(maximum, b.at(state.maxima, query));
      Value raised = arith::CmpFOp::create(b, arith::CmpFPredicate::UNE, factor,
                                           b.constF32(1.0));
      // Seldom: most pages hold no larger score than all before.
      b.when(raised, [&] { rescale(b, state, type, query, factor); });
      sums.push_back(
          weighScores(b, rows, values.getScores(), weights, query, maximum));
    }
    Value sum = b.sumLanes(sums);
    for (int64_t q = 0; q < count; ++q) {
      Value memory = b.at(state.sums, b.add(first, q));
      Value ofQuery = vector::ExtractOp::create(b, sum, ArrayRef<int64_t>{q});
      b.store(arith::AddFOp::create(b, b.load(b.getF32Type(), memory), ofQuery),
              memory);
    }
  });
  return {values.getState(), weights};
}

/// outputs[i] += factor * rows[i], for one query.
static void addRow(TileBuilder &b, Value outputs, Value rows, int64_t headDim,
                   Value factor) {
  const int64_t lanes = b.lanes(headDim);
  Value factors = b.broadcast(factor, b.f32Vector(lanes));
  b.forEach(
      headDim,
      [&](Value dim) {
        Value address = b.at(outputs, dim);
        Value x = b.loadLanes(b.at(rows, dim), lanes);
        b.store(b.fma(x, factors, b.loadLanes(address, lanes)), address, 4);
      },
      lanes);
}

static Lowered lowerSoftmaxAdd(TileBuilder &b, SoftmaxAddOp op,
                               SoftmaxAddOp::Adaptor values) {
  SoftmaxType type = op.getState().getType();
  StateMemory state = b.state(values.getState(), type);
  addRow(b, state.outputs, values.getRows(),
         type.getQueries() * type.getHeadDim(), b.constF32(1.0));
  return {values.getState()};
}

/// Memory of a partial result of the batch.
static Value partialMemory(TileBuilder &b, SoftmaxType type, Value batch,
                           Value partial) {
  int64_t floats = rt::partialFloats(type.getQueries(), type.getHeadDim());
  Value memory = b.loadPtrField(batch, offsetof(rt::StepArgs, partials));
  return b.at(memory, b.toI64(partial), floats * 4);
}

static Lowered lowerStorePartial(TileBuilder &b, StorePartialOp op,
                                 StorePartialOp::Adaptor values) {
  SoftmaxType type = op.getState().getType();
  b.copy(partialMemory(b, type, values.getBatch(), values.getPartial()),
         values.getState(),
         rt::partialFloats(type.getQueries(), type.getHeadDim()) * 4);
  return {};
}

static Lowered lowerMergePartial(TileBuilder &b, MergePartialOp op,
                                 MergePartialOp::Adaptor values) {
  SoftmaxType type = op.getState().getType();
  StateMemory state = b.state(values.getState(), type);
  StateMemory other = b.state(
      partialMemory(b, type, values.getBatch(), values.getPartial()), type);
  b.forEach(type.getQueries(), [&](Value query) {
    Value theirs = loadFloat(b, other.maxima, query);
    Value maximum = raiseMaximum(b, state, type, query, theirs);
    Value factor = exp2Scalar(b, arith::SubFOp::create(b, theirs, maximum));
    Value outputs = outputRow(b, state, type, query);
    Value added = outputRow(b, other, type, query);
    addRow(b, outputs, added, type.getHeadDim(), factor);
    Value memory = b.at(state.sums, query);
    Value sum =
        arith::MulFOp::create(b, loadFloat(b, other.sums, query), factor);
    b.store(arith::AddFOp::create(b, b.load(b.getF32Type(), memory), sum),
            memory);
  });
  return {values.getState()};
}

static Lowered lowerSoftmaxFinish(TileBuilder &b, SoftmaxFinishOp op,
                                  SoftmaxFinishOp::Adaptor values) {
  SoftmaxType type = op.getState().getType();
  StateMemory state = b.state(values.getState(), type);
  Value result = b.scratchFloats(type.getQueries() * type.getHeadDim());
  b.forEach(type.getQueries(), [&](Value query) {
    Value factor = arith::DivFOp::create(b, b.constF32(1.0),
                                         loadFloat(b, state.sums, query));
    Value lanes = b.broadcast(factor, b.f32Vector());
    Value from = outputRow(b, state, type, query);
    Value to = b.at(result, b.mul(query, type.getHeadDim()));
    b.forEach(
        type.getHeadDim(),
        [&](Value dim) {
          Value x = b.loadLanes(b.at(from, dim));
          Value scaled = arith::MulFOp::create(b, x, lanes);
          b.store(scaled, b.at(to, dim), 4);
        },
        kLanes);
  });
  return {result};
}

void mlir::pmkvq::populateSoftmaxLowerings(RewritePatternSet &patterns,
                                           const TypeConverter &converter,
                                           int64_t registerBytes) {
  patterns.add<TilePattern<CausalMaskOp, lowerCausalMask>,
               TilePattern<SoftmaxInitOp, lowerSoftmaxInit>,
               TilePattern<SoftmaxUpdateOp, lowerSoftmaxUpdate>,
               TilePattern<SoftmaxAddOp, lowerSoftmaxAdd>,
               TilePattern<StorePartialOp, lowerStorePartial>,
               TilePattern<MergePartialOp, lowerMergePartial>,
               TilePattern<SoftmaxFinishOp, lowerSoftmaxFinish>>(
      converter, patterns.getContext(), registerBytes);
}
