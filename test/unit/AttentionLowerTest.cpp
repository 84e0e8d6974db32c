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
#include <map>
#include <memory>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
/// With kernels that write compiled once for each format and head dim.
bench::DeviceCompiler compilerFor(const std::string &chip) {
  bench::DeviceCompiler compiler = CudaReader::compiler().forDevices();
  compiler.chip = chip;
  auto known = std::make_shared<std::map<std::string, rt::cuda::WriterCode>>();
  compiler.writers =
      [known, compile = compiler.writers](
          const bench::Problem &problem, bool positions,
          const std::string &chip) -> rt::Result<rt::cuda::WriterCode> {
    const std::string key =
        problem.shape.keyFormat + " " + std::to_string(problem.shape.headDim);
    if (auto found = known->find(key); found != known->end())
      return found->second;
    rt::Result<rt::cuda::WriterCode> code = compile(problem, positions, chip);
    if (code.ok())
      known->emplace(key, *code);
    return code;
  };
  return compiler;
}

void lowerOnDevice(const std::string &chip) {
  PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable());
  auto device = CudaReader::open();
  ASSERT_TRUE(device.ok()) << device.status().message();
  bench::DeviceCompiler compiler = compilerFor(chip);
  auto expectRight = [&](int64_t headDim, const char *levels,
                         const char *format, const char *context) {
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
    rt::Status status =
        bench::checkLowering(*device, compiler, *problem, /*every=*/3);
    EXPECT_TRUE(status.ok())
        << bench::describe(shape) << ": " << status.message();
  };
  // The rest of 80 and 96 dims lies in shorter vectors, and does not fall here.
  for (int64_t headDim : {64, 128, 256})
    for (const char *format : {"<per_channel, hadamard>", "<per_token>"}) {
      for (const char *levels :
           {"8", "4", "k8v4", "k4v2", "k2v8", "mixed:k4v2=3/4=2/k8v4=2/16=1"})
        expectRight(headDim, levels, format, "ragged:600-1500");
      expectRight(headDim, "4", format, "1024");
    }
}
} // namespace

TEST(LowerOnDevice, CodesAndResultsAreTheReferences) { lowerOnDevice(""); }
TEST(LowerOnDevice, CopiesByLanesToo) { lowerOnDevice("sm_80"); }
