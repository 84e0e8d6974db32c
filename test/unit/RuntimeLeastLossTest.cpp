//===- RuntimeLeastLossTest.cpp - Tests of the policy least_loss ----------===//
//
// Neighbours: RuntimeScheduleTest.cpp has the other policies.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSlowSchedule.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <optional>
#include <random>
#include <tuple>
#include <vector>

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

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
