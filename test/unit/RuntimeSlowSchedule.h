//===- RuntimeSlowSchedule.h - Policies by their definition -----*- C++ -*-===//
//
// Schedule.h's definitions written down the slow way, for tests to compare
// with, on random caches.  Neighbours: RuntimeScheduleTest.cpp,
// RuntimeLeastLossTest.cpp, RuntimeSequencesTest.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_RUNTIMESLOWSCHEDULE_H
#define PMKVQ_TEST_UNIT_RUNTIMESLOWSCHEDULE_H

#include "pmkvq_rt/Schedule.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

namespace pmkvq::rt::test {

inline bool sameLevels(const std::vector<PageState> &a,
                       const std::vector<PageState> &b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const PageState &x, const PageState &y) {
                      return x.level == y.level;
                    });
}

/// One of the library.
inline std::unique_ptr<SchedulePolicy>
makePolicy(ScheduleKind kind, std::vector<LayerLosses> losses = {}) {
  auto policy = makeSchedulePolicy(kind, std::move(losses));
  EXPECT_TRUE(policy.ok());
  return std::move(*policy);
}

/// A cache as a run of plans leaves it, and new pages.
inline std::vector<PageState> randomPages(std::mt19937 &random,
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
inline void compareOnce(const SchedulePolicy &policy, Definition definition,
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

inline ScheduleLimits randomFloors(std::mt19937 &random) {
  return {{kLadder[random() % 4], kLadder[random() % 4]}, 512, 0};
}

inline int64_t totalBytes(const std::vector<PageState> &pages,
                          int64_t blockBytes) {
  int64_t bytes = 0;
  for (const PageState &page : pages)
    bytes += pageBlockBytes(page.level, blockBytes);
  return bytes;
}

/// Schedule.h's definition of `page`, one search over all pages a halving.
/// Returns false if they do not fit.
inline bool planSlowly(std::vector<PageState> &pages, size_t existing,
                       const ScheduleLimits &limits) {
  for (size_t i = existing; i < pages.size(); ++i)
    pages[i].level = {16, 16};
  while (totalBytes(pages, limits.blockBytes) > limits.bytesAvailable) {
    PageState *first = nullptr;
    auto key = [&](const PageState &page) {
      int32_t highest = 0;
      for (int32_t part = 0; part < kParts; ++part)
        if (page.level[part] > limits.floor[part])
          highest = std::max<int32_t>(highest, page.level[part]);
      return std::make_tuple(-highest, page.page, page.sequence, page.layer,
                             page.head);
    };
    for (PageState &page : pages)
      if ((page.level[0] > limits.floor[0] ||
           page.level[1] > limits.floor[1]) &&
          (!first || key(page) < key(*first)))
        first = &page;
    if (!first)
      return false;
    for (int32_t part = 0; part < kParts; ++part)
      if (first->level[part] > limits.floor[part])
        first->level[part] /= 2;
  }
  return true;
}

/// Schedule.h's definition of `layer`, for caches whose layers are each at one
/// level.  Returns false if a layer does not fit.
inline bool planLayersSlowly(std::vector<PageState> &pages, size_t existing,
                             const ScheduleLimits &limits) {
  std::set<int32_t> layers;
  for (size_t i = 0; i < pages.size(); ++i) {
    layers.insert(pages[i].layer);
    if (i < existing)
      continue;
    pages[i].level = {16, 16};
    for (size_t old = 0; old < existing; ++old)
      if (pages[old].layer == pages[i].layer)
        pages[i].level = pages[old].level;
  }
  for (int32_t layer : layers) {
    auto taken = [&] {
      int64_t bytes = 0;
      for (const PageState &page : pages)
        if (page.layer == layer)
          bytes += pageBlockBytes(page.level, limits.blockBytes);
      return bytes;
    };
    for (int32_t halvings = 0; taken() > limits.layerBytesAvailable;
         ++halvings) {
      if (halvings == 3)
        return false;
      for (PageState &page : pages)
        for (int32_t part = 0; part < kParts; ++part)
          if (page.layer == layer && page.level[part] > limits.floor[part])
            page.level[part] /= 2;
    }
  }
  return true;
}

} // namespace pmkvq::rt::test

#endif // PMKVQ_TEST_UNIT_RUNTIMESLOWSCHEDULE_H
