//===- CompilerFeedbackTest.cpp - Keys that fall with feedback ------------===//
//
// Compiled shifts with feedback give the reference's codes, bit for bit, and
// what queries see of their errors is less than that of nearest codes.
// Neighbours: KernelHarness.h, CompilerCodesTest.cpp (shifts without).
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Hadamard.h"
#include "pmkvq/Target/KeyFeedback.h"

#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <random>

using namespace pmkvq;
using namespace pmkvq::test;
using reference::KeyFeedback;
using reference::PagePart;

namespace {
constexpr int64_t kHeads = 2;

/// Mean squares that lie apart as those of models do, of a few powers of ten.
std::vector<float> randomSquares(std::mt19937 &random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> squares(count);
  for (float &square : squares)
    square = std::exp(2 * normal(random));
  return squares;
}

std::vector<uint16_t> randomKeys(std::mt19937 &random, int64_t headDim) {
  std::normal_distribution<float> normal;
  std::vector<float> mean(headDim);
  for (float &x : mean)
    x = 3 * normal(random);
  std::vector<uint16_t> values(rt::kPageTokens * headDim);
  for (int64_t i = 0; i < rt::kPageTokens * headDim; ++i)
    values[i] = reference::floatToBf16(mean[i % headDim] + normal(random));
  return values;
}

//===----------------------------------------------------------------------===//
// The factor
//===----------------------------------------------------------------------===//

class FeedbackFactor : public testing::TestWithParam<int64_t> {};

TEST_P(FeedbackFactor, IsThatOfTheInverse) {
  const int64_t size = GetParam();
  std::mt19937 random(3);
  std::vector<float> squares = randomSquares(random, size);
  std::vector<float> factor = keyFeedbackFactor(squares.data(), size);
  double mean = 0;
  for (float square : squares)
    mean += square / static_cast<double>(size);
  auto lower = [&](int64_t row, int64_t column) -> double {
    return factor[row * size + column];
  };
  // R diag(1 / (s + damping)) R, by the reference's rotation.
  auto inverse = [&](int64_t i, int64_t j) {
    std::vector<double> unit(size);
    unit[j] = 1;
    reference::rotate(unit.data(), size);
    for (int64_t k = 0; k < size; ++k)
      unit[k] /= squares[k] + kFeedbackDamping * mean;
    reference::rotate(unit.data(), size);
    return unit[i];
  };
  // D follows from its diagonal, from the first element on.
  std::vector<double> pivots;
  for (int64_t i = 0; i < size; ++i) {
    EXPECT_EQ(lower(i, i), 1.0);
    double pivot = inverse(i, i);
    for (int64_t k = 0; k < i; ++k)
      pivot -= lower(i, k) * lower(i, k) * pivots[k];
    EXPECT_GT(pivot, 0);
    pivots.push_back(pivot);
  }
  for (int64_t i = 0; i < size; i += 7)
    for (int64_t j = 0; j < size; j += 5) {
      double product = 0;
      for (int64_t k = 0; k < size; ++k)
        product += lower(i, k) * lower(j, k) * pivots[k];
      EXPECT_NEAR(product, inverse(i, j), 1e-6 * pivots[0]) << i << ", " << j;
    }
}

INSTANTIATE_TEST_SUITE_P(HeadDims, FeedbackFactor,
                         testing::Values(64, 80, 96, 128, 256));

TEST(FeedbackFactorExact, EqualQueriesFeedNothingBack) {
  for (float square : {0.0f, 2.5f}) {
    std::vector<float> squares(64, square);
    std::vector<float> factor = keyFeedbackFactor(squares.data(), 64);
    for (int64_t i = 0; i < 64; ++i)
      for (int64_t j = 0; j < 64; ++j)
        EXPECT_NEAR(factor[i * 64 + j], i == j ? 1.0 : 0.0, 1e-12);
  }
}

TEST(FeedbackFactorExact, TwoChannelsAsByHand) {
  // s = 1, 3: R diag(1 / (s + 0.2)) R = [[a, b], [b, a]] with a = (1 / 1.2 +
  // 1 / 3.2) / 2 and b = (1 / 1.2 - 1 / 3.2) / 2.
  const float squares[] = {1, 3};
  double a = (1 / 1.2 + 1 / 3.2) / 2, b = (1 / 1.2 - 1 / 3.2) / 2;
  EXPECT_NEAR(keyFeedbackFactor(squares, 2)[2], b / a, 1e-6);
}

//===----------------------------------------------------------------------===//
// Codes
//===----------------------------------------------------------------------===//

class FeedbackCodes
    : public testing::TestWithParam<std::tuple<int64_t, std::string>> {
protected:
  void SetUp() override {
    auto [size, format] = GetParam();
    shape.kvHeads = shape.queryHeads = kHeads;
    shape.headDim = size;
    shape.key = format;
    shape.keyClip = 0.77;
    shape.querySquares = randomSquares(random, kHeads * size);
    // Compiled once a shape for all tests of this file.
    static std::map<ParamType, std::unique_ptr<Kernels>> compiled;
    std::unique_ptr<Kernels> &known = compiled[GetParam()];
    if (!known)
      known = Kernels::compile(shape);
    kernels = known.get();
    ASSERT_TRUE(kernels);
    key = referenceFormat(shape.key, shape.keyClip);
    cache.emplace(shape, reference::parameterBytes(key, size),
                  reference::parameterBytes({}, size), 1, 16);
    cache->view()->keyFeedback = kernels->keyFeedback();
    for (int64_t head = 0; head < kHeads; ++head)
      feedback.push_back(
          {keyFeedbackFactor(shape.querySquares.data() + head * size, size)});
  }

  void write(int32_t head, int32_t level, const std::vector<uint16_t> &keys) {
    std::copy(keys.begin(), keys.end(),
              cache->fixed(0, head, rt::kKey, shape.sink));
    cache->makePage(0, head, 0, 16, 16);
    run(kernels->flush(rt::kKey, level), head);
    cache->entry(0, head, 0).level[rt::kKey] = static_cast<uint8_t>(level);
  }

  void lower(int32_t head) {
    uint8_t &level = cache->entry(0, head, 0).level[rt::kKey];
    run(kernels->requantize(rt::kKey, level), head);
    level /= 2;
  }

  void expectCodes(int32_t head, const PagePart &expected) {
    const rt::PageEntry &entry = cache->entry(0, head, 0);
    ASSERT_EQ(entry.level[rt::kKey], expected.level);
    for (int64_t i = 0; i < rt::kPageTokens * shape.headDim; ++i)
      ASSERT_EQ(
          cache->code(entry, rt::kKey, i / shape.headDim, i % shape.headDim),
          expected.codes[i])
          << "head " << head << " level " << expected.level << " token "
          << i / shape.headDim << " dim " << i % shape.headDim;
  }

  PagePart quantized(const std::vector<uint16_t> &keys) {
    PagePart part;
    EXPECT_TRUE(
        reference::quantizePart(key, shape.headDim, keys.data(), part).ok());
    return part;
  }

  /// What queries see of a part's errors: the sum of their squares, weighted.
  double seen(const PagePart &part, const std::vector<uint16_t> &keys,
              int64_t head) {
    std::vector<double> decoded =
        reference::decodePart(key, shape.headDim, part);
    double sum = 0;
    for (int64_t token = 0; token < rt::kPageTokens; ++token) {
      std::vector<double> error(shape.headDim);
      for (int64_t i = 0; i < shape.headDim; ++i)
        error[i] = decoded[token * shape.headDim + i] -
                   reference::bf16ToFloat(keys[token * shape.headDim + i]);
      reference::rotate(error.data(), shape.headDim);
      for (int64_t i = 0; i < shape.headDim; ++i)
        sum +=
            error[i] * error[i] * shape.querySquares[head * shape.headDim + i];
    }
    return sum;
  }

  std::mt19937 random{5};
  KernelShape shape;
  reference::UniformFormat key;
  const Kernels *kernels = nullptr;
  std::optional<TestCache> cache;
  std::vector<KeyFeedback> feedback;

private:
  void run(rt::KernelFn kernel, int32_t head) {
    rt::PageTask task = {0, 0, head, 0};
    void *operands[] = {cache->view(), &task};
    ASSERT_EQ(kernel(operands, 0), rt::kKernelOk);
  }
};

TEST_P(FeedbackCodes, FallInPlaceAsTheReference) {
  for (int32_t head = 0; head < kHeads; ++head) {
    std::vector<uint16_t> keys = randomKeys(random, shape.headDim);
    // A channel that is one number, whose range is 0 per channel.
    for (int64_t token = 0; token < rt::kPageTokens; ++token)
      keys[token * shape.headDim + 7] = reference::floatToBf16(1.5f);
    PagePart expected = quantized(keys);
    write(head, 16, keys);
    for (int32_t level : {8, 4, 2}) {
      lower(head);
      ASSERT_TRUE(reference::lowerPart(key, shape.headDim, level, expected,
                                       &feedback[head])
                      .ok());
      expectCodes(head, expected);
    }
  }
}

TEST_P(FeedbackCodes, FlushToALevelEqualsLoweringToIt) {
  for (int32_t level : {8, 4, 2}) {
    std::vector<uint16_t> keys = randomKeys(random, shape.headDim);
    PagePart expected = quantized(keys);
    ASSERT_TRUE(
        reference::lowerPart(key, shape.headDim, level, expected, &feedback[1])
            .ok());
    write(1, level, keys);
    expectCodes(1, expected);
  }
}

TEST_P(FeedbackCodes, QueriesSeeLessOfTheirErrors) {
  std::vector<uint16_t> keys = randomKeys(random, shape.headDim);
  for (int32_t level : {4, 2}) {
    PagePart nearest = quantized(keys), fedBack = nearest;
    ASSERT_TRUE(reference::lowerPart(key, shape.headDim, level, nearest).ok());
    ASSERT_TRUE(
        reference::lowerPart(key, shape.headDim, level, fedBack, &feedback[0])
            .ok());
    EXPECT_LT(seen(fedBack, keys, 0), 0.6 * seen(nearest, keys, 0))
        << "level " << level;
    EXPECT_EQ(nearest.range, fedBack.range);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FeedbackCodes,
    testing::Combine(testing::Values(64, 80, 128, 256),
                     testing::Values("<per_channel, hadamard>",
                                     "<per_token, hadamard>")));

/// Without what it takes, keys fall to the nearest code.
TEST(FeedbackCodesExact, EqualSquaresGiveNearestCodes) {
  std::mt19937 random(9);
  std::vector<uint16_t> keys = randomKeys(random, 64);
  std::vector<float> squares(64, 1.0f);
  KeyFeedback feedback = {keyFeedbackFactor(squares.data(), 64)};
  reference::UniformFormat format;
  format.axis = reference::Axis::PerChannel;
  PagePart nearest, fedBack;
  ASSERT_TRUE(reference::quantizePart(format, 64, keys.data(), nearest).ok());
  fedBack = nearest;
  for (int32_t level : {4, 2}) {
    ASSERT_TRUE(reference::lowerPart(format, 64, level, nearest).ok());
    ASSERT_TRUE(
        reference::lowerPart(format, 64, level, fedBack, &feedback).ok());
    EXPECT_EQ(nearest.codes, fedBack.codes);
  }
}
} // namespace
