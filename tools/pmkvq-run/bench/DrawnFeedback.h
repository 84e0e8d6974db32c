//===- DrawnFeedback.h - What a benchmark's keys fall with ------*- C++ -*-===//
//
// Neighbours: Shape.h (which problems have any), pmkvq/Target/KeyFeedback.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_DRAWNFEEDBACK_H
#define PMKVQ_TOOLS_RUN_BENCH_DRAWNFEEDBACK_H

#include "pmkvq/Reference/Quantize.h"

namespace pmkvq::bench {

/// Feedback by drawn squares of queries; empty: keys fall to the nearest codes.
struct DrawnFeedback {
  /// [kvHeads][headDim]
  std::vector<float> squares;
  /// [kvHeads]
  std::vector<reference::KeyFeedback> heads;
  /// As kernels read it.
  std::vector<float> table;

  /// What a part of a kv head falls with; null: nothing.
  const reference::KeyFeedback *of(rt::Part part, int64_t head) const {
    return part == rt::kKey && !heads.empty()
               ? &heads[static_cast<size_t>(head)]
               : nullptr;
  }
};

/// Squares of a few powers of ten, as models have them.
DrawnFeedback drawFeedback(int64_t kvHeads, int64_t headDim,
                           const reference::UniformFormat &format);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_DRAWNFEEDBACK_H
