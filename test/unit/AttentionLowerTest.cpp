//===- AttentionLowerTest.cpp - Pages that fall as a GPU reads them -------===//
//
// Attention that lowers pages in the same launch: its results, the codes that
// it leaves, and that it writes nowhere else.  Neighbours: bench/LowerBench.h
// (the checks), AttentionWriteTest.cpp (lowering alone).
//
//===----------------------------------------------------------------------===//

#include "CudaReader.h"
#include "RequireGpu.h"
#include "bench/LowerBench.h"
#include "bench/Sweep.h"

#include <gtest/gtest.h>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
void lowerOnDevice(const std::string &chip) {
  PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable());
  auto device = CudaReader::open();
  ASSERT_TRUE(device.ok()) << device.status().message();
  bench::DeviceCompiler compiler = CudaReader::compiler().forDevices();
  compiler.chip = chip;
  // The rest of 80 and 96 dims lies in shorter vectors.
  for (int64_t headDim : {64, 128, 256})
    for (const char *levels :
         {"8", "4", "k8v4", "k4v2", "k2v8", "mixed:k4v2=3/4=2/k8v4=2/16=1"})
      for (const char *format : {"<per_channel, hadamard>", "<per_token>"})
        for (const char *context : {"ragged:600-1500", "1024"}) {
          bench::Shape shape;
          shape.kvHeads = 2;
          shape.queryHeads = 8;
          shape.headDim = headDim;
          shape.batch = 3;
          shape.context = context;
          shape.levels = levels;
          shape.keyFormat = format;
          auto problem = bench::understand(shape);
          ASSERT_TRUE(problem.ok()) << problem.status().message();
          rt::Status status = bench::checkLowering(*device, compiler, *problem,
                                                   /*every=*/3);
          EXPECT_TRUE(status.ok())
              << bench::describe(shape) << ": " << status.message();
        }
}
} // namespace

TEST(LowerOnDevice, CodesAndResultsAreTheReferences) { lowerOnDevice(""); }
TEST(LowerOnDevice, CopiesByLanesToo) { lowerOnDevice("sm_80"); }
