//===- RuntimePrefillListTest.cpp - Tasks of prefill attention ------------===//
//
// Neighbours: PrefillList.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/PrefillList.h"

#include <gtest/gtest.h>

using namespace pmkvq::rt;

namespace {
constexpr int64_t kHeadDim = 128, kRunBytes = 16 * kHeadDim * 2;

PageEntry pageAt(int32_t key, int32_t value) {
  PageEntry page = {};
  for (uint32_t i = 0; i < kMaxBlocksPerPart; ++i) {
    page.blocks[kKey][i] = 10 + i;
    page.blocks[kValue][i] = 100 + i;
  }
  page.slot = 7;
  page.level[kKey] = static_cast<uint8_t>(key);
  page.level[kValue] = static_cast<uint8_t>(value);
  return page;
}

TEST(PrefillList, PagesHaveTheirBlocks) {
  PrefillList list(kHeadDim);
  list.startPair(3);
  ASSERT_TRUE(list.addPage(pageAt(4, 2), 8192).ok());
  const PrefillPage &entry = list.pages().at(0);
  // Blocks of 4,096 bytes in grains of 128.
  EXPECT_EQ(entry.blocks[kKey][0], 64u + 10 * 32);
  EXPECT_EQ(entry.blocks[kKey][1], 64u + 11 * 32);
  EXPECT_EQ(entry.blocks[kKey][2], 0u);
  EXPECT_EQ(entry.blocks[kValue][0], 64u + 100 * 32);
  EXPECT_EQ(entry.slot, 7u);
  EXPECT_EQ(entry.first, PrefillPage::kSeenByAll);
  EXPECT_EQ(UnitKind::fromIndex(entry.info & 0xff), (UnitKind{4, 2}));
  EXPECT_EQ(entry.info >> 8, 128u);
}

TEST(PrefillList, RawTokensAreRunsOfSixteen) {
  PrefillList list(kHeadDim);
  list.startPair(0);
  ASSERT_TRUE(list.addRaw(0, 1 << 20, 129).ok());
  ASSERT_EQ(list.pages().size(), 2u);
  for (uint32_t i = 0; i < 8; ++i)
    EXPECT_EQ(list.pages()[0].blocks[kKey][i],
              i * kRunBytes / kDeviceGrainBytes);
  EXPECT_EQ(list.pages()[0].info >> 8, 128u);
  // One token: its run stands for those that are not there.
  EXPECT_EQ(list.pages()[1].info >> 8, 1u);
  for (uint32_t run : list.pages()[1].blocks[kValue])
    EXPECT_EQ(run, ((1 << 20) + 8 * kRunBytes) / kDeviceGrainBytes);
}

TEST(PrefillList, TasksSeeWhatTheirRowsSee) {
  PrefillList list(kHeadDim);
  list.startPair(5);
  for (int i = 0; i < 3; ++i)
    ASSERT_TRUE(list.addPage(pageAt(8, 8), 0).ok());
  ASSERT_TRUE(list.addChunk(0, 1 << 20, 300).ok());
  ASSERT_TRUE(list.addTasks(1000, 300, /*group=*/4).ok());
  ASSERT_EQ(list.pages().size(), 6u);
  EXPECT_EQ(list.pages()[4].first, 128);
  // 32 rows a task, the last 12.
  ASSERT_EQ(list.tasks().size(), 10u);
  for (size_t i = 0; i < 10; ++i) {
    const PrefillTask &task = list.tasks()[i];
    EXPECT_EQ(task.row, 1000 + 32 * i);
    EXPECT_EQ(task.rows, i == 9 ? 12u : 32u);
    EXPECT_EQ(task.position, static_cast<int32_t>(32 * i));
    EXPECT_EQ(task.head, 5u);
    EXPECT_EQ(task.page, 0u);
    EXPECT_EQ(task.pages, 3 + (32 * i + task.rows + 127) / 128);
  }
  list.sortTasks();
  EXPECT_EQ(list.tasks().front().pages, 6u);
  EXPECT_EQ(list.tasks().back().pages, 4u);
}

TEST(PrefillList, PairsFollowEachOther) {
  PrefillList list(kHeadDim);
  for (uint32_t head : {0u, 1u}) {
    list.startPair(head);
    ASSERT_TRUE(list.addPage(pageAt(4, 4), 0).ok());
    ASSERT_TRUE(list.addTasks(0, 3, /*group=*/3).ok());
  }
  ASSERT_EQ(list.tasks().size(), 2u);
  EXPECT_EQ(list.tasks()[1].page, 1u);
  EXPECT_EQ(list.tasks()[1].pages, 1u);
  EXPECT_EQ(list.tasks()[1].head, 1u);
}

TEST(PrefillList, Refusals) {
  PrefillList list(kHeadDim);
  list.startPair(0);
  EXPECT_EQ(list.addTasks(0, 1, 4).code(), StatusCode::FailedPrecondition);
  EXPECT_EQ(list.addPage(pageAt(5, 4), 0).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(list.addPage(pageAt(4, 4), 100).code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(list.addRaw(1ll << 42, 0, 1).code(), StatusCode::InvalidArgument);
  EXPECT_TRUE(list.pages().empty());
  ASSERT_TRUE(list.addChunk(0, 0, 16).ok());
  EXPECT_EQ(list.addTasks(0, 17, 4).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(list.addTasks(0, 16, 129).code(), StatusCode::InvalidArgument);
  EXPECT_TRUE(list.tasks().empty());
}
} // namespace
