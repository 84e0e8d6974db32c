//===- ReferenceHadamardTest.cpp - The rotation ---------------------------===//
//
// Entries, orthogonality and involution for every head dim.  Neighbours:
// lib/Reference/Hadamard.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Hadamard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

using namespace pmkvq::reference;

namespace {

// Sums of up to 256 terms of about 1, log2(256) roundings each: below 1e-13.
constexpr double kTolerance = 1e-12;

class ReferenceHadamard : public testing::TestWithParam<int64_t> {};

std::vector<double> randomVector(int64_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> vector(size);
  for (double &x : vector)
    x = normal(random);
  return vector;
}

double dot(const std::vector<double> &a, const std::vector<double> &b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i)
    sum += a[i] * b[i];
  return sum;
}

TEST_P(ReferenceHadamard, EntriesAreSignsByBitParity) {
  int64_t headDim = GetParam(), block = hadamardBlock(headDim);
  for (int64_t column = 0; column < headDim; ++column) {
    std::vector<double> unit(headDim, 0.0);
    unit[column] = 1.0;
    rotate(unit.data(), headDim);
    for (int64_t row = 0; row < headDim; ++row) {
      bool sameBlock = row / block == column / block;
      bool odd = __builtin_parityll((row % block) & (column % block));
      double sign = odd ? -1.0 : 1.0;
      EXPECT_NEAR(unit[row], sameBlock ? sign / std::sqrt(block) : 0.0,
                  kTolerance);
    }
  }
}

TEST_P(ReferenceHadamard, IsItsOwnInverse) {
  std::vector<double> x = randomVector(GetParam(), 1), y = x;
  rotate(y.data(), GetParam());
  EXPECT_GT(std::abs(y[0] - x[0]), 1e-3) << "nothing was rotated";
  rotate(y.data(), GetParam());
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(y[i], x[i], kTolerance);
}

TEST_P(ReferenceHadamard, KeepsInnerProducts) {
  std::vector<double> a = randomVector(GetParam(), 2);
  std::vector<double> b = randomVector(GetParam(), 3);
  double before = dot(a, b);
  rotate(a.data(), GetParam());
  rotate(b.data(), GetParam());
  EXPECT_NEAR(dot(a, b), before, 100 * kTolerance);
}

INSTANTIATE_TEST_SUITE_P(HeadDims, ReferenceHadamard,
                         testing::Values(64, 80, 96, 128, 256));

TEST(ReferenceHadamardBlock, IsTheLargestPowerOfTwoThatDivides) {
  EXPECT_EQ(hadamardBlock(64), 64);
  EXPECT_EQ(hadamardBlock(80), 16);
  EXPECT_EQ(hadamardBlock(96), 32);
  EXPECT_EQ(hadamardBlock(128), 128);
  EXPECT_EQ(hadamardBlock(256), 256);
}

} // namespace
