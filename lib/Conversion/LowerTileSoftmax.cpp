//===- LowerTileSoftmax.cpp - Weights of a tile of scores -----------------===//
//
// Lowers mask_scores, tile_softmax and pack_weights, and the same of columns.
// Neighbours: PMKVQWarpgroupOps.td, PMKVQOperandOps.td, LowerOnlineSoftmax.cpp
// (decode's, which looks for a maximum: units are small there, and other work
// waits for it).
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "WarpgroupBuilder.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/WarpgroupLayout.h"
#include <limits>

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERTILESOFTMAX
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
using ::pmkvq::HalfTile;

/// How far above the largest score a maximum is set, log2: so much it may be
/// exceeded by later scores, and once more, before it rises again.
static constexpr double kTileHeadroom = 4.0;
/// The same where it rises before weights are made: at once where exceeded.
static constexpr double kFarHeadroom = 5.0;
/// Weights are positive, and have this bit if they are 2 or more.
static constexpr int64_t kTwoBit = 0x40000000;

/// Which of a lane's two rows element i belongs to.
static size_t rowOf(size_t i) { return i / 2 % 2; }

static SmallVector<Value> maskScores(LaneBuilder &b, MaskScoresOp op) {
  Values scores = b.unpack(op.getScores());
  Value hidden = b.f32(-std::numeric_limits<double>::infinity());
  Value lane = b.mul(op.getLane(), HalfTile::kScoreLaneTokens);
  Value visible[] = {b.sub(op.getFirst(), lane), b.sub(op.getSecond(), lane)};
  for (size_t i = 0; i < scores.size(); ++i) {
    Value sees = b.compare(arith::CmpIPredicate::sgt, visible[rowOf(i)],
                           HalfTile::scoreToken(static_cast<int64_t>(i)));
    scores[i] = b.select(sees, scores[i], hidden);
  }
  return {b.pack(scores)};
}

/// What `choose` leaves of each row's `values`, over the row's four lanes.
static SmallVector<Value, 2>
overRows(LaneBuilder &b, const Values &values,
         function_ref<Value(Value, Value)> choose) {
  SmallVector<Value, 2> chosen(2);
  for (size_t i = 0; i < values.size(); ++i) {
    Value &row = chosen[rowOf(i)];
    row = row ? choose(row, values[i]) : values[i];
  }
  for (Value &row : chosen)
    for (int64_t mask : {1, 2})
      row = choose(row, b.shuffleXor(row, mask));
  return chosen;
}

static SmallVector<Value, 2> largestOfRows(LaneBuilder &b,
                                           const Values &values) {
  return overRows(b, values, [&](Value x, Value y) { return b.maxF(x, y); });
}

/// `all`, which may be null, and the bits of `value`.
static void joinBits(LaneBuilder &b, Value &all, Value value) {
  Value bits =
      value.getType().isF32() ? b.bitcast(value, b.getI32Type()) : value;
  all = all ? arith::OrIOp::create(b, all, bits).getResult() : bits;
}

namespace {
/// What the two rows of a lane have, and weights or distances from a maximum.
struct Rows {
  Value maximum[2], sum[2], rescale[2];
  Values values;

  /// Becomes what `raise` makes of it where `rises`.
  void raiseWhere(LaneBuilder &b, Value rises, function_ref<void(Rows &)> raise,
                  function_ref<void(Rows &)> otherwise) {
    SmallVector<Type> types(values.size() + 6, b.getF32Type());
    auto branch = scf::IfOp::create(b, types, rises, /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    for (bool isThen : {true, false}) {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(isThen ? branch.thenBlock()
                                        : branch.elseBlock());
      Rows after = *this;
      isThen ? raise(after) : otherwise(after);
      SmallVector<Value> all(after.values);
      for (const auto *group : {&after.maximum, &after.sum, &after.rescale})
        llvm::append_range(all, *group);
      scf::YieldOp::create(b, all);
    }
    ValueRange results = branch.getResults();
    values.assign(results.begin(), results.begin() + values.size());
    results = results.drop_front(values.size());
    for (auto *group : {&maximum, &sum, &rescale})
      for (Value &value : *group) {
        value = results.front();
        results = results.drop_front();
      }
  }
};
} // namespace

/// What is done where a weight has become 2 or more: the maximum rises to
/// kTileHeadroom above the largest score.
static void raise(LaneBuilder &b, Rows &rows, ArrayRef<Value> sums) {
  SmallVector<Value, 2> largest = largestOfRows(b, rows.values);
  for (size_t row = 0; row < 2; ++row) {
    Value above = b.addF(b.log2(largest[row]), b.f32(kTileHeadroom));
    Value isAbove = arith::CmpFOp::create(b, arith::CmpFPredicate::OGT,
                                          largest[row], b.f32(1.0));
    Value by = b.select(isAbove, above, b.f32(0.0));
    rows.maximum[row] = b.addF(rows.maximum[row], by);
    rows.rescale[row] = b.exp2(b.subF(b.f32(0.0), by));
    Value total = b.addF(rows.sum[row], sums[row]);
    rows.sum[row] = b.mulF(total, rows.rescale[row]);
  }
  for (size_t i = 0; i < rows.values.size(); ++i)
    rows.values[i] = b.mulF(rows.values[i], rows.rescale[rowOf(i)]);
}

/// The same before there are weights: `rows` has distances below the maximum,
/// of which one is negative.
static void raiseFar(LaneBuilder &b, Rows &rows) {
  SmallVector<Value, 2> least =
      overRows(b, rows.values, [&](Value x, Value y) { return b.minF(x, y); });
  Value by[2];
  for (size_t row = 0; row < 2; ++row) {
    Value isAbove = arith::CmpFOp::create(b, arith::CmpFPredicate::OLT,
                                          least[row], b.f32(0.0));
    by[row] =
        b.select(isAbove, b.subF(b.f32(kFarHeadroom), least[row]), b.f32(0.0));
    rows.maximum[row] = b.addF(rows.maximum[row], by[row]);
    rows.rescale[row] = b.exp2(b.subF(b.f32(0.0), by[row]));
    rows.sum[row] = b.mulF(rows.sum[row], rows.rescale[row]);
  }
  for (size_t i = 0; i < rows.values.size(); ++i)
    rows.values[i] = b.addF(rows.values[i], by[rowOf(i)]);
}

namespace {
/// Sums of each row's weights, and the bits of all together.
struct WeightSums {
  Value rows[2], bits;
};
} // namespace

static WeightSums sumWeights(LaneBuilder &b, const Values &weights) {
  WeightSums sums;
  for (size_t i = 0; i < weights.size(); i += 2) {
    Value pair = b.addF(weights[i], weights[i + 1]);
    Value &sum = sums.rows[rowOf(i)];
    sum = sum ? b.addF(sum, pair) : pair;
    joinBits(b, sums.bits, weights[i]);
    joinBits(b, sums.bits, weights[i + 1]);
  }
  return sums;
}

/// Weights against the maximum there is, which rises after; gives whether.
static Value weigh(WarpgroupBuilder &b, Rows &rows, const Values &scores,
                   ArrayRef<Value> factors, bool first) {
  Value below[2];
  for (size_t row = 0; row < 2; ++row)
    below[row] = b.subF(b.f32(0.0), rows.maximum[row]);
  for (size_t i = 0; i < scores.size(); ++i)
    rows.values.push_back(
        b.exp2(b.fma(scores[i], factors[rowOf(i)], below[rowOf(i)])));
  WeightSums sums = sumWeights(b, rows.values);
  if (first) {
    std::copy_n(sums.rows, 2, rows.sum);
    return arith::ConstantOp::create(b, b.getBoolAttr(false));
  }
  Value bits = b.andBits(sums.bits, kTwoBit);
  Value rises = b.any(b.compare(arith::CmpIPredicate::ne, bits, int64_t{0}));
  rows.raiseWhere(
      b, rises, [&](Rows &after) { raise(b, after, sums.rows); },
      [&](Rows &after) {
        for (size_t row = 0; row < 2; ++row)
          after.sum[row] = b.addF(after.sum[row], sums.rows[row]);
      });
  return rises;
}

/// The same where scores may be 2^7 above the maximum, so that weights would be
/// infinite: it rises before.
static Value weighFar(WarpgroupBuilder &b, Rows &rows, const Values &scores,
                      ArrayRef<Value> factors) {
  Value minus[2];
  for (size_t row = 0; row < 2; ++row)
    minus[row] = arith::NegFOp::create(b, factors[row]);
  for (size_t i = 0; i < scores.size(); ++i)
    rows.values.push_back(
        b.fma(scores[i], minus[rowOf(i)], rows.maximum[rowOf(i)]));
  // The sign of all distances together, in chains that do not wait for each
  // other: nothing else is to be done meanwhile.
  constexpr size_t kChains = 4;
  Value chains[kChains], bits;
  for (size_t i = 0; i < rows.values.size(); ++i)
    joinBits(b, chains[i / 2 % kChains], rows.values[i]);
  for (Value chain : chains)
    joinBits(b, bits, b.forget(chain));
  Value rises = b.any(b.compare(arith::CmpIPredicate::slt, bits, int64_t{0}));
  rows.raiseWhere(
      b, rises, [&](Rows &after) { raiseFar(b, after); }, [](Rows &) {});
  for (Value &value : rows.values)
    value = b.exp2(arith::NegFOp::create(b, value));
  WeightSums sums = sumWeights(b, rows.values);
  for (size_t row = 0; row < 2; ++row)
    rows.sum[row] = b.addF(rows.sum[row], sums.rows[row]);
  return rises;
}

static SmallVector<Value> softmax(LaneBuilder &lanes, TileSoftmaxOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  Values scores = b.unpack(op.getScores());
  Value factors[] = {op.getFactor0(), op.getFactor1()};
  Value one = b.f32(1.0);
  Rows rows = {{op.getMax0(), op.getMax1()},
               {op.getSum0(), op.getSum1()},
               {one, one},
               {}};
  if (op.getFirst()) {
    SmallVector<Value, 2> largest = largestOfRows(b, scores);
    for (size_t row = 0; row < 2; ++row)
      rows.maximum[row] =
          b.fma(largest[row], factors[row],
                b.f32(op.getFar() ? kFarHeadroom : kTileHeadroom));
  }
  Value rises = op.getFar() && !op.getFirst()
                    ? weighFar(b, rows, scores, factors)
                    : weigh(b, rows, scores, factors, op.getFirst());
  return {b.pack(rows.values), rows.maximum[0], rows.maximum[1],
          rows.sum[0],         rows.sum[1],     rises,
          rows.rescale[0],     rows.rescale[1]};
}

static SmallVector<Value> packWeights(LaneBuilder &b, PackWeightsOp op) {
  Values weights = b.unpack(op.getWeights()), words;
  for (size_t i = 0; i < weights.size(); i += 2)
    words.push_back(b.packHalves(weights[i], weights[i + 1]));
  return {b.pack(words)};
}

//===----------------------------------------------------------------------===//
// Columns
//===----------------------------------------------------------------------===//

/// Which of a lane's queries accumulator i of n belongs to, and how far its
/// token is from the lane's first.
static size_t columnQuery(size_t i, size_t n) {
  size_t inProduct = i % (n / 2);
  return inProduct / 4 * 2 + inProduct % 2;
}
static int64_t columnToken(size_t i, size_t n) {
  size_t inProduct = i % (n / 2);
  return static_cast<int64_t>(i / (n / 2) * 16 + inProduct % 4 / 2 * 8);
}

static SmallVector<Value> maskColumns(LaneBuilder &b, MaskColumnsOp op) {
  Values scores = b.unpack(op.getScores());
  Values visible = b.unpack(op.getVisible());
  Value hidden = b.f32(-std::numeric_limits<double>::infinity());
  for (Value &count : visible)
    count = b.sub(count, op.getToken());
  for (size_t i = 0; i < scores.size(); ++i) {
    Value sees = b.compare(arith::CmpIPredicate::sgt,
                           visible[columnQuery(i, scores.size())],
                           columnToken(i, scores.size()));
    scores[i] = b.select(sees, scores[i], hidden);
  }
  return {b.pack(scores)};
}

static SmallVector<Value> largestOfColumns(LaneBuilder &b,
                                           LargestOfColumnsOp op) {
  Values scores = b.unpack(op.getScores());
  Values largest(scores.size() / 4);
  for (size_t i = 0; i < scores.size(); ++i) {
    Value &query = largest[columnQuery(i, scores.size())];
    query = query ? b.maxF(query, scores[i]) : scores[i];
  }
  for (Value &query : largest)
    for (int64_t mask : {4, 8, 16})
      query = b.maxF(query, b.shuffleXor(query, mask));
  return {b.pack(largest)};
}

static void addTo(LaneBuilder &b, Value &sum, Value value) {
  sum = sum ? b.addF(sum, value) : value;
}

static SmallVector<Value> weighColumns(LaneBuilder &b, WeighColumnsOp op) {
  Values scores = b.unpack(op.getScores());
  Values below = b.unpack(op.getMaxima());
  for (Value &maximum : below)
    maximum = b.subF(b.f32(0.0), maximum);
  const size_t n = scores.size();
  Values folding, weights, sums(n / 4), offsets(n / 4);
  if (Value all = op.getFolding())
    folding = b.unpack(all);
  Value bits;
  for (size_t i = 0; i < n; ++i) {
    size_t query = columnQuery(i, n), token = columnToken(i, n) / 8;
    Value weight =
        b.exp2(b.fma(scores[i], op.getFactors()[token], below[query]));
    addTo(b, sums[query], weight);
    Value these = b.bitcast(weight, b.getI32Type());
    bits = bits ? arith::OrIOp::create(b, bits, these).getResult() : these;
    if (!folding.empty()) {
      Value offset = folding[folding.size() / 2 + token];
      Value &sum = offsets[query];
      sum = sum ? b.fma(weight, offset, sum) : b.mulF(weight, offset);
      weight = b.mulF(weight, folding[token]);
    }
    weights.push_back(weight);
  }
  // Rows g of product m, then rows g + 8.
  Values words;
  for (size_t m = 0; m < 2; ++m)
    for (size_t u = 0; u < 2; ++u)
      for (size_t j = 0; j < n / 8; ++j) {
        size_t i = m * (n / 2) + 4 * j + 2 * u;
        words.push_back(b.packHalves(weights[i], weights[i + 1]));
      }
  Value above =
      b.compare(arith::CmpIPredicate::ne, b.andBits(bits, kTwoBit), 0);
  SmallVector<Value> results = {b.pack(words), b.pack(sums), above};
  if (!folding.empty())
    results.push_back(b.pack(offsets));
  return results;
}

static SmallVector<Value> storeWeights(LaneBuilder &lanes, StoreWeightsOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  Values words = b.unpack(op.getWords());
  const size_t columns = words.size() / 4;
  // Lane 8 i + r has row r, a query, of matrix i: tokens 8 (i % 2) further,
  // queries 8 (i / 2) further.
  Value r = b.andBits(op.getLane(), 7), i = b.shr(op.getLane(), 3);
  Value query = b.add(b.shl(b.shr(i, 1), 3), r);
  // Of 16 chunks of 8 tokens the warp's first, in its half, and its half.
  Value chunk = b.shl(b.andBits(op.getWarp(), 1), 2);
  chunk = b.add(chunk, b.andBits(i, 1));
  chunk = arith::XOrIOp::create(b, chunk, r);
  const auto halfBytes =
      static_cast<int64_t>(columns) * 8 * HalfTile::kRowBytes;
  Value place = b.mul(b.shr(op.getWarp(), 1), halfBytes);
  place = b.add(place, b.mul(query, HalfTile::kRowBytes));
  place = b.add(place, b.mul(chunk, HalfTile::kChunkBytes));
  place = b.add(place, b.toInteger(op.getTile()));
  for (size_t m = 0; m < 2; ++m) {
    // Two chunks further; the swizzle leaves that bit alone otherwise.
    Value start = b.toShared(
        b.xorBits(place, static_cast<int64_t>(m) * 2 * HalfTile::kChunkBytes));
    for (size_t j = 0; j < columns; j += 2) {
      auto word = [&](size_t u, size_t column) {
        return words[(2 * m + u) * columns + column];
      };
      SmallVector<Value> matrices = {word(0, j), word(1, j)};
      if (j + 1 < columns) {
        matrices.push_back(word(0, j + 1));
        matrices.push_back(word(1, j + 1));
      }
      b.storeTransposed(matrices, b.at(start, static_cast<int64_t>(j) * 8 *
                                                  HalfTile::kRowBytes));
    }
  }
  return {};
}

namespace {
class LowerTileSoftmaxPass
    : public mlir::pmkvq::impl::LowerTileSoftmaxBase<LowerTileSoftmaxPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<MaskScoresOp>(getOperation(), maskScores);
    replaceEach<TileSoftmaxOp>(getOperation(), softmax);
    replaceEach<PackWeightsOp>(getOperation(), packWeights);
    replaceEach<MaskColumnsOp>(getOperation(), maskColumns);
    replaceEach<LargestOfColumnsOp>(getOperation(), largestOfColumns);
    replaceEach<WeighColumnsOp>(getOperation(), weighColumns);
    replaceEach<StoreWeightsOp>(getOperation(), storeWeights);
  }
};
} // namespace
