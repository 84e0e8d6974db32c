//===- Arena.cpp - One reserved range of memory ---------------------------===//
//
// Reservation through mmap.  Neighbours: Arena.h says what it promises.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Arena.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>

using namespace pmkvq::rt;

Arena::~Arena() {
  if (data_)
    ::munmap(data_, static_cast<size_t>(bytes_));
}

Result<Arena> Arena::reserve(int64_t bytes) {
  if (bytes < 0)
    return Status(StatusCode::InvalidArgument,
                  "cannot reserve " + std::to_string(bytes) + " bytes");
  // mmap refuses an empty range, and pools of size 0 are legal.
  bytes = std::max<int64_t>(bytes, 1);
  // NORESERVE: a pool is sized for the worst case, but only touched pages
  // should count against the machine.
  void *data =
      ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    return Status(StatusCode::OutOfMemory,
                  "cannot reserve " + std::to_string(bytes) +
                      " bytes: " + std::strerror(errno));
  // Attention streams through whole pools: huge pages save it the TLB misses.
  // Advice only; where it is refused, nothing but speed is lost.
  (void)::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  Arena arena;
  arena.data_ = static_cast<uint8_t *>(data);
  arena.bytes_ = bytes;
  return arena;
}
