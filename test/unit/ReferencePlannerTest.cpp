//===- ReferencePlannerTest.cpp - Bytes and levels ------------------------===//
//
// Byte accounting and the order of lowering, by hand and against a search that
// follows the rule word by word.  Neighbours: lib/Reference/Planner.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <tuple>

using namespace pmkvq::reference;

namespace {

constexpr int64_t kKiB = 1024;

CacheShape singleHead(int64_t maxTokens) {
  CacheShape shape;
  shape.maxTokens = maxTokens;
  shape.parameterBytes = {2 * 2 * 128, 2 * 2 * 128};
  return shape;
}

/// The small reasoner: 6 layers, 2 kv heads of 128, 3,074 cached tokens.
CacheShape reasoner() {
  CacheShape shape = singleHead(3074);
  shape.layers = 6;
  shape.kvHeads = 2;
  return shape;
}

constexpr int64_t kReasonerTables = 6 * 2 * 24 * 72;

std::vector<int32_t> levelsOf(const PageLevels &levels, int32_t sequence) {
  std::vector<int32_t> result;
  for (int64_t page = 0; page < levels.pages(sequence); ++page)
    for (int32_t layer = 0; layer < levels.layers(); ++layer)
      for (int32_t head = 0; head < levels.kvHeads(); ++head)
        result.push_back(levels.at(sequence, page, layer, head));
  return result;
}

//===----------------------------------------------------------------------===//
// Bytes
//===----------------------------------------------------------------------===//

TEST(ReferencePlannerBytes, PagesAppearOneTokenAfterAFullWindow) {
  EXPECT_EQ(pagesForTokens(1, 0), 0);
  EXPECT_EQ(pagesForTokens(1, 129), 0);
  EXPECT_EQ(pagesForTokens(1, 130), 1);
  EXPECT_EQ(pagesForTokens(1, 257), 1);
  EXPECT_EQ(pagesForTokens(1, 258), 2);
  EXPECT_EQ(pagesForTokens(0, 129), 1);
  EXPECT_EQ(pagesForTokens(1, 3074), 24);
}

TEST(ReferencePlannerBytes, CountsEverythingOfOneHead) {
  CacheShape shape = singleHead(258);
  shape.sinkTokens = 1;
  Schedule schedule;
  // K and V of 129 bf16 tokens, and two table entries.
  EXPECT_EQ(fixedBytes(shape), 2 * 129 * 128 * 2 + 2 * 72);
  EXPECT_EQ(pageHeadBytes(shape, schedule, 16), 64 * kKiB + kKiB);
  EXPECT_EQ(pageHeadBytes(shape, schedule, 2), 8 * kKiB + kKiB);
  PageLevels levels(shape);
  levels.addPage(0, 16);
  levels.addPage(0, 4);
  EXPECT_EQ(totalBytes(shape, schedule, levels),
            fixedBytes(shape) + 65 * kKiB + 17 * kKiB);
}

TEST(ReferencePlannerBytes, ScalesWithLayersSequencesAndHeads) {
  CacheShape one = singleHead(1000), many = one;
  many.layers = 3;
  many.sequences = 5;
  many.kvHeads = 2;
  EXPECT_EQ(fixedBytes(many), 30 * fixedBytes(one));
}

TEST(ReferencePlannerBytes, ReasonerAtTheFloorIsTheDesignsFigure) {
  int64_t bytes = bytesAtFloor(reasoner(), {}, {3074});
  EXPECT_EQ(bytes - kReasonerTables, 3366 * kKiB);
}

//===----------------------------------------------------------------------===//
// Levels
//===----------------------------------------------------------------------===//

// The example of Planner.h: room for 24 blocks of 4 KiB, and three slots.
TEST(ReferencePlanner, WorkedExample) {
  CacheShape shape = singleHead(1 + 128 * 4);
  Schedule schedule;
  schedule.budgetBytes = fixedBytes(shape) + 24 * 4 * kKiB + 3 * kKiB;
  PageLevels levels(shape);
  std::vector<std::vector<int32_t>> expected = {{16}, {8, 16}, {8, 8, 8}};
  for (const std::vector<int32_t> &after : expected) {
    levels.addPage(0, initialLevel(schedule));
    PlanResult plan = planLevels(shape, schedule, levels);
    EXPECT_TRUE(plan.fits());
    EXPECT_EQ(plan.bytes, totalBytes(shape, schedule, levels));
    EXPECT_EQ(levelsOf(levels, 0), after);
  }
}

// Two sequences of unequal length, two layers, two heads: the order is page,
// sequence, layer, head.
TEST(ReferencePlanner, LowersOldestPageThenSequenceLayerHead) {
  CacheShape shape = singleHead(1000);
  shape.layers = shape.sequences = shape.kvHeads = 2;
  Schedule schedule;
  PageLevels all(shape);
  all.addPage(0, 16);
  all.addPage(1, 16);
  all.addPage(1, 16);
  int64_t halving = 8 * 4 * kKiB;
  int64_t bytes = totalBytes(shape, schedule, all);
  std::vector<std::tuple<int, int, int, int>> order = {
      {0, 0, 0, 0}, {0, 0, 0, 1}, {0, 0, 1, 0}, {0, 0, 1, 1},
      {0, 1, 0, 0}, {0, 1, 0, 1}, {0, 1, 1, 0}, {0, 1, 1, 1},
      {1, 1, 0, 0}, {1, 1, 0, 1}, {1, 1, 1, 0}, {1, 1, 1, 1}};
  for (size_t lowered = 1; lowered <= order.size(); ++lowered) {
    PageLevels levels = all;
    // One byte less than what lowering fewer would reach.
    schedule.budgetBytes = bytes - int64_t(lowered - 1) * halving - 1;
    ASSERT_TRUE(planLevels(shape, schedule, levels).fits());
    for (size_t i = 0; i < order.size(); ++i) {
      auto [page, sequence, layer, head] = order[i];
      EXPECT_EQ(levels.at(sequence, page, layer, head), i < lowered ? 8 : 16);
    }
  }
}

TEST(ReferencePlanner, KeepsABudgetThatIsMetExactly) {
  CacheShape shape = singleHead(500);
  Schedule schedule;
  PageLevels levels(shape);
  levels.addPage(0, 16);
  schedule.budgetBytes = totalBytes(shape, schedule, levels);
  EXPECT_TRUE(planLevels(shape, schedule, levels).fits());
  EXPECT_EQ(levels.at(0, 0, 0, 0), 16);
  schedule.budgetBytes = 0; // no limit
  EXPECT_TRUE(planLevels(shape, schedule, levels).fits());
  EXPECT_EQ(levels.at(0, 0, 0, 0), 16);
}

TEST(ReferencePlanner, ReportsMissingBytesAndChangesNothing) {
  CacheShape shape = singleHead(1000);
  for (ScheduleKind kind : {ScheduleKind::Page, ScheduleKind::None}) {
    Schedule schedule;
    schedule.kind = kind;
    schedule.floor = {4, 4};
    schedule.budgetBytes = fixedBytes(shape) + 2 * 17 * kKiB - 100;
    PageLevels levels(shape);
    levels.addPage(0, initialLevel(schedule));
    levels.addPage(0, initialLevel(schedule));
    std::vector<int32_t> before = levelsOf(levels, 0);
    PlanResult plan = planLevels(shape, schedule, levels);
    EXPECT_FALSE(plan.fits());
    EXPECT_EQ(plan.missingBytes, 100);
    EXPECT_EQ(levelsOf(levels, 0), before);
    schedule.budgetBytes += 100;
    EXPECT_TRUE(planLevels(shape, schedule, levels).fits());
    EXPECT_EQ(levelsOf(levels, 0), (std::vector<int32_t>{4, 4}));
  }
}

TEST(ReferencePlanner, PartsStopAtTheirOwnFloors) {
  Schedule schedule;
  schedule.floor = {4, 2};
  EXPECT_EQ(initialLevel(schedule), 16);
  EXPECT_EQ(lowestLevel(schedule), 2);
  EXPECT_EQ(partLevel(schedule, 8, 0), 8);
  EXPECT_EQ(partLevel(schedule, 2, 0), 4);
  EXPECT_EQ(partLevel(schedule, 2, 1), 2);
  EXPECT_EQ(pageHeadBytes(singleHead(0), schedule, 2),
            (2 + 1) * 4 * kKiB + kKiB);
  schedule.kind = ScheduleKind::None;
  EXPECT_EQ(initialLevel(schedule), 2);
}

/// The end of the reasoner's generation under a budget before tables: how many
/// page-heads are above 2 bits, all at 4.
int64_t pageHeadsAt4Bits(int64_t budgetKiB) {
  CacheShape shape = reasoner();
  Schedule schedule;
  schedule.budgetBytes = budgetKiB * kKiB + kReasonerTables;
  PageLevels levels(shape);
  for (int page = 0; page < 24; ++page) {
    levels.addPage(0, 16);
    EXPECT_TRUE(planLevels(shape, schedule, levels).fits());
  }
  std::vector<int32_t> all = levelsOf(levels, 0);
  EXPECT_EQ(all.size(), 288u);
  int64_t at4 = std::count(all.begin(), all.end(), 4);
  EXPECT_EQ(std::count(all.begin(), all.end(), 2), 288 - at4);
  return at4;
}

TEST(ReferencePlanner, ReasonerEndsAsTheDesignSays) {
  EXPECT_EQ(pageHeadsAt4Bits(3500), 16);
  EXPECT_EQ(pageHeadsAt4Bits(4400), 129);
  EXPECT_EQ(pageHeadsAt4Bits(3366), 0);
}

// Two pages at 4 bits: values of both fall before keys of either.
TEST(ReferencePlanner, KeysWaitForValuesOfAllPages) {
  CacheShape shape = singleHead(500);
  Schedule schedule;
  schedule.kind = ScheduleKind::KeysLast;
  PageLevels levels(shape);
  levels.addPage(0, 4);
  levels.addPage(0, 4);
  std::vector<std::vector<int32_t>> expected = {
      {kApart, 4}, {kApart, kApart}, {2, kApart}, {2, 2}};
  for (const std::vector<int32_t> &after : expected) {
    schedule.budgetBytes = totalBytes(shape, schedule, levels) - 1;
    EXPECT_TRUE(planLevels(shape, schedule, levels).fits());
    EXPECT_EQ(levelsOf(levels, 0), after);
  }
  EXPECT_EQ(partLevel(schedule, kApart, 0), 4);
  EXPECT_EQ(partLevel(schedule, kApart, 1), 2);
}

/// The rule word by word: search the page-head to halve, every time anew.
PlanResult planBySearch(const CacheShape &shape, const Schedule &schedule,
                        PageLevels &levels) {
  PageLevels work = levels;
  while (totalBytes(shape, schedule, work) > schedule.budgetBytes) {
    int32_t *best = nullptr;
    std::tuple<int32_t, int64_t, int32_t, int32_t, int32_t> bestKey;
    for (int32_t s = 0; s < work.sequences(); ++s)
      for (int64_t p = 0; p < work.pages(s); ++p)
        for (int32_t l = 0; l < work.layers(); ++l)
          for (int32_t h = 0; h < work.kvHeads(); ++h) {
            int32_t &level = work.at(s, p, l, h);
            if (level == lowestLevel(schedule))
              continue;
            std::tuple key(-level, p, s, l, h);
            if (!best || key < bestKey) {
              best = &level;
              bestKey = key;
            }
          }
    int64_t bytes = totalBytes(shape, schedule, work);
    if (!best)
      return {bytes, bytes - schedule.budgetBytes};
    *best = levelBelow(schedule, *best);
  }
  levels = work;
  return {totalBytes(shape, schedule, work), 0};
}

TEST(ReferencePlanner, EqualsASearchOverRandomGeometries) {
  std::mt19937 random(7);
  auto pick = [&](int low, int high) {
    return low + static_cast<int>(random() % (high - low + 1));
  };
  int refused = 0, mixed = 0;
  for (int trial = 0; trial < 120; ++trial) {
    CacheShape shape = singleHead(2000);
    shape.layers = pick(1, 3);
    shape.sequences = pick(1, 3);
    shape.kvHeads = pick(1, 2);
    shape.headDim = std::vector<int>{64, 80, 96, 128, 256}[pick(0, 4)];
    shape.sinkTokens = pick(0, 4);
    shape.parameterBytes = {4 * shape.headDim, 4 * 128};
    Schedule schedule;
    schedule.kind = trial % 2 ? ScheduleKind::Page : ScheduleKind::KeysLast;
    schedule.floor = {2 << pick(0, 2), 2 << pick(0, 2)};
    int64_t pageHeads = shape.layers * shape.kvHeads;
    schedule.budgetBytes =
        fixedBytes(shape) +
        pick(10, 60) * pageHeads * (pageHeadBytes(shape, schedule, 16) / 16);
    PageLevels fast(shape), slow(shape);
    for (int step = 0; step < 6; ++step) {
      for (int32_t s = 0; s < shape.sequences; ++s)
        if (pick(0, 2)) {
          fast.addPage(s, 16);
          slow.addPage(s, 16);
        }
      PlanResult a = planLevels(shape, schedule, fast);
      PlanResult b = planBySearch(shape, schedule, slow);
      ASSERT_EQ(a.bytes, b.bytes);
      ASSERT_EQ(a.missingBytes, b.missingBytes);
      for (int32_t s = 0; s < shape.sequences; ++s)
        ASSERT_EQ(levelsOf(fast, s), levelsOf(slow, s));
      if (!a.fits()) {
        ++refused;
        break;
      }
      std::vector<int32_t> first = levelsOf(fast, 0);
      mixed += !first.empty() && first.front() != first.back();
    }
  }
  EXPECT_GT(refused, 5) << "the trials must reach the floor";
  EXPECT_GT(mixed, 30) << "the trials must mix levels";
}

} // namespace
