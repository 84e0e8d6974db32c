//===- AttentionReadConformanceTest.cpp - Back ends that read a cache -----===//
//
// The CPU's compiled kernels and a GPU's pass the suite in ReadConformance.h.
//
//===----------------------------------------------------------------------===//

#include "Kernels.h"
#include "ReadConformance.h"

#include <cstring>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
run::KernelCompiler &compiler() {
  static run::KernelCompiler instance;
  return instance;
}

struct CpuReader {
  static std::string unavailable() { return ""; }

  static rt::Result<bench::Errors> check(const bench::Problem &problem) {
    static auto threads = rt::ThreadPool::create(2);
    if (!threads.ok())
      return threads.status();
    auto kernels = compiler().compileHost(problem);
    if (!kernels.ok())
      return kernels.status();
    return bench::checkOnHost(**threads, *kernels, problem);
  }

  static constexpr int64_t kHeadDims[] = {64, 128};
  // f32: 2^-24 for each of some hundred roundings, over outputs that cancel;
  // CompilerAttentionTest has the bound a query.
  static bench::Errors bounds(const bench::Problem &) { return {1e-5, 1e-4}; }
};

struct CudaReader {
  static rt::Result<rt::cuda::DeviceRef> open() {
    auto driver = rt::cuda::Driver::load();
    if (!driver.ok())
      return driver.status();
    return rt::cuda::Device::open(*driver);
  }

  static std::string unavailable() {
    auto device = open();
    return device.ok() ? "" : device.status().message();
  }

  static rt::Result<bench::Errors> run(const bench::Problem &problem,
                                       bool dependent,
                                       std::vector<float> *results = nullptr) {
    static auto device = open();
    if (!device.ok())
      return device.status();
    return bench::checkOnDevice(*device, compiler().forDevices(), problem,
                                dependent, results);
  }

  static rt::Result<bench::Errors> check(const bench::Problem &problem) {
    bench::Errors worst;
    for (bool dependent : {false, true}) {
      auto errors = run(problem, dependent);
      if (!errors.ok())
        return errors;
      worst = {std::max(worst.rms, errors->rms),
               std::max(worst.largest, errors->largest)};
    }
    return worst;
  }

  static constexpr int64_t kHeadDims[] = {128};
  static bench::Errors bounds(const bench::Problem &problem) {
    return bench::boundsOf(problem);
  }
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
    auto errors = CudaReader::run(*problem, /*dependent=*/false, &results[i]);
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
