//===- CompilerCacheImageTest.cpp - A cache from CPU to GPU ---------------===//
//
// Codes, parameters and fixed areas of a GPU's order against statements of it
// written apart, and what the CPU's kernels wrote, converted code by code.
// Neighbours: CacheImage.h, FragmentLayout.h, KernelHarness.h.
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Target/CacheImage.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq/Target/SlotLayout.h"

#include <array>
#include <gtest/gtest.h>
#include <random>
#include <set>
#include <vector>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
/// The same of 16 or 32 dims beyond a multiple of 64, within 32 tokens: a
/// lane's words, listed, in vectors of four and of what is left.
std::pair<int64_t, int64_t> restPlace(rt::Part part, int32_t level,
                                      int64_t dims, int64_t token,
                                      int64_t dim) {
  bool isKey = part == rt::kKey;
  int64_t row = isKey ? token : dim, k = isKey ? dim : token;
  // {row block, row + 8, block of 16 of k} of each field of each word.
  using Field = std::array<int64_t, 3>;
  std::vector<std::vector<Field>> words;
  int64_t rowBlocks = isKey ? 2 : dims / 16, depth = isKey ? dims / 16 : 2;
  for (int64_t r = 0; r < rowBlocks; ++r)
    for (int64_t h = 0; h < depth; ++h) {
      if (level == 8) {
        words.push_back({{r, 0, h}});
        words.push_back({{r, 1, h}});
      } else if (level == 4) {
        words.push_back({{r, 0, h}, {r, 1, h}});
      } else if (rowBlocks == 1) {
        if (h == 0)
          words.push_back({{0, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 1, 1}});
      } else if (r == 0) {
        words.push_back({{0, 0, h}, {0, 1, h}, {1, 0, h}, {1, 1, h}});
      }
    }
  int64_t lane = row % 8 * 4 + (isKey ? k % 16 / 4 : k % 8 / 2);
  int64_t byte = isKey ? k % 4 : 2 * (k % 2) + k % 16 / 8;
  for (size_t w = 0; w < words.size(); ++w)
    for (size_t f = 0; f < words[w].size(); ++f)
      if (words[w][f] == Field{row / 16, row % 16 / 8, k / 16}) {
        int64_t first = static_cast<int64_t>(w) / 4 * 4;
        int64_t perLane = std::min<int64_t>(4, int64_t(words.size()) - first);
        return {first * 128 + lane * perLane * 4 + (int64_t(w) - first) * 4 +
                    byte,
                int64_t(f) * level};
      }
  ADD_FAILURE() << "no word has token " << token << ", dim " << dim;
  return {};
}

/// Byte and bit of a code in its block, spelled out for each level from what a
/// lane's 16 bytes are: not by FragmentLayout's own arithmetic.
std::pair<int64_t, int64_t> fragmentPlace(rt::Part part, int32_t level,
                                          int64_t headDim, int64_t token,
                                          int64_t dim) {
  int64_t row = part == rt::kKey ? token : dim;
  int64_t k = part == rt::kKey ? dim : token;
  int64_t g = row % 8, upper = row % 16 / 8, block = row / 16;
  if (level == 16) {
    // m16n8k16: words a0..a3 = (g, k), (g + 8, k), (g, k'), (g + 8, k').  Of
    // values k' is k + 8; of keys a lane's four neighbours are its k and k'.
    bool isKey = part == rt::kKey;
    int64_t t = isKey ? k % 16 / 4 : k % 8 / 2;
    int64_t word = upper + (isKey ? k % 4 / 2 : k % 16 / 8) * 2;
    int64_t vector = part == rt::kKey ? block * (headDim / 16) + k / 16
                                      : k / 16 * (headDim / 16) + block;
    return {vector * 512 + (g * 4 + t) * 16 + word * 4 + k % 2 * 2, 0};
  }
  if (int64_t whole = headDim / 64 * 64; whole < headDim) {
    // Of 32 tokens first those dims, then the others.
    int64_t grain = token / 32 * 32 * headDim * level / 8;
    auto place =
        dim < whole
            ? fragmentPlace(part, level, whole, token % 32, dim)
            : restPlace(part, level, headDim - whole, token % 32, dim - whole);
    place.first += grain + (dim < whole ? 0 : 32 * whole * level / 8);
    return place;
  }
  int64_t half = k % 32 / 16, t, byte;
  if (part == rt::kKey) {
    t = k % 16 / 4;
    byte = k % 4;
  } else {
    // Slot 4 t + e of a half is token 2 t + (e >> 1) + 8 (e & 1).
    t = k % 8 / 2;
    byte = 2 * (k % 2) + k % 16 / 8;
  }
  int64_t kb = k / 32, lane = g * 4 + t;
  int64_t rows = part == rt::kKey ? 0 : headDim / 16;
  int64_t depth = headDim / 32;
  if (level == 8) {
    int64_t vector = part == rt::kKey ? block * depth + kb : kb * rows + block;
    return {vector * 512 + lane * 16 + (half * 2 + upper) * 4 + byte, 0};
  }
  if (level == 4) {
    int64_t operand = part == rt::kKey ? block * depth + kb : kb * rows + block;
    return {operand / 2 * 512 + lane * 16 + (operand % 2 * 2 + half) * 4 + byte,
            upper * 4};
  }
  int64_t pair =
      part == rt::kKey ? block / 2 * depth + kb : kb * (rows / 2) + block / 2;
  return {pair / 2 * 512 + lane * 16 + (pair % 2 * 2 + half) * 4 + byte,
          block % 2 * 4 + upper * 2};
}

TEST(FragmentLayoutTest, EveryCodeIsWhereALaneLoadsIt) {
  for (int64_t headDim : {64, 80, 96, 128, 256})
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int32_t level : rt::kLadder) {
        int32_t tokens = rt::tokensPerBlock(level);
        FragmentLayout layout{part, level, tokens, headDim};
        std::set<std::pair<int64_t, int64_t>> places;
        for (int64_t token = 0; token < tokens; ++token)
          for (int64_t dim = 0; dim < headDim; ++dim) {
            FragmentLayout::Place place = layout.place(token, dim);
            auto expected = fragmentPlace(part, level, headDim, token, dim);
            ASSERT_EQ(place.byte, expected.first)
                << headDim << " part " << part << " level " << level << " at "
                << token << ", " << dim;
            ASSERT_EQ(place.bit, expected.second);
            ASSERT_LT(place.byte, rt::blockBytes(headDim));
            places.insert(expected);
          }
        ASSERT_EQ(places.size(), size_t(tokens * headDim));
      }
}

// A unit that takes a part of a block finds there what the block's layout says.
TEST(FragmentLayoutTest, RunsOfThirtyTwoTokensLieTogether) {
  for (int64_t headDim : {80, 96, 128})
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int32_t level : {8, 4, 2})
        for (int32_t tokens = 32; tokens <= rt::tokensPerBlock(level);
             tokens *= 2) {
          FragmentLayout whole{part, level, rt::tokensPerBlock(level), headDim};
          FragmentLayout unit{part, level, tokens, headDim};
          for (int64_t token = 0; token < whole.tokens; ++token)
            for (int64_t dim = 0; dim < headDim; ++dim) {
              int64_t first = token / tokens * tokens;
              ASSERT_EQ(whole.place(token, dim).byte,
                        first * headDim * level / 8 +
                            unit.place(token - first, dim).byte);
              ASSERT_EQ(whole.place(token, dim).bit,
                        unit.place(token - first, dim).bit);
            }
          // Units begin where a GPU's addresses reach.
          EXPECT_EQ(tokens * headDim * level / 8 % rt::kDeviceGrainBytes, 0);
        }
}

TEST(ParameterLayoutTest, LanesFindTheirGroupsTogether) {
  // Lane t's channels: 32 kb + 16 h + 4 t + e, as 32 values.
  std::set<int64_t> seen;
  for (int64_t t = 0; t < 4; ++t)
    for (int64_t i = 0; i < 32; ++i) {
      int64_t dim = i / 8 * 32 + i % 8 / 4 * 16 + 4 * t + i % 4;
      EXPECT_EQ(ParameterLayout::perChannel(dim, 1, 128), t * 32 + i);
      EXPECT_EQ(ParameterLayout::perChannel(dim, 0, 128), 128 + t * 32 + i);
    }
  // 32 tokens take 128 bytes; lane g has 16 of them.
  for (int64_t token = 0; token < 128; ++token)
    for (int32_t which : {0, 1}) {
      int64_t at = ParameterLayout::perToken(token, which);
      EXPECT_EQ(at / 64, token / 32);
      EXPECT_EQ(at % 64 / 8, token % 8);
      EXPECT_EQ(at % 8 / 4, which == 0 ? 1 : 0);
      EXPECT_TRUE(seen.insert(at).second);
    }
  EXPECT_EQ(seen.size(), 256u);
}

/// Two caches of the same pages: one made by the CPU's kernels, one converted.
class Conversion {
public:
  Conversion(int64_t headDim, const char *key)
      : shape(makeShape(headDim, key)), kernels(Kernels::compile(shape)),
        image{headDim,
              {std::string(key).find("per_token") != std::string::npos, true}},
        keyBytes(image.groups(rt::kKey) * kGroupBytes),
        cache(shape, keyBytes, 128 * kGroupBytes, 1, 16) {}

  /// A page whose tokens are random, written by the flush kernels.
  void write(int32_t page, int32_t keyLevel, int32_t valueLevel) {
    std::normal_distribution<float> normal;
    for (int32_t part : {rt::kKey, rt::kValue})
      for (int64_t token = 0; token <= rt::kPageTokens; ++token)
        for (int64_t dim = 0; dim < shape.headDim; ++dim)
          cache.fixed(0, 0, part, token)[dim] =
              reference::floatToBf16(normal(random));
    cache.makePage(0, 0, page, 16, 16);
    for (int32_t part : {rt::kKey, rt::kValue}) {
      int32_t level = part == rt::kKey ? keyLevel : valueLevel;
      rt::PageTask task = {0, 0, 0, page};
      void *operands[] = {cache.view(), &task};
      cache.entry(0, 0, page).level[part] = static_cast<uint8_t>(level);
      ASSERT_EQ(kernels->flush(part, level)(operands, 0), rt::kKernelOk);
    }
  }

  /// Converts to blocks and a slot of other numbers, and compares with what
  /// the tests know of the CPU's order.
  void check(int32_t page) {
    const rt::PageEntry &source = cache.entry(0, 0, page);
    rt::PageEntry target = source;
    for (int32_t part : {rt::kKey, rt::kValue})
      for (int32_t i = 0; i < 8; ++i)
        target.blocks[part][i] = static_cast<uint32_t>(part * 8 + (i * 3) % 8);
    target.slot = 1;
    std::vector<uint8_t> blocks(16 * rt::blockBytes(shape.headDim), 0xee);
    std::vector<uint8_t> slots(2 * 4096, 0xee);
    HostImage from(image, cache.blocks.data(), cache.view()->parameters);
    DeviceImage to(image, blocks.data(), slots.data());
    rt::Status status = convertPage(from, source, to, target);
    ASSERT_TRUE(status.ok()) << status.message();
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int64_t token = 0; token < rt::kPageTokens; ++token)
        for (int64_t dim = 0; dim < shape.headDim; ++dim)
          compare(source, target, to, part, token, dim);
  }

  void compare(const rt::PageEntry &source, const rt::PageEntry &target,
               const DeviceImage &to, rt::Part part, int64_t token,
               int64_t dim) {
    if (source.level[part] == 16) {
      ASSERT_EQ(to.code(target, part, token, dim),
                cache.raw(source, part, token, dim));
      return;
    }
    ASSERT_EQ(to.code(target, part, token, dim),
              cache.code(source, part, token, dim));
    for (Parameter which : {kMinimum, kRange})
      ASSERT_EQ(to.parameter(target, part, token, dim, which),
                cache.parameter(source, part, which,
                                image.groupOf(part, token, dim),
                                image.groups(part)));
  }

  static KernelShape makeShape(int64_t headDim, const char *key) {
    KernelShape shape;
    shape.headDim = headDim;
    shape.key = key;
    return shape;
  }

  KernelShape shape;
  std::unique_ptr<Kernels> kernels;
  ImageShape image;
  int64_t keyBytes;
  TestCache cache;
  std::mt19937 random{3};
};

TEST(CacheImageTest, EveryKindOfPageIsTheSameCodesOnBothSides) {
  for (const char *key : {"<per_channel>", "<per_token>"})
    for (int64_t headDim : {64, 80, 96, 128}) {
      Conversion conversion(headDim, key);
      ASSERT_NE(conversion.kernels, nullptr);
      int32_t page = 0;
      for (int32_t keyLevel : rt::kLadder)
        for (int32_t valueLevel : rt::kLadder) {
          conversion.write(page, keyLevel, valueLevel);
          conversion.check(page++);
        }
    }
}

// A byte a token, whose minimum is minus half of its range.
TEST(CacheImageTest, RangesInAByteAreOneOfAToken) {
  ImageShape shape{64, {false, true}, true};
  EXPECT_EQ(HostImage(shape, nullptr, nullptr).slotBytes(), 64 * 4 + 128);
  EXPECT_EQ(DeviceImage(shape, nullptr, nullptr).slotBytes(), 64 * 4 + 128);
  rt::PageEntry page = {};
  page.level[rt::kKey] = page.level[rt::kValue] = 4;
  std::vector<uint8_t> blocks(4 * 2048), host(64 * 4 + 128), device(host);
  page.blocks[rt::kKey][1] = 1;
  page.blocks[rt::kValue][0] = 2;
  page.blocks[rt::kValue][1] = 3;
  for (size_t token = 0; token < 128; ++token)
    host[256 + token] = static_cast<uint8_t>(token * 247 / 127);
  HostImage from(shape, blocks.data(), host.data());
  std::vector<uint8_t> copied(blocks.size());
  DeviceImage to(shape, copied.data(), device.data());
  ASSERT_TRUE(convertPage(from, page, to, page).ok());
  for (int64_t token = 0; token < 128; ++token) {
    int64_t g = token % 8, upper = token % 16 / 8, block = token % 32 / 16;
    EXPECT_EQ(device[256 + token / 32 * 32 + g * 4 + block * 2 + upper],
              host[256 + token]);
    float range = reference::halfToFloat(
        to.parameter(page, rt::kValue, token, 3, kRange));
    EXPECT_EQ(range, reference::halfToFloat(
                         static_cast<uint16_t>(host[256 + token] << 7)));
    EXPECT_EQ(reference::halfToFloat(
                  to.parameter(page, rt::kValue, token, 3, kMinimum)),
              -range / 2);
  }
}

TEST(CacheImageTest, WritesOneFieldAndNoOther) {
  ImageShape shape{64, {false, true}};
  rt::PageEntry page = {};
  page.level[rt::kKey] = page.level[rt::kValue] = 2;
  page.blocks[rt::kValue][0] = 1;
  for (int image : {0, 1}) {
    std::vector<uint8_t> blocks(2 * 2048), slots(4096);
    HostImage host(shape, blocks.data(), slots.data());
    DeviceImage device(shape, blocks.data(), slots.data());
    auto set = [&](rt::Part part, int64_t token, int64_t dim, uint32_t code) {
      image ? device.setCode(page, part, token, dim, code)
            : host.setCode(page, part, token, dim, code);
    };
    auto get = [&](rt::Part part, int64_t token, int64_t dim) {
      return image ? device.code(page, part, token, dim)
                   : host.code(page, part, token, dim);
    };
    auto expected = [](rt::Part part, int64_t token, int64_t dim) {
      return static_cast<uint32_t>((token * 7 + dim * 3 + part) % 4);
    };
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int64_t token = 0; token < 128; ++token)
        for (int64_t dim = 0; dim < 64; ++dim)
          set(part, token, dim, expected(part, token, dim));
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int64_t token = 0; token < 128; ++token)
        for (int64_t dim = 0; dim < 64; ++dim)
          ASSERT_EQ(get(part, token, dim), expected(part, token, dim));
  }
}

class FixedAreasOf : public testing::TestWithParam<int64_t> {};

TEST_P(FixedAreasOf, BecomeUnitsOfSixteen) {
  constexpr int64_t tokens = 37;
  const int64_t headDim = GetParam();
  std::vector<uint16_t> rows(tokens * headDim);
  for (size_t i = 0; i < rows.size(); ++i)
    rows[i] = static_cast<uint16_t>(i * 17 + 1);
  for (rt::Part part : {rt::kKey, rt::kValue}) {
    std::vector<uint8_t> area(rt::deviceFixedTokens(1) * headDim * 2);
    convertFixed<Order::Host, Order::Device>(
        part, headDim, tokens, reinterpret_cast<const uint8_t *>(rows.data()),
        area.data());
    for (int64_t token = 0; token < tokens; ++token)
      for (int64_t dim = 0; dim < headDim; ++dim) {
        auto [byte, bit] = fragmentPlace(part, 16, headDim, token % 16, dim);
        byte += token / 16 * rt::blockBytes(headDim);
        ASSERT_EQ(area[byte] | area[byte + 1] << 8,
                  rows[token * headDim + dim]);
        ASSERT_EQ(
            DeviceImage::fixedValue(area.data(), part, headDim, token, dim),
            rows[token * headDim + dim]);
      }
  }
}

INSTANTIATE_TEST_SUITE_P(CacheImageTest, FixedAreasOf,
                         testing::Values(64, 80, 96));

TEST(CacheImageTest, WhatDoesNotFitIsRefused) {
  std::vector<uint8_t> bytes(16 * 2048);
  rt::PageEntry page = {}, other = {};
  page.level[rt::kKey] = page.level[rt::kValue] = 4;
  other = page;
  other.level[rt::kValue] = 2;
  HostImage host({64, {false, true}}, bytes.data(), bytes.data());
  DeviceImage device({64, {false, true}}, bytes.data(), bytes.data());
  EXPECT_EQ(convertPage(host, page, device, other).code(),
            rt::StatusCode::InvalidArgument);
  DeviceImage narrow({32, {false, true}}, bytes.data(), bytes.data());
  EXPECT_EQ(convertPage(host, page, narrow, page).code(),
            rt::StatusCode::InvalidArgument);
  HostImage channels({64, {false, false}}, bytes.data(), bytes.data());
  DeviceImage unable({64, {false, false}}, bytes.data(), bytes.data());
  EXPECT_EQ(convertPage(channels, page, unable, page).code(),
            rt::StatusCode::Unimplemented);
}
} // namespace
