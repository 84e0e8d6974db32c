//===- HostBench.h - Attention measured on the CPU --------------*- C++ -*-===//
//
// The same as DeviceBench.h for the CPU's kernels: check, then time them beside
// a loop that reads the same bytes, over sets of inputs that no cache holds.
// Neighbours: Case.h (content), Launch.h (threads), Bench.cpp (who compiles).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_HOSTBENCH_H
#define PMKVQ_TOOLS_RUN_BENCH_HOSTBENCH_H

#include "Measurement.h"
#include "pmkvq_rt/ThreadPool.h"

#include <functional>
#include <memory>

namespace pmkvq::bench {

/// Kernels of one shape and formats, compiled for this machine.
struct HostKernels {
  rt::KernelFn attend = nullptr;
  rt::KernelFn merge = nullptr;
  /// [part][ladderIndex(from)]: from -> from / 2.
  rt::KernelFn requantize[rt::kParts][3] = {};
  /// Keeps the code in memory.
  std::shared_ptr<void> code;
};

/// Runs a problem twice over poisoned results and compares with the reference.
/// Errors: as below.
rt::Result<Errors> checkOnHost(rt::ThreadPool &threads,
                               const HostKernels &kernels,
                               const Problem &problem);

/// Checks and measures a problem.
/// Errors: those of Case; Internal if results are wrong or do not repeat.
rt::Result<Measurement> measureOnHost(rt::ThreadPool &threads,
                                      const HostKernels &kernels,
                                      const Problem &problem);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_HOSTBENCH_H
