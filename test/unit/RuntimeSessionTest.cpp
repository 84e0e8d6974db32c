//===- RuntimeSessionTest.cpp - Tests of sessions on a fake program -------===//
//
// Steps, prefill, decoding, budgets and errors of Session.  The invariants of
// pages and work lists are checked by RuntimeFakeProgram.h at every call.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSessionFixture.h"

#include <cmath>
#include <random>
#include <string>

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

// The invariants of the fake over random geometries, budgets, batches and
// lengths; the tokens that come out; the bytes that were counted.
TEST_F(SessionTest, RandomRunsKeepAllInvariants) {
  int64_t requantized = 0;
  for (int round = 0; round < 60; ++round) {
    state.info.layers = 1 + random() % 3;
    state.info.kvHeads = 1 + random() % 3;
    state.info.queryHeads = state.info.kvHeads * (1 + random() % 4);
    state.info.headDim = random() % 2 ? 16 : 32;
    state.info.sinkTokens = random() % 5;
    state.info.parameterBytes[kKey] = 16 * (random() % 4);
    state.info.floor[kKey] = kLadder[random() % 4];
    state.info.floor[kValue] = kLadder[random() % 4];
    state.info.schedule = random() % 4 ? kSchedulePage : kScheduleNone;
    maybeLowerValuesToOneBit();
    SessionOptions options;
    options.maxSequences = 1 + random() % 4;
    options.maxTokens = 3000;
    options.threads = 1 + random() % 3;
    std::vector<Prompt> prompts;
    std::vector<int64_t> counts;
    for (int32_t i = 0; i < options.maxSequences; ++i) {
      prompts.push_back({i, randomTokens(1 + random() % 1500)});
      counts.push_back(1 + random() % 300);
      options.plans.push_back(
          {i, static_cast<int64_t>(prompts[i].tokens.size()), counts[i]});
    }
    Result<int64_t> least = minimumBytes(program(), options, options.plans);
    ASSERT_TRUE(least.ok()) << least.status().message();
    // Every third one has only the bytes that are proven to suffice.
    options.budgetBytes =
        random() % 5 ? *least + (random() % 3) * (random() % 200000) : -1;
    open(options);
    auto results = session->generate(prompts, counts);
    ASSERT_TRUE(results.ok()) << results.status().message();
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ((*results)[i].tokens, expectedTokens(prompts[i], counts[i]));
      EXPECT_EQ(session->tokens(i),
                static_cast<int64_t>(prompts[i].tokens.size() + counts[i]) - 1);
      EXPECT_EQ(session->pages(i),
                pagesForTokens(session->tokens(i), state.info.sinkTokens));
    }
    ASSERT_EQ(state.errors.load(), 0) << "round " << round;
    requantized += state.requantized.exchange(0);
  }
  EXPECT_GT(requantized, 1000);
  EXPECT_GT(paired, 5);
}

// A reasoner of 12 (layer, kv head) pairs at head dim 128 with 3,074 cached
// tokens: 24 pages a pair.  Before tables the least is 3,366 KiB (12 fixed
// areas of 66,048 bytes and 288 pages of 9,216); what 3,500 and 4,400 KiB leave
// above it is room for 16 and 129 pages at 4 instead of 2 bits (8,192 bytes
// each).
TEST_F(SessionTest, ABudgetEndsFull) {
  state.info.layers = 6;
  state.info.headDim = 128;
  state.info.parameterBytes[kKey] = 512;
  SessionOptions options;
  options.maxTokens = 3075;
  options.threads = 2;
  int64_t tables = 72 * 24 * 12;
  EXPECT_EQ(*minimumBytes(program(), options, {{0, 2000, 1075}}),
            3366 * 1024 + tables);
  for (auto [kibibytes, atFour] : {std::pair(3500, 16), std::pair(4400, 129)}) {
    options.budgetBytes = kibibytes * 1024 + tables;
    open(options);
    ASSERT_TRUE(session->prefill({{0, randomTokens(3074)}}).ok());
    LevelCounts sum = {};
    for (int32_t layer = 0; layer < 6; ++layer)
      for (size_t i = 0; i < sum.size(); ++i)
        sum[i] += session->levels(layer, kKey)[i];
    EXPECT_EQ(sum, (LevelCounts{0, 0, atFour, 288 - atFour}));
  }
}

TEST_F(SessionTest, ReleaseGivesEverythingBackForOthers) {
  SessionOptions options;
  options.maxSequences = 2;
  options.maxTokens = 1000;
  options.threads = 2;
  open(options);
  int64_t empty = session->bytes().inUse;
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(session->prefill({{0, randomTokens(900)}}).ok());
    if (round == 0) {
      ASSERT_TRUE(session->prefill({{1, randomTokens(500)}}).ok());
    }
    ASSERT_TRUE(session->release(0).ok());
    state.forget(0);
    EXPECT_EQ(session->tokens(0), 0);
  }
  EXPECT_GT(session->bytes().inUse, empty);
  ASSERT_TRUE(session->release(1).ok());
  EXPECT_EQ(session->bytes().inUse, empty);
  EXPECT_EQ(session->release(2).code(), StatusCode::InvalidArgument);
}

TEST_F(SessionTest, BudgetIsRefusedBeforeTheFirstToken) {
  SessionOptions options;
  options.maxSequences = 2;
  options.maxTokens = 2000;
  options.plans = {{0, 900, 50}, {1, 700, 1}};
  int64_t least = *minimumBytes(program(), options, options.plans);
  options.budgetBytes = least - 1;
  Status refused = Session::open(program(), options).status();
  EXPECT_EQ(refused.code(), StatusCode::OutOfMemory);
  EXPECT_EQ(refused.message().rfind("1 bytes are missing", 0), 0u)
      << refused.message();
  options.plans.clear();
  open(options);
  auto result = session->generate(
      {{0, randomTokens(900)}, {1, randomTokens(700)}}, {50, 1});
  EXPECT_EQ(result.status().code(), StatusCode::OutOfMemory);
  EXPECT_EQ(state.steps, 0);
  // One sequence alone fits.
  ASSERT_TRUE(session->generate({{0, randomTokens(900)}}, {50}).ok());
  // The fixed areas alone do not fit.
  options.budgetBytes = 1000;
  EXPECT_EQ(Session::open(program(), options).status().code(),
            StatusCode::OutOfMemory);
}

TEST_F(SessionTest, StepRefusedForMemoryLeavesTheSessionUsable) {
  SessionOptions options;
  options.maxTokens = 2000;
  options.budgetBytes = *minimumBytes(program(), options, {{0, 257, 1}});
  open(options);
  ASSERT_TRUE(session->prefill({{0, randomTokens(257)}}).ok());
  int32_t token = 1;
  int64_t before = session->bytes().inUse;
  EXPECT_EQ(session->step({{0, &token, 1}}).status().code(),
            StatusCode::OutOfMemory);
  EXPECT_TRUE(session->usable().ok());
  EXPECT_EQ(session->bytes().inUse, before);
  EXPECT_EQ(session->tokens(0), 257);
}

TEST_F(SessionTest, StepWithoutMemoryForActivationsLeavesTheSessionUsable) {
  open({});
  feed(0, 5);
  std::vector<int32_t> tokens = randomTokens(1);
  state.scratchFactor = int64_t(1) << 45; // more than there are addresses
  Status status = session->step({{0, tokens.data(), 1}}).status();
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory);
  EXPECT_NE(status.message().find("activations"), std::string::npos);
  EXPECT_EQ(session->tokens(0), 5);
  state.scratchFactor = 1;
  feed(0, 5);
}

TEST_F(SessionTest, WindowIsFlushedOnlyWhenTheNextTokenComes) {
  SessionOptions options;
  open(options);
  ASSERT_TRUE(session->prefill({{0, randomTokens(129)}}).ok());
  EXPECT_EQ(session->pages(0), 0);
  EXPECT_EQ(session->room(0), 128);
  int32_t token = 5;
  ASSERT_TRUE(session->step({{0, &token, 1}}).ok());
  EXPECT_EQ(session->pages(0), 1);
  EXPECT_EQ(session->room(0), 127);
  EXPECT_EQ(session->levels(1, kKey), (LevelCounts{2, 0, 0, 0}));
  EXPECT_EQ(session->levels(7, kKey), (LevelCounts{0, 0, 0, 0}));
  EXPECT_EQ(session->bytes().bf16Equivalent, 130 * 2 * 2 * 16 * 2 * 2);
}

TEST_F(SessionTest, StepGivesTheLogitsAskedFor) {
  SessionOptions options;
  options.maxSequences = 3;
  open(options);
  std::vector<int32_t> tokens = randomTokens(10);
  auto logits = session->step({{2, tokens.data(), 4, Outputs::All},
                               {0, tokens.data(), 3, Outputs::None},
                               {1, tokens.data(), 10, Outputs::Last}});
  ASSERT_TRUE(logits.ok());
  ASSERT_EQ(logits->rows, 5);
  for (int32_t i = 0; i < 4; ++i)
    EXPECT_EQ(argmax(logits->logits + i * 97, 97), successor(2, tokens[i], i));
  EXPECT_EQ(argmax(logits->logits + 4 * 97, 97), successor(1, tokens[9], 9));
}

TEST_F(SessionTest, DecodeStopsStreamsAndGoesOn) {
  SessionOptions options;
  options.maxSequences = 2;
  open(options);
  std::vector<Prompt> prompts = {{0, {3, 4}}, {1, {8}}};
  ASSERT_TRUE(session->prefill(prompts).ok());
  std::vector<int32_t> expected = expectedTokens(prompts[0], 40);
  std::vector<int32_t> streamed;
  DecodeOptions decode;
  decode.onToken = [&](const TokenEvent &event) {
    if (event.sequence == 0)
      streamed.push_back(event.token);
    return true;
  };
  // In two calls, the second of which goes on with a token already given out.
  auto first = session->decode({{0, 7}, {1, 3}}, decode);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ((*first)[1].tokens, expectedTokens(prompts[1], 3));
  EXPECT_EQ(session->tokens(0), 2 + 7 - 1);
  decode.stopTokens = {expected[19]};
  auto second = session->decode({{0, 30}}, decode);
  ASSERT_TRUE(second.ok());
  size_t stop = std::find(expected.begin() + 7, expected.end(), expected[19]) -
                expected.begin();
  expected.resize(stop + 1);
  EXPECT_EQ(streamed, expected);
  EXPECT_EQ((*second)[0].reason, FinishReason::Stop);
  decode.onToken = [](const TokenEvent &event) { return event.index < 1; };
  auto third = session->decode({{1, 5}}, decode);
  ASSERT_TRUE(third.ok());
  EXPECT_EQ((*third)[0].reason, FinishReason::Cancelled);
  EXPECT_EQ((*third)[0].tokens.size(), 2u);
}

TEST_F(SessionTest, DecodeNeedsTheLogitsOfTheLastToken) {
  open({});
  ASSERT_TRUE(session->prefill({{0, {3, 4}}}).ok());
  EXPECT_EQ(session->nextToken(0), successor(0, 4, 1));
  // A step of one's own makes the token that prefill chose obsolete.
  int32_t token = 9;
  ASSERT_TRUE(session->step({{0, &token, 1}}).ok());
  EXPECT_EQ(session->nextToken(0), -1);
  EXPECT_EQ(session->decode({{0, 1}}).status().code(),
            StatusCode::FailedPrecondition);
}

TEST_F(SessionTest, PrefillBoundsItsStepsAndReportsProgress) {
  state.info.layers = 1;
  SessionOptions options;
  options.maxSequences = 24;
  options.maxTokens = 400;
  open(options);
  std::vector<Prompt> prompts;
  for (int32_t i = 0; i < 24; ++i)
    prompts.push_back({i, randomTokens(390)});
  int64_t last = 0;
  ASSERT_TRUE(session
                  ->prefill(prompts,
                            [&](int64_t done, int64_t total) {
                              EXPECT_GT(done, last);
                              EXPECT_EQ(total, 24 * 390);
                              last = done;
                            })
                  .ok());
  EXPECT_EQ(last, 24 * 390);
  EXPECT_LE(state.mostRows, 2048);
  EXPECT_GT(state.mostRows, 1900);
}

TEST_F(SessionTest, BadArgumentsAreRefused) {
  SessionOptions options;
  options.maxSequences = 2;
  options.maxTokens = 300;
  open(options);
  auto code = [&](const std::vector<StepRun> &runs) {
    return session->step(runs).status().code();
  };
  std::vector<int32_t> tokens(400, 1);
  int32_t bad[] = {1, 97, -1};
  EXPECT_EQ(code({}), StatusCode::InvalidArgument);
  EXPECT_EQ(code({{2, tokens.data(), 1}}), StatusCode::InvalidArgument);
  EXPECT_EQ(code({{-1, tokens.data(), 1}}), StatusCode::InvalidArgument);
  EXPECT_EQ(code({{0, tokens.data(), 1}, {0, tokens.data(), 1}}),
            StatusCode::InvalidArgument);
  EXPECT_EQ(code({{0, nullptr, 1}}), StatusCode::InvalidArgument);
  EXPECT_EQ(code({{0, tokens.data(), 0}}), StatusCode::InvalidArgument);
  EXPECT_EQ(code({{0, tokens.data(), 130}}), StatusCode::InvalidArgument);
  EXPECT_EQ(code({{0, bad, 2}}), StatusCode::InvalidArgument);
  EXPECT_EQ(code({{0, bad + 2, 1}}), StatusCode::InvalidArgument);
  auto prefill = [&](const std::vector<Prompt> &prompts) {
    return session->prefill(prompts).code();
  };
  EXPECT_EQ(prefill({{0, {}}}), StatusCode::InvalidArgument);
  EXPECT_EQ(prefill({{0, {1}}, {1, {97}}}), StatusCode::InvalidArgument);
  EXPECT_EQ(prefill({{0, {1}}, {0, {1}}}), StatusCode::InvalidArgument);
  EXPECT_EQ(prefill({{0, std::vector<int32_t>(301, 1)}}),
            StatusCode::InvalidArgument);
  EXPECT_EQ(session->decode({{0, 1}}).status().code(),
            StatusCode::FailedPrecondition);
  EXPECT_EQ(session->generate({{0, {1}}}, {0}).status().code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(session->generate({{0, {1}}}, {INT64_MAX}).status().code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(session->generate({{0, {1}}}, {}).status().code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(state.steps, 0);
  EXPECT_EQ(session->pageEntry(0, 0, 0, 0), nullptr);
}

TEST_F(SessionTest, BadOptionsAreRefused) {
  auto code = [&](int32_t sequences, int64_t tokens, int64_t budget,
                  int32_t threads) {
    SessionOptions options;
    options.maxSequences = sequences;
    options.maxTokens = tokens;
    options.budgetBytes = budget;
    options.threads = threads;
    return Session::open(program(), options).status().code();
  };
  EXPECT_EQ(code(0, 0, 0, 1), StatusCode::InvalidArgument);
  EXPECT_EQ(code(1, 4001, 0, 1), StatusCode::InvalidArgument);
  EXPECT_EQ(code(1, -1, 0, 1), StatusCode::InvalidArgument);
  EXPECT_EQ(code(1, 0, -2, 1), StatusCode::InvalidArgument);
  EXPECT_EQ(code(1, 0, 0, -1), StatusCode::InvalidArgument);
  EXPECT_EQ(Session::open(Program(), {}).status().code(),
            StatusCode::InvalidArgument);
  // Block ids have 32 bits.
  state.info.maxPositions = 1 << 28;
  EXPECT_EQ(code(65536, 0, 0, 1), StatusCode::InvalidArgument);
}

TEST_F(SessionTest, BrokenSessionSaysSo) {
  auto breaks = [&](const char *what, int64_t tokens) {
    SessionOptions options;
    open(options);
    Status status = session->prefill({{0, randomTokens(tokens)}});
    EXPECT_EQ(status.code(), StatusCode::NotRepresentable) << what;
    Status after = session->prefill({{0, {1}}});
    EXPECT_EQ(after.code(), StatusCode::FailedPrecondition) << what;
    EXPECT_NE(after.message().find(status.message()), std::string::npos);
    EXPECT_EQ(session->release(0).code(), StatusCode::FailedPrecondition);
  };
  state.stepStatus = kKernelNotRepresentable;
  breaks("a step's kernel", 5);
  state.stepStatus = kKernelOk;
  state.flushStatus = kKernelNotRepresentable;
  breaks("a flush", 200);
  state.flushStatus = kKernelOk;
  state.poison = NAN;
  breaks("a logit", 5);
}

TEST_F(SessionTest, DamagedProgramsAreRefused) {
  auto code = [&](void (*damage)(ProgramInfo &)) {
    state.info = plainInfo();
    damage(state.info);
    StatusCode code = openProgram(fakeEntries(), {}).status().code();
    state.info = plainInfo();
    return code;
  };
  StatusCode damaged = StatusCode::DataLoss;
  EXPECT_EQ(code([](ProgramInfo &i) { ++i.abiVersion; }), damaged);
  EXPECT_EQ(code([](ProgramInfo &i) { i.layers = 0; }), damaged);
  EXPECT_EQ(code([](ProgramInfo &i) { i.queryHeads = 3; }), damaged);
  EXPECT_EQ(code([](ProgramInfo &i) { i.headDim = -64; }), damaged);
  EXPECT_EQ(code([](ProgramInfo &i) { i.floor[kValue] = 3; }), damaged);
  EXPECT_EQ(code([](ProgramInfo &i) { i.schedule = 9; }), damaged);
  EXPECT_EQ(code([](ProgramInfo &i) { i.budgetBytes = -5; }), damaged);
  EXPECT_EQ(openProgram({}, {}).status().code(), StatusCode::InvalidArgument);
  EXPECT_EQ(openProgram(fakeEntries(), {nullptr}).status().code(),
            StatusCode::InvalidArgument);
}

TEST_F(SessionTest, OnlyTheKernelsNeededMustBeThere) {
  ProgramEntries entries = fakeEntries();
  std::fill(&entries.requantize[0][0], &entries.requantize[0][0] + 6, nullptr);
  Result<Program> partial = openProgram(entries, {});
  ASSERT_TRUE(partial.ok());
  SessionOptions options;
  // Without a budget nothing is ever lowered.
  EXPECT_TRUE(Session::open(*partial, options).ok());
  options.budgetBytes = 100000000;
  Status status = Session::open(*partial, options).status();
  EXPECT_EQ(status.code(), StatusCode::DataLoss);
  EXPECT_NE(status.message().find("pmkvq_requantize_key_16_8"),
            std::string::npos);
}

TEST_F(SessionTest, LayersHaveWhatTheirKeysFallWith) {
  static float tables[2];
  ProgramEntries entries = fakeEntries();
  entries.keyFeedback = [](int64_t layer) -> const float * {
    return &tables[layer];
  };
  Result<Program> opened = openProgram(entries, {});
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  auto made = Session::open(*opened, {});
  ASSERT_TRUE(made.ok()) << made.status().message();
  for (size_t layer : {0, 1})
    EXPECT_EQ((*made)->caches()[layer].keyFeedback, &tables[layer]);
}

TEST_F(SessionTest, LossesAreReadAndChecked) {
  static std::vector<float> table;
  table.assign(kParts * kLossLevels + state.info.kvHeads * kLossAges, 0.5f);
  state.info.schedule = kScheduleLeastLoss;
  ProgramEntries entries = fakeEntries();
  EXPECT_EQ(openProgram(entries, {}).status().code(), StatusCode::DataLoss);
  entries.pageLosses = [](int64_t) -> const float * { return table.data(); };
  table[6] = 2;
  table.back() = 3;
  Result<Program> opened = openProgram(entries, {});
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  ASSERT_EQ(opened->losses.size(), static_cast<size_t>(state.info.layers));
  EXPECT_EQ(opened->losses[1].level[kValue][2], 2);
  EXPECT_EQ(opened->losses[1].shareOf(state.info.kvHeads - 1, kLossAges), 3);
  EXPECT_TRUE(Session::open(*opened, {}).ok());
  // Other schedules may go by them as well.
  state.info.schedule = kSchedulePage;
  EXPECT_EQ(openProgram(entries, {})->losses.size(), opened->losses.size());
  for (float bad : {-1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    table[8] = bad;
    Status status = openProgram(entries, {}).status();
    EXPECT_EQ(status.code(), StatusCode::DataLoss);
    EXPECT_NE(status.message().find("losses of layer 0"), std::string::npos);
  }
}

TEST_F(SessionTest, EntriesAreFoundByName) {
  std::set<std::string> asked;
  auto entries = findEntries([&](const char *name) -> void * {
    asked.insert(name);
    if (std::string(name) == "pmkvq_step")
      return reinterpret_cast<void *>(&fakeStep);
    if (std::string(name) == "pmkvq_describe")
      return reinterpret_cast<void *>(&fakeDescribe);
    return nullptr;
  });
  ASSERT_TRUE(entries.ok());
  EXPECT_EQ(entries->step, fakeStep);
  EXPECT_EQ(entries->flush[kKey][0], nullptr);
  EXPECT_EQ(asked.size(), 5u + 8u + 7u);
  EXPECT_TRUE(asked.count("pmkvq_scratch"));
  EXPECT_TRUE(asked.count("pmkvq_key_feedback"));
  EXPECT_TRUE(asked.count("pmkvq_requantize_value_4_2"));
  EXPECT_TRUE(asked.count("pmkvq_requantize_value_2_1"));
  EXPECT_EQ(findEntries([](const char *) -> void * { return nullptr; })
                .status()
                .code(),
            StatusCode::DataLoss);
}
