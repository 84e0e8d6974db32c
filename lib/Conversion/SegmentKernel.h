//===- SegmentKernel.h - What parts of a kernel over segments share -------===//
//
// Neighbours: SegmentsToWarpgroups.cpp (who attends), StageQueries.cpp,
// WeighColumns.cpp and FoldColumns.cpp (right operands), SegmentConstants.cpp
// (of left ones), CopySegments.cpp (who copies), WarpgroupLayout.h (shared
// memory).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_SEGMENTKERNEL_H
#define PMKVQ_LIB_CONVERSION_SEGMENTKERNEL_H

#include "AffineForm.h"
#include "PrefillKernel.h"
#include <map>

namespace mlir::pmkvq {

/// WorkSegment, in registers.
struct PageSegment {
  Value pair, pages, moreRows, share, shares, partial;
};

/// What a warpgroup carries from page to page.
struct ColumnState {
  /// The slot of the next piece to work on, and which tile of weights where
  /// there are two.
  RingTurn turn;
  Value tile;
  LaneBuilder::Values maxima, sums, outputs;
  /// Weights times offsets of tokens, of the lane's queries, where these are
  /// folded.
  LaneBuilder::Values offsets;

  void append(SmallVectorImpl<Value> &to) const {
    llvm::append_range(to, ArrayRef<Value>{turn.stage, turn.parity, tile});
    for (const LaneBuilder::Values *values :
         {&maxima, &sums, &outputs, &offsets})
      llvm::append_range(to, *values);
  }
  /// The same from values of a loop, sizes as they are here.
  ColumnState with(ValueRange from) const {
    ColumnState state = *this;
    auto take = [&](Value &value) {
      value = from.front();
      from = from.drop_front();
    };
    for (Value *value : {&state.turn.stage, &state.turn.parity, &state.tile})
      take(*value);
    for (LaneBuilder::Values *values :
         {&state.maxima, &state.sums, &state.outputs, &state.offsets})
      for (Value &value : *values)
        take(value);
    return state;
  }
};

/// Scores of a page, [token][query]: times the token's of four `factors`, 2 m +
/// u, and with `more` of the lane's queries added, they are in units of log2.
struct PageScores {
  LaneBuilder::Values scores, factors, more;
};

/// The right operand of a page's keys, and what makes scores of its products,
/// as in PageScores.
struct FoldedScores {
  Value queries;
  LaneBuilder::Values factors;
};

/// A kernel that is being made, and who we are in it.
struct SegmentKernel {
  using Values = LaneBuilder::Values;
  using OperandShare = ::pmkvq::OperandShare;
  using SharedRowsLayout = ::pmkvq::SharedRowsLayout;

  SegmentKernel(Location loc, OpBuilder &at) : b(loc, at) {}

  /// Slot `number` of the warpgroup that attends, of all warpgroups' slots.
  Value slotIndex(Value number) {
    return b.add(b.mul(ring, SharedRowsLayout::kSlots), number);
  }
  Value slotBarrier(SharedRowsLayout::Barrier which, Value number) {
    return b.at(b.at(base, shared.barriers(which)),
                b.shl(slotIndex(number), 3));
  }
  Value slotAt(Value number) {
    return b.at(b.at(base, shared.ring()),
                b.mul(slotIndex(number), SharedRowsLayout::kSlotBytes));
  }
  RingTurn after(const RingTurn &turn) {
    Value next = b.add(turn.stage, 1);
    Value wraps =
        b.compare(arith::CmpIPredicate::eq, next, SharedRowsLayout::kSlots);
    return {b.select(wraps, b.i32(0), next),
            b.select(wraps, b.xorBits(turn.parity, 1), turn.parity)};
  }

  PageSegment loadSegment(Value index) {
    Value segments = b.at(row, sizeof(::pmkvq::rt::WorkHeader));
    Values words = b.loadWords(
        b.at(segments, b.mul(index, sizeof(::pmkvq::rt::WorkSegment))), 4);
    static_assert(offsetof(::pmkvq::rt::WorkSegment, shares) ==
                  offsetof(::pmkvq::rt::WorkSegment, share) + 2);
    constexpr int64_t kUnitBits = 24;
    static_assert(::pmkvq::rt::kMaxSegmentUnits == (1 << kUnitBits) - 1);
    return {words[0],
            b.andBits(words[1], ::pmkvq::rt::kMaxSegmentUnits),
            b.shr(words[1], kUnitBits),
            b.andBits(words[2], 0xffff),
            b.shr(words[2], 16),
            words[3]};
  }

  PageEntries pages() { return {b, entries, lane, warp}; }

  static OperandShare operandShare(::pmkvq::rt::Part part, int64_t level) {
    return {part, static_cast<int32_t>(level)};
  }

  /// What rows of left operands are times, where steps are folded.
  ::pmkvq::FoldedUnits::Exponents exponentsOf(::pmkvq::rt::Part part,
                                              int64_t level) {
    return part == ::pmkvq::rt::kValue ? valueExponents
                                       : ::pmkvq::FoldedUnits::exponentsOf(
                                             operandShare(part, level).layout);
  }

  /// What rows of outputs are times: as values and weights together.
  ::pmkvq::FoldedUnits::Exponents outputExponents() {
    ::pmkvq::FoldedUnits::Exponents exponents = valueExponents;
    for (int32_t &exponent : exponents)
      exponent += weightExponent;
    return exponents;
  }

  /// Query heads of all kv heads: what lies between a head's rows.
  int64_t stride() { return group * kvHeads; }

  /// Where the warpgroup's own right operands are: a tile of weights, and
  /// another or, where steps are folded, one of queries times ranges.
  Value operandTiles() {
    return b.at(b.at(base, shared.weights(0)),
                b.mul(warpgroup, 2 * shared.operandBytes()));
  }

  size_t queriesOfLane() { return static_cast<size_t>(shared.rows / 4); }
  /// Query i of lane t is 2 t and this.
  static int64_t queryOffset(size_t i) {
    return static_cast<int64_t>(i / 2 * 8 + i % 2);
  }

  WarpgroupBuilder b;
  SharedRowsLayout shared;
  SmallVector<int64_t> levels[::pmkvq::rt::kParts];
  /// By level, below 16.
  std::map<int64_t, AffineForm> forms[::pmkvq::rt::kParts];
  /// Whether ranges may be above rt::kNarrowRange.
  bool wideRanges = false;
  /// Whether steps and offsets are folded (FoldedUnits), and then what rows of
  /// values and weights are times.
  bool folds = false;
  ::pmkvq::FoldedUnits::Exponents valueExponents = {};
  int32_t weightExponent = 0;

  /// What queries are multiplied by, and whether they are rotated first.
  double scale = 1.0;
  bool rotates = false;
  /// Query heads a kv head, kv heads, rows of queries of a segment.
  int64_t group = 1, kvHeads = 1, rows = 1;

  // Arguments, the row of the work list, and who we are.
  Value codes, parameters, queries, results, partials, row, rowPages;
  Value thread, warpgroup, warp, lane, barrier, base, policy;
  /// Whose ring it is that we fill or use.
  Value ring;
  /// The segment's, for who copies.
  Value entries;
};

/// Queries of a segment's rows to shared memory, rotated and scaled.
void stageQueries(SegmentKernel &kernel, const PageSegment &segment);

/// Weights of a page's scores to `tile`, for all warps to see; sums, and maxima
/// where they rise.  `folding` are factors and offsets of the lane's tokens.
void weighColumns(SegmentKernel &kernel, ColumnState &state,
                  const PageScores &scores, const LaneBuilder::Values &folding,
                  Value tile);

/// Where steps are not folded: makes steps and offsets of a page's part at a
/// level below 16, whose parameters are in `slot`, for all lanes of the warp to
/// load.
void storeConstants(SegmentKernel &kernel, ::pmkvq::rt::Part part,
                    int64_t level, Value slot);

/// Those of a block of 32 columns, as decode_operands takes them.
Value loadConstants(SegmentKernel &kernel, int64_t block);

/// Sets what values and weights are times, by the levels that there are.
void chooseExponents(SegmentKernel &kernel);

/// Folds parameters of a page's keys at a level below 16, which are in `slot`,
/// into queries, for all warps to see.
FoldedScores foldKeys(SegmentKernel &kernel, int64_t level, Value slot);

/// What the page's offsets add to scores of the lane's queries.
LaneBuilder::Values loadScoreOffsets(SegmentKernel &kernel);

/// Factors and then offsets of the lane's four tokens, of values at a level
/// below 16 whose parameters are in `slot`.
LaneBuilder::Values foldValues(SegmentKernel &kernel, int64_t level,
                               Value slot);

/// What the last warpgroup does: a warp copies pages for each of the others.
void copySegments(SegmentKernel &kernel);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_SEGMENTKERNEL_H
