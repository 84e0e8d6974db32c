//===- DrawnFeedback.cpp - What a benchmark's keys fall with --------------===//
//
// Neighbours: DrawnFeedback.h.
//
//===----------------------------------------------------------------------===//

#include "DrawnFeedback.h"
#include "pmkvq/Target/KeyFeedback.h"

#include <cmath>
#include <random>

using namespace pmkvq;

bench::DrawnFeedback
bench::drawFeedback(int64_t kvHeads, int64_t headDim,
                    const reference::UniformFormat &format) {
  std::mt19937 random(17);
  std::normal_distribution<float> normal;
  DrawnFeedback feedback;
  for (int64_t i = 0; i < kvHeads * headDim; ++i)
    feedback.squares.push_back(std::exp(2 * normal(random)));
  for (int64_t head = 0; head < kvHeads; ++head)
    feedback.heads.push_back(
        {keyFeedbackFactor(feedback.squares.data() + head * headDim, headDim)});
  feedback.table = keyFeedbackOfLayer(feedback.squares.data(), kvHeads, headDim,
                                      (1 - format.clip) / 2, format.clip / 3);
  return feedback;
}
