//===- AttentionReadConformanceTest.cpp - Back ends that read a cache -----===//
//
// The CPU's compiled kernels and a GPU's pass the suite in ReadConformance.h.
//
//===----------------------------------------------------------------------===//

#include "CudaReader.h"
#include "ReadConformance.h"

#include <cstring>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
struct CpuReader {
  static std::string unavailable() { return ""; }

  static rt::Result<bench::Errors> check(const bench::Problem &problem) {
    static auto threads = rt::ThreadPool::create(2);
    if (!threads.ok())
      return threads.status();
    auto kernels = CudaReader::compiler().compileHost(problem);
    if (!kernels.ok())
      return kernels.status();
    return bench::checkOnHost(**threads, *kernels, problem);
  }

  static constexpr int64_t kHeadDims[] = {64, 80, 96, 128, 256};
  static bench::Errors bounds(const bench::Problem &problem) {
    // f32: 2^-24 for each of some hundred roundings, over outputs that cancel;
    // CompilerAttentionTest has the bound a query.
    if (problem.isRaw())
      return {1e-5, 1e-4};
    return bench::boundsOf(problem, /*inHalves=*/false);
  }
};
} // namespace

namespace {
/// Code for CPUs by name, where this machine can run it; the suite above takes
/// all that it has.
class ReadOnCpu : public testing::TestWithParam<const char *> {};
} // namespace

TEST_P(ReadOnCpu, EveryLevel) {
  auto threads = rt::ThreadPool::create(2);
  ASSERT_TRUE(threads.ok()) << threads.status().message();
  run::KernelCompiler compiler({GetParam()});
  using Pair = std::pair<int64_t, int64_t>;
  for (auto [headDim, group] : {Pair(64, 3), Pair(80, 2), Pair(96, 5)}) {
    bench::Shape shape;
    shape.kvHeads = 2;
    shape.queryHeads = 2 * group;
    shape.headDim = headDim;
    shape.context = "ragged:200-1100";
    shape.levels = "mixed:2=1/k4v2=1/4=1/8=1/k16v8=1/16=1";
    auto problem = bench::understand(shape);
    ASSERT_TRUE(problem.ok()) << problem.status().message();
    auto kernels = compiler.compileHost(*problem);
    if (!kernels.ok() && kernels.status().message().find(
                             "this machine has no") != std::string::npos)
      GTEST_SKIP() << kernels.status().message();
    ASSERT_TRUE(kernels.ok()) << kernels.status().message();
    auto errors = bench::checkOnHost(**threads, *kernels, *problem);
    ASSERT_TRUE(errors.ok())
        << bench::describe(shape) << ": " << errors.status().message();
  }
}
INSTANTIATE_TEST_SUITE_P(Cpus, ReadOnCpu,
                         testing::Values("generic", "avx2", "avx512"),
                         [](const auto &info) {
                           return std::string(info.param);
                         });

// A pair's results depend on how its units are cut into shares, and so on the
// lengths of a batch, but on none of the other pairs' numbers.
TEST(ReadOnDevice, OtherPairsNumbersChangeNoBit) {
  PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable());
  bench::Shape shape;
  shape.kvHeads = 2;
  shape.queryHeads = 6;
  shape.batch = 3;
  shape.context = "ragged:200-3000";
  shape.levels = "mixed:2=2/4=1/8=1";
  std::vector<float> results[2];
  for (int i = 0; i < 2; ++i) {
    shape.inputs = i ? "nan" : "normal";
    auto problem = bench::understand(shape);
    ASSERT_TRUE(problem.ok()) << problem.status().message();
    auto errors = CudaReader::run(*problem, {}, &results[i]);
    ASSERT_TRUE(errors.ok()) << errors.status().message();
  }
  // Pairs 0, 3 and 5 have what is no number.
  size_t perPair = 3 * 128;
  for (size_t pair : {1, 2, 4})
    EXPECT_EQ(std::memcmp(&results[0][pair * perPair],
                          &results[1][pair * perPair], perPair * sizeof(float)),
              0)
        << pair;
}

namespace pmkvq::test {
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, ReadConformance, CpuReader);
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, ReadConformance, CudaReader);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaAsync, ReadConformance, CudaAsyncReader);
} // namespace pmkvq::test
