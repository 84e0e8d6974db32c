//===- CompilerImportWeightsTest.cpp - Weights in memory ------------------===//
//
// Rotation against its matrix, and what is mapped or converted.  Neighbours:
// lib/Import/WeightStore.cpp.
//
//===----------------------------------------------------------------------===//

#include "CompilerImportFiles.h"
#include "pmkvq/Import/WeightStore.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace mlir::pmkvq;
using namespace ::pmkvq::test;

namespace {

std::vector<float> randomValues(size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float &value : values)
    value = normal(random);
  return values;
}

double hadamard(int64_t i, int64_t j, int64_t block) {
  return (__builtin_popcountll(i & j) % 2 ? -1 : 1) / std::sqrt(double(block));
}

/// values [rows, columns], blocks of `block` along `dim`, by the matrix.
std::vector<double> rotatedByMatrix(const std::vector<float> &values,
                                    int64_t columns, int64_t dim,
                                    int64_t block) {
  std::vector<double> result(values.size());
  int64_t stride = dim == 0 ? columns : 1;
  for (int64_t at = 0; at < int64_t(values.size()); ++at) {
    int64_t index = dim == 0 ? at / columns : at % columns;
    int64_t i = index % block;
    for (int64_t j = 0; j < block; ++j)
      result[at] += hadamard(i, j, block) * values[at + (j - i) * stride];
  }
  return result;
}

// log2(128) = 7 levels of additions of terms of about 1, each rounded to 2^-24,
// and one product.
constexpr double kRotationTolerance = 8 * 4 * 0x1p-24;

TEST(Rotation, EqualsTheMatrixOnEitherDimension) {
  constexpr int64_t rows = 256, columns = 384;
  for (int64_t block : {1, 2, 64, 128})
    for (int64_t dim : {0, 1}) {
      std::vector<float> values = randomValues(rows * columns);
      std::vector<double> expected =
          rotatedByMatrix(values, columns, dim, block);
      rotateInPlace(values, {rows, columns}, dim, block);
      for (size_t i = 0; i < values.size(); ++i)
        ASSERT_NEAR(values[i], expected[i], kRotationTolerance)
            << "block " << block << " dim " << dim << " element " << i;
    }
}

TEST(Rotation, TwiceIsTheIdentity) {
  std::vector<float> original = randomValues(128 * 6), values = original;
  for (int round = 0; round < 2; ++round)
    rotateInPlace(values, {128, 6}, 0, 128);
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_NEAR(values[i], original[i], 2 * kRotationTolerance);
}

class Weights : public testing::Test {
protected:
  llvm::Expected<WeightStore> create(std::vector<WeightSpec> specs) {
    std::string header =
        R"({"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},)"
        R"("b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]},)"
        R"("c":{"dtype":"F16","shape":[4],"data_offsets":[24,32]}})";
    std::string file = safetensors(header, 32);
    auto put = [&](size_t offset, auto values) {
      std::memcpy(&file[file.size() - 32 + offset], values.data(),
                  values.size() * sizeof(values[0]));
    };
    // 1, 2, 3, 4 in bf16; in f32 with ties to even both ways; in f16, the
    // smallest subnormal among them.
    put(0, std::vector<uint16_t>{0x3f80, 0x4000, 0x4040, 0x4080});
    put(8,
        std::vector<uint32_t>{0x3f808000, 0x3f818000, 0x3f808001, 0xff800000});
    put(24, std::vector<uint16_t>{0x3c00, 0xc000, 0x0001, 0x7c00});
    folder.write("model.safetensors", file);
    Checkpoint checkpoint = llvm::cantFail(Checkpoint::open(folder.path("")));
    mapped = checkpoint.lookup("a")->data;
    return WeightStore::create(std::move(checkpoint), specs);
  }

  static std::vector<uint16_t> read(const void *weight) {
    std::vector<uint16_t> bits(4);
    std::memcpy(bits.data(), weight, 8);
    return bits;
  }

  TemporaryFolder folder;
  const void *mapped = nullptr;
};

TEST_F(Weights, PlainOnesStayInTheFileAndOthersAreConverted) {
  WeightStore store = llvm::cantFail(
      create({{"c", {4}, {}}, {"a", {2, 2}, {}}, {"b", {4}, {}}}));
  ASSERT_EQ(store.pointers().size(), 3u);
  EXPECT_EQ(store.pointers()[1], mapped);
  EXPECT_EQ(read(store.pointers()[2]),
            std::vector<uint16_t>({0x3f80, 0x3f82, 0x3f81, 0xff80}));
  EXPECT_EQ(read(store.pointers()[0]),
            std::vector<uint16_t>({0x3f80, 0xc000, 0x3380, 0x7f80}));
}

TEST_F(Weights, RotatedOnesAreTheStoresOwn) {
  // [[1, 2], [3, 4]]: rows (1+3, 2+4) and (1-3, 2-4), over sqrt(2).
  WeightStore store = llvm::cantFail(
      create({{"a", {2, 2}, {{0, 2}}}, {"a", {2, 2}, {{0, 2}, {0, 2}}}}));
  EXPECT_EQ(read(store.pointers()[0]),
            std::vector<uint16_t>({0x4035, 0x4088, 0xbfb5, 0xbfb5}));
  EXPECT_EQ(read(store.pointers()[1]), read(mapped));
}

TEST_F(Weights, RowsAreScaledByPowersOfTwoAfterRotations) {
  // [[1, 2], [3, 4]] with rows times 8 and 1/2; of a vector the elements.
  WeightStore store =
      llvm::cantFail(create({{"a", {2, 2}, {}, {}, {3, -1}},
                             {"b", {4}, {}, {}, {0, 1, -2, 0}},
                             {"a", {2, 2}, {{0, 2}, {0, 2}}, {}, {3, -1}}}));
  EXPECT_EQ(read(store.pointers()[0]),
            std::vector<uint16_t>({0x4100, 0x4180, 0x3fc0, 0x4000}));
  EXPECT_EQ(read(store.pointers()[1]),
            std::vector<uint16_t>({0x3f80, 0x4002, 0x3e81, 0xff80}));
  EXPECT_EQ(read(store.pointers()[2]), read(store.pointers()[0]));
}

TEST_F(Weights, RowsOfATensorLieWhereTheyAreInIt) {
  WeightStore store = llvm::cantFail(create(
      {{"a", {1, 2}, {}, 1}, {"b", {2}, {}, 1}, {"a", {1, 2}, {{1, 2}}, 1}}));
  EXPECT_EQ(store.pointers()[0], static_cast<const char *>(mapped) + 4);
  auto two = [&](size_t index) {
    std::vector<uint16_t> bits(2);
    std::memcpy(bits.data(), store.pointers()[index], 4);
    return bits;
  };
  EXPECT_EQ(two(1), std::vector<uint16_t>({0x3f82, 0x3f81}));
  // (3 + 4, 3 - 4) over sqrt(2).
  EXPECT_EQ(two(2), std::vector<uint16_t>({0x409e, 0xbf35}));
}

TEST_F(Weights, RefusesRowsThatATensorDoesNotHave) {
  for (const WeightSpec &spec : std::vector<WeightSpec>{
           {"a", {1, 2}, {}, 2}, {"a", {2, 2}, {}, 1}, {"a", {1, 3}, {}, 0}}) {
    auto store = create({spec});
    ASSERT_FALSE(store);
    EXPECT_NE(
        llvm::toString(store.takeError()).find("tensor a: expected shape"),
        std::string::npos);
  }
}

TEST_F(Weights, RefusesWhatDoesNotFit) {
  for (WeightSpec spec : std::vector<WeightSpec>{{"d", {4}, {}},
                                                 {"a", {4}, {}},
                                                 {"a", {2, 2}, {{2, 2}}},
                                                 {"a", {2, 2}, {{0, 3}}},
                                                 {"a", {2, 2}, {{1, 4}}},
                                                 {"a", {2, 2}, {}, {}, {1}},
                                                 {"b", {4}, {}, {}, {1, 2}}}) {
    auto store = create({spec});
    ASSERT_FALSE(store);
    EXPECT_NE(llvm::toString(store.takeError()).find("tensor " + spec.source),
              std::string::npos);
  }
}

} // namespace
