//===- ReferenceShiftTest.cpp - Proofs about lowering codes ---------------===//
//
// Every claim of the design about shifts, over all codes.  Neighbours:
// lib/Reference/Quantize.cpp; the folds of the dialect rest on these proofs.
//
//===----------------------------------------------------------------------===//

#include "GoldenFile.h"

#include "pmkvq/Reference/Quantize.h"

#include <gtest/gtest.h>

#include <cmath>

using namespace pmkvq::reference;

namespace {

/// round(numerator / denominator) of integers, ties to even.
int64_t divideRounded(int64_t numerator, int64_t denominator) {
  int64_t quotient = numerator / denominator;
  int64_t twice = 2 * (numerator % denominator);
  bool up = twice > denominator || (twice == denominator && quotient % 2);
  return quotient + up;
}

TEST(ReferenceShift, EqualsRoundedDivisionWithoutTies) {
  for (int32_t bits : {16, 8, 4}) {
    int64_t divisor = (1 << bits / 2) + 1;
    for (uint32_t code = 0; code < (1u << bits); ++code) {
      ASSERT_NE(2 * (code % divisor), divisor) << "a tie at " << code;
      ASSERT_EQ(equivalentShift(code, bits), divideRounded(code, divisor))
          << bits << " bits, code " << code;
    }
  }
}

TEST(ReferenceShift, KeepsEndPointsAndRange) {
  for (int32_t bits : {16, 8, 4}) {
    uint32_t top = (1u << bits) - 1, lowerTop = (1u << bits / 2) - 1;
    EXPECT_EQ(equivalentShift(0, bits), 0u);
    EXPECT_EQ(equivalentShift(top, bits), lowerTop);
    for (uint32_t code = 0; code < top; ++code)
      ASSERT_LE(equivalentShift(code, bits), equivalentShift(code + 1, bits));
  }
}

TEST(ReferenceShift, IntermediatesFitTwiceTheBits) {
  for (int32_t bits : {16, 8, 4}) {
    uint64_t largest = equivalentShiftIntermediate((1u << bits) - 1, bits);
    EXPECT_LT(largest, uint64_t(1) << 2 * bits) << bits;
  }
  EXPECT_EQ(equivalentShiftIntermediate(65535, 16), 4286546303u);
  EXPECT_EQ(equivalentShiftIntermediate(255, 8), 63383u);
  EXPECT_EQ(equivalentShiftIntermediate(15, 4), 221u);
}

TEST(ReferenceShift, ChainsFrom16BitsEqualDirectSteps) {
  for (uint32_t code = 0; code < 65536; ++code) {
    uint32_t at8 = equivalentShift(code, 16);
    uint32_t at4 = equivalentShift(at8, 8);
    uint32_t at2 = equivalentShift(at4, 4);
    ASSERT_EQ(at8, divideRounded(code, 65535 / 255));
    ASSERT_EQ(at4, divideRounded(code, 65535 / 15));
    ASSERT_EQ(at2, divideRounded(code, 65535 / 3));
  }
}

// For an offset n within a range r, both integers: rint(255 n / r), lowered,
// is rint(15 n / r).  It holds even at ties, because 17 is odd.
TEST(ReferenceShift, LoweringTo4BitsEqualsQuantizingTo4BitsDirectly) {
  for (int64_t range = 1; range <= 1100; ++range)
    for (int64_t offset = 0; offset <= range; ++offset) {
      auto code8 = static_cast<uint32_t>(divideRounded(255 * offset, range));
      ASSERT_EQ(equivalentShift(code8, 8), divideRounded(15 * offset, range))
          << offset << " / " << range;
    }
}

/// The 2-bit code whose level is nearest to a 4-bit code's value.
uint32_t nearestClippedLevel(uint32_t code4, double clip) {
  UniformFormat format;
  format.clip = clip;
  double value = decodeCode(format, 0.0, 1.0, code4, 4);
  uint32_t best = 0;
  for (uint32_t code = 1; code < 4; ++code)
    if (std::abs(decodeCode(format, 0.0, 1.0, code, 2) - value) <
        std::abs(decodeCode(format, 0.0, 1.0, best, 2) - value))
      best = code;
  return best;
}

TEST(ReferenceShift, ClippedStepIsNearestForEveryClipOfTheInterval) {
  for (double clip : {0.701, 0.72, 0.75, 0.8, 0.85, 0.88, 0.899})
    for (uint32_t code = 0; code < 16; ++code)
      EXPECT_EQ(nearestClippedLevel(code, clip), clippedShift(code))
          << "clip " << clip << ", code " << code;
}

TEST(ReferenceShift, ClippedStepIsNotNearestOutsideTheInterval) {
  for (double clip : {0.69, 0.91, 1.0}) {
    int different = 0;
    for (uint32_t code = 0; code < 16; ++code)
      different += nearestClippedLevel(code, clip) != clippedShift(code);
    EXPECT_GT(different, 0) << clip;
  }
}

TEST(ReferenceShift, PaperStepIsNearestWithoutClip) {
  for (uint32_t code = 0; code < 16; ++code)
    EXPECT_EQ(nearestClippedLevel(code, 1.0), equivalentShift(code, 4));
}

TEST(ReferenceShift, FormatChoosesTheLastStep) {
  UniformFormat clipped, paper;
  paper.clip = 1.0;
  int different = 0;
  for (uint32_t code = 0; code < 16; ++code) {
    EXPECT_EQ(lowerCode(clipped, code, 4), code >> 2);
    EXPECT_EQ(lowerCode(paper, code, 4), divideRounded(code, 5));
    different += lowerCode(clipped, code, 4) != lowerCode(paper, code, 4);
  }
  EXPECT_GT(different, 0);
  for (uint32_t code = 0; code < 256; ++code)
    EXPECT_EQ(lowerCode(clipped, code, 8), divideRounded(code, 17));
}

TEST(ReferenceShift, EqualsGoldenShiftOfEveryCode) {
  pmkvq::test::GoldenFile golden("golden/reference.safetensors");
  ASSERT_TRUE(golden.ok());
  auto from16 = golden.read<uint16_t>("shift.16", "U16");
  auto from8 = golden.read<uint8_t>("shift.8", "U8");
  auto from4 = golden.read<uint8_t>("shift.4", "U8");
  ASSERT_EQ(from16.size(), 65536u);
  ASSERT_EQ(from8.size(), 256u);
  ASSERT_EQ(from4.size(), 16u);
  for (uint32_t code = 0; code < 65536; ++code)
    ASSERT_EQ(equivalentShift(code, 16), from16[code]) << code;
  for (uint32_t code = 0; code < 256; ++code)
    ASSERT_EQ(equivalentShift(code, 8), from8[code]) << code;
  for (uint32_t code = 0; code < 16; ++code)
    ASSERT_EQ(equivalentShift(code, 4), from4[code]) << code;
}

} // namespace
