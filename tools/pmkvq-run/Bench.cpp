//===- Bench.cpp - The benchmark of attention -----------------------------===//
//
// Neighbours: Bench.h.
//
//===----------------------------------------------------------------------===//

#include "Bench.h"
#include "CachePlan.h"
#include "Kernels.h"
#include "Output.h"
#include "bench/DeviceBench.h"
#include "bench/HostBench.h"
#include "bench/Sweep.h"

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
namespace cuda = ::pmkvq::rt::cuda;

namespace {
/// Where shapes are measured.
struct Place {
  /// Null: on the CPU.
  cuda::DeviceRef device;
  std::unique_ptr<rt::ThreadPool> threads;
};
} // namespace

static rt::Result<cuda::DeviceRef> openDevice() {
  auto driver = cuda::Driver::load();
  if (!driver.ok())
    return driver.status();
  return cuda::Device::open(std::move(*driver));
}

/// The GPU if it is asked for or can be used, else the CPU; says which.
static Expected<Place> choosePlace(const Options &options) {
  Place place;
  if (options.device != "cpu") {
    auto device = openDevice();
    if (device.ok()) {
      place.device = std::move(*device);
      llvm::errs() << "cuda: " << place.device->name() << ", "
                   << place.device->multiprocessors()
                   << " multiprocessors, compiling for " << place.device->chip()
                   << "\n";
      return place;
    }
    const std::string &reason = device.status().message();
    if (options.device == "cuda")
      return llvm::createStringError("--device=cuda: " + reason);
    llvm::errs() << "no GPU is used: " << reason << "\n";
  }
  auto threads = rt::ThreadPool::create(options.threads);
  if (!threads.ok())
    return toError(threads.status());
  place.threads = std::move(*threads);
  llvm::errs() << "cpu: " << place.threads->threads() << " threads\n";
  return place;
}

static rt::Result<std::vector<bench::Measurement>>
measure(const Place &place, KernelCompiler &compiler,
        const bench::Shape &shape) {
  rt::Result<bench::Problem> problem = bench::understand(shape);
  if (!problem.ok())
    return problem.status();
  if (place.device)
    return bench::measureOnDevice(place.device, compiler.forDevices(),
                                  *problem);
  rt::Result<bench::HostKernels> kernels = compiler.compileHost(*problem);
  if (!kernels.ok())
    return kernels.status();
  rt::Result<bench::Measurement> row =
      bench::measureOnHost(*place.threads, *kernels, *problem);
  if (!row.ok())
    return row.status();
  return std::vector<bench::Measurement>{std::move(*row)};
}

Error pmkvq::run::runBench(const Options &options) {
  Expected<Place> place = choosePlace(options);
  if (!place)
    return place.takeError();
  const bool csv = options.output == Options::Output::Csv;
  if (Error error = printOut(csv ? bench::csvHeader() : bench::textHeader()))
    return error;
  KernelCompiler compiler;
  std::vector<bench::Shape> shapes =
      bench::expand(options.sweep, place->device ? bench::kDeviceContext
                                                 : bench::kHostContext);
  size_t failed = 0;
  Progress progress;
  for (const bench::Shape &shape : shapes) {
    progress.show("measuring " + bench::describe(shape));
    auto rows = measure(*place, compiler, shape);
    progress.clear();
    if (!rows.ok()) {
      ++failed;
      llvm::errs() << bench::describe(shape) << ": " << rows.status().message()
                   << "\n";
      continue;
    }
    for (const bench::Measurement &row : *rows)
      if (Error error = printOut(csv ? bench::csvLine(shape, row)
                                     : bench::textLine(shape, row)))
        return error;
  }
  if (!failed)
    return Error::success();
  return llvm::createStringError("--bench: " + llvm::Twine(failed) + " of " +
                                 llvm::Twine(shapes.size()) + " shapes failed");
}
