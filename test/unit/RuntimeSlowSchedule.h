//===- RuntimeSlowSchedule.h - Policies by their definition -----*- C++ -*-===//
//
// Schedule.h's definitions written down the slow way, for tests to compare
// with.  Neighbours: RuntimeScheduleTest.cpp, RuntimeSequencesTest.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_RUNTIMESLOWSCHEDULE_H
#define PMKVQ_TEST_UNIT_RUNTIMESLOWSCHEDULE_H

#include "pmkvq_rt/Schedule.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <vector>

namespace pmkvq::rt::test {

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

inline bool sameLevels(const std::vector<PageState> &a,
                       const std::vector<PageState> &b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const PageState &x, const PageState &y) {
                      return x.level == y.level;
                    });
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
