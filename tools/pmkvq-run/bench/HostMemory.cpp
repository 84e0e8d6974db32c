//===- HostMemory.cpp - Reading and copying memory on the CPU -------------===//
//
// Neighbours: HostMemory.h.
//
//===----------------------------------------------------------------------===//

#include "HostMemory.h"

#include <algorithm>
#include <cstring>

using namespace pmkvq;

#if defined(__x86_64__) && defined(__ELF__)
#define PMKVQ_VECTOR_CLONES                                                    \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PMKVQ_VECTOR_CLONES
#endif

namespace {
/// Written out: the compiler splits an array of sums into single registers.
typedef uint64_t Words __attribute__((vector_size(64)));
} // namespace

/// Exclusive or of all words: loads and as little else as there can be.
PMKVQ_VECTOR_CLONES
static uint64_t foldWords(const uint8_t *data, int64_t bytes) {
  constexpr int64_t chains = 4;
  constexpr int64_t step = chains * static_cast<int64_t>(sizeof(Words));
  Words folded[chains] = {};
  int64_t i = 0;
  for (; i + step <= bytes; i += step)
    for (int64_t j = 0; j < chains; ++j) {
      Words words;
      std::memcpy(&words, data + i + j * sizeof(Words), sizeof(Words));
      folded[j] ^= words;
    }
  uint64_t sum = 0;
  for (const Words &words : folded)
    for (size_t lane = 0; lane < sizeof(Words) / 8; ++lane)
      sum ^= words[lane];
  for (; i + 8 <= bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, 8);
    sum ^= word;
  }
  return sum;
}

/// As large as what an attention task reads at 4 bits.
static constexpr int64_t kMemoryChunk = 256 << 10;

void bench::readBytes(rt::ThreadPool &threads, const uint8_t *data,
                      int64_t bytes, std::atomic<uint64_t> &sink) {
  threads.parallelFor(
      (bytes + kMemoryChunk - 1) / kMemoryChunk, [&](int64_t task) {
        int64_t begin = task * kMemoryChunk;
        sink ^= foldWords(data + begin, std::min(kMemoryChunk, bytes - begin));
      });
}

void bench::copyBytes(rt::ThreadPool &threads, uint8_t *to, const uint8_t *from,
                      int64_t bytes) {
  threads.parallelFor(
      (bytes + kMemoryChunk - 1) / kMemoryChunk, [&](int64_t task) {
        int64_t begin = task * kMemoryChunk;
        std::memcpy(to + begin, from + begin,
                    static_cast<size_t>(std::min(kMemoryChunk, bytes - begin)));
      });
}
