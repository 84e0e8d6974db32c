//===- RuntimePageWorkListTest.cpp - Rows of whole pages ------------------===//
//
// Work lists of kernels on warpgroups.  Neighbours: DeviceWorkList.h,
// RuntimeDeviceWorkListTest.cpp (rows of units).
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/DeviceWorkList.h"

#include <gtest/gtest.h>

using namespace pmkvq::rt;

namespace {
TEST(PageWorkListTest, PagesOfManyQueriesHaveFewShares) {
  PrefillPage page = {};
  page.first = PrefillPage::kSeenByAll;
  page.info = PrefillPage::makeInfo({4, 4}, kPageTokens);
  const std::vector<std::vector<PrefillPage>> pairs(
      6, std::vector<PrefillPage>(24, page));
  auto sharesOf = [&](int64_t queries) {
    auto list = buildPageWorkList(pairs, 132, pageCosts(queries), {});
    EXPECT_TRUE(list.ok()) << list.status().message();
    return list->partials / 6;
  };
  EXPECT_GE(sharesOf(16), 8);
  EXPECT_GE(sharesOf(64), 2);
  EXPECT_LE(sharesOf(64), 5);
}

} // namespace
