//===- CompilerWarpgroupLayoutTest.cpp - Tiles of warpgroups --------------===//
//
// That every element of a page has a place of its own in a tile, that the codes
// of a lane are whole chunks there, and that warps share a page without rest.
// Neighbours: WarpgroupLayout.h, CompilerFragmentLayoutTest.cpp.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/WarpgroupLayout.h"

#include <gtest/gtest.h>
#include <map>
#include <set>

using namespace ::pmkvq;

namespace {
constexpr rt::Part kBothParts[] = {rt::kKey, rt::kValue};
constexpr int64_t kSize = 128;

TEST(HalfTile, EveryElementHasItsPlace) {
  for (rt::Part part : kBothParts) {
    std::set<int64_t> offsets;
    for (int64_t r = 0; r < kSize; ++r)
      for (int64_t k = 0; k < kSize; ++k) {
        int64_t offset =
            HalfTile::offset(HalfTile::row(part, r), HalfTile::column(part, k));
        EXPECT_GE(offset, 0);
        EXPECT_LT(offset, HalfTile::kBytes);
        EXPECT_EQ(offset % 2, 0);
        offsets.insert(offset);
      }
    EXPECT_EQ(offsets.size(), static_cast<size_t>(kSize * kSize));
  }
}

TEST(HalfTile, ColumnsOfScoresAreColumnsOfValues) {
  for (int64_t token = 0; token < kSize; ++token)
    EXPECT_EQ(HalfTile::row(rt::kKey, token),
              HalfTile::column(rt::kValue, token));
}

TEST(HalfTile, ScoreTokensAreThoseOfTheAccumulators) {
  // Accumulator i of lane t is column 8 (i / 4) + 2 t + i % 2.
  for (int64_t t = 0; t < 4; ++t)
    for (int64_t i = 0; i < 64; ++i) {
      int64_t token = HalfTile::scoreToken(i) + t * HalfTile::kScoreLaneTokens;
      EXPECT_EQ(HalfTile::row(rt::kKey, token), 8 * (i / 4) + 2 * t + i % 2);
    }
}

class Shares : public ::testing::TestWithParam<std::pair<rt::Part, int32_t>> {
protected:
  WarpShare share() const {
    return WarpShare(GetParam().first, GetParam().second);
  }
};

TEST_P(Shares, CoverAPage) {
  std::set<int32_t> vectors;
  for (int32_t w = 0; w < WarpShare::kWarps; ++w)
    for (int32_t i = 0; i < share().vectors(); ++i)
      vectors.insert(share().vector(w, i));
  EXPECT_EQ(static_cast<int32_t>(vectors.size()), share().layout.vectors());
  EXPECT_EQ(*vectors.begin(), 0);
  EXPECT_EQ(*vectors.rbegin(), share().layout.vectors() - 1);
}

TEST_P(Shares, AreThatOfTheFirstWarpFurtherOn) {
  WarpShare s = share();
  for (int32_t w = 0; w < WarpShare::kWarps; ++w)
    for (int32_t i = 0; i < s.vectors(); ++i) {
      EXPECT_EQ(s.vector(w, i),
                s.block(w, s.blockOf(i)) * WarpShare::kBlockVectors +
                    s.inBlock(w, i));
      EXPECT_LT(s.blockOf(i), s.blocks());
      // Numbers of a warp are linear in both its bits.
      EXPECT_EQ(s.inBlock(w, i), s.inBlock(0, i) + w / 2 * s.inBlock(2, 0) +
                                     w % 2 * s.inBlock(1, 0));
      EXPECT_EQ(s.block(w, 0), w / 2 * s.block(2, 0) + w % 2 * s.block(1, 0));
      for (int32_t f = 0; f < s.layout.fragmentsPerVector(); ++f) {
        Fragment own = s.layout.fragment(s.vector(w, i), f);
        Fragment first = s.layout.fragment(s.vector(0, i), f);
        EXPECT_EQ(own.rowBlock, first.rowBlock + s.rowBase(w));
        int32_t halves = s.level() == 16 ? 2 : 1;
        EXPECT_EQ(own.kBlock, first.kBlock + s.columnBase(w) * halves);
        EXPECT_LT(first.kBlock / halves, s.columnBlocks());
        if (halves == 2) {
          EXPECT_EQ(own.kBlock % 2, i % 2);
        }
      }
    }
}

/// The lane that has an element is the one whose chunk it is in.
TEST_P(Shares, CodesOfALaneAreChunks) {
  WarpShare s = share();
  for (int64_t token = 0; token < kSize; ++token)
    for (int64_t dim = 0; dim < kSize; ++dim) {
      int64_t k = s.isKey() ? dim : token, row = s.isKey() ? token : dim;
      HalfTile::Place place = HalfTile::placeOf(s.layout.part, k);
      FragmentLayout::Place at = s.layout.place(token, dim);
      int64_t lane = at.byte % FragmentLayout::kVectorBytes / 16;
      EXPECT_EQ(lane / 4, row % 8);
      EXPECT_EQ(lane % 4, place.t);
      if (s.level() < 16) {
        EXPECT_EQ(at.byte % 4, place.e);
      }
    }
}

/// Eight lanes store 128 bytes at once.
TEST_P(Shares, StoresMeetOnNoBank) {
  rt::Part part = share().layout.part;
  for (int64_t rowBlock = 0; rowBlock < 8; ++rowBlock)
    for (int64_t c = 0; c < 4; ++c)
      for (int64_t first = 0; first < 32; first += 8) {
        std::set<int64_t> banks;
        for (int64_t lane = first; lane < first + 8; ++lane) {
          int64_t row = HalfTile::row(part, 16 * rowBlock + lane / 4);
          int64_t column = c / 2 * HalfTile::kHalfColumns +
                           (2 * (lane % 4) + c % 2) * HalfTile::kChunkColumns;
          banks.insert(HalfTile::offset(row, column) % 128);
        }
        EXPECT_EQ(banks.size(), 8u);
      }
}

class Operands : public Shares {
protected:
  OperandShare operands() const {
    return {GetParam().first, GetParam().second};
  }
};

/// Every element of a page is in one field of one lane, and in the row and the
/// columns that `wgmma` takes it for.
TEST_P(Operands, HaveEveryElementOnce) {
  OperandShare s = operands();
  std::set<std::pair<int64_t, int32_t>> places;
  for (int32_t w = 0; w < OperandShare::kWarps; ++w)
    for (int32_t m = 0; m < OperandShare::kProducts; ++m)
      for (int32_t c = 0; c < OperandShare::kColumnBlocks; ++c)
        for (int32_t h = 0; h < 2; ++h)
          for (int32_t row = 0; row < 16; ++row)
            for (int64_t in = 0; in < 16; ++in) {
              int64_t r = 16 * (2 * w + m) + row, k = 32 * c + 16 * h + in;
              int64_t token = s.isKey() ? r : k, dim = s.isKey() ? k : r;
              FragmentLayout::Place place = s.layout.place(token, dim);
              EXPECT_EQ(place.byte % FragmentLayout::kVectorBytes / 16 / 4,
                        row % 8);
              FragmentRegister field = s.field(m, c, h, row >= 8);
              int32_t piece = c / s.pieceBlocks();
              int64_t vector = s.vector(w, piece, field.word / s.loadWords());
              EXPECT_EQ(place.byte / FragmentLayout::kVectorBytes, vector);
              if (s.level() < 16) {
                EXPECT_EQ(place.byte % 16 / 4,
                          s.firstWord(w) + field.word % s.loadWords());
                EXPECT_EQ(place.bit, field.exponent);
              }
              places.insert({place.byte, place.bit});
            }
  EXPECT_EQ(places.size(), static_cast<size_t>(kSize * kSize));
}

/// A piece that is copied has the vectors that are loaded of it.
TEST_P(Operands, AreCopiedInPieces) {
  OperandShare s = operands();
  for (int32_t p = 0; p < s.pieces(); ++p) {
    // Number of each vector of the part in its piece.
    std::map<int32_t, int32_t> copied;
    for (int32_t i = 0; i < s.copies(); ++i) {
      EXPECT_EQ(s.copyStart(p, i),
                p * s.copyStart(1, 0) + i * s.copyStart(0, 1));
      // Of one block.
      EXPECT_EQ(s.copyStart(p, i) / OperandShare::kBlockBytes,
                (s.copyStart(p, i) + s.copyBytes() - 1) /
                    OperandShare::kBlockBytes);
      for (int32_t at = 0; at < s.copyBytes();
           at += FragmentLayout::kVectorBytes)
        copied[(s.copyStart(p, i) + at) / FragmentLayout::kVectorBytes] =
            (i * s.copyBytes() + at) / FragmentLayout::kVectorBytes;
    }
    for (int32_t w = 0; w < OperandShare::kWarps; ++w)
      for (int32_t i = 0; i < s.loads(); ++i) {
        ASSERT_TRUE(copied.count(s.vector(w, p, i)));
        EXPECT_EQ(copied[s.vector(w, p, i)], s.inPiece(w, i));
        // Numbers of a warp are linear in both its bits.
        EXPECT_EQ(s.inPiece(w, i),
                  s.inPiece(0, i) +
                      w % 2 * (s.inPiece(1, 0) - s.inPiece(0, 0)) +
                      w / 2 * (s.inPiece(2, 0) - s.inPiece(0, 0)));
      }
  }
}

TEST(SharedRows, FitIntoAThreadBlocksMemory) {
  for (int64_t queries = 1; queries <= SharedRowsLayout::kMaxRows; ++queries) {
    auto layout = SharedRowsLayout::of(queries);
    EXPECT_GE(layout.rows, queries);
    EXPECT_EQ(layout.halfBytes() % 1024, 0);
    EXPECT_EQ(layout.weights(1) % 1024, 0);
    EXPECT_EQ(layout.barriers(SharedRowsLayout::kFull) % 8, 0);
    EXPECT_LE(layout.bytes(), int64_t{227} * 1024);
  }
}

std::string
nameOf(const ::testing::TestParamInfo<std::pair<rt::Part, int32_t>> &info) {
  return (info.param.first == rt::kKey ? "Keys" : "Values") +
         std::to_string(info.param.second);
}

const auto kEveryLevel = ::testing::Values(
    std::pair(rt::kKey, 16), std::pair(rt::kKey, 8), std::pair(rt::kKey, 4),
    std::pair(rt::kKey, 2), std::pair(rt::kValue, 16), std::pair(rt::kValue, 8),
    std::pair(rt::kValue, 4), std::pair(rt::kValue, 2));
INSTANTIATE_TEST_SUITE_P(Levels, Shares, kEveryLevel, nameOf);
INSTANTIATE_TEST_SUITE_P(Levels, Operands, kEveryLevel, nameOf);

} // namespace
