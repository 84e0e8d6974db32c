//===- ReferencePythonTest.cpp - The numbers that Python must find --------===//
//
// Codes and parameters of values that any language can make, as hashes;
// Python's vectorized quantizer is held against the same in
// test/python/test_quantize.py. Neighbours: ReferenceQuantizeTest.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Quantize.h"
#include "pmkvq/Target/KeyFeedback.h"

#include <cstring>
#include <gtest/gtest.h>

using namespace pmkvq::reference;

namespace {

/// Eight bits of a linear congruential generator, scaled by the channel: exact
/// in bf16.
std::vector<uint16_t> generatedValues(int64_t headDim) {
  std::vector<uint16_t> values;
  uint32_t state = 1;
  for (int64_t i = 0; i < pmkvq::rt::kPageTokens * headDim; ++i) {
    state = state * 1664525u + 1013904223u;
    float value = static_cast<float>(static_cast<int32_t>(state >> 24) - 128);
    values.push_back(
        floatToBf16(value / 32 * static_cast<float>(1 << (i % headDim % 5))));
  }
  return values;
}

/// FNV-1a, 64 bits.
class Hash {
public:
  void add(uint8_t byte) { value = (value ^ byte) * 1099511628211ull; }
  uint64_t value = 14695981039346656037ull;
};

struct Expected {
  Axis axis;
  int64_t headDim;
  uint64_t hash;
  bool symmetric = false;
};

/// Of codes at 8, 4, 2 and 1 bits, minima and ranges.
uint64_t hashOf(const Expected &expected) {
  UniformFormat format{expected.axis, false, 0.8, 0, expected.symmetric};
  int64_t headDim = expected.headDim;
  std::vector<uint16_t> values = generatedValues(headDim);
  PagePart part;
  part.values = values;
  Hash hash;
  for (int32_t level : {8, 4, 2, 1}) {
    EXPECT_TRUE(lowerPart(format, headDim, level, part).ok());
    for (uint8_t code : part.codes)
      hash.add(code);
  }
  for (const std::vector<uint16_t> *halves : {&part.minimum, &part.range})
    for (uint16_t half : *halves) {
      hash.add(static_cast<uint8_t>(half));
      hash.add(static_cast<uint8_t>(half >> 8));
    }
  return hash.value;
}

TEST(ReferencePython, CodesAndParametersAreTheSame) {
  const Expected cases[] = {
      {Axis::PerChannel, 64, 0x086c294eab8ad3feull},
      {Axis::PerToken, 64, 0x7e17ab1803d8ff99ull},
      {Axis::PerChannel, 128, 0xe7f6d523e3788d40ull},
      {Axis::PerToken, 128, 0xc4dbf39793fdb97dull},
      {Axis::PerToken, 64, 0x19fe5ad53b055522ull, true},
      {Axis::PerToken, 128, 0x06cc9a3947aeb653ull, true},
  };
  for (const Expected &expected : cases)
    EXPECT_EQ(hashOf(expected), expected.hash) << std::hex << hashOf(expected);
}

/// Of the factor, 4-bit codes and 2-bit codes.
uint64_t hashWithFeedback(Axis axis, int64_t headDim) {
  // From 0 to 156, exact.
  std::vector<float> squares;
  for (int64_t i = 0; i < headDim; ++i) {
    auto root = static_cast<float>(i * 37 % 101);
    squares.push_back(root * root / 64);
  }
  KeyFeedback feedback = {pmkvq::keyFeedbackFactor(squares.data(), headDim)};
  Hash hash;
  for (float element : feedback.factor) {
    uint32_t bits;
    std::memcpy(&bits, &element, sizeof(bits));
    for (int32_t shift : {0, 8, 16, 24})
      hash.add(static_cast<uint8_t>(bits >> shift));
  }
  UniformFormat format{axis, false, 0.77};
  PagePart part;
  part.values = generatedValues(headDim);
  for (int32_t level : {4, 2}) {
    EXPECT_TRUE(lowerPart(format, headDim, level, part, &feedback).ok());
    for (uint8_t code : part.codes)
      hash.add(code);
  }
  return hash.value;
}

TEST(ReferencePython, FeedbackIsTheSame) {
  const Expected cases[] = {
      {Axis::PerChannel, 64, 0x07e011fc65fa7d83ull},
      {Axis::PerChannel, 80, 0xb32f8b061b067d30ull},
      {Axis::PerToken, 64, 0xcc1710024edf834full},
      {Axis::PerChannel, 128, 0x188e386ecf692de0ull},
  };
  for (const Expected &expected : cases) {
    uint64_t hash = hashWithFeedback(expected.axis, expected.headDim);
    EXPECT_EQ(hash, expected.hash) << std::hex << hash;
  }
}

} // namespace
