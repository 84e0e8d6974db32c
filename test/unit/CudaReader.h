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
                                       std::vector<float> *results = nullptr,
                                       const std::string &chip = "") {
    static auto device = open();
    if (!device.ok())
      return device.status();
    bench::DeviceCompiler forDevices = compiler().forDevices();
    forDevices.chip = chip;
    return bench::checkOnDevice(*device, forDevices, problem, how, results);
  }

  static rt::Result<bench::Errors> check(const bench::Problem &problem) {
    auto device = open();
    if (!device.ok())
      return device.status();
    bench::Errors worst;
    for (bool dependent : compiler().forDevices().launchesOn(**device)) {
      auto errors = run(problem, {dependent, 0, nullptr});
      if (!errors.ok())
        return errors;
      worst = {std::max(worst.rms, errors->rms),
               std::max(worst.largest, errors->largest)};
    }
    return worst;
  }

  static constexpr int64_t kHeadDims[] = {64, 80, 96, 128, 256};
  static bench::Errors bounds(const bench::Problem &problem) {
    // What compileDecode gives to warpgroups.
    bool inHalves =
        problem.rows > 1 && problem.group() * problem.rows >= 9 &&
        problem.shape.headDim == 128 &&
        problem.shape.keyFormat.find("per_channel") != std::string::npos;
    return bench::boundsOf(problem, inHalves);
  }
};

/// The same with `cp.async` in place of bulk copies, as on the chips before
/// Hopper, whose code runs on later ones too.
struct CudaAsyncReader : CudaReader {
  static rt::Result<bench::Errors> check(const bench::Problem &problem) {
    return run(problem, {}, nullptr, "sm_80");
  }
  static bench::Errors bounds(const bench::Problem &problem) {
    return bench::boundsOf(problem, /*inHalves=*/false);
  }
};

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_CUDAREADER_H
