//===- HostWriteBench.h - Lowering pages, measured on the CPU ---*- C++ -*-===//
//
// Checks and measures the kernels that requantize.  Neighbours: WriteBench.h
// (the same on a GPU), HostBench.h (attention).
//
// Method.  Keys and values of all whole pages of the shape fall from its level
// to half of it, in place: a launch a part, a task a page.  Codes and
// parameters of a sample are first compared with the reference's, bit for bit.
// Sets of pages of more than kRotateBytes take turns; lowered ones are lowered
// again, which takes as long: kernels do not look at what codes mean.  The copy
// beside it is of the source bytes, codes of both parts before they fall, to
// other memory.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_HOSTWRITEBENCH_H
#define PMKVQ_TOOLS_RUN_BENCH_HOSTWRITEBENCH_H

#include "HostBench.h"

namespace pmkvq::bench {

/// Errors: InvalidArgument for levels that are not one of 16, 8 or 4, or no
/// whole page; those of Case; Internal if results are wrong.
rt::Result<Measurement> measureHostRequantize(rt::ThreadPool &threads,
                                              const HostKernels &kernels,
                                              const Problem &problem);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_HOSTWRITEBENCH_H
