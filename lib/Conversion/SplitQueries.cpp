//===- SplitQueries.cpp - Queries times ranges as pairs of bytes ----------===//
//
// Lowers split_rows, weigh_rows and sum_bytes.  Neighbours: PMKVQLaneOps.td,
// UnitLowering.cpp (who asks).
//
// Why two bytes: matrix instructions on bytes have half the count of those on
// f16 and need no conversion of codes.
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/FragmentLayout.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_SPLITQUERIES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;

// f16 bits.
static constexpr uint16_t kOne = 0x3c00, kMinusOne = 0xbc00;
static constexpr uint16_t k254 = 0x5bf0;
static_assert(::pmkvq::FragmentLayout::kQueryUnits == 254);
/// 1.5 * 2^10: adding it rounds to an integer, which its low byte then holds.
static constexpr uint16_t kRounder = 0x6600;

/// Exponent field of the largest |element| of column g, at least 5: below, the
/// factor 2^(35 - E - 15) would leave f16.
static Value largestExponent(LaneBuilder &b, const Values &words,
                             bool absoluteMaximum) {
  auto larger = [&](Value x, Value y) {
    if (absoluteMaximum)
      return b.maxAbsHalves(x, y);
    constexpr int64_t kAbsolute = 0x7fff7fff;
    Value left = b.andBits(x, kAbsolute);
    return b.maxHalves(left, b.andBits(y, kAbsolute));
  };
  Value largest = b.i32(0);
  for (size_t i = 0; i < words.size(); i += 4) {
    Value first = larger(largest, words[i]);
    Value second = larger(larger(words[i + 1], words[i + 2]), words[i + 3]);
    largest = larger(first, second);
  }
  largest = b.andBits(largest, 0x7fff7fff);
  auto maximum = [&](Value x, Value y) -> Value {
    return arith::MaxUIOp::create(b, x, y);
  };
  Value low = b.andBits(largest, 0xffff);
  Value bits = maximum(low, b.shr(largest, 16));
  for (int64_t mask : {1, 2})
    bits = maximum(bits, b.shuffleXor(bits, mask));
  return maximum(b.shr(bits, 10), b.i32(5));
}

/// The bytes that rounding left at the bottom of each half.
static Value packBytes(LaneBuilder &b, const Values &rounded) {
  Values bytes;
  for (size_t i = 0; i < rounded.size(); i += 2)
    bytes.push_back(b.permute(rounded[i], rounded[i + 1], 0x6420));
  return b.pack(bytes);
}

/// Neighbouring columns are a query's high and low bytes: each lane makes
/// either, with the same instructions.
static Values splitColumns(LaneBuilder &b, const Values &words, Value scale) {
  // Lanes with odd g take what the high part left, times 254.
  Value isLow =
      b.compare(arith::CmpIPredicate::ne, b.andBits(b.threadId(), 4), 0);
  auto choose = [&](Value low, Value high) {
    return b.select(isLow, low, high);
  };
  Value zero = b.i32(0), rounder = b.splatHalf(kRounder);
  Value sign = choose(b.splatHalf(kMinusOne), zero);
  Value back = choose(rounder, zero);
  Value unit = choose(b.splatHalf(k254), b.splatHalf(kOne));
  Values rounded;
  for (Value word : words) {
    Value high = b.fmaHalves(word, scale, rounder);
    Value minusHigh = b.fmaHalves(high, sign, back);
    Value rest = b.fmaHalves(word, scale, minusHigh);
    rounded.push_back(b.fmaHalves(rest, unit, rounder));
  }
  return {packBytes(b, rounded)};
}

/// Each lane makes both, for two operands.
static Values splitOperands(LaneBuilder &b, const Values &words, Value scale) {
  Value rounder = b.splatHalf(kRounder), minusOne = b.splatHalf(kMinusOne);
  Value unit = b.splatHalf(k254);
  Values highs, lows;
  for (Value word : words) {
    Value high = b.fmaHalves(word, scale, rounder);
    Value minusHigh = b.fmaHalves(high, minusOne, rounder);
    Value rest = b.fmaHalves(word, scale, minusHigh);
    highs.push_back(high);
    lows.push_back(b.fmaHalves(rest, unit, rounder));
  }
  Value high = packBytes(b, highs), low = packBytes(b, lows);
  return {high, low};
}

static SmallVector<Value> splitRows(LaneBuilder &b, SplitRowsOp op,
                                    bool absoluteMaximum) {
  Values words = b.unpack(op.getRows());
  Value exponent = largestExponent(b, words, absoluteMaximum);
  // 2^(20 - E) in both halves: an exponent field of 35 - E.
  Value scale = b.mul(b.shl(b.sub(b.i32(35), exponent), 10), b.i32(0x10001));
  size_t queries = op.getBytes().size();
  Values results = queries == 1 ? splitColumns(b, words, scale)
                                : splitOperands(b, words, scale);
  // Scales, 2^(E - 20) / 254, come from the lanes of the queries' columns.
  Value bits = b.shl(b.add(exponent, 107), 23);
  Value source = b.shl(b.andBits(b.threadId(), 3), 3);
  for (size_t query = 0; query < queries; ++query) {
    Value mine = b.shuffle(bits, b.add(source, query * 4));
    results.push_back(
        b.mulF(b.bitcast(mine, b.getF32Type()), b.f32(1.0 / 254.0)));
  }
  return results;
}

/// Rows 0..7 of the A operand take words 0 and 2, rows 8..15 words 1 and 3: a
/// loaded quad is the operand as it is, and each half of the result is right
/// for its own.
static SmallVector<Value> weighRows(LaneBuilder &b, WeighRowsOp op) {
  Values rows = b.unpack(op.getRows()), by = b.unpack(op.getBy());
  Values first(4, b.f32(0.0)), second(4, b.f32(0.0));
  for (size_t i = 0; i < rows.size(); i += 4) {
    ArrayRef<Value> a = ArrayRef<Value>(by).slice(i, 4);
    first = b.mmaHalves(a, {rows[i], rows[i + 2]}, first);
    second = b.mmaHalves(a, {rows[i + 1], rows[i + 3]}, second);
  }
  Values sums;
  for (size_t query = 0; query < op.getSums().size(); ++query)
    sums.push_back(b.addF(first[query], second[2 + query]));
  return sums;
}

static SmallVector<Value> sumBytes(LaneBuilder &b, SumBytesOp op) {
  Values ones(4, b.i32(0x01010101));
  // [operand] sums of the lane's two columns.
  SmallVector<Values> sums;
  for (Value operand : op.getBytes()) {
    Values bytes = b.unpack(operand), sum(4, b.i32(0));
    for (size_t i = 0; i < bytes.size(); i += 2)
      sum = b.mmaBytes(ones, {bytes[i], bytes[i + 1]}, sum, /*isSigned=*/true);
    sums.push_back(sum);
  }
  SmallVector<Value> results;
  for (size_t query = 0; query < sums.size(); ++query) {
    Value high = sums[0][query],
          low = sums.back()[sums.size() == 1 ? 1 : query];
    results.push_back(
        b.toF32(b.add(b.mul(high, ::pmkvq::FragmentLayout::kQueryUnits), low)));
  }
  return results;
}

namespace {
class SplitQueriesPass
    : public mlir::pmkvq::impl::SplitQueriesBase<SplitQueriesPass> {
public:
  using SplitQueriesBase::SplitQueriesBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<WeighRowsOp>(getOperation(), weighRows);
    replaceEach<SumBytesOp>(getOperation(), sumBytes);
    replaceEach<SplitRowsOp>(getOperation(),
                             [&](LaneBuilder &b, SplitRowsOp op) {
                               return splitRows(b, op, absoluteMaximum);
                             });
  }
};
} // namespace
