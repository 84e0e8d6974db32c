//===- HostBench.cpp - Attention measured on the CPU ----------------------===//
//
// Neighbours: HostBench.h.
//
//===----------------------------------------------------------------------===//

#include "HostBench.h"
#include "pmkvq_rt/Launch.h"
#include "pmkvq_rt/WorkList.h"

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

namespace {
/// One set of inputs, as kernels see it.
struct InputSet {
  rt::Arena memory;
  rt::CacheView view;
};

/// A step of one token a sequence.
struct Step {
  rt::WorkList list;
  std::vector<float> partials;
  rt::StepArgs arguments;
};
} // namespace

static void makeStep(const Problem &problem, Step &step) {
  std::vector<rt::RowRun> runs;
  for (int64_t i = 0; i < problem.shape.batch; ++i) {
    const Length &length = problem.lengths[static_cast<size_t>(i)];
    auto row = static_cast<int32_t>(i);
    runs.push_back({row, row, 1, static_cast<int32_t>(length.fixedTokens) - 1,
                    static_cast<int32_t>(length.pages)});
  }
  rt::buildWorkList(runs, static_cast<int32_t>(problem.shape.kvHeads),
                    step.list);
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

static Result<InputSet> makeSet(const Case &content) {
  Result<rt::Arena> memory = rt::Arena::reserve(content.memoryBytes());
  if (!memory.ok())
    return memory.status();
  std::memcpy(memory->data(), content.memory(),
              static_cast<size_t>(content.memoryBytes()));
  uint8_t *data = memory->data();
  rt::CacheView view = {
      data, data + content.slotOffset(),
      const_cast<rt::PageEntry *>(content.pages().data()),
      reinterpret_cast<uint16_t *>(data + content.fixedOffset(0, rt::kKey)),
      content.maxPages()};
  return InputSet{std::move(*memory), view};
}

static Status run(rt::ThreadPool &threads, const HostKernels &kernels,
                  Step &step, InputSet &set, const std::vector<float> &queries,
                  std::vector<float> &results) {
  void *attend[] = {&set.view, &step.arguments,
                    const_cast<float *>(queries.data())};
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
                            Step &step, InputSet &set, Case &content) {
  std::vector<float> results[2];
  for (std::vector<float> &result : results) {
    result.assign(content.queries().size(), NAN);
    if (Status status =
            run(threads, kernels, step, set, content.queries(), result);
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

/// Times runs of launch(0), launch(1), ...
static Result<Timing> timeRuns(int64_t launches,
                               const std::function<Status(int64_t)> &launch) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  for (int32_t i = -kWarmUps; i < kRepeats; ++i) {
    Clock::time_point begin = Clock::now();
    for (int64_t j = 0; j < launches; ++j)
      if (Status status = launch(j); !status.ok())
        return status;
    if (i >= 0)
      times.push_back(
          std::chrono::duration<double, std::micro>(Clock::now() - begin)
              .count());
  }
  return summarize(std::move(times), launches);
}

#if defined(__x86_64__) && defined(__ELF__)
#define PMKVQ_VECTOR_CLONES                                                    \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PMKVQ_VECTOR_CLONES
#endif

namespace {
/// Written out: the compiler splits an array of sums into single registers.
typedef uint64_t Words __attribute__((vector_size(64)));
} // namespace

/// Exclusive or of all words: loads and as little else as there can be.
PMKVQ_VECTOR_CLONES
static uint64_t foldWords(const uint8_t *data, int64_t bytes) {
  constexpr int64_t chains = 4;
  constexpr int64_t step = chains * static_cast<int64_t>(sizeof(Words));
  Words folded[chains] = {};
  int64_t i = 0;
  for (; i + step <= bytes; i += step)
    for (int64_t j = 0; j < chains; ++j) {
      Words words;
      std::memcpy(&words, data + i + j * sizeof(Words), sizeof(Words));
      folded[j] ^= words;
    }
  uint64_t sum = 0;
  for (const Words &words : folded)
    for (size_t lane = 0; lane < sizeof(Words) / 8; ++lane)
      sum ^= words[lane];
  for (; i + 8 <= bytes; i += 8) {
    uint64_t word;
    std::memcpy(&word, data + i, 8);
    sum ^= word;
  }
  return sum;
}

static void readAll(rt::ThreadPool &threads, const uint8_t *data, int64_t bytes,
                    std::atomic<uint64_t> &sink) {
  // As large as what an attention task reads at 4 bits.
  constexpr int64_t chunk = 256 << 10;
  threads.parallelFor((bytes + chunk - 1) / chunk, [&](int64_t task) {
    int64_t begin = task * chunk;
    sink ^= foldWords(data + begin, std::min(chunk, bytes - begin));
  });
}

Result<Errors> bench::checkOnHost(rt::ThreadPool &threads,
                                  const HostKernels &kernels,
                                  const Problem &problem) {
  Result<Case> content = Case::create(problem, Order::Host, /*seed=*/1234);
  if (!content.ok())
    return content.status();
  Step step;
  makeStep(problem, step);
  Result<InputSet> set = makeSet(*content);
  if (!set.ok())
    return set.status();
  return check(threads, kernels, step, *set, *content);
}

Result<Measurement> bench::measureOnHost(rt::ThreadPool &threads,
                                         const HostKernels &kernels,
                                         const Problem &problem) {
  Result<Case> content = Case::create(problem, Order::Host, /*seed=*/1234);
  if (!content.ok())
    return content.status();
  Step step;
  makeStep(problem, step);
  std::vector<InputSet> sets;
  const int64_t count = setsOf(content->bytes());
  for (int64_t i = 0; i < count; ++i) {
    Result<InputSet> set = makeSet(*content);
    if (!set.ok())
      return set.status();
    sets.push_back(std::move(*set));
  }
  Result<Errors> errors = check(threads, kernels, step, sets.front(), *content);
  if (!errors.ok())
    return errors.status();
  std::vector<float> results(content->queries().size());
  Result<Timing> attention = timeRuns(launchesOf(count), [&](int64_t launch) {
    return run(threads, kernels, step,
               sets[static_cast<size_t>(launch % count)], content->queries(),
               results);
  });
  if (!attention.ok())
    return attention.status();
  std::atomic<uint64_t> sink{0};
  Result<Timing> read = timeRuns(launchesOf(count), [&](int64_t launch) {
    readAll(threads, sets[static_cast<size_t>(launch % count)].memory.data(),
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
