//===- RuntimeSamplingTest.cpp - Tests of drawing tokens ------------------===//
//
// The generator, the draw, and that neither batch nor threads change a token.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSessionFixture.h"

#include <cmath>
#include <limits>
#include <string>

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

using SamplingTest = SessionTest;

// Known answers that come with the generator's publication.
TEST(Philox, GivesItsKnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                   {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RepeatableExp, IsWithinTwoUnitsOfTheTruth) {
  EXPECT_EQ(repeatableExp(0), 1.0);
  EXPECT_EQ(repeatableExp(-1e300), 0.0);
  EXPECT_EQ(repeatableExp(-std::numeric_limits<double>::infinity()), 0.0);
  std::mt19937_64 random(5);
  for (int i = 0; i < 100000; ++i) {
    double x = -std::ldexp(static_cast<double>(random() >> 11), -44 - i % 40);
    if (x < -690)
      continue;
    double expected = std::exp(x);
    // 2 units of the result's last place.
    ASSERT_NEAR(repeatableExp(x), expected, expected * 0x1p-51) << x;
  }
}

// What any machine must give: computed once with 50 decimal digits.
TEST(Sampler, DrawsTheSameEverywhere) {
  std::vector<float> logits(50);
  for (int i = 0; i < 50; ++i)
    logits[i] = static_cast<float>((i * 37) % 50) * 0.125f;
  Sampler sampler;
  SamplingOptions options;
  options.temperature = 0.75;
  options.topP = 0.9;
  options.seed = 42;
  std::string drawn;
  for (uint64_t position = 0; position < 12; ++position)
    drawn += std::to_string(
                 sampler.sample(logits.data(), 50, options, 7, position)) +
             " ";
  EXPECT_EQ(drawn, "31 20 27 35 43 27 27 16 8 4 24 27 ");
}

TEST(Sampler, DrawsByProbability) {
  const float logits[] = {2, 1, 1, 0};
  SamplingOptions options;
  options.temperature = 0.5;
  Sampler sampler;
  std::array<int, 4> counts = {};
  constexpr int kDraws = 200000;
  for (uint64_t i = 0; i < kDraws; ++i)
    ++counts[sampler.sample(logits, 4, options, 1, i)];
  double total = std::exp(4) + 2 * std::exp(2) + 1;
  for (int i = 0; i < 4; ++i) {
    double p = std::exp(2 * logits[i]) / total;
    // 5 standard deviations of a binomial count.
    EXPECT_NEAR(counts[i], p * kDraws, 5 * std::sqrt(p * (1 - p) * kDraws));
  }
}

TEST(Sampler, KeepsTheFewestThatReachTopP) {
  const float logits[] = {1, 2, 1, 1}; // 0.21, 0.48 (more than 0.4), ...
  auto drawn = [&](double topP) {
    SamplingOptions options;
    options.temperature = 1;
    options.topP = topP;
    Sampler sampler;
    std::set<int32_t> ids;
    for (uint64_t i = 0; i < 500; ++i)
      ids.insert(sampler.sample(logits, 4, options, 1, i));
    return ids;
  };
  EXPECT_EQ(drawn(1e-9), (std::set<int32_t>{1}));
  EXPECT_EQ(drawn(0.4), (std::set<int32_t>{1}));
  // Ties by id: 0 goes before 2 and 3.
  EXPECT_EQ(drawn(0.6), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(drawn(0.8), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(drawn(1), (std::set<int32_t>{0, 1, 2, 3}));
}

TEST(Sampler, SmallTemperaturesAreGreedy) {
  const float logits[] = {1, 3, 3, -1e30f};
  SamplingOptions options;
  Sampler sampler;
  EXPECT_EQ(sampler.sample(logits, 4, options, 1, 0), 1);
  options.temperature = std::numeric_limits<double>::denorm_min();
  for (uint64_t i = 0; i < 50; ++i) {
    int32_t id = sampler.sample(logits, 4, options, 1, i);
    EXPECT_TRUE(id == 1 || id == 2);
  }
  options.temperature = 1e300;
  std::set<int32_t> ids;
  for (uint64_t i = 0; i < 200; ++i)
    ids.insert(sampler.sample(logits, 4, options, 1, i));
  EXPECT_EQ(ids.size(), 4u);
}

TEST(Sampling, ValuesOutOfRangeAreNamed) {
  double nan = std::numeric_limits<double>::quiet_NaN();
  double infinity = std::numeric_limits<double>::infinity();
  auto message = [](double temperature, double topP) {
    SamplingOptions options;
    options.temperature = temperature;
    options.topP = topP;
    Status status = checkSampling(options);
    EXPECT_EQ(status.code(), StatusCode::InvalidArgument);
    return status.message();
  };
  EXPECT_EQ(message(-1, 1).rfind("temperature is -1", 0), 0u);
  EXPECT_EQ(message(nan, 1).rfind("temperature is nan", 0), 0u);
  EXPECT_EQ(message(infinity, 1).rfind("temperature is inf", 0), 0u);
  EXPECT_EQ(message(1, 0).rfind("top-p is 0", 0), 0u);
  EXPECT_EQ(message(1, 1.5).rfind("top-p is 1.5", 0), 0u);
  EXPECT_EQ(message(1, -0.5).rfind("top-p is -0.5", 0), 0u);
  EXPECT_EQ(message(1, nan).rfind("top-p is nan", 0), 0u);
  EXPECT_TRUE(checkSampling({}).ok());
}

static DecodeOptions sampling(uint64_t seed) {
  DecodeOptions options;
  options.temperature = 1.5;
  options.topP = 0.95;
  options.seed = seed;
  return options;
}

TEST_F(SamplingTest, ABatchDrawsWhatEachDrawsAlone) {
  std::vector<Prompt> prompts;
  std::vector<std::vector<int32_t>> alone;
  for (int32_t i = 0; i < 5; ++i)
    prompts.push_back({i, randomTokens(3 + 50 * i)});
  for (int32_t threads : {1, 3}) {
    SessionOptions options;
    options.maxSequences = 5;
    options.maxTokens = 600;
    options.threads = threads;
    open(options);
    auto batch =
        session->generate(prompts, std::vector<int64_t>(5, 150), sampling(9));
    ASSERT_TRUE(batch.ok()) << batch.status().message();
    for (int32_t i = 0; i < 5; ++i) {
      // At another place, by its stream.
      options.maxSequences = 1;
      open(options);
      state.salts[0] = i;
      ASSERT_TRUE(session->prefill({{0, prompts[i].tokens}}).ok());
      auto one = session->decode({{0, 150, uint64_t(i) + 1}}, sampling(9));
      ASSERT_TRUE(one.ok());
      EXPECT_EQ((*one)[0].tokens, (*batch)[i].tokens);
    }
  }
}

TEST_F(SamplingTest, CallsMayBeSplitAndSeedsDiffer) {
  SessionOptions options;
  options.maxSequences = 3;
  open(options);
  std::vector<int32_t> prompt = randomTokens(20);
  for (int32_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(session->prefill({{i, prompt}}).ok());
    state.salts[i] = 0;
  }
  auto whole = session->decode({{0, 40, 5}}, sampling(1));
  auto first = session->decode({{1, 13, 5}}, sampling(1));
  auto second = session->decode({{1, 27, 5}}, sampling(1));
  auto other = session->decode({{2, 40, 5}}, sampling(2));
  ASSERT_TRUE(whole.ok() && first.ok() && second.ok() && other.ok());
  std::vector<int32_t> joined = (*first)[0].tokens;
  joined.insert(joined.end(), (*second)[0].tokens.begin(),
                (*second)[0].tokens.end());
  EXPECT_EQ((*whole)[0].tokens, joined);
  EXPECT_NE((*whole)[0].tokens, (*other)[0].tokens);
}

TEST_F(SamplingTest, ForksOfOnePromptDrawApart) {
  SessionOptions options;
  options.maxSequences = 8;
  open(options);
  feed(0, 200);
  for (int32_t i = 1; i < 8; ++i)
    fork(0, i);
  std::vector<DecodeRequest> requests;
  for (int32_t i = 0; i < 8; ++i)
    requests.push_back({i, 1});
  auto results = session->decode(requests, sampling(3));
  ASSERT_TRUE(results.ok());
  std::set<int32_t> firsts;
  for (const Generated &result : *results)
    firsts.insert(result.tokens[0]);
  EXPECT_GT(firsts.size(), 4u);
}

TEST_F(SamplingTest, BadValuesAreRefusedBeforeTheFirstToken) {
  open({});
  DecodeOptions bad;
  bad.temperature = -1;
  EXPECT_EQ(session->generate({{0, {1}}}, {1}, bad).status().code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(state.steps, 0);
  feed(0, 5);
  bad.temperature = 1;
  bad.topP = 0;
  EXPECT_EQ(session->decode({{0, 1}}, bad).status().code(),
            StatusCode::InvalidArgument);
  EXPECT_TRUE(session->decode({{0, 1}}).ok());
}
