//===- CompilerPaperTest.cpp - The paper's format in compiled kernels -----===//
//
// Codes, scales and zeros of the format `paper` against the reference and
// against what the paper's own code left in its cache.  Neighbours:
// KernelHarness.h, ReferencePaperTest.cpp.
//
//===----------------------------------------------------------------------===//

#include "GoldenFile.h"
#include "KernelHarness.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Paper.h"

#include <gtest/gtest.h>
#include <random>

using namespace ::pmkvq;
using namespace ::pmkvq::test;

namespace {
constexpr int64_t kPaperHeadDim = 128;
constexpr int64_t kPaperTokens = rt::kPageTokens;
/// Scale and zero, bf16, of each token.
constexpr int64_t kPaperParameterBytes = 2 * 2 * kPaperTokens;

const Kernels &paperKernels() {
  static std::unique_ptr<Kernels> kernels = [] {
    KernelShape shape;
    shape.headDim = kPaperHeadDim;
    shape.key = shape.value = "<paper>";
    return Kernels::compile(shape);
  }();
  return *kernels;
}

class PaperPage {
public:
  PaperPage()
      : cache(paperKernels().shape, kPaperParameterBytes, kPaperParameterBytes,
              1, 1) {
    cache.makePage(0, 0, 0, 16, 16);
  }

  void flush(int32_t part, int32_t level, const std::vector<float> &values) {
    for (int64_t i = 0; i < kPaperTokens * kPaperHeadDim; ++i)
      cache.fixed(0, 0, part, paperKernels().shape.sink)[i] =
          reference::floatToBf16(values[i]);
    entry().level[part] = static_cast<uint8_t>(level);
    run(paperKernels().flush(part, level));
  }

  void requantize(int32_t part) {
    run(paperKernels().requantize(part, entry().level[part]));
    entry().level[part] /= 2;
  }

  uint32_t code(int32_t part, int64_t token, int64_t dim) {
    return entry().level[part] == 16 ? cache.raw(entry(), part, token, dim)
                                     : cache.code(entry(), part, token, dim);
  }

  float parameter(int32_t part, int64_t index, int64_t token) {
    return reference::bf16ToFloat(
        cache.parameter(entry(), part, index, token, kPaperTokens));
  }

  /// Compares one token with a group of the reference.
  void expectGroup(int32_t part, int64_t token,
                   const reference::PaperGroup &group) {
    for (int64_t dim = 0; dim < kPaperHeadDim; ++dim)
      ASSERT_EQ(code(part, token, dim), group.codes[dim])
          << "bits " << group.bits << " token " << token << " dim " << dim;
    ASSERT_EQ(parameter(part, 0, token), group.scale) << "token " << token;
    ASSERT_EQ(parameter(part, 1, token), group.zero) << "token " << token;
  }

  rt::PageEntry &entry() { return cache.entry(0, 0, 0); }

private:
  void run(rt::KernelFn kernel) {
    rt::PageTask task = {0, 0, 0, 0};
    void *operands[] = {cache.view(), &task};
    ASSERT_EQ(kernel(operands, 0), rt::kKernelOk);
  }
  TestCache cache;
};

/// A page whose tokens have spreads from below the scale's floor to large.
std::vector<float> randomPage(uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(kPaperTokens * kPaperHeadDim);
  for (int64_t i = 0; i < kPaperTokens * kPaperHeadDim; ++i) {
    float spread =
        std::ldexp(1.0f, static_cast<int>(i / kPaperHeadDim % 24) - 16);
    values[i] = reference::bf16ToFloat(
        reference::floatToBf16(spread * (normal(random) + 0.5f)));
  }
  return values;
}

TEST(CompilerPaperTest, LadderMatchesTheReference) {
  for (uint32_t seed = 0; seed < 20; ++seed)
    for (int32_t part : {rt::kKey, rt::kValue}) {
      std::vector<float> values = randomPage(seed);
      PaperPage page;
      page.flush(part, 16, values);
      std::vector<reference::PaperGroup> groups;
      for (int64_t token = 0; token < kPaperTokens; ++token)
        groups.push_back(reference::quantizePaperGroup(
            values.data() + token * kPaperHeadDim, kPaperHeadDim, 16));
      for (int32_t bits : rt::kLadder) {
        for (int64_t token = 0; token < kPaperTokens; ++token) {
          page.expectGroup(part, token, groups[token]);
          if (bits > 2)
            reference::lowerPaperGroup(groups[token]);
        }
        if (HasFatalFailure())
          return;
        if (bits > 2)
          page.requantize(part);
      }
    }
}

/// Bodies that the paper's own code left: whole pages of each case and part.
class GoldenBodyTest
    : public testing::TestWithParam<std::tuple<int, std::string>> {};

TEST_P(GoldenBodyTest, FlushGivesItsCodes) {
  auto [number, side] = GetParam();
  std::string prefix = "cache" + std::to_string(number) + ".";
  GoldenFile golden("golden/reference.safetensors");
  ASSERT_TRUE(golden.ok());
  auto log = golden.read<int32_t>(prefix + "log", "I32");
  int32_t bits = log[log.size() - 1];
  int64_t sink = log[log.size() - 4];
  auto shape = golden.shape(prefix + side + "_codes");
  int64_t heads = shape[1], tokens = shape[2];
  int64_t streamTokens = golden.shape(prefix + side + "_in")[2];
  auto in = golden.floats(prefix + side + "_in");
  auto codes = golden.read<uint16_t>(prefix + side + "_codes", "U16");
  auto scales = golden.floats(prefix + side + "_scale");
  auto zeros = golden.floats(prefix + side + "_zero");
  int32_t part = side == "k" ? rt::kKey : rt::kValue;
  ASSERT_GE(tokens, kPaperTokens);
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t first = 0; first + kPaperTokens <= tokens;
         first += kPaperTokens) {
      const float *start =
          in.data() + (head * streamTokens + sink + first) * kPaperHeadDim;
      PaperPage page;
      page.flush(part, bits, {start, start + kPaperTokens * kPaperHeadDim});
      for (int64_t token = 0; token < kPaperTokens && !HasFatalFailure();
           ++token) {
        int64_t row = head * tokens + first + token;
        const uint16_t *expected = codes.data() + row * kPaperHeadDim;
        page.expectGroup(part, token,
                         {bits,
                          {expected, expected + kPaperHeadDim},
                          scales[row],
                          zeros[row]});
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenBodyTest,
                         testing::Combine(testing::Values(1, 2, 3),
                                          testing::Values(std::string("k"),
                                                          std::string("v"))));
} // namespace
