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
  /// "cuda", "cuda+dependent" (consecutive launches overlap) or "cpu".
  std::string device;
  Timing attention;
  int64_t bytes = 0;
  /// Reading the same bytes, in the same run.
  double readMicroseconds = 0;
  Errors errors;

  double ratio() const { return attention.median / readMicroseconds; }
};

/// Bounds on the errors of right results.  Weights and queries have 15 bits in
/// two bytes on a GPU, 16 on the CPU: a weight is off by at most 2^-15 of the
/// largest (which headroom of 2^2 makes 2^-13), and so is the sum they are
/// divided by.  Outputs average thousands of values that cancel, which makes
/// errors relative to them some 4 times larger: 2^-11 = 5e-4; twice that.  The
/// largest of thousands of nearly normal errors is below 5 times their rms.
inline constexpr Errors kBounds = {1e-3, 5e-3};

/// Errors: Internal, with the errors and the bounds.
rt::Status checkErrors(const Errors &errors);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_MEASUREMENT_H
