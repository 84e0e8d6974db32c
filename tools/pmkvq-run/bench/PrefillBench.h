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
