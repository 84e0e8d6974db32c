//===- CompilerFragmentLayoutTest.cpp - Lane maps, played on the CPU ------===//
//
// Where there is no GPU: a warp in plain C++, with the matrix instructions and
// the transposition as PTX defines them, fed with a unit's bytes in the order
// of FragmentLayout.  Its products must be those of the codes where `place`
// says they are.  Neighbours: FragmentLayout.h (the order), UnpackCodes.cpp,
// SplitQueries.cpp, RepackWeights.cpp and TileToLanes.cpp (the code that is
// played here), CompilerDeviceTest.cpp (that it is emitted), Warp.h,
// QueryOperands.h.
//
//===----------------------------------------------------------------------===//

#include "QueryOperands.h"
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

  /// An operand, as UnpackCodes.cpp makes it; of half a block of k the
  /// registers that are not there are zero.
  Operand operand(int32_t rowBlock, int32_t kBlock) const {
    Operand a = {};
    for (int r = 0; r < layout.registers(kBlock); ++r) {
      FragmentLayout::Source source = layout.source(rowBlock, kBlock, r);
      int32_t by = source.field.exponent - layout.exponent(rowBlock, r % 2);
      for (int lane = 0; lane < kLanes; ++lane) {
        uint32_t word;
        std::memcpy(&word,
                    &bytes.at(source.vector.byte +
                              lane * source.vector.laneBytes() +
                              source.field.word * 4),
                    4);
        a[r][lane] = word >> by & source.field.mask >> by;
      }
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
  for (int64_t headDim : {64, 80, 96, 128, 256})
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
    for (int32_t row = 0; row < layout.rowBlocks(); ++row)
      for (int32_t k = 0; k < layout.kBlocks(); ++k) {
        Columns b = {columns.at(2 * k), {}};
        if (layout.registers(k) == 4)
          b[1] = columns.at(2 * k + 1);
        multiplyOne(sums.at(row), side.operand(row, k), b);
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
  static std::vector<uint16_t> toBrains(const std::vector<int> &values) {
    std::vector<uint16_t> brains;
    for (int value : values)
      brains.push_back(toBrain(float(value)));
    return brains;
  }

  /// The product of a row with a column of integers; f32 is exact in any order,
  /// since it stays below 2^24.
  template <typename T>
  T product(int64_t row, const std::vector<int> &column) const {
    T sum = 0;
    for (int64_t k = 0; k < depth(); ++k)
      sum += (layout.level == 16 ? T(fromBrain(uint16_t(code(row, k))))
                                 : T(code(row, k))) *
             T(column[k]);
    return sum * T(int64_t{1} << exponent(row));
  }

  /// Expects `sums` of [query] `high` and `low` where the lane that has the
  /// query reads them: of one operand in neighbouring columns, of two of each
  /// set of queries in the same column.
  template <typename T>
  void expectParts(const std::vector<std::vector<Sums<T>>> &sums,
                   const std::vector<std::vector<int>> &high,
                   const std::vector<std::vector<int>> &low) {
    bool isOne = sums.size() == 1;
    for (int64_t row = 0; row < rows(); ++row)
      for (int query = 0; query < int(high.size()); ++query) {
        int column = isOne ? 2 * query : query % 8;
        const auto &highs = sums[query / 8 * 2];
        const auto &lows = isOne ? highs : sums[query / 8 * 2 + 1];
        ASSERT_EQ(at(highs, row, column), product<T>(row, high[query]))
            << row << " high " << query;
        ASSERT_EQ(at(lows, row, isOne ? column + 1 : column),
                  product<T>(row, low[query]))
            << row << " low " << query;
      }
  }
};

/// Of multiples of 64 dims: operands lie in one vector each.
class FragmentsOfWholeVectors : public Fragments {};
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
}

TEST_P(FragmentsOfWholeVectors, LocateIsTheReverseOfPlace) {
  EXPECT_EQ(layout.vectors() * FragmentLayout::kVectorBytes,
            static_cast<int64_t>(side.bytes.size()));
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

/// Random numbers, [column][k].
std::vector<std::vector<int>> randomColumns(int count, int64_t depth, int first,
                                            std::mt19937 &rng) {
  std::vector<std::vector<int>> columns(count, std::vector<int>(depth));
  for (auto &column : columns)
    for (int &value : column)
      value = int(rng() % 256) + first;
  return columns;
}

/// Groups of queries whose parts are columns of one operand, of two, and of two
/// sets of two.
constexpr int64_t kGroups[] = {SharedLayout::kColumnLanes,
                               2 * SharedLayout::kColumnLanes,
                               4 * SharedLayout::kColumnLanes};

TEST_P(FragmentsOfKeys, TimesQueries) {
  for (int64_t group : kGroups) {
    // [query] high and low parts, signed bytes.
    auto high = randomColumns(group, layout.headDim, -128, rng);
    auto low = randomColumns(group, layout.headDim, -128, rng);
    QueryOperands queries(layout.headDim, group);
    for (int q = 0; q < group; ++q) {
      if (layout.level == 16) {
        queries.stageBrains(q, toBrains(high[q]), toBrains(low[q]));
        continue;
      }
      // An f16 word whose halves have the high part of two dims in their low
      // bytes, and the low part in their high ones.
      std::vector<uint16_t> both;
      for (int64_t dim = 0; dim < layout.headDim; ++dim)
        both.push_back(uint8_t(high[q][dim]) | uint8_t(low[q][dim]) << 8);
      queries.stageHalves(q, both);
    }
    if (layout.level == 16) {
      std::vector<std::vector<Sums<float>>> sums;
      for (int64_t operand = 0; operand < queries.shared.operands(); ++operand)
        sums.push_back(multiply<float>(queries.load(operand), mmaBrains));
      expectParts(sums, high, low);
      continue;
    }
    std::vector<std::vector<Sums<int64_t>>> sums;
    if (group == SharedLayout::kColumnLanes) {
      std::vector<Word> words = queries.load();
      // Lanes with odd g make the low part.
      auto bytes = packBytes(words, [](int lane) { return lane / 4 % 2 * 8; });
      sums.push_back(multiply<int64_t>(bytes, mmaSigned));
    } else {
      for (int64_t set = 0; set < queries.shared.sets(); ++set)
        for (int shift : {0, 8}) {
          auto bytes = packBytes(queries.load(set), [&](int) { return shift; });
          sums.push_back(multiply<int64_t>(bytes, mmaSigned));
        }
    }
    expectParts(sums, high, low);
  }
}

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

/// The words of a block of 16 tokens before the transposition, as
/// repack_weights makes them of integers of [query][token]: high and low bytes
/// of tokens g and g + 8 of query `queryOf(t)`.  Adding 2^23 leaves other bits
/// above the integer.
template <typename QueryOf>
Word weightWord(const std::vector<std::vector<uint32_t>> &weights, int block,
                QueryOf queryOf) {
  constexpr uint32_t kRounder = 0x4b000000;
  Word word;
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto &row = weights[queryOf(lane % 4)];
    int token = block * 16 + lane / 4;
    word[lane] =
        permute(row[token] | kRounder, row[token + 8] | kRounder, 0x4051);
  }
  return word;
}

TEST_P(FragmentsOfValues, TimesWeights) {
  for (int64_t group : kGroups) {
    auto high = randomColumns(group, layout.tokens, 0, rng);
    auto low = randomColumns(group, layout.tokens, 0, rng);
    // Integers of weights, [query][token].
    std::vector<std::vector<uint32_t>> weights(group);
    for (int64_t q = 0; q < group; ++q)
      for (int64_t token = 0; token < layout.tokens; ++token)
        weights[q].push_back(high[q][token] * 256 + low[q][token]);
    SharedLayout shared;
    shared.group = group;
    std::vector<std::vector<Word>> operands(shared.operands());
    for (int block = 0; block < layout.tokens / 16; ++block) {
      if (operands.size() == 1) {
        Word mine = weightWord(weights, block, [](int t) { return t; });
        operands[0].push_back(transpose(mine));
        continue;
      }
      for (int set = 0; set < shared.sets(); ++set) {
        // Queries 2 t and 2 t + 1 of the set.
        auto word = [&](int odd) {
          return weightWord(weights, block,
                            [&](int t) { return 8 * set + 2 * t + odd; });
        };
        Word even = word(0), odd = word(1);
        operands[2 * set].push_back(transpose(permute(even, odd, 0x5410)));
        operands[2 * set + 1].push_back(transpose(permute(even, odd, 0x7632)));
      }
    }
    std::vector<std::vector<Sums<int64_t>>> sums;
    for (const auto &operand : operands)
      sums.push_back(multiply<int64_t>(operand, mmaUnsigned));
    expectParts(sums, high, low);
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
    auto sums = multiply<int64_t>(operand, mmaUnsigned);
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

// Largest codes times the largest bytes: sums of keys have half of [2^23, 2^24)
// on either side of the bias, those of values all of it.
TEST_P(FragmentsOfCodes, SumsStayInTheBinadeOfTheirBias) {
  int64_t field = 0;
  for (int64_t row = 0; row < rows(); ++row)
    field =
        std::max<int64_t>(field, ((1 << layout.level) - 1) << exponent(row));
  int64_t largest = field * depth() * (layout.part == kKey ? 127 : 255);
  int64_t sides = layout.part == kKey ? 2 : 1;
  // Sums over all of k are taken in parts that have room.
  EXPECT_EQ(layout.kBlocks() % layout.sumParts(), 0);
  EXPECT_EQ(layout.sumParts(),
            layout.headDim > 128 && layout.part == kKey ? 2 : 1);
  largest /= layout.sumParts();
  EXPECT_EQ(layout.largestSum(), largest * sides);
  EXPECT_LE(layout.largestSum(), FragmentLayout::kLargestSum);
  // Bits of the bias plus a sum are a float's, whose value is their sum.
  float bias = layout.part == kKey ? 0x1.8p23f : 0x1p23f;
  for (int64_t sum : {layout.part == kKey ? -largest : 0, largest}) {
    int32_t bits = 0;
    std::memcpy(&bits, &bias, 4);
    bits += int32_t(sum);
    float number = 0;
    std::memcpy(&number, &bits, 4);
    EXPECT_EQ(double(number), double(bias) + double(sum));
  }
}

TEST_P(FragmentsOfRawValues, TimesWeights) {
  for (int64_t group : kGroups) {
    // [query][token]: bf16 of a weight, and what is left.
    auto high = randomColumns(group, layout.tokens, 0, rng);
    auto low = randomColumns(group, layout.tokens, 0, rng);
    /// Two numbers of token g of a block of 8, transposed.
    auto words = [&](auto first, auto second) {
      std::vector<Word> operand;
      for (int i = 0; i < layout.tokens / 8; ++i) {
        Word word;
        for (int lane = 0; lane < kLanes; ++lane) {
          int token = 8 * i + lane / 4, t = lane % 4;
          word[lane] = toBrain(float(first(t)[token])) |
                       uint32_t(toBrain(float(second(t)[token]))) << 16;
        }
        operand.push_back(transpose(word));
      }
      return multiply<float>(operand, mmaBrains);
    };
    std::vector<std::vector<Sums<float>>> sums;
    if (group == SharedLayout::kColumnLanes)
      sums.push_back(
          words([&](int t) { return high[t]; }, [&](int t) { return low[t]; }));
    else
      for (int64_t set = 0; set < group / 8; ++set)
        for (const auto &part : {high, low})
          sums.push_back(
              words([&](int t) { return part[8 * set + 2 * t]; },
                    [&](int t) { return part[8 * set + 2 * t + 1]; }));
    expectParts(sums, high, low);
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
INSTANTIATE_TEST_SUITE_P(Compiler, FragmentsOfWholeVectors,
                         ::testing::ValuesIn(layouts([](const auto &layout) {
                           return layout.headDim % FragmentLayout::kWholeDims ==
                                  0;
                         })),
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
void expectParametersLikeQueries(int64_t headDim) {
  constexpr uint16_t kMinimum = 0x100;
  for (int64_t group : kGroups) {
    QueryOperands queries(headDim, group);
    std::vector<uint16_t> dims(headDim), memory(2 * headDim, 0xffff);
    for (int64_t dim = 0; dim < headDim; ++dim) {
      dims[dim] = static_cast<uint16_t>(dim);
      memory.at(ParameterLayout::perChannel(dim, 1, headDim)) = dims[dim];
      memory.at(ParameterLayout::perChannel(dim, 0, headDim)) =
          dims[dim] | kMinimum;
    }
    for (int query = 0; query < group; ++query)
      queries.stageHalves(query, dims);
    std::vector<Word> words = queries.load(queries.shared.sets() - 1);
    for (int lane = 0; lane < kLanes; ++lane)
      for (size_t i = 0; i < words.size(); ++i)
        for (int half = 0; half < 2; ++half) {
          // lowerParameters: t * head_dim / 2 bytes, words in their order.
          int64_t range = lane % 4 * headDim / 4 + 2 * i + half;
          uint16_t dim = halfOf(words[i][lane], half);
          EXPECT_EQ(memory.at(range), dim);
          EXPECT_EQ(memory.at(range + headDim), dim | kMinimum);
        }
  }
}
TEST(Parameters, PerChannelInTheOrderOfQueries) {
  for (int64_t headDim : {64, 80, 96, 128})
    expectParametersLikeQueries(headDim);
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
  constexpr int64_t kRun = rt::kUnitGrain * kGroupBytes / 2;
  for (int64_t token = 0; token < rt::kPageTokens; ++token)
    for (int32_t which : {0, 1})
      EXPECT_EQ(ParameterLayout::perToken(token, which),
                token / rt::kUnitGrain * kRun +
                    ParameterLayout::perToken(token % rt::kUnitGrain, which));
}

} // namespace
