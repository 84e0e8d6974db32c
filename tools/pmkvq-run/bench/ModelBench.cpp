//===- ModelBench.cpp - A model's steps measured on the CPU ---------------===//
//
// Neighbours: ModelBench.h has the method.
//
//===----------------------------------------------------------------------===//

#include "ModelBench.h"
#include "HostMemory.h"

#include <algorithm>
#include <atomic>
#include <chrono>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
using rt::Result;
using rt::Status;
using rt::StatusCode;

namespace {
/// The CPU's store; counts pages that fall.
class LoweringCounter final : public rt::CacheStore {
public:
  Result<rt::LaunchResult> writePages(const rt::PageLaunch &launch) override {
    if (launch.from)
      lowered += launch.count;
    return CacheStore::writePages(launch);
  }
  int64_t lowered = 0;
};

/// A session under measurement.
struct Run {
  const ModelCase &model;
  std::shared_ptr<LoweringCounter> store;
  std::unique_ptr<rt::Session> session;
  std::unique_ptr<rt::ThreadPool> readers;
  std::atomic<uint64_t> sink{0};
  /// [batch]: what the next decode step is fed.
  std::vector<int32_t> tokens;
  std::vector<rt::StepRun> runs;

  explicit Run(const ModelCase &model) : model(model) {}
  Status open(int64_t promptTokens, int64_t newTokens);
  Status fill();
  Status decodeStep();
  int64_t cacheBytes() const;
  int64_t weightBytes() const;
  void read(int64_t steps, int64_t cache);
};

/// Times of steps by what they had to do.
struct StepTimes {
  std::vector<double> plain, reads, flushes, lowers;
  int64_t bytes = 0;
};

using BenchClock = std::chrono::steady_clock;
} // namespace

static double microsecondsSince(BenchClock::time_point begin) {
  return std::chrono::duration<double, std::micro>(BenchClock::now() - begin)
      .count();
}

/// A token of the prompt.
static int32_t promptToken(int64_t position, int32_t vocab) {
  uint64_t state = static_cast<uint64_t>(position + 1) * 0x9e3779b97f4a7c15u;
  return static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab));
}

static std::vector<int32_t> promptTokens(int64_t first, int64_t count,
                                         int32_t vocab) {
  std::vector<int32_t> tokens;
  for (int64_t i = first; i < first + count; ++i)
    tokens.push_back(promptToken(i, vocab));
  return tokens;
}

Status Run::open(int64_t prompt, int64_t newTokens) {
  const int32_t positions = model.program.info.maxPositions;
  if (prompt + newTokens > positions)
    return {StatusCode::InvalidArgument,
            "expected a context of at most " +
                std::to_string(positions - newTokens) + " tokens, got " +
                std::to_string(prompt) + ": the model has " +
                std::to_string(positions) + " positions, and " +
                std::to_string(newTokens) + " tokens are added"};
  rt::SessionOptions options = model.session;
  options.maxSequences = static_cast<int32_t>(model.batch);
  options.maxTokens = prompt + newTokens;
  options.plans.clear();
  for (int32_t i = 0; i < options.maxSequences; ++i)
    options.plans.push_back({i, prompt, newTokens + 1});
  store = std::make_shared<LoweringCounter>();
  options.store = store;
  auto threads = rt::ThreadPool::create(options.threads);
  if (!threads.ok())
    return threads.status();
  readers = std::move(*threads);
  auto opened = rt::Session::open(model.program, std::move(options));
  if (!opened.ok())
    return opened.status();
  session = std::move(*opened);
  return {};
}

/// Gives every sequence the context.
Status Run::fill() {
  const int32_t vocab = model.program.info.vocabSize;
  if (Status s = session->prefill({{0, promptTokens(0, model.context, vocab)}});
      !s.ok())
    return s;
  tokens.assign(static_cast<size_t>(model.batch), session->nextToken(0));
  for (size_t i = 0; i < tokens.size(); ++i)
    runs.push_back({static_cast<int32_t>(i), &tokens[i], 1});
  if (model.batch == 1)
    return {};
  auto snapshot = session->snapshot(0);
  if (!snapshot.ok())
    return snapshot.status();
  for (int32_t i = 1; i < model.batch; ++i)
    if (Status s = session->restore(i, snapshot->data(), snapshot->size());
        !s.ok())
      return s;
  return {};
}

/// One token a sequence; the most probable ones come next.
Status Run::decodeStep() {
  auto logits = session->step(runs);
  if (!logits.ok())
    return logits.status();
  const int64_t vocab = model.program.info.vocabSize;
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] =
        rt::argmax(logits->logits + static_cast<int64_t>(i) * vocab, vocab);
  return {};
}

/// What attention of a step reads of all sequences: codes, parameters of pages
/// below 16 bits, fixed tokens.
int64_t Run::cacheBytes() const {
  const rt::ProgramInfo &info = model.program.info;
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < info.layers; ++layer)
    for (rt::Part part : {rt::kKey, rt::kValue}) {
      rt::LevelCounts counts = session->levels(layer, part);
      for (int32_t level : rt::kLadder)
        bytes += counts[static_cast<size_t>(rt::ladderIndex(level))] *
                 (rt::blocksAtLevel(level) * rt::blockBytes(info.headDim) +
                  (level < 16 ? info.parameterBytes[part] : 0));
    }
  for (int32_t i = 0; i < model.batch; ++i)
    bytes +=
        (session->tokens(i) - int64_t{session->pages(i)} * rt::kPageTokens) *
        info.layers * info.kvHeads * info.headDim * rt::kParts * 2;
  return bytes;
}

int64_t Run::weightBytes() const {
  int64_t bytes = 0;
  for (const WeightRange &range : model.weights)
    bytes += range.bytes;
  return bytes;
}

/// Reads the weights `steps` times and `cache` bytes of the pool in all.
void Run::read(int64_t steps, int64_t cache) {
  // From the start of the pool: it hands out the lowest blocks first.
  const uint8_t *pool = session->caches().front().blocks;
  const int64_t used = std::max<int64_t>(1, session->bytes().blocks);
  for (int64_t step = 0; step < steps; ++step) {
    for (const WeightRange &range : model.weights)
      readBytes(*readers, static_cast<const uint8_t *>(range.data), range.bytes,
                sink);
    for (int64_t left = cache / steps; left > 0; left -= used)
      readBytes(*readers, pool, std::min(left, used), sink);
  }
}

//===----------------------------------------------------------------------===//
// Decode
//===----------------------------------------------------------------------===//

int64_t bench::decodeTokens(int64_t context, int64_t maxPositions) {
  int64_t least = context + kPlainSteps;
  return std::max(least, std::min(least + kFlushSteps, maxPositions));
}

static Result<Errors> checkDecode(Run &run) {
  if (!run.model.watch)
    return Errors();
  run.model.watch(*run.session);
  Status status = run.decodeStep();
  run.session->observeLaunches(nullptr);
  if (!status.ok())
    return status;
  return run.model.judge();
}

/// Times one step and files it by what it did.
static Status timeDecodeStep(Run &run, StepTimes &times) {
  int32_t pages = run.session->pages(0);
  int64_t lowered = run.store->lowered;
  BenchClock::time_point begin = BenchClock::now();
  if (Status s = run.decodeStep(); !s.ok())
    return s;
  double time = microsecondsSince(begin);
  if (run.store->lowered != lowered)
    times.lowers.push_back(time);
  else if (run.session->pages(0) != pages)
    times.flushes.push_back(time);
  else
    times.plain.push_back(time);
  return {};
}

static double medianOf(std::vector<double> times) {
  return times.empty() ? 0 : summarize(std::move(times), 1).median;
}

Result<ModelMeasurement> bench::measureDecode(const ModelCase &model) {
  Run run(model);
  int64_t newTokens =
      decodeTokens(model.context, model.program.info.maxPositions) -
      model.context;
  if (Status s = run.open(model.context, newTokens); !s.ok())
    return s;
  if (Status s = run.fill(); !s.ok())
    return s;
  Result<Errors> errors = checkDecode(run);
  if (!errors.ok())
    return errors.status();
  StepTimes warm, times;
  for (int32_t i = 0; i < kWarmUps; ++i)
    if (Status s = timeDecodeStep(run, warm); !s.ok())
      return s;
  ModelMeasurement row;
  for (int32_t i = 0; i < kRepeats; ++i) {
    if (Status s = timeDecodeStep(run, times); !s.ok())
      return s;
    int64_t cache = run.cacheBytes();
    row.bytes += (run.weightBytes() + cache) / kRepeats;
    BenchClock::time_point begin = BenchClock::now();
    run.read(1, cache);
    times.reads.push_back(microsecondsSince(begin));
  }
  row.time = summarize(times.plain, 1);
  for (int64_t i = kPlainSteps; i < newTokens; ++i) {
    if (times.lowers.size() >= kFlushes ||
        (model.session.budgetBytes < 0 && times.flushes.size() >= kFlushes))
      break;
    if (Status s = timeDecodeStep(run, times); !s.ok())
      return s;
  }
  row.readMicroseconds = medianOf(times.reads);
  row.tokens = model.batch;
  row.errors = *errors;
  row.flushMicroseconds = medianOf(times.flushes);
  row.lowerMicroseconds = medianOf(times.lowers);
  return row;
}

//===----------------------------------------------------------------------===//
// Prefill
//===----------------------------------------------------------------------===//

/// Attention of a few rows, which take the same way as many.
static Result<Errors> checkPrefillRows(Run &run) {
  if (!run.model.watch)
    return Errors();
  std::vector<int32_t> tokens =
      promptTokens(run.model.context, rt::kRowsPerPrefillTask + 1,
                   run.model.program.info.vocabSize);
  auto count =
      std::min(static_cast<int32_t>(tokens.size()), run.session->room(0));
  run.model.watch(*run.session);
  auto logits = run.session->step({{0, tokens.data(), count}});
  run.session->observeLaunches(nullptr);
  if (!logits.ok())
    return logits.status();
  return run.model.judge();
}

/// Puts all sequences back to the context.
static Status putBack(Run &run, const std::vector<uint8_t> &snapshot) {
  for (int32_t i = 0; i < run.model.batch; ++i) {
    if (Status s = run.session->release(i); !s.ok())
      return s;
    if (Status s = run.session->restore(i, snapshot.data(), snapshot.size());
        !s.ok())
      return s;
  }
  return {};
}

Result<ModelMeasurement> bench::measurePrefill(const ModelCase &model) {
  Run run(model);
  if (Status s = run.open(model.context, kPrefillTokens); !s.ok())
    return s;
  if (Status s = run.fill(); !s.ok())
    return s;
  Result<std::vector<uint8_t>> snapshot = run.session->snapshot(0);
  if (!snapshot.ok())
    return snapshot.status();
  Result<Errors> errors = checkPrefillRows(run);
  if (!errors.ok())
    return errors.status();
  std::vector<rt::Prompt> prompts;
  for (int32_t i = 0; i < model.batch; ++i)
    prompts.push_back({i, promptTokens(model.context, kPrefillTokens,
                                       model.program.info.vocabSize)});
  std::vector<double> times, reads;
  ModelMeasurement row;
  for (int32_t i = -1; i < kPrefillRepeats; ++i) {
    if (Status s = putBack(run, *snapshot); !s.ok())
      return s;
    int64_t steps = 0, cache = 0;
    BenchClock::time_point begin = BenchClock::now();
    Status status = run.session->prefill(prompts, [&](int64_t, int64_t) {
      ++steps;
      cache += run.cacheBytes();
    });
    double time = microsecondsSince(begin);
    if (!status.ok())
      return status;
    begin = BenchClock::now();
    run.read(steps, cache);
    double read = microsecondsSince(begin);
    if (i < 0)
      continue;
    times.push_back(time);
    reads.push_back(read);
    row.bytes = steps * run.weightBytes() + cache;
  }
  row.time = summarize(std::move(times), 1);
  row.readMicroseconds = medianOf(std::move(reads));
  row.tokens = model.batch * kPrefillTokens;
  row.errors = *errors;
  return row;
}
