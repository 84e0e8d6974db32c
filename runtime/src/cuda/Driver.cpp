//===- Driver.cpp - The CUDA driver, loaded at run time -------------------===//
//
// Neighbours: Driver.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/cuda/Driver.h"

#include <cstdlib>
#include <dlfcn.h>

using namespace pmkvq::rt;
using namespace pmkvq::rt::cuda;

/// What a user can always do instead.
static constexpr const char *kOrCpu = ", or run with --device=cpu";

static std::string versionText(int version) {
  return std::to_string(version / 1000) + "." +
         std::to_string(version % 1000 / 10);
}

namespace {
/// What a caller should do about a driver's result.
struct Advice {
  StatusCode code;
  const char *what;
};
} // namespace

static Advice adviseOn(DriverResult result) {
  switch (result) {
  case kDriverOutOfMemory:
    return {StatusCode::OutOfMemory,
            "free device memory, or ask for a smaller cache"};
  case kDriverNoDevice:
  case kDriverInvalidDevice:
    return {StatusCode::FailedPrecondition,
            "check that a GPU is there and visible (nvidia-smi, "
            "CUDA_VISIBLE_DEVICES)"};
  case kDriverStubLibrary:
    return {StatusCode::FailedPrecondition,
            "this is the toolkit's stub library; name the driver's own"};
  case kDriverSystemDriverMismatch:
    return {StatusCode::FailedPrecondition,
            "the driver's library and its kernel module differ in version; "
            "reboot or reinstall the driver"};
  case kDriverUnsupportedPtxVersion:
    return {StatusCode::FailedPrecondition,
            "the driver is older than the kernel's PTX; update the driver"};
  case kDriverJitCompilerNotFound:
    return {StatusCode::FailedPrecondition,
            "the driver's PTX compiler (libnvidia-ptxjitcompiler) is missing; "
            "reinstall the driver"};
  case kDriverNoBinaryForGpu:
    return {StatusCode::Unimplemented,
            "the kernel was compiled for another chip; compile it for this "
            "one"};
  case kDriverNotSupported:
    return {StatusCode::Unimplemented, "this device or driver cannot do it"};
  default:
    // Wrong arguments, faults of kernels and the rest are ours to mend; the
    // context is lost after most of them.
    return {StatusCode::Internal, "report this as a defect of pmkvq"};
  }
}

Status Driver::error(DriverResult result, const char *name) const {
  const char *known = nullptr, *text = nullptr;
  if (getErrorName.function)
    (void)getErrorName.function(result, &known);
  if (getErrorString.function)
    (void)getErrorString.function(result, &text);
  Advice advice = adviseOn(result);
  std::string message = std::string(name) + ": " +
                        (known ? known : "error " + std::to_string(result));
  if (text)
    message += std::string(" (") + text + ")";
  return {advice.code, message + "; " + advice.what};
}

Status Driver::open(const std::string &library) {
  handle_ = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle_)
    return {};
  const char *reason = ::dlerror();
  return {StatusCode::FailedPrecondition,
          "no CUDA driver: " + std::string(reason ? reason : library) +
              "; install NVIDIA's driver, name its library in " +
              kLibraryVariable + kOrCpu};
}

Status Driver::findEntries(const std::string &library) {
  auto find = [&](auto &entry) -> Status {
    entry.function = reinterpret_cast<std::decay_t<decltype(entry.function)>>(
        ::dlsym(handle_, entry.name));
    if (entry.function)
      return {};
    return {StatusCode::FailedPrecondition,
            library + " has no " + entry.name +
                ": expected a driver for CUDA " + versionText(kMinimumVersion) +
                " or later; update NVIDIA's driver" + kOrCpu};
  };
#define PMKVQ_CUDA_FIND(member, symbol, ...)                                   \
  if (Status status = find(member); !status.ok())                              \
    return status;
  PMKVQ_CUDA_ENTRIES(PMKVQ_CUDA_FIND)
#undef PMKVQ_CUDA_FIND
  return {};
}

Status Driver::initialize(const std::string &library) {
  // The version can be asked for before initialization, which an old driver
  // might refuse for the same reason less clearly.
  if (Status status = call(driverGetVersion, &version_); !status.ok())
    return status;
  if (version_ < kMinimumVersion)
    return {StatusCode::FailedPrecondition,
            library + " is a driver for CUDA " + versionText(version_) +
                ", expected " + versionText(kMinimumVersion) +
                " or later; update NVIDIA's driver" + kOrCpu};
  return call(init, 0u);
}

Result<std::shared_ptr<const Driver>> Driver::load(const std::string &library) {
  const char *variable = std::getenv(kLibraryVariable);
  std::string name = !library.empty()        ? library
                     : variable && *variable ? variable
                                             : "libcuda.so.1";
  std::shared_ptr<Driver> driver(new Driver());
  for (auto step : {&Driver::open, &Driver::findEntries, &Driver::initialize})
    if (Status status = ((*driver).*step)(name); !status.ok())
      return status;
  return std::shared_ptr<const Driver>(std::move(driver));
}

Driver::~Driver() {
  if (handle_)
    (void)::dlclose(handle_);
}
