//===- AttentionReadConformanceTest.cpp - Back ends that read a cache -----===//
//
// The CPU's compiled kernels and a GPU's pass the suite in ReadConformance.h.
//
//===----------------------------------------------------------------------===//

#include "Kernels.h"
#include "ReadConformance.h"

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

  static rt::Result<bench::Errors> check(const bench::Problem &problem) {
    static auto device = open();
    if (!device.ok())
      return device.status();
    bench::Errors worst;
    for (bool dependent : {false, true}) {
      auto errors = bench::checkOnDevice(*device, compiler().forDevices(),
                                         problem, dependent);
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

namespace pmkvq::test {
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, ReadConformance, CpuReader);
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, ReadConformance, CudaReader);
} // namespace pmkvq::test
