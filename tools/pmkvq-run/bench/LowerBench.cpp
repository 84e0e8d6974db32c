//===- LowerBench.cpp - Pages that fall as they are read ------------------===//
//
// Neighbours: LowerBench.h has the method.
//
//===----------------------------------------------------------------------===//

#include "LowerBench.h"
#include "DecodeRuns.h"
#include "DeviceTiming.h"
#include "PagePart.h"
#include "pmkvq/Target/FragmentLayout.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <utility>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
namespace cuda = ::pmkvq::rt::cuda;
using rt::Part;
using rt::Result;
using rt::Status;
using rt::StatusCode;

namespace {
/// A page that falls, before and after.
struct Fall {
  int64_t pair, page;
  rt::PageEntry before, after;
};

/// All that fall, [pair][page] in order, and the blocks that they go to.
struct Falls {
  std::vector<Fall> pages;
  /// Blocks behind all else of a pool, and where they begin.
  int64_t firstBlock = 0, blocks = 0;
  /// By pair and page: index among pages.
  std::map<std::pair<int64_t, int64_t>, size_t> index;

  /// The entry of a page after the launch.
  const rt::PageEntry &after(const Case &content, int64_t pair,
                             int64_t page) const {
    auto found = index.find({pair, page});
    return found == index.end() ? content.page(pair, page)
                                : pages[found->second].after;
  }
};

/// One launch of lowering alone: parts of pages from one level.
struct Lowering {
  Part part;
  int32_t from;
  std::vector<rt::PagePartTask> tasks;
  cuda::DeviceMemory list, outcomes;
};
} // namespace

/// Levels of a page after it has fallen.
static Result<rt::PageEntry> lowerEntry(const rt::PageEntry &page) {
  rt::PageEntry after = page;
  bool falls = false;
  for (Part part : {rt::kKey, rt::kValue}) {
    if (page.level[part] == 16)
      return Status(StatusCode::InvalidArgument,
                    "expected pages below 16 bits that fall while attention "
                    "reads them; --bench=requantize measures those at 16");
    if (page.level[part] == rt::kLadder.back())
      continue;
    after.level[part] /= 2;
    falls = true;
  }
  if (!falls)
    return Status(StatusCode::InvalidArgument,
                  "expected pages of 8 or 4 bits that fall, the oldest are at "
                  "2 already");
  return after;
}

/// Chooses pages, and blocks for them in random order.
static Result<Falls> chooseFalls(const Case &content, int64_t every) {
  if (int64_t dims = content.problem().shape.headDim;
      dims % FragmentLayout::kWholeDims)
    return Status(StatusCode::InvalidArgument,
                  "expected a head_dim that is a multiple of " +
                      std::to_string(FragmentLayout::kWholeDims) +
                      " where pages fall while attention reads them, got " +
                      std::to_string(dims));
  Falls falls;
  for (int64_t pair = 0; pair < content.problem().pairs(); ++pair) {
    int64_t pages = content.length(pair).pages;
    for (int64_t page = 0; page < (pages + every - 1) / every; ++page) {
      Result<rt::PageEntry> after = lowerEntry(content.page(pair, page));
      if (!after.ok())
        return after.status();
      falls.index[{pair, page}] = falls.pages.size();
      falls.pages.push_back({pair, page, content.page(pair, page), *after});
    }
  }
  if (falls.pages.empty())
    return Status(StatusCode::InvalidArgument,
                  "expected a context of at least one page");
  const int64_t blockBytes = rt::blockBytes(content.problem().shape.headDim);
  falls.firstBlock = (content.memoryBytes() + blockBytes - 1) / blockBytes;
  auto eachBlock = [&](auto what) {
    for (Fall &fall : falls.pages)
      for (Part part : {rt::kKey, rt::kValue})
        for (int32_t i = 0; fall.after.level[part] < fall.before.level[part] &&
                            i < rt::blocksAtLevel(fall.after.level[part]);
             ++i)
          what(fall.after.blocks[part][i]);
  };
  eachBlock([&](uint32_t & /*block*/) { ++falls.blocks; });
  std::vector<uint32_t> ids(static_cast<size_t>(falls.blocks));
  std::iota(ids.begin(), ids.end(), static_cast<uint32_t>(falls.firstBlock));
  std::mt19937_64 random(77);
  std::shuffle(ids.begin(), ids.end(), random);
  eachBlock([&](uint32_t &block) {
    block = ids.back();
    ids.pop_back();
  });
  return falls;
}

static auto fixedUnitsOf(const Case &content) {
  return [&content](int64_t pair, int64_t tokens, int64_t more, auto &units) {
    return rt::addFixedUnits(
        content.fixedOffset(pair, rt::kKey),
        content.fixedOffset(pair, rt::kValue), static_cast<int32_t>(tokens),
        content.problem().shape.headDim, units, static_cast<int32_t>(more));
  };
}

/// Work lists of attention alone and of both in one.
static Result<rt::DeviceWorkList> listAttention(const cuda::Device &device,
                                                const Case &content,
                                                const DecodeKernel &kernel) {
  const Problem &problem = content.problem();
  auto pairs = listPairs<rt::UnitTask>(
      content, kernel.rows,
      [&](int64_t pair, int64_t page, std::vector<rt::UnitTask> &units) {
        return rt::addPageUnits(content.page(pair, page), problem.shape.headDim,
                                0, units);
      },
      fixedUnitsOf(content));
  if (!pairs.ok())
    return pairs.status();
  return rt::buildDeviceWorkList(pairs->entries, kernel.resident,
                                 decodeCosts(device, problem, kernel.resident),
                                 pairs->queries);
}

static Result<rt::DeviceWorkList> listLowering(const cuda::Device &device,
                                               const Case &content,
                                               const DecodeKernel &kernel,
                                               const Falls &falls) {
  const Problem &problem = content.problem();
  auto pairs = listPairs<rt::LoweringTask>(
      content, kernel.rows,
      [&](int64_t pair, int64_t page, std::vector<rt::LoweringTask> &units) {
        return rt::addLoweringUnits(content.page(pair, page),
                                    falls.after(content, pair, page),
                                    problem.shape.headDim, 0, units);
      },
      fixedUnitsOf(content));
  if (!pairs.ok())
    return pairs.status();
  return rt::buildLoweringWorkList(
      pairs->entries, kernel.resident,
      decodeCosts(device, problem, kernel.resident), pairs->queries);
}

/// Gives each set another list; `before` receives those that they had.
static Status replaceWork(const cuda::DeviceRef &device,
                          const DecodeKernel &kernel, const Case &content,
                          const rt::DeviceWorkList &list,
                          std::vector<DecodeSet> &sets,
                          std::vector<cuda::DecodeWork> &before) {
  for (DecodeSet &set : sets) {
    Result<cuda::DecodeWork> work = cuda::DecodeWork::create(
        device, list, content.problem().group() * kernel.rows,
        content.problem().shape.headDim);
    if (!work.ok())
      return work.status();
    before.push_back(std::exchange(set.work, std::move(*work)));
  }
  return {};
}

//===----------------------------------------------------------------------===//
// Codes
//===----------------------------------------------------------------------===//

/// All of a set's memory.
static Result<std::vector<uint8_t>> downloadPool(const DecodeSet &set) {
  std::vector<uint8_t> memory(static_cast<size_t>(set.pool.memory().bytes()));
  if (Status status =
          set.pool.memory().download(memory.data(), set.pool.memory().bytes());
      !status.ok())
    return status;
  return memory;
}

/// A part as the reference has it.
static reference::PagePart partOf(const Problem &problem, uint8_t *memory,
                                  int64_t slotOffset, const rt::PageEntry &page,
                                  Part part) {
  DeviceImage image(problem.image(), memory, memory + slotOffset);
  return bench::readPart(image, page, part, problem.format[part],
                         problem.shape.headDim);
}

/// Compares every 64th page with what the reference makes of it, and what was
/// not to be written with what it was.
static Status checkCodes(const Case &content, const Falls &falls,
                         std::vector<uint8_t> &memory) {
  if (std::memcmp(memory.data(), content.memory(),
                  static_cast<size_t>(content.memoryBytes())) != 0)
    return {StatusCode::Internal,
            "lowering in attention wrote to blocks that are read"};
  constexpr size_t kStep = 64;
  const Problem &problem = content.problem();
  for (size_t i = 0; i < falls.pages.size(); i += kStep)
    for (Part part : {rt::kKey, rt::kValue}) {
      const Fall &fall = falls.pages[i];
      reference::PagePart expected = partOf(
          problem, content.memory(), content.slotOffset(), fall.before, part);
      if (Status status =
              reference::lowerPart(problem.format[part], problem.shape.headDim,
                                   fall.after.level[part], expected);
          !status.ok())
        return status;
      if (partOf(problem, memory.data(), content.slotOffset(), fall.after, part)
              .codes != expected.codes)
        return {StatusCode::Internal,
                "page " + std::to_string(fall.page) + " of pair " +
                    std::to_string(fall.pair) +
                    " is not what the reference makes of it at level " +
                    std::to_string(fall.after.level[part])};
    }
  return {};
}

/// Compares all pages with what lowering alone has left in their own blocks.
static Status compareCodes(const Case &content, const Falls &falls,
                           const std::vector<uint8_t> &inAttention,
                           const std::vector<uint8_t> &alone) {
  const auto bytes =
      static_cast<size_t>(rt::blockBytes(content.problem().shape.headDim));
  for (const Fall &fall : falls.pages)
    for (Part part : {rt::kKey, rt::kValue})
      for (int32_t i = 0; fall.after.level[part] < fall.before.level[part] &&
                          i < rt::blocksAtLevel(fall.after.level[part]);
           ++i)
        if (std::memcmp(&inAttention[fall.after.blocks[part][i] * bytes],
                        &alone[fall.before.blocks[part][i] * bytes],
                        bytes) != 0)
          return {StatusCode::Internal,
                  "page " + std::to_string(fall.page) + " of pair " +
                      std::to_string(fall.pair) +
                      " has other codes than a launch of its own gives it"};
  return {};
}

//===----------------------------------------------------------------------===//
// Lowering alone
//===----------------------------------------------------------------------===//

static Result<std::vector<Lowering>> listAlone(const cuda::DeviceRef &device,
                                               const Falls &falls) {
  std::map<std::pair<Part, int32_t>, std::vector<rt::PagePartTask>> tasks;
  for (const Fall &fall : falls.pages)
    for (Part part : {rt::kKey, rt::kValue}) {
      if (fall.after.level[part] == fall.before.level[part])
        continue;
      rt::PagePartTask task = {};
      std::copy(std::begin(fall.before.blocks[part]),
                std::end(fall.before.blocks[part]), task.blocks);
      task.slot = fall.before.slot;
      tasks[{part, fall.before.level[part]}].push_back(task);
    }
  std::vector<Lowering> launches;
  for (auto &[key, list] : tasks) {
    Lowering launch = {key.first, key.second, std::move(list), {}, {}};
    auto bytes =
        static_cast<int64_t>(launch.tasks.size() * sizeof(rt::PagePartTask));
    auto words = static_cast<int64_t>(launch.tasks.size() * sizeof(uint32_t));
    auto memory = cuda::DeviceMemory::allocate(device, bytes);
    auto outcomes = cuda::DeviceMemory::allocate(device, words);
    if (!memory.ok())
      return memory.status();
    if (!outcomes.ok())
      return outcomes.status();
    if (Status status = memory->upload(launch.tasks.data(), bytes);
        !status.ok())
      return status;
    launch.list = std::move(*memory);
    launch.outcomes = std::move(*outcomes);
    launches.push_back(std::move(launch));
  }
  return launches;
}

static Status lowerAlone(const cuda::CacheWriters &writers,
                         const cuda::Stream &stream, const DecodeSet &set,
                         const std::vector<Lowering> &launches) {
  rt::PagesArgs arguments = {};
  arguments.codes = set.pool.memory().pointer();
  arguments.parameters =
      set.pool.memory().pointer(set.pool.layout().slotOffset(0));
  for (const Lowering &launch : launches) {
    arguments.tasks = launch.list.pointer<rt::PagePartTask>();
    arguments.outcomes = launch.outcomes.pointer<uint32_t>();
    if (Status status = writers.requantize(
            stream, arguments, static_cast<int64_t>(launch.tasks.size()),
            launch.part, launch.from);
        !status.ok())
      return status;
  }
  return {};
}

//===----------------------------------------------------------------------===//
// The measurement
//===----------------------------------------------------------------------===//

namespace {
/// Kernels of all three ways, and reading.
struct LoweringKernels {
  DecodeKernel attention, both, read;
  cuda::CacheWriters writers;
};

/// What the three ways are measured on.
struct LoweringRun {
  Case content;
  Falls falls;
  LoweringKernels kernels;
  cuda::Stream stream;
  std::vector<DecodeSet> sets;
  /// Lists of attention alone, while the sets have others.
  std::vector<cuda::DecodeWork> attentionWork;
};
} // namespace

static Result<LoweringKernels> loadKernels(const cuda::DeviceRef &device,
                                           const DeviceCompiler &compiler,
                                           const Problem &problem) {
  const std::string chip = compiler.chipFor(*device);
  Result<DecodeKernel> loaded[] = {
      loadDecodeKernel(device, compiler.decode(problem, false, chip), false),
      loadDecodeKernel(device, compiler.lowering(problem, chip), false),
      loadDecodeKernel(device, compiler.read(chip), false)};
  for (const Result<DecodeKernel> &kernel : loaded)
    if (!kernel.ok())
      return kernel.status();
  Result<cuda::WriterCode> code =
      compiler.writers(problem, /*positions=*/false, device->chip());
  if (!code.ok())
    return code.status();
  Result<cuda::CacheWriters> writers = cuda::CacheWriters::load(device, *code);
  if (!writers.ok())
    return writers.status();
  return LoweringKernels{std::move(*loaded[0]), std::move(*loaded[1]),
                         std::move(*loaded[2]), std::move(*writers)};
}

static Result<LoweringRun> prepareRun(const cuda::DeviceRef &device,
                                      const DeviceCompiler &compiler,
                                      const Problem &problem, int64_t every,
                                      bool isTimed) {
  if (problem.rows != 1)
    return Status(StatusCode::InvalidArgument,
                  "expected one query token a sequence where pages fall, got " +
                      std::to_string(problem.rows));
  Result<Case> content = Case::create(problem, Order::Device, /*seed=*/1234);
  if (!content.ok())
    return content.status();
  Result<Falls> falls = chooseFalls(*content, every);
  if (!falls.ok())
    return falls.status();
  Result<LoweringKernels> kernels = loadKernels(device, compiler, problem);
  if (!kernels.ok())
    return kernels.status();
  Result<rt::DeviceWorkList> list =
      listAttention(*device, *content, kernels->attention);
  if (!list.ok())
    return list.status();
  const int64_t blockBytes = rt::blockBytes(problem.shape.headDim);
  Result<std::vector<DecodeSet>> sets =
      makeDecodeSets(device, kernels->attention, *content, *list,
                     isTimed ? setsOf(content->bytes()) : 1,
                     (falls->firstBlock + falls->blocks) * blockBytes -
                         content->memoryBytes());
  if (!sets.ok())
    return sets.status();
  Result<cuda::Stream> stream = cuda::Stream::create(device);
  if (!stream.ok())
    return stream.status();
  return LoweringRun{std::move(*content), std::move(*falls),
                     std::move(*kernels), std::move(*stream),
                     std::move(*sets),    {}};
}

/// Bytes that lowering writes.
static int64_t writtenBytes(const LoweringRun &run) {
  return run.falls.blocks * rt::blockBytes(run.content.problem().shape.headDim);
}

/// Checks and times a kernel of attention with the work lists of the sets.
static Result<Measurement> measureAttention(LoweringRun &run,
                                            const DecodeKernel &kernel) {
  std::vector<float> checked;
  Result<Errors> errors =
      checkDecode(kernel, run.stream, run.sets.front(), run.content, &checked);
  if (!errors.ok())
    return errors.status();
  Result<Timing> timing = timeDecode(kernel, run.stream, run.sets, checked);
  if (!timing.ok())
    return timing.status();
  Measurement row;
  row.device = "cuda";
  row.attention = *timing;
  row.bytes = run.content.bytes();
  row.errors = *errors;
  return row;
}

/// Gives the sets the work lists of both in one launch.
static Status listBoth(const cuda::DeviceRef &device, LoweringRun &run) {
  const DecodeKernel &kernel = run.kernels.both;
  Result<rt::DeviceWorkList> list =
      listLowering(*device, run.content, kernel, run.falls);
  if (!list.ok())
    return list.status();
  return replaceWork(device, kernel, run.content, *list, run.sets,
                     run.attentionWork);
}

/// What both in one launch has left in the first set, checked.
static Result<std::vector<uint8_t>> readCodes(LoweringRun &run) {
  Result<std::vector<uint8_t>> memory = downloadPool(run.sets.front());
  if (!memory.ok())
    return memory;
  if (Status status = checkCodes(run.content, run.falls, *memory); !status.ok())
    return status;
  return memory;
}

/// Both in one launch; `codes` becomes what it leaves in the first set.
static Result<Measurement> measureBoth(const cuda::DeviceRef &device,
                                       LoweringRun &run,
                                       const Measurement &attention,
                                       std::vector<uint8_t> &codes) {
  if (Status status = listBoth(device, run); !status.ok())
    return status;
  Result<Measurement> row = measureAttention(run, run.kernels.both);
  if (!row.ok())
    return row;
  Result<std::vector<uint8_t>> left = readCodes(run);
  if (!left.ok())
    return left.status();
  codes = std::move(*left);
  row->device = "cuda+lower";
  row->isAttention = false;
  row->bytes = attention.bytes + writtenBytes(run);
  row->readMicroseconds = attention.attention.median *
                          static_cast<double>(row->bytes) /
                          static_cast<double>(attention.bytes);
  return row;
}

/// Times `launch` of each set in turn.
template <typename Launch>
static Result<Timing> timeSets(const LoweringRun &run, Launch launch) {
  auto count = static_cast<int64_t>(run.sets.size());
  return timeGraph(run.stream, launchesOf(count), kRepeats, [&](int64_t i) {
    return launch(run.sets[static_cast<size_t>(i % count)]);
  });
}

/// Lowering alone, and attention with lowering after it.  The content falls
/// again with every run, which takes as long.
static Result<std::vector<Measurement>>
timeAlone(LoweringRun &run, const std::vector<Lowering> &launches) {
  Measurement alone, after;
  alone.isAttention = after.isAttention = false;
  alone.device = "cuda-lower";
  alone.bytes = writtenBytes(run) * 3;
  auto lower = [&](const DecodeSet &set) {
    return lowerAlone(run.kernels.writers, run.stream, set, launches);
  };
  Result<Timing> timing = timeSets(run, lower);
  if (!timing.ok())
    return timing.status();
  alone.attention = *timing;
  Result<double> copy =
      timeCopy(run.stream, alone.bytes / 2, setsOf(alone.bytes));
  if (!copy.ok())
    return copy.status();
  alone.readMicroseconds = *copy;
  for (size_t i = 0; i < run.sets.size(); ++i)
    std::swap(run.sets[i].work, run.attentionWork[i]);
  timing = timeSets(run, [&](const DecodeSet &set) {
    Status status = launchDecode(run.kernels.attention, run.stream, set);
    return status.ok() ? lower(set) : status;
  });
  if (!timing.ok())
    return timing.status();
  after.device = "cuda;lower";
  after.attention = *timing;
  after.bytes = run.content.bytes() + alone.bytes;
  return std::vector<Measurement>{alone, after};
}

/// Lowers the first set in launches of its own and compares with `codes`.
static Status checkAlone(const LoweringRun &run,
                         const std::vector<Lowering> &launches,
                         const std::vector<uint8_t> &codes) {
  Status status =
      lowerAlone(run.kernels.writers, run.stream, run.sets.front(), launches);
  if (status.ok())
    status = run.stream.synchronize();
  if (!status.ok())
    return status;
  Result<std::vector<uint8_t>> alone = downloadPool(run.sets.front());
  if (!alone.ok())
    return alone.status();
  return compareCodes(run.content, run.falls, codes, *alone);
}

Status bench::checkLowering(const cuda::DeviceRef &device,
                            const DeviceCompiler &compiler,
                            const Problem &problem, int64_t every) {
  Result<LoweringRun> run =
      prepareRun(device, compiler, problem, every, /*isTimed=*/false);
  if (!run.ok())
    return run.status();
  if (Status status = listBoth(device, *run); !status.ok())
    return status;
  Result<Errors> errors =
      checkDecode(run->kernels.both, run->stream, run->sets.front(),
                  run->content, /*results=*/nullptr);
  if (!errors.ok())
    return errors.status();
  Result<std::vector<uint8_t>> codes = readCodes(*run);
  if (!codes.ok())
    return codes.status();
  Result<std::vector<Lowering>> launches = listAlone(device, run->falls);
  return launches.ok() ? checkAlone(*run, *launches, *codes)
                       : launches.status();
}

Result<std::vector<Measurement>>
bench::measureLowering(const cuda::DeviceRef &device,
                       const DeviceCompiler &compiler, const Problem &problem,
                       int64_t every) {
  Result<LoweringRun> run =
      prepareRun(device, compiler, problem, every, /*isTimed=*/true);
  if (!run.ok())
    return run.status();
  Result<Measurement> attention =
      measureAttention(*run, run->kernels.attention);
  if (!attention.ok())
    return attention.status();
  Result<double> readTime = timeReads(
      run->kernels.read, run->stream, run->sets,
      std::min(attention->bytes, run->sets.front().pool.memory().bytes()));
  if (!readTime.ok())
    return readTime.status();
  attention->readMicroseconds = *readTime;
  std::vector<uint8_t> codes;
  Result<Measurement> both = measureBoth(device, *run, *attention, codes);
  if (!both.ok())
    return both.status();
  Result<std::vector<Lowering>> launches = listAlone(device, run->falls);
  if (!launches.ok())
    return launches.status();
  if (Status status = checkAlone(*run, *launches, codes); !status.ok())
    return status;
  Result<std::vector<Measurement>> rows = timeAlone(*run, *launches);
  if (!rows.ok())
    return rows;
  rows->insert(rows->begin(), std::move(*attention));
  rows->push_back(std::move(*both));
  return rows;
}
