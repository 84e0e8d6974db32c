//===- PrefillBench.h - Chunked prefill measured on a GPU -------*- C++ -*-===//
//
// Checks a generated prefill kernel against the reference and measures it.
// Neighbours: DeviceBench.h (decode), pmkvq_rt/PrefillList.h (tasks).
//
// Method.  Every sequence of the shape gets kChunkTokens new tokens, which
// attend over its cache and causally over themselves.  As DeviceBench.h: graphs
// of launches between events, 3 to warm up, the median of 31; inputs do not
// rotate, since a launch multiplies for longer than it reads.  The rate counts
// 4 * head_dim operations for each query and token that it sees.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_PREFILLBENCH_H
#define PMKVQ_TOOLS_RUN_BENCH_PREFILLBENCH_H

#include "DeviceBench.h"

namespace pmkvq::bench {

/// New tokens of each sequence.
inline constexpr int64_t kChunkTokens = 2048;

/// Bounds on the errors of right results.
///
/// Queries, elements of keys and values, and weights are rounded to 11 bits: an
/// error of 2^-12 / sqrt(3) each, or of 1.3e-4 where an element is below 0.3.
/// Scores of normal content are about 1 wide, so weights are off by some 2e-4,
/// values by as much, all independently; outputs of long contexts by less.  The
/// largest of thousands of nearly normal errors is below 5 times their rms; of
/// rows that see few tokens, whose outputs differ most, up to twice that.
inline constexpr Errors kPrefillBounds = kHalfBounds;

/// Runs a problem twice over poisoned results and compares rows of three pairs
/// with the reference.
///
/// Errors: as below.
rt::Result<Errors> checkPrefill(const rt::cuda::DeviceRef &device,
                                const DeviceCompiler &compiler,
                                const Problem &problem, int64_t chunkTokens);

/// Checks and measures a problem.
///
/// Errors: shapes that the GPU's kernels do not support; those of the compiler
/// and the driver; Internal if results are wrong or do not repeat.
rt::Result<Measurement> measurePrefill(const rt::cuda::DeviceRef &device,
                                       const DeviceCompiler &compiler,
                                       const Problem &problem);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_PREFILLBENCH_H
