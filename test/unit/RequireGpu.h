//===- RequireGpu.h - Skips where there is no GPU ---------------*- C++ -*-===//
//
// The one place that decides what a test does that cannot run here: it skips
// with the reason, or fails with it if PMKVQ_REQUIRE_GPU is set, as it is where
// a GPU must be.  Neighbours: the conformance suites.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_REQUIREGPU_H
#define PMKVQ_TEST_UNIT_REQUIREGPU_H

#include <cstdlib>
#include <gtest/gtest.h>
#include <string>

namespace pmkvq::test {

inline bool isGpuRequired() {
  const char *value = std::getenv("PMKVQ_REQUIRE_GPU");
  return value && *value && std::string(value) != "0";
}

} // namespace pmkvq::test

/// Ends the test if `reason`, a string, is not empty.
#define PMKVQ_SKIP_UNLESS_EMPTY(reason)                                        \
  do {                                                                         \
    if (std::string why = (reason); !why.empty()) {                            \
      if (pmkvq::test::isGpuRequired())                                        \
        FAIL() << why;                                                         \
      GTEST_SKIP() << why;                                                     \
    }                                                                          \
  } while (false)

#endif // PMKVQ_TEST_UNIT_REQUIREGPU_H
