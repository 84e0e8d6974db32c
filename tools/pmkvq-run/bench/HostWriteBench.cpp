//===- HostWriteBench.cpp - Lowering pages, measured on the CPU -----------===//
//
// Neighbours: HostWriteBench.h has the method.
//
//===----------------------------------------------------------------------===//

#include "HostWriteBench.h"
#include "HostMemory.h"
#include "Memory.h"
#include "PagePart.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq_rt/Arena.h"
#include "pmkvq_rt/Launch.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
using rt::Part;
using rt::Result;
using rt::Status;
using rt::StatusCode;

namespace {
/// Pages of one level in random order; a page's blocks lie together, as the
/// pool gives them.
struct HostPages {
  Problem problem;
  int32_t level = 16;
  int64_t blocks = 0;
  int64_t slotBytes = 0;
  std::vector<rt::PageEntry> entries;
  std::vector<rt::PageTask> tasks;
  /// Blocks, then slots.
  std::vector<uint8_t> content;

  int64_t count() const { return static_cast<int64_t>(entries.size()); }
  int64_t slotOffset() const {
    return blocks * rt::blockBytes(problem.shape.headDim);
  }
  /// Codes of both parts.
  int64_t sourceBytes() const { return slotOffset(); }
  int64_t bytes() const { return slotOffset() + count() * slotBytes; }
  HostImage image(uint8_t *memory) const {
    return {problem.image(), memory, memory + slotOffset()};
  }
};

using PageParts = std::vector<std::array<reference::PagePart, rt::kParts>>;
} // namespace

static void placeHostPages(HostPages &pages, std::mt19937_64 &random) {
  std::vector<uint32_t> order(pages.entries.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  const auto perPart = static_cast<uint32_t>(rt::blocksAtLevel(pages.level));
  for (size_t i = 0; i < pages.entries.size(); ++i) {
    rt::PageEntry &entry = pages.entries[i];
    entry = {};
    entry.slot = order[i];
    for (Part part : {rt::kKey, rt::kValue}) {
      entry.level[part] = static_cast<uint8_t>(pages.level);
      for (uint32_t b = 0; b < perPart; ++b)
        entry.blocks[part][b] = (order[i] * rt::kParts + part) * perPart + b;
    }
    pages.tasks.push_back({0, 0, 0, static_cast<int32_t>(i)});
  }
}

/// Codes of level 16 are values, others random; parameters are finite.
static void fillHostPages(HostPages &pages, std::mt19937_64 &random) {
  std::normal_distribution<float> normal;
  std::vector<uint16_t> drawn((1 << 16) + 9);
  for (uint16_t &value : drawn)
    value = pages.level == 16 ? reference::floatToBf16(normal(random))
                              : static_cast<uint16_t>(random());
  auto end = static_cast<size_t>(pages.slotOffset());
  for (size_t at = 0, i = 0; at < end; at += 2, ++i)
    std::memcpy(&pages.content[at], &drawn[i % drawn.size()], 2);
  constexpr uint16_t one = 0x3c00;
  for (size_t at = end; at + 2 <= pages.content.size(); at += 2)
    std::memcpy(&pages.content[at], &one, 2);
}

static Result<HostPages> makeHostPages(const Problem &problem) {
  Result<int32_t> level = oneLevel(problem, /*lowest=*/4);
  if (!level.ok())
    return level.status();
  HostPages pages;
  pages.problem = problem;
  pages.level = *level;
  Result<int64_t> counted = countPages(problem);
  if (!counted.ok())
    return counted.status();
  const int64_t count = *counted;
  pages.slotBytes = HostImage(problem.image(), nullptr, nullptr).slotBytes();
  pages.blocks = count * rt::kParts * rt::blocksAtLevel(*level);
  int64_t bytes = pages.slotOffset() + count * pages.slotBytes;
  // Sets that take turns, as many bytes to copy to, and the content.
  if (Status s = checkMemory("the pages",
                             (2 * setsOf(pages.sourceBytes()) + 1) * bytes);
      !s.ok())
    return s;
  pages.entries.resize(static_cast<size_t>(count));
  pages.content.resize(static_cast<size_t>(bytes));
  std::mt19937_64 random(4321);
  placeHostPages(pages, random);
  fillHostPages(pages, random);
  return pages;
}

/// Lowers all pages of the set at `memory`.
static Status lowerSet(rt::ThreadPool &threads, const HostKernels &kernels,
                       HostPages &pages, uint8_t *memory) {
  rt::CacheView view = {memory,
                        memory + pages.slotOffset(),
                        pages.entries.data(),
                        nullptr,
                        pages.count(),
                        pages.problem.feedback.table.data()};
  void *operands[] = {&view, pages.tasks.data()};
  rt::nameTasksAhead(pages.tasks.data(), pages.count(), threads.threads());
  for (Part part : {rt::kKey, rt::kValue}) {
    rt::KernelFn kernel =
        kernels.requantize[part][rt::ladderIndex(pages.level)];
    if (!kernel)
      return {StatusCode::Internal, "the compiled layer does not requantize"};
    rt::LaunchResult done =
        rt::launch(threads, kernel, operands, pages.count());
    if (done.status != rt::kKernelOk)
      return {StatusCode::Internal, "requantizing fails with kernel status " +
                                        std::to_string(done.status)};
  }
  return {};
}

//===----------------------------------------------------------------------===//
// Checks
//===----------------------------------------------------------------------===//

static PageParts readSample(HostPages &pages, uint8_t *memory) {
  PageParts parts;
  const auto last = pages.entries.size() - 1;
  const size_t step = std::max<size_t>(1, last / 7);
  for (size_t page = 0; page <= last; page += step) {
    parts.emplace_back();
    for (Part part : {rt::kKey, rt::kValue})
      parts.back()[part] =
          readPart(pages.image(memory), pages.entries[page], part,
                   pages.problem.format[part], pages.problem.shape.headDim);
  }
  return parts;
}

/// Lowers one set and compares it with what the reference makes of it.
static Status checkLowering(rt::ThreadPool &threads, const HostKernels &kernels,
                            HostPages &pages) {
  std::vector<uint8_t> memory = pages.content;
  PageParts expected = readSample(pages, memory.data());
  if (Status s = lowerSet(threads, kernels, pages, memory.data()); !s.ok())
    return s;
  const int32_t level = pages.level / 2;
  auto setLevels = [&](int32_t to) {
    for (rt::PageEntry &entry : pages.entries)
      for (uint8_t &of : entry.level)
        of = static_cast<uint8_t>(to);
  };
  setLevels(level);
  PageParts actual = readSample(pages, memory.data());
  setLevels(pages.level);
  for (size_t i = 0; i < expected.size(); ++i)
    for (Part part : {rt::kKey, rt::kValue}) {
      reference::PagePart &want = expected[i][part];
      const reference::PagePart &got = actual[i][part];
      if (Status s = reference::lowerPart(
              pages.problem.format[part], pages.problem.shape.headDim, level,
              want, pages.problem.feedback.of(part, 0));
          !s.ok())
        return s;
      if (got.codes != want.codes || got.minimum != want.minimum ||
          got.range != want.range)
        return {StatusCode::Internal,
                "sampled page " + std::to_string(i) +
                    " is not what the reference makes of it at level " +
                    std::to_string(level)};
    }
  return {};
}

//===----------------------------------------------------------------------===//
// Times
//===----------------------------------------------------------------------===//

/// Times rounds over all sets, each after `prepare`; a set's share.
static Result<Timing> timeRounds(int64_t sets,
                                 const std::function<void(int64_t)> &prepare,
                                 const std::function<Status(int64_t)> &work) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  for (int32_t i = -kWarmUps; i < kRepeats; ++i) {
    for (int64_t set = 0; set < sets; ++set)
      prepare(set);
    Clock::time_point begin = Clock::now();
    for (int64_t set = 0; set < sets; ++set)
      if (Status s = work(set); !s.ok())
        return s;
    if (i >= 0)
      times.push_back(
          std::chrono::duration<double, std::micro>(Clock::now() - begin)
              .count());
  }
  return summarize(std::move(times), sets);
}

Result<Measurement> bench::measureHostRequantize(rt::ThreadPool &threads,
                                                 const HostKernels &kernels,
                                                 const Problem &problem) {
  Result<HostPages> pages = makeHostPages(problem);
  if (!pages.ok())
    return pages.status();
  if (Status s = checkLowering(threads, kernels, *pages); !s.ok())
    return s;
  const int64_t sets = setsOf(pages->sourceBytes());
  Result<rt::Arena> memory = rt::Arena::reserve(sets * pages->bytes());
  if (!memory.ok())
    return memory.status();
  Result<rt::Arena> copies = rt::Arena::reserve(sets * pages->bytes());
  if (!copies.ok())
    return copies.status();
  auto at = [&](const rt::Arena &arena, int64_t set) {
    return arena.data() + set * pages->bytes();
  };
  auto prepare = [&](int64_t set) {
    std::memcpy(at(*memory, set), pages->content.data(), pages->content.size());
  };
  Result<Timing> lowering = timeRounds(sets, prepare, [&](int64_t set) {
    return lowerSet(threads, kernels, *pages, at(*memory, set));
  });
  if (!lowering.ok())
    return lowering.status();
  Result<Timing> copying = timeRounds(
      sets, [](int64_t) {},
      [&](int64_t set) {
        copyBytes(threads, at(*copies, set), at(*memory, set),
                  pages->sourceBytes());
        return Status();
      });
  if (!copying.ok())
    return copying.status();
  Measurement row;
  row.isAttention = false;
  row.device = "cpu";
  row.attention = *lowering;
  row.bytes = pages->sourceBytes();
  row.readMicroseconds = copying->median;
  return row;
}
