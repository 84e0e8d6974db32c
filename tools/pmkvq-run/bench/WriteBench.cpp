//===- WriteBench.cpp - Writing a cache, measured on a GPU ----------------===//
//
// Neighbours: WriteBench.h has the method.
//
//===----------------------------------------------------------------------===//

#include "WriteBench.h"
#include "DeviceTiming.h"
#include "Memory.h"
#include "PagePart.h"
#include "pmkvq/Reference/Bits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace cuda = ::pmkvq::rt::cuda;
using rt::Part;
using rt::Result;
using rt::Status;
using rt::StatusCode;

namespace {
/// Pages of one level, all blocks in random order, and fixed areas.
struct Pages {
  Problem problem;
  cuda::PoolLayout layout;
  std::vector<rt::PageEntry> entries;
  /// The pool's content.
  std::vector<uint8_t> memory;

  DeviceImage image() {
    return {problem.image(), memory.data(),
            memory.data() + layout.slotOffset(0)};
  }
  int64_t count() const { return static_cast<int64_t>(entries.size()); }
  void setLevel(int32_t level) {
    for (rt::PageEntry &entry : entries)
      for (uint8_t &of : entry.level)
        of = static_cast<uint8_t>(level);
  }
  std::vector<rt::PagePartTask> tasks(Part part) const;
  /// Kv heads take turns.
  int64_t headOf(size_t page) const {
    return static_cast<int64_t>(page) % problem.shape.kvHeads;
  }
};

/// The pool of one set, with the lists of its launches.
struct WriteSet {
  cuda::CachePool pool;
  cuda::DeviceMemory tasks[rt::kParts];
  cuda::DeviceMemory outcomes;
  cuda::DeviceMemory feedback;

  rt::PagesArgs arguments(Part part) const {
    rt::PagesArgs args = {};
    args.codes = pool.memory().pointer();
    args.parameters = pool.memory().pointer(pool.layout().slotOffset(0));
    args.tasks = tasks[part].pointer<rt::PagePartTask>();
    args.outcomes = outcomes.pointer<uint32_t>();
    if (feedback.bytes())
      args.keyFeedback = feedback.pointer<const float>();
    return args;
  }
};
} // namespace

/// A finite bf16 value.
static uint16_t drawRaw(std::mt19937_64 &random) {
  std::normal_distribution<float> normal;
  return reference::floatToBf16(normal(random));
}

/// `areas` fixed areas; codes of level 16 are values, others random.
static Result<Pages> makePages(const Problem &problem, int64_t count,
                               int64_t areas, int32_t level) {
  Pages pages;
  pages.problem = problem;
  pages.layout.headDim = problem.shape.headDim;
  pages.layout.sinkTokens = kSinkTokens;
  pages.layout.slotBytes = pages.image().slotBytes();
  pages.layout.blocks = count * rt::kParts * rt::blocksAtLevel(level);
  pages.layout.fixedAreas = areas;
  pages.layout.slots = count;
  if (Status status = checkMemory(
          "the pages", pages.layout.bytes() +
                           count * static_cast<int64_t>(sizeof(rt::PageEntry)));
      !status.ok())
    return status;
  pages.entries.resize(static_cast<size_t>(count));
  pages.memory.resize(static_cast<size_t>(pages.layout.bytes()));
  std::mt19937_64 random(4321);
  std::vector<uint32_t> ids(static_cast<size_t>(pages.layout.blocks));
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  for (int64_t i = 0; i < count; ++i) {
    rt::PageEntry &entry = pages.entries[static_cast<size_t>(i)];
    entry.slot = static_cast<uint32_t>(count - 1 - i);
    for (Part part : {rt::kKey, rt::kValue})
      for (int32_t b = 0; b < rt::blocksAtLevel(level); ++b) {
        entry.blocks[part][b] = ids.back();
        ids.pop_back();
      }
  }
  pages.setLevel(level);
  // A stretch of drawn content again and again, shifted.
  std::vector<uint16_t> drawn((1 << 16) + 9);
  for (uint16_t &value : drawn)
    value = level == 16 ? drawRaw(random) : static_cast<uint16_t>(random());
  auto end = static_cast<size_t>(pages.layout.fixedOffset(0, rt::kKey));
  for (size_t at = 0, i = 0; at < end; at += 2, ++i)
    std::memcpy(&pages.memory[at], &drawn[i % drawn.size()], 2);
  return pages;
}

std::vector<rt::PagePartTask> Pages::tasks(Part part) const {
  std::vector<rt::PagePartTask> list(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    std::copy(std::begin(entries[i].blocks[part]),
              std::end(entries[i].blocks[part]), list[i].blocks);
    list[i].slot = entries[i].slot;
    list[i].feedback = static_cast<uint32_t>(headOf(i));
    if (layout.fixedAreas)
      list[i].window = static_cast<uint32_t>(
          layout.fixedOffset(static_cast<int64_t>(i), part) /
          rt::kDeviceGrainBytes);
  }
  return list;
}

template <typename T>
static Result<cuda::DeviceMemory> toDevice(const cuda::DeviceRef &device,
                                           const std::vector<T> &from) {
  auto bytes = static_cast<int64_t>(from.size() * sizeof(T));
  Result<cuda::DeviceMemory> memory =
      cuda::DeviceMemory::allocate(device, bytes);
  if (!memory.ok())
    return memory;
  if (Status status = memory->upload(from.data(), bytes); !status.ok())
    return status;
  return memory;
}

static Result<WriteSet> makeSet(const cuda::DeviceRef &device,
                                const Pages &pages) {
  Result<cuda::CachePool> pool = cuda::CachePool::create(device, pages.layout);
  if (!pool.ok())
    return pool.status();
  WriteSet set = {std::move(*pool), {}, {}, {}};
  for (Part part : {rt::kKey, rt::kValue}) {
    Result<cuda::DeviceMemory> tasks = toDevice(device, pages.tasks(part));
    if (!tasks.ok())
      return tasks.status();
    set.tasks[part] = std::move(*tasks);
  }
  Result<cuda::DeviceMemory> outcomes =
      toDevice(device, std::vector<uint32_t>(pages.entries.size(), 0));
  if (!outcomes.ok())
    return outcomes.status();
  set.outcomes = std::move(*outcomes);
  if (!pages.problem.feedback.table.empty()) {
    Result<cuda::DeviceMemory> feedback =
        toDevice(device, pages.problem.feedback.table);
    if (!feedback.ok())
      return feedback.status();
    set.feedback = std::move(*feedback);
  }
  return set;
}

static Result<cuda::CacheWriters> loadWriters(const cuda::DeviceRef &device,
                                              const DeviceCompiler &compiler,
                                              const Problem &problem,
                                              bool positions) {
  Result<cuda::WriterCode> code =
      compiler.writers(problem, positions, device->chip());
  if (!code.ok())
    return code.status();
  return cuda::CacheWriters::load(device, *code);
}

//===----------------------------------------------------------------------===//
// Checks
//===----------------------------------------------------------------------===//

/// A part as the reference has it, read from the image.
static reference::PagePart partOf(Pages &pages, size_t page, Part part) {
  return bench::readPart(pages.image(), pages.entries[page], part,
                         pages.problem.format[part],
                         pages.problem.shape.headDim);
}

static bool isSame(const reference::PagePart &a, const reference::PagePart &b) {
  return a.level == b.level && a.values == b.values && a.codes == b.codes &&
         a.minimum == b.minimum && a.range == b.range;
}

/// Up to 8 pages, the first and the last among them.
static std::vector<size_t> sample(size_t count) {
  std::vector<size_t> pages;
  size_t step = std::max<size_t>(1, (count - 1) / 7);
  for (size_t page = 0; page < count; page += step)
    pages.push_back(page);
  if (pages.back() != count - 1)
    pages.push_back(count - 1);
  return pages;
}

/// Compares the set's pages at `level` with what the reference makes of
/// `before`, [page of the sample][part].
static Status
checkPages(Pages &pages, WriteSet &set, int32_t level,
           std::vector<std::array<reference::PagePart, rt::kParts>> before) {
  std::vector<uint8_t> &memory = pages.memory;
  if (Status status = set.pool.memory().download(
          memory.data(), static_cast<int64_t>(memory.size()));
      !status.ok())
    return status;
  pages.setLevel(level);
  std::vector<size_t> chosen = sample(pages.entries.size());
  for (size_t i = 0; i < chosen.size(); ++i)
    for (Part part : {rt::kKey, rt::kValue}) {
      reference::PagePart &expected = before[i][part];
      if (Status status = reference::lowerPart(
              pages.problem.format[part], pages.problem.shape.headDim, level,
              expected,
              pages.problem.feedback.of(part, pages.headOf(chosen[i])));
          !status.ok())
        return status;
      if (!isSame(partOf(pages, chosen[i], part), expected))
        return {StatusCode::Internal,
                "page " + std::to_string(chosen[i]) +
                    " is not what the reference makes of it at level " +
                    std::to_string(level)};
    }
  return {};
}

//===----------------------------------------------------------------------===//
// Requantize
//===----------------------------------------------------------------------===//

static Status lowerOnce(const cuda::CacheWriters &writers,
                        const cuda::Stream &stream, const WriteSet &set,
                        int64_t count, int32_t from) {
  for (Part part : {rt::kKey, rt::kValue})
    if (Status status =
            writers.requantize(stream, set.arguments(part), count, part, from);
        !status.ok())
      return status;
  return {};
}

Result<Measurement> bench::measureRequantize(const cuda::DeviceRef &device,
                                             const DeviceCompiler &compiler,
                                             const Problem &problem) {
  Result<int32_t> level = oneLevel(problem, /*lowest=*/4);
  if (!level.ok())
    return level.status();
  const int32_t from = *level;
  Result<int64_t> counted = countPages(problem);
  if (!counted.ok())
    return counted.status();
  const int64_t count = *counted;
  Result<Pages> made = makePages(problem, count, /*areas=*/0, from);
  if (!made.ok())
    return made.status();
  Pages &pages = *made;
  if (from < 16) {
    // Parameters stay as they are; any finite ones do.
    DeviceImage image = pages.image();
    for (const rt::PageEntry &entry : pages.entries)
      for (Part part : {rt::kKey, rt::kValue})
        for (int64_t i = 0; i < rt::kPageTokens; ++i)
          for (Parameter which : {kMinimum, kRange})
            image.setParameter(entry, part, i, i % problem.shape.headDim, which,
                               static_cast<uint16_t>(0x3c00 + i));
  }
  Result<cuda::CacheWriters> writers =
      loadWriters(device, compiler, problem, /*positions=*/false);
  if (!writers.ok())
    return writers.status();
  Result<cuda::Stream> stream = cuda::Stream::create(device);
  if (!stream.ok())
    return stream.status();

  // What is read and written: codes of both parts, and parameters of level 16.
  int64_t blocks = int64_t{rt::kParts} * rt::blocksAtLevel(from);
  Measurement row;
  row.isAttention = false;
  row.device = "cuda";
  row.bytes = count * blocks * rt::blockBytes(problem.shape.headDim) * 3 / 2;
  if (from == 16)
    row.bytes += count * pages.layout.slotBytes;

  int64_t sets = setsOf(row.bytes);
  std::vector<WriteSet> all;
  for (int64_t i = 0; i < sets; ++i) {
    Result<WriteSet> set = makeSet(device, pages);
    if (!set.ok())
      return set.status();
    all.push_back(std::move(*set));
  }
  // The content, from which every set is restored before each round.
  Result<cuda::DeviceMemory> master = toDevice(device, pages.memory);
  if (!master.ok())
    return master.status();
  auto restore = [&]() -> Status {
    for (WriteSet &set : all)
      if (Status status = set.pool.memory().copyFromAsync(
              *stream, *master, set.pool.memory().bytes());
          !status.ok())
        return status;
    return {};
  };

  std::vector<std::array<reference::PagePart, rt::kParts>> before;
  for (size_t page : sample(pages.entries.size()))
    before.push_back(
        {partOf(pages, page, rt::kKey), partOf(pages, page, rt::kValue)});
  Status status = restore();
  if (status.ok())
    status = lowerOnce(*writers, *stream, all.front(), count, from);
  if (status.ok())
    status = stream->synchronize();
  if (status.ok())
    status = checkPages(pages, all.front(), from / 2, std::move(before));
  if (!status.ok())
    return status;

  Result<Timing> timing = timeGraph(
      *stream, sets, kRepeats,
      [&](int64_t launch) {
        return lowerOnce(*writers, *stream, all[static_cast<size_t>(launch)],
                         count, from);
      },
      restore);
  if (!timing.ok())
    return timing.status();
  row.attention = *timing;
  all.clear();
  Result<double> copy = timeCopy(*stream, row.bytes / 2, sets);
  if (!copy.ok())
    return copy.status();
  row.readMicroseconds = *copy;
  return row;
}

//===----------------------------------------------------------------------===//
// Append
//===----------------------------------------------------------------------===//

Result<Measurement> bench::measureAppend(const cuda::DeviceRef &device,
                                         const DeviceCompiler &compiler,
                                         const Problem &problem) {
  Result<int32_t> level = oneLevel(problem, /*lowest=*/2);
  if (!level.ok())
    return level.status();
  const int64_t headDim = problem.shape.headDim, rows = problem.shape.batch;
  const int64_t pairs = problem.pairs();
  Result<Pages> made = makePages(problem, pairs, /*areas=*/pairs, *level);
  if (!made.ok())
    return made.status();
  Pages &pages = *made;
  Result<cuda::CacheWriters> writers =
      loadWriters(device, compiler, problem, /*positions=*/true);
  if (!writers.ok())
    return writers.status();
  Result<cuda::Stream> stream = cuda::Stream::create(device);
  if (!stream.ok())
    return stream.status();
  Result<WriteSet> set = makeSet(device, pages);
  if (!set.ok())
    return set.status();

  // 128 steps of rows that follow the sink's.
  std::mt19937_64 random(99);
  std::normal_distribution<float> normal;
  auto floats = [&](int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float &value : values)
      value = normal(random);
    return toDevice(device, values);
  };
  std::vector<rt::AppendTask> tasks;
  for (int64_t step = 0; step < rt::kPageTokens; ++step)
    for (int64_t row = 0; row < rows; ++row)
      tasks.push_back(
          {static_cast<uint32_t>(
               pages.layout.fixedOffset(row * problem.shape.kvHeads, rt::kKey) /
               rt::kDeviceGrainBytes),
           static_cast<uint32_t>(kSinkTokens + step)});
  Result<cuda::DeviceMemory> places = toDevice(device, tasks);
  Result<cuda::DeviceMemory> inputs[] = {
      floats(pairs * headDim), floats(pairs * headDim),
      floats(rows * headDim / 2), floats(rows * headDim / 2)};
  if (!places.ok())
    return places.status();
  for (const Result<cuda::DeviceMemory> &input : inputs)
    if (!input.ok())
      return input.status();
  rt::AppendArgs args = {};
  args.codes = set->pool.memory().pointer();
  args.keys = inputs[0]->pointer<float>();
  args.values = inputs[1]->pointer<float>();
  args.cosines = inputs[2]->pointer<float>();
  args.sines = inputs[3]->pointer<float>();
  auto appendStep = [&](int64_t step) {
    args.tasks = places->pointer<rt::AppendTask>(
        step * rows * static_cast<int64_t>(sizeof(rt::AppendTask)));
    return writers->append(*stream, args, rows, problem.shape.kvHeads);
  };
  auto flushAll = [&]() -> Status {
    for (Part part : {rt::kKey, rt::kValue})
      if (Status status = writers->flush(*stream, set->arguments(part), pairs,
                                         part, *level);
          !status.ok())
        return status;
    return {};
  };

  // A page must be what the reference makes of the window.
  Status status;
  for (int64_t step = 0; status.ok() && step < rt::kPageTokens; ++step)
    status = appendStep(step);
  if (status.ok())
    status = flushAll();
  if (status.ok())
    status = stream->synchronize();
  if (status.ok())
    status =
        set->pool.memory().download(pages.memory.data(), pages.layout.bytes());
  if (!status.ok())
    return status;
  std::vector<std::array<reference::PagePart, rt::kParts>> windows;
  for (size_t page : sample(pages.entries.size())) {
    std::array<reference::PagePart, rt::kParts> window;
    for (Part part : {rt::kKey, rt::kValue}) {
      const uint8_t *area =
          pages.memory.data() +
          pages.layout.fixedOffset(static_cast<int64_t>(page), part);
      for (int64_t token = 0; token < rt::kPageTokens; ++token)
        for (int64_t dim = 0; dim < headDim; ++dim)
          window[part].values.push_back(DeviceImage::fixedValue(
              area, part, headDim, kSinkTokens + token, dim));
    }
    windows.push_back(std::move(window));
  }
  status = checkPages(pages, *set, *level, std::move(windows));
  if (!status.ok())
    return status;

  Measurement row;
  row.isAttention = false;
  row.device = "cuda";
  // A step reads rows of f32 and writes bf16; a 128th of the flush.
  row.bytes = pairs * rt::kParts * headDim * (4 + 2) +
              pairs * rt::kParts * headDim * 2 +
              pairs * headDim * rt::kParts * *level / 8;
  Result<Timing> timing =
      timeGraph(*stream, rt::kPageTokens + 1, kRepeats, [&](int64_t launch) {
        return launch < rt::kPageTokens ? appendStep(launch) : flushAll();
      });
  if (!timing.ok())
    return timing.status();
  row.attention = {timing->median * (rt::kPageTokens + 1) / rt::kPageTokens,
                   timing->spread * (rt::kPageTokens + 1) / rt::kPageTokens};
  Result<double> copy = timeCopy(*stream, row.bytes / 2, setsOf(row.bytes));
  if (!copy.ok())
    return copy.status();
  row.readMicroseconds = *copy;
  return row;
}
