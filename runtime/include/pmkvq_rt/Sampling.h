//===- Sampling.h - From logits to a token ----------------------*- C++ -*-===//
//
// Chooses a token by temperature and top-p.  Neighbours: Session.h, which
// decodes with it; Generate.cpp, which calls it once a new token.
//
// Mental model.  A token is drawn with one uniform number, and that number is a
// pure function of (seed, stream, position): no generator has a state that
// could depend on what else runs.  A stream is what tells sequences apart, a
// position is where the token will be cached.  All arithmetic is additions,
// multiplications and divisions of doubles in a fixed order, without the
// platform's exp, so a run repeats bit for bit wherever the logits do.
//
// Example: logits (2, 1, 1), temperature 1, top-p 0.7.  The probabilities are
// 0.58, 0.21, 0.21; ids 0 and 1 are the fewest that reach 0.7, so id 0 comes
// with 0.58 / 0.79, id 1 (which goes before its tie, id 2) with 0.21 / 0.79.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SAMPLING_H
#define PMKVQ_RT_SAMPLING_H

#include "pmkvq_rt/Status.h"

#include <array>
#include <cstdint>
#include <vector>

namespace pmkvq::rt {

struct SamplingOptions {
  /// Logits are divided by it; 0: always the largest (greedy).
  double temperature = 0;
  /// Only the most probable tokens that together reach this probability are
  /// drawn; 1: all.
  double topP = 1;
  uint64_t seed = 0;
};

/// Errors: InvalidArgument, naming the value, unless temperature is finite and
/// at least 0 and top-p is above 0 and at most 1.
Status checkSampling(const SamplingOptions &options);

/// Index of the largest of `count` logits; the smallest of several.
int32_t argmax(const float *logits, int64_t count);

/// Philox 4x32 with 10 rounds: four random words from a counter and a key.
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter,
                               std::array<uint32_t, 2> key);

/// A number in [0, 1), a multiple of 2^-53.
double uniform(uint64_t seed, uint64_t stream, uint64_t position);

/// exp(x) for x <= 0, within 2 units in the last place; the same bits on every
/// platform.  Results below 2^-1000 are 0.
double repeatableExp(double x);

/// Draws tokens; holds scratch, so that a draw allocates nothing after the
/// first.
class Sampler {
public:
  /// The token for `position`.  Temperature 0: argmax.
  ///
  /// Shapes: logits [count], finite; count at least 1.
  /// Requires checkSampling(options).
  int32_t sample(const float *logits, int64_t count,
                 const SamplingOptions &options, uint64_t stream,
                 uint64_t position);

private:
  void weigh(const float *logits, int64_t count, double temperature);
  void keepMostProbable(const float *logits, double topP);

  /// By id: probability times a common factor.
  std::vector<double> weights_;
  /// Ids that may be drawn, in the order of the draw.
  std::vector<int32_t> kept_;
  std::vector<int32_t> heap_;
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_SAMPLING_H
