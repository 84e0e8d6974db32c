//===- RuntimeReferenceTest.cpp - The runtime plans as the reference ------===//
//
// Random geometries, budgets and lengths: every level of every page and every
// byte, after every step, as lib/Reference has them.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSessionFixture.h"

#include "pmkvq/Reference/Planner.h"

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;
namespace reference = pmkvq::reference;

namespace {
class ReferenceTest : public SessionTest {
protected:
  void randomGeometry(ScheduleKind kind) {
    state.info.schedule = kind;
    state.info.layers = 1 + random() % 3;
    state.info.kvHeads = 1 + random() % 3;
    state.info.queryHeads = state.info.kvHeads;
    state.info.sinkTokens = random() % 4;
    state.info.parameterBytes[kKey] = 16 * (random() % 5);
    state.info.floor[kKey] = kLadder[random() % 4];
    state.info.floor[kValue] = kLadder[random() % 4];
    maybeLowerValuesToOneBit();
  }

  reference::CacheShape shape() const {
    reference::CacheShape shape;
    shape.layers = state.info.layers;
    shape.sequences = session->maxSequences();
    shape.kvHeads = state.info.kvHeads;
    shape.headDim = state.info.headDim;
    shape.sinkTokens = state.info.sinkTokens;
    shape.maxTokens = session->maxTokens();
    shape.parameterBytes = {state.info.parameterBytes[kKey],
                            state.info.parameterBytes[kValue]};
    return shape;
  }

  reference::Schedule schedule() const {
    reference::Schedule schedule;
    // kScheduleNone and on.
    const reference::ScheduleKind kinds[] = {
        reference::ScheduleKind::None, reference::ScheduleKind::Page,
        reference::ScheduleKind::Layer, reference::ScheduleKind::KeysLast};
    schedule.kind = kinds[state.info.schedule];
    schedule.floor = {state.info.floor[kKey], state.info.floor[kValue]};
    schedule.budgetBytes = session->bytes().budget;
    return schedule;
  }

  /// Steps random sequences until one may not; both say so at the same time.
  void compareSteps() {
    reference::CacheShape shape = this->shape();
    reference::Schedule schedule = this->schedule();
    reference::PageLevels levels(shape);
    std::vector<int32_t> tokens = randomTokens(kPageTokens);
    for (int step = 0; step < 40; ++step) {
      std::vector<StepRun> runs;
      for (int32_t s = 0; s < session->maxSequences(); ++s) {
        int32_t count = std::min<int32_t>(session->room(s), random() % 129);
        if (count < 1)
          continue;
        runs.push_back({s, tokens.data(), count});
        if (pagesForTokens(session->tokens(s) + count, shape.sinkTokens) >
            levels.pages(s))
          levels.addPage(s, reference::initialLevel(schedule));
      }
      if (runs.empty())
        continue;
      bool fits = reference::planLevels(shape, schedule, levels).fits();
      Result<StepLogits> logits = session->step(runs);
      ASSERT_EQ(logits.ok(), fits) << logits.status().message();
      if (!fits) {
        ++refused;
        return;
      }
      compare(schedule, levels);
      EXPECT_EQ(session->bytes().inUse,
                reference::totalBytes(shape, schedule, levels));
      ASSERT_FALSE(HasFailure());
    }
  }

  void compare(const reference::Schedule &schedule,
               const reference::PageLevels &levels) {
    for (int32_t s = 0; s < levels.sequences(); ++s) {
      ASSERT_EQ(session->pages(s), levels.pages(s));
      for (int32_t l = 0; l < levels.layers(); ++l)
        for (int32_t h = 0; h < levels.kvHeads(); ++h)
          for (int32_t p = 0; p < levels.pages(s); ++p)
            for (int32_t part = 0; part < kParts; ++part)
              ASSERT_EQ(
                  session->pageEntry(l, s, h, p)->level[part],
                  reference::partLevel(schedule, levels.at(s, p, l, h), part));
    }
  }

  int refused = 0;
};
} // namespace

TEST_F(ReferenceTest, LevelsAndBytesAreThoseOfTheReference) {
  for (int round = 0; round < 200; ++round) {
    randomGeometry(static_cast<ScheduleKind>(round % 4));
    SessionOptions options;
    options.maxSequences = 1 + random() % 3;
    options.maxTokens = 1000;
    options.threads = 1 + random() % 2;
    std::vector<SequencePlan> plans(options.maxSequences,
                                    {0, 200 + int64_t(random() % 800), 1});
    options.budgetBytes =
        *minimumBytes(program(), options, plans) + random() % 100000;
    open(options);
    compareSteps();
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
  EXPECT_GT(refused, 20);
  EXPECT_GT(paired, 20);
}
