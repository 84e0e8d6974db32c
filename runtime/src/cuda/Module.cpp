//===- Module.cpp - Code on a GPU and its launches ------------------------===//
//
// Neighbours: Device.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/cuda/Device.h"

#include <array>

using namespace pmkvq::rt;
using namespace pmkvq::rt::cuda;

/// Room for what the driver's compiler says of an error.
static constexpr size_t kLogBytes = 8192;

Result<std::shared_ptr<const Module>> Module::load(const DeviceRef &device,
                                                   const std::string &code) {
  std::array<char, kLogBytes> log = {};
  int options[] = {kJitErrorLog, kJitErrorLogBytes};
  // Sizes are passed in the pointer itself.
  // NOLINTNEXTLINE(performance-no-int-to-ptr): that is how it takes them.
  void *values[] = {log.data(), reinterpret_cast<void *>(
                                    static_cast<uintptr_t>(log.size() - 1))};
  ModuleHandle handle = nullptr;
  Status status =
      device->call(device->driver().moduleLoadData, &handle, code.c_str(),
                   static_cast<unsigned>(std::size(options)), options, values);
  if (!status.ok()) {
    std::string said = log.data();
    return Status(status.code(),
                  status.message() + (said.empty() ? "" : ": " + said));
  }
  std::shared_ptr<Module> module(new Module());
  module->module_ = {device, handle};
  return std::shared_ptr<const Module>(std::move(module));
}

Result<Function> Module::function(const std::string &name) const {
  const DeviceRef &device = module_.deviceRef();
  FunctionHandle handle = nullptr;
  if (Status status = device->call(device->driver().moduleGetFunction, &handle,
                                   module_.get(), name.c_str());
      !status.ok())
    return Status(status.code(), "kernel " + name + ": " + status.message());
  return Function(device, handle, shared_from_this(), name);
}

Status Function::reserve(int64_t sharedBytes) const {
  if (sharedBytes > device_->sharedBytesPerBlock())
    return {StatusCode::Unimplemented,
            "kernel " + name_ + " takes " + std::to_string(sharedBytes) +
                " bytes of shared memory, " + device_->name() + " has " +
                std::to_string(device_->sharedBytesPerBlock()) +
                " a thread block"};
  return device_->call(device_->driver().funcSetAttribute, handle_,
                       kFunctionMaxDynamicSharedBytes, sharedBytes);
}

Result<int32_t>
Function::blocksPerMultiprocessor(const LaunchShape &shape) const {
  int blocks = 0;
  if (Status status =
          device_->call(device_->driver().occupancy, &blocks, handle_,
                        shape.threads, static_cast<size_t>(shape.sharedBytes));
      !status.ok())
    return status;
  if (blocks < 1)
    return Status(StatusCode::Unimplemented,
                  "kernel " + name_ + " does not fit a multiprocessor of " +
                      device_->name());
  return blocks;
}

Result<std::pair<int32_t, int32_t>> Function::registersAndSpills() const {
  std::pair<int32_t, int32_t> found;
  const Driver &driver = device_->driver();
  for (auto [attribute, value] :
       {std::pair(kFunctionRegisters, &found.first),
        std::pair(kFunctionLocalBytes, &found.second)})
    if (Status status =
            device_->call(driver.funcGetAttribute, value, attribute, handle_);
        !status.ok())
      return status;
  return found;
}

Status Function::launchRaw(const Stream &stream, const LaunchShape &shape,
                           const void *argument) const {
  LaunchAttribute attribute = {};
  attribute.id = kProgrammaticStreamSerialization;
  attribute.value.flag = 1;
  LaunchConfig config = {};
  config.gridX = shape.blocks;
  config.gridY = config.gridZ = 1;
  config.blockX = shape.threads;
  config.blockY = config.blockZ = 1;
  config.sharedBytes = shape.sharedBytes;
  config.stream = stream.get();
  config.attributes = &attribute;
  config.attributeCount = shape.dependent ? 1 : 0;
  void *arguments[] = {const_cast<void *>(argument)};
  Status status =
      device_->call(device_->driver().launchKernel, &config, handle_, arguments,
                    static_cast<void **>(nullptr));
  if (status.ok())
    return status;
  return {status.code(), "kernel " + name_ + ": " + status.message()};
}
