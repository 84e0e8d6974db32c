//===- RuntimeConformanceTest.cpp - The CPU passes the suite --------------===//
//
// The suite is in RuntimeConformance.h; another back end gets a file like this.
//
//===----------------------------------------------------------------------===//

#include "RuntimeConformance.h"

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

namespace {
struct CpuBackend {
  static std::string unavailable() { return ""; }
  static ProgramEntries entries() { return fakeEntries(); }
  static void read(void *to, const void *from, size_t bytes) {
    std::memcpy(to, from, bytes);
  }
};
} // namespace

namespace pmkvq::rt::test {
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, RuntimeConformance, CpuBackend);
} // namespace pmkvq::rt::test
