//===- UnitLowering.h - One unit's attention in lanes -----------*- C++ -*-===//
//
// Turns the tile ops of one kind of unit into lane code.  Neighbours:
// TileToLanes.cpp (the loops around it), FragmentLayout.h (who has what).
// Private to lib/Conversion.
//
// Mental model.  Every value of the tile form has a lane form, kept beside it
// while its region is walked.  Rows of scores and outputs are kept as
// product * factor + bias, element by element, so that the constants of formats
// and layouts end in one multiply-add.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_UNITLOWERING_H
#define PMKVQ_LIB_CONVERSION_UNITLOWERING_H

#include "LaneBuilder.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/SharedLayout.h"
#include "llvm/ADT/DenseMap.h"

namespace mlir::pmkvq {

/// The softmax state of one query, as a lane has it.
struct LaneState {
  using Values = LaneBuilder::Values;
  /// The maximum, this lane's part of the sum of weights, and of
  /// what outputs lack: an amount that is the same for all head dims.
  Value maximum, sum, offset;
  /// Dims g and g + 8 of each block of 16.
  Values outputs;

  static LaneState initial(LaneBuilder &b, int64_t headDim);
  /// In the order in which loops carry them.
  void append(SmallVectorImpl<Value> &to) const;
  static LaneState take(ValueRange &from, int64_t headDim);
};

/// What all units of a segment share.
struct SegmentLanes {
  const ::pmkvq::SharedLayout &shared;
  bool keysPerToken;
  /// The rows that were staged: all that a unit takes from outside, constants
  /// apart.
  Value queries;
  /// Start of shared memory, and this lane.
  Value base, lane;
  /// [query of the lane] What turns its scores, normalized, into units of log2.
  SmallVector<Value> factors;
  /// The same for units at level 16, whose queries are not normalized.
  double rawFactor;
};

/// What an entry of the work list says of a unit whose page may fall: where
/// codes begin, UnitTask::info, and LoweringTask::lowered, which is null in
/// kernels that do not lower.
struct UnitFall {
  Value codes, info, places[::pmkvq::rt::kParts];
};

/// Emits the code of one region of `for_unit`.
/// `slot` is where the unit lies, `tokens` (an i32) how many of its tokens
/// count, `isSecondHalf` (an i1; null unless its kind isHalfGrain()) whether
/// they are the second half of their grain; `states` has one state a query of
/// the lane, the result the next ones.  Errors: a diagnostic on the op that has
/// no lane form.
FailureOr<SmallVector<LaneState>>
lowerUnit(LaneBuilder &b, Region &unit, const SegmentLanes &segment, Value slot,
          Value tokens, Value isSecondHalf, const UnitFall &fall,
          ArrayRef<LaneState> states);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_UNITLOWERING_H
