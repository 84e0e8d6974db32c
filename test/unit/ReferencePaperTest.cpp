//===- ReferencePaperTest.cpp - The paper's quantizer, bit for bit --------===//
//
// Codes, parameters and decoded values against what the paper's own code
// computed.  Neighbours: lib/Reference/Paper.cpp, test/data/golden/README.md.
//
//===----------------------------------------------------------------------===//

#include "GoldenFile.h"

#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Paper.h"

#include <gtest/gtest.h>

using namespace pmkvq::reference;

namespace {

constexpr int64_t kGroup = 128;

const pmkvq::test::GoldenFile &golden() {
  static pmkvq::test::GoldenFile file("golden/reference.safetensors");
  return file;
}

class ReferencePaper : public testing::TestWithParam<int32_t> {
protected:
  std::string prefix() const {
    return "quant." + std::to_string(GetParam()) + ".";
  }
};

TEST_P(ReferencePaper, QuantizesLikeGolden) {
  ASSERT_TRUE(golden().ok());
  int32_t bits = GetParam();
  std::vector<float> x = golden().floats("quant.x");
  auto codes = golden().read<uint16_t>(prefix() + "codes", "U16");
  std::vector<float> scale = golden().floats(prefix() + "scale");
  std::vector<float> zero = golden().floats(prefix() + "zero");
  std::vector<float> fake = golden().floats(prefix() + "fake");
  ASSERT_EQ(x.size(), 128 * kGroup);
  ASSERT_EQ(codes.size(), x.size());
  ASSERT_EQ(fake.size(), x.size());
  ASSERT_EQ(scale.size(), x.size() / kGroup);
  ASSERT_EQ(zero.size(), scale.size());
  for (size_t g = 0; g < scale.size(); ++g) {
    PaperGroup group = quantizePaperGroup(&x[g * kGroup], kGroup, bits);
    EXPECT_EQ(group.scale, scale[g]);
    EXPECT_EQ(group.zero, zero[g]);
    std::vector<float> decoded = decodePaperGroup(
        group, bits == 16 ? PaperDecoding::Float32 : PaperDecoding::Bf16Steps);
    for (int64_t i = 0; i < kGroup; ++i) {
      EXPECT_EQ(group.codes[i], codes[g * kGroup + i]);
      EXPECT_EQ(decoded[i], fake[g * kGroup + i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, ReferencePaper, testing::Values(16, 8, 4, 2));

/// One array of a cache case, by head, with the tokens of its body: case 3
/// ends at 16 bits with three pages, case 1 at 2 bits.
struct Body {
  const char *stream;
  int64_t heads, sink, tokens, bits;
};

class ReferencePaperCache : public testing::TestWithParam<Body> {};

// Window after window, the body is quantized at 16 bits and shifted down.
TEST_P(ReferencePaperCache, LowersAndDecodesTheBodyLikeGolden) {
  ASSERT_TRUE(golden().ok());
  const Body &body = GetParam();
  std::string name = body.stream;
  std::vector<float> in = golden().floats(name + "_in");
  std::vector<float> out = golden().floats(name + "_out");
  auto codes = golden().read<uint16_t>(name + "_codes", "U16");
  std::vector<float> scale = golden().floats(name + "_scale");
  int64_t fed = golden().shape(name + "_in")[2];
  int64_t seen = golden().shape(name + "_out")[2];
  ASSERT_EQ(codes.size(), size_t(body.heads * body.tokens * kGroup));
  for (int64_t head = 0; head < body.heads; ++head)
    for (int64_t t = 0; t < body.tokens; ++t) {
      PaperGroup group = quantizePaperGroup(
          &in[(head * fed + body.sink + t) * kGroup], kGroup, 16);
      while (group.bits > body.bits)
        lowerPaperGroup(group);
      ASSERT_EQ(group.scale, scale[head * body.tokens + t]);
      std::vector<float> decoded =
          decodePaperGroup(group, PaperDecoding::Bf16Steps);
      for (int64_t i = 0; i < kGroup; ++i) {
        ASSERT_EQ(group.codes[i], codes[(head * body.tokens + t) * kGroup + i]);
        ASSERT_EQ(decoded[i], out[(head * seen + body.sink + t) * kGroup + i]);
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, ReferencePaperCache,
                         testing::Values(Body{"cache3.k", 3, 1, 384, 16},
                                         Body{"cache3.v", 3, 1, 384, 16},
                                         Body{"cache1.k", 2, 4, 448, 2},
                                         Body{"cache2.v", 1, 1, 256, 2}),
                         [](const auto &info) {
                           std::string name = info.param.stream;
                           name[name.find('.')] = '_';
                           return name;
                         });

// The floor under the scale is multiplied by the chain; at a range below it,
// the chain and direct quantization part.
TEST(ReferencePaperLower, ScaleFloorGrowsWithTheChain) {
  std::vector<float> x(kGroup, 0.0f);
  x[0] = 0.125f;
  PaperGroup chain = quantizePaperGroup(x.data(), kGroup, 16);
  EXPECT_EQ(chain.scale, roundToBf16(1e-5f));
  while (chain.bits > 4)
    lowerPaperGroup(chain);
  PaperGroup direct = quantizePaperGroup(x.data(), kGroup, 4);
  EXPECT_GT(chain.scale, 4 * direct.scale);
}

TEST(ReferencePaperQuantize, ScaleHasACeiling) {
  std::vector<float> x(kGroup, 0.0f);
  x[0] = 0x1p20f;
  x[1] = 0x1p17f;
  PaperGroup group = quantizePaperGroup(x.data(), kGroup, 2);
  EXPECT_EQ(group.scale, 99840.0f); // 1e5 in bf16
  EXPECT_EQ(group.codes[0], 3);
  EXPECT_EQ(group.codes[1], 1);
}

} // namespace
