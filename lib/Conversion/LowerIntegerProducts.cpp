//===- LowerIntegerProducts.cpp - Products of integer rows ----------------===//
//
// Lowers round_rows and contract_integers.  Neighbours: HostLayout.h (the order
// of codes), LowerProducts.cpp (products of floats), ProductsToIntegers.cpp.
//
// A 32-bit lane of a vector of codes is one output; of its four elements along
// the summed axis, 0 and 1 are the low bytes of its 16-bit halves, 2 and 3 the
// high ones.  So `words & mask` is a pair of codes in 16 bits each, and so is
// `words >> 8 & mask`; a pair of row elements, in all lanes, is the other
// operand.  A field that starts at bit k of its byte stays there: its sums are
// 2^k too large, which the conversion's multiplication takes back.
//
//===----------------------------------------------------------------------===//

#include "TileLowering.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "pmkvq_rt/Geometry.h"
#include "llvm/ADT/bit.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
constexpr int64_t kVectorBytes = CodeLayout::kVectorBytes;
/// Bytes of an element of integer rows, and of a pair.
constexpr int64_t kElementBytes = 2, kPairBytes = 4;
/// The largest magnitude of an integer.
constexpr double kLargestInteger = 32767.0;

VectorType i16Vector(TileBuilder &b, int64_t size) {
  return VectorType::get({size}, b.getI16Type());
}

/// Rounds rows to integers.
class Rounding {
public:
  Rounding(TileBuilder &b, RowsType type, Value rows, Value by)
      : b(b), type(type), rows(rows), by(by ? b.spill(by) : Value()),
        stride(TileBuilder::rowStride(type.getWidth())) {}

  /// Integers in memory, units, and what is lost.
  Lowered run() {
    integers = b.scratch(type.getQueries() * stride * kElementBytes);
    Value units = b.scratchFloats(type.getQueries());
    Value lost = b.scratchFloats(type.getQueries());
    b.forEach(type.getQueries(), [&](Value query) {
      Value largest = largestMagnitude(query);
      Value unit =
          arith::MulFOp::create(b, largest, b.constF32(1.0 / kLargestInteger));
      b.store(unit, b.at(units, query));
      Value inverse =
          arith::DivFOp::create(b, b.constF32(kLargestInteger), largest);
      auto [exact, rounded] =
          writeIntegers(query, b.broadcast(inverse, b.f32Vector()));
      Value represented = arith::MulFOp::create(b, rounded, unit);
      Value difference = arith::SubFOp::create(b, exact, represented);
      b.store(difference, b.at(lost, query));
    });
    auto vector = VectorType::get({type.getQueries()}, b.getF32Type());
    Value unit = b.load(vector, units, 4);
    return {integers, unit, b.load(vector, lost, 4)};
  }

private:
  Value element(Value query, Value column) {
    return b.add(b.mul(query, stride), column);
  }

  /// 8 elements, times `by`.
  Value loadScaled(Value query, Value column) {
    Value x = b.loadLanes(b.at(rows, element(query, column)));
    if (!by)
      return x;
    Value factor = b.loadLanes(b.at(by, column));
    return arith::MulFOp::create(b, x, factor);
  }

  /// At least 1e-30.  Magnitudes are compared as integers, which order floats
  /// of one sign, infinity above all numbers and NaN above infinity.
  Value largestMagnitude(Value query) {
    constexpr float least = 1e-30f;
    auto i32 = b.i32Vector();
    Value magnitude = b.splatInt(i32, 0x7fffffff);
    auto largest = b.loop(
        stride, kLanes, {b.splatInt(i32, llvm::bit_cast<int32_t>(least))},
        [&](Value column, ValueRange running) -> SmallVector<Value> {
          Value x = loadScaled(query, column);
          Value bits = arith::BitcastOp::create(b, i32, x);
          bits = arith::AndIOp::create(b, bits, magnitude);
          return {arith::MaxSIOp::create(b, running[0], bits)};
        });
    Value bits = vector::ReductionOp::create(b, vector::CombiningKind::MAXSI,
                                             largest[0]);
    return arith::BitcastOp::create(b, b.getF32Type(), bits);
  }

  /// Gives the sums of the exact elements and of the integers, in f32.
  std::pair<Value, Value> writeIntegers(Value query, Value inverse) {
    auto sums = b.loop(
        type.getWidth(), 2 * kLanes,
        {b.splat(b.f32Vector(), 0.0), b.splatInt(b.i32Vector(), 0)},
        [&](Value column, ValueRange running) -> SmallVector<Value> {
          SmallVector<Value> next(running), halves;
          for (int64_t half : {0, 1}) {
            Value x = loadScaled(query, b.add(column, half * kLanes));
            next[0] = arith::AddFOp::create(b, next[0], x);
            x = arith::MulFOp::create(b, x, inverse);
            halves.push_back(LLVM::LrintOp::create(b, b.i32Vector(), x));
            next[1] = arith::AddIOp::create(b, next[1], halves.back());
          }
          Value pair =
              vector::ShuffleOp::create(b, halves[0], halves[1], iota());
          Value saturated = saturate(pair);
          b.store(saturated,
                  b.at(integers, element(query, column), kElementBytes), 2);
          return next;
        });
    Value exact = vector::ReductionOp::create(
        b, vector::CombiningKind::ADD, sums[0], arith::FastMathFlags::reassoc);
    Value rounded =
        vector::ReductionOp::create(b, vector::CombiningKind::ADD, sums[1]);
    return {exact, arith::SIToFPOp::create(b, b.getF32Type(), rounded)};
  }

  static SmallVector<int64_t> iota() {
    SmallVector<int64_t> lanes(2 * kLanes);
    for (auto [i, lane] : llvm::enumerate(lanes))
      lane = static_cast<int64_t>(i);
    return lanes;
  }

  /// To 16 bits; saturation is what instructions for it have.
  Value saturate(Value integers) {
    Type i32 = integers.getType();
    Value lowest = b.splatInt(i32, -32768), highest = b.splatInt(i32, 32767);
    integers = arith::MaxSIOp::create(b, integers, lowest);
    integers = arith::MinSIOp::create(b, integers, highest);
    return arith::TruncIOp::create(b, i16Vector(b, 2 * kLanes), integers);
  }

  TileBuilder &b;
  RowsType type;
  Value rows, by;
  int64_t stride;
  Value integers;
};

/// integer rows x codes.
class IntegerContraction {
public:
  IntegerContraction(TileBuilder &b, ContractIntegersOp op,
                     ContractIntegersOp::Adaptor values)
      : b(b), type(op.getTile().getType()), level(type.getLevel()),
        layout(type), rows(values.getIntegers()),
        tile(b.unpackTile(values.getTile())), units(b.spill(values.getUnit())),
        biases(b.spill(values.getBias())),
        queries(op.getIntegers().getType().getQueries()),
        rowStride(TileBuilder::rowStride(type.getReduction())),
        outStride(TileBuilder::rowStride(type.getWidth())) {
    if (values.getAhead())
      ahead = b.unpackTile(values.getAhead());
  }

  Value run() {
    result = b.scratchFloats(queries * outStride);
    int64_t block = rowsAtATime(queries), whole = queries / block * block;
    b.forEach(whole, [&](Value first) { contract(first, block); }, block);
    if (whole < queries)
      contract(b.constI64(whole), queries - whole);
    return result;
  }

private:
  /// Fields whose accumulators are held at a time: with four rows, eight sums
  /// and what they are made of fit 16 registers.
  static constexpr int64_t kFields = 2;
  /// How often a bundle is read.
  int64_t passes() const { return layout.bundleGroups / kFields; }

  /// Rows that are taken at a time.
  static int64_t rowsAtATime(int64_t queries) {
    for (int64_t block : {4, 3})
      if (queries % block == 0)
        return block;
    return std::min<int64_t>(queries, 4);
  }

  /// One run of outputs after the other, `count` rows from `first` on.
  void contract(Value first, int64_t count) {
    Value in = b.at(rows, b.mul(first, rowStride), kElementBytes);
    b.forEach(layout.runs, [&](Value run) {
      for (int64_t group = 0; group < layout.bundleGroups; group += kFields) {
        SmallVector<Value> sums = sumRun(in, run, group, count);
        storeSums(first, run, group, count, sums);
      }
    });
  }

  /// Sums [field][row] of groups `group` to `group` + kFields - 1.
  SmallVector<Value> sumRun(Value in, Value run, int64_t group, int64_t count) {
    SmallVector<Value> zeros(static_cast<size_t>(kFields * count),
                             b.splatInt(b.i32Vector(), 0));
    Value vector =
        b.mul(run, layout.runStride * CodeLayout::vectorsPerBundle(level));
    Value pass = b.add(b.mul(run, passes()), group / kFields);
    // A block of keys has whole runs of tokens, a block of values whole steps
    // over them.
    if (type.getPart() == Part::Key) {
      Value codes = b.codeVector(tile, vector, type.getHeadDim());
      return sumSteps(codes, layout.steps, in,
                      aheadOf(pass, layout.runs * passes()), group, count,
                      zeros);
    }
    int64_t blocks = rt::blocksAtLevel(level), steps = layout.steps / blocks;
    Value offset = b.mul(vector, kVectorBytes);
    auto sumBlock = [&](Value block, ValueRange sums) {
      Value codes = b.offset(b.blockAt(tile, block, type.getHeadDim()), offset);
      Value row = b.at(in, block, steps * stepBytes());
      Value part = b.add(b.mul(pass, blocks), block);
      return sumSteps(codes, steps, row,
                      aheadOf(part, layout.runs * passes() * blocks), group,
                      count, sums);
    };
    return b.loop(blocks, 1, zeros, sumBlock);
  }

  /// Where part `index` of `parts` equal ones of what lies ahead begins.  All
  /// of it is asked for in as many steps as codes are read in, so that loads
  /// are spread evenly.
  Value aheadOf(Value index, int64_t parts) {
    if (!ahead)
      return {};
    int64_t perBlock = parts / rt::blocksAtLevel(level);
    Value start =
        b.blockAt(*ahead, b.divide(index, perBlock), type.getHeadDim());
    return b.at(start, b.remainder(index, perBlock),
                codeBytesOfBlock() / perBlock);
  }

  int64_t codeBytesOfBlock() const {
    return rt::codeBytes(type.getHeadDim(), level) / rt::blocksAtLevel(level);
  }

  static constexpr int64_t kQuadBytes = CodeLayout::kQuad * kElementBytes;
  int64_t stepBytes() const { return layout.stepQuads() * kQuadBytes; }

  /// Adds the products of `steps` bundles from `codes` and `row` on.
  SmallVector<Value> sumSteps(Value codes, int64_t steps, Value row, Value next,
                              int64_t group, int64_t count, ValueRange init) {
    int64_t bundleBytes = CodeLayout::vectorsPerBundle(level) * kVectorBytes;
    return b.loop(steps, 1, init, [&](Value step, ValueRange sums) {
      if (next)
        b.prefetch(b.at(next, step, bundleBytes / passes()));
      Value bundle = b.at(codes, step, layout.stepStride * bundleBytes);
      Value quad = b.offset(b.at(row, step, stepBytes()),
                            layout.quadOf(group) * kQuadBytes);
      return addBundle(bundle, quad, group, count, sums);
    });
  }

  SmallVector<Value> addBundle(Value bundle, Value row, int64_t group,
                               int64_t count, ValueRange running) {
    SmallVector<Value> sums(running);
    for (int64_t pair : {0, 1}) {
      SmallVector<Value> codes;
      for (int64_t field = 0; field < kFields; ++field)
        codes.push_back(codePair(bundle, group + field, pair));
      for (int64_t q = 0; q < count; ++q) {
        Value elements = rowPair(row, q, pair);
        for (int64_t field = 0; field < kFields; ++field) {
          Value &sum = sums[field * count + q];
          sum = addProducts(sum, codes[field], elements);
        }
      }
    }
    return sums;
  }

  /// Field of an output group in its byte.
  int64_t bitOf(int64_t group) const {
    return CodeLayout::bitOf(level, group % CodeLayout::fields(level));
  }

  /// Codes 2 `pair` and 2 `pair` + 1 of the quad, 2^bitOf(group) times.
  Value codePair(Value bundle, int64_t group, int64_t pair) {
    int64_t vector = group / CodeLayout::fields(level);
    auto i16 = i16Vector(b, 2 * kLanes);
    Value words = b.load(i16, b.offset(bundle, vector * kVectorBytes), 4);
    constexpr int64_t byteBits = 8;
    if (pair == 1)
      words = arith::ShRUIOp::create(b, words, b.splatInt(i16, byteBits));
    if (pair == 1 && level == byteBits)
      return words;
    int64_t mask = ((1 << level) - 1) << bitOf(group);
    return arith::AndIOp::create(b, words, b.splatInt(i16, mask));
  }

  /// Elements 2 `pair` and 2 `pair` + 1 of the quad of row `q`, in all lanes.
  Value rowPair(Value row, int64_t q, int64_t pair) {
    Value address =
        b.offset(row, q * rowStride * kElementBytes + pair * kPairBytes);
    Value lanes =
        b.broadcast(b.load(b.getI32Type(), address, 2), b.i32Vector());
    return vector::BitCastOp::create(b, i16Vector(b, 2 * kLanes), lanes);
  }

  /// sum + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1], in the form that LLVM
  /// knows as one instruction (vpmaddwd and an addition, or vpdpwssd).
  Value addProducts(Value sum, Value codes, Value elements) {
    auto wide = b.i32Vector(2 * kLanes);
    Value left = arith::ExtUIOp::create(b, wide, codes);
    Value right = arith::ExtSIOp::create(b, wide, elements);
    Value products = arith::MulIOp::create(b, left, right);
    Value even = everyOther(products, 0), odd = everyOther(products, 1);
    return arith::AddIOp::create(b, sum, arith::AddIOp::create(b, even, odd));
  }

  Value everyOther(Value products, int64_t first) {
    SmallVector<int64_t> lanes(kLanes);
    for (auto [i, lane] : llvm::enumerate(lanes))
      lane = first + 2 * static_cast<int64_t>(i);
    return vector::ShuffleOp::create(b, products, products, lanes);
  }

  void storeSums(Value first, Value run, int64_t group, int64_t count,
                 ArrayRef<Value> sums) {
    Value column = b.mul(run, layout.runOutputs());
    for (int64_t q = 0; q < count; ++q) {
      Value query = b.add(first, q);
      Value unit = b.load(b.getF32Type(), b.at(units, query));
      Value bias = b.load(b.getF32Type(), b.at(biases, query));
      bias = b.broadcast(bias, b.f32Vector());
      for (int64_t field = 0; field < kFields; ++field) {
        Value exponent = b.constF32(
            std::ldexp(1.0, -static_cast<int>(bitOf(group + field))));
        Value factor = b.broadcast(arith::MulFOp::create(b, unit, exponent),
                                   b.f32Vector());
        Value sum =
            arith::SIToFPOp::create(b, b.f32Vector(), sums[field * count + q]);
        Value place = b.add(b.add(b.mul(query, outStride), column),
                            layout.outputOf(group + field));
        // What a bundle's first quad gave is in place already.
        Value before =
            layout.quadOf(group) ? b.loadLanes(b.at(result, place)) : bias;
        b.store(b.fma(sum, factor, before), b.at(result, place), 4);
      }
    }
  }

  TileBuilder &b;
  TileType type;
  int64_t level;
  CodeLayout layout;
  Value rows;
  TileFields tile;
  std::optional<TileFields> ahead;
  Value units, biases;
  int64_t queries, rowStride, outStride;
  Value result;
};
} // namespace

static Lowered lowerRoundRows(TileBuilder &b, RoundRowsOp op,
                              RoundRowsOp::Adaptor values) {
  return Rounding(b, op.getRows().getType(), values.getRows(), values.getBy())
      .run();
}

static Lowered lowerContractIntegers(TileBuilder &b, ContractIntegersOp op,
                                     ContractIntegersOp::Adaptor values) {
  return {IntegerContraction(b, op, values).run()};
}

void mlir::pmkvq::populateIntegerLowerings(RewritePatternSet &patterns,
                                           const TypeConverter &converter) {
  patterns.add<TilePattern<RoundRowsOp, lowerRoundRows>,
               TilePattern<ContractIntegersOp, lowerContractIntegers>>(
      converter, patterns.getContext());
}
