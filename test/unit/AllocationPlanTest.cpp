//===- AllocationPlanTest.cpp - Tests of plans ----------------------------===//
//
// A plan against the runtime on the fake program, which checks blocks and
// slots, and against the reference's planner, which states the rules anew; over
// random geometries, budgets, batches and lengths.
//
//===----------------------------------------------------------------------===//

#include "RuntimeFakeProgram.h"
#include "pmkvq/Allocation/Plan.h"
#include "pmkvq/Reference/Planner.h"

#include "rapidcheck.h"

using namespace pmkvq;
using namespace pmkvq::rt::test;
using allocation::Plan;
using allocation::Workload;

//===----------------------------------------------------------------------===//
// The reference beside the runtime
//===----------------------------------------------------------------------===//

namespace {
/// Follows a run of the fake with the reference's planner.
struct Shadow {
  reference::CacheShape shape;
  reference::Schedule schedule;
  reference::PageLevels levels;
  int64_t peak = 0;
  bool fits = true;

  Shadow(reference::CacheShape shape, reference::Schedule schedule)
      : shape(shape), schedule(schedule), levels(shape),
        peak(reference::fixedBytes(shape)) {}

  /// Adds the pages that the session has made since.
  void follow(const rt::Session &session) {
    bool isNew = false;
    for (int32_t i = 0; i < shape.sequences; ++i)
      for (; levels.pages(i) < session.pages(i); isNew = true)
        levels.addPage(i, reference::initialLevel(schedule));
    if (!isNew)
      return;
    reference::PlanResult result =
        reference::planLevels(shape, schedule, levels);
    fits &= result.fits();
    peak = std::max(peak, result.bytes);
  }
};
} // namespace

static Shadow *shadow = nullptr;

static int32_t shadowedStep(rt::StepArgs *args) {
  shadow->follow(*fake->session);
  return fakeStep(args);
}

static Shadow makeShadow(const Workload &workload) {
  const rt::ProgramInfo &info = workload.info;
  reference::CacheShape shape;
  shape.layers = info.layers;
  shape.sequences = workload.session.maxSequences;
  shape.kvHeads = info.kvHeads;
  shape.headDim = info.headDim;
  shape.sinkTokens = info.sinkTokens;
  shape.maxTokens = workload.session.maxTokens;
  shape.parameterBytes = {info.parameterBytes[0], info.parameterBytes[1]};
  reference::Schedule schedule;
  schedule.kind =
      info.schedule == rt::kScheduleKeysLast ? reference::ScheduleKind::KeysLast
      : info.schedule == rt::kSchedulePage   ? reference::ScheduleKind::Page
                                             : reference::ScheduleKind::None;
  schedule.floor = {info.floor[0], info.floor[1]};
  schedule.budgetBytes = std::max<int64_t>(0, workload.session.budgetBytes);
  return Shadow(shape, schedule);
}

/// Pages per level as the reference has them.
static rt::LevelCounts countLevels(const Shadow &shadow, int32_t layer,
                                   int32_t part) {
  rt::LevelCounts counts = {};
  for (int32_t i = 0; i < shadow.shape.sequences; ++i)
    for (int64_t page = 0; page < shadow.levels.pages(i); ++page)
      for (int32_t head = 0; head < shadow.shape.kvHeads; ++head)
        ++counts[rt::ladderIndex(reference::partLevel(
            shadow.schedule, shadow.levels.at(i, page, layer, head), part))];
  return counts;
}

//===----------------------------------------------------------------------===//
// Properties
//===----------------------------------------------------------------------===//

static int64_t anyOf(int64_t low, int64_t high) {
  // Always the whole range: RapidCheck would begin with the smallest numbers.
  return *rc::gen::resize(rc::kNominalSize,
                          rc::gen::inRange<int64_t>(low, high + 1));
}

static int32_t anyLevel() { return rt::kLadder[anyOf(0, 3)]; }

/// Small enough to run, large enough that a prompt takes several steps and a
/// batch more rows than one step holds.
static Workload anyWorkload() {
  Workload workload;
  rt::ProgramInfo &info = workload.info;
  info = plainInfo();
  info.layers = anyOf(1, 3);
  info.kvHeads = anyOf(1, 3);
  info.queryHeads = info.kvHeads * anyOf(1, 3);
  info.headDim = 16 * anyOf(1, 4);
  info.sinkTokens = anyOf(0, 4);
  info.parameterBytes[rt::kKey] = 16 * anyOf(0, 8);
  info.parameterBytes[rt::kValue] = 16 * anyOf(0, 8);
  const rt::ScheduleKind kinds[] = {rt::kScheduleNone, rt::kSchedulePage,
                                    rt::kScheduleKeysLast};
  info.schedule = kinds[anyOf(0, 2)];
  info.floor[rt::kKey] = anyLevel();
  info.floor[rt::kValue] = anyLevel();
  rt::SessionOptions &session = workload.session;
  // Now and then more sequences than one step of the prompt can hold.
  session.maxSequences = anyOf(0, 9) ? anyOf(1, 4) : anyOf(15, 20);
  session.threads = 1;
  session.budgetBytes = -1;
  for (int32_t i = 0; i < session.maxSequences; ++i) {
    session.plans.push_back({i, anyOf(1, 700), anyOf(1, 300)});
    session.maxTokens =
        std::max(session.maxTokens, session.plans[i].promptTokens +
                                        session.plans[i].maxNewTokens - 1);
  }
  return workload;
}

/// Runs the workload on the fake; the session is for its queries.
static std::unique_ptr<rt::Session> runFake(const Workload &workload) {
  fake->info = workload.info;
  fake->start(workload.session.maxSequences);
  rt::ProgramEntries entries = fakeEntries();
  entries.step = shadowedStep;
  rt::Result<rt::Program> program = rt::openProgram(entries, {});
  RC_ASSERT(program.ok());
  auto session = rt::Session::open(*program, workload.session);
  RC_ASSERT(session.ok());
  fake->session = session->get();
  std::vector<rt::Prompt> prompts;
  std::vector<int64_t> counts;
  for (const rt::SequencePlan &plan : workload.session.plans) {
    prompts.push_back(
        {plan.sequence, std::vector<int32_t>(plan.promptTokens, 1)});
    counts.push_back(plan.maxNewTokens);
  }
  RC_ASSERT((*session)->generate(prompts, counts).ok());
  RC_ASSERT(fake->errors.load() == 0);
  return std::move(*session);
}

static void checkPlan(const Plan &plan, const Workload &workload) {
  Fake state;
  fake = &state;
  Shadow reference = makeShadow(workload);
  shadow = &reference;
  std::unique_ptr<rt::Session> session = runFake(workload);
  rt::CacheBytes bytes = session->bytes();
  RC_ASSERT(plan.bytes.fixedAreas == bytes.fixedAreas);
  RC_ASSERT(plan.bytes.pageTables == bytes.pageTables);
  RC_ASSERT(plan.bytes.parameterSlots == bytes.parameterSlots);
  RC_ASSERT(plan.bytes.blocks == bytes.blocks);
  RC_ASSERT(plan.bytes.inUse == bytes.inUse);
  RC_ASSERT(plan.bytes.peak == bytes.peak);
  RC_ASSERT(reference.fits);
  RC_ASSERT(plan.bytes.peak == reference.peak);
  RC_ASSERT(plan.bytes.inUse == reference::totalBytes(reference.shape,
                                                      reference.schedule,
                                                      reference.levels));
  for (int32_t layer = 0; layer < workload.info.layers; ++layer)
    for (rt::Part part : {rt::kKey, rt::kValue}) {
      RC_ASSERT(plan.pages[layer][part] == session->levels(layer, part));
      RC_ASSERT(plan.pages[layer][part] == countLevels(reference, layer, part));
    }
  fake = nullptr;
  shadow = nullptr;
}

/// What the reference says is the least.
static int64_t referenceMinimum(const Workload &workload) {
  Shadow reference = makeShadow(workload);
  std::vector<int64_t> tokens;
  for (const rt::SequencePlan &plan : workload.session.plans)
    tokens.push_back(plan.promptTokens + plan.maxNewTokens - 1);
  return reference::bytesAtFloor(reference.shape, reference.schedule, tokens);
}

TEST(AllocationPlanTest, PredictsRuntimeAndReferenceToTheByte) {
  EXPECT_TRUE(rc::check("a plan is what a run takes", [] {
    Workload workload = anyWorkload();
    int64_t least = referenceMinimum(workload);
    // Every fourth one has only the bytes that are proven to suffice, every
    // fourth has no budget.
    int64_t kind = anyOf(0, 3);
    if (kind)
      workload.session.budgetBytes =
          least + (kind > 1 ? anyOf(0, 4 * least) : 0);
    rt::Result<Plan> plan = allocation::makePlan(workload);
    RC_ASSERT(plan.ok());
    RC_ASSERT(plan->fits());
    RC_ASSERT(plan->minimumBytes == least);
    checkPlan(*plan, workload);
  }));
}

TEST(AllocationPlanTest, NamesTheBytesMissing) {
  EXPECT_TRUE(rc::check("what is missing is exact", [] {
    Workload workload = anyWorkload();
    int64_t least = referenceMinimum(workload);
    int64_t missing = anyOf(1, least - 1);
    workload.session.budgetBytes = least - missing;
    rt::Result<Plan> plan = allocation::makePlan(workload);
    RC_ASSERT(plan.ok());
    RC_ASSERT(plan->missingBytes == missing);
    RC_ASSERT(plan->pages.empty());
  }));
}

TEST(AllocationPlanTest, MostNewTokensIsTheLastThatFits) {
  EXPECT_TRUE(rc::check("one token more does not fit", [] {
    Workload workload = anyWorkload();
    workload.session.budgetBytes = anyOf(1, 3 * referenceMinimum(workload));
    int64_t most = allocation::mostNewTokens(workload);
    for (int64_t count : {most, most + 1}) {
      workload.session.maxTokens = 0;
      for (rt::SequencePlan &plan : workload.session.plans) {
        plan.maxNewTokens = count;
        workload.session.maxTokens =
            std::max(workload.session.maxTokens, plan.promptTokens + count - 1);
      }
      if (count == 0 || workload.session.maxTokens > workload.info.maxPositions)
        continue;
      RC_ASSERT((referenceMinimum(workload) <= workload.session.budgetBytes) ==
                (count == most));
    }
  }));
}

//===----------------------------------------------------------------------===//
// Examples
//===----------------------------------------------------------------------===//

/// The example of Plan.h: room for 24 blocks.
static Workload smallExample() {
  Workload workload;
  workload.info = plainInfo();
  workload.info.layers = workload.info.kvHeads = workload.info.queryHeads = 1;
  workload.info.headDim = 128;
  workload.session.maxTokens = 400;
  workload.session.plans = {{0, 1, 400}};
  int64_t others = rt::fixedAreaBytes(128, 1) +
                   3 * (int64_t(sizeof(rt::PageEntry)) + 64 + 512);
  workload.session.budgetBytes = others + 24 * rt::blockBytes(128);
  return workload;
}

TEST(AllocationPlanTest, SaysWhenLevelsAreReached) {
  Workload workload = smallExample();
  Plan plan = *allocation::makePlan(workload);
  for (int32_t part = 0; part < rt::kParts; ++part) {
    EXPECT_EQ(plan.firstAt[0][part], (rt::LevelCounts{129, 257, -1, -1, -1}));
    EXPECT_EQ(plan.pages[0][part], (rt::LevelCounts{0, 3}));
  }
  EXPECT_EQ(plan.bytes.inUse, workload.session.budgetBytes);
  // 8 bits, and 576 bytes of parameters on 2 * 128 * 128 elements.
  EXPECT_DOUBLE_EQ(plan.bitsPerElement, 8 + 576 * 8 / 32768.0);
}

/// Weights of the one layer's keys and values, which must be alike.
static allocation::LevelWeights weightsOf(const Workload &workload) {
  Plan plan = *allocation::makePlan(workload);
  EXPECT_EQ(plan.weights[0][rt::kKey], plan.weights[0][rt::kValue]);
  return plan.weights[0][rt::kKey];
}

// Room for 40 blocks: of three pages the oldest is at 8 bits.
TEST(AllocationPlanTest, PagesWeighWhatTheyBearOfALoss) {
  Workload workload = smallExample();
  workload.session.budgetBytes += 16 * rt::blockBytes(128);
  EXPECT_EQ(weightsOf(workload), (allocation::LevelWeights{2 / 3.0, 1 / 3.0}));
  rt::LayerLosses losses;
  losses.setShares({0.5, 0.25, 0.25}, 1);
  workload.losses = {losses};
  EXPECT_EQ(weightsOf(workload), (allocation::LevelWeights{0.75, 0.25}));
  workload.session.plans = {{0, 1, 100}};
  EXPECT_EQ(weightsOf(workload), (allocation::LevelWeights{}));
}

// A reasoner of 6 layers, 2 kv heads and head dim 128 with 3,074 cached tokens:
// 288 page-heads, and bytes from the design, which counts no tables.
TEST(AllocationPlanTest, ReasonerEndsAsDesigned) {
  Workload workload;
  workload.info = plainInfo();
  workload.info.layers = 6;
  workload.info.headDim = 128;
  workload.info.parameterBytes[rt::kKey] = 512;
  workload.session.maxTokens = 3074;
  workload.session.plans = {{0, 2000, 1075}};
  int64_t tables = 24 * 12 * int64_t(sizeof(rt::PageEntry));
  EXPECT_EQ(*allocation::minimumBytes(workload), 3366 * 1024 + tables);
  EXPECT_EQ(allocation::countPageHeads(workload), 288);
  for (auto [kibibytes, atFour] : {std::pair(3500, 16), std::pair(4400, 129)}) {
    workload.session.budgetBytes = kibibytes * 1024 + tables;
    Plan plan = *allocation::makePlan(workload);
    int64_t four = 0;
    for (const auto &layer : plan.pages)
      four += layer[rt::kKey][rt::ladderIndex(4)];
    EXPECT_EQ(four, atFour);
    EXPECT_LE(plan.bytes.peak, workload.session.budgetBytes);
  }
}

// The compiler's bound on a budget is what a plan of the first page takes.
TEST(AllocationPlanTest, FirstPageBytesAreThoseOfAPlan) {
  for (int32_t beyond : {0, 1}) {
    Workload workload;
    workload.info = plainInfo();
    workload.info.layers = 3;
    workload.info.floor[rt::kKey] = 8;
    workload.info.parameterBytes[rt::kKey] = 512;
    int32_t tokens = workload.info.sinkTokens + rt::kPageTokens + beyond;
    workload.info.maxPositions = tokens;
    workload.session.plans = {{0, tokens, 1}};
    EXPECT_EQ(*allocation::minimumBytes(workload),
              rt::firstPageBytes(workload.info))
        << beyond;
    EXPECT_EQ(allocation::countPageHeads(workload) > 0, beyond == 1);
  }
}

TEST(AllocationPlanTest, ABudgetInBitsIsThatManyBits) {
  Workload workload = smallExample();
  double parameters = 576 * 8 / 32768.0;
  for (int32_t level : {2, 4, 8, 16}) {
    double bits = level + parameters;
    workload.session.budgetBytes = *allocation::budgetForBits(workload, bits);
    Plan plan = *allocation::makePlan(workload);
    EXPECT_DOUBLE_EQ(plan.bitsPerElement, bits);
    EXPECT_EQ(plan.bytes.inUse, workload.session.budgetBytes);
    EXPECT_EQ(plan.pages[0][rt::kKey][rt::ladderIndex(level)], 3);
  }
  workload.session.budgetBytes = *allocation::budgetForBits(workload, 2.125);
  EXPECT_GT(allocation::makePlan(workload)->missingBytes, 0);
}

TEST(AllocationPlanTest, RefusesSizesOutOfRange) {
  Workload workload = smallExample();
  workload.session.plans = {{0, 1, int64_t(1) << 62}};
  EXPECT_EQ(allocation::makePlan(workload).status().code(),
            rt::StatusCode::InvalidArgument);
  workload = smallExample();
  workload.session.plans = {{0, 0, 10}};
  EXPECT_EQ(allocation::makePlan(workload).status().code(),
            rt::StatusCode::InvalidArgument);
  workload = smallExample();
  workload.info.layers = 0;
  EXPECT_FALSE(allocation::makePlan(workload).ok());
}
