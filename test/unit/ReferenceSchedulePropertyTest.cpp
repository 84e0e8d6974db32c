//===- ReferenceSchedulePropertyTest.cpp - Schedules at random ------------===//
//
// What must hold of every schedule for random geometries, budgets and lengths,
// stated without the planner's own arithmetic.  Neighbours:
// lib/Reference/Planner.cpp and Cache.cpp; ReferencePlannerTest.cpp and
// ReferenceLayerScheduleTest.cpp (the same by hand).
//
// A failure names its trial; the trial's number is its seed.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <tuple>

using namespace pmkvq::reference;
using pmkvq::rt::StatusCode;

namespace {

//===----------------------------------------------------------------------===//
// Bytes, written out
//===----------------------------------------------------------------------===//

/// Bits of a part of a page-head.
int32_t bitsOf(const Schedule &schedule, int32_t level, int part) {
  int32_t bits = level == kApart ? (part == 0 ? 4 : 2) : level;
  return std::max(bits, schedule.floor[part]);
}

/// One page-head: codes of 128 tokens, and parameters, of both parts.
int64_t bytesOfPageHead(const CacheShape &shape, const Schedule &schedule,
                        int32_t level) {
  int64_t bytes = 0;
  for (int part = 0; part < 2; ++part)
    bytes += shape.parameterBytes[part] +
             128 * shape.headDim * bitsOf(schedule, level, part) / 8;
  return bytes;
}

/// Sinks, windows and page tables of one layer.
int64_t fixedBytesOfLayer(const CacheShape &shape) {
  int64_t pages = 0;
  while (shape.sinkTokens + 128 * (pages + 1) < shape.maxTokens)
    ++pages;
  return shape.sequences * shape.kvHeads *
         ((shape.sinkTokens + 128) * int64_t(shape.headDim) * 4 + pages * 72);
}

int64_t bytesOfLayer(const CacheShape &shape, const Schedule &schedule,
                     const PageLevels &levels, int32_t layer) {
  int64_t bytes = fixedBytesOfLayer(shape);
  for (int32_t s = 0; s < levels.sequences(); ++s)
    for (int64_t p = 0; p < levels.pages(s); ++p)
      for (int32_t h = 0; h < levels.kvHeads(); ++h)
        bytes += bytesOfPageHead(shape, schedule, levels.at(s, p, layer, h));
  return bytes;
}

int64_t bytesOfAll(const CacheShape &shape, const Schedule &schedule,
                   const PageLevels &levels) {
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < shape.layers; ++layer)
    bytes += bytesOfLayer(shape, schedule, levels, layer);
  return bytes;
}

/// All pages at the floor.
int64_t bytesOfAllAtFloor(const CacheShape &shape, const Schedule &schedule,
                          const PageLevels &levels) {
  int64_t pages = 0;
  for (int32_t s = 0; s < levels.sequences(); ++s)
    pages += levels.pages(s);
  int64_t pageHead = bytesOfPageHead(shape, schedule, 2);
  return shape.layers *
         (fixedBytesOfLayer(shape) + pages * shape.kvHeads * pageHead);
}

//===----------------------------------------------------------------------===//
// Invariants of one plan
//===----------------------------------------------------------------------===//

std::vector<int32_t> levelsOf(ScheduleKind kind) {
  if (kind == ScheduleKind::KeysLast)
    return {16, 8, 4, kApart, 2};
  return {16, 8, 4, 2};
}

bool isByPage(ScheduleKind kind) {
  return kind == ScheduleKind::Page || kind == ScheduleKind::KeysLast;
}

/// One step to the next level: what the policy's order sorts by, earliest
/// first.
struct Halving {
  int32_t from;
  int64_t page;
  int32_t sequence, layer, head;

  bool operator<(const Halving &other) const {
    return std::tuple(-from, page, sequence, layer, head) <
           std::tuple(-other.from, other.page, other.sequence, other.layer,
                      other.head);
  }
};

/// All halvings that lead from `high` to `low`, for every page-head.
std::vector<Halving> halvings(ScheduleKind kind, const PageLevels &high,
                              const PageLevels &low) {
  std::vector<Halving> result;
  for (int32_t s = 0; s < low.sequences(); ++s)
    for (int64_t p = 0; p < low.pages(s); ++p)
      for (int32_t l = 0; l < low.layers(); ++l)
        for (int32_t h = 0; h < low.kvHeads(); ++h)
          for (int32_t from : levelsOf(kind))
            if (from <= high.at(s, p, l, h) && from > low.at(s, p, l, h))
              result.push_back({from, p, s, l, h});
  return result;
}

PageLevels allAt(PageLevels levels, int32_t level) {
  for (int32_t s = 0; s < levels.sequences(); ++s)
    for (int64_t p = 0; p < levels.pages(s); ++p)
      for (int32_t l = 0; l < levels.layers(); ++l)
        for (int32_t h = 0; h < levels.kvHeads(); ++h)
          levels.at(s, p, l, h) = level;
  return levels;
}

/// Levels are on the ladder, not below the floor, and have not risen.
void expectOnlyFalls(const Schedule &schedule, const PageLevels &before,
                     const PageLevels &after) {
  const std::vector<int32_t> ladder = levelsOf(schedule.kind);
  for (int32_t s = 0; s < after.sequences(); ++s)
    for (int64_t p = 0; p < after.pages(s); ++p)
      for (int32_t l = 0; l < after.layers(); ++l)
        for (int32_t h = 0; h < after.kvHeads(); ++h) {
          int32_t level = after.at(s, p, l, h);
          ASSERT_EQ(std::count(ladder.begin(), ladder.end(), level), 1);
          ASSERT_LE(level, before.at(s, p, l, h));
          ASSERT_GE(level, std::min(schedule.floor[0], schedule.floor[1]));
        }
}

/// The halvings made are the first ones of the policy's order, and without the
/// last of them the whole would not fit.
void expectMinimal(const CacheShape &shape, const Schedule &schedule,
                   const PageLevels &before, const PageLevels &after) {
  std::vector<Halving> made = halvings(schedule.kind, before, after);
  if (made.empty())
    return;
  Halving last = *std::max_element(made.begin(), made.end());
  for (const Halving &left : halvings(schedule.kind, after, allAt(after, 2)))
    if (left.from > std::min(schedule.floor[0], schedule.floor[1])) {
      ASSERT_LT(last, left) << "out of order";
    }
  PageLevels without = after;
  without.at(last.sequence, last.page, last.layer, last.head) = last.from;
  ASSERT_GT(bytesOfAll(shape, schedule, without), schedule.budgetBytes)
      << "a halving too many";
}

/// The one level of a layer; nothing if it has no pages.
std::optional<int32_t> levelOfLayer(const PageLevels &levels, int32_t layer) {
  std::optional<int32_t> level;
  for (int32_t s = 0; s < levels.sequences(); ++s)
    for (int64_t p = 0; p < levels.pages(s); ++p)
      for (int32_t h = 0; h < levels.kvHeads(); ++h) {
        int32_t own = levels.at(s, p, layer, h);
        EXPECT_EQ(own, level.value_or(own)) << "mixed levels in a layer";
        level = own;
      }
  return level;
}

/// Every layer has one level, the highest that fits its share and does not
/// raise its older pages.
void expectLayersTogether(const CacheShape &shape, const Schedule &schedule,
                          const PageLevels &old, const PageLevels &after) {
  int64_t share = schedule.budgetBytes / shape.layers;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    ASSERT_LE(bytesOfLayer(shape, schedule, after, layer), share);
    std::optional<int32_t> level = levelOfLayer(after, layer);
    int32_t previous = levelOfLayer(old, layer).value_or(16);
    if (!level || *level == previous)
      continue;
    ASSERT_LT(*level, previous);
    PageLevels higher = allAt(after, *level * 2);
    ASSERT_GT(bytesOfLayer(shape, schedule, higher, layer), share)
        << "a layer fell too far";
  }
}

/// Everything that must hold of a plan.  `old`: before the step; `before`: with
/// its new pages; `after`: planned.
void checkPlan(const CacheShape &shape, const Schedule &schedule,
               const PageLevels &old, const PageLevels &before,
               const PageLevels &after, const PlanResult &plan) {
  int64_t floorBytes = bytesOfAllAtFloor(shape, schedule, before);
  ASSERT_EQ(plan.missingBytes,
            std::max<int64_t>(0, floorBytes - schedule.budgetBytes));
  if (!plan.fits()) {
    ASSERT_EQ(plan.bytes, floorBytes);
    ASSERT_TRUE(halvings(schedule.kind, before, after).empty())
        << "a refusal left a trace";
    return;
  }
  ASSERT_EQ(plan.bytes, bytesOfAll(shape, schedule, after));
  ASSERT_EQ(plan.bytes, totalBytes(shape, schedule, after));
  ASSERT_LE(plan.bytes, schedule.budgetBytes);
  expectOnlyFalls(schedule, before, after);
  if (isByPage(schedule.kind))
    expectMinimal(shape, schedule, before, after);
  if (schedule.kind == ScheduleKind::Layer)
    expectLayersTogether(shape, schedule, old, after);
  if (schedule.kind == ScheduleKind::None) {
    ASSERT_TRUE(halvings(schedule.kind, before, after).empty());
  }
}

//===----------------------------------------------------------------------===//
// Trials
//===----------------------------------------------------------------------===//

class Random {
public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  /// low .. high
  int32_t pick(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(engine_() % (high - low + 1));
  }
  int32_t level() { return 2 << pick(0, 3); }
  template <typename T> T oneOf(const std::vector<T> &choices) {
    return choices[pick(0, static_cast<int32_t>(choices.size()) - 1)];
  }
  /// A bf16 value of about 1.
  float value() {
    return roundToBf16(std::normal_distribution<float>()(engine_));
  }

private:
  std::mt19937 engine_;
};

/// What a run of trials met: a test whose trials never reach a case is vacuous.
struct Met {
  int64_t refused = 0, lowered = 0, untouched = 0, mixed = 0;
};

Schedule randomSchedule(Random &random, ScheduleKind kind) {
  Schedule schedule;
  schedule.kind = kind;
  schedule.floor = {random.level(), random.level()};
  return schedule;
}

/// A budget between a little too small for these lengths at the floor and a
/// little more than level 16 takes; small ones more often, and every fourth one
/// that all pages at one level meet exactly.
int64_t randomBudget(Random &random, const CacheShape &shape,
                     const Schedule &schedule,
                     const std::vector<int64_t> &tokens) {
  if (random.pick(0, 3) == 0) {
    Schedule fixed = schedule;
    int32_t level = random.level();
    for (int32_t &floor : fixed.floor)
      floor = std::max(floor, level);
    return bytesAtFloor(shape, fixed, tokens);
  }
  Schedule highest = schedule;
  highest.floor = {16, 16};
  auto low = static_cast<double>(bytesAtFloor(shape, schedule, tokens)) * 0.95;
  auto high = static_cast<double>(bytesAtFloor(shape, highest, tokens)) * 1.02;
  double where = random.pick(0, 1000) / 1000.0;
  return std::max<int64_t>(
      1, static_cast<int64_t>(low + (high - low) * where * where));
}

CacheShape randomShape(Random &random, int32_t largest) {
  CacheShape shape;
  shape.layers = random.pick(1, largest);
  shape.sequences = random.pick(1, largest);
  shape.kvHeads = random.pick(1, largest);
  shape.headDim = random.oneOf<int32_t>({64, 80, 96, 128, 256});
  shape.sinkTokens = random.pick(0, 5);
  return shape;
}

class ReferenceScheduleProperty : public testing::TestWithParam<ScheduleKind> {
};

std::string nameOf(const testing::TestParamInfo<ScheduleKind> &info) {
  switch (info.param) {
  case ScheduleKind::None:
    return "None";
  case ScheduleKind::Page:
    return "Page";
  case ScheduleKind::KeysLast:
    return "KeysLast";
  case ScheduleKind::Layer:
    return "Layer";
  }
  return "";
}

INSTANTIATE_TEST_SUITE_P(Kinds, ReferenceScheduleProperty,
                         testing::Values(ScheduleKind::None, ScheduleKind::Page,
                                         ScheduleKind::KeysLast,
                                         ScheduleKind::Layer),
                         nameOf);

bool isEqual(const PageLevels &a, const PageLevels &b) {
  const ScheduleKind finest = ScheduleKind::KeysLast;
  return halvings(finest, a, b).empty() && halvings(finest, b, a).empty();
}

bool isMixed(const PageLevels &levels) {
  if (levels.pages(0) == 0)
    return false;
  int32_t first = levels.at(0, 0, 0, 0);
  return !isEqual(levels, allAt(levels, first));
}

/// Adds pages to random sequences, as steps do, until all are at the end or a
/// plan is refused.
void runPlannerTrial(Random &random, ScheduleKind kind, Met &met) {
  CacheShape shape = randomShape(random, 4);
  shape.parameterBytes = {4 * random.oneOf<int32_t>({shape.headDim, 128}),
                          4 * random.oneOf<int32_t>({shape.headDim, 128})};
  std::vector<int64_t> pagesLeft(shape.sequences), tokens;
  for (int64_t &pages : pagesLeft) {
    pages = random.pick(0, 9);
    tokens.push_back(shape.sinkTokens + 128 * (pages + 1));
  }
  shape.maxTokens = *std::max_element(tokens.begin(), tokens.end());
  Schedule schedule = randomSchedule(random, kind);
  schedule.budgetBytes = randomBudget(random, shape, schedule, tokens);

  PageLevels levels(shape);
  while (std::count(pagesLeft.begin(), pagesLeft.end(), 0) <
         static_cast<int64_t>(pagesLeft.size())) {
    PageLevels old = levels;
    for (int32_t s = 0; s < shape.sequences; ++s)
      if (pagesLeft[s] > 0 && random.pick(0, 1)) {
        levels.addPage(s, initialLevel(schedule));
        --pagesLeft[s];
      }
    PageLevels before = levels;
    PlanResult plan = planLevels(shape, schedule, levels);
    checkPlan(shape, schedule, old, before, levels, plan);
    if (testing::Test::HasFatalFailure())
      return;
    met.refused += !plan.fits();
    if (!plan.fits())
      return;
    bool lowered = !isEqual(before, levels);
    ++(lowered ? met.lowered : met.untouched);
    met.mixed += isMixed(levels);
  }
}

TEST_P(ReferenceScheduleProperty, HoldsOfEveryPlan) {
  Met met;
  for (uint32_t trial = 0; trial < 600; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    Random random(trial);
    runPlannerTrial(random, GetParam(), met);
    if (HasFailure())
      return;
  }
  EXPECT_GT(met.refused, 30);
  EXPECT_GT(met.untouched, 300);
  if (GetParam() == ScheduleKind::None)
    return;
  EXPECT_GT(met.lowered, 300);
  if (isByPage(GetParam())) {
    EXPECT_GT(met.mixed, 300);
  } else {
    EXPECT_EQ(met.mixed, 0) << "equal layers have equal levels";
  }
}

//===----------------------------------------------------------------------===//
// Whole caches
//===----------------------------------------------------------------------===//

/// The keys of layer 0 and kv head 0 that a sequence was given, bf16.
using History = std::vector<std::vector<uint16_t>>;

/// A random step: some sequences, some tokens each.
struct Step {
  std::vector<std::vector<float>> keys;
  std::vector<SequenceTokens> tokens;
};

Step randomStep(Random &random, const Cache &cache) {
  Step step;
  const CacheShape &shape = cache.shape();
  step.keys.resize(shape.sequences);
  for (int32_t s = 0; s < shape.sequences; ++s) {
    int64_t most = std::min(cache.room(s), shape.maxTokens - cache.tokens(s));
    if (most == 0 || random.pick(0, 2) == 0)
      continue;
    int64_t tokens =
        random.pick(0, 1) ? most : random.pick(1, static_cast<int32_t>(most));
    step.keys[s].resize(int64_t(shape.layers) * shape.kvHeads * tokens *
                        shape.headDim);
    for (float &value : step.keys[s])
      value = random.value();
    step.tokens.push_back(
        {s, tokens, step.keys[s].data(), step.keys[s].data()});
  }
  return step;
}

/// Where the cache is after a step by the planner alone.
PlanResult planStep(const Cache &cache, const Step &step, PageLevels &levels) {
  const CacheShape &shape = cache.shape();
  for (const SequenceTokens &part : step.tokens)
    if (pagesForTokens(shape.sinkTokens,
                       cache.tokens(part.sequence) + part.tokens) >
        levels.pages(part.sequence))
      levels.addPage(part.sequence, initialLevel(cache.schedule()));
  return planLevels(shape, cache.schedule(), levels);
}

/// Both parts of every page are at the planned level, or at their floor.
void expectPartsAtLevels(const Cache &cache, const PageLevels &planned) {
  const CacheShape &shape = cache.shape();
  for (int32_t s = 0; s < shape.sequences; ++s) {
    ASSERT_EQ(cache.pages(s), planned.pages(s));
    for (int64_t p = 0; p < planned.pages(s); ++p)
      for (int32_t l = 0; l < shape.layers; ++l)
        for (int32_t h = 0; h < shape.kvHeads; ++h)
          for (int part = 0; part < 2; ++part)
            ASSERT_EQ(cache.page(l, s, h, p)[part].level,
                      bitsOf(cache.schedule(), planned.at(s, p, l, h), part));
  }
}

/// However its level was reached, a page holds what lowering at once gives.
void expectPagesOfHistory(const Cache &cache, const History &history) {
  const CacheShape &shape = cache.shape();
  for (int32_t s = 0; s < shape.sequences; ++s)
    for (int64_t p = 0; p < cache.pages(s); ++p) {
      const PagePart &actual = cache.page(0, s, 0, p)[0];
      PagePart expected;
      auto begin = history[s].begin() +
                   (shape.sinkTokens + 128 * p) * int64_t(shape.headDim);
      expected.values.assign(begin, begin + 128 * int64_t(shape.headDim));
      ASSERT_TRUE(
          lowerPart(cache.format(0), shape.headDim, actual.level, expected)
              .ok());
      ASSERT_EQ(actual.values, expected.values);
      ASSERT_EQ(actual.codes, expected.codes);
      ASSERT_EQ(actual.minimum, expected.minimum);
      ASSERT_EQ(actual.range, expected.range);
    }
}

void remember(const CacheShape &shape, const Step &step, History &history) {
  for (const SequenceTokens &part : step.tokens)
    for (int64_t i = 0; i < part.tokens * shape.headDim; ++i)
      history[part.sequence].push_back(floatToBf16(part.keys[i]));
}

CacheOptions randomCache(Random &random, ScheduleKind kind) {
  CacheOptions options;
  options.shape = randomShape(random, 2);
  for (UniformFormat &format : options.formats) {
    format.axis = random.oneOf<Axis>({Axis::PerChannel, Axis::PerToken});
    format.clip = random.oneOf<double>({0.8, 1.0});
  }
  options.schedule = randomSchedule(random, kind);
  options.shape.maxTokens = random.pick(1, 800);
  CacheShape complete = options.shape;
  for (int part = 0; part < 2; ++part)
    complete.parameterBytes[part] = static_cast<int32_t>(
        parameterBytes(options.formats[part], complete.headDim));
  std::vector<int64_t> tokens(complete.sequences, complete.maxTokens);
  options.schedule.budgetBytes =
      randomBudget(random, complete, options.schedule, tokens);
  return options;
}

void runCacheTrial(Random &random, ScheduleKind kind, Met &met) {
  CacheOptions options = randomCache(random, kind);
  std::unique_ptr<Cache> cache;
  StepResult created = Cache::create(options, cache);
  if (!created.status.ok()) {
    ASSERT_EQ(created.status.code(), StatusCode::OutOfMemory);
    ASSERT_GT(created.missingBytes, 0);
    ++met.refused;
    return;
  }
  History history(options.shape.sequences);
  for (int round = 0; round < 30; ++round) {
    Step step = randomStep(random, *cache);
    PageLevels planned = cache->levels(), old = planned;
    PlanResult plan = planStep(*cache, step, planned);
    StepResult result = cache->append(step.tokens);
    ASSERT_EQ(result.status.code(),
              plan.fits() ? StatusCode::Ok : StatusCode::OutOfMemory);
    ASSERT_EQ(result.missingBytes, plan.missingBytes);
    if (!plan.fits()) {
      expectPartsAtLevels(*cache, old);
      expectPagesOfHistory(*cache, history);
      ++met.refused;
      return;
    }
    remember(options.shape, step, history);
    expectPartsAtLevels(*cache, planned);
    ASSERT_EQ(cache->bytes(),
              bytesOfAll(cache->shape(), options.schedule, planned));
    ASSERT_LE(cache->bytes(), options.schedule.budgetBytes);
  }
  expectPagesOfHistory(*cache, history);
  met.mixed += isMixed(cache->levels());
}

TEST_P(ReferenceScheduleProperty, HoldsOfEveryStepOfACache) {
  Met met;
  for (uint32_t trial = 0; trial < 60; ++trial) {
    SCOPED_TRACE("trial " + std::to_string(trial));
    Random random(trial);
    runCacheTrial(random, GetParam(), met);
    if (HasFailure())
      return;
  }
  EXPECT_GT(met.refused, 2);
  if (isByPage(GetParam())) {
    EXPECT_GT(met.mixed, 10);
  } else {
    EXPECT_EQ(met.mixed, 0);
  }
}

} // namespace
