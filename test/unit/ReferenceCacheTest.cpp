//===- ReferenceCacheTest.cpp - Steps of the cache ------------------------===//
//
// When pages are made, what is in them, what they cost, and that a refused step
// leaves no trace.  Neighbours: lib/Reference/Cache.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Cache.h"
#include "pmkvq/Reference/Hadamard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace pmkvq::reference;
using pmkvq::rt::StatusCode;

namespace {

constexpr int64_t kHeadDim = 64;

/// bf16 values [layers * kvHeads][tokens][headDim] of a step.
std::vector<float> randomTokens(const CacheShape &shape, int64_t tokens,
                                uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(int64_t(shape.layers) * shape.kvHeads * tokens *
                            shape.headDim);
  for (float &value : values)
    value = roundToBf16(normal(random));
  return values;
}

CacheOptions smallOptions() {
  CacheOptions options;
  options.shape.headDim = kHeadDim;
  options.shape.maxTokens = 1000;
  options.formats[0].axis = Axis::PerChannel;
  return options;
}

std::unique_ptr<Cache> make(const CacheOptions &options) {
  std::unique_ptr<Cache> cache;
  StepResult result = Cache::create(options, cache);
  EXPECT_TRUE(result.status.ok()) << result.status.message();
  return cache;
}

/// Appends tokens to one sequence in as many steps as its room demands, and
/// returns what was appended to (layer 0, head 0) as keys; values are negated.
std::vector<float> fill(Cache &cache, int32_t sequence, int64_t tokens,
                        uint32_t seed) {
  std::vector<float> all;
  while (tokens > 0) {
    int64_t now = std::min(tokens, cache.room(sequence));
    std::vector<float> keys = randomTokens(cache.shape(), now, seed++);
    std::vector<float> values = keys;
    for (float &value : values)
      value = -value;
    StepResult result =
        cache.append({{sequence, now, keys.data(), values.data()}});
    EXPECT_TRUE(result.status.ok()) << result.status.message();
    all.insert(all.end(), keys.begin(),
               keys.begin() + now * cache.shape().headDim);
    tokens -= now;
  }
  return all;
}

StepResult appendOne(Cache &cache, int32_t sequence, float value = 1.0f) {
  std::vector<float> token(int64_t(cache.shape().layers) *
                               cache.shape().kvHeads * cache.shape().headDim,
                           value);
  return cache.append({{sequence, 1, token.data(), token.data()}});
}

TEST(ReferenceCache, FlushesOnlyWhenTheNextTokenNeedsRoom) {
  std::unique_ptr<Cache> cache = make(smallOptions());
  EXPECT_EQ(cache->room(0), 129);
  fill(*cache, 0, 129, 1);
  EXPECT_EQ(cache->pages(0), 0);
  EXPECT_EQ(cache->room(0), 128);
  fill(*cache, 0, 1, 2);
  EXPECT_EQ(cache->pages(0), 1);
  EXPECT_EQ(cache->room(0), 127);
  fill(*cache, 0, 127, 3);
  EXPECT_EQ(cache->pages(0), 1);
  fill(*cache, 0, 1, 4);
  EXPECT_EQ(cache->pages(0), 2);
  EXPECT_EQ(cache->tokens(0), 258);
}

TEST(ReferenceCache, Level16KeepsTokensAndTheirOrder) {
  CacheOptions options = smallOptions();
  options.shape.sinkTokens = 3;
  std::unique_ptr<Cache> cache = make(options);
  std::vector<float> keys = fill(*cache, 0, 400, 1);
  std::vector<double> decoded = cache->decode(0, 0, 0, 0);
  std::vector<double> values = cache->decode(0, 0, 0, 1);
  ASSERT_EQ(decoded.size(), keys.size());
  ASSERT_EQ(values.size(), keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(decoded[i], keys[i]) << "token " << i / kHeadDim;
    ASSERT_EQ(values[i], -keys[i]);
  }
}

TEST(ReferenceCache, StreamsOfABatchDoNotMix) {
  CacheOptions options = smallOptions();
  options.shape.layers = options.shape.sequences = options.shape.kvHeads = 2;
  std::unique_ptr<Cache> cache = make(options);
  std::vector<float> first = randomTokens(options.shape, 5, 1);
  std::vector<float> second = randomTokens(options.shape, 9, 2);
  ASSERT_TRUE(cache
                  ->append({{1, 9, second.data(), second.data()},
                            {0, 5, first.data(), first.data()}})
                  .status.ok());
  EXPECT_EQ(cache->tokens(0), 5);
  EXPECT_EQ(cache->tokens(1), 9);
  for (int32_t layer = 0; layer < 2; ++layer)
    for (int32_t head = 0; head < 2; ++head) {
      std::vector<double> decoded = cache->decode(layer, 1, head, 0);
      ASSERT_EQ(decoded.size(), size_t(9 * kHeadDim));
      for (size_t i = 0; i < decoded.size(); ++i)
        ASSERT_EQ(decoded[i], second[(layer * 2 + head) * decoded.size() + i]);
    }
}

TEST(ReferenceCache, NoneQuantizesEveryPageToTheFixedLevels) {
  CacheOptions options = smallOptions();
  options.schedule.kind = ScheduleKind::None;
  options.schedule.floor = {4, 2};
  std::unique_ptr<Cache> cache = make(options);
  std::vector<float> keys = fill(*cache, 0, 300, 1);
  ASSERT_EQ(cache->pages(0), 2);
  // Page 1 holds tokens 129 .. 256.
  PagePart expected;
  for (int64_t i = 129 * kHeadDim; i < 257 * kHeadDim; ++i)
    expected.values.push_back(floatToBf16(keys[i]));
  ASSERT_TRUE(lowerPart(options.formats[0], kHeadDim, 4, expected).ok());
  EXPECT_EQ(cache->page(0, 0, 0, 1)[0].codes, expected.codes);
  EXPECT_EQ(cache->page(0, 0, 0, 1)[0].range, expected.range);
  EXPECT_EQ(cache->page(0, 0, 0, 1)[0].level, 4);
  EXPECT_EQ(cache->page(0, 0, 0, 1)[1].level, 2);
}

/// A budget for sinks, windows, tables and `pages` page-heads at 4 bits.
int64_t budgetAt4Bits(const CacheOptions &options, int64_t pages) {
  CacheShape shape = options.shape;
  for (int part = 0; part < 2; ++part)
    shape.parameterBytes[part] =
        static_cast<int32_t>(parameterBytes(options.formats[part], kHeadDim));
  return fixedBytes(shape) + pages * pageHeadBytes(shape, {}, 4);
}

TEST(ReferenceCache, PageScheduleNeverExceedsTheBudgetAndMixesLevels) {
  CacheOptions options = smallOptions();
  options.schedule.budgetBytes = budgetAt4Bits(options, 6);
  std::unique_ptr<Cache> cache = make(options);
  std::vector<float> keys = fill(*cache, 0, 129, 1);
  for (int page = 0; page < 6; ++page) {
    std::vector<float> more = fill(*cache, 0, 128, 10 + page);
    keys.insert(keys.end(), more.begin(), more.end());
    EXPECT_LE(cache->bytes(), options.schedule.budgetBytes);
  }
  ASSERT_EQ(cache->pages(0), 6);
  // At every level, what a page holds is what lowering its tokens at once
  // gives.
  for (int64_t page = 0; page < 6; ++page) {
    PagePart expected;
    int64_t begin = (1 + 128 * page) * kHeadDim;
    for (int64_t i = begin; i < begin + 128 * kHeadDim; ++i)
      expected.values.push_back(floatToBf16(keys[i]));
    int32_t level = cache->levels().at(0, page, 0, 0);
    ASSERT_TRUE(lowerPart(options.formats[0], kHeadDim, level, expected).ok());
    const PagePart &actual = cache->page(0, 0, 0, page)[0];
    EXPECT_EQ(actual.level, level);
    EXPECT_EQ(actual.values, expected.values);
    EXPECT_EQ(actual.codes, expected.codes);
  }
  EXPECT_EQ(cache->levels().at(0, 0, 0, 0), 4);
}

TEST(ReferenceCache, RefusesWhatDoesNotFitAtTheFloorAndKeepsItsState) {
  CacheOptions options = smallOptions();
  options.schedule.floor = {4, 4};
  options.schedule.budgetBytes = budgetAt4Bits(options, 3) - 64;
  std::unique_ptr<Cache> cache = make(options);
  fill(*cache, 0, 129 + 256, 1);
  ASSERT_EQ(cache->pages(0), 2);
  std::vector<double> before = cache->decode(0, 0, 0, 0);
  int64_t bytes = cache->bytes();
  for (int attempt = 0; attempt < 2; ++attempt) {
    StepResult result = appendOne(*cache, 0);
    EXPECT_EQ(result.status.code(), StatusCode::OutOfMemory);
    EXPECT_EQ(result.missingBytes, 64);
  }
  EXPECT_EQ(cache->tokens(0), 129 + 256);
  EXPECT_EQ(cache->bytes(), bytes);
  EXPECT_EQ(cache->decode(0, 0, 0, 0), before);
}

TEST(ReferenceCache, RefusesABudgetBelowItsFixedAreas) {
  CacheOptions options = smallOptions();
  options.schedule.budgetBytes = budgetAt4Bits(options, 0) - 7;
  std::unique_ptr<Cache> cache;
  StepResult result = Cache::create(options, cache);
  EXPECT_EQ(result.status.code(), StatusCode::OutOfMemory);
  EXPECT_EQ(result.missingBytes, 7);
  EXPECT_EQ(cache, nullptr);
}

TEST(ReferenceCache, RefusesAPageThatCannotBeQuantizedAndKeepsItsState) {
  CacheOptions options = smallOptions();
  options.shape.sequences = 2;
  options.schedule.kind = ScheduleKind::None;
  options.schedule.floor = {8, 8};
  std::unique_ptr<Cache> cache = make(options);
  fill(*cache, 0, 129, 1);
  fill(*cache, 1, 128, 2);
  ASSERT_TRUE(appendOne(*cache, 1, INFINITY).status.ok());
  // Sequence 0 could be flushed; the step fails as a whole.
  std::vector<float> token = randomTokens(options.shape, 1, 3);
  StepResult result = cache->append(
      {{0, 1, token.data(), token.data()}, {1, 1, token.data(), token.data()}});
  EXPECT_EQ(result.status.code(), StatusCode::NotRepresentable);
  EXPECT_EQ(cache->pages(0), 0);
  EXPECT_EQ(cache->tokens(0), 129);
  EXPECT_EQ(cache->decode(0, 0, 0, 0).size(), size_t(129 * kHeadDim));
  EXPECT_TRUE(appendOne(*cache, 0).status.ok());
}

TEST(ReferenceCache, RefusesImpossibleSteps) {
  CacheOptions options = smallOptions();
  options.shape.sequences = 2;
  options.shape.maxTokens = 135;
  std::unique_ptr<Cache> cache = make(options);
  std::vector<float> tokens = randomTokens(options.shape, 200, 1);
  auto codeOf = [&](std::vector<SequenceTokens> step) {
    for (SequenceTokens &part : step)
      part.keys = part.values = tokens.data();
    return cache->append(step).status.code();
  };
  EXPECT_EQ(codeOf({{0, 0}}), StatusCode::InvalidArgument);
  EXPECT_EQ(codeOf({{2, 1}}), StatusCode::InvalidArgument);
  EXPECT_EQ(codeOf({{0, 1}, {0, 1}}), StatusCode::InvalidArgument);
  EXPECT_EQ(codeOf({{0, 130}}), StatusCode::InvalidArgument);
  EXPECT_EQ(codeOf({{0, 129}, {1, 1}}), StatusCode::Ok);
  EXPECT_EQ(codeOf({{0, 7}}), StatusCode::InvalidArgument);
  EXPECT_EQ(codeOf({{0, 6}}), StatusCode::Ok);
}

TEST(ReferenceCache, StoresRotatedVectorsIfTheFormatSaysSo) {
  CacheOptions options = smallOptions();
  options.formats[0].hadamard = true;
  std::unique_ptr<Cache> cache = make(options);
  std::vector<float> keys = fill(*cache, 0, 1, 1);
  std::vector<double> rotated(keys.begin(), keys.end());
  rotate(rotated.data(), kHeadDim);
  std::vector<double> decoded = cache->decode(0, 0, 0, 0);
  for (int64_t i = 0; i < kHeadDim; ++i) {
    EXPECT_EQ(decoded[i], roundToBf16(static_cast<float>(rotated[i])));
    EXPECT_EQ(cache->decode(0, 0, 0, 1)[i], -keys[i]);
  }
}

// The design's figure: 3,074 tokens of the small reasoner at 2 bits take 3,366
// KiB before tables, and not a byte less will do.
TEST(ReferenceCache, ReasonerFitsItsSmallestBudgetExactly) {
  CacheOptions options;
  options.shape.layers = 6;
  options.shape.kvHeads = 2;
  options.shape.maxTokens = 3074;
  options.formats[0].axis = Axis::PerChannel;
  options.schedule.budgetBytes = 3366 * 1024 + 6 * 2 * 24 * 72;
  std::unique_ptr<Cache> cache = make(options);
  fill(*cache, 0, 3074, 1);
  EXPECT_EQ(cache->pages(0), 24);
  EXPECT_EQ(cache->bytes(), options.schedule.budgetBytes);

  --options.schedule.budgetBytes;
  cache = make(options);
  fill(*cache, 0, 3073, 1);
  StepResult result = appendOne(*cache, 0);
  EXPECT_EQ(result.status.code(), StatusCode::OutOfMemory);
  EXPECT_EQ(result.missingBytes, 1);
}

} // namespace
