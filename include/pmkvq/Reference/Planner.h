//===- Planner.h - Bytes and levels under a budget --------------*- C++ -*-===//
//
// Which level every page has, from page counts and a budget alone: no values,
// no codes.  Neighbours: Cache.h applies a plan; the runtime's own planner must
// agree with this one for every geometry.
//
// Mental model.  The key and value of one page, layer and kv head form a
// *page-head*, which has one level; a part is at that level, or at its floor if
// that is higher.  Under the page schedule new pages come in at level 16; while
// the whole exceeds the budget, one page-head is halved: the one at the highest
// level, among these the oldest page, then the first sequence, layer, head.
//
// Example: one sequence, layer and head of head_dim 128 (a block is 4 KiB, a
// page-head at levels 16, 8, 4, 2 takes 16, 8, 4, 2 blocks), room for 24
// blocks.  Page 0 comes: level 16.  Page 1 comes: 32 blocks, page 0 drops to 8:
// 24, fits.  Page 2 comes: 40 blocks, the highest level is 16, so page 1 drops
// to 8 (32) and page 2 to 8 (24).
//
// The keys-last schedule is the page schedule with one level more between 4 and
// 2, `kApart`: keys at 4, values at 2.  So values of all pages fall to 2 before
// keys of any.
//
// With a floor of 1 for values, page-heads fall from 2 to 1 at last: keys stay
// at 2, values have half a block of 1 bit, which two page-heads share, so they
// fall in pairs.  A sequence's newest page stays at 2.
//
// Under the layer schedule, the paper's, all page-heads of a layer have one
// level, and every layer has an equal share of the budget.  A new page comes in
// at level 16 and first joins the level of its layer's older pages (so it stays
// at 16 only if these are, or there are none).  While the layer then exceeds
// its share, all its page-heads are halved.
//
// Example: the same head, so one layer whose share is everything.  Page 0: 16.
// Page 1: 32 blocks, both drop to 8: 16.  Page 2 joins at 8: 24, fits.  Page 3
// joins at 8: 32, all four drop to 4: 16.  Page 4 joins at 4 although it would
// fit at 8: 20.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_REFERENCE_PLANNER_H
#define PMKVQ_REFERENCE_PLANNER_H

#include "pmkvq_rt/Geometry.h"

#include <array>
#include <cstdint>
#include <vector>

namespace pmkvq::reference {

//===----------------------------------------------------------------------===//
// Bytes
//===----------------------------------------------------------------------===//

/// What decides how many bytes a cache takes.
struct CacheShape {
  int32_t layers = 1;
  int32_t sequences = 1;
  int32_t kvHeads = 1;
  int32_t headDim = 128;
  int32_t sinkTokens = 1;
  /// Tokens that each sequence may cache; sizes the page tables.
  int64_t maxTokens = 0;
  /// Bytes of the parameters of one part of a page.
  std::array<int32_t, rt::kParts> parameterBytes = {0, 0};
};

/// Pages of a sequence that caches `tokens` tokens.  A full window becomes a
/// page only when the next token needs its room, so the window of a sequence
/// at rest may be full: ceil(max(0, tokens - sink - 128) / 128).
int64_t pagesForTokens(int32_t sinkTokens, int64_t tokens);

/// Bytes of what never changes: sinks, whole windows, and page tables, over all
/// layers, sequences and kv heads.
int64_t fixedBytes(const CacheShape &shape);

//===----------------------------------------------------------------------===//
// Levels
//===----------------------------------------------------------------------===//

enum class ScheduleKind {
  /// Every page is at the floor from the start.
  None,
  /// Pages start at level 16 and fall as the budget demands.
  Page,
  /// The same, but keys wait at 4 until values of all pages are at 2.
  KeysLast,
  /// All pages of a layer fall together when the layer exceeds its share.
  Layer,
};

/// What KeysLast has between 4 and 2: keys at 4, values at 2.
inline constexpr int32_t kApart = 3;

struct Schedule {
  ScheduleKind kind = ScheduleKind::Page;
  /// Lowest level per part, in bits.
  std::array<int32_t, rt::kParts> floor = {2, 2};
  /// Bytes that the cache may take; 0: no limit.
  int64_t budgetBytes = 0;
};

/// Level of a part of a page-head at `level`.
int32_t partLevel(const Schedule &schedule, int32_t level, int32_t part);

/// The next lower level.
int32_t levelBelow(const Schedule &schedule, int32_t level);

/// The level at which page-heads end at the latest: the lower of both floors.
int32_t lowestLevel(const Schedule &schedule);

/// The level that a new page-head has before anything is lowered.
int32_t initialLevel(const Schedule &schedule);

/// Bytes that one layer may take under the layer schedule: budgetBytes /
/// layers, rounded down.  Nothing is taken off before: a layer counts its own
/// fixed areas, page tables, parameter slots and blocks, as `layerBytes` does.
///
/// Rounding down refuses nothing.  All layers of a cache have one shape and the
/// same pages, so they take the same bytes x; with whole numbers, x > floor(B /
/// n) if and only if n x > B.
int64_t layerShare(const CacheShape &shape, const Schedule &schedule);

/// Bytes of a page-head at `level`: its blocks and its parameter slot.
int64_t pageHeadBytes(const CacheShape &shape, const Schedule &schedule,
                      int32_t level);

/// The levels of all page-heads of a cache.
class PageLevels {
public:
  explicit PageLevels(const CacheShape &shape)
      : layers_(shape.layers), kvHeads_(shape.kvHeads),
        levels_(shape.sequences) {}

  int32_t layers() const { return layers_; }
  int32_t kvHeads() const { return kvHeads_; }
  int32_t sequences() const { return static_cast<int32_t>(levels_.size()); }
  int64_t pages(int32_t sequence) const;

  /// Adds the next page of a sequence, all page-heads at `level`.
  void addPage(int32_t sequence, int32_t level);

  int32_t &at(int32_t sequence, int64_t page, int32_t layer, int32_t head) {
    return levels_[sequence][index(page, layer, head)];
  }
  int32_t at(int32_t sequence, int64_t page, int32_t layer,
             int32_t head) const {
    return levels_[sequence][index(page, layer, head)];
  }

private:
  int64_t index(int64_t page, int32_t layer, int32_t head) const {
    return (page * layers_ + layer) * kvHeads_ + head;
  }

  int32_t layers_;
  int32_t kvHeads_;
  /// [sequence][(page * layers + layer) * kvHeads + head]
  std::vector<std::vector<int32_t>> levels_;
};

/// Bytes of the whole cache: fixedBytes and every page-head.
int64_t totalBytes(const CacheShape &shape, const Schedule &schedule,
                   const PageLevels &levels);

/// Bytes of one layer: its part of fixedBytes, and every page-head of it.
int64_t layerBytes(const CacheShape &shape, const Schedule &schedule,
                   const PageLevels &levels, int32_t layer);

struct PlanResult {
  /// Bytes of the cache at the planned levels, or at the floor if these do not
  /// suffice.
  int64_t bytes = 0;
  /// Bytes by which the floor exceeds the budget; 0: the plan fits.
  int64_t missingBytes = 0;

  bool fits() const { return missingBytes == 0; }
};

/// Lowers page-heads until the whole, or every layer its share, fits.
///
/// `levels` holds the new pages already, at `initialLevel`.  If even the floor
/// does not fit, `levels` stays as it is.
///
/// Under the layer schedule the level of a layer is the lowest of its
/// page-heads, 16 if it has none; the plan gives all its page-heads the highest
/// level not above that one at which `layerBytes` is at most `layerShare`.
PlanResult planLevels(const CacheShape &shape, const Schedule &schedule,
                      PageLevels &levels);

/// Bytes that sequences of these lengths take with every page at the floor:
/// what a budget must at least be.
/// Shapes: tokens [sequences].
int64_t bytesAtFloor(const CacheShape &shape, const Schedule &schedule,
                     const std::vector<int64_t> &tokens);

} // namespace pmkvq::reference

#endif // PMKVQ_REFERENCE_PLANNER_H
