//===- FoldColumns.cpp - Steps and offsets go into right operands ---------===//
//
// What a segment's page has of parameters, where its codes are multiplied as
// they are: queries times ranges of its channels, what their offsets add to
// scores, and factors and offsets of its tokens for weights.  Neighbours:
// SegmentKernel.h, SegmentsToWarpgroups.cpp, WarpgroupLayout.h (FoldedUnits).
//
//===----------------------------------------------------------------------===//

#include "CodeConstants.h"
#include "SegmentKernel.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FoldedUnits;
using ::pmkvq::HalfTile;
using ::pmkvq::ParameterLayout;

namespace {
class ColumnFolding : SegmentKernel {
public:
  explicit ColumnFolding(const SegmentKernel &kernel) : SegmentKernel(kernel) {}

  FoldedScores foldKeys(int64_t level, Value slot) {
    const AffineForm &form = forms[rt::kKey].find(level)->second;
    Value parameters = b.at(slot, SharedRowsLayout::kSlotParameters);
    // All loads come first.
    Values groups = loadGroups(level, parameters);
    SmallVector<Values> left;
    for (int64_t step = 0; step < 2; ++step)
      left.push_back(loadQueryOperand(step));
    ScaledQueries scaled = loadQueries(parameters);
    storeOffsets(form, left, groups);
    storeQueries(scaled);
    b.fenceShared();
    b.syncThreads(barrier, SharedRowsLayout::kWarpgroup);
    constexpr double unit =
        SharedRowsLayout::kQueryUnit * FoldedUnits::kCode * FoldedUnits::kRange;
    FoldedScores folded;
    folded.queries = scaledQueries();
    for (int32_t exponent : exponentsOf(rt::kKey, level))
      folded.factors.push_back(b.f32(std::ldexp(form.step / unit, -exponent)));
    return folded;
  }

  Values loadScoreOffsets() {
    Value t = b.shl(b.andBits(lane, 3), 1), firstWarp = b.i32(0);
    Values sums;
    for (size_t i = 0; i < queriesOfLane(); ++i) {
      Value sum;
      for (Value word :
           b.loadWords(offsetsAt(b.add(t, queryOffset(i)), firstWarp), 4)) {
        Value one = b.bitcast(word, b.getF32Type());
        sum = sum ? b.addF(sum, one) : one;
      }
      sums.push_back(sum);
    }
    return sums;
  }

  /// Lane g's tokens are 32 warp + 16 m + 8 u + g.
  Values foldValues(int64_t level, Value slot) {
    const AffineForm &form = forms[rt::kValue].find(level)->second;
    constexpr int64_t bytes = 2;
    Value place = b.mul(warp, ParameterLayout::perToken(32, 1) * bytes);
    place = b.add(
        place, b.mul(b.shr(lane, 2), ParameterLayout::perToken(1, 1) * bytes));
    Values words = b.loadWords(
        b.at(b.at(slot, SharedRowsLayout::kSlotParameters), place), 4);
    Values folding, offsets;
    for (int64_t token = 0; token < 4; ++token) {
      auto number = [&](int32_t which) {
        int64_t at =
            ParameterLayout::perToken(token / 2 * 16 + token % 2 * 8, which);
        return b.half(words[static_cast<size_t>(at / 2)], at % 2);
      };
      Value range = number(1), minimum = number(0);
      folding.push_back(
          b.mulF(range, b.f32(std::ldexp(form.step, weightExponent))));
      Value offset = b.mulF(minimum, b.f32(form.offset[0]));
      if (form.offset[1] != 0)
        offset = b.fma(range, b.f32(form.offset[1]), offset);
      offsets.push_back(offset);
    }
    llvm::append_range(folding, offsets);
    return folding;
  }

private:
  /// Where a warp's part of what offsets add to a query's scores is.
  Value offsetsAt(Value query, Value ofWarp) {
    Value place = b.add(b.mul(warpgroup, shared.rows), query);
    place = b.add(b.mul(place, int64_t{OperandShare::kWarps}), ofWarp);
    return b.at(b.at(base, shared.warpOffsets()), b.shl(place, 2));
  }

  /// Ranges of 32 channels, those of block `warp`, in pairs (e0 e2), (e1 e3),
  /// then minima.
  Values loadGroups(int64_t level, Value parameters) {
    constexpr int64_t bytes =
        2 * ParameterLayout::perChannel(32, 1, HalfTile::kColumns);
    return b.unpack(LoadGroupsOp::create(b, b.words(8), Part::Key, level,
                                         b.getI64IntegerAttr(0), warp, lane,
                                         b.at(parameters, b.mul(warp, bytes))));
  }

  /// Products of queries, left operands of 16 rows and 16 columns, with what
  /// all columns of the right operand are.
  Values multiplyGroups(ArrayRef<Values> left, ArrayRef<Value> right) {
    Values sums(4, b.f32(0.0));
    for (size_t step = 0; step < 2; ++step)
      sums = b.mmaHalves(left[step], right.slice(2 * step, 2), sums);
    return sums;
  }

  /// Queries times offsets of the warp's channels.  Minima and ranges are
  /// multiplied apart: as one f16 an offset far from 0 would lose the range.
  void storeOffsets(const AffineForm &form, ArrayRef<Values> left,
                    ArrayRef<Value> groups) {
    Values sums = multiplyGroups(left, groups.drop_front(4));
    for (Value &sum : sums)
      sum = b.mulF(sum, b.f32(form.offset[0] / SharedRowsLayout::kQueryUnit));
    if (form.offset[1] != 0) {
      Value by = b.f32(form.offset[1] / SharedRowsLayout::kQueryUnit);
      for (auto [sum, more] :
           llvm::zip(sums, multiplyGroups(left, groups.take_front(4))))
        sum = b.fma(more, by, sum);
    }
    // Lanes 4 g have rows g and g + 8.
    Value leads = b.compare(arith::CmpIPredicate::eq, b.andBits(lane, 3), 0);
    auto branch = scf::IfOp::create(b, leads, /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    for (int64_t row = 0; row < shared.rows; row += 8)
      b.store(sums[static_cast<size_t>(row / 4)],
              offsetsAt(b.add(b.shr(lane, 2), row), warp), 4);
  }

  /// All queries, 8 of them twice, and 16 columns of the warp's block: lane 8 i
  /// + r says where row r is of matrix i, 8 rows further in odd ones and 8
  /// columns in the last two.
  Values loadQueryOperand(int64_t step) {
    static_assert(SharedRowsLayout::kMostFoldedRows == 16);
    Value r = b.andBits(lane, 7), i = b.shr(lane, 3);
    Value row = r;
    if (shared.rows > 8)
      row = b.add(r, b.shl(b.andBits(i, 1), 3));
    Value chunk = b.add(b.shl(b.andBits(warp, 1), 2), b.shr(i, 1));
    chunk = arith::XOrIOp::create(b, b.add(chunk, 2 * step), r);
    Value place = b.mul(b.shr(warp, 1), shared.halfBytes());
    place = b.add(place, b.mul(row, HalfTile::kRowBytes));
    place = b.add(place, b.mul(chunk, HalfTile::kChunkBytes));
    return b.loadMatrices(b.at(b.at(base, shared.queries()), place), 4);
  }

  /// What a thread makes of the warpgroup's tile of queries times ranges: of
  /// every eighth query a chunk of 8 columns, pairs (e0 e2), or (e1 e3), of 16
  /// dims.
  struct ScaledQueries {
    Value place;
    Values factors;
    SmallVector<Values> words;
  };

  ScaledQueries loadQueries(Value parameters) {
    constexpr int64_t chunks = HalfTile::kColumns / HalfTile::kChunkColumns;
    constexpr int64_t headDim = HalfTile::kColumns;
    ScaledQueries scaled;
    Value self = b.andBits(b.threadId(), SharedRowsLayout::kWarpgroup - 1);
    Value chunk = b.andBits(self, chunks - 1), first = b.shr(self, 4);
    constexpr int64_t halfChunks =
        HalfTile::kHalfColumns / HalfTile::kChunkColumns;
    Value place =
        b.mul(b.shr(chunk, llvm::Log2_64(halfChunks)), shared.halfBytes());
    place = b.add(place, b.mul(first, HalfTile::kRowBytes));
    Value swizzled =
        arith::XOrIOp::create(b, b.andBits(chunk, halfChunks - 1), first);
    scaled.place = b.add(place, b.mul(swizzled, HalfTile::kChunkBytes));
    Value ranges = b.at(parameters,
                        b.mul(b.shr(chunk, 1),
                              2 * ParameterLayout::perChannel(16, 1, headDim)));
    SmallVector<Values> loaded;
    for (int64_t t = 0; t < 4; ++t)
      loaded.push_back(b.loadWords(
          b.at(ranges, 2 * ParameterLayout::perChannel(4 * t, 1, headDim)), 2));
    Value from = b.at(b.at(base, shared.queries()), scaled.place);
    for (int64_t row = 0; row < shared.rows; row += HalfTile::kSwizzleRows)
      scaled.words.push_back(
          b.loadWords(b.at(from, row * HalfTile::kRowBytes), 4));
    Value isOdd = b.compare(arith::CmpIPredicate::ne, b.andBits(chunk, 1), 0);
    Value unit = b.splatHalf(nearestHalf(FoldedUnits::kRange).first);
    for (const Values &words : loaded) {
      Value even = b.permute(words[0], words[1], 0x5410);
      Value odd = b.permute(words[0], words[1], 0x7632);
      scaled.factors.push_back(b.mulHalves(b.select(isOdd, odd, even), unit));
    }
    return scaled;
  }

  void storeQueries(const ScaledQueries &scaled) {
    Value to = b.at(scaledQueries(), scaled.place);
    for (auto [i, words] : llvm::enumerate(scaled.words)) {
      Values products;
      for (auto [word, factor] : llvm::zip(words, scaled.factors))
        products.push_back(b.mulHalves(word, factor));
      b.storeWords(products,
                   b.at(to, static_cast<int64_t>(i) * HalfTile::kSwizzleRows *
                                HalfTile::kRowBytes));
    }
  }

  Value scaledQueries() { return b.at(operandTiles(), shared.operandBytes()); }
};
} // namespace

void mlir::pmkvq::chooseExponents(SegmentKernel &kernel) {
  const auto &values = kernel.forms[rt::kValue];
  // Values at one level alone need not go with others.
  kernel.valueExponents = FoldedUnits::kCommon;
  if (values.size() == 1)
    kernel.valueExponents = FoldedUnits::exponentsOf(
        SegmentKernel::operandShare(rt::kValue, values.begin()->first).layout);
  double largestStep = 1.0 / 255;
  for (const auto &[level, form] : values)
    largestStep = std::max(largestStep, form.step);
  kernel.weightExponent = FoldedUnits::weightExponent(largestStep);
}

FoldedScores mlir::pmkvq::foldKeys(SegmentKernel &kernel, int64_t level,
                                   Value slot) {
  return ColumnFolding(kernel).foldKeys(level, slot);
}

LaneBuilder::Values mlir::pmkvq::loadScoreOffsets(SegmentKernel &kernel) {
  return ColumnFolding(kernel).loadScoreOffsets();
}

LaneBuilder::Values mlir::pmkvq::foldValues(SegmentKernel &kernel,
                                            int64_t level, Value slot) {
  return ColumnFolding(kernel).foldValues(level, slot);
}
