//===- FeedbackInLanes.h - Shifts with feedback on a GPU --------*- C++ -*-===//
//
// Neighbours: PagesToLanes.cpp (its user), FeedbackRounding.h (what is done
// with an element), LowerFeedback.cpp (the same on the CPU).
//
// Mental model.  What one head dim loses changes the next, so that a thread has
// a whole token, not the quads that lanes have at every level: codes go through
// shared memory to the threads of tokens, and come back.
//
//   words   [head_dim / 4][128 tokens] four codes of a token
//   ranges  [groups] f32
//   grids   [groups] what the step makes of a range
//   excess  [head_dim] of a thread: what its token's codes have more than they
//           were to be
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_FEEDBACKINLANES_H
#define PMKVQ_LIB_CONVERSION_FEEDBACKINLANES_H

#include "FeedbackRounding.h"
#include "PageQuads.h"

namespace mlir::pmkvq {

class FeedbackInLanes {
public:
  /// Takes shared memory in the kernel's module.
  /// `slice`: of the warp; `lane`: of the thread.
  FeedbackInLanes(LaneBuilder &b, StringRef kernel, const PageShape &shape,
                  FormatAttr format, int32_t threads, Value slice, Value lane);

  int64_t groups() const;
  /// Calls `body` for each of the groups that a thread has to do with.
  void forEachGroup(function_ref<void(Value group)> body);
  /// Tells the range of a group; all are known before a shift.
  void setRange(Value group, Value range);

  /// Puts codes at 8 or 4 bits to half of it.
  /// `feedback`: address of what the kv head's keys fall with (Abi.h).
  void shift(LaneTile &tile, Value feedback);

private:
  Value wordAddress(Value row, Value token);
  Value laneWord(QuadPlace quad);
  void makeGrids(FeedbackRounding &rounding);
  FeedbackGrid gridAt(Value dim, int64_t ahead, Value token);
  void takeIn(Value rows, Value first, SmallVector<Value> &targets);
  Value roundQuad(FeedbackRounding &rounding, Value rows, Value first,
                  int64_t begin, ArrayRef<FeedbackGrid> gridOf,
                  SmallVector<Value> &targets);
  void shiftToken(FeedbackRounding &rounding, Value factor, Value token);
  void shiftBlock(FeedbackRounding &rounding, Value factor, Value token,
                  Value block);

  LaneBuilder &b;
  const PageShape &shape;
  FormatAttr format;
  int32_t threads;
  Value slice, lane;
  bool perHeadDim;
  Value words, ranges, grids, excess;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_FEEDBACKINLANES_H
