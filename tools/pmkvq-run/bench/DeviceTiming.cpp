//===- DeviceTiming.cpp - Times of launches on a GPU ----------------------===//
//
// Neighbours: DeviceTiming.h.
//
//===----------------------------------------------------------------------===//

#include "DeviceTiming.h"

using namespace pmkvq;
using namespace pmkvq::bench;
namespace cuda = ::pmkvq::rt::cuda;
using rt::Result;
using rt::Status;

Result<Timing> bench::timeGraph(const cuda::Stream &stream, int64_t launches,
                                int32_t repeats,
                                const std::function<Status(int64_t)> &launch,
                                const std::function<Status()> &restore) {
  Result<cuda::Graph> graph = cuda::Graph::capture(stream, [&]() -> Status {
    for (int64_t i = 0; i < launches; ++i)
      if (Status status = launch(i); !status.ok())
        return status;
    return {};
  });
  if (!graph.ok())
    return graph.status();
  Result<cuda::Event> begin = cuda::Event::create(stream.deviceRef());
  Result<cuda::Event> end = cuda::Event::create(stream.deviceRef());
  for (const Result<cuda::Event> *event : {&begin, &end})
    if (!event->ok())
      return event->status();
  std::vector<double> times;
  for (int32_t i = -kWarmUps; i < repeats; ++i) {
    const std::function<Status()> steps[] = {
        [&] { return restore ? restore() : Status(); },
        [&] { return begin->record(stream); },
        [&] { return graph->launch(stream); },
        [&] { return end->record(stream); },
        [&] { return end->synchronize(); }};
    for (const auto &step : steps)
      if (Status status = step(); !status.ok())
        return status;
    Result<double> time = end->microsecondsSince(*begin);
    if (!time.ok())
      return time.status();
    if (i >= 0)
      times.push_back(*time);
  }
  return summarize(std::move(times), launches);
}

Result<double> bench::timeCopy(const cuda::Stream &stream, int64_t bytes,
                               int64_t sets) {
  std::vector<cuda::DeviceMemory> from, to;
  for (int64_t i = 0; i < sets; ++i)
    for (std::vector<cuda::DeviceMemory> *side : {&from, &to}) {
      auto memory = cuda::DeviceMemory::allocate(stream.deviceRef(), bytes);
      if (!memory.ok())
        return memory.status();
      if (Status status = memory->fill(0x5a); !status.ok())
        return status;
      side->push_back(std::move(*memory));
    }
  Result<Timing> timing =
      timeGraph(stream, launchesOf(sets), kRepeats, [&](int64_t launch) {
        auto i = static_cast<size_t>(launch % sets);
        return to[i].copyFromAsync(stream, from[i], bytes);
      });
  if (!timing.ok())
    return timing.status();
  return timing->median;
}
