//===- AllocationLevelsTest.cpp - The integer program ---------------------===//
//
// Against every combination (test/data/allocation.json, which Python's HiGHS is
// held against too), and what budgets and floors make of it.  Neighbours:
// lib/Allocation/Levels.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Allocation/Levels.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>

using namespace pmkvq;
using namespace pmkvq::allocation;

namespace {

Choices choicesOf(const nlohmann::json &losses) {
  Choices choices;
  for (const nlohmann::json &layer : losses) {
    auto &parts = choices.emplace_back();
    for (int32_t part = 0; part < rt::kParts; ++part) {
      std::vector<double> loss = layer[part];
      std::copy(loss.begin(), loss.end(), parts[part].loss.begin());
    }
  }
  return choices;
}

Workload workloadOf(int64_t budget, int64_t tokens) {
  Workload workload;
  rt::ProgramInfo &info = workload.info;
  info.abiVersion = rt::kAbiVersion;
  info.layers = 3;
  info.kvHeads = 2;
  info.headDim = 64;
  info.sinkTokens = 1;
  info.maxPositions = 4096;
  info.floor[rt::kKey] = info.floor[rt::kValue] = 2;
  info.parameterBytes[rt::kKey] = 256;
  info.parameterBytes[rt::kValue] = 512;
  workload.session.budgetBytes = budget;
  workload.session.plans = {{0, tokens, 1}};
  workload.session.maxTokens = tokens;
  return workload;
}

TEST(AllocationLevels, FindsTheBestOfAllCombinations) {
  std::ifstream file(PMKVQ_TEST_DATA_DIR "/allocation.json");
  nlohmann::json cases = nlohmann::json::parse(file).at("cases");
  ASSERT_GT(cases.size(), 10u);
  for (const nlohmann::json &test : cases) {
    Choices choices = choicesOf(test.at("losses"));
    int64_t blocks = test.at("blocks");
    rt::Result<Levels> levels = allocateLevels(choices, blocks);
    ASSERT_TRUE(levels.ok()) << levels.status().message();
    EXPECT_EQ(*levels, test.at("levels").get<Levels>()) << blocks;
    EXPECT_LE(countBlocks(*levels), blocks);
  }
}

TEST(AllocationLevels, SaysHowManyBlocksThereMustBe) {
  rt::Result<Levels> levels = allocateLevels(Choices(2), 3);
  ASSERT_FALSE(levels.ok());
  EXPECT_EQ(levels.status().code(), rt::StatusCode::OutOfMemory);
  EXPECT_NE(levels.status().message().find("at least 4 blocks"),
            std::string::npos)
      << levels.status().message();
}

TEST(AllocationLevels, EqualLossesTakeTheFewestBlocks) {
  rt::Result<Levels> levels = allocateLevels(Choices(3), 48);
  ASSERT_TRUE(levels.ok());
  EXPECT_EQ(*levels, Levels(3, {2, 2}));
}

TEST(AllocationLevels, FixedLevelsStay) {
  Choices choices(2);
  for (auto &layer : choices)
    layer[rt::kKey].loss = layer[rt::kValue].loss = {0, 1, 4, 9};
  choices[1][rt::kKey].lowest = choices[1][rt::kKey].highest = 8;
  choices[1][rt::kValue].lowest = choices[1][rt::kValue].highest = 2;
  rt::Result<Levels> levels = allocateLevels(choices, 9);
  ASSERT_TRUE(levels.ok());
  EXPECT_EQ(*levels, (Levels{{4, 4}, {8, 2}}));
}

TEST(AllocationLevels, ALossIsThatOfWhatPagesBear) {
  Choices choices(2);
  choices[0][rt::kKey].loss = {0, 1, 4, 9};
  choices[1][rt::kValue].loss = {0, 2, 20, 200, 2000};
  WeightTable weights(2);
  weights[0][rt::kKey] = {0.25, 0.5, 0, 0.25};
  weights[1][rt::kValue] = {0, 0, 0.75, 0, 0.25};
  EXPECT_EQ(weighLosses(choices, weights),
            (LossTable{{11.0 / 4, 0}, {0, 515}}));
}

// One layer: keys may save 5 by a block, then 3 by two (1.5 each).
TEST(AllocationLevels, ThePriceIsThatOfTheNextStep) {
  Choices choices(1);
  choices[0][rt::kKey].loss = {0, 1, 4, 9};
  EXPECT_DOUBLE_EQ(shadowPrice(choices, 2), 5);
  EXPECT_DOUBLE_EQ(shadowPrice(choices, 3), 1.5);
  EXPECT_DOUBLE_EQ(shadowPrice(choices, 4), 1.5);
  EXPECT_DOUBLE_EQ(shadowPrice(choices, 5), 0.25);
  EXPECT_DOUBLE_EQ(shadowPrice(choices, 9), 0);
}

TEST(AllocationLevels, BlocksAreWhatTheBudgetLeaves) {
  rt::Result<int64_t> minimum = minimumBytes(workloadOf(0, 400));
  ASSERT_TRUE(minimum.ok());
  // 3 pages in 2 heads; a block is 2 KiB.
  int64_t one = int64_t{3} * 2 * 2048;
  for (int64_t more : {int64_t{0}, one - 1, one, 5 * one, 1000 * one}) {
    rt::Result<int64_t> blocks =
        blocksForPages(workloadOf(*minimum + more, 400));
    ASSERT_TRUE(blocks.ok());
    EXPECT_EQ(*blocks, std::min<int64_t>(48, 6 + more / one)) << more;
  }
  EXPECT_EQ(*blocksForPages(workloadOf(1 << 20, 100)), 48);
}

TEST(AllocationLevels, FloorsOfLayersCountInBytesAndPlans) {
  Workload workload = workloadOf(-1, 400);
  rt::Result<int64_t> low = minimumBytes(workload);
  setFloors({{2, 2}, {8, 2}, {2, 4}}, workload.info);
  EXPECT_EQ(workload.info.floor[rt::kKey], 2);
  EXPECT_EQ(rt::floorOf(workload.info, 1, rt::kKey), 8);
  EXPECT_EQ(rt::floorOf(workload.info, 2, rt::kValue), 4);
  rt::Result<int64_t> high = minimumBytes(workload);
  ASSERT_TRUE(low.ok() && high.ok());
  // Three blocks more for keys at 8, one for values at 4.
  EXPECT_EQ(*high - *low, int64_t{3} * 2 * 2048 * 4);

  for (int32_t schedule : {rt::kScheduleNone, rt::kSchedulePage,
                           rt::kScheduleKeysLast, rt::kScheduleLayer}) {
    workload.info.queryHeads = 2;
    workload.info.schedule = schedule;
    workload.session.budgetBytes = *high;
    rt::Result<Plan> plan = makePlan(workload);
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    ASSERT_TRUE(plan->fits());
    EXPECT_EQ(plan->bytes.inUse, *high) << schedule;
    EXPECT_EQ(plan->pages[1][rt::kKey][rt::ladderIndex(8)], 6);
    EXPECT_EQ(plan->pages[1][rt::kValue][rt::ladderIndex(2)], 6);
    EXPECT_EQ(plan->pages[2][rt::kValue][rt::ladderIndex(4)], 6);
  }
}

TEST(AllocationLevels, ReadsFloorsOfLayers) {
  rt::Result<LayerFloors> one = parseLayerFloors("5:4+2");
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->first, 5);
  EXPECT_EQ(one->last, 5);
  EXPECT_EQ(one->floor, (std::array<int32_t, 2>{4, 2}));
  rt::Result<LayerFloors> range = parseLayerFloors("0-31:16");
  ASSERT_TRUE(range.ok());
  EXPECT_EQ(range->last, 31);
  EXPECT_EQ(range->floor, (std::array<int32_t, 2>{16, 16}));
  for (const char *text : {"", "5", "5:", "5:3", "3-1:8", "-1:8", "5:8+",
                           "5:8 ", "a:8", "5:8+2+4", "99999:2"})
    EXPECT_EQ(parseLayerFloors(text).status().code(),
              rt::StatusCode::InvalidArgument)
        << text;
}

} // namespace
