//===- Measurement.h - What a benchmark reports -----------------*- C++ -*-===//
//
// One row of the result.  Neighbours: DeviceBench.h and HostBench.h (who
// measures), Sweep.h (who prints).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_MEASUREMENT_H
#define PMKVQ_TOOLS_RUN_BENCH_MEASUREMENT_H

#include "Case.h"

#include <algorithm>
#include <string>
#include <vector>

namespace pmkvq::bench {

/// Inputs rotate over more than this: five times the second-level cache of an
/// H200, eight times the third of a server.
inline constexpr int64_t kRotateBytes = 240'000'000;
/// Launches of one timed run at least, and timed runs.
inline constexpr int64_t kLaunches = 8;
inline constexpr int32_t kRepeats = 31;
inline constexpr int32_t kWarmUps = 3;

/// Results that were not written read as NaN.
inline constexpr uint8_t kPoison = 0xff;

/// Sets of inputs of `bytes` each that a run rotates over.
inline int64_t setsOf(int64_t bytes) {
  return std::max<int64_t>(2, kRotateBytes / std::max<int64_t>(1, bytes) + 1);
}

/// Launches of a run over `sets`: whole rounds, kLaunches at least.
inline int64_t launchesOf(int64_t sets) {
  return (kLaunches + sets - 1) / sets * sets;
}

/// Microseconds of one launch.
struct Timing {
  double median = 0;
  /// From the 10th to the 90th percentile.
  double spread = 0;
};

/// Times of runs of `launches` each.
inline Timing summarize(std::vector<double> microseconds, int64_t launches) {
  std::sort(microseconds.begin(), microseconds.end());
  size_t count = microseconds.size();
  auto at = [&](size_t i) {
    return microseconds[i] / static_cast<double>(launches);
  };
  return {at(count / 2), at(count * 9 / 10) - at(count / 10)};
}

struct Measurement {
  /// Whether others' times of attention compare with it.
  bool isAttention = true;
  /// "cuda", "cuda+dependent" (consecutive launches overlap) or "cpu".
  std::string device;
  Timing attention;
  int64_t bytes = 0;
  /// Reading the same bytes, in the same run.
  double readMicroseconds = 0;
  Errors errors;
  /// Multiplications and additions of products; 0 where they are not counted.
  int64_t operations = 0;

  double teraflops() const {
    return static_cast<double>(operations) / attention.median / 1e6;
  }
  double ratio() const { return attention.median / readMicroseconds; }
};

/// Bounds on the errors of right results, of kernels on warpgroups.
///
/// Queries, elements of keys and values, and weights are rounded to 11 bits: an
/// error of 2^-12 / sqrt(3) each, or of 1.3e-4 where an element is below 0.3.
/// Scores of normal content are about 1 wide, so weights are off by some 2e-4,
/// values by as much, all independently; outputs of long contexts by less.  The
/// largest of thousands of nearly normal errors is below 5 times their rms; of
/// rows that see few tokens, whose outputs differ most, up to twice that.
inline constexpr Errors kHalfBounds = {6e-4, 6e-3};

/// The same of sharp scores.  They are some 800 wide, in log2, and off by 0.2
/// where queries and keys have 11 bits: two that are equally large share the
/// weight differently by a twentieth, so that outputs are off by 0.07 of a
/// value.  Most queries have one that is alone and exact.
inline constexpr Errors kSharpBounds = {0.1, 2};

/// Bounds on the errors of right results; `inHalves` is of kernels on
/// warpgroups.
///
/// Below 16 bits a GPU rounds queries, and queries times ranges, to 11 bits:
/// an error of 2^-12 / sqrt(3), in the mean over the mantissa, of each of the
/// products that make a score.  Scores of normal content (Inputs.h) are about 1
/// wide, so weights are off by some 2e-4, independently.  Outputs of short
/// contexts consist of what varies between tokens and are off by as much; those
/// of long contexts by less, since their means come to weigh more.  Weights as
/// integers of up to 65,000 add less than that where scores are that narrow.  A
/// CPU rounds queries times ranges, and weights times ranges, to 15 bits of the
/// largest of a row.
///
/// At 16 bits queries and weights are two bf16 each, off by 2^-17, and scores
/// are sums in f32, off by 2^-24 of their largest terms: some 4e-6 with key
/// channels of 300.
///
/// The largest of thousands of nearly normal errors is below 5 times their rms.
inline Errors boundsOf(const Problem &problem, bool inHalves) {
  if (problem.inputs.sharpScores)
    return kSharpBounds;
  if (inHalves)
    return kHalfBounds;
  return problem.isRaw() ? Errors{1e-5, 5e-5} : Errors{3e-4, 1.5e-3};
}

/// Errors: Internal, with the errors and the bounds.
rt::Status checkErrors(const Problem &problem, const Errors &errors);
rt::Status checkErrors(const Errors &bounds, const Errors &errors);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_MEASUREMENT_H
