//===- DeviceBench.h - Attention measured on a GPU --------------*- C++ -*-===//
//
// Checks a generated decode kernel against the reference and measures it beside
// a generated read kernel.  Neighbours: Case.h (content), pmkvq_rt/cuda (the
// runtime that launches), Bench.cpp (who compiles).
//
// Method.  A CUDA graph of at least 8 launches rotates over more than 240 MB of
// inputs, so that no launch finds its cache in the GPU's; events around the
// graph, 3 graphs to warm up, the median of 31, an equal share for each launch.
// Every set of inputs is memory of its own, with the same content.  The read
// kernel goes over the same bytes in the same way, with the best of a few grid
// shapes.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_DEVICEBENCH_H
#define PMKVQ_TOOLS_RUN_BENCH_DEVICEBENCH_H

#include "Measurement.h"
#include "pmkvq_rt/cuda/Decode.h"
#include "pmkvq_rt/cuda/Write.h"

#include <functional>

namespace pmkvq::bench {

/// A kernel as code that the driver loads.
struct DeviceCode {
  std::string code;
  std::string name;
  int32_t threads = 0;
  int32_t sharedBytes = 0;
  /// Of a page's parameters; 0 of a kernel that reads none.
  int64_t slotBytes = 0;
  /// Of decode attention: query rows that a segment may have, and whether its
  /// work lists are of pages.
  int64_t rows = 1;
  bool takesPages = false;
};

/// Where kernels come from.
struct DeviceCompiler {
  /// Decode attention over a problem's kinds of units.
  std::function<rt::Result<DeviceCode>(const Problem &, bool dependentLaunch,
                                       const std::string &chip)>
      decode;
  /// The same for a kernel whose work list says which pages fall.
  std::function<rt::Result<DeviceCode>(const Problem &,
                                       const std::string &chip)>
      lowering;
  std::function<rt::Result<DeviceCode>(const std::string &chip)> read;
  /// Attention of many query rows over a problem's levels.
  std::function<rt::Result<DeviceCode>(const Problem &,
                                       const std::string &chip)>
      prefill;
  /// What attention is compiled for; empty: the device.  An older chip's code
  /// runs on newer ones.
  std::string chip;
  std::string chipFor(const rt::cuda::Device &device) const {
    return chip.empty() ? device.chip() : chip;
  }
  /// Without and, where the chip has it, with dependent launch.
  std::vector<bool> launchesOn(const rt::cuda::Device &device) const;
  /// The kernels that write a problem's cache; with positions, append embeds
  /// those of keys.
  std::function<rt::Result<rt::cuda::WriterCode>(
      const Problem &, bool positions, const std::string &chip)>
      writers;
};

/// How a check launches; by default as the benchmark does.
struct DeviceRun {
  bool dependentLaunch = false;
  /// Thread blocks at most; 0: as many as the device runs at once.
  int32_t blocks = 0;
  /// Spoils the work list before it is copied: tests of tools that must see it.
  std::function<void(rt::DeviceWorkList &)> spoil;
};

/// Runs a problem twice over poisoned results and compares with the reference;
/// `results` receives them if it is not null.
///
/// Errors: as below.
rt::Result<Errors> checkOnDevice(const rt::cuda::DeviceRef &device,
                                 const DeviceCompiler &compiler,
                                 const Problem &problem, const DeviceRun &run,
                                 std::vector<float> *results = nullptr);

/// Checks and measures a problem, without and with dependent launch.
///
/// Errors: kinds or sizes that the GPU's kernels do not support; those of the
/// compiler and the driver; Internal if results are wrong or do not repeat.
rt::Result<std::vector<Measurement>>
measureOnDevice(const rt::cuda::DeviceRef &device,
                const DeviceCompiler &compiler, const Problem &problem);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_DEVICEBENCH_H
