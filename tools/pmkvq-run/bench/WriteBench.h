//===- WriteBench.h - Writing a cache, measured on a GPU --------*- C++ -*-===//
//
// Checks and measures the kernels that append, flush and requantize.
// Neighbours: DeviceBench.h (reading), pmkvq_rt/cuda/Write.h (the launches).
//
// Method.  As DeviceBench.h: CUDA graphs that rotate over more than 240 MB.
//
//   requantize  keys and values of all whole pages of the shape fall from its
//               level to half of it; one launch a part.  Beside it, in place
//               of reading, the driver's copy of half as many bytes as the
//               kernels read and write: it moves the same number.
//   append      128 steps of one new token a sequence, and the flush of all
//               windows to the shape's level at the end; the time is a step's.
//
// Before it is measured, a kernel's codes and parameters are compared with the
// reference's, bit for bit.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_WRITEBENCH_H
#define PMKVQ_TOOLS_RUN_BENCH_WRITEBENCH_H

#include "DeviceBench.h"

namespace pmkvq::bench {

/// Errors: InvalidArgument for levels that are not one of 16, 8 or 4, or no
/// whole page; those of the compiler and the driver; Internal if results are
/// wrong.
rt::Result<Measurement> measureRequantize(const rt::cuda::DeviceRef &device,
                                          const DeviceCompiler &compiler,
                                          const Problem &problem);

/// Errors: InvalidArgument for levels that are not one of 16, 8, 4 or 2; those
/// of the compiler and the driver; Internal if results are wrong.
rt::Result<Measurement> measureAppend(const rt::cuda::DeviceRef &device,
                                      const DeviceCompiler &compiler,
                                      const Problem &problem);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_WRITEBENCH_H
