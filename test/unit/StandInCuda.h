//===- StandInCuda.h - A CUDA driver of the tests' own ----------*- C++ -*-===//
//
// What tests may tell the stand-in library and read from it.  It offers the
// entry points that the runtime calls, on host memory: allocations come from
// malloc, kernels are functions of the test, time is what these say they took.
// Neighbours: StandInCuda.cpp (the library), RuntimeCuda*Test.cpp.
//
// Example: StandIn driver(path); driver.state().version = 11080; then
// Driver::load(driver.file()) must refuse.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_STANDINCUDA_H
#define PMKVQ_TEST_UNIT_STANDINCUDA_H

#include <cstdint>
#include <dlfcn.h>
#include <map>
#include <string>
#include <vector>

namespace pmkvq::test {

/// One launch that ran.
struct StandInLaunch {
  std::string kernel;
  unsigned blocks = 0, threads = 0, sharedBytes = 0;
  bool dependent = false;
  bool inGraph = false;
};

struct StandInState {
  int version = 13000;
  int devices = 1;
  int major = 9, minor = 0;
  int multiprocessors = 132;
  int sharedBytesPerBlock = 232448;
  int blocksPerMultiprocessor = 1;
  uint64_t memoryBytes = uint64_t(4) << 30;

  /// Fails the next call of this entry point with this result.
  std::string failing;
  int failure = 0;
  /// Modules with this text do not compile; the log says `ptxLog`.
  std::string badPtx = "BAD";
  std::string ptxLog = "ptxas: line 1: syntax error";

  /// Runs a kernel on its argument; returns the microseconds it took.
  double (*run)(const StandInLaunch &launch, const void *argument) = nullptr;
  /// Bytes of each kernel's one argument, which a driver knows from its code.
  std::map<std::string, uint64_t> argumentBytes;

  std::vector<StandInLaunch> launches;
  int initialized = 0;
  /// Live contexts, allocations, streams, events, graphs and modules.
  int64_t live = 0;
  uint64_t usedBytes = 0;
  /// Calls without a current context.
  int64_t lost = 0;
};

/// The stand-in, loaded afresh: its state is as above.
class StandIn {
public:
  explicit StandIn(const char *library)
      : path(library), handle(::dlopen(library, RTLD_NOW | RTLD_LOCAL)) {
    if (handle)
      get = reinterpret_cast<StandInState *(*)()>(
          ::dlsym(handle, "standInState"));
    if (get)
      *get() = StandInState();
  }
  StandIn(const StandIn &) = delete;
  StandIn &operator=(const StandIn &) = delete;
  ~StandIn() {
    if (handle)
      (void)::dlclose(handle);
  }
  StandInState &state() { return *get(); }
  const std::string &file() const { return path; }

private:
  std::string path;
  void *handle;
  StandInState *(*get)() = nullptr;
};

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_STANDINCUDA_H
