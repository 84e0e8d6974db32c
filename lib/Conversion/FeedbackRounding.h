//===- FeedbackRounding.h - Rounding with feedback --------------*- C++ -*-===//
//
// The arithmetic that a shift with feedback does for each element, on scalars
// or vectors of them: the same on either target, as Reference/Quantize.h
// specifies it.  What goes from head dim to head dim is the lowering's.
// Neighbours: LowerFeedback.cpp, FeedbackInLanes.cpp.  Private to
// lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_FEEDBACKROUNDING_H
#define PMKVQ_LIB_CONVERSION_FEEDBACKROUNDING_H

#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// What a group's range says of a step from a level to half of it.
struct FeedbackGrid {
  /// From code to code of 8 bits.
  Value before;
  /// From the group's lowest value to the lower level's first, and from each of
  /// its values to the next; 1 / step, or 0 for an empty range.
  Value offset, step, inverse;
};

class FeedbackRounding {
public:
  /// `offsetAt2`, `stepAt2`: f32, the layer's parts of a range at 2 bits.
  FeedbackRounding(ImplicitLocOpBuilder &b, FormatAttr format, int64_t from,
                   Value offsetAt2, Value stepAt2);

  /// `range`: f32 or a vector of it.
  FeedbackGrid gridOf(Value range);

  /// What elements stand for above their groups' lowest values.
  /// `codes`: at level `from`, as i32.
  Value targetsOf(Value codes, Value before);

  /// The code, as i32, and what it has more than the target.
  struct Choice {
    Value code, excess;
  };
  Choice choose(Value target, const FeedbackGrid &grid);

private:
  Value constant(Type type, double value);
  /// `scalar` as often as `type` has elements.
  Value spread(Value scalar, Type type);

  ImplicitLocOpBuilder &b;
  int64_t from;
  /// Of a range, at 8 bits and at the lower level; scalars.
  Value partBefore, partOffset, partStep;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_FEEDBACKROUNDING_H
