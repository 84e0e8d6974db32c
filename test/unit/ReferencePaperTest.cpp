//===- ReferencePaperTest.cpp - The paper's quantizer, bit for bit --------===//
//
// Codes, parameters and decoded values against what the paper's own code
// computed.  Neighbours: lib/Reference/Paper.cpp, test/data/golden/README.md,
// ReferencePaperCacheTest.cpp (whole streams).
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
