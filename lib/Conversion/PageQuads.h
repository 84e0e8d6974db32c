//===- PageQuads.h - What a lane has of a page's part -----------*- C++ -*-===//
//
// How warps and lanes share a part of a page while it is written, and where
// each level has a lane's words.  Neighbours: PagesToLanes.cpp (its user, and
// the mental model), FragmentLayout.h (the order of codes).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_PAGEQUADS_H
#define PMKVQ_LIB_CONVERSION_PAGEQUADS_H

#include "LaneBuilder.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/FragmentLayout.h"
#include <map>
#include <tuple>

namespace mlir::pmkvq {

inline constexpr int64_t kRows = ::pmkvq::FragmentLayout::kRows;
inline constexpr int64_t kQuads = ::pmkvq::FragmentLayout::kQuads;
inline constexpr int64_t kQuad = 4;

/// A quad of a lane: rows `16 row + 8 upper + g`, elements `16 k ..` of k.
struct QuadPlace {
  int64_t row, upper, k;
  bool operator<(const QuadPlace &o) const {
    return std::tie(row, upper, k) < std::tie(o.row, o.upper, o.k);
  }
};

/// One part of a page and how warps share it.
struct PageShape {
  Part part;
  int64_t headDim;
  /// Whether slices are of rows (else of k).
  bool sliceRows;

  bool isKey() const { return part == Part::Key; }
  int64_t rowBlocks() const {
    return (isKey() ? ::pmkvq::rt::kPageTokens : headDim) / kRows;
  }
  int64_t kBlocks() const {
    return (isKey() ? headDim : ::pmkvq::rt::kPageTokens) / kQuads;
  }
  /// Blocks of 16 elements of the axis that slices are of, and of a slice: two,
  /// or one where they are an odd number.
  int64_t slicedBlocks() const { return sliceRows ? rowBlocks() : kBlocks(); }
  int64_t sliceBlocks() const { return slicedBlocks() % 2 ? 1 : 2; }
  int64_t slices() const { return slicedBlocks() / sliceBlocks(); }
  /// Quads of the first slice.
  SmallVector<QuadPlace> quads() const {
    SmallVector<QuadPlace> all;
    for (int64_t row = 0; row < (sliceRows ? sliceBlocks() : rowBlocks());
         ++row)
      for (int64_t upper : {0, 1})
        for (int64_t k = 0; k < (sliceRows ? kBlocks() : sliceBlocks()); ++k)
          all.push_back({row, upper, k});
    return all;
  }
  QuadPlace inSlice(QuadPlace quad, int64_t slice) const {
    (sliceRows ? quad.row : quad.k) += sliceBlocks() * slice;
    return quad;
  }
};

/// Where a level has the words of a lane.
class PageOrder {
public:
  PageOrder(const PageShape &shape, int64_t level)
      : shape(shape),
        layout{static_cast<::pmkvq::rt::Part>(shape.part),
               static_cast<int32_t>(level),
               ::pmkvq::rt::tokensPerBlock(static_cast<int32_t>(level)),
               shape.headDim} {}

  /// A word of a lane: its block among the part's, its byte there for lane 0,
  /// the first bit of the quad's fields in each byte, and how far lanes lie
  /// apart.
  struct Word {
    int64_t block, byte;
    int32_t bit, laneBytes;
  };
  /// Where the quad's codes are, or at level 16 the elements 2 `half`, + 1 of k
  /// within the quad.
  Word find(QuadPlace quad, int64_t half = 0) const {
    int64_t row = kRows * quad.row + 8 * quad.upper;
    int64_t k = kQuads * quad.k;
    if (layout.level == 16)
      k += rawElement(half, 0);
    int64_t token = shape.isKey() ? row : k, dim = shape.isKey() ? k : row;
    ::pmkvq::FragmentLayout::Place place =
        layout.place(token % layout.tokens, dim);
    return {token / layout.tokens, place.byte, place.bit, place.laneBytes};
  }

  /// Element of k, in lane 0, that is element `e` of half `half` at level 16.
  int64_t rawElement(int64_t half, int64_t e) const {
    return shape.isKey() ? half * 2 + e : half * 8 + e;
  }
  /// Which byte of its quad below level 16 it is.
  int64_t quadByte(int64_t half, int64_t e) const {
    return layout.quadElement(static_cast<int32_t>(rawElement(half, e)));
  }

  const PageShape &shape;
  ::pmkvq::FragmentLayout layout;
};

/// What a lane has of a tile.
struct LaneTile {
  int64_t level = 16;
  bool raw = true;
  /// Raw: two words a quad; else one.
  std::map<QuadPlace, LaneBuilder::Values> quads;
  /// [parameter] f16 vectors, one element a group of the lane; null if they are
  /// where they were.
  LaneBuilder::Values parameters;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_PAGEQUADS_H
