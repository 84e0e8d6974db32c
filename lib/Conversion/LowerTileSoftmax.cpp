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

/// Largest of `values` of each row, over the row's four lanes.
static SmallVector<Value, 2> largestOfRows(LaneBuilder &b,
                                           const Values &values) {
  SmallVector<Value, 2> largest(2);
  for (size_t i = 0; i < values.size(); ++i) {
    Value &row = largest[rowOf(i)];
    row = row ? b.maxF(row, values[i]) : values[i];
  }
  for (Value &row : largest)
    for (int64_t mask : {1, 2})
      row = b.maxF(row, b.shuffleXor(row, mask));
  return largest;
}

namespace {
/// What the two rows of a lane have.
struct Rows {
  Value maximum[2], sum[2], rescale[2];
};
} // namespace

/// What is done where a weight has become 2 or more: the maximum rises to
/// kTileHeadroom above the largest score.
static void raise(LaneBuilder &b, Values &weights, Rows &rows,
                  ArrayRef<Value> sums) {
  SmallVector<Value, 2> largest = largestOfRows(b, weights);
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
  for (size_t i = 0; i < weights.size(); ++i)
    weights[i] = b.mulF(weights[i], rows.rescale[rowOf(i)]);
}

static SmallVector<Value> softmax(LaneBuilder &lanes, TileSoftmaxOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  Values scores = b.unpack(op.getScores());
  Value factors[] = {op.getFactor0(), op.getFactor1()};
  Value one = b.f32(1.0);
  Rows rows = {
      {op.getMax0(), op.getMax1()}, {op.getSum0(), op.getSum1()}, {one, one}};
  if (op.getFirst()) {
    SmallVector<Value, 2> largest = largestOfRows(b, scores);
    for (size_t row = 0; row < 2; ++row)
      rows.maximum[row] =
          b.fma(largest[row], factors[row], b.f32(kTileHeadroom));
  }
  Value below[2];
  for (size_t row = 0; row < 2; ++row)
    below[row] = b.subF(b.f32(0.0), rows.maximum[row]);
  Values weights;
  for (size_t i = 0; i < scores.size(); ++i)
    weights.push_back(
        b.exp2(b.fma(scores[i], factors[rowOf(i)], below[rowOf(i)])));
  Value sums[2], bits;
  for (size_t i = 0; i < weights.size(); i += 2) {
    Value pair = b.addF(weights[i], weights[i + 1]);
    Value &sum = sums[rowOf(i)];
    sum = sum ? b.addF(sum, pair) : pair;
    for (size_t j : {i, i + 1}) {
      Value these = b.bitcast(weights[j], b.getI32Type());
      bits = bits ? arith::OrIOp::create(b, bits, these).getResult() : these;
    }
  }
  if (op.getFirst()) {
    Value never = arith::ConstantOp::create(b, b.getBoolAttr(false));
    return {b.pack(weights),
            rows.maximum[0],
            rows.maximum[1],
            sums[0],
            sums[1],
            never,
            one,
            one};
  }
  Value rises =
      b.any(b.compare(arith::CmpIPredicate::ne, b.andBits(bits, kTwoBit), 0));
  auto yield = [&](const Values &values, const Rows &rows) {
    SmallVector<Value> all(values);
    for (const auto *group : {&rows.maximum, &rows.sum, &rows.rescale})
      llvm::append_range(all, *group);
    scf::YieldOp::create(b, all);
  };
  SmallVector<Type> types(weights.size() + 6, b.getF32Type());
  auto branch = scf::IfOp::create(b, types, rises, /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    Values raised = weights;
    Rows after = rows;
    raise(b, raised, after, sums);
    yield(raised, after);
    b.setInsertionPointToStart(branch.elseBlock());
    for (size_t row = 0; row < 2; ++row)
      rows.sum[row] = b.addF(rows.sum[row], sums[row]);
    yield(weights, rows);
  }
  ValueRange results = branch.getResults();
  size_t n = weights.size();
  return {b.pack(Values(results.take_front(n))),
          results[n],
          results[n + 1],
          results[n + 2],
          results[n + 3],
          rises,
          results[n + 4],
          results[n + 5]};
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

static SmallVector<Value> weighColumns(LaneBuilder &b, WeighColumnsOp op) {
  Values scores = b.unpack(op.getScores());
  Values below = b.unpack(op.getMaxima());
  for (Value &maximum : below)
    maximum = b.subF(b.f32(0.0), maximum);
  const size_t n = scores.size();
  Value factor = b.f32(1.0 / HalfTile::kUnit), bits;
  Values weights, sums(n / 4);
  for (size_t i = 0; i < n; ++i) {
    size_t query = columnQuery(i, n);
    Value weight = b.exp2(b.fma(scores[i], factor, below[query]));
    weights.push_back(weight);
    sums[query] = sums[query] ? b.addF(sums[query], weight) : weight;
    Value these = b.bitcast(weight, b.getI32Type());
    bits = bits ? arith::OrIOp::create(b, bits, these).getResult() : these;
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
  return {b.pack(words), b.pack(sums), above};
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
