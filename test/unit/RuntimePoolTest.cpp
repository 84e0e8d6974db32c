//===- RuntimePoolTest.cpp - Tests of the block pool ----------------------===//
//
// Ownership, neighbourhood and errors of BlockPool.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/BlockPool.h"

#include "gtest/gtest.h"

#include <cstring>
#include <random>
#include <set>

using namespace pmkvq::rt;

static BlockPool makePool(int64_t blockBytes, int64_t capacity) {
  Result<BlockPool> pool = BlockPool::create(blockBytes, capacity);
  EXPECT_TRUE(pool.ok()) << pool.status().message();
  return pool.ok() ? std::move(*pool) : BlockPool();
}

TEST(BlockPool, HandsOutConsecutiveIdsAgainAfterAHole) {
  BlockPool pool = makePool(512, 8);
  uint32_t ids[8];
  ASSERT_TRUE(pool.allocate(4, ids).ok());
  ASSERT_TRUE(pool.free(ids, 2).ok()); // 0 and 1; 2 and 3 stay.
  uint32_t run[4];
  ASSERT_TRUE(pool.allocate(4, run).ok());
  EXPECT_EQ(run[0], 4u);
  EXPECT_EQ(run[3], 7u);
  ASSERT_TRUE(pool.allocate(2, run).ok());
  EXPECT_EQ(run[0], 0u);
  EXPECT_EQ(run[1], 1u);
}

TEST(BlockPool, FillsScatteredHolesCompletely) {
  BlockPool pool = makePool(512, 200);
  std::vector<uint32_t> ids(200);
  ASSERT_TRUE(pool.allocate(200, ids.data()).ok());
  for (uint32_t id = 0; id < 200; id += 2)
    ASSERT_TRUE(pool.free(&id, 1).ok());
  std::vector<uint32_t> again(100);
  ASSERT_TRUE(pool.allocate(100, again.data()).ok());
  std::set<uint32_t> unique(again.begin(), again.end());
  EXPECT_EQ(unique.size(), 100u);
  for (uint32_t id : unique)
    EXPECT_EQ(id % 2, 0u);
}

TEST(BlockPool, RefusesWhatIsNotFreeAndTakesNothing) {
  BlockPool pool = makePool(512, 10);
  uint32_t ids[11];
  ASSERT_TRUE(pool.allocate(4, ids).ok());
  Status status = pool.allocate(7, ids);
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory);
  EXPECT_NE(status.message().find("6 of 10"), std::string::npos);
  EXPECT_EQ(pool.inUse(), 4);
  EXPECT_EQ(pool.allocate(-1, ids).code(), StatusCode::InvalidArgument);
}

TEST(BlockPool, RefusesBadFreesAndGivesNothingBack) {
  BlockPool pool = makePool(512, 10);
  uint32_t ids[4];
  ASSERT_TRUE(pool.allocate(4, ids).ok());
  const uint32_t twice[] = {0, 1, 1};
  EXPECT_EQ(pool.free(twice, 3).code(), StatusCode::Internal);
  const uint32_t outside[] = {2, 10};
  EXPECT_EQ(pool.free(outside, 2).code(), StatusCode::Internal);
  EXPECT_EQ(pool.inUse(), 4);
  EXPECT_TRUE(pool.free(ids, 4).ok());
  EXPECT_EQ(pool.inUse(), 0);
  EXPECT_EQ(pool.peak(), 4);
}

TEST(BlockPool, RefusesImpossibleSizes) {
  auto code = [](int64_t bytes, int64_t capacity) {
    return BlockPool::create(bytes, capacity).status().code();
  };
  EXPECT_EQ(code(-1, 1), StatusCode::InvalidArgument);
  EXPECT_EQ(code(1, -1), StatusCode::InvalidArgument);
  EXPECT_EQ(code(1, int64_t(1) << 32), StatusCode::InvalidArgument);
  EXPECT_EQ(code(int64_t(1) << 40, int64_t(1) << 30),
            StatusCode::InvalidArgument);
  // More than any address space holds.
  EXPECT_EQ(code(int64_t(1) << 38, int64_t(1) << 20), StatusCode::OutOfMemory);
}

TEST(BlockPool, EmptyPoolsAndEmptyBlocksAreLegal) {
  BlockPool empty = makePool(512, 0);
  uint32_t id;
  EXPECT_EQ(empty.allocate(1, &id).code(), StatusCode::OutOfMemory);
  EXPECT_TRUE(empty.allocate(0, &id).ok());
  BlockPool noBytes = makePool(0, 3);
  EXPECT_TRUE(noBytes.allocate(1, &id).ok());
  EXPECT_EQ(noBytes.bytesInUse(), 0);
}

TEST(BlockPool, RandomUseNeverOwnsABlockTwice) {
  std::mt19937 random(1);
  BlockPool pool = makePool(16, 777);
  std::vector<std::vector<uint32_t>> held;
  std::set<uint32_t> owned;
  for (int round = 0; round < 20000; ++round) {
    int64_t count = 1 + random() % 16;
    if (random() % 2 && count <= pool.capacity() - pool.inUse()) {
      std::vector<uint32_t> ids(count);
      ASSERT_TRUE(pool.allocate(count, ids.data()).ok());
      for (uint32_t id : ids) {
        ASSERT_LT(id, 777u);
        ASSERT_TRUE(owned.insert(id).second);
        std::memset(pool.data() + id * 16, 1, 16);
      }
      held.push_back(ids);
    } else if (!held.empty()) {
      // As lowering does: the first half stays.
      std::vector<uint32_t> &ids = held[random() % held.size()];
      size_t kept = ids.size() / 2;
      ASSERT_TRUE(pool.free(ids.data() + kept, ids.size() - kept).ok());
      for (size_t i = kept; i < ids.size(); ++i)
        owned.erase(ids[i]);
      ids.resize(kept);
      if (ids.empty()) {
        ids = held.back();
        held.pop_back();
      }
    }
    ASSERT_EQ(pool.inUse(), static_cast<int64_t>(owned.size()));
  }
}
