//===- LowerProducts.cpp - Products of rows -------------------------------===//
//
// Lowers products of rows with tiles and vectors, and the Hadamard transform.
// Neighbours: CodeLayout.h (the order of codes), TileLowering.h.
//
//===----------------------------------------------------------------------===//

#include "TileLowering.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "pmkvq_rt/Geometry.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {

/// rows x codes.  Queries are taken in blocks so that accumulators fit the
/// registers; a block's codes are unpacked once.
class Contraction {
public:
  Contraction(TileBuilder &b, ContractOp op, ContractOp::Adaptor values)
      : b(b), type(op.getTile().getType()), layout(type),
        rows(values.getRows()), tile(b.unpackTile(values.getTile())),
        queries(op.getRows().getType().getQueries()),
        rowStride(TileBuilder::rowStride(type.getReduction())),
        outStride(TileBuilder::rowStride(type.getWidth())),
        block(blockOf(queries)) {
    if (values.getAhead())
      ahead = b.unpackTile(values.getAhead());
  }

  Value run() {
    result = b.scratchFloats(queries * outStride);
    b.forEach(
        queries,
        [&](Value first) {
          Value in = b.at(rows, b.mul(first, rowStride));
          Value out = b.at(result, b.mul(first, outStride));
          if (type.getLevel() < 16)
            contractCodes(in, out);
          else if (type.getPart() == Part::Key)
            contractKeyRows(in, out);
          else
            contractValueRows(in, out);
        },
        block);
    return result;
  }

private:
  /// The largest divisor that leaves 4 x block accumulators in 16 registers.
  static int64_t blockOf(int64_t queries) {
    for (int64_t block : {4, 3, 2})
      if (queries % block == 0)
        return block;
    return 1;
  }

  /// Element `i` of each of the block's rows, in all lanes.
  SmallVector<Value> broadcastRows(Value in, Value element) {
    SmallVector<Value> values;
    for (int64_t q = 0; q < block; ++q) {
      Value address = b.offset(b.at(in, element), q * rowStride * 4);
      values.push_back(
          b.broadcast(b.load(b.getF32Type(), address), b.f32Vector()));
    }
    return values;
  }

  SmallVector<Value> zeros(int64_t count) {
    return SmallVector<Value>(count, b.splat(b.f32Vector(), 0.0));
  }

  /// Stores accumulators [group][query] to a run of outputs from `first` on.
  void storeRun(Value out, Value first, ArrayRef<Value> sums) {
    for (int64_t group = 0; group < layout.runGroups; ++group)
      for (int64_t q = 0; q < block; ++q)
        b.store(
            sums[group * block + q],
            b.offset(b.at(out, first), (q * outStride + group * kLanes) * 4),
            4);
  }

  //===--------------------------------------------------------------------===//
  // Below level 16
  //===--------------------------------------------------------------------===//

  void contractCodes(Value in, Value out) {
    b.forEach(layout.runs, [&](Value run) {
      auto sums = b.loop(layout.steps, 1, zeros(layout.runGroups * block),
                         [&](Value step, ValueRange sums) {
                           Value first = b.mul(run, layout.runStride);
                           Value bundle =
                               b.add(first, b.mul(step, layout.stepStride));
                           return addBundle(in, bundle, step, sums);
                         });
      storeRun(out, b.mul(run, layout.runOutputs()), sums);
    });
  }

  SmallVector<Value> addBundle(Value in, Value bundle, Value step,
                               ValueRange running) {
    SmallVector<Value> sums(running);
    int64_t level = type.getLevel();
    int64_t elements = CodeLayout::kQuad * layout.stepQuads();
    SmallVector<SmallVector<Value>> rowsOf; // [element of the step][query]
    for (int64_t i = 0; i < elements; ++i)
      rowsOf.push_back(broadcastRows(in, b.add(b.mul(step, elements), i)));
    int64_t vectors = CodeLayout::vectorsPerBundle(level);
    Value first = b.codeVector(tile, b.mul(bundle, vectors), type.getHeadDim());
    for (int64_t v = 0; v < vectors; ++v) {
      // A bundle does not cross a block: blocks hold whole bundles.
      Value words = b.load(b.i32Vector(),
                           b.offset(first, v * CodeLayout::kVectorBytes), 4);
      for (int64_t field = 0; field < CodeLayout::fields(level); ++field)
        for (int64_t i = 0; i < CodeLayout::kQuad; ++i) {
          Value code = gridValue(words, field, i);
          int64_t group = CodeLayout::groupOf(level, v, field);
          int64_t element = layout.quadOf(group) * CodeLayout::kQuad + i;
          for (int64_t q = 0; q < block; ++q) {
            Value &sum = sums[group % layout.runGroups * block + q];
            sum = b.fma(code, rowsOf[element][q], sum);
          }
        }
    }
    return sums;
  }

  /// Grid value of element `i` of a quad, from `field` of each lane.
  Value gridValue(Value words, int64_t field, int64_t i) {
    int64_t level = type.getLevel();
    int64_t bit = 8 * CodeLayout::kByteOf[i] + CodeLayout::bitOf(level, field);
    Value code = words;
    if (bit)
      code = arith::ShRUIOp::create(b, code, b.splatInt(code.getType(), bit));
    if (bit + level < 32)
      code = arith::AndIOp::create(
          b, code, b.splatInt(code.getType(), (1 << level) - 1));
    FormatAttr format = type.getFormat();
    return format.getModel().emitGrid(b, format, code, level);
  }

  //===--------------------------------------------------------------------===//
  // Level 16: rows of bf16 values or of codes
  //===--------------------------------------------------------------------===//

  /// 8 elements of a row, in f32.
  Value loadElements(Value address) {
    if (type.isRaw())
      return b.loadBf16Lanes(address);
    FormatAttr format = type.getFormat();
    return format.getModel().emitGrid(b, format, b.loadU16Lanes(address), 16);
  }

  int64_t rowBytes() const { return type.getHeadDim() * 2; }

  using RowsBody = function_ref<SmallVector<Value>(
      Value token, Value row, Value next, ValueRange running)>;
  /// Calls `body` with each token, its row, and what lies ahead there, if
  /// anything does; carries values.
  SmallVector<Value> forEachRow(ValueRange init, RowsBody body) {
    auto walk = [&](Value first, Value count, Value rows, Value next,
                    ValueRange init) {
      return b.loop(count, 1, init, [&](Value i, ValueRange running) {
        Value token = b.add(first, i);
        Value row = b.at(rows, i, rowBytes());
        return body(token, row, next ? b.at(next, i, rowBytes()) : Value(),
                    running);
      });
    };
    // A fixed area is contiguous, a page has blocks.
    if (!type.getFormat())
      return walk(b.constI64(0), tile.count, tile.base, Value(), init);
    constexpr int64_t perBlock = rt::tokensPerBlock(16);
    auto walkBlock = [&](Value index, ValueRange running) {
      int64_t headDim = type.getHeadDim();
      Value rows = b.blockAt(tile, index, headDim);
      Value next = ahead ? b.blockAt(*ahead, index, headDim) : Value();
      return walk(b.mul(index, perBlock), b.constI64(perBlock), rows, next,
                  running);
    };
    return b.loop(rt::blocksAtLevel(16), 1, init, walkBlock);
  }

  void contractKeyRows(Value in, Value out) {
    forEachRow({}, [&](Value token, Value row, Value next, ValueRange) {
      SmallVector<Value> sums = zeros(block);
      for (int64_t dim = 0; dim < type.getHeadDim(); dim += kLanes) {
        if (next && dim * 2 % kCacheLineBytes == 0)
          b.prefetch(b.offset(next, dim * 2));
        Value key = loadElements(b.offset(row, dim * 2));
        for (int64_t q = 0; q < block; ++q)
          sums[q] =
              b.fma(key, b.loadLanes(b.offset(in, (q * rowStride + dim) * 4)),
                    sums[q]);
      }
      for (int64_t q = 0; q < block; ++q) {
        Value total = sum(sums[q]);
        b.store(total, b.offset(b.at(out, token), q * outStride * 4));
      }
      return SmallVector<Value>();
    });
  }

  /// A sum over lanes in any order: rounding only.
  Value sum(Value lanes) {
    return vector::ReductionOp::create(b, vector::CombiningKind::ADD, lanes,
                                       arith::FastMathFlags::reassoc);
  }

  void contractValueRows(Value in, Value out) {
    b.forEach(
        type.getHeadDim(),
        [&](Value dim) {
          auto sums = forEachRow(
              zeros(layout.runGroups * block),
              [&](Value token, Value row, Value next, ValueRange running) {
                if (next)
                  b.prefetch(b.at(next, dim, 2));
                return addRow(in, token, b.at(row, dim, 2), running);
              });
          storeRun(out, dim, sums);
        },
        layout.runOutputs());
  }

  /// Adds a run of elements of a row, weighted.
  SmallVector<Value> addRow(Value in, Value token, Value elements,
                            ValueRange running) {
    SmallVector<Value> sums(running);
    SmallVector<Value> weights = broadcastRows(in, token);
    for (int64_t group = 0; group < layout.runGroups; ++group) {
      Value value = loadElements(b.offset(elements, group * kLanes * 2));
      for (int64_t q = 0; q < block; ++q) {
        Value &sum = sums[group * block + q];
        sum = b.fma(value, weights[q], sum);
      }
    }
    return sums;
  }

  TileBuilder &b;
  TileType type;
  CodeLayout layout;
  Value rows;
  TileFields tile;
  std::optional<TileFields> ahead;
  int64_t queries, rowStride, outStride, block;
  Value result;
};

/// Walks the lanes of every row: `body(query, byte address within rows)`.
void forEachLanes(TileBuilder &b, RowsType type,
                  function_ref<void(Value query, Value column)> body) {
  b.forEach(type.getQueries(), [&](Value query) {
    b.forEach(
        TileBuilder::rowStride(type.getWidth()),
        [&](Value column) { body(query, column); }, kLanes);
  });
}

Value lanesAddress(TileBuilder &b, RowsType type, Value rows, Value query,
                   Value column) {
  int64_t stride = TileBuilder::rowStride(type.getWidth());
  return b.at(rows, b.add(b.mul(query, stride), column));
}
} // namespace

static Lowered lowerContract(TileBuilder &b, ContractOp op,
                             ContractOp::Adaptor values) {
  return {Contraction(b, op, values).run()};
}

static Lowered lowerScale(TileBuilder &b, ScaleOp op, ScaleOp::Adaptor values) {
  RowsType type = op.getRows().getType();
  Value by = b.spill(values.getBy());
  Value result = b.scratchFloats(type.getQueries() *
                                 TileBuilder::rowStride(type.getWidth()));
  forEachLanes(b, type, [&](Value query, Value column) {
    Value x =
        b.loadLanes(lanesAddress(b, type, values.getRows(), query, column));
    Value scaled = arith::MulFOp::create(b, x, b.loadLanes(b.at(by, column)));
    b.store(scaled, lanesAddress(b, type, result, query, column), 4);
  });
  return {result};
}

static Lowered lowerReduce(TileBuilder &b, ReduceOp op,
                           ReduceOp::Adaptor values) {
  RowsType type = op.getRows().getType();
  Value by = b.spill(values.getBy());
  Value sums = b.scratchFloats(type.getQueries());
  b.forEach(type.getQueries(), [&](Value query) {
    auto sum =
        b.loop(type.getWidth(), kLanes, {b.splat(b.f32Vector(), 0.0)},
               [&](Value column, ValueRange running) -> SmallVector<Value> {
                 Value x = b.loadLanes(
                     lanesAddress(b, type, values.getRows(), query, column));
                 return {b.fma(x, b.loadLanes(b.at(by, column)), running[0])};
               });
    Value total = vector::ReductionOp::create(
        b, vector::CombiningKind::ADD, sum[0], arith::FastMathFlags::reassoc);
    b.store(total, b.at(sums, query));
  });
  return {b.load(op.getResult().getType(), sums, 4)};
}

static Lowered lowerAddOuter(TileBuilder &b, AddOuterOp op,
                             AddOuterOp::Adaptor values) {
  RowsType type = op.getRows().getType();
  Value left = b.spill(values.getLeft()), right = b.spill(values.getRight());
  Value result = b.scratchFloats(type.getQueries() *
                                 TileBuilder::rowStride(type.getWidth()));
  forEachLanes(b, type, [&](Value query, Value column) {
    Value x =
        b.loadLanes(lanesAddress(b, type, values.getRows(), query, column));
    Value l =
        b.broadcast(b.load(b.getF32Type(), b.at(left, query)), b.f32Vector());
    Value sum = b.fma(l, b.loadLanes(b.at(right, column)), x);
    b.store(sum, lanesAddress(b, type, result, query, column), 4);
  });
  return {result};
}

/// One butterfly: lane i becomes x[i] + x[i ^ half], or x[i ^ half] - x[i]
/// where i has the bit `half`.
static Value butterfly(TileBuilder &b, Value x, int64_t half) {
  auto type = cast<VectorType>(x.getType());
  SmallVector<int64_t> partner;
  SmallVector<float> signs;
  for (int64_t i = 0; i < type.getNumElements(); ++i) {
    partner.push_back(i ^ half);
    signs.push_back(i & half ? -1.0f : 1.0f);
  }
  Value other = vector::ShuffleOp::create(b, x, x, partner);
  Value sign = arith::ConstantOp::create(
      b, DenseElementsAttr::get(type, ArrayRef<float>(signs)));
  return b.fma(x, sign, other);
}

static Lowered lowerHadamard(TileBuilder &b, HadamardOp op,
                             HadamardOp::Adaptor values) {
  RowsType type = op.getSource().getType();
  int64_t width = type.getWidth();
  int64_t block = width & -width;
  auto vector = b.f32Vector(width);
  Value result = b.scratchFloats(type.getQueries() * width);
  b.forEach(type.getQueries(), [&](Value query) {
    Value offset = b.mul(query, width);
    Value x = b.load(vector, b.at(values.getSource(), offset), 4);
    for (int64_t half = 1; half < block; half *= 2)
      x = butterfly(b, x, half);
    Value norm = b.splat(vector, 1.0 / std::sqrt(static_cast<double>(block)));
    Value scaled = arith::MulFOp::create(b, x, norm);
    b.store(scaled, b.at(result, offset), 4);
  });
  return {result};
}

static Lowered lowerRotary(TileBuilder &b, RotaryOp op,
                           RotaryOp::Adaptor values) {
  RowsType type = op.getSource().getType();
  int64_t width = type.getWidth(), half = width / 2;
  Value result = b.scratchFloats(type.getQueries() * width);
  Value angle = b.mul(b.toI64(values.getRow()), half);
  Value cosines = b.at(values.getCosines(), angle);
  Value sines = b.at(values.getSines(), angle);
  b.forEach(type.getQueries(), [&](Value query) {
    Value offset = b.mul(query, width);
    b.forEach(
        half,
        [&](Value i) {
          Value lowerPlace = b.add(offset, i);
          Value upperPlace = b.add(lowerPlace, half);
          auto load = [&](Value place) {
            return b.loadLanes(b.at(values.getSource(), place));
          };
          Value lower = load(lowerPlace), upper = load(upperPlace);
          Value cos = b.loadLanes(b.at(cosines, i));
          Value sin = b.loadLanes(b.at(sines, i));
          auto times = [&](Value x, Value y) -> Value {
            return arith::MulFOp::create(b, x, y);
          };
          Value lowerCos = times(lower, cos);
          Value first = arith::SubFOp::create(b, lowerCos, times(upper, sin));
          Value upperCos = times(upper, cos);
          Value second = arith::AddFOp::create(b, upperCos, times(lower, sin));
          b.store(first, b.at(result, lowerPlace), 4);
          b.store(second, b.at(result, upperPlace), 4);
        },
        kLanes);
  });
  return {result};
}

void mlir::pmkvq::populateProductLowerings(RewritePatternSet &patterns,
                                           const TypeConverter &converter) {
  patterns
      .add<TilePattern<ContractOp, lowerContract>,
           TilePattern<ScaleOp, lowerScale>, TilePattern<ReduceOp, lowerReduce>,
           TilePattern<AddOuterOp, lowerAddOuter>,
           TilePattern<HadamardOp, lowerHadamard>,
           TilePattern<RotaryOp, lowerRotary>>(converter,
                                               patterns.getContext());
}
