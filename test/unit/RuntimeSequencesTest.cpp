//===- RuntimeSequencesTest.cpp - Tests of coming, forking and going ------===//
//
// Plans that are kept, pages that are shared, and random histories of all
// calls.  The fake checks marks and ownership at every kernel and step.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSessionFixture.h"
#include "RuntimeSlowSchedule.h"

#include <string>

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

using SequencesTest = SessionTest;

//===----------------------------------------------------------------------===//
// Plans
//===----------------------------------------------------------------------===//

TEST_F(SequencesTest, APlanIsAPromiseUntilRelease) {
  SessionOptions options;
  options.maxSequences = 3;
  options.maxTokens = 2000;
  options.budgetBytes =
      *minimumBytes(program(), options, {{0, 900, 101}, {1, 500, 1}});
  open(options);
  ASSERT_TRUE(session->admit({{0, 900, 101}}).ok());
  EXPECT_EQ(session->plannedTokens(0), 1000);
  EXPECT_EQ(session->freeSequence(), 1);
  // Nothing is cached yet, but what is promised is not there for others.
  EXPECT_EQ(session->admit({{1, 700, 1}}).code(), StatusCode::OutOfMemory);
  EXPECT_EQ(session->prefill({{1, randomTokens(700)}}).code(),
            StatusCode::OutOfMemory);
  feed(1, 500);
  std::vector<int32_t> more = randomTokens(128);
  int64_t before = session->bytes().inUse;
  EXPECT_TRUE(session->step({{1, more.data(), session->room(1)}}).ok());
  EXPECT_EQ(session->step({{1, more.data(), 128}}).status().code(),
            StatusCode::OutOfMemory);
  EXPECT_EQ(session->bytes().inUse, before);
  feed(0, 900);
  EXPECT_TRUE(session->decode({{0, 101}}).ok());
  release(0);
  EXPECT_EQ(session->plannedTokens(0), 0);
  EXPECT_TRUE(session->admit({{2, 900, 1}}).ok());
  checkAll();
}

TEST_F(SequencesTest, ARefusedPlanPromisesNothing) {
  SessionOptions options;
  options.maxSequences = 2;
  options.budgetBytes = *minimumBytes(program(), options, {{0, 900, 1}});
  open(options);
  ASSERT_TRUE(session->admit({{0, 300, 1}}).ok());
  Status status = session->admit({{0, 900, 1}, {1, 900, 1}});
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory);
  EXPECT_EQ(session->plannedTokens(0), 300);
  EXPECT_EQ(session->plannedTokens(1), 0);
  // A new plan takes the place of the old one.
  EXPECT_TRUE(session->admit({{0, 900, 1}}).ok());
  EXPECT_TRUE(session->admit({{0, 100, 1}}).ok());
  EXPECT_EQ(session->plannedTokens(0), 100);
}

//===----------------------------------------------------------------------===//
// Fork
//===----------------------------------------------------------------------===//

TEST_F(SequencesTest, AForkSharesPagesAndTakesNoBytes) {
  SessionOptions options;
  options.maxSequences = 3;
  open(options);
  feed(0, 400); // 1 + 128 + 256 + 15: two pages, 143 - 128 in the window.
  CacheBytes before = session->bytes();
  fork(0, 2);
  EXPECT_EQ(session->bytes().inUse, before.inUse);
  EXPECT_EQ(session->pages(2), session->pages(0));
  EXPECT_EQ(session->sharedPages(0), session->pages(0));
  EXPECT_EQ(session->pageEntry(1, 0, 1, 0)->slot,
            session->pageEntry(1, 2, 1, 0)->slot);
  EXPECT_EQ(session->levels(0, kKey), session->levels(2, 0, kKey));
  // Both go on as one would have, apart from each other.
  auto results = session->decode({{0, 200}, {2, 200}});
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].tokens, (*results)[1].tokens);
  EXPECT_EQ(session->sharedPages(0), 3);
  EXPECT_EQ(session->pages(0), 4);
  checkAll();
  release(0);
  EXPECT_EQ(session->sharedPages(2), 0);
  checkAll();
  release(2);
  EXPECT_EQ(session->bytes().inUse, before.fixedAreas + before.pageTables);
}

TEST_F(SequencesTest, ASharedPageFallsOnceForAll) {
  state.info.layers = state.info.kvHeads = 1;
  state.info.queryHeads = 1;
  SessionOptions options;
  options.maxSequences = 4;
  options.maxTokens = 600;
  options.threads = 1;
  int64_t block = blockBytes(state.info.headDim);
  options.budgetBytes = *minimumBytes(program(), options, {}) +
                        2 * program().slotBytes() + 24 * block;
  open(options);
  feed(0, 130); // One page at level 16.
  for (int32_t i = 1; i < 4; ++i)
    fork(0, i);
  ASSERT_EQ(session->levels(0, kKey), (LevelCounts{1, 0, 0, 0}));
  // A page of its own for sequence 3: 16 + 16 blocks are too many, so the
  // shared one falls to 8, one kernel a part.
  feed(3, 128);
  EXPECT_EQ(state.requantized.load(), 2);
  for (int32_t i = 0; i < 4; ++i)
    EXPECT_EQ(session->pageEntry(0, i, 0, 0)->level[kValue], 8);
  EXPECT_EQ(session->levels(0, kKey), (LevelCounts{1, 1, 0, 0}));
  EXPECT_EQ(session->bytes().blocks, 24 * block);
  checkAll();
}

// A shared page waits its turn as a page of its lowest holder.
TEST_F(SequencesTest, TheLowestHolderOwnsASharedPage) {
  state.info.layers = state.info.kvHeads = state.info.queryHeads = 1;
  SessionOptions options;
  options.maxSequences = 3;
  options.maxTokens = 600;
  options.budgetBytes = *minimumBytes(program(), options, {}) +
                        3 * program().slotBytes() +
                        (16 + 16 + 8) * blockBytes(state.info.headDim);
  open(options);
  feed(0, 130);
  feed(1, 130);
  fork(0, 2);
  // One of three pages must fall: of the two oldest that of sequences 0 and 2.
  feed(2, 128);
  EXPECT_EQ(session->pageEntry(0, 2, 0, 0)->level[kKey], 8);
  EXPECT_EQ(session->pageEntry(0, 1, 0, 0)->level[kKey], 16);
  checkAll();
}

TEST_F(SequencesTest, ForksMidPageOfForksGoInAnyOrder) {
  SessionOptions options;
  options.maxSequences = 8;
  options.maxTokens = 900;
  options.budgetBytes = *minimumBytes(
      program(), options, std::vector<SequencePlan>(5, {0, 800, 1}));
  for (int round = 0; round < 20; ++round) {
    open(options);
    feed(0, 1 + random() % 500);
    std::vector<int32_t> live = {0};
    for (int32_t child = 1; child < 8; ++child) {
      fork(live[random() % live.size()], child);
      live.push_back(child);
      feed(live[random() % live.size()], 1 + random() % 60);
      checkAll();
    }
    std::shuffle(live.begin(), live.end(), random);
    while (!live.empty()) {
      release(live.back());
      live.pop_back();
      checkAll();
      if (!live.empty() && session->tokens(live[0]) < 700)
        feed(live[0], 1 + random() % 100);
    }
    EXPECT_EQ(session->bytes().blocks, 0);
    EXPECT_EQ(session->bytes().parameterSlots, 0);
    ASSERT_EQ(state.errors.load(), 0);
  }
}

TEST_F(SequencesTest, BadForksAreRefused) {
  SessionOptions options;
  options.maxSequences = 3;
  open(options);
  feed(0, 10);
  feed(1, 10);
  EXPECT_EQ(session->fork(0, 0).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(session->fork(3, 2).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(session->fork(0, -1).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(session->fork(0, 1).code(), StatusCode::FailedPrecondition);
  EXPECT_TRUE(session->fork(0, 2).ok());
}

//===----------------------------------------------------------------------===//
// Levels, by the definition
//===----------------------------------------------------------------------===//

namespace {
/// Steps one at a time, each compared with a slow plan.
class PlannedTest : public SessionTest {
protected:
  /// Pages once each, under the lowest sequence that holds them.
  std::vector<PageState> collect() {
    std::vector<PageState> pages;
    std::set<uint32_t> slots;
    for (int32_t s = 0; s < session->maxSequences(); ++s)
      for (int32_t l = 0; l < state.info.layers; ++l)
        for (int32_t h = 0; h < state.info.kvHeads; ++h)
          for (int32_t p = 0; p < session->pages(s); ++p) {
            const PageEntry *entry = session->pageEntry(l, s, h, p);
            if (slots.insert(entry->slot).second)
              pages.push_back(
                  {l, s, h, p, {entry->level[kKey], entry->level[kValue]}});
          }
    return pages;
  }

  void addNew(const std::vector<int32_t> &sequences,
              std::vector<PageState> &pages) {
    for (int32_t s : sequences)
      if (session->room(s) == kPageTokens &&
          session->tokens(s) >= state.info.sinkTokens + kPageTokens)
        for (int32_t l = 0; l < state.info.layers; ++l)
          for (int32_t h = 0; h < state.info.kvHeads; ++h)
            pages.push_back({l, s, h, session->pages(s), {}});
  }

  ScheduleLimits limits(size_t pageHeads) {
    CacheBytes bytes = session->bytes();
    int64_t others = bytes.fixedAreas + bytes.pageTables +
                     int64_t(pageHeads) * session->program().slotBytes();
    ScheduleLimits limits{{state.info.floor[kKey], state.info.floor[kValue]},
                          blockBytes(state.info.headDim),
                          bytes.budget - others};
    limits.layerBytesAvailable =
        bytes.budget / state.info.layers - others / state.info.layers;
    return limits;
  }

  void stepAndCompare(const std::vector<int32_t> &sequences) {
    std::vector<PageState> expected = collect();
    size_t existing = expected.size();
    addNew(sequences, expected);
    bool layer = state.info.schedule == kScheduleLayer;
    bool flushes = expected.size() > existing;
    if (flushes) {
      ASSERT_TRUE((layer ? planLayersSlowly : planSlowly)(
          expected, existing, limits(expected.size())));
    }
    std::vector<int32_t> tokens = randomTokens(kPageTokens);
    std::vector<StepRun> runs;
    for (int32_t s : sequences)
      runs.push_back({s, tokens.data(), std::min(session->room(s), 64)});
    auto logits = session->step(runs);
    ASSERT_TRUE(logits.ok()) << logits.status().message();
    for (const PageState &page : expected)
      for (int32_t part = 0; part < kParts; ++part)
        ASSERT_EQ(
            session->pageEntry(page.layer, page.sequence, page.head, page.page)
                ->level[part],
            page.level[part]);
    plans += flushes;
  }

  int plans = 0;
};
} // namespace

TEST_F(PlannedTest, SharedPagesFallAsPlannedSlowly) {
  for (int round = 0; round < 40; ++round) {
    state.info.schedule = round % 2 ? kScheduleLayer : kSchedulePage;
    state.info.layers = 1 + random() % 3;
    state.info.kvHeads = 1 + random() % 2;
    state.info.queryHeads = 2;
    state.info.floor[kKey] = kLadder[1 + random() % 3];
    state.info.floor[kValue] = kLadder[1 + random() % 3];
    SessionOptions options;
    options.maxSequences = 4;
    options.maxTokens = 1200;
    options.threads = 2;
    options.budgetBytes =
        *minimumBytes(program(), options,
                      std::vector<SequencePlan>(4, {0, 1000, 1})) +
        random() % 200000;
    open(options);
    for (int i = 0; i < 30; ++i) {
      std::vector<int32_t> members;
      for (int32_t s = 0; s < 4; ++s)
        if (random() % 2 && session->tokens(s) < 900)
          members.push_back(s);
      if (!members.empty())
        stepAndCompare(members);
      int32_t from = random() % 4, to = session->freeSequence();
      if (random() % 3 == 0 && to >= 0 && session->tokens(from))
        fork(from, to);
      if (random() % 10 == 0)
        release(random() % 4);
      ASSERT_FALSE(HasFatalFailure());
    }
    ASSERT_EQ(state.errors.load(), 0) << round;
  }
  EXPECT_GT(plans, 200);
}

//===----------------------------------------------------------------------===//
// Random histories
//===----------------------------------------------------------------------===//

namespace {
/// Any call in any order; what is refused must have changed nothing.
class HistoryTest : public SessionTest {
protected:
  void refused(const Status &status) {
    EXPECT_TRUE(status.code() == StatusCode::OutOfMemory ||
                status.code() == StatusCode::InvalidArgument)
        << status.message();
    EXPECT_TRUE(session->usable().ok());
    ++refusals;
  }

  void act() {
    int32_t sequences = session->maxSequences();
    int32_t s = random() % sequences;
    int32_t free = session->freeSequence();
    CacheBytes before = session->bytes();
    Status status;
    switch (random() % 7) {
    case 0:
      status = session->admit(
          {{s, int64_t(random() % 500), 1 + int64_t(random() % 200)}});
      break;
    case 1:
    case 2:
      status = session->prefill({{s, randomTokens(1 + random() % 400)}});
      break;
    case 3:
      if (session->nextToken(s) >= 0)
        status = session->decode({{s, 1 + int64_t(random() % 200)}}).status();
      break;
    case 4:
      if (random() % 2)
        release(s);
      return;
    case 5:
      if (free >= 0 && free != s)
        fork(s, free);
      return;
    case 6: {
      Saved saved = save(s);
      if (random() % 2)
        release(s);
      free = session->freeSequence();
      before = session->bytes();
      if (free >= 0)
        status = restore(free, saved);
      break;
    }
    }
    if (status.ok())
      return;
    refused(status);
    EXPECT_EQ(session->bytes().inUse, before.inUse);
    EXPECT_EQ(session->bytes().peak, before.peak);
  }

  /// Every promise can be kept to its last token.
  void keepPromises() {
    for (int32_t s = 0; s < session->maxSequences(); ++s)
      if (session->plannedTokens(s) > session->tokens(s))
        feed(s, session->plannedTokens(s) - session->tokens(s));
  }

  int refusals = 0;
};
} // namespace

TEST_F(HistoryTest, RandomHistoriesKeepAllAccounts) {
  const ScheduleKind kinds[] = {kSchedulePage, kScheduleLayer, kScheduleNone,
                                kScheduleKeysLast};
  for (int round = 0; round < 80; ++round) {
    state.info.schedule = kinds[round % 4];
    state.info.layers = 1 + random() % 3;
    state.info.kvHeads = 1 + random() % 2;
    state.info.queryHeads = 2;
    state.info.sinkTokens = random() % 3;
    state.info.floor[kKey] = kLadder[random() % 4];
    state.info.floor[kValue] = kLadder[random() % 4];
    maybeLowerValuesToOneBit();
    SessionOptions options;
    options.maxSequences = 1 + random() % 5;
    options.maxTokens = 900;
    options.threads = 1 + random() % 2;
    options.budgetBytes =
        random() % 6 ? *minimumBytes(program(), options,
                                     {{0, 100 + int64_t(random() % 800), 1},
                                      {0, 1 + int64_t(random() % 800), 1}}) +
                           random() % 100000
                     : -1;
    open(options);
    for (int i = 0; i < 50; ++i) {
      act();
      checkAll();
      for (int32_t s = 0; s < options.maxSequences; ++s)
        ASSERT_EQ(session->pages(s),
                  pagesForTokens(session->tokens(s), state.info.sinkTokens));
      ASSERT_FALSE(HasFailure()) << "round " << round << ", act " << i;
    }
    keepPromises();
    for (int32_t s = 0; s < options.maxSequences; ++s)
      release(s);
    EXPECT_EQ(session->bytes().inUse,
              session->bytes().fixedAreas + session->bytes().pageTables);
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
  EXPECT_GT(refusals, 100);
  EXPECT_GT(paired, 5);
}

//===----------------------------------------------------------------------===//
// Policies
//===----------------------------------------------------------------------===//

namespace {
/// A policy from outside the library: values at 2 bits, keys as they come.
class LowValues final : public SchedulePolicy {
public:
  Status plan(std::vector<PageState> &pages, size_t existing,
              const ScheduleLimits &limits) const override {
    int64_t bytes = 0;
    for (size_t i = 0; i < pages.size(); ++i) {
      if (i >= existing)
        pages[i].level = {16, 2};
      bytes += pageBlockBytes(pages[i].level, limits.blockBytes);
    }
    return bytes <= limits.bytesAvailable
               ? Status()
               : Status(StatusCode::OutOfMemory, "values are low already");
  }
};
} // namespace

TEST_F(SequencesTest, APolicyMayComeFromOutside) {
  SessionOptions options;
  options.maxTokens = 600;
  options.policy = std::make_shared<LowValues>();
  // A program may ask for a policy that the runtime does not bring.
  state.info.schedule = kScheduleExternal + 3;
  open(options);
  feed(0, 400);
  EXPECT_EQ(session->levels(0, kKey), (LevelCounts{6, 0, 0, 0}));
  EXPECT_EQ(session->levels(1, kValue), (LevelCounts{0, 0, 0, 6}));
  options.policy = nullptr;
  EXPECT_EQ(Session::open(program(), options).status().code(),
            StatusCode::Unimplemented);
}

TEST_F(SequencesTest, TheLayerScheduleFillsEqualShares) {
  state.info.schedule = kScheduleLayer;
  SessionOptions options;
  options.maxTokens = 2000;
  int64_t least = *minimumBytes(program(), options, {{0, 1900, 1}});
  options.budgetBytes = least + 1; // The one byte is lost in rounding.
  open(options);
  ASSERT_TRUE(session->admit({{0, 1900, 1}}).ok());
  LevelCounts last = {};
  while (session->tokens(0) < 1900) {
    feed(0, 100);
    // All pages of a layer are at one level.
    last = session->levels(1, kKey);
    EXPECT_LE(std::count_if(last.begin(), last.end(),
                            [](int64_t count) { return count > 0; }),
              1);
  }
  EXPECT_EQ(last, (LevelCounts{0, 0, 0, 28}));
  EXPECT_EQ(session->bytes().inUse, least);
}
