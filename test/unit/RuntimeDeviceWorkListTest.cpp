//===- RuntimeDeviceWorkListTest.cpp - Rows for a GPU ---------------------===//
//
// Units of pages and fixed areas, and rows that hold every unit once.
// Neighbours: DeviceWorkList.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/DeviceWorkList.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <set>

using namespace pmkvq::rt;

namespace {
using Pairs = std::vector<std::vector<UnitTask>>;

/// Units that can be told apart.
Pairs makePairs(const std::vector<int> &units, UnitKind kind = {2, 2}) {
  Pairs pairs;
  uint32_t next = 0;
  for (int count : units) {
    pairs.emplace_back();
    for (int i = 0; i < count; ++i, ++next)
      pairs.back().push_back(
          {next, next ^ 7, next, UnitTask::makeInfo(kind, kind.tokens(), 0)});
  }
  return pairs;
}

template <typename T> T readAs(const uint8_t *at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

struct Segment {
  WorkSegment head;
  std::vector<UnitTask> units;
};

/// Segments of each row, by the layout as DeviceAbi.h says it.
std::vector<std::vector<Segment>> parse(const DeviceWorkList &list) {
  std::vector<std::vector<Segment>> rows;
  for (int32_t row = 0; row < list.rows; ++row) {
    const uint8_t *at = list.bytes.data() + size_t(row) * list.rowBytes;
    auto header = readAs<WorkHeader>(at);
    const uint8_t *unit = at + 16 + 16 * list.segmentsPerRow;
    uint32_t total = 0, early = 0;
    bool isEarly = true;
    auto &segments = rows.emplace_back();
    for (uint32_t s = 0; s < header.segments; ++s) {
      Segment segment{readAs<WorkSegment>(at + 16 + 16 * s), {}};
      for (uint32_t u = 0; u < segment.head.units; ++u, unit += 16) {
        segment.units.push_back(readAs<UnitTask>(unit));
        isEarly &= !(segment.units.back().info & UnitTask::kFixedArea);
        early += isEarly;
      }
      total += segment.head.units;
      segments.push_back(std::move(segment));
    }
    EXPECT_EQ(total, header.units);
    EXPECT_EQ(early, header.earlyUnits);
    // Padding is zero, and long enough.
    const uint8_t *end = at + list.rowBytes;
    EXPECT_GE(end - unit, kUnitTaskPadding * 16);
    EXPECT_TRUE(std::all_of(unit, end, [](uint8_t b) { return b == 0; }));
  }
  return rows;
}

int64_t costOf(const std::vector<UnitTask> &units) {
  int64_t cost = 0;
  for (const UnitTask &unit : units)
    cost += unitCost(unit);
  return cost;
}

int64_t costOf(const std::vector<Segment> &row) {
  int64_t cost = 0;
  for (const Segment &segment : row)
    cost += costOf(segment.units) + UnitCosts().segment;
  return cost;
}

/// What all rows cost together.
int64_t costOf(const std::vector<std::vector<Segment>> &rows) {
  int64_t cost = 0;
  for (const std::vector<Segment> &row : rows)
    cost += costOf(row);
  return cost;
}

/// The bytes of units, sorted: segments list theirs in an order of their own.
std::vector<std::array<uint32_t, 4>> sorted(const UnitTask *units,
                                            size_t count) {
  std::vector<std::array<uint32_t, 4>> words(count);
  std::memcpy(words.data(), units, count * sizeof(UnitTask));
  std::sort(words.begin(), words.end());
  return words;
}

/// Every unit once, shares and partials consistent; the dearest row.
int64_t check(const Pairs &pairs, int32_t blocks, const DeviceWorkList &list) {
  EXPECT_LE(list.rows, blocks);
  auto rows = parse(list);
  std::map<uint32_t, std::vector<Segment>> byPair;
  int64_t dearest = 0;
  for (auto &row : rows) {
    EXPECT_FALSE(row.empty());
    dearest = std::max(dearest, costOf(row));
    for (Segment &segment : row)
      byPair[segment.head.pair].push_back(segment);
  }
  EXPECT_EQ(byPair.size(), pairs.size());
  std::vector<bool> taken(static_cast<size_t>(list.partials));
  for (auto &[pair, segments] : byPair) {
    size_t before = 0;
    for (size_t share = 0; share < segments.size(); ++share) {
      const std::vector<UnitTask> &units = segments[share].units;
      const WorkSegment &head = segments[share].head;
      EXPECT_EQ(head.share, share);
      EXPECT_EQ(head.shares, segments.size());
      EXPECT_GE(head.units, 1u);
      EXPECT_EQ(head.partial, segments[0].head.partial);
      EXPECT_LE(before + units.size(), pairs[pair].size());
      EXPECT_EQ(sorted(units.data(), units.size()),
                sorted(pairs[pair].data() + before, units.size()))
          << "share " << share << " of pair " << pair;
      before += units.size();
      if (segments.size() == 1)
        continue;
      EXPECT_LT(head.partial + share, taken.size());
      EXPECT_FALSE(taken[head.partial + share]) << "partials overlap";
      taken[head.partial + share] = true;
    }
    EXPECT_EQ(before, pairs[pair].size());
  }
  EXPECT_TRUE(std::all_of(taken.begin(), taken.end(), [](bool t) { return t; }))
      << "partials without a share";
  return dearest;
}

DeviceWorkList build(const Pairs &pairs, int32_t blocks) {
  auto list = buildDeviceWorkList(pairs, blocks);
  EXPECT_TRUE(list.ok()) << list.status().message();
  return *list;
}

/// Costs of a unit at 2 bits and of a segment.
constexpr int64_t kUnit2 = 256 * UnitCosts().token[3];
constexpr int64_t kSegment = UnitCosts().segment;

TEST(DeviceWorkListTest, PairsGetAsManyRowsWhereTheyDivideTheDevice) {
  Pairs pairs = makePairs(std::vector<int>(8, 256));
  DeviceWorkList list = build(pairs, 132);
  EXPECT_EQ(list.rows, 128);
  EXPECT_EQ(list.segmentsPerRow, 1u);
  EXPECT_EQ(list.partials, 128);
  EXPECT_EQ(check(pairs, 132, list), 16 * kUnit2 + kSegment);
}

TEST(DeviceWorkListTest, MorePairsThanRowsGiveWholePairs) {
  Pairs pairs = makePairs(std::vector<int>(256, 64));
  DeviceWorkList list = build(pairs, 132);
  EXPECT_EQ(list.rows, 128);
  EXPECT_EQ(list.segmentsPerRow, 2u);
  EXPECT_EQ(list.partials, 0);
  check(pairs, 132, list);
}

TEST(DeviceWorkListTest, WholePairsOfAnyLengthShareRows) {
  // Long and short in turns: each row takes as much, not as many.
  Pairs pairs;
  for (int i = 0; i < 40; ++i)
    pairs.push_back(makePairs({i < 20 ? 90 : 10})[0]);
  DeviceWorkList list = build(pairs, 24);
  EXPECT_EQ(list.partials, 0);
  EXPECT_EQ(check(pairs, 24, list), 90 * kUnit2 + kSegment);
}

TEST(DeviceWorkListTest, RowsAreEvenWhereAligningWouldIdle) {
  // 70 pairs on 132 blocks: a row each would leave 62 idle.
  Pairs pairs = makePairs(std::vector<int>(70, 256));
  DeviceWorkList list = build(pairs, 132);
  EXPECT_GE(list.rows, 131);
  // Within a unit and a segment of what all rows cost, divided.
  EXPECT_LE(check(pairs, 132, list),
            costOf(parse(list)) / 132 + kUnit2 + kSegment);
}

TEST(DeviceWorkListTest, FewUnitsGiveFewRows) {
  Pairs pairs = makePairs({1, 1, 3});
  DeviceWorkList list = build(pairs, 132);
  check(pairs, 132, list);
  // Sharing three units would save two and cost a merge.
  EXPECT_EQ(list.rows, 3);
}

TEST(DeviceWorkListTest, RowsAreEvenByCostNotByUnits) {
  // 8-bit keys with 2-bit values read 5/8 of what a whole unit does.
  Pairs pairs = makePairs({300});
  for (size_t i = 0; i < 150; ++i)
    pairs[0][i].info = UnitTask::makeInfo({8, 2}, 32, 0);
  DeviceWorkList list = build(pairs, 10);
  EXPECT_LE(check(pairs, 10, list), costOf(pairs[0]) / 10 + kSegment + kUnit2);
}

TEST(DeviceWorkListTest, ShortPairsAreSpreadByTheirSegments) {
  // 8 sequences of 8 heads, of 100 to 32,768 tokens, at 2 bits with windows.
  const std::pair<int, int> lengths[] = {{0, 7},  {255, 8}, {104, 2},
                                         {90, 7}, {138, 6}, {138, 2},
                                         {9, 8},  {204, 7}};
  Pairs pairs;
  for (auto [pages, window] : lengths)
    for (int head = 0; head < 8; ++head) {
      pairs.push_back(makePairs({pages})[0]);
      ASSERT_TRUE(
          addFixedUnits(0, 1 << 20, window * 16, 128, pairs.back()).ok());
    }
  DeviceWorkList list = build(pairs, 132);
  int64_t dearest = check(pairs, 132, list);
  auto rows = parse(list);
  EXPECT_LE(dearest * 100, costOf(rows) / 132 * 103);
  size_t segments = 0;
  for (auto &row : rows)
    segments += row.size();
  // Cutting at every row's end makes at most 64 + 131.
  EXPECT_LE(segments, 185u);
  EXPECT_LE(list.segmentsPerRow, 6u);
}

TEST(DeviceWorkListTest, WarpsGetAsMuchWork) {
  // 22 units of three kinds: 6 warps take three of them, two take two.
  Pairs pairs = makePairs({22});
  auto setKind = [&](size_t i, int32_t level) {
    pairs[0][i].info =
        UnitTask::makeInfo({level, level}, tokensPerBlock(level), 0);
  };
  for (size_t i = 12; i < 22; ++i)
    setKind(i, i < 18 ? 4 : 8);
  spreadKinds(pairs[0]);
  auto rows = parse(build(pairs, 1));
  ASSERT_EQ(rows.size(), 1u);
  std::vector<int64_t> work(kDecodeWarps);
  const UnitCosts costs;
  for (size_t i = 0; i < 22; ++i) {
    auto kind = UnitKind::fromIndex(
        static_cast<int32_t>(rows[0][0].units[i].info & 0xff));
    work[i % kDecodeWarps] +=
        2 * kind.tokens() * costs.work[size_t(ladderIndex(kind.key))];
  }
  // The most is 2, 2, 8 bits; in turns a warp would have three at 2 bits.
  EXPECT_EQ(*std::max_element(work.begin(), work.end()),
            2 * (2 * 128 * costs.work[3] + 32 * costs.work[1]));
}

TEST(DeviceWorkListTest, RandomListsHoldEveryUnitOnceAndAreBalanced) {
  std::mt19937 random(11);
  for (int round = 0; round < 400; ++round) {
    std::vector<int> units(1 + random() % 40);
    int most = 1 << random() % 9;
    for (int &count : units)
      count = 1 + static_cast<int>(random() % most);
    Pairs pairs = makePairs(units);
    int64_t total = 0, dearestUnit = 0;
    for (auto &pair : pairs)
      for (UnitTask &unit : pair) {
        UnitKind kind =
            UnitKind::fromIndex(static_cast<int32_t>(random() % 16));
        unit.info = UnitTask::makeInfo(kind, kind.tokens(), 0);
        total += unitCost(unit);
        dearestUnit = std::max(dearestUnit, unitCost(unit));
      }
    auto blocks = static_cast<int32_t>(1 + random() % 200);
    DeviceWorkList list = build(pairs, blocks);
    int64_t dearest = check(pairs, blocks, list);
    // A row is full but for a unit a warp and a segment; there is a segment a
    // pair and one more a row.  Whole pairs may save the merge, and fewer
    // segments cost 5 %.
    auto segments = static_cast<int64_t>(pairs.size()) + blocks;
    int64_t bound = (total + segments * kSegment) / blocks +
                    kDecodeWarps * dearestUnit + kSegment + UnitCosts().merge;
    EXPECT_LE(dearest * 95, bound * 100);
    DeviceWorkList again = build(pairs, blocks);
    EXPECT_EQ(again.bytes, list.bytes);
  }
}

TEST(DeviceWorkListTest, BadInputIsRefused) {
  Pairs pairs = makePairs({3, 0});
  auto list = buildDeviceWorkList(pairs, 4);
  ASSERT_FALSE(list.ok());
  EXPECT_NE(list.status().message().find("pair 1"), std::string::npos);
  pairs.pop_back();
  for (int32_t blocks : {0, -1, 65536})
    EXPECT_EQ(buildDeviceWorkList(pairs, blocks).status().code(),
              StatusCode::InvalidArgument);
  EXPECT_EQ(build({}, 4).rows, 0);
  for (std::vector<PairQueries> queries :
       {std::vector<PairQueries>{{0, 0}, {1, 0}}, {{0, -1}}, {{0, 16}}})
    EXPECT_EQ(buildDeviceWorkList(pairs, 4, {}, queries).status().code(),
              StatusCode::InvalidArgument);
}

TEST(DeviceWorkListTest, SegmentsSayWhoseQueriesTheyAreFor) {
  // Three rows of one kv head of two, then a single one.
  auto list = buildDeviceWorkList(makePairs({20, 3}), 1, {}, {{1, 2}, {7, 0}});
  ASSERT_TRUE(list.ok()) << list.status().message();
  const uint8_t *segments = list->bytes.data() + sizeof(WorkHeader);
  auto first = readAs<WorkSegment>(segments);
  auto second = readAs<WorkSegment>(segments + sizeof(WorkSegment));
  EXPECT_EQ(first.pair, 1u);
  EXPECT_EQ(first.moreRows, 2u);
  EXPECT_EQ(first.units, 20u);
  EXPECT_EQ(second.pair, 7u);
  EXPECT_EQ(second.moreRows, 0u);
}

/// Bytes as offsets of units are counted.
constexpr uint32_t grains(int64_t bytes) {
  return static_cast<uint32_t>(bytes / kDeviceGrainBytes);
}
/// A block of 128 head dims.
constexpr uint32_t kBlock = grains(4096);

PageEntry makePage(int32_t key, int32_t value) {
  PageEntry page = {};
  page.level[kKey] = static_cast<uint8_t>(key);
  page.level[kValue] = static_cast<uint8_t>(value);
  page.slot = 9;
  for (uint32_t i = 0; i < 8; ++i) {
    page.blocks[kKey][i] = 100 + 3 * i;
    page.blocks[kValue][i] = 77 - 2 * i;
  }
  return page;
}

TEST(DeviceUnitsTest, PagesBecomeUnitsInTheOrderOfTokens) {
  for (int32_t level : kLadder) {
    std::vector<UnitTask> units;
    ASSERT_TRUE(addPageUnits(makePage(level, level), 128, 0, units).ok());
    ASSERT_EQ(units.size(), size_t(level) / 2);
    for (uint32_t i = 0; i < units.size(); ++i) {
      // One block a side.
      EXPECT_EQ(units[i].key, (100 + 3 * i) * kBlock);
      EXPECT_EQ(units[i].value, (77 - 2 * i) * kBlock);
      EXPECT_EQ(units[i].slot, level == 16 ? 0u : 9u);
      int32_t tokens = 256 / level;
      EXPECT_EQ(units[i].info, UnitTask::makeInfo({level, level}, tokens,
                                                  int32_t(i) * tokens / 32));
    }
  }
}

TEST(DeviceUnitsTest, SidesAtLevelsApartShareTheSmallerUnit) {
  std::vector<UnitTask> units;
  ASSERT_TRUE(addPageUnits(makePage(8, 2), 128, 4096, units).ok());
  ASSERT_EQ(units.size(), 4u);
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(units[i].key, kBlock + (100 + 3 * i) * kBlock);
    // A quarter of the one block of values: 1,024 bytes.
    EXPECT_EQ(units[i].value, kBlock + 77 * kBlock + grains(1024) * i);
    EXPECT_EQ(units[i].info, UnitTask::makeInfo({8, 2}, 32, int32_t(i)));
  }
}

TEST(DeviceUnitsTest, ASideBesideLevel16IsCopiedByGrains) {
  std::vector<UnitTask> units;
  ASSERT_TRUE(addPageUnits(makePage(16, 2), 128, 0, units).ok());
  ASSERT_EQ(units.size(), 8u);
  for (uint32_t i = 0; i < 8; ++i) {
    EXPECT_EQ(units[i].key, (100 + 3 * i) * kBlock);
    // 32 tokens are a quarter of the one block, 1,024 bytes, for two units.
    EXPECT_EQ(units[i].value, 77 * kBlock + grains(1024) * (i / 2));
    EXPECT_EQ(units[i].slot, 9u);
    uint32_t half = i % 2 ? UnitTask::kSecondHalf : 0;
    EXPECT_EQ(units[i].info,
              UnitTask::makeInfo({16, 2}, 16, int32_t(i / 2)) | half);
  }
  units.clear();
  ASSERT_TRUE(addPageUnits(makePage(4, 16), 128, 0, units).ok());
  ASSERT_EQ(units.size(), 8u);
  for (uint32_t i = 0; i < 8; ++i) {
    // Two blocks of 64 tokens, 2,048 bytes a grain.
    EXPECT_EQ(units[i].key,
              (100 + 3 * (i / 4)) * kBlock + grains(2048) * (i / 2 % 2));
    EXPECT_EQ(units[i].value, (77 - 2 * i) * kBlock);
  }
}

TEST(DeviceUnitsTest, FixedAreasEndWithAPartOfAUnit) {
  std::vector<UnitTask> units;
  ASSERT_TRUE(addFixedUnits(1 << 20, 1 << 21, 37, 64, units).ok());
  ASSERT_EQ(units.size(), 3u);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(units[i].key, grains((1 << 20) + i * 2048));
    EXPECT_EQ(units[i].value, grains((1 << 21) + i * 2048));
    EXPECT_EQ(units[i].info >> 8 & 0xff, i == 2 ? 5u : 16u);
  }
}

TEST(DeviceUnitsTest, RowsSeeOneTokenMoreEach) {
  // The first sees 30 tokens, the fourth 33, of which one is in a third unit.
  std::vector<UnitTask> units;
  ASSERT_TRUE(addFixedUnits(0, 1 << 20, 30, 64, units, /*moreRows=*/3).ok());
  std::vector<int> tokens;
  for (const UnitTask &unit : units)
    tokens.push_back(static_cast<int8_t>(unit.info >> 8 & 0xff));
  EXPECT_EQ(tokens, (std::vector<int>{16, 14, -2}));
  EXPECT_EQ(units.back().info & 0xff,
            static_cast<uint32_t>(UnitKind{16, 16}.index()));
}

TEST(DeviceUnitsTest, KindsAreSpreadEvenlyAndFixedAreasStayLast) {
  std::vector<UnitTask> units;
  // 12 units at 2 bits, then 2 pages at 4 (4 units), then a window of 2 units.
  for (uint32_t i = 0; i < 12; ++i)
    units.push_back({i, i, 0, UnitTask::makeInfo({2, 2}, 128, 0)});
  for (uint32_t i = 12; i < 16; ++i)
    units.push_back({i, i, 0, UnitTask::makeInfo({4, 4}, 64, 0)});
  ASSERT_TRUE(addFixedUnits(1 << 20, 1 << 21, 20, 128, units).ok());
  std::vector<UnitTask> before = units;
  spreadKinds(units);
  ASSERT_EQ(units.size(), before.size());
  std::vector<uint32_t> order;
  for (size_t i = 0; i < 16; ++i)
    order.push_back(units[i].key);
  // One of every four is at 4 bits, each kind in its order.
  EXPECT_EQ(order, (std::vector<uint32_t>{0, 1, 12, 2, 3, 4, 13, 5, 6, 7, 14, 8,
                                          9, 10, 15, 11}));
  EXPECT_EQ(std::memcmp(&units[16], &before[16], 2 * sizeof(UnitTask)), 0);
}

namespace {
/// A page at these levels whose blocks are numbered from `first` on.
PageEntry pageAt(uint8_t key, uint8_t value, uint32_t first) {
  PageEntry page = {};
  page.level[kKey] = key;
  page.level[kValue] = value;
  page.slot = 9;
  for (Part part : {kKey, kValue})
    for (uint32_t &block : page.blocks[part])
      block = first++;
  return page;
}
} // namespace

TEST(DeviceUnitsTest, APageThatFallsNamesWhereItsUnitsGo) {
  PageEntry page = pageAt(8, 4, 0), lowered = pageAt(4, 2, 100);
  std::vector<LoweringTask> units;
  ASSERT_TRUE(addLoweringUnits(page, lowered, 128, 0, units).ok());
  // 32 tokens a unit: half a block of keys at 4 bits, a quarter of values at 2.
  std::vector<UnitTask> read;
  ASSERT_TRUE(addPageUnits(page, 128, 0, read).ok());
  ASSERT_EQ(units.size(), 4u);
  for (uint32_t i = 0; i < units.size(); ++i) {
    EXPECT_EQ(units[i].unit.info,
              read[i].info | UnitTask::falls(kKey) | UnitTask::falls(kValue));
    EXPECT_EQ(units[i].unit.key, read[i].key);
    EXPECT_EQ(units[i].unit.value, read[i].value);
    EXPECT_EQ(units[i].unit.slot, 9u);
    EXPECT_EQ(units[i].lowered[kKey],
              (100 + i / 2) * kBlock + i % 2 * (kBlock / 2));
    EXPECT_EQ(units[i].lowered[kValue], (100 + 8) * kBlock + i * (kBlock / 4));
  }
  // A part at the same level stays, wherever it lies.
  lowered.level[kValue] = 4;
  units.clear();
  ASSERT_TRUE(addLoweringUnits(page, lowered, 128, 0, units).ok());
  EXPECT_EQ(units[3].unit.info, read[3].info | UnitTask::falls(kKey));
  EXPECT_EQ(units[3].lowered[kValue], 0u);
}

TEST(DeviceUnitsTest, WhatAttentionCannotLowerIsRefused) {
  struct Bad {
    PageEntry page, lowered;
    StatusCode code;
    const char *text;
  };
  PageEntry own = pageAt(4, 4, 0), first = pageAt(2, 4, 100);
  own.level[kValue] = 4;
  first.blocks[kKey][0] = own.blocks[kValue][1];
  for (const Bad &bad :
       {Bad{pageAt(8, 8, 0), pageAt(2, 8, 100), StatusCode::InvalidArgument,
            "falls by one level, got 8 to 2"},
        Bad{pageAt(4, 4, 0), pageAt(8, 4, 100), StatusCode::InvalidArgument,
            "got 4 to 8"},
        Bad{pageAt(2, 2, 0), pageAt(1, 2, 100), StatusCode::InvalidArgument,
            "got 2 to 1"},
        Bad{pageAt(16, 4, 0), pageAt(16, 2, 100), StatusCode::Unimplemented,
            "level 16"},
        Bad{pageAt(16, 16, 0), pageAt(8, 16, 100), StatusCode::Unimplemented,
            "a launch of its own"},
        Bad{own, first, StatusCode::InvalidArgument, "block 9 is read"}}) {
    std::vector<LoweringTask> units;
    Status status = addLoweringUnits(bad.page, bad.lowered, 128, 0, units);
    EXPECT_EQ(status.code(), bad.code) << bad.text;
    EXPECT_NE(status.message().find(bad.text), std::string::npos)
        << status.message();
    EXPECT_TRUE(units.empty());
  }
}

TEST(DeviceUnitsTest, FallingUnitsAreSpreadAndDealtWithTheirPlaces) {
  // One page of four falls, the oldest; then a fixed area.
  std::vector<std::vector<LoweringTask>> pairs(2);
  size_t expected = 0;
  for (uint32_t pair = 0; pair < pairs.size(); ++pair) {
    for (uint32_t page = 0; page < 40; ++page) {
      PageEntry entry = pageAt(4, 4, 16 * (40 * pair + page));
      PageEntry lowered = entry;
      if (page < 10) {
        lowered = pageAt(2, 2, 4000 + 16 * (40 * pair + page));
        expected += 2;
      }
      ASSERT_TRUE(addLoweringUnits(entry, lowered, 128, 0, pairs[pair]).ok());
    }
    ASSERT_TRUE(addFixedUnits(1 << 27, 1 << 28, 20, 128, pairs[pair]).ok());
    spreadKinds(pairs[pair]);
    // Every fourth unit, more or less, and fixed areas last.
    size_t seen = 0;
    for (size_t i = 0; i < 80; ++i) {
      seen += (pairs[pair][i].unit.info & UnitTask::falls(kKey)) != 0;
      EXPECT_NEAR(double(seen), double(i + 1) / 4, 1.0);
    }
    EXPECT_TRUE(pairs[pair][80].unit.info & UnitTask::kFixedArea);
  }
  auto list = buildLoweringWorkList(pairs, 7);
  ASSERT_TRUE(list.ok()) << list.status().message();
  size_t falling = 0, all = 0;
  for (int32_t row = 0; row < list->rows; ++row) {
    const uint8_t *at = list->bytes.data() + size_t(row) * list->rowBytes;
    auto header = readAs<WorkHeader>(at);
    std::set<uint32_t> starts;
    for (uint32_t i = 0, unit = 0; i < header.segments; ++i) {
      starts.insert(unit);
      unit += readAs<WorkSegment>(at + 16 + 16 * i).units;
    }
    at += 16 + 16 * list->segmentsPerRow;
    // Warps take a segment's units in turns.
    std::array<bool, kDecodeWarps> hasOther = {};
    size_t turn = 0;
    for (uint32_t i = 0; i < header.units;
         ++i, ++turn, at += sizeof(LoweringTask)) {
      if (starts.count(i)) {
        hasOther = {};
        turn = 0;
      }
      bool &other = hasOther[turn % kDecodeWarps];
      auto task = readAs<LoweringTask>(at);
      ++all;
      if (!(task.unit.info & UnitTask::falls(kKey))) {
        other = true;
        continue;
      }
      ++falling;
      EXPECT_FALSE(other) << "what falls comes first";
      // Two units of a block each become halves of one.
      uint32_t block = task.unit.key / kBlock, first = block / 16 * 16;
      EXPECT_EQ(task.lowered[kKey],
                (4000 + first) * kBlock + (block - first) * (kBlock / 2));
    }
  }
  EXPECT_EQ(falling, expected);
  EXPECT_EQ(all, pairs[0].size() + pairs[1].size());
  // What falls costs its bytes again, half as many.
  UnitTask unit = pairs[0][0].unit, falls = unit;
  unit.info &= ~(UnitTask::falls(kKey) | UnitTask::falls(kValue));
  falls.info = unit.info | UnitTask::falls(kKey) | UnitTask::falls(kValue);
  EXPECT_EQ(unitCost(falls) * 2, unitCost(unit) * 3);
}

TEST(DeviceUnitsTest, WhatUnitsCannotHoldIsRefused) {
  std::vector<UnitTask> units;
  EXPECT_EQ(addPageUnits(makePage(3, 4), 128, 0, units).code(),
            StatusCode::InvalidArgument);
  // 32 tokens of 80 head dims at 2 bits are 640 bytes, of 72 are 576.
  EXPECT_TRUE(addPageUnits(makePage(8, 2), 80, 0, units).ok());
  EXPECT_EQ(units[1].value - units[0].value, grains(640));
  EXPECT_EQ(addPageUnits(makePage(8, 2), 72, 0, units).code(),
            StatusCode::Unimplemented);
  EXPECT_EQ(addPageUnits(makePage(2, 2), 128, int64_t(1) << 42, units).code(),
            StatusCode::InvalidArgument);
}
} // namespace
