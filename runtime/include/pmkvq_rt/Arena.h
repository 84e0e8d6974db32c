//===- Arena.h - One reserved range of memory -------------------*- C++ -*-===//
//
// A range of address space that is reserved at once and backed by memory only
// where it is touched.  Neighbours: BlockPool.h and Session.h, which own some.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_ARENA_H
#define PMKVQ_RT_ARENA_H

#include "pmkvq_rt/Status.h"

#include <cstdint>
#include <utility>

namespace pmkvq::rt {

/// Zero-filled, page-aligned memory; move-only.
class Arena {
public:
  Arena() = default;
  Arena(Arena &&other) noexcept { swap(other); }
  Arena &operator=(Arena &&other) noexcept {
    swap(other);
    return *this;
  }
  Arena(const Arena &) = delete;
  Arena &operator=(const Arena &) = delete;
  ~Arena();

  /// Reserves `bytes` bytes of address space.
  ///
  /// Errors: InvalidArgument if `bytes` is negative; OutOfMemory if the system
  /// refuses the range.
  static Result<Arena> reserve(int64_t bytes);

  uint8_t *data() const { return data_; }
  int64_t bytes() const { return bytes_; }

private:
  void swap(Arena &other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  uint8_t *data_ = nullptr;
  int64_t bytes_ = 0;
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_ARENA_H
