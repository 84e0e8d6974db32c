//===- ModelBench.h - A model's steps measured on the CPU -------*- C++ -*-===//
//
// Checks and measures whole steps of a compiled model: decode and prefill.
// Neighbours: HostBench.h (attention alone), ModelSweep.cpp (who compiles and
// prints).
//
// Method.  The first sequence is prefilled with pseudo-random tokens up to the
// context, the others are copies of it with pages of their own.  One step's
// attention is compared with the reference in double precision, every layer and
// head.  Then, as HostBench.h, 3 steps to warm up and 31 that are timed, each
// followed by reading the same bytes; so both see the same moments of a machine
// that others use, too.
//
//   decode   greedy steps of one token a sequence.  Steps that make pages of
//            full windows are not among the 31; up to 384 further steps give
//            kFlushes of them, those that lower pages apart.
//   prefill  kPrefillTokens new tokens a sequence, in steps as Session::prefill
//            makes them; before each run the cache is put back.
//
// Bytes are the weights, once a step, and the cache as the step finds it.  A
// model smaller than the caches of the CPU is read from them, by both.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_MODELBENCH_H
#define PMKVQ_TOOLS_RUN_BENCH_MODELBENCH_H

#include "Measurement.h"
#include "pmkvq_rt/Session.h"

#include <functional>
#include <string>
#include <vector>

namespace pmkvq::bench {

/// New tokens of a sequence in a run of prefill, and how often that is timed.
inline constexpr int64_t kPrefillTokens = 512;
inline constexpr int32_t kPrefillRepeats = 5;

/// Steps that make pages: how many of each kind are timed, and after how many
/// tokens no more are waited for.
inline constexpr size_t kFlushes = 3;
inline constexpr int64_t kFlushSteps = 384;

/// Steps of decode before those: the check, warm-up and the timed ones.
inline constexpr int64_t kPlainSteps = 1 + kWarmUps + kRepeats;

/// Memory that every step reads whole.
struct WeightRange {
  const void *data;
  int64_t bytes;
};

/// A model, compiled for the levels that are measured.
struct ModelCase {
  rt::Program program;
  std::vector<WeightRange> weights;
  /// Budget, threads; sequences, plans and store are set here.
  rt::SessionOptions session;
  int64_t batch = 1;
  /// Tokens cached before the first step that is measured.
  int64_t context = 0;
  /// Compares attention of a session's steps with the reference from now on.
  std::function<void(rt::Session &)> watch;
  /// What it has found; Internal if that is too far off.
  std::function<rt::Result<Errors>()> judge;
};

struct ModelMeasurement {
  /// Of a step, or of kPrefillTokens tokens a sequence.
  Timing time;
  /// Of the same work.
  int64_t bytes = 0;
  double readMicroseconds = 0;
  /// New tokens.
  int64_t tokens = 0;
  Errors errors;
  /// Steps that make pages without and with others falling; 0: none was seen.
  double flushMicroseconds = 0;
  double lowerMicroseconds = 0;
};

/// Tokens that a sequence may have cached in the end.
int64_t decodeTokens(int64_t context, int64_t maxPositions);

/// Errors: InvalidArgument if the model has too few positions; those of the
/// session; Internal if attention is wrong.
rt::Result<ModelMeasurement> measureDecode(const ModelCase &model);
rt::Result<ModelMeasurement> measurePrefill(const ModelCase &model);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_MODELBENCH_H
