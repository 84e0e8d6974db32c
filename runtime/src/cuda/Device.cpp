//===- Device.cpp - GPUs, memory, streams and graphs ----------------------===//
//
// Neighbours: Device.h has the mental model, Module.cpp code and launches.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/cuda/Device.h"

#include <array>

using namespace pmkvq::rt;
using namespace pmkvq::rt::cuda;

/// m16n8k32 on bytes and cp.async exist from Ampere on.
static constexpr int32_t kMinimumCapability = 80;

//===----------------------------------------------------------------------===//
// Devices
//===----------------------------------------------------------------------===//

Result<DeviceRef> Device::open(std::shared_ptr<const Driver> driver,
                               int32_t index) {
  std::shared_ptr<Device> device(new Device());
  device->driver_ = std::move(driver);
  if (Status status = device->query(index); !status.ok())
    return status;
  const Driver &calls = *device->driver_;
  if (Status status = calls.call(calls.primaryCtxRetain, &device->context_,
                                 device->handle_);
      !status.ok())
    return status;
  return DeviceRef(std::move(device));
}

Device::~Device() {
  if (context_)
    (void)driver_->call(driver_->primaryCtxRelease, handle_);
}

Status Device::query(int32_t index) {
  int count = 0;
  if (Status status = driver_->call(driver_->deviceGetCount, &count);
      !status.ok())
    return status;
  if (index < 0 || index >= count)
    return {StatusCode::FailedPrecondition,
            "no GPU " + std::to_string(index) + ": " + std::to_string(count) +
                " visible (nvidia-smi, CUDA_VISIBLE_DEVICES)"};
  if (Status status = driver_->call(driver_->deviceGet, &handle_, index);
      !status.ok())
    return status;
  std::array<char, 256> text = {};
  if (Status status = driver_->call(driver_->deviceGetName, text.data(),
                                    static_cast<int>(text.size()) - 1, handle_);
      !status.ok())
    return status;
  name_ = text.data();
  int major = 0, minor = 0, l2 = 0, shared = 0;
  const std::pair<DeviceAttribute, int *> wanted[] = {
      {kMultiprocessorCount, &multiprocessors_},
      {kCapabilityMajor, &major},
      {kCapabilityMinor, &minor},
      {kL2CacheBytes, &l2},
      {kSharedBytesPerBlockOptIn, &shared}};
  for (auto [attribute, value] : wanted)
    if (Status status = driver_->call(driver_->deviceGetAttribute, value,
                                      attribute, handle_);
        !status.ok())
      return status;
  capability_ = 10 * major + minor;
  l2Bytes_ = l2;
  sharedBytesPerBlock_ = shared;
  if (capability_ >= kMinimumCapability)
    return {};
  return {StatusCode::Unimplemented,
          name_ + " has compute capability " + std::to_string(major) + "." +
              std::to_string(minor) +
              ", expected 8.0 (Ampere) or later; run with --device=cpu"};
}

std::string Device::chip() const {
  if (capability_ == 90)
    return "sm_90a";
  // Plain targets run on everything later; sm_90a does not.
  if (capability_ > 90)
    return capability_ < 120 ? "sm_100" : "sm_120";
  return "sm_" + std::to_string(capability_);
}

Result<int64_t> Device::freeBytes() const {
  size_t free = 0, total = 0;
  if (Status status = call(driver_->memGetInfo, &free, &total); !status.ok())
    return status;
  return static_cast<int64_t>(free);
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Result<DeviceMemory> DeviceMemory::allocate(const DeviceRef &device,
                                            int64_t bytes) {
  if (bytes < 0)
    return Status(StatusCode::InvalidArgument,
                  "expected at least 0 bytes of device memory, got " +
                      std::to_string(bytes));
  DeviceMemory memory;
  memory.bytes_ = bytes;
  if (bytes == 0)
    return memory;
  DeviceAddress address = 0;
  Status status = device->call(device->driver().memAlloc, &address,
                               static_cast<size_t>(bytes));
  if (status.ok()) {
    memory.memory_ = {device, address};
    return memory;
  }
  if (status.code() != StatusCode::OutOfMemory)
    return status;
  Result<int64_t> free = device->freeBytes();
  std::string have =
      free.ok() ? std::to_string(*free) + " are free" : "fewer are free";
  return Status(StatusCode::OutOfMemory,
                device->name() + ": asked for " + std::to_string(bytes) +
                    " bytes, " + have + "; " + status.message());
}

Status DeviceMemory::checkRange(int64_t offset, int64_t bytes) const {
  if (offset >= 0 && bytes >= 0 && offset <= bytes_ && bytes <= bytes_ - offset)
    return {};
  return {StatusCode::InvalidArgument,
          "bytes " + std::to_string(offset) + " + " + std::to_string(bytes) +
              " leave a range of " + std::to_string(bytes_)};
}

/// Waits for a copy or fill that `started` on the default stream.  The driver
/// may return before it is done, and our streams do not wait for that one.
static Status settle(const Device &device, Status started) {
  if (!started.ok())
    return started;
  return device.call(device.driver().streamSynchronize,
                     static_cast<StreamHandle>(nullptr));
}

Status DeviceMemory::upload(const void *from, int64_t bytes, int64_t offset) {
  if (Status status = checkRange(offset, bytes); !status.ok() || bytes == 0)
    return status;
  const Device &device = memory_.device();
  return settle(device, device.call(device.driver().memcpyHtoD,
                                    memory_.get() + offset, from, bytes));
}

Status DeviceMemory::download(void *to, int64_t bytes, int64_t offset) const {
  if (Status status = checkRange(offset, bytes); !status.ok() || bytes == 0)
    return status;
  return memory_.device().call(memory_.device().driver().memcpyDtoH, to,
                               memory_.get() + offset, bytes);
}

Status DeviceMemory::copyFrom(const DeviceMemory &from) {
  if (Status status = checkRange(0, from.bytes());
      !status.ok() || from.bytes() == 0)
    return status;
  const Device &device = memory_.device();
  return settle(device, device.call(device.driver().memcpyDtoD, memory_.get(),
                                    from.memory_.get(), from.bytes()));
}

Status DeviceMemory::uploadAsync(const Stream &stream, const void *from,
                                 int64_t bytes, int64_t offset) {
  if (Status status = checkRange(offset, bytes); !status.ok() || bytes == 0)
    return status;
  return memory_.device().call(memory_.device().driver().memcpyHtoDAsync,
                               memory_.get() + offset, from, bytes,
                               stream.get());
}

Status DeviceMemory::copyFromAsync(const Stream &stream,
                                   const DeviceMemory &from, int64_t bytes) {
  Status status = checkRange(0, bytes);
  if (status.ok())
    status = from.checkRange(0, bytes);
  if (!status.ok() || bytes == 0)
    return status;
  return memory_.device().call(memory_.device().driver().memcpyDtoDAsync,
                               memory_.get(), from.memory_.get(), bytes,
                               stream.get());
}

Status DeviceMemory::moveAsync(const Stream &stream, int64_t to, int64_t from,
                               int64_t bytes) {
  Status status = checkRange(to, bytes);
  if (status.ok())
    status = checkRange(from, bytes);
  if (!status.ok() || bytes == 0)
    return status;
  return memory_.device().call(memory_.device().driver().memcpyDtoDAsync,
                               memory_.get() + to, memory_.get() + from, bytes,
                               stream.get());
}

Status DeviceMemory::fill(uint8_t byte) {
  if (bytes_ == 0)
    return {};
  const Device &device = memory_.device();
  return settle(device, device.call(device.driver().memsetD8, memory_.get(),
                                    byte, bytes_));
}

//===----------------------------------------------------------------------===//
// Streams, events, graphs
//===----------------------------------------------------------------------===//

Result<Stream> Stream::create(const DeviceRef &device) {
  StreamHandle handle = nullptr;
  if (Status status = device->call(device->driver().streamCreate, &handle,
                                   kStreamNonBlocking);
      !status.ok())
    return status;
  Stream stream;
  stream.stream_ = {device, handle};
  return stream;
}

Status Stream::synchronize() const {
  const Device &device = stream_.device();
  return device.call(device.driver().streamSynchronize, stream_.get());
}

Result<Event> Event::create(const DeviceRef &device) {
  EventHandle handle = nullptr;
  if (Status status = device->call(device->driver().eventCreate, &handle, 0u);
      !status.ok())
    return status;
  Event event;
  event.event_ = {device, handle};
  return event;
}

Status Event::record(const Stream &stream) const {
  const Device &device = event_.device();
  return device.call(device.driver().eventRecord, event_.get(), stream.get());
}

Status Event::synchronize() const {
  const Device &device = event_.device();
  return device.call(device.driver().eventSynchronize, event_.get());
}

Result<double> Event::microsecondsSince(const Event &begin) const {
  const Device &device = event_.device();
  float milliseconds = 0;
  if (Status status =
          device.call(device.driver().eventElapsedTime, &milliseconds,
                      begin.event_.get(), event_.get());
      !status.ok())
    return status;
  return static_cast<double>(milliseconds) * 1e3;
}

Result<Graph> Graph::capture(const Stream &stream,
                             const std::function<Status()> &record) {
  const DeviceRef &device = stream.deviceRef();
  const Driver &driver = device->driver();
  if (Status status = device->call(driver.streamBeginCapture, stream.get(),
                                   kCaptureThreadLocal);
      !status.ok())
    return status;
  Status recorded = record();
  // Also after an error: a capturing stream takes no other work.
  GraphHandle handle = nullptr;
  Status ended = device->call(driver.streamEndCapture, stream.get(), &handle);
  Owned<GraphHandle, &Driver::graphDestroy> graph(device, handle);
  if (!recorded.ok())
    return recorded;
  if (!ended.ok())
    return ended;
  GraphExecHandle exec = nullptr;
  if (Status status =
          device->call(driver.graphInstantiate, &exec, graph.get(), 0ull);
      !status.ok())
    return status;
  Graph made;
  made.graph_ = {device, exec};
  return made;
}

Status Graph::launch(const Stream &stream) const {
  const Device &device = graph_.device();
  return device.call(device.driver().graphLaunch, graph_.get(), stream.get());
}
