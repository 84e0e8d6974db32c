//===- BlockPool.h - Blocks of one size -------------------------*- C++ -*-===//
//
// Hands out blocks of one fixed size from one arena.  Neighbours: Session.h
// keeps codes in one pool (blockBytes) and parameters in another (a slot a
// page); Geometry.h says how many blocks a part owns.
//
// Mental model.  A bitmap has one bit a block, set while it is free.  Blocks of
// one size never leave a hole that cannot be used, so an allocation fails only
// when too few blocks are free.  What can get lost is neighbourhood: a page
// whose blocks lie side by side reads 1.3 to 1.4 times faster on a CPU, so an
// allocation of n blocks first looks for n consecutive ones, then for two
// halves, and so on down to single blocks.
//
// Example: of blocks 0-7, 2 and 3 are in use.  allocate(4) returns 4 5 6 7;
// then allocate(2) returns 0 1.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_BLOCKPOOL_H
#define PMKVQ_RT_BLOCKPOOL_H

#include "pmkvq_rt/Arena.h"
#include "pmkvq_rt/Status.h"

#include <array>
#include <cstdint>
#include <vector>

namespace pmkvq::rt {

class BlockPool {
public:
  /// An empty pool; every allocation fails.
  BlockPool() = default;

  /// Reserves a pool.
  ///
  /// Units:  blockBytes in bytes, at least 0; capacity in blocks.
  /// Errors: InvalidArgument unless capacity is 0 .. 2^32 - 1 and the pool's
  /// bytes fit an int64; OutOfMemory if the system refuses.
  static Result<BlockPool> create(int64_t blockBytes, int64_t capacity);

  /// Takes `count` blocks, in as few runs of consecutive ids as it finds.
  ///
  /// Shapes: ids [count], ascending within a run.
  /// Errors: OutOfMemory if fewer are free; nothing is taken then.
  Status allocate(int64_t count, uint32_t *ids);

  /// Gives blocks back.
  ///
  /// Shapes: ids [count].
  /// Errors: Internal if one is not in use; nothing is given back then.
  Status free(const uint32_t *ids, int64_t count);

  /// Block i starts at data() + i * blockBytes().
  uint8_t *data() const { return arena_.data(); }
  int64_t blockBytes() const { return blockBytes_; }
  /// In blocks.
  int64_t capacity() const { return capacity_; }
  int64_t inUse() const { return inUse_; }
  int64_t peak() const { return peak_; }
  int64_t bytesInUse() const { return inUse_ * blockBytes_; }

private:
  /// The longest run that is searched for: a page at level 16.
  static constexpr int32_t kMaxRun = 16;

  bool isFree(uint32_t id) const { return free_[id / 64] >> (id % 64) & 1; }
  bool takeRun(int32_t length, uint32_t *ids);
  void take(int32_t length, uint32_t *ids);
  void giveBack(uint32_t id);

  Arena arena_;
  int64_t blockBytes_ = 0;
  int64_t capacity_ = 0;
  int64_t inUse_ = 0;
  int64_t peak_ = 0;
  /// Bit i of word w: block 64 w + i is free.
  std::vector<uint64_t> free_;
  /// [length]: no word before this one holds a free run of `length` blocks.
  /// This keeps the search for a run cheap also in a full pool, where it
  /// would otherwise walk the whole bitmap in vain.
  std::array<size_t, kMaxRun + 1> firstWord_ = {};
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_BLOCKPOOL_H
