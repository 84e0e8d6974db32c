//===- ReferenceLayerScheduleTest.cpp - Layers that fall together ---------===//
//
// The layer schedule by hand: shares, the level that new pages join, and what
// is refused.  Neighbours: lib/Reference/Planner.cpp, Planner.h (the rule),
// ReferenceSchedulePropertyTest.cpp (the same at random).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Cache.h"

#include <gtest/gtest.h>

#include <random>

using namespace pmkvq::reference;

namespace {

constexpr int64_t kBlock = 4096;

Schedule layerSchedule(int64_t budgetBytes) {
  Schedule schedule;
  schedule.kind = ScheduleKind::Layer;
  schedule.budgetBytes = budgetBytes;
  return schedule;
}

/// The one level of a layer.
int32_t levelOf(const PageLevels &levels, int32_t layer) {
  int32_t level = 0;
  for (int32_t s = 0; s < levels.sequences(); ++s)
    for (int64_t p = 0; p < levels.pages(s); ++p)
      for (int32_t h = 0; h < levels.kvHeads(); ++h) {
        int32_t own = levels.at(s, p, layer, h);
        EXPECT_TRUE(level == 0 || own == level) << "mixed levels";
        level = own;
      }
  return level;
}

// The example of Planner.h: room for 24 blocks of 4 KiB.
TEST(ReferenceLayerSchedule, WorkedExample) {
  CacheShape shape;
  shape.maxTokens = 2000;
  Schedule schedule = layerSchedule(fixedBytes(shape) + 24 * kBlock);
  EXPECT_EQ(initialLevel(schedule), 16);
  EXPECT_EQ(layerShare(shape, schedule), schedule.budgetBytes);
  PageLevels levels(shape);
  for (auto [level, blocks] : std::vector<std::pair<int32_t, int64_t>>{
           {16, 16}, {8, 16}, {8, 24}, {4, 16}, {4, 20}, {4, 24}, {2, 14}}) {
    levels.addPage(0, 16);
    PlanResult plan = planLevels(shape, schedule, levels);
    ASSERT_TRUE(plan.fits());
    EXPECT_EQ(levelOf(levels, 0), level);
    EXPECT_EQ(plan.bytes, fixedBytes(shape) + blocks * kBlock);
  }
}

TEST(ReferenceLayerSchedule, SequencesAndHeadsOfALayerFallTogether) {
  CacheShape shape;
  shape.maxTokens = 1000;
  shape.layers = 3;
  shape.sequences = shape.kvHeads = 2;
  // A layer has room for 4 page-heads at level 16, of both sequences.
  Schedule schedule = layerSchedule(fixedBytes(shape) + 3 * 4 * 16 * kBlock);
  PageLevels levels(shape);
  levels.addPage(0, 16);
  levels.addPage(1, 16);
  ASSERT_TRUE(planLevels(shape, schedule, levels).fits());
  for (int32_t layer = 0; layer < 3; ++layer)
    EXPECT_EQ(levelOf(levels, layer), 16);
  levels.addPage(1, 16);
  ASSERT_TRUE(planLevels(shape, schedule, levels).fits());
  for (int32_t layer = 0; layer < 3; ++layer)
    EXPECT_EQ(levelOf(levels, layer), 8);
}

TEST(ReferenceLayerSchedule, ALayerMayFallSeveralLevelsInOnePlan) {
  CacheShape shape;
  shape.maxTokens = 1000;
  Schedule schedule = layerSchedule(fixedBytes(shape) + 5 * 4 * kBlock);
  PageLevels levels(shape);
  for (int page = 0; page < 5; ++page)
    levels.addPage(0, 16);
  ASSERT_TRUE(planLevels(shape, schedule, levels).fits());
  EXPECT_EQ(levelOf(levels, 0), 4);
}

// A layer that fell is never raised, and its fall lowers no other layer.
TEST(ReferenceLayerSchedule, LayersArePlannedOneByOne) {
  CacheShape shape;
  shape.maxTokens = 1000;
  shape.layers = 2;
  Schedule schedule = layerSchedule(fixedBytes(shape) + 2 * 32 * kBlock);
  PageLevels levels(shape);
  levels.addPage(0, 16);
  levels.at(0, 0, 1, 0) = 4;
  levels.addPage(0, 16);
  PlanResult plan = planLevels(shape, schedule, levels);
  ASSERT_TRUE(plan.fits());
  EXPECT_EQ(levelOf(levels, 0), 16);
  EXPECT_EQ(levelOf(levels, 1), 4);
  EXPECT_EQ(plan.bytes, fixedBytes(shape) + (32 + 8) * kBlock);
  EXPECT_EQ(layerBytes(shape, schedule, levels, 1),
            fixedBytes(shape) / 2 + 8 * kBlock);
}

TEST(ReferenceLayerSchedule, ShareRoundsDownAndRefusesNothingByIt) {
  CacheShape shape;
  shape.maxTokens = 1000;
  shape.layers = 3;
  int64_t exact = fixedBytes(shape) + 3 * 16 * kBlock;
  for (int64_t more : {0, 1, 2}) {
    Schedule schedule = layerSchedule(exact + more);
    EXPECT_EQ(layerShare(shape, schedule), exact / 3);
    PageLevels levels(shape);
    levels.addPage(0, 16);
    ASSERT_TRUE(planLevels(shape, schedule, levels).fits());
    EXPECT_EQ(levelOf(levels, 0), 16);
  }
  Schedule schedule = layerSchedule(exact - 1);
  PageLevels levels(shape);
  levels.addPage(0, 16);
  ASSERT_TRUE(planLevels(shape, schedule, levels).fits());
  EXPECT_EQ(levelOf(levels, 0), 8);
}

TEST(ReferenceLayerSchedule, ReportsMissingBytesAndChangesNothing) {
  CacheShape shape;
  shape.maxTokens = 1000;
  shape.layers = 3;
  Schedule schedule = layerSchedule(0);
  schedule.floor = {4, 2};
  int64_t floorBytes = fixedBytes(shape) + 3 * 2 * (2 + 1) * kBlock;
  for (int64_t missing : {1, 2, 3, 100}) {
    schedule.budgetBytes = floorBytes - missing;
    PageLevels levels(shape);
    levels.addPage(0, 16);
    levels.addPage(0, 16);
    PlanResult plan = planLevels(shape, schedule, levels);
    EXPECT_FALSE(plan.fits());
    EXPECT_EQ(plan.missingBytes, missing);
    EXPECT_EQ(plan.bytes, floorBytes);
    EXPECT_EQ(levelOf(levels, 0), 16);
    schedule.budgetBytes += missing;
    EXPECT_TRUE(planLevels(shape, schedule, levels).fits());
    EXPECT_EQ(levelOf(levels, 2), 2);
    EXPECT_EQ(partLevel(schedule, 2, 0), 4);
  }
}

TEST(ReferenceLayerSchedule, KeepsLevel16WithoutABudget) {
  CacheShape shape;
  shape.maxTokens = 1000;
  PageLevels levels(shape);
  for (int page = 0; page < 6; ++page)
    levels.addPage(0, 16);
  EXPECT_TRUE(planLevels(shape, layerSchedule(0), levels).fits());
  EXPECT_EQ(levelOf(levels, 0), 16);
}

// The small reasoner at 3,500 KiB, where the page schedule ends with 16
// page-heads at 4 bits: here, page 13 brings all to 2 bits, for good.
TEST(ReferenceLayerSchedule, ReasonerFallsThreeTimes) {
  CacheShape shape;
  shape.layers = 6;
  shape.kvHeads = 2;
  shape.maxTokens = 3074;
  shape.parameterBytes = {4 * 128, 4 * 128};
  Schedule schedule = layerSchedule(3500 * 1024 + 6 * 2 * 24 * 72);
  PageLevels levels(shape);
  std::vector<int32_t> pagesAtFall;
  int32_t level = 16;
  for (int32_t page = 0; page < 24; ++page) {
    levels.addPage(0, 16);
    ASSERT_TRUE(planLevels(shape, schedule, levels).fits());
    if (levelOf(levels, 5) == level)
      continue;
    level = levelOf(levels, 5);
    pagesAtFall.push_back(page);
  }
  EXPECT_EQ(level, 2);
  // 2,726 KiB are for pages, 227 a layer and head; a page-head takes 65, 33, 17
  // and 9 KiB.
  EXPECT_EQ(pagesAtFall, (std::vector<int32_t>{3, 6, 13}));
}

TEST(ReferenceLayerSchedule, CacheLowersOldPagesToTheNewLevel) {
  CacheOptions options;
  options.shape.layers = 2;
  options.shape.headDim = 64;
  options.shape.maxTokens = 1000;
  options.schedule = layerSchedule(0);
  CacheShape complete = options.shape;
  complete.parameterBytes = {4 * 128, 4 * 128};
  // Room for 2 page-heads at 8 bits a layer.
  options.schedule.budgetBytes =
      fixedBytes(complete) +
      2 * 2 * pageHeadBytes(complete, options.schedule, 8);
  std::unique_ptr<Cache> cache;
  ASSERT_TRUE(Cache::create(options, cache).status.ok());
  std::mt19937 random(1);
  std::vector<float> token(2 * 64);
  std::vector<uint16_t> firstPage;
  for (int64_t t = 0; t < 1 + 3 * 128 + 1; ++t) {
    for (float &x : token)
      x = static_cast<float>(random() % 256) - 100;
    for (int64_t i = 0; t >= 1 && t <= 128 && i < 64; ++i)
      firstPage.push_back(floatToBf16(token[i]));
    ASSERT_TRUE(
        cache->append({{0, 1, token.data(), token.data()}}).status.ok());
    EXPECT_LE(cache->bytes(), options.schedule.budgetBytes);
  }
  ASSERT_EQ(cache->pages(0), 3);
  PagePart expected;
  expected.values = firstPage;
  ASSERT_TRUE(lowerPart(options.formats[0], 64, 4, expected).ok());
  for (int64_t page = 0; page < 3; ++page)
    for (int32_t layer = 0; layer < 2; ++layer)
      EXPECT_EQ(cache->page(layer, 0, 0, page)[0].level, 4);
  EXPECT_EQ(cache->page(0, 0, 0, 0)[0].codes, expected.codes);
}

} // namespace
