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

/// Rounds rows to integers, a block of rows at a time: what is one number a row
/// is one vector a block, so that a row does not wait for another's.
class Rounding {
public:
  Rounding(TileBuilder &b, RowsType type, Value rows, Value by)
      : b(b), type(type), rows(rows), by(by ? b.spill(by) : Value()),
        stride(TileBuilder::rowStride(type.getWidth())) {}

  /// Integers in memory, units, and what is lost.
  Lowered run() {
    integers = b.scratch(type.getQueries() * stride * kElementBytes);
    // A block's vector may be longer than the block.
    int64_t padded = type.getQueries() + TileBuilder::kRowBlock;
    Value units = b.scratchFloats(padded), lost = b.scratchFloats(padded);
    b.forEachRowBlock(type.getQueries(), [&](Value first, int64_t count) {
      Value largest = largestMagnitudes(first, count);
      Type f32 = largest.getType();
      Value unit = arith::MulFOp::create(b, largest,
                                         b.splat(f32, 1.0 / kLargestInteger));
      Value inverse =
          arith::DivFOp::create(b, b.splat(f32, kLargestInteger), largest);
      b.store(unit, b.at(units, first), 4);
      auto [exact, rounded] = writeIntegers(first, count, inverse);
      Value represented = arith::MulFOp::create(b, rounded, unit);
      Value difference = arith::SubFOp::create(b, exact, represented);
      b.store(difference, b.at(lost, first), 4);
    });
    auto vector = VectorType::get({type.getQueries()}, b.getF32Type());
    Value unit = b.load(vector, units, 4);
    return {integers, unit, b.load(vector, lost, 4)};
  }

private:
  Value element(Value query, Value column) {
    return b.add(b.mul(query, stride), column);
  }

  /// Elements of a register of each of `count` rows, times `by`.
  SmallVector<Value> loadScaled(Value first, int64_t count, Value column,
                                int64_t lanes) {
    Value factor = by ? b.loadLanes(b.at(by, column), lanes) : Value();
    SmallVector<Value> elements;
    for (int64_t q = 0; q < count; ++q) {
      Value x =
          b.loadLanes(b.at(rows, element(b.add(first, q), column)), lanes);
      elements.push_back(
          factor ? arith::MulFOp::create(b, x, factor).getResult() : x);
    }
    return elements;
  }

  /// At least 1e-30.  Magnitudes are compared as integers, which order floats
  /// of one sign, infinity above all numbers and NaN above infinity.
  Value largestMagnitudes(Value first, int64_t count) {
    constexpr float least = 1e-30f;
    const int64_t lanes = b.lanes(stride);
    auto i32 = b.i32Vector(lanes);
    Value magnitude = b.splatInt(i32, 0x7fffffff);
    SmallVector<Value> lowest(static_cast<size_t>(count),
                              b.splatInt(i32, llvm::bit_cast<int32_t>(least)));
    auto largest =
        b.loop(stride, lanes, lowest,
               [&](Value column, ValueRange running) -> SmallVector<Value> {
                 SmallVector<Value> next;
                 for (auto [x, sofar] : llvm::zip(
                          loadScaled(first, count, column, lanes), running)) {
                   Value bits = arith::BitcastOp::create(b, i32, x);
                   bits = arith::AndIOp::create(b, bits, magnitude);
                   next.push_back(arith::MaxSIOp::create(b, sofar, bits));
                 }
                 return next;
               });
    Value bits = b.reduceLanes(largest, [&](Value x, Value y) -> Value {
      return arith::MaxSIOp::create(b, x, y);
    });
    auto results = cast<VectorType>(bits.getType());
    return arith::BitcastOp::create(b, results.clone(b.getF32Type()), bits);
  }

  /// Gives the sums of the exact elements and of the integers, in f32.
  std::pair<Value, Value> writeIntegers(Value first, int64_t count,
                                        Value inverse) {
    // So many are stored at a time, whatever registers hold.
    constexpr int64_t stored = 2 * kLanes;
    const int64_t lanes = b.lanes(stored);
    auto f32 = b.f32Vector(lanes);
    auto i32 = b.i32Vector(lanes);
    const auto size = static_cast<size_t>(count);
    SmallVector<Value> factors, zeros(size, b.splat(f32, 0.0));
    for (int64_t q = 0; q < count; ++q)
      factors.push_back(b.broadcast(
          vector::ExtractOp::create(b, inverse, ArrayRef<int64_t>{q}), f32));
    zeros.append(size, b.splatInt(i32, 0));
    auto sums = b.loop(
        type.getWidth(), stored, zeros,
        [&](Value column, ValueRange running) -> SmallVector<Value> {
          SmallVector<Value> next(running), whole(size);
          for (int64_t part = 0; part < stored; part += lanes) {
            SmallVector<Value> elements =
                loadScaled(first, count, b.add(column, part), lanes);
            for (size_t q = 0; q < size; ++q) {
              next[q] = arith::AddFOp::create(b, next[q], elements[q]);
              Value x = arith::MulFOp::create(b, elements[q], factors[q]);
              Value integer = LLVM::LrintOp::create(b, i32, x);
              next[size + q] =
                  arith::AddIOp::create(b, next[size + q], integer);
              whole[q] = part ? b.join(whole[q], integer) : integer;
            }
          }
          for (size_t q = 0; q < size; ++q) {
            Value query = b.add(first, static_cast<int64_t>(q));
            Value saturated = saturate(whole[q]);
            b.store(saturated,
                    b.at(integers, element(query, column), kElementBytes), 2);
          }
          return next;
        });
    auto all = ArrayRef<Value>(sums);
    Value exact = b.sumLanes(all.take_front(size));
    Value rounded = b.sumLanes(all.drop_front(size));
    return {exact, arith::SIToFPOp::create(b, exact.getType(), rounded)};
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
///
/// A register of codes has one vector of HostLayout.h or two neighbours: of a
/// bundle at levels 8 and 4, of two runs at level 2, where a bundle is one. The
/// halves of a sum, one for each, have outputs of their own.
class IntegerContraction {
public:
  IntegerContraction(TileBuilder &b, ContractIntegersOp op,
                     ContractIntegersOp::Adaptor values)
      : b(b), type(op.getTile().getType()), level(type.getLevel()),
        layout(type), halves(halvesOf(b, layout, level)),
        lanes(halves * kLanes), sums(listSums()), rows(values.getIntegers()),
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
    int64_t block = rowsAtATime(), whole = queries / block * block;
    b.forEach(whole, [&](Value first) { contract(first, block); }, block);
    if (whole < queries)
      contract(b.constI64(whole), queries - whole);
    return result;
  }

private:
  /// A field of a register of codes, and which group of outputs it is of in the
  /// register's lower half.
  struct Sum {
    int64_t reg;
    int64_t field;
    int64_t group;
  };

  /// Halves of a register.  Neighbours must be of the same quad.
  static int64_t halvesOf(const TileBuilder &b, const CodeLayout &layout,
                          int64_t level) {
    bool pairs =
        layout.stepQuads() == 1 &&
        (CodeLayout::vectorsPerBundle(level) > 1 || layout.runs % 2 == 0);
    return b.isWide() && pairs ? 2 : 1;
  }

  /// Bundles of neighbouring runs that are read together.
  int64_t runsAtATime() const {
    return CodeLayout::vectorsPerBundle(level) < halves ? 2 : 1;
  }

  SmallVector<Sum> listSums() const {
    SmallVector<Sum> list;
    int64_t vectors = CodeLayout::vectorsPerBundle(level);
    for (int64_t v = 0; v < vectors; v += halves)
      for (int64_t field = 0; field < CodeLayout::fields(level); ++field)
        list.push_back(
            {v / halves, field, CodeLayout::groupOf(level, v, field)});
    return list;
  }

  /// Sums that are taken at a time.  In 16 registers two, with four rows eight
  /// accumulators and what they are made of; the wide ones are 32, and codes
  /// are read once.
  int64_t sumsAtATime() const {
    return halves > 1 ? static_cast<int64_t>(sums.size()) : 2;
  }
  /// How often a bundle is read.
  int64_t passes() const {
    return static_cast<int64_t>(sums.size()) / sumsAtATime();
  }

  /// Rows that are taken at a time.
  int64_t rowsAtATime() const {
    int64_t most = (halves > 1 ? 16 : 8) / sumsAtATime();
    for (int64_t block = most; block > 2; --block)
      if (queries % block == 0)
        return block;
    return std::min(queries, most);
  }

  /// One run of outputs after the other, `count` rows from `first` on.
  void contract(Value first, int64_t count) {
    Value in = b.at(rows, b.mul(first, rowStride), kElementBytes);
    b.forEach(
        layout.runs,
        [&](Value run) {
          for (int64_t pass = 0; pass < passes(); ++pass) {
            auto taken = ArrayRef<Sum>(sums).slice(
                static_cast<size_t>(pass * sumsAtATime()),
                static_cast<size_t>(sumsAtATime()));
            storeSums(first, run, taken, count,
                      sumRun(in, run, pass, taken, count));
          }
        },
        runsAtATime());
  }

  /// Accumulators [sum][row].
  SmallVector<Value> sumRun(Value in, Value run, int64_t pass,
                            ArrayRef<Sum> taken, int64_t count) {
    SmallVector<Value> zeros(taken.size() * static_cast<size_t>(count),
                             b.splatInt(b.i32Vector(lanes), 0));
    Value vector =
        b.mul(run, layout.runStride * CodeLayout::vectorsPerBundle(level));
    Value part = b.add(b.mul(b.divide(run, runsAtATime()), passes()), pass);
    int64_t parts = layout.runs / runsAtATime() * passes();
    // A block of keys has whole runs of tokens, a block of values whole steps
    // over them.
    if (type.getPart() == Part::Key) {
      Value codes = b.codeVector(tile, vector, type.getHeadDim());
      return sumSteps(codes, layout.steps, in, aheadOf(part, parts), taken,
                      count, zeros);
    }
    int64_t blocks = rt::blocksAtLevel(level), steps = layout.steps / blocks;
    Value offset = b.mul(vector, kVectorBytes);
    auto sumBlock = [&](Value block, ValueRange running) {
      Value codes = b.offset(b.blockAt(tile, block, type.getHeadDim()), offset);
      Value row = b.at(in, block, steps * stepBytes());
      Value next = aheadOf(b.add(b.mul(part, blocks), block), parts * blocks);
      return sumSteps(codes, steps, row, next, taken, count, running);
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
                              ArrayRef<Sum> taken, int64_t count,
                              ValueRange init) {
    int64_t bundleBytes = CodeLayout::vectorsPerBundle(level) * kVectorBytes;
    int64_t aheadBytes = bundleBytes * runsAtATime() / passes();
    return b.loop(steps, 1, init, [&](Value step, ValueRange running) {
      for (int64_t line = 0; next && line < aheadBytes; line += kCacheLineBytes)
        b.prefetch(b.offset(b.at(next, step, aheadBytes), line));
      Value bundle = b.at(codes, step, layout.stepStride * bundleBytes);
      Value quad = b.offset(b.at(row, step, stepBytes()),
                            layout.quadOf(taken.front().group) * kQuadBytes);
      return addBundle(bundle, quad, taken, count, running);
    });
  }

  SmallVector<Value> addBundle(Value bundle, Value row, ArrayRef<Sum> taken,
                               int64_t count, ValueRange running) {
    SmallVector<Value> next(running);
    for (int64_t pair : {0, 1}) {
      SmallVector<Value> codes;
      for (const Sum &sum : taken)
        codes.push_back(codePair(bundle, sum, pair));
      for (int64_t q = 0; q < count; ++q) {
        Value elements = rowPair(row, q, pair);
        for (auto [i, code] : llvm::enumerate(codes)) {
          Value &sum =
              next[i * static_cast<size_t>(count) + static_cast<size_t>(q)];
          sum = addProducts(sum, code, elements);
        }
      }
    }
    return next;
  }

  /// First bit of a sum's field in its byte.
  int64_t bitOf(const Sum &sum) const {
    return CodeLayout::bitOf(level, sum.field);
  }

  /// A register of codes as 16-bit words.
  Value loadWords(Value bundle, int64_t reg) {
    Value first = b.offset(bundle, reg * halves * kVectorBytes);
    const int64_t apart = runsAtATime() > 1 ? layout.runStride : 1;
    if (halves == 1 || apart == 1)
      return b.load(i16Vector(b, 2 * lanes), first, 4);
    auto half = i16Vector(b, 2 * kLanes);
    Value lower = b.load(half, first, 4);
    return b.join(lower,
                  b.load(half, b.offset(first, apart * kVectorBytes), 4));
  }

  /// Codes 2 `pair` and 2 `pair` + 1 of the quad, 2^bitOf(sum) times.
  Value codePair(Value bundle, const Sum &sum, int64_t pair) {
    Value words = loadWords(bundle, sum.reg);
    constexpr int64_t byteBits = 8;
    if (pair == 1)
      words = arith::ShRUIOp::create(b, words,
                                     b.splatInt(words.getType(), byteBits));
    if (pair == 1 && level == byteBits)
      return words;
    int64_t mask = ((1 << level) - 1) << bitOf(sum);
    return arith::AndIOp::create(b, words, b.splatInt(words.getType(), mask));
  }

  /// Elements 2 `pair` and 2 `pair` + 1 of the quad of row `q`, in all lanes.
  Value rowPair(Value row, int64_t q, int64_t pair) {
    Value address =
        b.offset(row, q * rowStride * kElementBytes + pair * kPairBytes);
    Value pairs =
        b.broadcast(b.load(b.getI32Type(), address, 2), b.i32Vector(lanes));
    return vector::BitCastOp::create(b, i16Vector(b, 2 * lanes), pairs);
  }

  /// sum + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1], in the form that LLVM
  /// knows as one instruction (vpmaddwd and an addition, or vpdpwssd).
  Value addProducts(Value sum, Value codes, Value elements) {
    auto wide = b.i32Vector(2 * lanes);
    Value left = arith::ExtUIOp::create(b, wide, codes);
    Value right = arith::ExtSIOp::create(b, wide, elements);
    Value products = arith::MulIOp::create(b, left, right);
    Value even = everyOther(products, 0), odd = everyOther(products, 1);
    return arith::AddIOp::create(b, sum, arith::AddIOp::create(b, even, odd));
  }

  Value everyOther(Value products, int64_t first) {
    SmallVector<int64_t> elements(static_cast<size_t>(lanes));
    for (auto [i, element] : llvm::enumerate(elements))
      element = first + 2 * static_cast<int64_t>(i);
    return vector::ShuffleOp::create(b, products, products, elements);
  }

  /// First output of a half of `sum`, from the run's on.
  int64_t outputOf(const Sum &sum, int64_t half) const {
    if (runsAtATime() > 1)
      return layout.outputOf(sum.group) + half * layout.runOutputs();
    return layout.outputOf(sum.group + half * CodeLayout::fields(level));
  }

  void storeSums(Value first, Value run, ArrayRef<Sum> taken, int64_t count,
                 ArrayRef<Value> accumulators) {
    Value column = b.mul(run, layout.runOutputs());
    auto f32 = b.f32Vector(lanes);
    for (int64_t q = 0; q < count; ++q) {
      Value query = b.add(first, q);
      Value unit = b.load(b.getF32Type(), b.at(units, query));
      Value bias = b.load(b.getF32Type(), b.at(biases, query));
      bias = b.broadcast(bias, f32);
      Value out = b.at(result, b.add(b.mul(query, outStride), column));
      for (auto [i, sum] : llvm::enumerate(taken)) {
        Value exponent =
            b.constF32(std::ldexp(1.0, -static_cast<int>(bitOf(sum))));
        Value factor =
            b.broadcast(arith::MulFOp::create(b, unit, exponent), f32);
        Value number = arith::SIToFPOp::create(
            b, f32,
            accumulators[i * static_cast<size_t>(count) +
                         static_cast<size_t>(q)]);
        // What a bundle's first quad gave is in place already.
        Value before = layout.quadOf(sum.group)
                           ? b.loadLanes(b.offset(out, outputOf(sum, 0) * 4))
                           : bias;
        storeHalves(b.fma(number, factor, before), out, sum);
      }
    }
  }

  void storeHalves(Value outputs, Value out, const Sum &sum) {
    if (halves == 1 || outputOf(sum, 1) == outputOf(sum, 0) + kLanes) {
      b.store(outputs, b.offset(out, outputOf(sum, 0) * 4), 4);
      return;
    }
    for (int64_t half = 0; half < halves; ++half)
      b.store(b.slice(outputs, half * kLanes, kLanes),
              b.offset(out, outputOf(sum, half) * 4), 4);
  }

  TileBuilder &b;
  TileType type;
  int64_t level;
  CodeLayout layout;
  int64_t halves, lanes;
  SmallVector<Sum> sums;
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
                                           const TypeConverter &converter,
                                           int64_t registerBytes) {
  patterns.add<TilePattern<RoundRowsOp, lowerRoundRows>,
               TilePattern<ContractIntegersOp, lowerContractIntegers>>(
      converter, patterns.getContext(), registerBytes);
}
