//===- ReferenceAttentionTest.cpp - Attention over a cache ----------------===//
//
// Against softmax written out again here, over raw arrays and over mixed
// caches.  Neighbours: lib/Reference/Attention.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Attention.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Hadamard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace pmkvq::reference;

namespace {

constexpr int64_t kHeadDim = 64;
const double kScale = 1 / std::sqrt(64.0);
// A few hundred additions of terms of about 1 in double precision.
constexpr double kTolerance = 1e-12;

std::vector<double> randomArray(int64_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> array(size);
  for (double &x : array)
    x = roundToBf16(static_cast<float>(normal(random)));
  return array;
}

/// Softmax attention straight from its definition.
std::vector<double> direct(const double *query, const std::vector<double> &keys,
                           const std::vector<double> &values, int64_t visible) {
  std::vector<long double> sum(kHeadDim, 0);
  long double total = 0;
  for (int64_t t = 0; t < visible; ++t) {
    long double score = 0;
    for (int64_t i = 0; i < kHeadDim; ++i)
      score += static_cast<long double>(query[i]) * keys[t * kHeadDim + i];
    long double weight = std::exp(score * kScale);
    total += weight;
    for (int64_t i = 0; i < kHeadDim; ++i)
      sum[i] += weight * values[t * kHeadDim + i];
  }
  std::vector<double> result(kHeadDim);
  for (int64_t i = 0; i < kHeadDim; ++i)
    result[i] = static_cast<double>(sum[i] / total);
  return result;
}

void expectNear(const double *actual, const std::vector<double> &expected,
                double tolerance) {
  for (int64_t i = 0; i < kHeadDim; ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance) << "channel " << i;
}

TEST(ReferenceAttention, RawArraysGiveSoftmaxOverTheVisibleTokens) {
  std::vector<double> q = randomArray(kHeadDim, 1);
  std::vector<double> k = randomArray(50 * kHeadDim, 2);
  std::vector<double> v = randomArray(50 * kHeadDim, 3);
  std::vector<double> out(kHeadDim);
  for (int64_t visible : {1, 2, 49, 50}) {
    attend(q.data(), k.data(), v.data(), visible, kHeadDim, kScale, {},
           out.data());
    expectNear(out.data(), direct(q.data(), k, v, visible), kTolerance);
  }
  attend(q.data(), k.data(), v.data(), 0, kHeadDim, kScale, {}, out.data());
  EXPECT_EQ(out, std::vector<double>(kHeadDim, 0.0));
}

TEST(ReferenceAttention, HugeScoresDoNotOverflow) {
  std::vector<double> q(kHeadDim, 1000.0), k(2 * kHeadDim, 1000.0);
  std::vector<double> v(2 * kHeadDim, 1.0);
  for (int64_t i = 0; i < kHeadDim; ++i)
    k[i] = -1000.0, v[i] = 5.0;
  std::vector<double> out(kHeadDim);
  attend(q.data(), k.data(), v.data(), 2, kHeadDim, kScale, {}, out.data());
  EXPECT_EQ(out, std::vector<double>(kHeadDim, 1.0));
}

TEST(ReferenceAttention, RotatedStorageGivesTheSameResult) {
  std::vector<double> q = randomArray(kHeadDim, 1);
  std::vector<double> k = randomArray(50 * kHeadDim, 2);
  std::vector<double> v = randomArray(50 * kHeadDim, 3);
  std::vector<double> expected = direct(q.data(), k, v, 50);
  std::vector<double> rk = k, rv = v;
  for (int64_t t = 0; t < 50; ++t) {
    rotate(&rk[t * kHeadDim], kHeadDim);
    rotate(&rv[t * kHeadDim], kHeadDim);
  }
  std::vector<double> out(kHeadDim);
  attend(q.data(), rk.data(), v.data(), 50, kHeadDim, kScale, {true, false},
         out.data());
  expectNear(out.data(), expected, kTolerance);
  attend(q.data(), k.data(), rv.data(), 50, kHeadDim, kScale, {false, true},
         out.data());
  expectNear(out.data(), expected, kTolerance);
  attend(q.data(), rk.data(), rv.data(), 50, kHeadDim, kScale, {true, true},
         out.data());
  expectNear(out.data(), expected, kTolerance);
  // Forgetting a rotation shows.
  attend(q.data(), rk.data(), v.data(), 50, kHeadDim, kScale, {}, out.data());
  EXPECT_GT(std::abs(out[0] - expected[0]), 1e-3);
}

/// A cache of 300 tokens (sink, two pages, window) of one head.
struct Filled {
  std::unique_ptr<Cache> cache;
  std::vector<double> keys, values;
};

Filled fillCache(const Schedule &schedule, bool hadamard) {
  Filled filled;
  CacheOptions options;
  options.shape.headDim = kHeadDim;
  options.shape.maxTokens = 300;
  options.schedule = schedule;
  options.formats[0].axis = Axis::PerChannel;
  for (UniformFormat &format : options.formats)
    format.hadamard = hadamard;
  EXPECT_TRUE(Cache::create(options, filled.cache).status.ok());
  filled.keys = randomArray(300 * kHeadDim, 4);
  filled.values = randomArray(300 * kHeadDim, 5);
  std::vector<float> keys(filled.keys.begin(), filled.keys.end());
  std::vector<float> values(filled.values.begin(), filled.values.end());
  for (int64_t begin = 0; begin < 300;) {
    int64_t tokens = std::min(filled.cache->room(0), 300 - begin);
    StepResult result = filled.cache->append(
        {{0, tokens, &keys[begin * kHeadDim], &values[begin * kHeadDim]}});
    EXPECT_TRUE(result.status.ok());
    begin += tokens;
  }
  return filled;
}

TEST(ReferenceAttention, Level16EqualsDirectSoftmaxForEveryRowOfAStep) {
  Filled filled = fillCache({}, false);
  ASSERT_EQ(filled.cache->pages(0), 2);
  std::vector<double> q = randomArray(3 * 2 * kHeadDim, 6);
  std::vector<double> out = attend(*filled.cache, 0, 0, 0, q, 3, 2, kScale);
  ASSERT_EQ(out.size(), q.size());
  for (int64_t row = 0; row < 3; ++row)
    for (int64_t query = 0; query < 2; ++query) {
      int64_t offset = (row * 2 + query) * kHeadDim;
      expectNear(&out[offset],
                 direct(&q[offset], filled.keys, filled.values, 298 + row),
                 kTolerance);
    }
}

// Rotated vectors are rounded to bf16, 2^-9 relative each.  Rounding a key
// moves a score of |q| |k| / 8 = 8 by at most 0.016, and weights by as much;
// outputs are averages of values around 1.
TEST(ReferenceAttention, RotatedLevel16IsCloseToDirectSoftmax) {
  Filled filled = fillCache({}, true);
  std::vector<double> q = randomArray(kHeadDim, 7);
  std::vector<double> out = attend(*filled.cache, 0, 0, 0, q, 1, 1, kScale);
  std::vector<double> exact = direct(q.data(), filled.keys, filled.values, 300);
  expectNear(out.data(), exact, 0.02);
}

TEST(ReferenceAttention, LowerLevelsAttendOverDecodedValues) {
  std::vector<double> q = randomArray(kHeadDim, 8);
  double previousError = 0;
  for (int32_t level : {8, 4, 2}) {
    Schedule fixed;
    fixed.kind = ScheduleKind::None;
    fixed.floor = {level, level};
    Filled filled = fillCache(fixed, true);
    std::vector<double> out = attend(*filled.cache, 0, 0, 0, q, 1, 1, kScale);
    // Undo the rotation of the decoded arrays instead of rotating q and out.
    std::vector<double> keys = filled.cache->decode(0, 0, 0, 0);
    std::vector<double> values = filled.cache->decode(0, 0, 0, 1);
    for (int64_t t = 0; t < 300; ++t) {
      rotate(&keys[t * kHeadDim], kHeadDim);
      rotate(&values[t * kHeadDim], kHeadDim);
    }
    expectNear(out.data(), direct(q.data(), keys, values, 300), kTolerance);
    // And the fewer bits, the further from the exact result.
    std::vector<double> exact =
        direct(q.data(), filled.keys, filled.values, 300);
    double error = 0;
    for (int64_t i = 0; i < kHeadDim; ++i)
      error += std::pow(out[i] - exact[i], 2);
    EXPECT_GT(error, 2 * previousError) << level;
    previousError = error;
  }
}

} // namespace
