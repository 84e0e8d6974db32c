//===- PageCodes.h - A page's codes to lanes and back -----------*- C++ -*-===//
//
// Loads and stores what lanes have of a page's part, at any level.  Neighbours:
// PageQuads.h (who has what), PagesToLanes.cpp (its user).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_PAGECODES_H
#define PMKVQ_LIB_CONVERSION_PAGECODES_H

#include "LinearMap.h"
#include "PageQuads.h"
#include "pmkvq_rt/DeviceAbi.h"

namespace mlir::pmkvq {

class PageCodes {
public:
  /// `codes`: of all pages; `task`: the part's PagePartTask.
  PageCodes(LaneBuilder &b, const PageShape &shape, Value codes, Value task,
            Value slice, Value lane)
      : b(b), shape(shape), codes(codes), task(task), slice(slice), lane(lane) {
  }

  /// Every quad's codes from the page's blocks.
  LaneTile load(const PageOrder &order);
  void store(const PageOrder &order, const LaneTile &tile);

  /// What f of the first slice becomes in this warp's.
  template <typename Function> Value bySlice(Function f) {
    return emitLinear(b, slice, shape.slices(), f);
  }

private:
  /// A word of a run of neighbours that one access moves: which of the first
  /// slice's quads, and of raw quads which half.
  struct RunWord {
    PageOrder::Word word;
    QuadPlace quad;
    int64_t half;
  };
  using Run = std::vector<RunWord>;

  Value vectorAddress(const PageOrder &order, QuadPlace quad);
  std::vector<Run> findRuns(const PageOrder &order);
  static int64_t wordsOf(const Run &run);

  LaneBuilder &b;
  const PageShape &shape;
  Value codes, task, slice, lane;
  /// Addresses of blocks, by their numbers in each slice, and places of lanes,
  /// by how far they lie apart.
  std::map<std::vector<int64_t>, Value> blocks, lanePlaces;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_PAGECODES_H
