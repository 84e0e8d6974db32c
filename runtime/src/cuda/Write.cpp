//===- Write.cpp - Kernels that write a cache on a GPU --------------------===//
//
// Neighbours: Write.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/cuda/Write.h"
#include "pmkvq_rt/DeviceKernelNames.h"

#include <limits>

using namespace pmkvq::rt;
using namespace pmkvq::rt::cuda;

Result<CacheWriters> CacheWriters::load(const DeviceRef &device,
                                        const WriterCode &code) {
  auto module = Module::load(device, code.code);
  if (!module.ok())
    return module.status();
  CacheWriters writers;
  auto find = [&](const std::string &name,
                  std::optional<Kernel> &kernel) -> Status {
    auto threads = code.threads.find(name);
    if (threads == code.threads.end())
      return {StatusCode::Internal, "the module of writers lacks " + name};
    Result<Function> function = (*module)->function(name);
    if (!function.ok())
      return function.status();
    kernel =
        Kernel{std::move(*function), static_cast<uint32_t>(threads->second)};
    return {};
  };
  if (Status status = find(kAppendKernel, writers.append_); !status.ok())
    return status;
  for (Part part : {kKey, kValue})
    for (int32_t level : kLadder) {
      auto index = static_cast<size_t>(ladderIndex(level));
      auto of = static_cast<size_t>(part);
      Status status = find(flushKernel(part, level), writers.flush_[of][index]);
      if (status.ok() && level != kLadder.back())
        status =
            find(requantizeKernel(part, level), writers.requantize_[of][index]);
      if (!status.ok())
        return status;
    }
  return writers;
}

Status CacheWriters::append(const Stream &stream, const AppendArgs &arguments,
                            int64_t rows, int64_t kvHeads) const {
  if (rows < 0 || kvHeads < 1 ||
      rows > std::numeric_limits<int32_t>::max() / kvHeads)
    return {StatusCode::InvalidArgument,
            "expected rows times kv heads of 0 to 2^31 - 1, got " +
                std::to_string(rows) + " and " + std::to_string(kvHeads)};
  if (rows == 0)
    return {};
  LaunchShape shape;
  shape.blocks = static_cast<uint32_t>(rows * kvHeads);
  shape.threads = append_->threads;
  return append_->function.launch(stream, shape, arguments);
}

Status CacheWriters::launch(const std::optional<Kernel> &kernel,
                            const Stream &stream, const PagesArgs &arguments,
                            int64_t count, int32_t level) {
  if (!kernel)
    return {StatusCode::InvalidArgument,
            "there is no level below " + std::to_string(level)};
  if (count < 0 || count > std::numeric_limits<int32_t>::max())
    return {StatusCode::InvalidArgument,
            "expected 0 to 2^31 - 1 pages, got " + std::to_string(count)};
  if (count == 0)
    return {};
  LaunchShape shape;
  shape.blocks = static_cast<uint32_t>(count);
  shape.threads = kernel->threads;
  return kernel->function.launch(stream, shape, arguments);
}

static Status checkLevel(int32_t level) {
  if (isLevel(level))
    return {};
  return {StatusCode::InvalidArgument,
          "expected a level of 16, 8, 4 or 2, got " + std::to_string(level)};
}

Status CacheWriters::flush(const Stream &stream, const PagesArgs &arguments,
                           int64_t count, Part part, int32_t to) const {
  if (Status status = checkLevel(to); !status.ok())
    return status;
  const ByLevel &kernels = flush_[static_cast<size_t>(part)];
  return launch(kernels[static_cast<size_t>(ladderIndex(to))], stream,
                arguments, count, to);
}

Status CacheWriters::requantize(const Stream &stream,
                                const PagesArgs &arguments, int64_t count,
                                Part part, int32_t from) const {
  if (Status status = checkLevel(from); !status.ok())
    return status;
  const ByLevel &kernels = requantize_[static_cast<size_t>(part)];
  return launch(kernels[static_cast<size_t>(ladderIndex(from))], stream,
                arguments, count, from);
}
