//===- Schedule.h - Which page is at which level ----------------*- C++ -*-===//
//
// Policies that choose levels under a byte budget: plain data in and out.
// Neighbours: Session.h, which carries a plan out; Abi.h (ScheduleKind).
//
// Mental model of `page`.  Nothing is lowered before the next page needs the
// room, and then only as much as that takes: highest level first, then oldest
// page, so the budget stays full and old tokens lose bits before new ones.
//
// `least_loss` asks what a halving costs, in place of which level it leaves: by
// a calibration, which knows how much a layer's keys and values bear, and how
// far back its heads look.
//
// Example: floor 2, two pages of one head at (8, 8), room for 16 blocks, one
// new page.  It counts as (16, 16): 8 + 8 + 16 blocks are 16 too many.  The
// new page is the highest: 16 -> 8 saves 8.  Of three pages at 8 the oldest
// falls to 4 and saves 4, then the next does: 4 + 4 + 8 = 16 fit.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SCHEDULE_H
#define PMKVQ_RT_SCHEDULE_H

#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/Status.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

namespace pmkvq::rt {

/// Bits of a page's key and value part.
using PageLevels = std::array<uint8_t, kParts>;

/// One page: where it is, and its levels.
struct PageState {
  int32_t layer;
  int32_t sequence;
  int32_t head;
  /// Index within the sequence; 0 is the oldest.
  int32_t page;
  PageLevels level;
};

/// What a plan must keep to.
struct ScheduleLimits {
  /// Lowest level of each part in any layer, in bits.
  std::array<int32_t, kParts> floor;
  /// Bytes of one block.
  int64_t blockBytes;
  /// Bytes that the blocks of all pages may take together.
  int64_t bytesAvailable;
  /// Bytes that the blocks of one layer's pages may take, if every layer has an
  /// equal share of the budget: this share (rounded down) less the layer's own
  /// fixed areas, tables and slots.
  int64_t layerBytesAvailable = std::numeric_limits<int64_t>::max();
  /// Floors of single layers, [layer][part]; 0: as `floor` says; null: all are.
  const uint8_t (*layerFloor)[kParts] = nullptr;

  /// Lowest level of each part of a layer, in bits.
  PageLevels floorOf(int32_t layer) const {
    PageLevels lowest = {};
    for (int32_t part = 0; part < kParts; ++part) {
      uint8_t own = layerFloor ? layerFloor[layer][part] : uint8_t(0);
      lowest[part] = own ? own : static_cast<uint8_t>(floor[part]);
    }
    return lowest;
  }
};

/// What pages of one layer cost, by a calibration (#pmkvq.calibration).
struct LayerLosses {
  /// All pages at 8, 4, 2 and 1 bits while all else is at 16, keys and values
  /// apart, [part][8, 4, 2, 1 bits]: nats a token, or any measure that adds up
  /// over layers and parts.  Keys have no level 1.
  std::array<std::array<float, kLossLevels>, kParts> level = {};
  /// How much of that one page costs, [kv head][age, kLossAges]; the newest
  /// page has age 0, older ones than the last are as the last.
  std::vector<float> shares;

  float shareOf(int32_t head, int32_t age) const {
    const auto last = static_cast<size_t>(std::min(age, kLossAges - 1));
    return shares[static_cast<size_t>(head) * kLossAges + last];
  }

  /// Sets the shares.
  ///
  /// found: [kvHeads * ages], the newest page first; empty: all pages are
  /// alike.
  void setShares(const std::vector<float> &found, int64_t kvHeads) {
    shares.assign(static_cast<size_t>(kvHeads * kLossAges), 1);
    if (found.empty())
      return;
    const size_t ages = found.size() / static_cast<size_t>(kvHeads);
    for (size_t i = 0; i < shares.size(); ++i)
      shares[i] =
          found[i / kLossAges * ages + std::min(i % kLossAges, ages - 1)];
  }

  /// All numbers in the order in which a program has them
  /// (ProgramEntries::pageLosses); `numbers(float &)` is given each.
  template <typename Numbers> void forEach(Numbers &&numbers) {
    for (auto &part : level)
      for (float &loss : part)
        numbers(loss);
    for (float &share : shares)
      numbers(share);
  }
};

/// `bytesAvailable` of a cache without a budget.
inline constexpr int64_t kUnlimitedBytes = std::numeric_limits<int64_t>::max();

/// One way to choose levels.  Those of the library are made by
/// makeSchedulePolicy; any other may be given to a session in
/// SessionOptions::policy.
class SchedulePolicy {
public:
  virtual ~SchedulePolicy() = default;

  /// Rewrites the level of every page so that all fit.  A level never rises.
  ///
  /// Shapes: pages [existing + new]; pages[0 .. existing-1] are in the cache,
  /// the others are about to be made and their level on input is ignored.
  /// A page that several sequences share occurs once, under the lowest of them.
  /// Errors: OutOfMemory, naming the bytes missing, if the pages do not fit at
  /// the lowest levels that the policy may choose; `pages` is unchanged then.
  virtual Status plan(std::vector<PageState> &pages, size_t existing,
                      const ScheduleLimits &limits) const = 0;

  /// The levels that plans may give pages of a layer with these floors, each
  /// pair once, or more than that: who reads pages gets ready for them.  Every
  /// pair above the floors, unless the policy knows better.
  virtual std::vector<PageLevels> pairs(const PageLevels &floor) const;
};

/// The policy of a ScheduleKind.
///
/// none: every page is at the floor from the start.
/// page: new pages count as level 16; while the pages take too many bytes, one
///       page falls by one halving, both parts together except one that is at
///       its floor.  Order: highest level first (of the higher part that is
///       above its floor), then smallest page index, then sequence, layer,
///       head.
///       Values fall to 1 once no page can lose more than that, those of
///       partners together.
/// keys_last: the same, but a page at (4, 4) whose parts may both fall to 2
///       loses the bits of its values first; its keys wait until no page is
///       left at (4, 4).  Keys at 2 bits cost more than values do.
/// least_loss: new pages count as level 16; while the pages take too many
///       bytes, one part of one page falls by one halving: where the loss that
///       it adds for each byte that it frees is least, the layer's below less
///       that at its level, times the page's share (a lower level that loses
///       less counts as the one above).  Ties go to the smallest page index,
///       then sequence, layer, head, and to keys.  A page that sequences share
///       has the age that it has in the lowest of them.  Values of partners
///       fall to 1 together, once both are at 2, for the mean of both prices
///       and in the place of the first.
/// layer: every layer has an equal share of the budget, and its pages one
///       level.  Where layers differ in floors, what is left for pages is
///       shared in proportion to their blocks at these.  New pages come in at
///       16 and first join the level of the older ones; while the layer's pages
///       then take more than its share, all of them fall together by one
///       halving, a part that is at its floor excepted.  (Pages of a restored
///       sequence may be lower than the others of a layer; new ones join the
///       highest.)
///
/// losses: of all layers; least_loss alone looks at them.
/// Errors: Unimplemented for any other kind; InvalidArgument for least_loss
/// without losses.
Result<std::unique_ptr<SchedulePolicy>>
makeSchedulePolicy(int32_t kind, std::vector<LayerLosses> losses = {});

/// Bytes of the blocks of one page; of values at level 1, which come in pairs,
/// half a block.
inline int64_t pageBlockBytes(const PageLevels &level, int64_t blockBytes) {
  return blockBytes * (level[kKey] + level[kValue]) / 2;
}

} // namespace pmkvq::rt

#endif // PMKVQ_RT_SCHEDULE_H
