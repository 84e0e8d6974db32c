//===- Bench.h - The benchmark of attention ---------------------*- C++ -*-===//
//
// What --bench does.  Neighbours: bench/ (the measurements), Kernels.h (what
// is measured).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_H
#define PMKVQ_TOOLS_RUN_BENCH_H

#include "Options.h"

namespace pmkvq::run {

/// Measures every shape of the sweep and prints a line for each, as they come;
/// a shape that fails is reported on stderr and the rest goes on.
///
/// Errors: no GPU with --device=cuda, and why; how many shapes failed.
llvm::Error runBench(const Options &options);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_BENCH_H
