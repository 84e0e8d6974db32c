//===- BlockPool.cpp - Blocks of one size ---------------------------------===//
//
// The bitmap and its search.  Neighbours: BlockPool.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/BlockPool.h"

#include <algorithm>
#include <limits>
#include <new>

using namespace pmkvq::rt;

/// Bit i of the result: bits i .. i + length - 1 of `word` are all set.
static uint64_t runStarts(uint64_t word, int32_t length) {
  for (int32_t i = 1; i < length && word; ++i)
    word &= word >> 1;
  return word;
}

Result<BlockPool> BlockPool::create(int64_t blockBytes, int64_t capacity) {
  int64_t bytes;
  if (blockBytes < 0 || capacity < 0 ||
      capacity > std::numeric_limits<uint32_t>::max() ||
      __builtin_mul_overflow(blockBytes, capacity, &bytes))
    return Status(StatusCode::InvalidArgument,
                  "a pool of " + std::to_string(capacity) + " blocks of " +
                      std::to_string(blockBytes) +
                      " bytes: block ids have 32 bits, bytes 63");
  Result<Arena> arena = Arena::reserve(bytes);
  if (!arena.ok())
    return arena.status();
  BlockPool pool;
  pool.arena_ = std::move(*arena);
  pool.blockBytes_ = blockBytes;
  pool.capacity_ = capacity;
  try {
    pool.free_.assign((capacity + 63) / 64, ~uint64_t(0));
  } catch (const std::bad_alloc &) {
    return Status(StatusCode::OutOfMemory, "no memory for a pool's bitmap");
  }
  if (capacity % 64)
    pool.free_.back() = (uint64_t(1) << (capacity % 64)) - 1;
  return pool;
}

bool BlockPool::takeRun(int32_t length, uint32_t *ids) {
  // A run stays within a word of 64: simple, and no page needs more than 16.
  size_t &word = firstWord_[length];
  for (; word < free_.size(); ++word) {
    uint64_t starts = runStarts(free_[word], length);
    if (!starts)
      continue;
    int32_t bit = __builtin_ctzll(starts);
    free_[word] &= ~(((uint64_t(1) << length) - 1) << bit);
    for (int32_t i = 0; i < length; ++i)
      ids[i] = static_cast<uint32_t>(word * 64 + bit + i);
    return true;
  }
  return false;
}

void BlockPool::take(int32_t length, uint32_t *ids) {
  if (takeRun(length, ids) || length <= 1)
    return;
  take(length - length / 2, ids);
  take(length / 2, ids + (length - length / 2));
}

Status BlockPool::allocate(int64_t count, uint32_t *ids) {
  if (count < 0)
    return Status(StatusCode::InvalidArgument, "a negative number of blocks");
  if (count > capacity_ - inUse_)
    return Status(StatusCode::OutOfMemory,
                  std::to_string(count) + " blocks are needed, " +
                      std::to_string(capacity_ - inUse_) + " of " +
                      std::to_string(capacity_) + " are free");
  // Enough are free, so every run of length 1 below is found.
  for (int64_t done = 0; done < count; done += kMaxRun)
    take(static_cast<int32_t>(std::min<int64_t>(kMaxRun, count - done)),
         ids + done);
  inUse_ += count;
  peak_ = std::max(peak_, inUse_);
  return Status();
}

void BlockPool::giveBack(uint32_t id) {
  size_t word = id / 64;
  free_[word] |= uint64_t(1) << (id % 64);
  for (int32_t length = 1; length <= kMaxRun; ++length) {
    if (!runStarts(free_[word], length))
      break;
    firstWord_[length] = std::min(firstWord_[length], word);
  }
}

Status BlockPool::free(const uint32_t *ids, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < capacity_ && !isFree(ids[i])) {
      giveBack(ids[i]);
      continue;
    }
    // Undo, so that a caller's mistake does not become the pool's: this also
    // catches an id that occurs twice in the list.
    for (int64_t j = 0; j < i; ++j)
      free_[ids[j] / 64] &= ~(uint64_t(1) << (ids[j] % 64));
    return Status(StatusCode::Internal, "block " + std::to_string(ids[i]) +
                                            " is given back but not in use");
  }
  inUse_ -= count;
  return Status();
}
