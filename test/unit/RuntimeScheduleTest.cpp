//===- RuntimeScheduleTest.cpp - Tests of level policies ------------------===//
//
// The policies against their definition, written down the slow way.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSlowSchedule.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <set>
#include <tuple>

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

TEST(PageSchedule, DoesTheExampleOfTheHeader) {
  std::vector<PageState> pages = {
      {0, 0, 0, 0, {8, 8}}, {0, 0, 0, 1, {8, 8}}, {0, 0, 0, 2, {0, 0}}};
  ASSERT_TRUE(makePolicy(kSchedulePage)
                  ->plan(pages, 2, {{2, 2}, 1000, 16 * 1000})
                  .ok());
  EXPECT_EQ(pages[0].level[kKey], 4);
  EXPECT_EQ(pages[1].level[kValue], 4);
  EXPECT_EQ(pages[2].level[kKey], 8);
}

/// The levels that three pages of two heads have under all budgets.
static std::set<PageLevels> levelsUnderBudgets(const SchedulePolicy &policy,
                                               const PageLevels &floor) {
  std::set<PageLevels> seen;
  for (int64_t bytes = 3 * 2 * 16; bytes > 0; --bytes) {
    std::vector<PageState> pages;
    for (int32_t page : {0, 1, 2})
      for (int32_t head : {0, 1})
        pages.push_back({0, 0, head, page, {}});
    ScheduleLimits limits = {{floor[kKey], floor[kValue]}, 1, bytes, bytes};
    if (policy.plan(pages, 0, limits).ok())
      for (const PageState &page : pages)
        seen.insert(page.level);
  }
  return seen;
}

TEST(Schedules, SayWhichLevelsPagesMayComeTo) {
  LayerLosses losses;
  losses.level = {{{1, 4, 16}, {1, 2, 5, 9}}};
  losses.setShares({0.5, 0.3, 0.2}, 1);
  losses.shares.resize(2 * size_t{kLossAges}, 0.1f);
  for (ScheduleKind kind : {kScheduleNone, kSchedulePage, kScheduleKeysLast,
                            kScheduleLayer, kScheduleLeastLoss})
    for (PageLevels floor :
         {PageLevels{2, 2}, {8, 2}, {4, 16}, {16, 16}, {2, 1}}) {
      auto policy = makePolicy(kind, {losses});
      std::vector<PageLevels> list = policy->pairs(floor);
      std::set<PageLevels> pairs(list.begin(), list.end());
      EXPECT_EQ(pairs.size(), list.size()) << kind;
      std::set<PageLevels> seen = levelsUnderBudgets(*policy, floor);
      // Where values are at 1 bit from the start, or fall by themselves, is not
      // for these policies.
      if (floor[kValue] == 1 &&
          (kind == kScheduleNone || kind == kScheduleLayer))
        continue;
      if (kind == kScheduleLeastLoss)
        EXPECT_TRUE(std::includes(pairs.begin(), pairs.end(), seen.begin(),
                                  seen.end()));
      else
        EXPECT_EQ(pairs, seen)
            << kind << " to " << int(floor[kKey]) << "+" << int(floor[kValue]);
    }
  // By losses keys and values fall apart.
  EXPECT_EQ(makePolicy(kScheduleLeastLoss, {losses})->pairs({4, 2}).size(),
            size_t{3 * 4});
}

TEST(PageSchedule, LowersNothingThatFits) {
  std::vector<PageState> pages = {{0, 0, 0, 0, {16, 16}}, {0, 0, 0, 1, {}}};
  ASSERT_TRUE(makePolicy(kSchedulePage)->plan(pages, 1, {{2, 2}, 1, 32}).ok());
  EXPECT_EQ(pages[0].level[kKey], 16);
  EXPECT_EQ(pages[1].level[kValue], 16);
}

TEST(PageSchedule, APartStaysAtItsFloor) {
  std::vector<PageState> pages = {{0, 0, 0, 0, {16, 16}}, {0, 0, 0, 1, {}}};
  ASSERT_TRUE(makePolicy(kSchedulePage)->plan(pages, 1, {{8, 2}, 1, 10}).ok());
  for (const PageState &page : pages) {
    EXPECT_EQ(page.level[kKey], 8);
    EXPECT_EQ(page.level[kValue], 2);
  }
}

TEST(PageSchedule, APartAtItsFloorDoesNotPullTheOtherDown) {
  std::vector<PageState> pages = {{0, 0, 0, 0, {8, 8}}, {0, 0, 0, 1, {8, 8}}};
  ASSERT_TRUE(makePolicy(kSchedulePage)->plan(pages, 2, {{8, 2}, 1, 12}).ok());
  EXPECT_EQ(pages[0].level[kValue], 4);
  EXPECT_EQ(pages[1].level[kValue], 4);
}

TEST(PageSchedule, NamesMissingBytesAndChangesNothing) {
  std::vector<PageState> pages = {{0, 0, 0, 0, {16, 8}}, {0, 0, 0, 1, {}}};
  std::vector<PageState> before = pages;
  Status status = makePolicy(kSchedulePage)->plan(pages, 1, {{4, 2}, 100, 599});
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory);
  EXPECT_EQ(status.message().rfind("1 bytes are missing", 0), 0u)
      << status.message();
  EXPECT_TRUE(sameLevels(pages, before));
}

// Two heads, three pages: when all are at 2 bits, values of the oldest page
// fall to 1, those of both heads; the newest stays.
TEST(PageSchedule, ValuesFallToOneBitInPairs) {
  std::vector<PageState> all;
  for (int32_t head : {0, 1})
    for (int32_t page : {0, 1, 2})
      all.push_back({0, 0, head, page, {2, 2}});
  for (ScheduleKind kind : {kSchedulePage, kScheduleKeysLast})
    for (auto [blocks, lowered] : {std::pair(12, 0), {11, 1}, {10, 2}}) {
      std::vector<PageState> pages = all;
      ASSERT_TRUE(
          makePolicy(kind)->plan(pages, 6, {{2, 1}, 512, blocks * 512}).ok());
      for (const PageState &page : pages) {
        EXPECT_EQ(page.level[kKey], 2);
        EXPECT_EQ(page.level[kValue], page.page < lowered ? 1 : 2);
      }
    }
  Status status =
      makePolicy(kSchedulePage)->plan(all, 6, {{2, 1}, 512, 9 * 512});
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory);
  EXPECT_EQ(status.message().rfind("512 bytes are missing", 0), 0u)
      << status.message();
}

// A page at (4, 4) loses bits of both parts before values of any fall to 1.
TEST(PageSchedule, OneBitIsTheLastStep) {
  std::vector<PageState> pages;
  for (int32_t head : {0, 1})
    for (int32_t page : {0, 1})
      pages.push_back({0, 0, head, page, {4, 4}});
  ASSERT_TRUE(
      makePolicy(kSchedulePage)->plan(pages, 4, {{2, 1}, 512, 8 * 512}).ok());
  for (const PageState &page : pages)
    EXPECT_EQ(page.level, (std::array<uint8_t, kParts>{2, 2}));
}

TEST(PageSchedule, EqualsItsDefinition) {
  std::mt19937 random(2);
  auto policy = makePolicy(kSchedulePage);
  int fitting = 0;
  std::vector<PageState> pages;
  for (int round = 0; round < 3000; ++round)
    ASSERT_NO_FATAL_FAILURE(compareOnce(*policy, planSlowly, random,
                                        randomFloors(random), pages, fitting))
        << round;
  EXPECT_GT(fitting, 500);
}

/// The definition of keys_last: a step is one of one page, the first of them
/// by turn, then by age, is taken until all fit.
static bool planKeysLastSlowly(std::vector<PageState> &pages, size_t existing,
                               const ScheduleLimits &limits) {
  for (size_t i = existing; i < pages.size(); ++i)
    pages[i].level = {16, 16};
  auto mayFall = [&](const PageState &page, Part part) {
    return page.level[part] > limits.floor[part];
  };
  // 0 for pages above 4 bits at 16, 1 at 8; 2 at 4; 3 for keys' last step.
  auto turn = [&](const PageState &page) {
    int32_t highest = 0;
    for (Part part : {kKey, kValue})
      if (mayFall(page, part))
        highest = std::max<int32_t>(highest, page.level[part]);
    if (highest == 0)
      return 4;
    bool keysAlone = !mayFall(page, kValue);
    return highest == 16                        ? 0
           : highest == 8                       ? 1
           : keysAlone && page.level[kKey] == 4 ? 3
                                                : 2;
  };
  while (totalBytes(pages, limits.blockBytes) > limits.bytesAvailable) {
    PageState *first = nullptr;
    auto key = [&](const PageState &page) {
      return std::make_tuple(turn(page), page.page, page.sequence, page.layer,
                             page.head);
    };
    for (PageState &page : pages)
      if (turn(page) < 4 && (!first || key(page) < key(*first)))
        first = &page;
    if (!first)
      return false;
    bool both = first->level[kKey] == 4 && mayFall(*first, kKey) &&
                first->level[kValue] == 4 && mayFall(*first, kValue);
    for (Part part : {kKey, kValue})
      if (mayFall(*first, part) && !(both && part == kKey))
        first->level[part] /= 2;
  }
  return true;
}

TEST(KeysLastSchedule, EqualsItsDefinition) {
  std::mt19937 random(3);
  auto policy = makePolicy(kScheduleKeysLast);
  int fitting = 0, apart = 0;
  std::vector<PageState> pages;
  for (int round = 0; round < 2000; ++round) {
    ScheduleLimits limits = randomFloors(random);
    if (round % 2)
      limits.floor = {2, 2};
    ASSERT_NO_FATAL_FAILURE(compareOnce(*policy, planKeysLastSlowly, random,
                                        limits, pages, fitting))
        << round;
    for (const PageState &page : pages)
      apart += page.level[kKey] == 4 && page.level[kValue] == 2;
  }
  EXPECT_GT(fitting, 300);
  EXPECT_GT(apart, 100);
}

TEST(KeysLastSchedule, ValuesOfAllPagesFallBeforeKeysOfAny) {
  // Three pages at 4 bits take 12 blocks.
  std::vector<PageState> pages = {
      {0, 0, 0, 0, {4, 4}}, {0, 0, 0, 1, {4, 4}}, {0, 0, 0, 2, {4, 4}}};
  auto policy = makePolicy(kScheduleKeysLast);
  ASSERT_TRUE(policy->plan(pages, 3, {{2, 2}, 1, 9}).ok());
  for (const PageState &page : pages)
    EXPECT_EQ(page.level, (std::array<uint8_t, kParts>{4, 2}));
  ASSERT_TRUE(policy->plan(pages, 3, {{2, 2}, 1, 8}).ok());
  EXPECT_EQ(pages[0].level, (std::array<uint8_t, kParts>{2, 2}));
  EXPECT_EQ(pages[1].level, (std::array<uint8_t, kParts>{4, 2}));
}

TEST(PageSchedule, ManyPagesTakeLittleTime) {
  std::vector<PageState> pages;
  for (int32_t page = 0; page < 500; ++page)
    for (int32_t head = 0; head < 400; ++head)
      pages.push_back({head / 8, 0, head % 8, page, {16, 16}});
  size_t count = pages.size();
  auto start = std::chrono::steady_clock::now();
  // Each page at least at 4 bits: about 400,000 halvings.
  ASSERT_TRUE(makePolicy(kSchedulePage)
                  ->plan(pages, count, {{2, 2}, 1, int64_t(count) * 4})
                  .ok());
  std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(totalBytes(pages, 1), int64_t(count) * 4);
  // Far above what it takes, far below a search over all pages a halving.
  EXPECT_LT(time.count(), 5.0);
}

TEST(LayerSchedule, LowersALayerAsAWhole) {
  // Two layers, each with an old page and a new one, in room for 24 blocks.
  std::vector<PageState> pages = {{0, 0, 0, 0, {16, 16}},
                                  {1, 0, 0, 0, {4, 4}},
                                  {0, 0, 0, 1, {}},
                                  {1, 0, 0, 1, {}}};
  ScheduleLimits limits{{2, 2}, 1, 1000, 24};
  ASSERT_TRUE(makePolicy(kScheduleLayer)->plan(pages, 2, limits).ok());
  // Layer 0: 16 + 16 blocks are too many, 8 + 8 fit.  Layer 1: the
  // new page joins the old one's level, although 4 + 16 would fit.
  for (int32_t part = 0; part < kParts; ++part) {
    EXPECT_EQ(pages[0].level[part], 8);
    EXPECT_EQ(pages[2].level[part], 8);
    EXPECT_EQ(pages[1].level[part], 4);
    EXPECT_EQ(pages[3].level[part], 4);
  }
}

// The example of pmkvq/Reference/Planner.h: 24 blocks, a page more at a time.
TEST(LayerSchedule, DoesTheExampleOfTheReference) {
  std::vector<PageState> pages;
  const int32_t levels[] = {16, 8, 8, 4, 4};
  for (int32_t page = 0; page < 5; ++page) {
    pages.push_back({0, 0, 0, page, {}});
    ASSERT_TRUE(makePolicy(kScheduleLayer)
                    ->plan(pages, page, {{2, 2}, 1, 1000, 24})
                    .ok());
    for (const PageState &state : pages)
      EXPECT_EQ(state.level[kKey], levels[page]);
  }
}

TEST(LayerSchedule, EqualsItsDefinition) {
  std::mt19937 random(4);
  auto policy = makePolicy(kScheduleLayer);
  int fitting = 0;
  for (int round = 0; round < 2000; ++round) {
    ScheduleLimits limits{
        {kLadder[random() % 4], kLadder[random() % 4]}, 512, 0};
    size_t existing;
    std::vector<PageState> pages = randomPages(random, existing, limits);
    for (size_t i = 0; i < existing; ++i)
      for (int32_t part = 0; part < kParts; ++part)
        pages[i].level[part] = std::max<int32_t>(
            limits.floor[part], kLadder[(pages[i].layer + round) % 4]);
    limits.layerBytesAvailable = random() % (pages.size() * 8 * 512 + 1);
    std::vector<PageState> before = pages, expected = pages;
    bool fits = planLayersSlowly(expected, existing, limits);
    Status status = policy->plan(pages, existing, limits);
    ASSERT_EQ(status.ok(), fits) << status.message();
    ASSERT_TRUE(sameLevels(pages, fits ? expected : before)) << round;
    fitting += fits;
  }
  EXPECT_GT(fitting, 500);
}

TEST(LayerSchedule, NamesLayerAndBytesThatAreMissing) {
  std::vector<PageState> pages = {
      {0, 0, 0, 0, {2, 2}}, {1, 0, 0, 0, {2, 2}}, {1, 0, 0, 1, {}}};
  Status status =
      makePolicy(kScheduleLayer)->plan(pages, 2, {{2, 2}, 1000, 1000000, 3500});
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory);
  EXPECT_EQ(status.message().rfind("500 bytes are missing in layer 1", 0), 0u)
      << status.message();
}

TEST(NoneSchedule, WritesAtTheFloorOrRefuses) {
  auto policy = makePolicy(kScheduleNone);
  std::vector<PageState> pages = {{0, 0, 0, 0, {4, 2}}, {0, 0, 0, 1, {}}};
  ASSERT_TRUE(policy->plan(pages, 1, {{4, 2}, 1, 6}).ok());
  EXPECT_EQ(pages[1].level[kKey], 4);
  EXPECT_EQ(pages[1].level[kValue], 2);
  Status status = policy->plan(pages, 1, {{4, 2}, 1, 5});
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory);
}

// Layer 0 keeps keys at 8 bits, layer 1 values at 4; all else may fall to 2.
static constexpr uint8_t kTwoFloors[2][kParts] = {{8, 0}, {0, 4}};

static std::vector<PageState> twoNewPages() {
  return {{0, 0, 0, 0, {}}, {1, 0, 0, 0, {}}};
}

static void expectFloors(const std::vector<PageState> &pages) {
  EXPECT_EQ(pages[0].level, (std::array<uint8_t, kParts>{8, 2}));
  EXPECT_EQ(pages[1].level, (std::array<uint8_t, kParts>{2, 4}));
}

TEST(SchedulePolicy, LayersKeepFloorsOfTheirOwn) {
  for (ScheduleKind kind : {kScheduleNone, kSchedulePage, kScheduleLayer,
                            kScheduleKeysLast, kScheduleLeastLoss}) {
    LayerLosses losses;
    losses.setShares({}, 1);
    auto policy = makePolicy(kind, {2, losses});
    std::vector<PageState> pages = twoNewPages();
    // 4 + 1 and 1 + 2 blocks.
    ScheduleLimits limits{{2, 2}, 1, 8};
    limits.layerFloor = kTwoFloors;
    ASSERT_TRUE(policy->plan(pages, 0, limits).ok()) << kind;
    expectFloors(pages);
    limits.bytesAvailable = 7;
    pages = twoNewPages();
    EXPECT_EQ(policy->plan(pages, 0, limits).code(), StatusCode::OutOfMemory);
  }
}

TEST(LayerSchedule, SharesAreInProportionToFloors) {
  // 16 blocks: 10 for layer 0, 6 for layer 1.
  std::vector<PageState> pages = twoNewPages();
  ScheduleLimits limits{{2, 2}, 1, 16};
  limits.layerFloor = kTwoFloors;
  ASSERT_TRUE(makePolicy(kScheduleLayer)->plan(pages, 0, limits).ok());
  EXPECT_EQ(pages[0].level, (std::array<uint8_t, kParts>{8, 8}));
  EXPECT_EQ(pages[1].level, (std::array<uint8_t, kParts>{4, 4}));
}

TEST(SchedulePolicy, RefusesUnknownKinds) {
  EXPECT_EQ(makeSchedulePolicy(7).status().code(), StatusCode::Unimplemented);
}
