//===- ReferenceBitsTest.cpp - bf16 and fp16 conversions ------------------===//
//
// Exhaustive over the 16-bit formats, and each directed rounding against its
// definition.  Neighbours: lib/Reference/Bits.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Bits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

using namespace pmkvq::reference;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The fp16 pattern of the next larger value (never called for infinity).
uint16_t nextHalfUp(uint16_t bits) {
  if (bits == 0x8000)
    return 0x0001;
  return bits & 0x8000 ? bits - 1 : bits + 1;
}

TEST(ReferenceBits, Bf16RoundTripsEveryValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    float value = bf16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(roundToBf16(value))) << bits;
    else
      EXPECT_EQ(floatToBf16(value), bits);
  }
}

TEST(ReferenceBits, Bf16RoundsToNearestTiesToEven) {
  EXPECT_EQ(roundToBf16(1.0f + 0x1p-8f), 1.0f);               // tie, down
  EXPECT_EQ(roundToBf16(1.0f + 0x3p-8f), 1.0f + 0x2p-7f);     // tie, up
  EXPECT_EQ(roundToBf16(1.0f + 0x1.002p-8f), 1.0f + 0x1p-7f); // above a tie
  EXPECT_EQ(roundToBf16(std::numeric_limits<float>::max()), kInfinity);
}

TEST(ReferenceBits, HalfRoundTripsEveryValueInBothDirections) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    float value = halfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value))
      continue;
    EXPECT_EQ(floatToHalfDown(value), bits);
    EXPECT_EQ(floatToHalfUp(value), bits);
  }
}

TEST(ReferenceBits, HalfKnownValues) {
  EXPECT_EQ(halfToFloat(0x3c00), 1.0f);
  EXPECT_EQ(halfToFloat(0xc000), -2.0f);
  EXPECT_EQ(halfToFloat(0x7bff), 65504.0f);
  EXPECT_EQ(halfToFloat(0x0001), 0x1p-24f);
  EXPECT_EQ(halfToFloat(0x0400), 0x1p-14f);
  EXPECT_FALSE(isFiniteHalf(0xfc00));
  EXPECT_FALSE(isFiniteHalf(0x7e00));
  EXPECT_TRUE(isFiniteHalf(0xfbff));
}

TEST(ReferenceBits, DirectedRoundingBracketsEveryFloat) {
  std::mt19937 random(1);
  int inexact = 0;
  for (int i = 0; i < 200000; ++i) {
    // Exponents from below fp16's denormals to beyond its largest value.
    float value =
        std::ldexp(std::uniform_real_distribution<float>(-1, 1)(random),
                   static_cast<int>(random() % 46) - 28);
    uint16_t down = floatToHalfDown(value), up = floatToHalfUp(value);
    EXPECT_LE(halfToFloat(down), value);
    EXPECT_GE(halfToFloat(up), value);
    if (halfToFloat(down) != value) {
      EXPECT_EQ(halfToFloat(nextHalfUp(down)), halfToFloat(up)) << value;
      ++inexact;
    }
  }
  EXPECT_GT(inexact, 100000);
}

TEST(ReferenceBits, DirectedRoundingAtTheEnds) {
  EXPECT_EQ(halfToFloat(floatToHalfDown(70000.0f)), 65504.0f);
  EXPECT_EQ(halfToFloat(floatToHalfUp(70000.0f)), kInfinity);
  EXPECT_EQ(halfToFloat(floatToHalfUp(65505.0f)), kInfinity);
  EXPECT_EQ(halfToFloat(floatToHalfDown(-65505.0f)), -kInfinity);
  EXPECT_EQ(halfToFloat(floatToHalfUp(-70000.0f)), -65504.0f);
  EXPECT_EQ(halfToFloat(floatToHalfUp(1e-30f)), 0x1p-24f);
  EXPECT_EQ(halfToFloat(floatToHalfDown(1e-30f)), 0.0f);
  EXPECT_EQ(halfToFloat(floatToHalfDown(-1e-30f)), -0x1p-24f);
  EXPECT_EQ(halfToFloat(floatToHalfUp(0x1p-149f)), 0x1p-24f);
  EXPECT_TRUE(std::isnan(
      halfToFloat(floatToHalfUp(std::numeric_limits<float>::quiet_NaN()))));
}

} // namespace
