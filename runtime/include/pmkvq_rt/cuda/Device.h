//===- Device.h - A GPU and what lives on it --------------------*- C++ -*-===//
//
// Devices, memory, streams, graphs, modules and launches as move-only handles.
// Neighbours: Driver.h (the calls behind them), Decode.h (attention made of
// them).
//
// Mental model.  A Device is one GPU's primary context, shared by everything
// that lives on it: a handle keeps its device, and the device its driver, so
// handles may outlive whoever made them.  Every call makes the context current
// on the calling thread first, so any thread may use any handle.  Work goes to
// streams in order; a Graph is a recorded stretch of a stream that is launched
// as one.
//
//   auto device = Device::open(driver);
//   auto memory = DeviceMemory::allocate(*device, bytes);
//   auto module = Module::load(*device, ptx);
//   auto kernel = (*module)->function("decode");
//   Status s = kernel->launch(stream, {grid, threads, shared}, arguments);
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_CUDA_DEVICE_H
#define PMKVQ_RT_CUDA_DEVICE_H

#include "pmkvq_rt/cuda/Driver.h"

#include <functional>
#include <string>
#include <utility>

namespace pmkvq::rt::cuda {

class Device;
using DeviceRef = std::shared_ptr<const Device>;

/// One GPU.
class Device {
public:
  /// Opens device `index` of those that are visible.
  ///
  /// Errors: FailedPrecondition if there is no such device; Unimplemented below
  /// compute capability 8.0, whose matrix instructions kernels need; those of
  /// the driver.
  static Result<DeviceRef> open(std::shared_ptr<const Driver> driver,
                                int32_t index = 0);

  Device(const Device &) = delete;
  Device &operator=(const Device &) = delete;
  ~Device();

  const Driver &driver() const { return *driver_; }
  const std::string &name() const { return name_; }
  int32_t multiprocessors() const { return multiprocessors_; }
  /// Compute capability, 10 * major + minor.
  int32_t capability() const { return capability_; }
  int64_t l2Bytes() const { return l2Bytes_; }
  /// Shared memory that one thread block may have.
  int64_t sharedBytesPerBlock() const { return sharedBytesPerBlock_; }
  /// The chip to compile for: "sm_90a" on Hopper, else the newest plain target
  /// that runs here.
  std::string chip() const;

  /// Bytes of device memory that are free now.
  Result<int64_t> freeBytes() const;

  /// Calls the driver with this device's context current.
  template <typename... Arguments, typename... Actual>
  Status call(const DriverEntry<Arguments...> &entry,
              Actual &&...actual) const {
    Status status = driver_->call(driver_->ctxSetCurrent, context_);
    if (!status.ok())
      return status;
    return driver_->call(entry, std::forward<Actual>(actual)...);
  }

private:
  Device() = default;
  Status query(int32_t index);

  std::shared_ptr<const Driver> driver_;
  DeviceHandle handle_ = 0;
  ContextHandle context_ = nullptr;
  std::string name_;
  int32_t multiprocessors_ = 0;
  int32_t capability_ = 0;
  int64_t l2Bytes_ = 0;
  int64_t sharedBytesPerBlock_ = 0;
};

/// A handle and the device it belongs to; move-only.  `Entry` names the member
/// of Driver that destroys it.
template <typename Handle, auto Entry> class Owned {
public:
  Owned() = default;
  Owned(DeviceRef device, Handle handle)
      : device_(std::move(device)), handle_(handle) {}
  Owned(Owned &&other) noexcept
      : device_(std::move(other.device_)),
        handle_(std::exchange(other.handle_, Handle())) {}
  Owned &operator=(Owned &&other) noexcept {
    std::swap(device_, other.device_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  Owned(const Owned &) = delete;
  Owned &operator=(const Owned &) = delete;
  ~Owned() {
    // A context that a fault has ended fails here too; there is nothing left
    // to free then.
    if (handle_)
      (void)device_->call(device_->driver().*Entry, handle_);
  }

  Handle get() const { return handle_; }
  const Device &device() const { return *device_; }
  const DeviceRef &deviceRef() const { return device_; }
  explicit operator bool() const { return handle_ != Handle(); }

private:
  DeviceRef device_;
  Handle handle_ = Handle();
};

class Stream;

/// A range of device memory.
class DeviceMemory {
public:
  /// No memory.
  DeviceMemory() = default;

  /// Errors: OutOfMemory, with the bytes asked for and the bytes free;
  /// InvalidArgument if `bytes` is negative.
  static Result<DeviceMemory> allocate(const DeviceRef &device, int64_t bytes);

  int64_t bytes() const { return bytes_; }
  /// As kernels see it; never to be used by the host.
  template <typename T = uint8_t> T *pointer(int64_t offset = 0) const {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): addresses are integers.
    return reinterpret_cast<T *>(
        static_cast<uintptr_t>(memory_.get() + offset));
  }

  /// Copies and fills are done when they return.
  /// Errors: InvalidArgument if the range leaves the memory.
  Status upload(const void *from, int64_t bytes, int64_t offset = 0);
  Status download(void *to, int64_t bytes, int64_t offset = 0) const;
  Status copyFrom(const DeviceMemory &from);
  Status fill(uint8_t byte);

  /// Enqueue a copy.  `from`, in host memory, is read by the time that the call
  /// returns, unless it is pinned.
  Status uploadAsync(const Stream &stream, const void *from, int64_t bytes,
                     int64_t offset = 0);
  Status copyFromAsync(const Stream &stream, const DeviceMemory &from,
                       int64_t bytes);
  /// Within this memory; the ranges must not overlap.
  Status moveAsync(const Stream &stream, int64_t to, int64_t from,
                   int64_t bytes);

private:
  Status checkRange(int64_t offset, int64_t bytes) const;

  Owned<DeviceAddress, &Driver::memFree> memory_;
  int64_t bytes_ = 0;
};

/// A queue of work.
class Stream {
public:
  static Result<Stream> create(const DeviceRef &device);
  /// Waits for all work.
  Status synchronize() const;
  StreamHandle get() const { return stream_.get(); }
  const DeviceRef &deviceRef() const { return stream_.deviceRef(); }

private:
  Owned<StreamHandle, &Driver::streamDestroy> stream_;
};

/// A point in a stream, with its time.
class Event {
public:
  static Result<Event> create(const DeviceRef &device);
  Status record(const Stream &stream) const;
  /// Waits until the device has come to it.
  Status synchronize() const;
  /// Microseconds from `begin` to this; both must have been reached.
  Result<double> microsecondsSince(const Event &begin) const;

private:
  Owned<EventHandle, &Driver::eventDestroy> event_;
};

/// Recorded work.
class Graph {
public:
  /// Records what `record` enqueues on `stream`; nothing runs.
  ///
  /// Errors: those of `record`, of the driver.
  static Result<Graph> capture(const Stream &stream,
                               const std::function<Status()> &record);
  Status launch(const Stream &stream) const;

private:
  Owned<GraphExecHandle, &Driver::graphExecDestroy> graph_;
};

/// How many threads run a kernel.
struct LaunchShape {
  uint32_t blocks = 1;
  uint32_t threads = 32;
  uint32_t sharedBytes = 0;
  /// Programmatic dependent launch: may start while the launch before ends.
  bool dependent = false;
};

class Module;

/// A kernel of a loaded module.
class Function {
public:
  /// Allows launches of `threads` with `sharedBytes` of dynamic shared memory.
  /// Errors: Unimplemented if the device has less, with both sizes.
  Status reserve(int64_t sharedBytes) const;

  /// Thread blocks of this shape that one multiprocessor runs at once.
  Result<int32_t> blocksPerMultiprocessor(const LaunchShape &shape) const;

  /// Registers of a thread, and bytes that it spills.
  Result<std::pair<int32_t, int32_t>> registersAndSpills() const;

  /// Enqueues the kernel with one argument, passed by value.
  template <typename Argument>
  Status launch(const Stream &stream, const LaunchShape &shape,
                const Argument &argument) const {
    return launchRaw(stream, shape, &argument);
  }

private:
  friend class Module;
  Function(DeviceRef device, FunctionHandle handle,
           std::shared_ptr<const Module> module, std::string name)
      : device_(std::move(device)), handle_(handle), module_(std::move(module)),
        name_(std::move(name)) {}
  Status launchRaw(const Stream &stream, const LaunchShape &shape,
                   const void *argument) const;

  DeviceRef device_;
  FunctionHandle handle_;
  std::shared_ptr<const Module> module_;
  std::string name_;
};

/// Code on a device.
class Module : public std::enable_shared_from_this<Module> {
public:
  /// Compiles PTX (or loads a cubin) with the driver's own compiler.
  ///
  /// Errors: what the compiler says of the PTX; FailedPrecondition if the
  /// driver is older than the PTX.
  static Result<std::shared_ptr<const Module>> load(const DeviceRef &device,
                                                    const std::string &code);

  /// Errors: Internal if there is no such kernel.
  Result<Function> function(const std::string &name) const;

private:
  Module() = default;
  Owned<ModuleHandle, &Driver::moduleUnload> module_;
};

} // namespace pmkvq::rt::cuda

#endif // PMKVQ_RT_CUDA_DEVICE_H
