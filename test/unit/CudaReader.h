//===- CudaReader.h - A GPU as a back end of tests --------------*- C++ -*-===//
//
// Compiles attention for the GPU of this machine, runs and checks it.
// Neighbours: ReadConformance.h (what a back end is), bench/DeviceBench.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_CUDAREADER_H
#define PMKVQ_TEST_UNIT_CUDAREADER_H

#include "Kernels.h"

namespace pmkvq::test {

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

  static run::KernelCompiler &compiler() {
    static run::KernelCompiler instance;
    return instance;
  }

  static rt::Result<bench::Errors> run(const bench::Problem &problem,
                                       const bench::DeviceRun &how,
                                       std::vector<float> *results = nullptr) {
    static auto device = open();
    if (!device.ok())
      return device.status();
    return bench::checkOnDevice(*device, compiler().forDevices(), problem, how,
                                results);
  }

  static rt::Result<bench::Errors> check(const bench::Problem &problem) {
    bench::Errors worst;
    for (bool dependent : {false, true}) {
      auto errors = run(problem, {dependent, 0, nullptr});
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

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_CUDAREADER_H
