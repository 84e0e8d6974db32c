//===- ReferenceQuantizeTest.cpp - Parts of pages -------------------------===//
//
// Quantizing, lowering and decoding whole parts, for both axes.  Neighbours:
// lib/Reference/Quantize.cpp; ReferenceShiftTest.cpp proves the shifts.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace pmkvq::reference;
using pmkvq::rt::StatusCode;

namespace {

constexpr int64_t kTokens = pmkvq::rt::kPageTokens;

std::vector<uint16_t> randomValues(int64_t headDim, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.3f, 2.0f);
  std::vector<uint16_t> values(kTokens * headDim);
  for (uint16_t &value : values)
    value = floatToBf16(normal(random));
  return values;
}

std::vector<uint16_t> constantValues(int64_t headDim, float value) {
  return std::vector<uint16_t>(kTokens * headDim, floatToBf16(value));
}

PagePart atLevel16(std::vector<uint16_t> values) {
  PagePart part;
  part.values = std::move(values);
  return part;
}

class ReferenceQuantize : public testing::TestWithParam<
                              std::tuple<Axis, int64_t, double, int64_t>> {
protected:
  UniformFormat format() const {
    UniformFormat format;
    format.axis = std::get<0>(GetParam());
    format.clip = std::get<2>(GetParam());
    format.group = std::get<3>(GetParam());
    return format;
  }
  int64_t headDim() const { return std::get<1>(GetParam()); }
};

TEST_P(ReferenceQuantize, ParametersEncloseTheGroupTightly) {
  std::vector<uint16_t> values = randomValues(headDim(), 1);
  PagePart part;
  ASSERT_TRUE(quantizePart(format(), headDim(), values.data(), part).ok());
  ASSERT_EQ(int64_t(part.minimum.size()), groupCount(format(), headDim()));
  EXPECT_EQ(parameterBytes(format(), headDim()),
            int64_t(2 * (part.minimum.size() + part.range.size())));
  std::vector<double> low(part.minimum.size(), INFINITY);
  std::vector<double> high(part.minimum.size(), -INFINITY);
  for (int64_t i = 0; i < kTokens * headDim(); ++i) {
    int64_t group = groupOf(format(), headDim(), i / headDim(), i % headDim());
    low[group] = std::min<double>(low[group], bf16ToFloat(values[i]));
    high[group] = std::max<double>(high[group], bf16ToFloat(values[i]));
  }
  for (size_t group = 0; group < low.size(); ++group) {
    double minimum = halfToFloat(part.minimum[group]);
    double range = halfToFloat(part.range[group]);
    // An fp16 step is at most 2^-10 of the value.
    EXPECT_LE(minimum, low[group]);
    EXPECT_GE(minimum, low[group] - std::abs(low[group]) * 0x1p-10);
    EXPECT_GE(range, high[group] - minimum);
    EXPECT_LE(range, (high[group] - minimum) * (1 + 0x1p-10));
  }
}

TEST_P(ReferenceQuantize, RoundTripErrorIsBounded) {
  std::vector<uint16_t> values = randomValues(headDim(), 2);
  for (int32_t level : {8, 4, 2}) {
    PagePart part = atLevel16(values);
    ASSERT_TRUE(lowerPart(format(), headDim(), level, part).ok());
    ASSERT_EQ(part.level, level);
    std::vector<double> decoded = decodePart(format(), headDim(), part);
    // In units of the range: half the distance of two levels; clipped levels
    // leave (1 - clip) / 2 at each end, if that is more.
    double clip = std::get<2>(GetParam());
    double half = level == 2 ? std::max(clip / 6, (1 - clip) / 2)
                             : 0.5 / ((1 << level) - 1);
    // A code rounds what is rounded already: half a step of each level above.
    // Single precision adds a millionth at most.
    double above = (level < 8 ? 0.5 / 255 : 0) + (level < 4 ? 0.5 / 15 : 0);
    for (int64_t i = 0; i < kTokens * headDim(); ++i) {
      int64_t group =
          groupOf(format(), headDim(), i / headDim(), i % headDim());
      double range = halfToFloat(part.range[group]);
      ASSERT_LE(std::abs(decoded[i] - bf16ToFloat(values[i])),
                range * (half + above + 1e-6))
          << "level " << level << ", element " << i;
    }
  }
}

TEST_P(ReferenceQuantize, LoweringInStepsEqualsLoweringAtOnce) {
  std::vector<uint16_t> values = randomValues(headDim(), 3);
  PagePart steps = atLevel16(values), once = atLevel16(values);
  for (int32_t level : {16, 8, 4, 2})
    ASSERT_TRUE(lowerPart(format(), headDim(), level, steps).ok());
  ASSERT_TRUE(lowerPart(format(), headDim(), 2, once).ok());
  EXPECT_EQ(steps.codes, once.codes);
  EXPECT_EQ(steps.minimum, once.minimum);
  EXPECT_EQ(steps.range, once.range);
  EXPECT_TRUE(once.values.empty());
}

TEST_P(ReferenceQuantize, Level16IsExact) {
  std::vector<uint16_t> values = randomValues(headDim(), 4);
  std::vector<double> decoded =
      decodePart(format(), headDim(), atLevel16(values));
  for (int64_t i = 0; i < kTokens * headDim(); ++i)
    ASSERT_EQ(decoded[i], bf16ToFloat(values[i]));
}

INSTANTIATE_TEST_SUITE_P(
    Formats, ReferenceQuantize,
    testing::Combine(testing::Values(Axis::PerChannel, Axis::PerToken),
                     testing::Values(64, 80, 128), testing::Values(0.8, 1.0),
                     // The whole axis, and a part of it.
                     testing::Values(0, 16)));

TEST(ReferenceQuantizeExact, WorkedExample) {
  // Token 0 holds -1, 2 and otherwise 0.5.
  std::vector<uint16_t> values = constantValues(64, 0.5f);
  values[0] = floatToBf16(-1.0f);
  values[1] = floatToBf16(2.0f);
  UniformFormat format;
  PagePart part;
  ASSERT_TRUE(quantizePart(format, 64, values.data(), part).ok());
  EXPECT_EQ(halfToFloat(part.minimum[0]), -1.0f);
  EXPECT_EQ(halfToFloat(part.range[0]), 3.0f);
  EXPECT_EQ(part.codes[0], 0);
  EXPECT_EQ(part.codes[1], 255);
  EXPECT_EQ(part.codes[2], 128); // 127.5, to even
  std::vector<double> at8 = decodePart(format, 64, part);
  EXPECT_EQ(at8[0], -1.0);
  EXPECT_EQ(at8[1], 2.0);
  ASSERT_TRUE(lowerPart(format, 64, 4, part).ok());
  EXPECT_EQ(part.codes[2], 8);
  EXPECT_DOUBLE_EQ(decodePart(format, 64, part)[2], 0.6);
  EXPECT_EQ(decodePart(format, 64, part)[1], 2.0);
  ASSERT_TRUE(lowerPart(format, 64, 2, part).ok());
  EXPECT_EQ(part.codes[2], 2);
  EXPECT_DOUBLE_EQ(decodePart(format, 64, part)[2], 0.9);
  EXPECT_DOUBLE_EQ(decodePart(format, 64, part)[0], -0.7);
}

TEST(ReferenceQuantizeExact, TiesGoToEven) {
  std::vector<uint16_t> values = constantValues(64, 0.0f);
  values[1] = floatToBf16(255.0f);
  for (int i = 0; i < 4; ++i)
    values[2 + i] = floatToBf16(i + 0.5f);
  PagePart part;
  ASSERT_TRUE(quantizePart({}, 64, values.data(), part).ok());
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(part.codes[2 + i], std::vector<int>({0, 2, 2, 4})[i]) << i;
}

// With range 119 = 7 * 17, x * 255 / 119 is a tie for x = 3.5, 10.5, 17.5, ...,
// while 255 / 119 = 15 / 7 is not a float: multiplying by a reciprocal, or
// dividing first, misses some of these ties.
TEST(ReferenceQuantizeExact, MultipliesBeforeItDivides) {
  std::vector<uint16_t> values = constantValues(64, 0.0f);
  values[63] = floatToBf16(119.0f);
  for (int i = 0; i < 17; ++i)
    values[i] = floatToBf16(3.5f + 7.0f * i);
  PagePart part;
  ASSERT_TRUE(quantizePart({}, 64, values.data(), part).ok());
  EXPECT_EQ(halfToFloat(part.range[0]), 119.0f);
  int misses = 0;
  for (int i = 0; i < 17; ++i) {
    // 7.5 + 15 i: every second tie lies below its even neighbour.
    EXPECT_EQ(part.codes[i], i % 2 ? 15 * i + 7 : 15 * i + 8);
    float reciprocal = 255.0f / 119.0f;
    misses += std::nearbyintf((3.5f + 7.0f * i) * reciprocal) != part.codes[i];
  }
  EXPECT_GT(misses, 0) << "the example does not tell the orders apart";
}

TEST(ReferenceQuantizeExact, AxesShareWhatTheySay) {
  // Every channel is constant over tokens: no range per channel, a full one per
  // token.
  std::vector<uint16_t> values(kTokens * 64);
  for (int64_t i = 0; i < kTokens * 64; ++i)
    values[i] = floatToBf16(static_cast<float>(i % 64));
  UniformFormat perChannel, perToken;
  perChannel.axis = Axis::PerChannel;
  PagePart channels, tokens;
  ASSERT_TRUE(quantizePart(perChannel, 64, values.data(), channels).ok());
  ASSERT_TRUE(quantizePart(perToken, 64, values.data(), tokens).ok());
  EXPECT_EQ(halfToFloat(channels.minimum[63]), 63.0f);
  EXPECT_EQ(halfToFloat(channels.range[63]), 0.0f);
  EXPECT_EQ(halfToFloat(tokens.minimum[127]), 0.0f);
  EXPECT_EQ(halfToFloat(tokens.range[127]), 63.0f);
  EXPECT_EQ(channels.range.size(), 64u);
  EXPECT_EQ(tokens.range.size(), 128u);
}

TEST(ReferenceQuantizeExact, RangeZeroDecodesToTheMinimumAtEveryLevel) {
  UniformFormat format;
  for (float value : {0.0f, -0.0f, -3.5f, 1024.0f}) {
    PagePart part = atLevel16(constantValues(64, value));
    for (int32_t level : {8, 4, 2}) {
      ASSERT_TRUE(lowerPart(format, 64, level, part).ok());
      EXPECT_EQ(part.codes, std::vector<uint8_t>(kTokens * 64, 0));
      for (double decoded : decodePart(format, 64, part))
        ASSERT_EQ(decoded, value);
    }
    EXPECT_NE(part.minimum[0], 0x8000) << "a zero minimum is +0";
  }
}

TEST(ReferenceQuantizeExact, MinimumRoundedDownMakesRangeCoverTheGap) {
  // Below 2^-14 the steps of fp16 are 2^-24: 2^-20 + 2^-27 is a bf16 between.
  float value = 0x1.02p-20f;
  PagePart part;
  ASSERT_TRUE(
      quantizePart({}, 64, constantValues(64, value).data(), part).ok());
  EXPECT_EQ(halfToFloat(part.minimum[0]), 0x1p-20f);
  EXPECT_EQ(halfToFloat(part.range[0]), 0x1p-24f);
  // (2^-27 * 255) / 2^-24 = 31.875
  EXPECT_EQ(part.codes[0], 32);
}

TEST(ReferenceQuantizeExact, SymmetricRangesAreBytes) {
  std::vector<uint16_t> values = constantValues(64, 0.0f);
  // A range of 4.25 is rounded up to 4.5, one of 2^-30 to the smallest, 2^-17.
  values[0] = floatToBf16(-2.125f);
  values[64] = floatToBf16(0x1p-31f);
  UniformFormat format;
  format.symmetric = true;
  PagePart part;
  ASSERT_TRUE(quantizePart(format, 64, values.data(), part).ok());
  EXPECT_EQ(parameterBytes(format, 64), kTokens);
  EXPECT_EQ(halfToFloat(part.range[0]), 4.5f);
  EXPECT_EQ(halfToFloat(part.minimum[0]), -2.25f);
  EXPECT_EQ(halfToFloat(part.range[1]), 0x1p-17f);
  EXPECT_EQ(halfToFloat(part.range[2]), 0.0f);
  EXPECT_EQ(part.minimum[2], 0);
  EXPECT_EQ(part.codes[0], 7);   // 0.125 * 255 / 4.5 = 7.08
  EXPECT_EQ(part.codes[1], 128); // 127.5, to even
  EXPECT_EQ(part.codes[128], 0);
  for (uint16_t range : part.range)
    EXPECT_EQ(rangeFromByte(rangeByte(range)), range);
}

TEST(ReferenceQuantizeExact, SymmetricRangesEndAt61440) {
  UniformFormat format;
  format.symmetric = true;
  PagePart part;
  std::vector<uint16_t> values = constantValues(64, -30720.0f);
  ASSERT_TRUE(quantizePart(format, 64, values.data(), part).ok());
  EXPECT_EQ(rangeByte(part.range[0]), 0xf7);
  for (float outside : {30976.0f, INFINITY, -INFINITY, NAN}) {
    values[77] = floatToBf16(outside);
    EXPECT_EQ(quantizePart(format, 64, values.data(), part).code(),
              StatusCode::NotRepresentable)
        << outside;
  }
}

/// Quantizes with one value replaced and expects a refusal without effect.
void expectRefused(float fill, float outlier) {
  std::vector<uint16_t> values = constantValues(64, fill);
  values[77] = floatToBf16(outlier);
  for (Axis axis : {Axis::PerChannel, Axis::PerToken}) {
    UniformFormat format;
    format.axis = axis;
    PagePart part = atLevel16(values);
    EXPECT_EQ(lowerPart(format, 64, 8, part).code(),
              StatusCode::NotRepresentable)
        << fill << " with " << outlier;
    EXPECT_EQ(part.level, 16);
    EXPECT_EQ(part.values, values);
    EXPECT_TRUE(part.codes.empty());
    EXPECT_TRUE(part.minimum.empty());
  }
}

TEST(ReferenceQuantizeExact, RefusesWhatFp16CannotHold) {
  expectRefused(0.0f, INFINITY);
  expectRefused(0.0f, -INFINITY);
  expectRefused(0.0f, NAN);
  expectRefused(0.0f, -70000.0f);
  expectRefused(0.0f, 70000.0f);
  expectRefused(-40000.0f, 40000.0f);
}

TEST(ReferenceQuantizeExact, AcceptsWhatFp16JustHolds) {
  std::vector<uint16_t> values = constantValues(64, 0.0f);
  values[5] = floatToBf16(65280.0f); // the largest bf16 below 65504
  PagePart part;
  EXPECT_TRUE(quantizePart({}, 64, values.data(), part).ok());
  EXPECT_EQ(part.codes[5], 255);
  values[5] = floatToBf16(-65280.0f);
  EXPECT_TRUE(quantizePart({}, 64, values.data(), part).ok());
  // Above 65504 the minimum still rounds down into fp16.
  values = constantValues(64, 65536.0f);
  ASSERT_TRUE(quantizePart({}, 64, values.data(), part).ok());
  EXPECT_EQ(halfToFloat(part.minimum[0]), 65504.0f);
  EXPECT_EQ(halfToFloat(part.range[0]), 32.0f);
}

TEST(ReferenceQuantizeExact, RefusesToRaiseOrToInventLevels) {
  PagePart part = atLevel16(randomValues(64, 5));
  EXPECT_EQ(lowerPart({}, 64, 3, part).code(), StatusCode::InvalidArgument);
  ASSERT_TRUE(lowerPart({}, 64, 4, part).ok());
  EXPECT_EQ(lowerPart({}, 64, 8, part).code(), StatusCode::InvalidArgument);
  EXPECT_EQ(part.level, 4);
}

TEST(ReferenceQuantizeExact, GroupsLieAlongTheAxis) {
  UniformFormat channel{Axis::PerChannel, false, 0.8, 64};
  UniformFormat token{Axis::PerToken, false, 0.8, 32};
  EXPECT_EQ(groupCount(channel, 64), 2 * 64);
  EXPECT_EQ(groupCount(token, 64), 128 * 2);
  EXPECT_EQ(groupOf(channel, 64, 63, 5), 5);
  EXPECT_EQ(groupOf(channel, 64, 64, 5), 64 + 5);
  EXPECT_EQ(groupOf(token, 64, 3, 31), 6);
  EXPECT_EQ(groupOf(token, 64, 3, 32), 7);
  EXPECT_EQ(parameterBytes(channel, 64), 2 * 2 * 2 * 64);
}

TEST(ReferenceQuantizeExact, RefusesGroupsThatDoNotDivideTheAxis) {
  PagePart part = atLevel16(randomValues(80, 5));
  for (int64_t group : {48, 96, -1}) {
    UniformFormat format{Axis::PerToken, false, 0.8, group};
    EXPECT_EQ(lowerPart(format, 80, 8, part).code(),
              StatusCode::InvalidArgument)
        << group;
  }
  EXPECT_EQ(part.level, 16);
  EXPECT_TRUE(validateGroup({Axis::PerChannel, false, 0.8, 32}, 80).ok());
  EXPECT_TRUE(validateGroup({Axis::PerToken, false, 0.8, 40}, 80).ok());
}

TEST(ReferenceQuantizeExact, RefusesClipsThatNeedAnotherShift) {
  for (double clip : {0.7, 0.9, 0.95, 1.1, 0.0})
    EXPECT_FALSE(validateFormat({Axis::PerToken, false, clip}).ok()) << clip;
  for (double clip : {0.75, 0.8, 0.85, 1.0})
    EXPECT_TRUE(validateFormat({Axis::PerToken, false, clip}).ok()) << clip;
}

} // namespace
