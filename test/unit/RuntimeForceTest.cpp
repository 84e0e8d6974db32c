//===- RuntimeForceTest.cpp - Tests of forced decoding --------------------===//
//
// Logits at every position, in order, whatever the program would choose.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSessionFixture.h"

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

using ForceTest = SessionTest;

TEST_F(ForceTest, GivesTheLogitsAtEveryPosition) {
  SessionOptions options;
  options.maxSequences = 2;
  open(options);
  std::vector<Prompt> given = {{1, randomTokens(400)}, {0, randomTokens(50)}};
  std::map<int32_t, int64_t> seen;
  Status status = session->force(given, [&](const PositionLogits &at) {
    const Prompt &prompt = given[at.sequence == 1 ? 0 : 1];
    EXPECT_EQ(at.position, seen[at.sequence]++);
    EXPECT_EQ(at.token, prompt.tokens[at.position]);
    EXPECT_EQ(argmax(at.logits, 97),
              successor(at.sequence, at.token, at.position));
    return true;
  });
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(seen[1], 400);
  EXPECT_EQ(seen[0], 50);
  // The first chunks (129 and 50 tokens) in one step each, then one by one.
  EXPECT_EQ(state.steps, 2 + (400 - 129));
  EXPECT_EQ(state.mostRows, 129);
  // Decoding goes on from there.
  auto results = session->decode({{0, 5}, {1, 5}});
  ASSERT_TRUE(results.ok());
  EXPECT_EQ((*results)[0].tokens, expectedTokens(given[1], 5));
  EXPECT_EQ((*results)[1].tokens, expectedTokens(given[0], 5));
}

TEST_F(ForceTest, TakesAChunkOfTheSizeAskedFor) {
  open({});
  auto all = [](const PositionLogits &) { return true; };
  ASSERT_TRUE(session->force({{0, randomTokens(20)}}, all, 1).ok());
  EXPECT_EQ(state.steps, 20);
  ASSERT_TRUE(session->force({{0, randomTokens(20)}}, all, 15).ok());
  EXPECT_EQ(state.steps, 20 + 1 + 5);
  ASSERT_TRUE(session->force({{0, randomTokens(100)}}, all, 1000).ok());
  // 40 tokens are cached; there is room for 89.
  EXPECT_EQ(state.steps, 26 + 1 + 11);
}

TEST_F(ForceTest, EndsWhereTheCallbackSays) {
  open({});
  int64_t calls = 0;
  auto until = [&](int64_t last) {
    return [&calls, last](const PositionLogits &at) {
      ++calls;
      return at.position < last;
    };
  };
  ASSERT_TRUE(session->force({{0, randomTokens(300)}}, until(150)).ok());
  EXPECT_EQ(calls, 151);
  EXPECT_EQ(session->tokens(0), 151);
  EXPECT_EQ(session->nextToken(0), -1);
  release(0);
  calls = 0;
  ASSERT_TRUE(session->force({{0, randomTokens(300)}}, until(4)).ok());
  EXPECT_EQ(calls, 5);
  // What was fed in the same step is cached.
  EXPECT_EQ(session->tokens(0), 129);
}

TEST_F(ForceTest, BadArgumentsAreRefused) {
  SessionOptions options;
  options.maxTokens = 300;
  open(options);
  auto all = [](const PositionLogits &) { return true; };
  EXPECT_EQ(session->force({{0, {1}}}, nullptr).code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(session->force({{0, {1}}}, all, -1).code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(session->force({{0, {}}}, all).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(session->force({{0, {97}}}, all).code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(session->force({{0, randomTokens(301)}}, all).code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(state.steps, 0);
}
