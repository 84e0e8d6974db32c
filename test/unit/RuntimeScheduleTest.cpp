//===- RuntimeScheduleTest.cpp - Tests of level policies ------------------===//
//
// The policies against their definition, written down the slow way.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSlowSchedule.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <random>
#include <tuple>

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

static std::unique_ptr<SchedulePolicy>
makePolicy(ScheduleKind kind, std::vector<LayerLosses> losses = {}) {
  auto policy = makeSchedulePolicy(kind, std::move(losses));
  EXPECT_TRUE(policy.ok());
  return std::move(*policy);
}

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

/// A cache as a run of plans leaves it, and new pages.
static std::vector<PageState> randomPages(std::mt19937 &random,
                                          size_t &existing,
                                          const ScheduleLimits &limits) {
  std::vector<PageState> pages;
  int32_t layers = 1 + random() % 3, heads = 1 + random() % 3,
          sequences = 1 + random() % 3;
  std::vector<int32_t> counts(sequences);
  for (int32_t &count : counts)
    count = random() % 6;
  // Values fall to 1 in pairs.
  if (limits.floor[kValue] == 1)
    heads = 2;
  for (int32_t layer = 0; layer < layers; ++layer)
    for (int32_t sequence = 0; sequence < sequences; ++sequence)
      for (int32_t head = 0; head < heads; ++head)
        for (int32_t page = 0; page < counts[sequence]; ++page) {
          PageState state{layer, sequence, head, page, {16, 16}};
          for (int32_t halving = random() % 4; halving > 0; --halving)
            for (int32_t part = 0; part < kParts; ++part)
              if (state.level[part] > std::max(limits.floor[part], 2))
                state.level[part] /= 2;
          pages.push_back(state);
        }
  existing = pages.size();
  for (int32_t layer = 0; layer < layers; ++layer)
    for (int32_t head = 0; head < heads; ++head)
      pages.push_back({layer, 0, head, counts[0], {}});
  std::shuffle(pages.begin(), pages.begin() + existing, random);
  return pages;
}

/// Plans one random cache and new pages by a policy and by its definition,
/// which says whether they fit; `pages` becomes the plan, `fitting` counts.
template <typename Definition>
static void compareOnce(const SchedulePolicy &policy, Definition definition,
                        std::mt19937 &random, ScheduleLimits limits,
                        std::vector<PageState> &pages, int &fitting) {
  size_t existing;
  pages = randomPages(random, existing, limits);
  limits.bytesAvailable = random() % (pages.size() * 16 * 512 + 1);
  std::vector<PageState> expected = pages, before = pages;
  bool fits = definition(expected, existing, limits);
  Status status = policy.plan(pages, existing, limits);
  ASSERT_EQ(status.ok(), fits) << status.message();
  ASSERT_TRUE(sameLevels(pages, fits ? expected : before));
  fitting += fits;
}

static ScheduleLimits randomFloors(std::mt19937 &random) {
  return {{kLadder[random() % 4], kLadder[random() % 4]}, 512, 0};
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

//===----------------------------------------------------------------------===//
// least_loss
//===----------------------------------------------------------------------===//

static constexpr int32_t kLayers = 3, kHeads = 3;

/// Losses of kLayers layers; few different numbers, so that prices tie.
static std::vector<LayerLosses> randomLosses(std::mt19937 &random) {
  std::vector<LayerLosses> losses(kLayers);
  for (LayerLosses &layer : losses) {
    for (auto &part : layer.level)
      for (float &loss : part)
        loss = static_cast<float>(random() % 5);
    // Levels that lose less than the one above are another test's.
    for (auto &part : layer.level)
      std::sort(part.begin(), part.end());
    std::vector<float> shares(kHeads * 4);
    for (float &share : shares)
      share = static_cast<float>(random() % 3);
    layer.setShares(shares, kHeads);
  }
  return losses;
}

/// The definition of least_loss: all halvings of all pages are looked at for
/// each that is made.
static bool planLeastLossSlowly(const std::vector<LayerLosses> &losses,
                                std::vector<PageState> &pages, size_t existing,
                                const ScheduleLimits &limits) {
  for (size_t i = existing; i < pages.size(); ++i)
    pages[i].level = {16, 16};
  auto lossAt = [&](const PageState &page, Part part, int32_t level) {
    const auto &loss = losses[page.layer].level[part];
    return level == 16  ? 0.0f
           : level == 8 ? loss[0]
           : level == 4 ? loss[1]
           : level == 2 ? loss[2]
                        : loss[3];
  };
  auto age = [&](const PageState &page) {
    int32_t newest = 0;
    for (const PageState &other : pages)
      if (other.sequence == page.sequence)
        newest = std::max(newest, other.page);
    return newest - page.page;
  };
  auto price = [&](const PageState &page, Part part) {
    int32_t level = page.level[part], below = level / 2;
    float added = lossAt(page, part, below) - lossAt(page, part, level);
    return added * losses[page.layer].shareOf(page.head, age(page)) / below;
  };
  // Of the two heads of a layer.
  auto partnerOf = [&](const PageState &page) {
    return std::find_if(pages.begin(), pages.end(), [&](const PageState &o) {
      return o.layer == page.layer && o.sequence == page.sequence &&
             o.page == page.page && o.head == page.head + 1;
    });
  };
  while (totalBytes(pages, limits.blockBytes) > limits.bytesAvailable) {
    using Key = std::tuple<float, int32_t, int32_t, int32_t, int32_t, Part>;
    std::optional<Key> first;
    std::vector<PageState *> falls;
    auto offer = [&](PageState &page, Part part, float cost,
                     std::vector<PageState *> with) {
      Key key = {cost, page.page, page.sequence, page.layer, page.head, part};
      if (first && *first <= key)
        return;
      first = key;
      falls = std::move(with);
    };
    for (PageState &page : pages) {
      for (Part part : {kKey, kValue})
        if (page.level[part] > std::max(limits.floor[part], 2))
          offer(page, part, price(page, part), {&page});
      if (limits.floor[kValue] != 1 || page.level[kValue] != 2 ||
          age(page) == 0 || page.head == 1)
        continue;
      if (auto other = partnerOf(page); other->level[kValue] == 2)
        offer(page, kValue, (price(page, kValue) + price(*other, kValue)) / 2,
              {&page, &*other});
    }
    if (!first)
      return false;
    for (PageState *page : falls)
      page->level[std::get<Part>(*first)] /= 2;
  }
  return true;
}

TEST(LeastLossSchedule, EqualsItsDefinition) {
  std::mt19937 random(4);
  int fitting = 0, apart = 0, ones = 0;
  std::vector<PageState> pages;
  for (int round = 0; round < 1000; ++round) {
    const std::vector<LayerLosses> losses = randomLosses(random);
    auto slowly = [&](auto &planned, size_t existing, const auto &limits) {
      return planLeastLossSlowly(losses, planned, existing, limits);
    };
    ScheduleLimits limits = randomFloors(random);
    if (round % 2)
      limits.floor = {2, round % 4 == 1 ? 2 : 1};
    ASSERT_NO_FATAL_FAILURE(compareOnce(*makePolicy(kScheduleLeastLoss, losses),
                                        slowly, random, limits, pages, fitting))
        << round;
    for (const PageState &page : pages) {
      apart += page.level[kKey] != page.level[kValue];
      ones += page.level[kValue] == 1;
    }
  }
  EXPECT_GT(fitting, 150);
  EXPECT_GT(apart, 1000);
  EXPECT_GT(ones, 100);
}

// Two layers of one head: keys of layer 0 bear little, and its heads look at
// the newest page alone.
TEST(LeastLossSchedule, LowersWhereItCostsLeast) {
  std::vector<LayerLosses> losses(2);
  losses[0].level = {{{0, 1, 100}, {0, 1, 10}}};
  losses[1].level = {{{0, 1, 10}, {0, 1, 10}}};
  losses[0].setShares({1, 0.01f}, 1);
  losses[1].setShares({0.5f}, 1);
  std::vector<PageState> pages;
  for (int32_t layer : {0, 1})
    for (int32_t page : {0, 1, 2})
      pages.push_back({layer, 0, 0, page, {4, 4}});
  auto policy = makePolicy(kScheduleLeastLoss, losses);
  auto levels = [&](int32_t blocks) {
    EXPECT_TRUE(policy->plan(pages, pages.size(), {{2, 2}, 1, blocks}).ok());
    std::vector<std::array<uint8_t, kParts>> found;
    for (const PageState &page : pages)
      found.push_back(page.level);
    return found;
  };
  using L = std::vector<std::array<uint8_t, kParts>>;
  // Old values of layer 0 at 0.09 times 1/2, old keys there at 0.99 times 1/2.
  EXPECT_EQ(levels(24), (L{{4, 4}, {4, 4}, {4, 4}, {4, 4}, {4, 4}, {4, 4}}));
  EXPECT_EQ(levels(22), (L{{4, 2}, {4, 2}, {4, 4}, {4, 4}, {4, 4}, {4, 4}}));
  EXPECT_EQ(levels(20), (L{{2, 2}, {2, 2}, {4, 4}, {4, 4}, {4, 4}, {4, 4}}));
  // Layer 1 at 9 / 2 times 1/2, keys first, its oldest page first.
  EXPECT_EQ(levels(19), (L{{2, 2}, {2, 2}, {4, 4}, {2, 4}, {4, 4}, {4, 4}}));
  EXPECT_EQ(levels(14), (L{{2, 2}, {2, 2}, {4, 4}, {2, 2}, {2, 2}, {2, 2}}));
  EXPECT_EQ(levels(13), (L{{2, 2}, {2, 2}, {4, 2}, {2, 2}, {2, 2}, {2, 2}}));
}

// Values at 1 bit cost nothing more in layer 1, where keys cost most.
TEST(LeastLossSchedule, ValuesOfPartnersFallToOneBitTogether) {
  std::vector<LayerLosses> losses(2);
  losses[0].level = {{{0, 0, 1}, {0, 0, 1, 3}}};
  losses[1].level = {{{0, 0, 9}, {0, 0, 1, 1}}};
  for (LayerLosses &layer : losses)
    layer.setShares({}, 2);
  std::vector<PageState> pages;
  for (int32_t layer : {0, 1})
    for (int32_t head : {0, 1})
      for (int32_t page : {0, 1})
        pages.push_back({layer, 0, head, page, {4, 2}});
  auto policy = makePolicy(kScheduleLeastLoss, losses);
  // 24 blocks of 2 bytes; the first pair's values free one, keys of layer 0
  // one each.
  ASSERT_TRUE(policy->plan(pages, pages.size(), {{2, 1}, 2, 46}).ok());
  for (const PageState &page : pages)
    EXPECT_EQ(page.level,
              (std::array<uint8_t, kParts>{
                  4, page.layer && !page.page ? uint8_t(1) : uint8_t(2)}));
  // Then keys of layer 0 for 1 / 2 a bit, and its old values for 2 a bit.
  ASSERT_TRUE(policy->plan(pages, pages.size(), {{2, 1}, 2, 36}).ok());
  for (const PageState &page : pages)
    EXPECT_EQ(page.level, (std::array<uint8_t, kParts>{
                              page.layer ? uint8_t(4) : uint8_t(2),
                              page.page ? uint8_t(2) : uint8_t(1)}));
}

// At 4 bits less is lost than at 8: no halving has a price below 0, so that
// shares do not turn round.
TEST(LeastLossSchedule, ALowerLevelLosesNoLess) {
  std::vector<LayerLosses> losses(1);
  losses[0].level = {{{2, 1, 3}, {2, 1, 3}}};
  losses[0].setShares({1, 0.1f}, 1);
  std::vector<PageState> pages = {{0, 0, 0, 0, {2, 8}}, {0, 0, 0, 1, {8, 8}}};
  auto policy = makePolicy(kScheduleLeastLoss, losses);
  ASSERT_TRUE(policy->plan(pages, 2, {{2, 2}, 1, 11}).ok());
  EXPECT_EQ(pages[0].level, (std::array<uint8_t, kParts>{2, 4}));
  EXPECT_EQ(pages[1].level, (std::array<uint8_t, kParts>{8, 8}));
}

TEST(LeastLossSchedule, NeedsLosses) {
  Status status = makeSchedulePolicy(kScheduleLeastLoss).status();
  EXPECT_EQ(status.code(), StatusCode::InvalidArgument);
  EXPECT_NE(status.message().find("needs the losses"), std::string::npos);
}

TEST(LeastLossSchedule, PagesOlderThanSharesAreAsTheLast) {
  LayerLosses losses;
  losses.setShares({1, 2, 3, 4}, 2);
  EXPECT_EQ(losses.shares.size(), 2u * kLossAges);
  EXPECT_EQ(losses.shareOf(0, 0), 1);
  EXPECT_EQ(losses.shareOf(0, 1), 2);
  EXPECT_EQ(losses.shareOf(0, 1000), 2);
  EXPECT_EQ(losses.shareOf(1, 0), 3);
  EXPECT_EQ(losses.shareOf(1, 7), 4);
  losses.setShares({}, 1);
  EXPECT_EQ(losses.shares, std::vector<float>(kLossAges, 1));
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
