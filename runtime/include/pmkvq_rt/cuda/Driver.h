//===- Driver.h - The CUDA driver, loaded at run time -----------*- C++ -*-===//
//
// The entry points of libcuda that this runtime calls, looked up when a GPU is
// asked for, and the one mapping of their results to Status.  Neighbours:
// Device.h (devices and what lives on them).
//
// Mental model.  Nothing links libcuda and nothing includes cuda.h, so one
// binary runs with and without a GPU, and builds without a toolkit.  The few
// types and signatures are declared here; a test compares them with cuda.h
// where there is one.  Each entry point carries its name, so that `call` can
// say which call failed:
//
//   auto driver = Driver::load();                   // or why there is none
//   Status s = (*driver)->call((*driver)->memAlloc, &address, bytes);
//   // "cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (out of memory); ..."
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_CUDA_DRIVER_H
#define PMKVQ_RT_CUDA_DRIVER_H

#include "pmkvq_rt/Status.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace pmkvq::rt::cuda {

//===----------------------------------------------------------------------===//
// The driver's types
//===----------------------------------------------------------------------===//

/// CUresult: 0 is success.
using DriverResult = int;
using DeviceHandle = int;
using DeviceAddress = unsigned long long;
struct ContextTag;
struct StreamTag;
struct EventTag;
struct GraphTag;
struct GraphExecTag;
struct ModuleTag;
struct FunctionTag;
using ContextHandle = ContextTag *;
using StreamHandle = StreamTag *;
using EventHandle = EventTag *;
using GraphHandle = GraphTag *;
using GraphExecHandle = GraphExecTag *;
using ModuleHandle = ModuleTag *;
using FunctionHandle = FunctionTag *;

/// CUdevice_attribute, those that are asked for.
enum DeviceAttribute : int {
  kMultiprocessorCount = 16,
  kL2CacheBytes = 38,
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kSharedBytesPerBlockOptIn = 97,
};

/// CUfunction_attribute.
enum FunctionAttribute : int {
  kFunctionLocalBytes = 3,
  kFunctionRegisters = 4,
  kFunctionMaxDynamicSharedBytes = 8,
};

/// CUjit_option.
enum JitOption : int {
  kJitErrorLog = 5,
  kJitErrorLogBytes = 6,
};

inline constexpr int kCaptureThreadLocal = 1;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr int kProgrammaticStreamSerialization = 6;

/// CUlaunchAttribute.
struct LaunchAttribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    int flag;
    uint64_t align;
  } value;
};
static_assert(sizeof(LaunchAttribute) == 72);

/// CUlaunchConfig.
struct LaunchConfig {
  unsigned gridX, gridY, gridZ;
  unsigned blockX, blockY, blockZ;
  unsigned sharedBytes;
  StreamHandle stream;
  LaunchAttribute *attributes;
  unsigned attributeCount;
};

/// Results that are told apart; all others are reported by their name.
enum : DriverResult {
  kDriverSuccess = 0,
  kDriverInvalidValue = 1,
  kDriverOutOfMemory = 2,
  kDriverStubLibrary = 34,
  kDriverNoDevice = 100,
  kDriverInvalidDevice = 101,
  kDriverInvalidPtx = 218,
  kDriverNoBinaryForGpu = 209,
  kDriverJitCompilerNotFound = 221,
  kDriverUnsupportedPtxVersion = 222,
  kDriverNotFound = 500,
  kDriverLaunchOutOfResources = 701,
  kDriverNotSupported = 801,
  kDriverSystemDriverMismatch = 803,
};

//===----------------------------------------------------------------------===//
// Entry points
//===----------------------------------------------------------------------===//

/// X(member, symbol, arguments...).  Symbols are the versions that cuda.h 12
/// and 13 map their names to.
#define PMKVQ_CUDA_ENTRIES(X)                                                  \
  X(init, "cuInit", unsigned)                                                  \
  X(driverGetVersion, "cuDriverGetVersion", int *)                             \
  X(getErrorName, "cuGetErrorName", DriverResult, const char **)               \
  X(getErrorString, "cuGetErrorString", DriverResult, const char **)           \
  X(deviceGetCount, "cuDeviceGetCount", int *)                                 \
  X(deviceGet, "cuDeviceGet", DeviceHandle *, int)                             \
  X(deviceGetName, "cuDeviceGetName", char *, int, DeviceHandle)               \
  X(deviceGetAttribute, "cuDeviceGetAttribute", int *, int, DeviceHandle)      \
  X(primaryCtxRetain, "cuDevicePrimaryCtxRetain", ContextHandle *,             \
    DeviceHandle)                                                              \
  X(primaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", DeviceHandle)           \
  X(ctxSetCurrent, "cuCtxSetCurrent", ContextHandle)                           \
  X(memGetInfo, "cuMemGetInfo_v2", size_t *, size_t *)                         \
  X(memAlloc, "cuMemAlloc_v2", DeviceAddress *, size_t)                        \
  X(memFree, "cuMemFree_v2", DeviceAddress)                                    \
  X(memcpyHtoD, "cuMemcpyHtoD_v2", DeviceAddress, const void *, size_t)        \
  X(memcpyDtoH, "cuMemcpyDtoH_v2", void *, DeviceAddress, size_t)              \
  X(memcpyDtoD, "cuMemcpyDtoD_v2", DeviceAddress, DeviceAddress, size_t)       \
  X(memcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", DeviceAddress, const void *,      \
    size_t, StreamHandle)                                                      \
  X(memcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", DeviceAddress, DeviceAddress,     \
    size_t, StreamHandle)                                                      \
  X(memsetD8, "cuMemsetD8_v2", DeviceAddress, unsigned char, size_t)           \
  X(streamCreate, "cuStreamCreate", StreamHandle *, unsigned)                  \
  X(streamDestroy, "cuStreamDestroy_v2", StreamHandle)                         \
  X(streamSynchronize, "cuStreamSynchronize", StreamHandle)                    \
  X(streamBeginCapture, "cuStreamBeginCapture_v2", StreamHandle, int)          \
  X(streamEndCapture, "cuStreamEndCapture", StreamHandle, GraphHandle *)       \
  X(graphInstantiate, "cuGraphInstantiateWithFlags", GraphExecHandle *,        \
    GraphHandle, unsigned long long)                                           \
  X(graphLaunch, "cuGraphLaunch", GraphExecHandle, StreamHandle)               \
  X(graphExecDestroy, "cuGraphExecDestroy", GraphExecHandle)                   \
  X(graphDestroy, "cuGraphDestroy", GraphHandle)                               \
  X(eventCreate, "cuEventCreate", EventHandle *, unsigned)                     \
  X(eventDestroy, "cuEventDestroy_v2", EventHandle)                            \
  X(eventRecord, "cuEventRecord", EventHandle, StreamHandle)                   \
  X(eventSynchronize, "cuEventSynchronize", EventHandle)                       \
  X(eventElapsedTime, "cuEventElapsedTime", float *, EventHandle, EventHandle) \
  X(moduleLoadData, "cuModuleLoadDataEx", ModuleHandle *, const void *,        \
    unsigned, int *, void **)                                                  \
  X(moduleUnload, "cuModuleUnload", ModuleHandle)                              \
  X(moduleGetFunction, "cuModuleGetFunction", FunctionHandle *, ModuleHandle,  \
    const char *)                                                              \
  X(funcGetAttribute, "cuFuncGetAttribute", int *, int, FunctionHandle)        \
  X(funcSetAttribute, "cuFuncSetAttribute", FunctionHandle, int, int)          \
  X(occupancy, "cuOccupancyMaxActiveBlocksPerMultiprocessor", int *,           \
    FunctionHandle, int, size_t)                                               \
  X(launchKernel, "cuLaunchKernelEx", const LaunchConfig *, FunctionHandle,    \
    void **, void **)

/// One entry point, with its name for messages.
template <typename... Arguments> struct DriverEntry {
  const char *name = nullptr;
  DriverResult (*function)(Arguments...) = nullptr;
};

/// The driver's library; stays loaded as long as this object.
class Driver {
public:
  /// CUDA 12.3: the first driver whose graphs hold dependent launches.
  static constexpr int kMinimumVersion = 12030;

  /// Names the library instead of libcuda.so.1: for other places, and for
  /// tests that have a library of their own.
  static constexpr const char *kLibraryVariable = "PMKVQ_CUDA_LIBRARY";

  /// Loads the driver and initializes it.  `library` empty: what
  /// kLibraryVariable says, or libcuda.so.1.
  ///
  /// Errors: FailedPrecondition if there is none, if it lacks an entry point,
  /// is too old or finds no device; the message says which, and what to do.
  static Result<std::shared_ptr<const Driver>>
  load(const std::string &library = "");

  Driver(const Driver &) = delete;
  Driver &operator=(const Driver &) = delete;
  ~Driver();

  /// Calls an entry point.
  ///
  /// Errors: whatever the driver reports, with the name of the call.
  template <typename... Arguments, typename... Actual>
  Status call(const DriverEntry<Arguments...> &entry,
              Actual &&...actual) const {
    DriverResult result =
        entry.function(static_cast<Arguments>(std::forward<Actual>(actual))...);
    return result == kDriverSuccess ? Status() : error(result, entry.name);
  }

  /// The Status of a result that is not success.
  Status error(DriverResult result, const char *name) const;

  /// 1000 * major + 10 * minor of the CUDA version that the driver offers.
  int version() const { return version_; }

#define PMKVQ_CUDA_MEMBER(member, symbol, ...)                                 \
  DriverEntry<__VA_ARGS__> member = {symbol, nullptr};
  PMKVQ_CUDA_ENTRIES(PMKVQ_CUDA_MEMBER)
#undef PMKVQ_CUDA_MEMBER

private:
  Driver() = default;
  Status open(const std::string &library);
  Status findEntries(const std::string &library);
  Status initialize(const std::string &library);

  void *handle_ = nullptr;
  int version_ = 0;
};

} // namespace pmkvq::rt::cuda

#endif // PMKVQ_RT_CUDA_DRIVER_H
