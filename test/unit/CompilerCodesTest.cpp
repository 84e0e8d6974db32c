//===- CompilerCodesTest.cpp - Codes of kernels against the reference -----===//
//
// Compiled quantization and shifts give the reference's codes and parameters,
// bit for bit.  Neighbours: KernelHarness.h, ReferenceQuantizeTest.cpp.
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"
#include "pmkvq/Reference/Bits.h"

#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <random>

using namespace pmkvq;
using namespace pmkvq::test;
using reference::PagePart;

namespace {
constexpr int64_t kTokens = rt::kPageTokens;

/// Kernels are compiled once a shape for all tests of this file.
const Kernels &kernelsFor(int64_t headDim, const std::string &format) {
  static std::map<std::pair<int64_t, std::string>, std::unique_ptr<Kernels>>
      cache;
  auto &kernels = cache[{headDim, format}];
  if (!kernels) {
    KernelShape shape;
    shape.headDim = headDim;
    shape.key = shape.value = format;
    shape.valueFloor = 1;
    kernels = Kernels::compile(shape);
  }
  return *kernels;
}

/// One page and its window.
class OnePage {
public:
  OnePage(const Kernels &kernels, const std::string &formatText)
      : kernels(kernels), headDim(kernels.shape.headDim),
        format(referenceFormat(formatText)),
        groups(reference::groupCount(format, headDim)),
        cache(kernels.shape, reference::parameterBytes(format, headDim),
              reference::parameterBytes(format, headDim), 1, 16) {}

  /// Puts `values` into the window, flushes to `level`; gives the status.
  int32_t flush(int32_t part, int32_t level,
                const std::vector<uint16_t> &values) {
    std::copy(values.begin(), values.end(),
              cache.fixed(0, 0, part, kernels.shape.sink));
    if (!made)
      cache.makePage(0, 0, 0, 16, 16);
    made = true;
    cache.entry(0, 0, 0).level[part] = static_cast<uint8_t>(level);
    return run(kernels.flush(part, level));
  }

  int32_t requantize(int32_t part) {
    rt::PageEntry &entry = cache.entry(0, 0, 0);
    int32_t status = run(kernels.requantize(part, entry.level[part]));
    entry.level[part] /= 2;
    // As the runtime has it: which half of the block.
    if (entry.level[part] == 1)
      entry.blocks[part][1] = 0;
    return status;
  }

  /// Compares codes and parameters; reports the first difference.
  void expectEqual(int32_t part, const PagePart &expected) {
    const rt::PageEntry &entry = cache.entry(0, 0, 0);
    ASSERT_EQ(entry.level[part], expected.level);
    for (int64_t token = 0; token < kTokens; ++token)
      for (int64_t dim = 0; dim < headDim; ++dim)
        ASSERT_EQ(cache.code(entry, part, token, dim),
                  expected.codes[token * headDim + dim])
            << "part " << part << " level " << expected.level << " token "
            << token << " dim " << dim;
    for (int64_t group = 0; group < groups; ++group) {
      auto [minimum, range] = cache.parameters(entry, part, format, group);
      ASSERT_EQ(minimum, expected.minimum[group])
          << "minimum of group " << group;
      ASSERT_EQ(range, expected.range[group]) << "range of group " << group;
    }
  }

  const Kernels &kernels;
  int64_t headDim;
  reference::UniformFormat format;
  int64_t groups;
  TestCache cache;

private:
  int32_t run(rt::KernelFn kernel) {
    rt::PageTask task = {0, 0, 0, 0};
    void *operands[] = {cache.view(), &task};
    return kernel(operands, 0);
  }
  bool made = false;
};

std::vector<uint16_t> randomValues(std::mt19937 &random, int64_t headDim) {
  // Offsets and spreads from tiny to large, as key channels have them; the
  // largest sum stays below fp16's range.
  std::uniform_real_distribution<float> exponent(-20.0f, 12.0f);
  std::normal_distribution<float> normal;
  float spread = std::exp2(exponent(random));
  float offset = normal(random) * std::exp2(exponent(random));
  std::vector<uint16_t> values(kTokens * headDim);
  for (uint16_t &value : values)
    value = reference::floatToBf16(offset + spread * normal(random));
  return values;
}

class CodesTest
    : public testing::TestWithParam<std::tuple<int64_t, std::string>> {};

TEST_P(CodesTest, RandomGroupsMatchAtEveryLevel) {
  auto [headDim, text] = GetParam();
  OnePage page(kernelsFor(headDim, text), text);
  std::mt19937 random(static_cast<uint32_t>(headDim));
  // Four instances of this test x two parts: 10^6 groups in all.
  const int64_t pages = 1000000 / 8 / page.groups + 1;
  for (int64_t i = 0; i < pages && !HasFatalFailure(); ++i)
    for (int32_t part : {rt::kKey, rt::kValue}) {
      std::vector<uint16_t> values = randomValues(random, headDim);
      PagePart expected;
      ASSERT_TRUE(
          reference::quantizePart(page.format, headDim, values.data(), expected)
              .ok());
      // Every page in place through the whole ladder, from raw values on.
      ASSERT_EQ(page.flush(part, 16, values), rt::kKernelOk);
      for (int32_t level : {8, 4, 2, 1}) {
        if (level == 1 && part == rt::kKey)
          continue;
        ASSERT_EQ(page.requantize(part), rt::kKernelOk);
        ASSERT_TRUE(
            reference::lowerPart(page.format, headDim, level, expected).ok());
        // Codes at 2 bits depend on all above; the others are sampled.
        if (level <= 2 || i % 8 == 0)
          page.expectEqual(part, expected);
      }
    }
}

TEST_P(CodesTest, FlushToALevelEqualsLoweringToIt) {
  auto [headDim, text] = GetParam();
  OnePage page(kernelsFor(headDim, text), text);
  std::mt19937 random(11);
  for (int32_t part : {rt::kKey, rt::kValue})
    for (int32_t level : {8, 4, 2}) {
      std::vector<uint16_t> values = randomValues(random, headDim);
      PagePart expected;
      ASSERT_TRUE(
          reference::quantizePart(page.format, headDim, values.data(), expected)
              .ok());
      ASSERT_TRUE(
          reference::lowerPart(page.format, headDim, level, expected).ok());
      ASSERT_EQ(page.flush(part, level, values), rt::kKernelOk);
      page.expectEqual(part, expected);
    }
}

TEST_P(CodesTest, FlushToLevel16KeepsEveryBit) {
  auto [headDim, text] = GetParam();
  OnePage page(kernelsFor(headDim, text), text);
  std::mt19937 random(12);
  std::vector<uint16_t> values(kTokens * headDim);
  for (uint16_t &value : values)
    value = static_cast<uint16_t>(random());
  for (int32_t part : {rt::kKey, rt::kValue}) {
    ASSERT_EQ(page.flush(part, 16, values), rt::kKernelOk);
    for (int64_t i = 0; i < kTokens * headDim; ++i)
      ASSERT_EQ(page.cache.raw(page.cache.entry(0, 0, 0), part, i / headDim,
                               i % headDim),
                values[i]);
  }
}

/// Compares one page of given values with the reference, refusals included.
void expectSame(OnePage &page, const std::vector<uint16_t> &values,
                int64_t &refused) {
  PagePart expected;
  bool ok = reference::quantizePart(page.format, page.headDim, values.data(),
                                    expected)
                .ok();
  refused += !ok;
  for (int32_t part : {rt::kKey, rt::kValue}) {
    std::vector<uint8_t> before = page.cache.blocks;
    ASSERT_EQ(page.flush(part, 8, values),
              ok ? rt::kKernelOk : rt::kKernelNotRepresentable);
    if (ok)
      page.expectEqual(part, expected);
    else
      ASSERT_EQ(before, page.cache.blocks) << "something was written";
  }
}

TEST_P(CodesTest, EveryBf16ValueMatches) {
  auto [headDim, text] = GetParam();
  OnePage page(kernelsFor(headDim, text), text);
  page.flush(rt::kKey, 8, std::vector<uint16_t>(kTokens * headDim));
  int64_t refused = 0;
  // Neighbours in bit patterns are neighbours in value: a page of consecutive
  // patterns has groups of every magnitude.
  const int64_t perPage = kTokens * headDim;
  for (int64_t start = 0; start < 65536; start += perPage) {
    std::vector<uint16_t> values(perPage);
    for (int64_t i = 0; i < perPage; ++i)
      values[i] = static_cast<uint16_t>(start + i);
    expectSame(page, values, refused);
  }
  EXPECT_GT(refused, 0);
  // Values that are finite but near or past fp16's range, NaN and infinity:
  // one in a page of zeros.
  refused = 0;
  for (uint32_t bits = 0x4700; bits < 0x8000; bits += 5)
    for (uint32_t sign : {0u, 0x8000u}) {
      std::vector<uint16_t> values(perPage);
      values[bits % perPage] = static_cast<uint16_t>(bits | sign);
      expectSame(page, values, refused);
    }
  EXPECT_GT(refused, 0);
}

TEST_P(CodesTest, ConstantGroupsHaveRangeZero) {
  auto [headDim, text] = GetParam();
  OnePage page(kernelsFor(headDim, text), text);
  page.flush(rt::kKey, 8, std::vector<uint16_t>(kTokens * headDim));
  int64_t refused = 0;
  for (float value : {0.0f, -0.0f, 1.0f, -300.0f, 1e-30f, -1e-6f})
    expectSame(
        page,
        std::vector<uint16_t>(kTokens * headDim, reference::floatToBf16(value)),
        refused);
  EXPECT_EQ(refused, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, CodesTest,
    testing::Combine(testing::Values<int64_t>(64, 128),
                     testing::Values(std::string("<per_channel>"),
                                     std::string("<per_token>"),
                                     std::string("<per_token_symmetric>"))),
    [](const auto &info) {
      std::string name = std::get<1>(info.param).substr(1);
      name.pop_back();
      return name + "_" + std::to_string(std::get<0>(info.param));
    });
} // namespace
