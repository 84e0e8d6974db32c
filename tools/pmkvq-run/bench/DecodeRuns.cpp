//===- DecodeRuns.cpp - Launches of decode attention, timed ---------------===//
//
// Neighbours: DecodeRuns.h.
//
//===----------------------------------------------------------------------===//

#include "DecodeRuns.h"
#include "DeviceTiming.h"

#include <algorithm>
#include <cstring>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
namespace cuda = ::pmkvq::rt::cuda;
using rt::Result;
using rt::Status;
using rt::StatusCode;

rt::DecodeArgs DecodeSet::arguments() const {
  rt::DecodeArgs arguments = {};
  pool.fill(arguments);
  work.fill(arguments);
  arguments.queries = queries.pointer<float>();
  arguments.results = results.pointer<float>();
  return arguments;
}

Result<cuda::Function> bench::loadKernel(const cuda::DeviceRef &device,
                                         const Result<DeviceCode> &code) {
  if (!code.ok())
    return code.status();
  auto module = cuda::Module::load(device, code->code);
  if (!module.ok())
    return module.status();
  Result<cuda::Function> function = (*module)->function(code->name);
  if (!function.ok())
    return function.status();
  if (Status status = function->reserve(code->sharedBytes); !status.ok())
    return status;
  return function;
}

Result<DecodeKernel> bench::loadDecodeKernel(const cuda::DeviceRef &device,
                                             const Result<DeviceCode> &code,
                                             bool dependent) {
  Result<cuda::Function> function = loadKernel(device, code);
  if (!function.ok())
    return function.status();
  cuda::LaunchShape shape;
  shape.threads = static_cast<uint32_t>(code->threads);
  shape.sharedBytes = static_cast<uint32_t>(code->sharedBytes);
  shape.dependent = dependent;
  Result<int32_t> blocks = function->blocksPerMultiprocessor(shape);
  if (!blocks.ok())
    return blocks.status();
  return DecodeKernel{
      std::move(*function), shape,      *blocks * device->multiprocessors(),
      code->slotBytes,      code->rows, code->takesPages};
}

rt::UnitCosts bench::decodeCosts(const cuda::Device &device,
                                 const Problem &problem, int32_t blocks) {
  return rt::unitCosts(problem.shape.headDim,
                       std::max(1, blocks / device.multiprocessors()));
}

static cuda::PoolLayout layoutOf(const Case &content, int64_t slotBytes) {
  cuda::PoolLayout layout;
  layout.headDim = content.problem().shape.headDim;
  layout.sinkTokens = kSinkTokens;
  layout.slotBytes = slotBytes;
  layout.blocks = content.blocks();
  layout.fixedAreas = content.fixedAreas();
  layout.slots = content.slots();
  return layout;
}

/// Memory for one more set; its pool is not filled.
static Result<DecodeSet> makeSet(const cuda::DeviceRef &device,
                                 const DecodeKernel &kernel,
                                 const Case &content,
                                 const rt::DeviceWorkList &list,
                                 int64_t spareBytes) {
  cuda::PoolLayout layout = layoutOf(content, kernel.slotBytes);
  if (layout.bytes() != content.memoryBytes())
    return Status(StatusCode::Internal,
                  "the kernel's slots have " +
                      std::to_string(kernel.slotBytes) + " bytes, the case's " +
                      std::to_string(content.slotBytes()));
  // Slots are last: nothing else moves.
  if (spareBytes > 0)
    layout.slots += (spareBytes - 1) / layout.slotBytes + 1;
  Result<cuda::CachePool> pool = cuda::CachePool::create(device, layout);
  if (!pool.ok())
    return pool.status();
  const Problem &problem = content.problem();
  Result<cuda::DecodeWork> work = cuda::DecodeWork::create(
      device, list, problem.group() * kernel.rows, problem.shape.headDim);
  if (!work.ok())
    return work.status();
  auto bytes = static_cast<int64_t>(content.queries().size() * sizeof(float));
  auto queries = cuda::DeviceMemory::allocate(device, bytes);
  if (!queries.ok())
    return queries.status();
  auto results = cuda::DeviceMemory::allocate(device, bytes);
  if (!results.ok())
    return results.status();
  if (Status status = queries->upload(content.queries().data(), bytes);
      !status.ok())
    return status;
  return DecodeSet{std::move(*pool), std::move(*queries), std::move(*results),
                   std::move(*work)};
}

Result<std::vector<DecodeSet>>
bench::makeDecodeSets(const cuda::DeviceRef &device, const DecodeKernel &kernel,
                      const Case &content, const rt::DeviceWorkList &list,
                      int64_t count, int64_t spareBytes) {
  std::vector<DecodeSet> sets;
  for (int64_t i = 0; i < count; ++i) {
    Result<DecodeSet> set = makeSet(device, kernel, content, list, spareBytes);
    if (!set.ok())
      return set.status();
    Status filled =
        i == 0
            ? set->pool.memory().upload(content.memory(), content.memoryBytes())
            : set->pool.memory().copyFrom(sets.front().pool.memory());
    if (!filled.ok())
      return filled;
    sets.push_back(std::move(*set));
  }
  return sets;
}

Status bench::launchDecode(const DecodeKernel &kernel,
                           const cuda::Stream &stream, const DecodeSet &set) {
  cuda::LaunchShape shape = kernel.shape;
  shape.blocks = static_cast<uint32_t>(set.work.rows());
  return kernel.function.launch(stream, shape, set.arguments());
}

/// Results of one launch over poisoned memory.
static Result<std::vector<float>> runDecode(const DecodeKernel &kernel,
                                            const cuda::Stream &stream,
                                            DecodeSet &set) {
  std::vector<float> results(
      static_cast<size_t>(set.results.bytes() / sizeof(float)));
  if (Status status = set.results.fill(kPoison); !status.ok())
    return status;
  if (Status status = launchDecode(kernel, stream, set); !status.ok())
    return status;
  if (Status status = stream.synchronize(); !status.ok())
    return status;
  if (Status status = set.results.download(results.data(), set.results.bytes());
      !status.ok())
    return status;
  return results;
}

Result<Errors> bench::checkDecode(const DecodeKernel &kernel,
                                  const cuda::Stream &stream, DecodeSet &set,
                                  Case &content, std::vector<float> *results) {
  Result<std::vector<float>> first = runDecode(kernel, stream, set);
  if (!first.ok())
    return first.status();
  Result<std::vector<float>> second = runDecode(kernel, stream, set);
  if (!second.ok())
    return second.status();
  Result<Errors> errors = content.compare(*first);
  if (!errors.ok())
    return errors;
  if (Status status =
          checkErrors(boundsOf(content.problem(), kernel.takesPages), *errors);
      !status.ok())
    return status;
  if (std::memcmp(first->data(), second->data(),
                  first->size() * sizeof(float)) != 0)
    return Status(StatusCode::Internal,
                  "two runs of attention differ in their bits");
  if (results)
    *results = std::move(*first);
  return errors;
}

Result<double> bench::timeReads(const DecodeKernel &kernel,
                                const cuda::Stream &stream,
                                const std::vector<DecodeSet> &sets,
                                int64_t bytes) {
  // 8 grids of 7 runs to choose, then as many runs as attention gets.
  constexpr int32_t kTrials = 7;
  auto sink = cuda::DeviceMemory::allocate(stream.deviceRef(), 64);
  if (!sink.ok())
    return sink.status();
  auto count = static_cast<int64_t>(sets.size());
  auto timeGrid = [&](uint32_t blocks, int32_t repeats) {
    return timeGraph(
        stream, launchesOf(count), repeats, [&](int64_t i) -> Status {
          cuda::LaunchShape shape = kernel.shape;
          shape.blocks = blocks;
          rt::ReadArgs arguments = {};
          arguments.data =
              sets[static_cast<size_t>(i % count)].pool.memory().pointer();
          arguments.bytes = static_cast<uint64_t>(bytes / 16 * 16);
          arguments.sink = sink->pointer<uint32_t>();
          return kernel.function.launch(stream, shape, arguments);
        });
  };
  uint32_t best = 0;
  double fastest = 0;
  const auto one = static_cast<uint32_t>(stream.deviceRef()->multiprocessors());
  for (uint32_t blocks :
       {one, 2 * one, 3 * one, 4 * one, 6 * one, 8 * one, 16 * one, 32 * one}) {
    Result<Timing> timing = timeGrid(blocks, kTrials);
    if (!timing.ok())
      return timing.status();
    if (best == 0 || timing->median < fastest) {
      best = blocks;
      fastest = timing->median;
    }
  }
  Result<Timing> timing = timeGrid(best, kRepeats);
  if (!timing.ok())
    return timing.status();
  return timing->median;
}

Result<Timing> bench::timeDecode(const DecodeKernel &kernel,
                                 const cuda::Stream &stream,
                                 std::vector<DecodeSet> &sets,
                                 const std::vector<float> &checked) {
  for (DecodeSet &set : sets)
    if (Status status = set.results.fill(kPoison); !status.ok())
      return status;
  auto count = static_cast<int64_t>(sets.size());
  Result<Timing> timing =
      timeGraph(stream, launchesOf(count), kRepeats, [&](int64_t launch) {
        return launchDecode(kernel, stream,
                            sets[static_cast<size_t>(launch % count)]);
      });
  if (!timing.ok())
    return timing;
  std::vector<float> left(checked.size());
  for (const DecodeSet &set : sets) {
    if (Status status = set.results.download(left.data(), set.results.bytes());
        !status.ok())
      return status;
    if (std::memcmp(left.data(), checked.data(),
                    checked.size() * sizeof(float)) != 0)
      return Status(StatusCode::Internal,
                    "launches in a row leave other results than one alone");
  }
  return timing;
}
