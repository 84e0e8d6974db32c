//===- HostMemory.h - Reading and copying memory on the CPU -----*- C++ -*-===//
//
// What measured kernels are compared with: the same bytes, read or copied by
// the same number of threads.  Neighbours: HostBench.cpp, HostWriteBench.cpp,
// ModelBench.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_HOSTMEMORY_H
#define PMKVQ_TOOLS_RUN_BENCH_HOSTMEMORY_H

#include "pmkvq_rt/ThreadPool.h"

#include <atomic>
#include <cstdint>

namespace pmkvq::bench {

/// Reads every byte; `sink` keeps the compiler from leaving it out.
void readBytes(rt::ThreadPool &threads, const uint8_t *data, int64_t bytes,
               std::atomic<uint64_t> &sink);

/// The C library's copy, in chunks.
void copyBytes(rt::ThreadPool &threads, uint8_t *to, const uint8_t *from,
               int64_t bytes);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_HOSTMEMORY_H
