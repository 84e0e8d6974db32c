//===- Bench.cpp - The benchmark of attention -----------------------------===//
//
// Neighbours: Bench.h.
//
//===----------------------------------------------------------------------===//

#include "Bench.h"
#include "CachePlace.h"
#include "CachePlan.h"
#include "Kernels.h"
#include "bench/DeviceBench.h"
#include "bench/HostBench.h"
#include "bench/HostWriteBench.h"
#include "bench/LowerBench.h"
#include "bench/PrefillBench.h"
#include "bench/Sweep.h"
#include "bench/WriteBench.h"
#include "run/Output.h"

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

/// The GPU if it is asked for or can be used, else the CPU; says which.
static Expected<Place> choosePlace(const Options &options) {
  Place place;
  if (options.device != "cpu") {
    auto device = openDevice();
    if (device.ok()) {
      place.device = std::move(*device);
      llvm::errs() << "cuda: " << place.device->name() << ", "
                   << place.device->multiprocessors()
                   << " multiprocessors, compiling for "
                   << (options.chip.empty() ? place.device->chip()
                                            : options.chip)
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
toRows(rt::Result<bench::Measurement> row) {
  if (!row.ok())
    return row.status();
  return std::vector<bench::Measurement>{std::move(*row)};
}

static rt::Result<std::vector<bench::Measurement>>
measure(const Place &place, KernelCompiler &compiler, const Options &options,
        const bench::Shape &shape) {
  const std::string &what = options.bench;
  rt::Result<bench::Problem> problem = bench::understand(shape);
  if (!problem.ok())
    return problem.status();
  if (what == "requantize" && place.device)
    return toRows(bench::measureRequantize(place.device, compiler.forDevices(),
                                           *problem));
  if (what == "append")
    return toRows(
        bench::measureAppend(place.device, compiler.forDevices(), *problem));
  if (what == "prefill")
    return toRows(
        bench::measurePrefill(place.device, compiler.forDevices(), *problem));
  if (place.device) {
    bench::DeviceCompiler forDevices = compiler.forDevices();
    forDevices.chip = options.chip;
    return options.lowerEvery
               ? bench::measureLowering(place.device, forDevices, *problem,
                                        options.lowerEvery)
               : bench::measureOnDevice(place.device, forDevices, *problem);
  }
  rt::Result<bench::HostKernels> kernels = compiler.compileHost(*problem);
  if (!kernels.ok())
    return kernels.status();
  return toRows(
      what == "requantize"
          ? bench::measureHostRequantize(*place.threads, *kernels, *problem)
          : bench::measureOnHost(*place.threads, *kernels, *problem));
}

Error pmkvq::run::runBench(const Options &options) {
  Expected<Place> place = choosePlace(options);
  if (!place)
    return place.takeError();
  if (!place->device && options.bench != "attention" &&
      options.bench != "requantize")
    return llvm::createStringError(
        "--bench=" + options.bench + " runs on a GPU only so far" +
        (options.bench == "prefill" ? " without a MODEL" : "") +
        "; --bench=attention and --bench=requantize run here");
  if (!place->device && options.lowerEvery)
    return llvm::createStringError(
        "--lower: pages fall while attention reads them on a GPU only; "
        "--bench=requantize runs here");
  const bool csv = options.output == Options::Output::Csv;
  if (rt::Status s = printOut(csv ? bench::csvHeader(options.bench == "prefill")
                                  : bench::textHeader());
      !s.ok())
    return toError(s);
  mlir::pmkvq::Assembler assembler = options.assembler;
  if (place->device)
    assembler.chip = place->device->chip();
  KernelCompiler compiler(options.host, std::move(assembler));
  std::vector<bench::Shape> shapes =
      bench::expand(options.sweep, place->device ? bench::kDeviceContext
                                                 : bench::kHostContext);
  size_t failed = 0;
  Progress progress;
  for (const bench::Shape &shape : shapes) {
    progress.show("measuring " + bench::describe(shape));
    auto rows = measure(*place, compiler, options, shape);
    progress.clear();
    if (!rows.ok()) {
      ++failed;
      llvm::errs() << bench::describe(shape) << ": " << rows.status().message()
                   << "\n";
      continue;
    }
    for (const bench::Measurement &row : *rows)
      if (rt::Status s = printOut(csv ? bench::csvLine(shape, row)
                                      : bench::textLine(shape, row));
          !s.ok())
        return toError(s);
  }
  if (!failed)
    return Error::success();
  return llvm::createStringError("--bench: " + llvm::Twine(failed) + " of " +
                                 llvm::Twine(shapes.size()) + " shapes failed");
}
