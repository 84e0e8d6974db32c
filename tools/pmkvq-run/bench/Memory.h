//===- Memory.h - What this machine has left --------------------*- C++ -*-===//
//
// Asked before a benchmark allocates: Linux promises more memory than it has,
// and ends the process that uses it.  Neighbours: Case.cpp, HostBench.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_MEMORY_H
#define PMKVQ_TOOLS_RUN_BENCH_MEMORY_H

#include "pmkvq_rt/Status.h"

#include <cstdint>
#include <string>

namespace pmkvq::bench {

/// Errors: OutOfMemory if `what` takes more bytes than this machine, or this
/// process's control group, has left; both are named.
rt::Status checkMemory(const std::string &what, int64_t bytes);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_MEMORY_H
