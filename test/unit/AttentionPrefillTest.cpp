//===- AttentionPrefillTest.cpp - Prefill attention on a GPU --------------===//
//
// Chunks of new tokens over pages of every kind, fixed areas and themselves,
// against lib/Reference.  Neighbours: CudaReader.h (the device), PrefillBench.h
// (the check), CompilerPrefillTest.cpp (the kernels' PTX).
//
//===----------------------------------------------------------------------===//

#include "CudaReader.h"
#include "RequireGpu.h"
#include "bench/PrefillBench.h"

#include <gtest/gtest.h>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
struct Case {
  const char *name;
  const char *context, *levels;
  int64_t group = 4, chunk = 300, batch = 1;
  const char *inputs = "normal";
};

// NOLINTNEXTLINE(readability-identifier-naming): GoogleTest's name.
void PrintTo(const Case &c, std::ostream *os) { *os << c.name; }

const char *const kMix = "mixed:2=4/4=3/8=2/16=1";

class Prefill : public ::testing::TestWithParam<Case> {};

TEST_P(Prefill, IsThatOfTheReference) {
  PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable());
  const Case &c = GetParam();
  bench::Shape shape;
  shape.kvHeads = 2;
  shape.queryHeads = 2 * c.group;
  shape.batch = c.batch;
  shape.context = c.context;
  shape.levels = c.levels;
  shape.inputs = c.inputs;
  auto problem = bench::understand(shape);
  ASSERT_TRUE(problem.ok()) << problem.status().message();
  auto device = CudaReader::open();
  ASSERT_TRUE(device.ok()) << device.status().message();
  auto errors = bench::checkPrefill(
      *device, CudaReader::compiler().forDevices(), *problem, c.chunk);
  EXPECT_TRUE(errors.ok()) << errors.status().message();
}

INSTANTIATE_TEST_SUITE_P(
    Attention, Prefill,
    ::testing::Values(Case{"Bits2", "1024", "2"}, Case{"Bits4", "1024", "4"},
                      Case{"Bits8", "1024", "8"}, Case{"Raw", "1024", "16"},
                      Case{"KeysAndValuesApart", "1024", "k8v2"},
                      Case{"EveryLevel", "2000", kMix},
                      Case{"OneTokenBefore", "1", "4", 4, 128},
                      Case{"OneRow", "1024", "4", 4, 1},
                      Case{"RowsBeyondATask", "1024", "4", 4, 33},
                      Case{"GroupOf3", "1024", "4", 3},
                      Case{"GroupOf1", "1024", "2", 1},
                      Case{"GroupOf16", "1024", "4", 16},
                      Case{"ThreeSequences", "700", "4", 2, 200, 3},
                      Case{"Hundreds2", "1024", "2", 4, 300, 1, "hundreds"},
                      Case{"Hundreds4", "1024", "4", 4, 300, 1, "hundreds"},
                      Case{"Thousands8", "1024", "8", 4, 300, 1, "thousands"},
                      Case{"Thousands", "2000", kMix, 4, 300, 1, "thousands"},
                      Case{"Myriads", "2000", kMix, 4, 300, 1, "myriads"},
                      Case{"Sharp", "2000", kMix, 4, 300, 1, "sharp"}),
    [](const auto &info) { return std::string(info.param.name); });
} // namespace
