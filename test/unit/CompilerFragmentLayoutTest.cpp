//===- CompilerFragmentLayoutTest.cpp - Lane maps, played on the CPU ------===//
//
// Where there is no GPU: a warp in plain C++, with the matrix instructions and
// the transposition as PTX defines them, fed with a unit's bytes in the order
// of FragmentLayout.  Its products must be those of the codes where `place`
// says they are.  Neighbours: FragmentLayout.h (the order), UnpackCodes.cpp,
// SplitQueries.cpp, RepackWeights.cpp and TileToLanes.cpp (the code that is
// played here), CompilerDeviceTest.cpp (that it is emitted), Warp.h.
//
//===----------------------------------------------------------------------===//

#include "Warp.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq/Target/SharedLayout.h"

#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>
#include <random>
#include <string>
#include <vector>

using namespace pmkvq;
using namespace pmkvq::test;
using rt::kKey;
using rt::kValue;

namespace {
constexpr int kLanes = FragmentLayout::kLanes;

//===----------------------------------------------------------------------===//
// A unit's codes
//===----------------------------------------------------------------------===//

struct Side {
  FragmentLayout layout;
  std::vector<uint8_t> bytes;
  /// [token][dim]; at level 16 bits of bf16.
  std::vector<uint32_t> codes;

  uint32_t code(int64_t token, int64_t dim) const {
    return codes[token * layout.headDim + dim];
  }

  /// Random codes, written where `place` says.
  static Side random(const FragmentLayout &layout, std::mt19937 &rng) {
    Side side = {layout, {}, {}};
    side.bytes.resize(layout.tokens * layout.headDim * layout.level / 8);
    for (int64_t token = 0; token < layout.tokens; ++token)
      for (int64_t dim = 0; dim < layout.headDim; ++dim) {
        uint32_t code = layout.level == 16 ? toBrain(float(rng() % 256) - 128.f)
                                           : rng() % (1u << layout.level);
        side.codes.push_back(code);
        auto place = layout.place(token, dim);
        uint32_t bits = code << place.bit;
        for (int i = 0; i < (layout.level == 16 ? 2 : 1); ++i)
          side.bytes.at(place.byte + i) |= byteOf(bits, i);
      }
    return side;
  }

  /// The operands of a vector, as UnpackCodes.cpp makes them.
  Operand operand(int32_t vector, const Fragment &fragment) const {
    Operand a;
    for (int lane = 0; lane < kLanes; ++lane) {
      uint32_t words[4];
      std::memcpy(words,
                  &bytes.at(vector * FragmentLayout::kVectorBytes + lane * 16),
                  16);
      for (int r = 0; r < 4; ++r)
        a[r][lane] =
            words[fragment.registers[r].word] & fragment.registers[r].mask;
    }
    return a;
  }
};

/// Those sides of units that `keep` says.
std::vector<FragmentLayout> layouts(bool (*keep)(const FragmentLayout &) =
                                        [](const FragmentLayout &) {
                                          return true;
                                        }) {
  std::vector<FragmentLayout> kept;
  for (int64_t headDim : {64, 128})
    for (rt::Part part : {kKey, kValue})
      for (int32_t level : rt::kLadder)
        for (int32_t tokens : {16, 32, 64, 128})
          if (tokens <= rt::tokensPerBlock(level) &&
              (level == 16 || tokens >= rt::kUnitGrain))
            if (FragmentLayout layout = {part, level, tokens, headDim};
                keep(layout))
              kept.push_back(layout);
  return kept;
}

class Fragments : public ::testing::TestWithParam<FragmentLayout> {
protected:
  FragmentLayout layout = GetParam();
  std::mt19937 rng{17};
  Side side = Side::random(layout, rng);

  /// Products of all rows with all columns, [row block].  `columns(i)` is word
  /// i of the B operand.
  template <typename T, typename Multiply>
  std::vector<Sums<T>> multiply(const std::vector<Word> &columns,
                                Multiply multiplyOne) {
    std::vector<Sums<T>> sums(layout.rowBlocks());
    for (int32_t vector = 0; vector < layout.vectors(); ++vector)
      for (int32_t i = 0; i < layout.fragmentsPerVector(); ++i) {
        Fragment f = layout.fragment(vector, i);
        Columns b = {columns.at(2 * f.kBlock), columns.at(2 * f.kBlock + 1)};
        multiplyOne(sums.at(f.rowBlock), side.operand(vector, f), b);
      }
    return sums;
  }

  int64_t rows() const {
    return layout.part == kKey ? layout.tokens : layout.headDim;
  }
  int64_t depth() const {
    return layout.part == kKey ? layout.headDim : layout.tokens;
  }
  uint32_t code(int64_t row, int64_t k) const {
    return layout.part == kKey ? side.code(row, k) : side.code(k, row);
  }
  int32_t exponent(int64_t row) const {
    return layout.exponent(static_cast<int32_t>(row / 16), row % 16 >= 8);
  }
  /// The accumulator of a row and column.
  template <typename T>
  static T at(const std::vector<Sums<T>> &sums, int64_t row, int column) {
    int lane = static_cast<int>(row % 8) * 4 + column / 2;
    return sums[row / 16][lane][(row % 16 >= 8 ? 2 : 0) + column % 2];
  }
};

/// Below 16 bits; raw units are never a part of a block.
class FragmentsOfCodes : public Fragments {};
class FragmentsOfKeys : public Fragments {};
class FragmentsOfValues : public Fragments {};
class FragmentsOfRawValues : public Fragments {};
/// Of 32 tokens: the values that a unit with keys at level 16 copies.
class FragmentsOfGrains : public Fragments {};

//===----------------------------------------------------------------------===//
// Places
//===----------------------------------------------------------------------===//

TEST_P(Fragments, CodesFillTheUnitWithoutOverlap) {
  std::vector<uint8_t> taken(side.bytes.size());
  for (int64_t token = 0; token < layout.tokens; ++token)
    for (int64_t dim = 0; dim < layout.headDim; ++dim) {
      auto place = layout.place(token, dim);
      if (layout.level == 16) {
        ASSERT_EQ(place.bit, 0);
        ASSERT_EQ(taken.at(place.byte) | taken.at(place.byte + 1), 0);
        taken[place.byte] = taken[place.byte + 1] = 0xff;
        continue;
      }
      int field = ((1 << layout.level) - 1) << place.bit;
      ASSERT_LE(field, 0xff);
      ASSERT_EQ(taken.at(place.byte) & field, 0);
      taken[place.byte] |= field;
    }
  for (uint8_t bits : taken)
    ASSERT_EQ(bits, 0xff);
  EXPECT_EQ(layout.vectors() * FragmentLayout::kVectorBytes,
            static_cast<int64_t>(side.bytes.size()));
}

TEST_P(Fragments, LocateIsTheReverseOfPlace) {
  for (int32_t vector = 0; vector < layout.vectors(); ++vector)
    for (int32_t i = 0; i < layout.fragmentsPerVector(); ++i) {
      Fragment f = layout.fragment(vector, i);
      int32_t foundVector = -1, found = -1;
      layout.locate(f.rowBlock, f.kBlock, foundVector, found);
      EXPECT_EQ(foundVector, vector);
      EXPECT_EQ(found, i);
    }
}

// So a unit of few tokens is a part of another's block, in one run of bytes.
TEST_P(FragmentsOfCodes, Of32TokensLieTogether) {
  FragmentLayout grain = layout;
  grain.tokens = rt::kUnitGrain;
  int64_t grainBytes = rt::kUnitGrain * layout.headDim * layout.level / 8;
  for (int64_t token = 0; token < layout.tokens; ++token)
    for (int64_t dim = 0; dim < layout.headDim; ++dim) {
      auto whole = layout.place(token, dim);
      auto part = grain.place(token % rt::kUnitGrain, dim);
      ASSERT_EQ(whole.byte, token / rt::kUnitGrain * grainBytes + part.byte);
      ASSERT_EQ(whole.bit, part.bit);
    }
}

//===----------------------------------------------------------------------===//
// Queries
//===----------------------------------------------------------------------===//

/// Shared memory of the query operands.
struct QueryOperands {
  SharedLayout shared;
  std::vector<uint8_t> memory;

  explicit QueryOperands(int64_t headDim) {
    shared.headDim = headDim;
    memory.resize(shared.operandBytes());
  }
  void store(int64_t address, uint32_t word) {
    std::memcpy(&memory.at(address), &word, 4);
  }
  static int64_t columnsOf(int query) { return query << 7; }

  /// Query `query` as stageHalfQueries writes it: lane l has dims 4 l .. + 3.
  void stageHalves(int query, const std::vector<uint16_t> &q) {
    for (int lane = 0; lane * 4 < shared.headDim; ++lane) {
      int kb = lane >> 3, h = lane >> 2 & 1, t = lane & 3;
      int64_t place = columnsOf(query) + (kb << 9) + (t << 4) + (h << 3);
      for (int i = 0; i < 2; ++i) {
        uint32_t word = q[4 * lane + 2 * i] | uint32_t(q[4 * lane + 2 * i + 1])
                                                  << 16;
        store(place + 4 * i, word);
        store(place + 4 * i + 64, word);
      }
    }
  }

  /// As stageRawQueries does: bf16, and what the rounding left (here given).
  void stageBrains(int query, const std::vector<uint16_t> &q,
                   const std::vector<uint16_t> &rest) {
    for (int lane = 0; lane * 4 < shared.headDim; ++lane) {
      int block = lane >> 2, half = lane >> 1 & 1, t = (lane & 1) << 1;
      int64_t place = columnsOf(query) + (block >> 1 << 9) + (t << 4) +
                      (((block & 1) << 1) + half) * 4;
      for (int i = 0; i < 2; ++i) {
        int64_t dim = 4 * lane + 2 * i;
        store(place + i * 16, q[dim] | uint32_t(q[dim + 1]) << 16);
        store(place + i * 16 + 64, rest[dim] | uint32_t(rest[dim + 1]) << 16);
      }
    }
  }

  /// As loadQueries reads them.
  std::vector<Word> load() const {
    std::vector<Word> words(shared.headDim / 8);
    for (int lane = 0; lane < kLanes; ++lane)
      for (size_t i = 0; i < words.size(); ++i)
        std::memcpy(&words[i][lane],
                    &memory.at(lane * 16 + i / 4 * 512 + i % 4 * 4), 4);
    return words;
  }
};

TEST_P(FragmentsOfKeys, TimesQueries) {
  // Column 2 q is the high, 2 q + 1 the low part of query q.
  std::vector<std::vector<int>> columns(8, std::vector<int>(layout.headDim));
  for (auto &column : columns)
    for (int &value : column)
      value = int(rng() % 256) - 128;
  QueryOperands queries(layout.headDim);
  if (layout.level == 16) {
    for (int q = 0; q < 4; ++q) {
      std::vector<uint16_t> high, low;
      for (int64_t dim = 0; dim < layout.headDim; ++dim) {
        high.push_back(toBrain(float(columns[2 * q][dim])));
        low.push_back(toBrain(float(columns[2 * q + 1][dim])));
      }
      queries.stageBrains(q, high, low);
    }
    auto sums = multiply<float>(queries.load(), mmaBrains);
    for (int64_t row = 0; row < rows(); ++row)
      for (int column = 0; column < 8; ++column) {
        float expected = 0;
        for (int64_t k = 0; k < depth(); ++k)
          expected += fromBrain(code(row, k)) * columns[column][k];
        // Integers below 2^24 are exact in any order.
        ASSERT_EQ(at(sums, row, column), expected) << row << " " << column;
      }
    return;
  }
  // An f16 word whose halves' low bytes are the high part of two dims; lanes
  // with odd g make the low part of the same.
  for (int q = 0; q < 4; ++q) {
    std::vector<uint16_t> both;
    for (int64_t dim = 0; dim < layout.headDim; ++dim)
      both.push_back(uint8_t(columns[2 * q][dim]) |
                     uint8_t(columns[2 * q + 1][dim]) << 8);
    queries.stageHalves(q, both);
  }
  std::vector<Word> words = queries.load(), bytes(words.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i)
    for (int lane = 0; lane < kLanes; ++lane) {
      // splitRows: rounding leaves a byte in each half, permute collects them.
      int shift = lane / 4 % 2 * 8;
      bytes[i][lane] = permute(words[2 * i][lane] >> shift,
                               words[2 * i + 1][lane] >> shift, 0x6420);
    }
  auto sums = multiply<int64_t>(
      bytes, [](Sums<int64_t> &c, const Operand &a, const Columns &b) {
        mmaBytes(c, a, b, /*isSigned=*/true);
      });
  for (int64_t row = 0; row < rows(); ++row)
    for (int column = 0; column < 8; ++column) {
      int64_t expected = 0;
      for (int64_t k = 0; k < depth(); ++k)
        expected += int64_t(code(row, k)) * columns[column][k];
      ASSERT_EQ(at(sums, row, column), expected * (int64_t{1} << exponent(row)))
          << row << " " << column;
    }
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

TEST_P(FragmentsOfValues, TimesWeights) {
  // Integers of weights, [query][token].
  std::vector<std::vector<uint32_t>> weights(
      4, std::vector<uint32_t>(layout.tokens));
  for (auto &row : weights)
    for (uint32_t &weight : row)
      weight = rng() % 65536;
  // Accumulators have query t, tokens g and g + 8 of each block; adding 2^23
  // leaves other bits above the integer.
  std::vector<Word> operand;
  for (int block = 0; block < layout.tokens / 16; ++block) {
    Word word;
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto &row = weights[lane % 4];
      int token = block * 16 + lane / 4;
      constexpr uint32_t kRounder = 0x4b000000;
      word[lane] =
          permute(row[token] | kRounder, row[token + 8] | kRounder, 0x4051);
    }
    operand.push_back(transpose(word));
  }
  auto sums = multiply<int64_t>(
      operand, [](Sums<int64_t> &c, const Operand &a, const Columns &b) {
        mmaBytes(c, a, b, /*isSigned=*/false);
      });
  for (int64_t row = 0; row < rows(); ++row)
    for (int query = 0; query < 4; ++query) {
      int64_t expected = 0;
      for (int64_t k = 0; k < depth(); ++k)
        expected += int64_t(code(row, k)) * weights[query][k];
      int64_t high = at(sums, row, 2 * query);
      int64_t low = at(sums, row, 2 * query + 1);
      ASSERT_EQ(high * 256 + low, expected * (int64_t{1} << exponent(row)))
          << row << " " << query;
    }
}

// Units with keys at level 16: the grain's values times weights of which one
// half's are zero are that half's values times its weights.
TEST_P(FragmentsOfGrains, ValuesOfOneHalf) {
  for (int half = 0; half < 2; ++half) {
    std::vector<uint32_t> weights(16);
    for (uint32_t &weight : weights)
      weight = rng() % 65536;
    // As in widenWeights: a lane's two weights stay, or are zero.
    std::vector<Word> operand;
    for (int block = 0; block < 2; ++block) {
      Word word;
      for (int lane = 0; lane < kLanes; ++lane) {
        uint32_t lower = block == half ? weights[lane / 4] : 0;
        uint32_t upper = block == half ? weights[lane / 4 + 8] : 0;
        word[lane] = permute(lower, upper, 0x4051);
      }
      operand.push_back(transpose(word));
    }
    auto sums = multiply<int64_t>(
        operand, [](Sums<int64_t> &c, const Operand &a, const Columns &b) {
          mmaBytes(c, a, b, /*isSigned=*/false);
        });
    for (int64_t row = 0; row < rows(); ++row) {
      int64_t expected = 0;
      for (int64_t k = 0; k < 16; ++k)
        expected += int64_t(code(row, half * 16 + k)) * weights[k];
      ASSERT_EQ(at(sums, row, 0) * 256 + at(sums, row, 1),
                expected * (int64_t{1} << exponent(row)))
          << row;
    }
  }
}

// Largest codes times the largest bytes; the lane that adds high and low sums
// has both.
TEST_P(FragmentsOfCodes, SumsFit32Bits) {
  int64_t field = 0;
  for (int64_t row = 0; row < rows(); ++row)
    field =
        std::max<int64_t>(field, ((1 << layout.level) - 1) << exponent(row));
  int64_t query = 254 * 128 + 128, weight = 65535;
  int64_t column = layout.part == kKey ? query : weight;
  EXPECT_LT(field * column * depth(), int64_t(1) << 31);
}

TEST_P(FragmentsOfRawValues, TimesWeights) {
  // [column][token]: bf16 of a query's weight, and what is left.
  std::vector<std::vector<int>> columns(8, std::vector<int>(layout.tokens));
  for (auto &column : columns)
    for (int &value : column)
      value = int(rng() % 256);
  std::vector<Word> operand;
  for (int i = 0; i < layout.tokens / 8; ++i) {
    Word word;
    for (int lane = 0; lane < kLanes; ++lane) {
      int token = 8 * i + lane / 4, query = lane % 4;
      word[lane] = toBrain(float(columns[2 * query][token])) |
                   uint32_t(toBrain(float(columns[2 * query + 1][token])))
                       << 16;
    }
    operand.push_back(transpose(word));
  }
  auto sums = multiply<float>(operand, mmaBrains);
  for (int64_t row = 0; row < rows(); ++row)
    for (int column = 0; column < 8; ++column) {
      float expected = 0;
      for (int64_t k = 0; k < depth(); ++k)
        expected += fromBrain(code(row, k)) * columns[column][k];
      ASSERT_EQ(at(sums, row, column), expected) << row << " " << column;
    }
}

std::string nameOfCase(const ::testing::TestParamInfo<FragmentLayout> &info) {
  const FragmentLayout &layout = info.param;
  return (layout.part == kKey ? "Key" : "Value") +
         std::to_string(layout.level) + "Tokens" +
         std::to_string(layout.tokens) + "Dims" +
         std::to_string(layout.headDim);
}

INSTANTIATE_TEST_SUITE_P(Compiler, Fragments, ::testing::ValuesIn(layouts()),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Compiler, FragmentsOfCodes,
                         ::testing::ValuesIn(layouts([](const auto &layout) {
                           return layout.level < 16;
                         })),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Compiler, FragmentsOfKeys,
                         ::testing::ValuesIn(layouts([](const auto &layout) {
                           return layout.part == kKey;
                         })),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Compiler, FragmentsOfValues,
                         ::testing::ValuesIn(layouts([](const auto &layout) {
                           return layout.part == kValue && layout.level < 16;
                         })),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Compiler, FragmentsOfGrains,
                         ::testing::ValuesIn(layouts([](const auto &layout) {
                           return layout.part == kValue && layout.level < 16 &&
                                  layout.tokens == rt::kUnitGrain;
                         })),
                         nameOfCase);
INSTANTIATE_TEST_SUITE_P(Compiler, FragmentsOfRawValues,
                         ::testing::ValuesIn(layouts([](const auto &layout) {
                           return layout.part == kValue && layout.level == 16;
                         })),
                         nameOfCase);

//===----------------------------------------------------------------------===//
// Parameters
//===----------------------------------------------------------------------===//

// Word i of a lane's ranges and minima is of the same dims as word i of its
// query operand.
TEST(Parameters, PerChannelInTheOrderOfQueries) {
  constexpr int64_t kHeadDim = 128;
  constexpr uint16_t kMinimum = 0x100;
  QueryOperands queries(kHeadDim);
  std::vector<uint16_t> dims(kHeadDim), memory(2 * kHeadDim, 0xffff);
  for (int64_t dim = 0; dim < kHeadDim; ++dim) {
    dims[dim] = static_cast<uint16_t>(dim);
    memory.at(ParameterLayout::perChannel(dim, 1, kHeadDim)) = dims[dim];
    memory.at(ParameterLayout::perChannel(dim, 0, kHeadDim)) =
        dims[dim] | kMinimum;
  }
  for (int query = 0; query < 4; ++query)
    queries.stageHalves(query, dims);
  std::vector<Word> words = queries.load();
  for (int lane = 0; lane < kLanes; ++lane)
    for (size_t i = 0; i < words.size(); ++i)
      for (int half = 0; half < 2; ++half) {
        // lowerParameters: t * head_dim / 2 bytes, words in their order.
        int64_t range = lane % 4 * kHeadDim / 4 + 2 * i + half;
        uint16_t dim = halfOf(words[i][lane], half);
        EXPECT_EQ(memory.at(range), dim);
        EXPECT_EQ(memory.at(range + kHeadDim), dim | kMinimum);
      }
}

// Lane g finds the ranges of its tokens g and g + 8 of a block in one word.
TEST(Parameters, PerTokenInTheOrderOfWeights) {
  constexpr int kTokens = rt::kPageTokens;
  constexpr uint16_t kMinimum = 0x100;
  std::vector<uint16_t> memory(2 * kTokens, 0xffff);
  for (int token = 0; token < kTokens; ++token) {
    memory.at(ParameterLayout::perToken(token, 1)) = uint16_t(token);
    memory.at(ParameterLayout::perToken(token, 0)) = uint16_t(token | kMinimum);
  }
  for (int g = 0; g < 8; ++g)
    for (int block = 0; block < kTokens / 16; ++block)
      for (int half = 0; half < 2; ++half) {
        // lowerParameters: 16 bytes a lane, 128 a run; ranges, then minima.
        int word = block / 2 * 32 + g * 4 + block % 2;
        int token = block * 16 + g + 8 * half;
        EXPECT_EQ(memory.at(2 * word + half), token);
        EXPECT_EQ(memory.at(2 * (word + 2) + half), token | kMinimum);
      }
}

// A unit of 16 tokens picks one of the two words of its grain's ranges.
TEST(Parameters, PerTokenOfHalfAGrain) {
  for (int half = 0; half < 2; ++half)
    for (int g = 0; g < 8; ++g)
      for (int upper = 0; upper < 2; ++upper) {
        int64_t word = g * 4 + half; // 16 bytes a lane, ranges first
        EXPECT_EQ(ParameterLayout::perToken(half * 16 + g + 8 * upper, 1),
                  2 * word + upper);
        EXPECT_EQ(ParameterLayout::perToken(half * 16 + g + 8 * upper, 0),
                  2 * (word + 2) + upper);
      }
}

// Units of 32 tokens take their parameters in one run.
TEST(Parameters, PerTokenOf32TokensLieTogether) {
  constexpr int64_t kRun = rt::kUnitGrain * rt::kGroupBytes / 2;
  for (int64_t token = 0; token < rt::kPageTokens; ++token)
    for (int32_t which : {0, 1})
      EXPECT_EQ(ParameterLayout::perToken(token, which),
                token / rt::kUnitGrain * kRun +
                    ParameterLayout::perToken(token % rt::kUnitGrain, which));
}

} // namespace
