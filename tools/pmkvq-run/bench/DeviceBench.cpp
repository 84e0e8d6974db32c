//===- DeviceBench.cpp - Attention measured on a GPU ----------------------===//
//
// Neighbours: DeviceBench.h has the method.
//
//===----------------------------------------------------------------------===//

#include "DeviceBench.h"
#include "DeviceTiming.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
namespace cuda = ::pmkvq::rt::cuda;
using rt::Result;
using rt::Status;
using rt::StatusCode;

Status bench::checkErrors(const Problem &problem, const Errors &errors) {
  return checkErrors(boundsOf(problem, /*inHalves=*/false), errors);
}

Status bench::checkErrors(const Errors &bounds, const Errors &errors) {
  if (errors.rms <= bounds.rms && errors.largest <= bounds.largest)
    return {};
  auto text = [](const Errors &e) {
    char line[64];
    std::snprintf(line, sizeof(line), "rms %.2e, largest %.2e", e.rms,
                  e.largest);
    return std::string(line);
  };
  return {StatusCode::Internal, "attention is wrong: relative errors are " +
                                    text(errors) + ", expected at most " +
                                    text(bounds)};
}

namespace {
/// A kernel ready to be launched.
struct Kernel {
  cuda::Function function;
  cuda::LaunchShape shape;
  /// Thread blocks that the device runs at once.
  int32_t resident = 0;
  int64_t slotBytes = 0;
  /// As in DeviceCode.
  int64_t rows = 1;
  bool takesPages = false;
};

/// One set of inputs, and where its results go.
struct InputSet {
  cuda::CachePool pool;
  cuda::DeviceMemory queries, results;
  cuda::DecodeWork work;

  rt::DecodeArgs arguments() const {
    rt::DecodeArgs arguments = {};
    pool.fill(arguments);
    work.fill(arguments);
    arguments.queries = queries.pointer<float>();
    arguments.results = results.pointer<float>();
    return arguments;
  }
};
} // namespace

static Result<Kernel> loadKernel(const cuda::DeviceRef &device,
                                 const Result<DeviceCode> &code,
                                 bool dependent) {
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
  cuda::LaunchShape shape;
  shape.threads = static_cast<uint32_t>(code->threads);
  shape.sharedBytes = static_cast<uint32_t>(code->sharedBytes);
  shape.dependent = dependent;
  Result<int32_t> blocks = function->blocksPerMultiprocessor(shape);
  if (!blocks.ok())
    return blocks.status();
  return Kernel{
      std::move(*function), shape,      *blocks * device->multiprocessors(),
      code->slotBytes,      code->rows, code->takesPages};
}

static Status addPage(const rt::PageEntry &page, int64_t headDim,
                      std::vector<rt::UnitTask> &units) {
  return rt::addPageUnits(page, headDim, 0, units);
}
static Status addPage(const rt::PageEntry &page, int64_t headDim,
                      std::vector<rt::PrefillPage> &pages) {
  return rt::addPageEntry(page, headDim, 0, pages);
}

static Status addFixed(const Case &content, int64_t pair, int64_t tokens,
                       std::vector<rt::UnitTask> &units, int64_t more) {
  return rt::addFixedUnits(
      content.fixedOffset(pair, rt::kKey),
      content.fixedOffset(pair, rt::kValue), static_cast<int32_t>(tokens),
      content.problem().shape.headDim, units, static_cast<int32_t>(more));
}
static Status addFixed(const Case &content, int64_t pair, int64_t tokens,
                       std::vector<rt::PrefillPage> &pages, int64_t more) {
  return rt::addFixedEntries(
      content.fixedOffset(pair, rt::kKey),
      content.fixedOffset(pair, rt::kValue), static_cast<int32_t>(tokens),
      content.problem().shape.headDim, pages, static_cast<int32_t>(more));
}

namespace {
/// Units or pages for the query rows of every pair, and whose they are.
template <typename Entry> struct Pairs {
  std::vector<std::vector<Entry>> entries;
  std::vector<rt::PairQueries> queries;
};
} // namespace

/// As a session would list them, for segments of at most `most` rows.
template <typename Entry>
static Result<Pairs<Entry>> listPairs(const Case &content, int64_t most) {
  const Problem &problem = content.problem();
  Pairs<Entry> all;
  for (int64_t pair = 0; pair < problem.pairs(); ++pair)
    for (int64_t row = 0; row < problem.rows; row += most) {
      const int64_t more = std::min(most, problem.rows - row) - 1;
      std::vector<Entry> &entries = all.entries.emplace_back();
      all.queries.push_back(
          {static_cast<uint32_t>(problem.queryPair(pair, row)),
           static_cast<int32_t>(more)});
      for (int64_t page = 0; page < content.length(pair).pages; ++page)
        if (Status status = addPage(content.page(pair, page),
                                    problem.shape.headDim, entries);
            !status.ok())
          return status;
      const int64_t later = problem.rows - 1 - row;
      if (Status status =
              addFixed(content, pair, content.length(pair).fixedTokens - later,
                       entries, more);
          !status.ok())
        return status;
      rt::spreadKinds(entries);
    }
  return all;
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
static Result<InputSet> makeSet(const cuda::DeviceRef &device,
                                const Kernel &kernel, const Case &content,
                                const rt::DeviceWorkList &list) {
  Result<cuda::CachePool> pool =
      cuda::CachePool::create(device, layoutOf(content, kernel.slotBytes));
  if (!pool.ok())
    return pool.status();
  if (pool->memory().bytes() != content.memoryBytes())
    return Status(StatusCode::Internal,
                  "the kernel's slots have " +
                      std::to_string(kernel.slotBytes) + " bytes, the case's " +
                      std::to_string(content.slotBytes()));
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
  return InputSet{std::move(*pool), std::move(*queries), std::move(*results),
                  std::move(*work)};
}

/// The sets that launches rotate over; the first is copied from the host.
static Result<std::vector<InputSet>>
makeSets(const cuda::DeviceRef &device, const Kernel &kernel,
         const Case &content, const rt::DeviceWorkList &list, int64_t count) {
  std::vector<InputSet> sets;
  for (int64_t i = 0; i < count; ++i) {
    Result<InputSet> set = makeSet(device, kernel, content, list);
    if (!set.ok())
      return set.status();
    Status filled =
        i == 0 ? set->pool.memory().upload(content.memory(),
                                           set->pool.memory().bytes())
               : set->pool.memory().copyFrom(sets.front().pool.memory());
    if (!filled.ok())
      return filled;
    sets.push_back(std::move(*set));
  }
  return sets;
}

static Status launchDecode(const Kernel &kernel, const cuda::Stream &stream,
                           const InputSet &set) {
  cuda::LaunchShape shape = kernel.shape;
  shape.blocks = static_cast<uint32_t>(set.work.rows());
  return kernel.function.launch(stream, shape, set.arguments());
}

/// Results of one launch over poisoned memory.
static Result<std::vector<float>>
runOnce(const Kernel &kernel, const cuda::Stream &stream, InputSet &set) {
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

/// Errors of a kernel's results; `results` receives them if it is not null.
static Result<Errors> checkKernel(const Kernel &kernel,
                                  const cuda::Stream &stream, InputSet &set,
                                  Case &content, std::vector<float> *results) {
  Result<std::vector<float>> first = runOnce(kernel, stream, set);
  if (!first.ok())
    return first.status();
  Result<std::vector<float>> second = runOnce(kernel, stream, set);
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

/// Reading the sets' bytes with the best of a few grids.
static Result<double> timeRead(const Kernel &kernel, const cuda::Stream &stream,
                               const std::vector<InputSet> &sets,
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

namespace {
/// All that a problem needs on a device but the kernels.
struct Prepared {
  Case content;
  rt::DeviceWorkList list;
  cuda::Stream stream;
};
} // namespace

static Result<Kernel> loadDecode(const cuda::DeviceRef &device,
                                 const DeviceCompiler &compiler,
                                 const Problem &problem, bool dependent) {
  return loadKernel(
      device, compiler.decode(problem, dependent, compiler.chipFor(*device)),
      dependent);
}

/// Programmatic dependent launch is of sm_90 and later.
static bool launchesDependents(const std::string &chip) {
  constexpr int64_t kFirst = 90;
  return std::strtol(chip.c_str() + std::strlen("sm_"), nullptr, 10) >= kFirst;
}

std::vector<bool> DeviceCompiler::launchesOn(const cuda::Device &device) const {
  return launchesDependents(chipFor(device)) ? std::vector<bool>{false, true}
                                             : std::vector<bool>{false};
}

/// The work list of a kernel for `blocks` thread blocks.
static Result<rt::DeviceWorkList> listWork(const cuda::DeviceRef &device,
                                           const Kernel &kernel,
                                           const Case &content,
                                           int32_t blocks) {
  const Problem &problem = content.problem();
  if (kernel.takesPages) {
    auto pages = listPairs<rt::PrefillPage>(content, kernel.rows);
    if (!pages.ok())
      return pages.status();
    return rt::buildPageWorkList(pages->entries, blocks,
                                 rt::pageCosts(problem.group() * kernel.rows),
                                 pages->queries);
  }
  auto units = listPairs<rt::UnitTask>(content, kernel.rows);
  if (!units.ok())
    return units.status();
  const int32_t perMultiprocessor =
      std::max(1, blocks / device->multiprocessors());
  return rt::buildDeviceWorkList(
      units->entries, blocks,
      rt::unitCosts(problem.shape.headDim, perMultiprocessor), units->queries);
}

/// Content, and rows for `blocks` thread blocks.
static Result<Prepared> prepare(const cuda::DeviceRef &device,
                                const Kernel &kernel, const Problem &problem,
                                int32_t blocks) {
  Result<Case> content = Case::create(problem, Order::Device, /*seed=*/1234);
  if (!content.ok())
    return content.status();
  Result<rt::DeviceWorkList> list = listWork(device, kernel, *content, blocks);
  if (!list.ok())
    return list.status();
  Result<cuda::Stream> stream = cuda::Stream::create(device);
  if (!stream.ok())
    return stream.status();
  return Prepared{std::move(*content), std::move(*list), std::move(*stream)};
}

Result<Errors> bench::checkOnDevice(const cuda::DeviceRef &device,
                                    const DeviceCompiler &compiler,
                                    const Problem &problem,
                                    const DeviceRun &run,
                                    std::vector<float> *results) {
  Result<Kernel> kernel =
      loadDecode(device, compiler, problem, run.dependentLaunch);
  if (!kernel.ok())
    return kernel.status();
  Result<Prepared> made = prepare(device, *kernel, problem,
                                  run.blocks ? run.blocks : kernel->resident);
  if (!made.ok())
    return made.status();
  if (run.spoil)
    run.spoil(made->list);
  Result<std::vector<InputSet>> sets =
      makeSets(device, *kernel, made->content, made->list, /*count=*/1);
  if (!sets.ok())
    return sets.status();
  return checkKernel(*kernel, made->stream, sets->front(), made->content,
                     results);
}

/// Times attention over the sets.  What the timed launches leave, which may
/// overlap, must be the checked results in every set.
static Result<Timing> timeDecode(const Kernel &kernel,
                                 const cuda::Stream &stream,
                                 std::vector<InputSet> &sets,
                                 const std::vector<float> &checked) {
  for (InputSet &set : sets)
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
  for (const InputSet &set : sets) {
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

Result<std::vector<Measurement>>
bench::measureOnDevice(const cuda::DeviceRef &device,
                       const DeviceCompiler &compiler, const Problem &problem) {
  std::vector<Kernel> kernels;
  for (bool dependent : compiler.launchesOn(*device)) {
    Result<Kernel> kernel = loadDecode(device, compiler, problem, dependent);
    if (!kernel.ok())
      return kernel.status();
    kernels.push_back(std::move(*kernel));
  }
  Result<Kernel> read =
      loadKernel(device, compiler.read(compiler.chipFor(*device)),
                 /*dependent=*/false);
  if (!read.ok())
    return read.status();
  Result<Prepared> made =
      prepare(device, kernels.front(), problem,
              std::min(kernels.front().resident, kernels.back().resident));
  if (!made.ok())
    return made.status();
  int64_t bytes = made->content.bytes();
  Result<std::vector<InputSet>> sets = makeSets(
      device, kernels.front(), made->content, made->list, setsOf(bytes));
  if (!sets.ok())
    return sets.status();

  // Every kernel is right before one is measured.
  std::vector<Measurement> rows(kernels.size());
  std::vector<std::vector<float>> checked(kernels.size());
  for (size_t i = 0; i < kernels.size(); ++i) {
    Result<Errors> errors = checkKernel(kernels[i], made->stream, sets->front(),
                                        made->content, &checked[i]);
    if (!errors.ok())
      return errors.status();
    rows[i].device = i == 0 ? "cuda" : "cuda+dependent";
    rows[i].bytes = bytes;
    rows[i].errors = *errors;
  }
  for (size_t i = 0; i < kernels.size(); ++i) {
    Result<Timing> timing =
        timeDecode(kernels[i], made->stream, *sets, checked[i]);
    if (!timing.ok())
      return timing.status();
    rows[i].attention = *timing;
  }
  Result<double> readTime =
      timeRead(*read, made->stream, *sets,
               std::min(bytes, sets->front().pool.memory().bytes()));
  if (!readTime.ok())
    return readTime.status();
  for (Measurement &row : rows)
    row.readMicroseconds = *readTime;
  return rows;
}
