//===- LowerBench.h - Pages that fall as they are read ----------*- C++ -*-===//
//
// Checks and measures the kernel that attends over pages and lowers some of
// them in the same launch.  Neighbours: DeviceBench.h (attention alone, the
// method), WriteBench.h (lowering alone).
//
// Method.  The oldest pages of each sequence fall by a level, keys and values
// that are at 8 or 4 bits.  Four ways over the same pages, one row each:
//
//   cuda        attention alone
//   cuda-lower  lowering alone, in place, one launch a part and level; beside
//               it the driver's copy, as in WriteBench.h.  Few pages stay in
//               the GPU's cache from one launch to the next
//   cuda;lower  attention, then lowering
//   cuda+lower  both in one launch; beside it, in place of reading, what
//               attention alone would take if it read as many bytes as this
//               reads and writes
//
// Before it is measured, attention is compared with the reference as always;
// codes of a sample of pages with what the reference makes of them, those of
// all pages with what lowering alone leaves, and all that was not to be written
// with what it was, each bit for bit.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_LOWERBENCH_H
#define PMKVQ_TOOLS_RUN_BENCH_LOWERBENCH_H

#include "DeviceBench.h"

namespace pmkvq::bench {

/// One page of `every` falls, the oldest first.
///
/// Errors: InvalidArgument for several query tokens, or if a page that is to
/// fall is at 16 or has no part above 2 bits; those of measureOnDevice;
/// Internal if codes are wrong.
rt::Result<std::vector<Measurement>>
measureLowering(const rt::cuda::DeviceRef &device,
                const DeviceCompiler &compiler, const Problem &problem,
                int64_t every);

/// The checks alone.
rt::Status checkLowering(const rt::cuda::DeviceRef &device,
                         const DeviceCompiler &compiler, const Problem &problem,
                         int64_t every);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_LOWERBENCH_H
