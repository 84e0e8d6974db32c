//===- Bytes.h - Sizes that saturate ----------------------------*- C++ -*-===//
//
// Sums and products of sizes that come from users: too large becomes the
// largest number, and every one is compared with a limit before it is used.
// Neighbours: Session.cpp, SessionSequences.cpp, Snapshot.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SRC_BYTES_H
#define PMKVQ_RT_SRC_BYTES_H

#include "pmkvq_rt/Schedule.h"

#include <cstdint>
#include <initializer_list>
#include <string>

namespace pmkvq::rt {

inline int64_t saturatingProduct(std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (int64_t factor : factors)
    if (__builtin_mul_overflow(result, factor, &result))
      return kUnlimitedBytes;
  return result;
}

inline int64_t saturatingSum(std::initializer_list<int64_t> terms) {
  int64_t result = 0;
  for (int64_t term : terms)
    if (__builtin_add_overflow(result, term, &result))
      return kUnlimitedBytes;
  return result;
}

inline Status missingBytes(int64_t needed, int64_t budget, const char *what) {
  return Status(StatusCode::OutOfMemory,
                std::to_string(needed - budget) + " bytes are missing: " +
                    what + " take " + std::to_string(needed) +
                    " bytes at least, the budget is " + std::to_string(budget));
}

} // namespace pmkvq::rt

#endif // PMKVQ_RT_SRC_BYTES_H
