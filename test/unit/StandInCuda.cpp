//===- StandInCuda.cpp - A CUDA driver of the tests' own ------------------===//
//
// A shared library with libcuda's names; see StandInCuda.h.  With
// PMKVQ_STANDIN_OLD it lacks cuLaunchKernelEx, as old drivers do.
//
//===----------------------------------------------------------------------===//

#include "StandInCuda.h"
#include "pmkvq_rt/cuda/Driver.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>

using namespace pmkvq::test;
using namespace pmkvq::rt::cuda;

namespace {
struct Recorded {
  StandInLaunch launch;
  std::vector<uint8_t> argument;
};
struct FakeGraph {
  std::vector<Recorded> launches;
};
struct FakeStream {
  FakeGraph *capturing = nullptr;
};
struct FakeEvent {
  double time = 0;
};
struct FakeModule {
  explicit FakeModule(std::string text) : text(std::move(text)) {}
  std::string text;
  std::set<std::string> names;
};

// NOLINTNEXTLINE(bugprone-throwing-static-initialization): a test's.
StandInState state;
double now = 0;
bool current = false;
std::map<DeviceAddress, size_t> allocations;
/// Work of the default stream that the host has not waited for: copies to the
/// device and fills come late, as they may on a GPU.
std::vector<std::function<void()>> pending;

constexpr int kNotFound = 500;
constexpr int kInvalidContext = 201;
} // namespace

/// A failure that the test asked for, or a call without a context.
static int enter(const char *name, bool needsContext = true) {
  if (state.failing == name) {
    state.failing.clear();
    return state.failure;
  }
  if (needsContext && !current) {
    ++state.lost;
    return kInvalidContext;
  }
  return kDriverSuccess;
}

#define BEGIN(...)                                                             \
  if (int result = enter(__func__, ##__VA_ARGS__))                             \
  return result

static void run(const Recorded &recorded, bool inGraph) {
  StandInLaunch launch = recorded.launch;
  launch.inGraph = inGraph;
  now += state.run ? state.run(launch, recorded.argument.data()) : 1.0;
  state.launches.push_back(std::move(launch));
}

template <typename Real, typename Fake, typename... Arguments>
static int make(Real *handle, Arguments &&...arguments) {
  ++state.live;
  *handle =
      reinterpret_cast<Real>(new Fake{std::forward<Arguments>(arguments)...});
  return kDriverSuccess;
}

template <typename Fake, typename Real> static int destroy(Real handle) {
  --state.live;
  delete reinterpret_cast<Fake *>(handle);
  return kDriverSuccess;
}

/// Whether an access stays within one allocation.
static bool inside(DeviceAddress address, size_t bytes) {
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin())
    return false;
  auto [begin, size] = *std::prev(after);
  return address - begin + bytes <= size;
}

/// Does what is pending.
static void settle() {
  for (const std::function<void()> &work : pending)
    work();
  pending.clear();
}

// NOLINTBEGIN(readability-identifier-naming,readability-non-const-parameter):
// the driver's names and signatures.
extern "C" {

StandInState *standInState() { return &state; }

int cuInit(unsigned) {
  BEGIN(false);
  ++state.initialized;
  return kDriverSuccess;
}
int cuDriverGetVersion(int *version) {
  BEGIN(false);
  *version = state.version;
  return kDriverSuccess;
}
int cuGetErrorName(int result, const char **name) {
  *name = result == kDriverOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY"
          : result == 700              ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                                       : nullptr;
  return *name ? kDriverSuccess : kDriverInvalidValue;
}
int cuGetErrorString(int result, const char **text) {
  *text = result == kDriverOutOfMemory ? "out of memory" : nullptr;
  return *text ? kDriverSuccess : kDriverInvalidValue;
}
int cuDeviceGetCount(int *count) {
  BEGIN(false);
  *count = state.devices;
  return kDriverSuccess;
}
int cuDeviceGet(int *device, int index) {
  BEGIN(false);
  *device = index;
  return kDriverSuccess;
}
int cuDeviceGetName(char *name, int bytes, int) {
  BEGIN(false);
  std::strncpy(name, "Stand-in GPU", static_cast<size_t>(bytes));
  return kDriverSuccess;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
  BEGIN(false);
  switch (attribute) {
  case kMultiprocessorCount:
    *value = state.multiprocessors;
    return kDriverSuccess;
  case kCapabilityMajor:
    *value = state.major;
    return kDriverSuccess;
  case kCapabilityMinor:
    *value = state.minor;
    return kDriverSuccess;
  case kL2CacheBytes:
    *value = 50 << 20;
    return kDriverSuccess;
  case kSharedBytesPerBlockOptIn:
    *value = state.sharedBytesPerBlock;
    return kDriverSuccess;
  default:
    return kDriverInvalidValue;
  }
}
int cuDevicePrimaryCtxRetain(ContextHandle *context, int) {
  BEGIN(false);
  static int primary;
  *context = reinterpret_cast<ContextHandle>(&primary);
  ++state.live;
  return kDriverSuccess;
}
int cuDevicePrimaryCtxRelease_v2(int) {
  --state.live;
  current = false;
  return kDriverSuccess;
}
int cuCtxSetCurrent(ContextHandle context) {
  BEGIN(false);
  current = context != nullptr;
  return kDriverSuccess;
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
  BEGIN();
  *total = state.memoryBytes;
  *free = state.memoryBytes - state.usedBytes;
  return kDriverSuccess;
}
int cuMemAlloc_v2(DeviceAddress *address, size_t bytes) {
  BEGIN();
  if (bytes == 0)
    return kDriverInvalidValue;
  if (bytes > state.memoryBytes - state.usedBytes)
    return kDriverOutOfMemory;
  void *memory = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  if (!memory)
    return kDriverOutOfMemory;
  // What is not written is seen.
  std::memset(memory, 0xa5, bytes);
  *address = reinterpret_cast<DeviceAddress>(memory);
  allocations[*address] = bytes;
  state.usedBytes += bytes;
  ++state.live;
  return kDriverSuccess;
}
int cuMemFree_v2(DeviceAddress address) {
  BEGIN();
  auto found = allocations.find(address);
  if (found == allocations.end())
    return kDriverInvalidValue;
  settle();
  state.usedBytes -= found->second;
  allocations.erase(found);
  std::free(reinterpret_cast<void *>(address));
  --state.live;
  return kDriverSuccess;
}
int cuMemcpyHtoD_v2(DeviceAddress to, const void *from, size_t bytes) {
  BEGIN();
  if (!inside(to, bytes))
    return kDriverInvalidValue;
  std::vector<uint8_t> staged(static_cast<const uint8_t *>(from),
                              static_cast<const uint8_t *>(from) + bytes);
  pending.emplace_back([to, staged = std::move(staged)] {
    std::memcpy(reinterpret_cast<void *>(to), staged.data(), staged.size());
  });
  return kDriverSuccess;
}
int cuMemcpyDtoH_v2(void *to, DeviceAddress from, size_t bytes) {
  BEGIN();
  if (!inside(from, bytes))
    return kDriverInvalidValue;
  settle();
  std::memcpy(to, reinterpret_cast<void *>(from), bytes);
  return kDriverSuccess;
}
int cuMemcpyDtoD_v2(DeviceAddress to, DeviceAddress from, size_t bytes) {
  BEGIN();
  if (!inside(to, bytes) || !inside(from, bytes))
    return kDriverInvalidValue;
  pending.emplace_back([=] {
    std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from),
                bytes);
  });
  return kDriverSuccess;
}
// A stream's copies are in order with its kernels, which run at once.
int cuMemcpyHtoDAsync_v2(DeviceAddress to, const void *from, size_t bytes,
                         StreamHandle) {
  BEGIN();
  if (!inside(to, bytes))
    return kDriverInvalidValue;
  std::memcpy(reinterpret_cast<void *>(to), from, bytes);
  return kDriverSuccess;
}
int cuMemcpyDtoDAsync_v2(DeviceAddress to, DeviceAddress from, size_t bytes,
                         StreamHandle) {
  BEGIN();
  if (!inside(to, bytes) || !inside(from, bytes))
    return kDriverInvalidValue;
  std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from),
              bytes);
  return kDriverSuccess;
}
int cuMemsetD8_v2(DeviceAddress to, unsigned char byte, size_t bytes) {
  BEGIN();
  if (!inside(to, bytes))
    return kDriverInvalidValue;
  pending.emplace_back(
      [=] { std::memset(reinterpret_cast<void *>(to), byte, bytes); });
  return kDriverSuccess;
}

int cuStreamCreate(StreamHandle *stream, unsigned) {
  BEGIN();
  return make<StreamHandle, FakeStream>(stream);
}
int cuStreamDestroy_v2(StreamHandle stream) {
  BEGIN();
  return destroy<FakeStream>(stream);
}
int cuStreamSynchronize(StreamHandle stream) {
  BEGIN();
  // Other streams do not wait for the default one.
  if (!stream)
    settle();
  return kDriverSuccess;
}
int cuStreamBeginCapture_v2(StreamHandle stream, int) {
  BEGIN();
  reinterpret_cast<FakeStream *>(stream)->capturing = new FakeGraph();
  return kDriverSuccess;
}
int cuStreamEndCapture(StreamHandle stream, GraphHandle *graph) {
  BEGIN();
  auto *fake = reinterpret_cast<FakeStream *>(stream);
  if (!fake->capturing)
    return kDriverInvalidValue;
  *graph = reinterpret_cast<GraphHandle>(fake->capturing);
  fake->capturing = nullptr;
  ++state.live;
  return kDriverSuccess;
}
int cuGraphInstantiateWithFlags(GraphExecHandle *exec, GraphHandle graph,
                                unsigned long long) {
  BEGIN();
  return make<GraphExecHandle, FakeGraph>(
      exec, *reinterpret_cast<FakeGraph *>(graph));
}
int cuGraphLaunch(GraphExecHandle exec, StreamHandle) {
  BEGIN();
  for (const Recorded &recorded : reinterpret_cast<FakeGraph *>(exec)->launches)
    run(recorded, /*inGraph=*/true);
  return kDriverSuccess;
}
int cuGraphExecDestroy(GraphExecHandle exec) {
  BEGIN();
  return destroy<FakeGraph>(exec);
}
int cuGraphDestroy(GraphHandle graph) {
  BEGIN();
  return destroy<FakeGraph>(graph);
}

int cuEventCreate(EventHandle *event, unsigned) {
  BEGIN();
  return make<EventHandle, FakeEvent>(event);
}
int cuEventDestroy_v2(EventHandle event) {
  BEGIN();
  return destroy<FakeEvent>(event);
}
int cuEventRecord(EventHandle event, StreamHandle) {
  BEGIN();
  reinterpret_cast<FakeEvent *>(event)->time = now;
  return kDriverSuccess;
}
int cuEventSynchronize(EventHandle) {
  BEGIN();
  return kDriverSuccess;
}
int cuEventElapsedTime(float *milliseconds, EventHandle begin,
                       EventHandle end) {
  BEGIN();
  *milliseconds =
      static_cast<float>((reinterpret_cast<FakeEvent *>(end)->time -
                          reinterpret_cast<FakeEvent *>(begin)->time) /
                         1e3);
  return kDriverSuccess;
}

int cuModuleLoadDataEx(ModuleHandle *module, const void *text, unsigned count,
                       int *options, void **values) {
  BEGIN();
  auto *code = static_cast<const char *>(text);
  if (state.badPtx == code) {
    char *log = nullptr;
    size_t bytes = 0;
    for (unsigned i = 0; i < count; ++i) {
      if (options[i] == kJitErrorLog)
        log = static_cast<char *>(values[i]);
      if (options[i] == kJitErrorLogBytes)
        bytes = reinterpret_cast<uintptr_t>(values[i]);
    }
    if (log && bytes)
      std::strncpy(log, state.ptxLog.c_str(), bytes);
    return kDriverInvalidPtx;
  }
  return make<ModuleHandle, FakeModule>(module, code);
}
int cuModuleUnload(ModuleHandle module) {
  BEGIN();
  return destroy<FakeModule>(module);
}
int cuModuleGetFunction(FunctionHandle *function, ModuleHandle module,
                        const char *name) {
  BEGIN();
  auto *fake = reinterpret_cast<FakeModule *>(module);
  if (fake->text.find(name) == std::string::npos)
    return kNotFound;
  // A function is its name, kept as long as its module.
  *function = reinterpret_cast<FunctionHandle>(
      const_cast<std::string *>(&*fake->names.insert(name).first));
  return kDriverSuccess;
}
int cuFuncGetAttribute(int *value, int attribute, FunctionHandle) {
  BEGIN();
  *value = attribute == kFunctionRegisters ? 128 : 0;
  return kDriverSuccess;
}
int cuFuncSetAttribute(FunctionHandle, int, int value) {
  BEGIN();
  return value > state.sharedBytesPerBlock ? kDriverInvalidValue
                                           : kDriverSuccess;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, FunctionHandle,
                                                int, size_t) {
  BEGIN();
  *blocks = state.blocksPerMultiprocessor;
  return kDriverSuccess;
}
#ifndef PMKVQ_STANDIN_OLD
int cuLaunchKernelEx(const LaunchConfig *config, FunctionHandle function,
                     void **arguments, void **) {
  BEGIN();
  Recorded recorded;
  recorded.launch.kernel = *reinterpret_cast<std::string *>(function);
  recorded.launch.blocks = config->gridX;
  recorded.launch.threads = config->blockX;
  recorded.launch.sharedBytes = config->sharedBytes;
  for (unsigned i = 0; i < config->attributeCount; ++i)
    if (config->attributes[i].id == kProgrammaticStreamSerialization)
      recorded.launch.dependent = config->attributes[i].value.flag != 0;
  auto *bytes = static_cast<const uint8_t *>(arguments[0]);
  recorded.argument.assign(bytes,
                           bytes + state.argumentBytes[recorded.launch.kernel]);
  auto *stream = reinterpret_cast<FakeStream *>(config->stream);
  if (stream->capturing)
    stream->capturing->launches.push_back(std::move(recorded));
  else
    run(recorded, /*inGraph=*/false);
  return kDriverSuccess;
}
#endif
}
// NOLINTEND(readability-identifier-naming,readability-non-const-parameter)
