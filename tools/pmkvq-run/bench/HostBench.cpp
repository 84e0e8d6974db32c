//===- HostBench.cpp - Attention measured on the CPU ----------------------===//
//
// Neighbours: HostBench.h.
//
//===----------------------------------------------------------------------===//

#include "HostBench.h"
#include "HostMemory.h"
#include "Memory.h"
#include "pmkvq_rt/Launch.h"
#include "pmkvq_rt/WorkList.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
using rt::Result;
using rt::Status;
using rt::StatusCode;

/// Launches of one timed run at most: many sets need no whole round a run.
static constexpr int64_t kMostLaunches = 64;
/// Memory of all sets at most.  Short contexts read little of a fixed area that
/// is 128 tokens long, so sets of few bytes are large.
static constexpr int64_t kMostSetBytes = int64_t(1) << 30;

namespace {
/// Sets of inputs of the same content, one behind the other.
struct InputSets {
  rt::Arena memory;
  int64_t count = 0;
  int64_t stride = 0;
  /// Launches of a timed run, and what is read before it so that no set is in
  /// a cache; empty where launches rotate over enough.
  int64_t launches = 0;
  rt::Arena others;

  uint8_t *set(int64_t number) const {
    return memory.data() + number % count * stride;
  }
};

/// A step of one token a sequence.
struct Step {
  rt::WorkList list;
  std::vector<float> partials;
  rt::StepArgs arguments;
};
} // namespace

static void makeStep(const Problem &problem, int32_t threads, Step &step) {
  std::vector<rt::RowRun> runs;
  for (int64_t i = 0; i < problem.shape.batch; ++i) {
    const Length &length = problem.lengths[static_cast<size_t>(i)];
    const auto rows = static_cast<int32_t>(problem.rows);
    const auto sequence = static_cast<int32_t>(i);
    runs.push_back({sequence, sequence * rows, rows,
                    static_cast<int32_t>(length.fixedTokens) - rows,
                    static_cast<int32_t>(length.pages)});
  }
  rt::buildWorkList(runs, static_cast<int32_t>(problem.shape.kvHeads),
                    step.list);
  rt::nameTasksAhead(step.list.attendTasks.data(),
                     static_cast<int64_t>(step.list.attendTasks.size()),
                     threads);
  step.partials.resize(static_cast<size_t>(
      step.list.parts *
      rt::partialFloats(problem.group() * step.list.rowsPerTask,
                        problem.shape.headDim)));
  step.arguments = {};
  step.arguments.attendTasks = step.list.attendTasks.data();
  step.arguments.mergeTasks = step.list.mergeTasks.data();
  step.arguments.rowsPerTask = step.list.rowsPerTask;
  step.arguments.partials = step.partials.data();
}

static Result<InputSets> makeSets(const Case &content) {
  constexpr int64_t cacheLine = 64;
  const int64_t bytes = content.memoryBytes();
  InputSets sets;
  sets.stride = (bytes + cacheLine - 1) / cacheLine * cacheLine;
  sets.count = setsOf(content.bytes());
  const bool rotates =
      sets.count <= std::max<int64_t>(2, kMostSetBytes / sets.stride);
  if (!rotates)
    sets.count =
        std::clamp<int64_t>(kMostSetBytes / sets.stride, 2, kMostLaunches);
  sets.launches =
      rotates ? std::min(launchesOf(sets.count), kMostLaunches) : sets.count;
  if (Status status = checkMemory("the inputs that launches rotate over",
                                  sets.count * sets.stride);
      !status.ok())
    return status;
  Result<rt::Arena> memory = rt::Arena::reserve(sets.count * sets.stride);
  if (!memory.ok())
    return memory.status();
  sets.memory = std::move(*memory);
  for (int64_t i = 0; i < sets.count; ++i)
    std::memcpy(sets.set(i), content.memory(), static_cast<size_t>(bytes));
  if (rotates)
    return sets;
  Result<rt::Arena> others = rt::Arena::reserve(kRotateBytes);
  if (!others.ok())
    return others.status();
  sets.others = std::move(*others);
  // Memory that was never written may all be one page.
  std::memset(sets.others.data(), 1, kRotateBytes);
  return sets;
}

/// Attention over a set, whose cache begins at `data`.
static Status run(rt::ThreadPool &threads, const HostKernels &kernels,
                  Step &step, const Case &content, uint8_t *data,
                  std::vector<float> &results) {
  rt::CacheView view = {
      data, data + content.slotOffset(),
      const_cast<rt::PageEntry *>(content.pages().data()),
      reinterpret_cast<uint16_t *>(data + content.fixedOffset(0, rt::kKey)),
      content.maxPages()};
  void *attend[] = {&view, &step.arguments,
                    const_cast<float *>(content.queries().data())};
  void *merge[] = {&step.arguments, results.data()};
  rt::LaunchResult done =
      rt::launch(threads, kernels.attend, attend,
                 static_cast<int64_t>(step.list.attendTasks.size()));
  if (done.status == rt::kKernelOk)
    done = rt::launch(threads, kernels.merge, merge,
                      static_cast<int64_t>(step.list.mergeTasks.size()));
  if (done.status == rt::kKernelOk)
    return {};
  return {StatusCode::Internal,
          "attention fails with kernel status " + std::to_string(done.status)};
}

static Result<Errors> check(rt::ThreadPool &threads, const HostKernels &kernels,
                            Step &step, Case &content) {
  std::vector<float> results[2];
  for (std::vector<float> &result : results) {
    result.assign(content.queries().size(), NAN);
    if (Status status =
            run(threads, kernels, step, content, content.memory(), result);
        !status.ok())
      return status;
  }
  Result<Errors> errors = content.compare(results[0]);
  if (!errors.ok())
    return errors;
  if (Status status = checkErrors(content.problem(), *errors); !status.ok())
    return status;
  if (std::memcmp(results[0].data(), results[1].data(),
                  results[0].size() * sizeof(float)) != 0)
    return Status(StatusCode::Internal,
                  "two runs of attention differ in their bits");
  return errors;
}

/// Times runs of launch(0), launch(1), ...: each run goes on where the one
/// before ended.
static Result<Timing> timeRuns(rt::ThreadPool &threads, const InputSets &sets,
                               std::atomic<uint64_t> &sink,
                               const std::function<Status(int64_t)> &launch) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  int64_t next = 0;
  for (int32_t i = -kWarmUps; i < kRepeats; ++i) {
    if (sets.others.data())
      readBytes(threads, sets.others.data(), sets.others.bytes(), sink);
    Clock::time_point begin = Clock::now();
    for (int64_t end = next + sets.launches; next < end; ++next)
      if (Status status = launch(next); !status.ok())
        return status;
    if (i >= 0)
      times.push_back(
          std::chrono::duration<double, std::micro>(Clock::now() - begin)
              .count());
  }
  return summarize(std::move(times), sets.launches);
}

Result<Errors> bench::checkOnHost(rt::ThreadPool &threads,
                                  const HostKernels &kernels,
                                  const Problem &problem) {
  Result<Case> content = Case::create(problem, Order::Host, /*seed=*/1234);
  if (!content.ok())
    return content.status();
  Step step;
  makeStep(problem, threads.threads(), step);
  return check(threads, kernels, step, *content);
}

Result<Measurement> bench::measureOnHost(rt::ThreadPool &threads,
                                         const HostKernels &kernels,
                                         const Problem &problem) {
  Result<Case> content = Case::create(problem, Order::Host, /*seed=*/1234);
  if (!content.ok())
    return content.status();
  Step step;
  makeStep(problem, threads.threads(), step);
  Result<Errors> errors = check(threads, kernels, step, *content);
  if (!errors.ok())
    return errors.status();
  Result<InputSets> sets = makeSets(*content);
  if (!sets.ok())
    return sets.status();
  std::atomic<uint64_t> sink{0};
  std::vector<float> results(content->queries().size());
  Result<Timing> attention =
      timeRuns(threads, *sets, sink, [&](int64_t launch) {
        return run(threads, kernels, step, *content, sets->set(launch),
                   results);
      });
  if (!attention.ok())
    return attention.status();
  Result<Timing> read = timeRuns(threads, *sets, sink, [&](int64_t launch) {
    readBytes(threads, sets->set(launch),
              std::min(content->bytes(), content->memoryBytes()), sink);
    return Status();
  });
  if (!read.ok())
    return read.status();
  Measurement row;
  row.device = "cpu";
  row.attention = *attention;
  row.bytes = content->bytes();
  row.readMicroseconds = read->median;
  row.errors = *errors;
  return row;
}
