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

  static constexpr int64_t kHeadDims[] = {64, 128};
  // f32: 2^-24 for each of some hundred roundings, over outputs that cancel;
  // CompilerAttentionTest has the bound a query.
  static bench::Errors bounds(const bench::Problem &) { return {1e-5, 1e-4}; }
};
} // namespace

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
} // namespace pmkvq::test
