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
///
/// Rows of elements at level 16 go block by block, which stays in the first
/// level's cache.  Accumulators, `tokens` or runs of dims times queries, are as
/// many as additions are under way.
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
  SmallVector<Value> broadcastRows(Value in, Value element,
                                   int64_t lanes = kLanes) {
    SmallVector<Value> values;
    for (int64_t q = 0; q < block; ++q) {
      Value address = b.offset(b.at(in, element), q * rowStride * 4);
      values.push_back(
          b.broadcast(b.load(b.getF32Type(), address), b.f32Vector(lanes)));
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

  /// Elements of a row in f32, those at even places and those at odd ones: a
  /// 32-bit word has one of each, which takes no shuffle to part.
  std::pair<Value, Value> loadElements(Value address) {
    auto i32 = b.i32Vector(lanes());
    constexpr int64_t bits = 16, low = 0xffff;
    Value words = b.load(i32, address, kElementBytes);
    Value half = b.splatInt(i32, bits);
    if (type.isRaw()) {
      // bf16 is the upper half of f32.
      Value even = arith::ShLIOp::create(b, words, half);
      Value odd =
          arith::AndIOp::create(b, words, b.splatInt(i32, ~low & 0xffffffff));
      even = arith::BitcastOp::create(b, b.f32Vector(lanes()), even);
      return {even, arith::BitcastOp::create(b, b.f32Vector(lanes()), odd)};
    }
    FormatAttr format = type.getFormat();
    auto grid = [&](Value codes) {
      return format.getModel().emitGrid(b, format, codes, bits);
    };
    Value even = arith::AndIOp::create(b, words, b.splatInt(i32, low));
    Value odd = arith::ShRUIOp::create(b, words, half);
    even = grid(even);
    return {even, grid(odd)};
  }

  static constexpr int64_t kElementBytes = 2;
  int64_t rowBytes() const { return type.getHeadDim() * kElementBytes; }
  /// Elements of a word's half that a register has.
  int64_t lanes() const { return b.lanes(type.getHeadDim() / 2); }
  /// Half of the registers.
  int64_t accumulators() const { return b.isWide() ? 16 : 8; }

  /// Neighbouring rows in memory, and what lies ahead there, if anything does.
  struct RowRun {
    Value first, count, rows, next;
  };

  /// Calls `body` with each run of rows.  A fixed area is one, a page has one a
  /// block.
  void forEachRun(function_ref<void(const RowRun &)> body) {
    if (!type.getFormat())
      return body({b.constI64(0), tile.count, tile.base, Value()});
    constexpr int64_t perBlock = rt::tokensPerBlock(16);
    b.forEach(rt::blocksAtLevel(16), [&](Value index) {
      int64_t headDim = type.getHeadDim();
      Value rows = b.blockAt(tile, index, headDim);
      Value next = ahead ? b.blockAt(*ahead, index, headDim) : Value();
      body({b.mul(index, perBlock), b.constI64(perBlock), rows, next});
    });
  }

  /// Asks for the lines of `bytes` bytes that lie ahead.
  void prefetch(Value next, int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += kCacheLineBytes)
      b.prefetch(b.offset(next, line));
  }

  /// The block's rows in the order of loadElements.
  Value partRows(Value in) {
    Value parted = b.scratchFloats(block * rowStride);
    SmallVector<int64_t> even, odd;
    for (int64_t i = 0; i < lanes(); ++i) {
      even.push_back(2 * i);
      odd.push_back(2 * i + 1);
    }
    forEachPair(rowStride, [&](Value first, Value second) {
      Value x = b.loadLanes(b.at(in, first), lanes());
      Value y = b.loadLanes(b.at(in, second), lanes());
      b.store(vector::ShuffleOp::create(b, x, y, even), b.at(parted, first), 4);
      b.store(vector::ShuffleOp::create(b, x, y, odd), b.at(parted, second), 4);
    });
    return parted;
  }

  /// The reverse, in place, of rows of outputs.
  void joinRows(Value out) {
    SmallVector<int64_t> lower, upper;
    for (int64_t i = 0; i < lanes(); ++i) {
      int64_t element = i / 2 + i % 2 * lanes();
      lower.push_back(element);
      upper.push_back(element + lanes() / 2);
    }
    forEachPair(outStride, [&](Value first, Value second) {
      Value even = b.loadLanes(b.at(out, first), lanes());
      Value odd = b.loadLanes(b.at(out, second), lanes());
      b.store(vector::ShuffleOp::create(b, even, odd, lower), b.at(out, first),
              4);
      b.store(vector::ShuffleOp::create(b, even, odd, upper), b.at(out, second),
              4);
    });
  }

  /// Calls `body` with the places of each two neighbouring registers of the
  /// block's rows.
  void forEachPair(int64_t stride, function_ref<void(Value, Value)> body) {
    b.forEach(
        block * stride,
        [&](Value first) { body(first, b.add(first, lanes())); }, 2 * lanes());
  }

  void contractKeyRows(Value in, Value out) {
    in = partRows(in);
    int64_t tokens = 1;
    while (tokens < 4 && 2 * tokens * block <= accumulators())
      tokens *= 2;
    forEachRun([&](const RowRun &run) {
      Value whole = run.count;
      if (!type.getFormat())
        whole = b.mul(b.divide(run.count, tokens), tokens);
      multiplyRows(in, out, run, b.constI64(0), whole, tokens);
      if (!type.getFormat())
        multiplyRows(in, out, run, whole, run.count, 1);
    });
  }

  /// Scores of rows `begin` to `end` of a run, `tokens` at a time.
  void multiplyRows(Value in, Value out, const RowRun &run, Value begin,
                    Value end, int64_t tokens) {
    b.forEach(
        arith::SubIOp::create(b, end, begin),
        [&](Value i) {
          Value token = b.add(begin, i);
          Value row = b.at(run.rows, token, rowBytes());
          Value next = run.next ? b.at(run.next, token, rowBytes()) : Value();
          SmallVector<Value> sums = multiplyTokens(in, row, next, tokens);
          Value scores = b.at(out, b.add(run.first, token));
          for (int64_t q = 0; q < block; ++q) {
            auto ofQuery = ArrayRef<Value>(sums).slice(
                static_cast<size_t>(q * tokens), static_cast<size_t>(tokens));
            b.store(b.sumLanes(ofQuery), b.offset(scores, q * outStride * 4),
                    4);
          }
        },
        tokens);
  }

  /// Sums [query][token] of `tokens` rows, over lanes yet to be added up. Lines
  /// ahead are asked for between products: there are few buffers for them.
  SmallVector<Value> multiplyTokens(Value in, Value row, Value next,
                                    int64_t tokens) {
    SmallVector<Value> sums(static_cast<size_t>(block * tokens),
                            b.splat(b.f32Vector(lanes()), 0.0));
    for (int64_t dim = 0; dim < type.getHeadDim(); dim += 2 * lanes()) {
      SmallVector<std::pair<Value, Value>> keys;
      for (int64_t t = 0; t < tokens; ++t) {
        int64_t place = t * rowBytes() + dim * kElementBytes;
        keys.push_back(loadElements(b.offset(row, place)));
        if (next && place % kCacheLineBytes == 0)
          b.prefetch(b.offset(next, place));
      }
      for (int64_t q = 0; q < block; ++q) {
        Value query = b.offset(in, (q * rowStride + dim) * 4);
        Value even = b.loadLanes(query, lanes());
        Value odd = b.loadLanes(b.offset(query, lanes() * 4), lanes());
        for (auto [t, key] : llvm::enumerate(keys)) {
          Value &sum = sums[static_cast<size_t>(q * tokens) + t];
          sum = b.fma(key.first, even, sum);
          sum = b.fma(key.second, odd, sum);
        }
      }
    }
    return sums;
  }

  void contractValueRows(Value in, Value out) {
    int64_t registers = type.getHeadDim() / lanes();
    int64_t atATime = accumulators() / block;
    while (registers % atATime || atATime % 2)
      --atATime;
    Value zero = b.splat(b.f32Vector(lanes()), 0.0);
    b.forEach(
        block * outStride, [&](Value i) { b.store(zero, b.at(out, i), 4); },
        lanes());
    forEachRun([&](const RowRun &run) {
      for (int64_t first = 0; first < registers; first += atATime)
        weighRows(in, out, run, first * lanes(), atATime);
    });
    joinRows(out);
  }

  /// Adds the rows of a run, weighted, to `count` registers of outputs from
  /// `dim` on, which are in the order of loadElements.
  void weighRows(Value in, Value out, const RowRun &run, int64_t dim,
                 int64_t count) {
    auto place = [&](int64_t group, int64_t q) {
      return b.offset(out, (q * outStride + dim + group * lanes()) * 4);
    };
    SmallVector<Value> sums;
    for (int64_t group = 0; group < count; ++group)
      for (int64_t q = 0; q < block; ++q)
        sums.push_back(b.loadLanes(place(group, q), lanes()));
    sums = b.loop(run.count, 1, sums, [&](Value token, ValueRange running) {
      Value bytes = b.add(b.mul(token, rowBytes()), dim * kElementBytes);
      if (run.next && dim * kElementBytes % kCacheLineBytes == 0)
        prefetch(b.offset(run.next, bytes), count * lanes() * kElementBytes);
      return addRow(in, b.add(run.first, token), b.offset(run.rows, bytes),
                    count, running);
    });
    for (int64_t group = 0; group < count; ++group)
      for (int64_t q = 0; q < block; ++q)
        b.store(sums[static_cast<size_t>(group * block + q)], place(group, q),
                4);
  }

  /// Adds `count` registers of elements of a row, weighted.
  SmallVector<Value> addRow(Value in, Value token, Value elements,
                            int64_t count, ValueRange running) {
    SmallVector<Value> sums(running);
    SmallVector<Value> weights = broadcastRows(in, token, lanes());
    for (int64_t pair = 0; pair < count; pair += 2) {
      auto [even, odd] =
          loadElements(b.offset(elements, pair * lanes() * kElementBytes));
      for (int64_t q = 0; q < block; ++q) {
        Value weight = weights[static_cast<size_t>(q)];
        Value &first = sums[static_cast<size_t>(pair * block + q)];
        first = b.fma(even, weight, first);
        Value &second = sums[static_cast<size_t>((pair + 1) * block + q)];
        second = b.fma(odd, weight, second);
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
  // A block's vector may be longer than the block.
  Value sums = b.scratchFloats(type.getQueries() + TileBuilder::kRowBlock);
  const int64_t lanes = b.lanes(type.getWidth());
  b.forEachRowBlock(type.getQueries(), [&](Value first, int64_t count) {
    SmallVector<Value> zeros(static_cast<size_t>(count),
                             b.splat(b.f32Vector(lanes), 0.0));
    auto ofRows = b.loop(
        type.getWidth(), lanes, zeros,
        [&](Value column, ValueRange running) -> SmallVector<Value> {
          Value factor = b.loadLanes(b.at(by, column), lanes);
          SmallVector<Value> next;
          for (auto [q, sum] : llvm::enumerate(running)) {
            Value query = b.add(first, static_cast<int64_t>(q));
            Value x = b.loadLanes(
                lanesAddress(b, type, values.getRows(), query, column), lanes);
            next.push_back(b.fma(x, factor, sum));
          }
          return next;
        });
    b.store(b.sumLanes(ofRows), b.at(sums, first), 4);
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
                                           const TypeConverter &converter,
                                           int64_t registerBytes) {
  patterns
      .add<TilePattern<ContractOp, lowerContract>,
           TilePattern<ScaleOp, lowerScale>, TilePattern<ReduceOp, lowerReduce>,
           TilePattern<AddOuterOp, lowerAddOuter>,
           TilePattern<HadamardOp, lowerHadamard>,
           TilePattern<RotaryOp, lowerRotary>>(converter, patterns.getContext(),
                                               registerBytes);
}
