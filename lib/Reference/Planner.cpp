//===- Planner.cpp - Bytes and levels under a budget ----------------------===//
//
// The page plan as one scan a level, the layer plan as one search a layer.
// Neighbours: Planner.h (the rules), Geometry.h and Abi.h (sizes of blocks,
// areas and table entries).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Planner.h"
#include "pmkvq_rt/Abi.h"

#include <algorithm>

namespace pmkvq::reference {

//===----------------------------------------------------------------------===//
// Bytes
//===----------------------------------------------------------------------===//

int64_t pagesForTokens(int32_t sinkTokens, int64_t tokens) {
  int64_t beyond = tokens - sinkTokens - rt::kPageTokens;
  return beyond <= 0 ? 0 : (beyond + rt::kPageTokens - 1) / rt::kPageTokens;
}

namespace {

/// What fixedBytes counts of one layer.
int64_t fixedLayerBytes(const CacheShape &shape) {
  int64_t heads = int64_t(shape.sequences) * shape.kvHeads;
  int64_t table = pagesForTokens(shape.sinkTokens, shape.maxTokens) *
                  static_cast<int64_t>(sizeof(rt::PageEntry));
  return heads * (rt::fixedAreaBytes(shape.headDim, shape.sinkTokens) + table);
}

} // namespace

int64_t fixedBytes(const CacheShape &shape) {
  return shape.layers * fixedLayerBytes(shape);
}

int64_t layerShare(const CacheShape &shape, const Schedule &schedule) {
  return schedule.budgetBytes / shape.layers;
}

int64_t pageHeadBytes(const CacheShape &shape, const Schedule &schedule,
                      int32_t level) {
  int64_t bytes = 0;
  for (int32_t part = 0; part < rt::kParts; ++part)
    bytes += shape.parameterBytes[part] +
             rt::codeBytes(shape.headDim, partLevel(schedule, level, part));
  return bytes;
}

int64_t layerBytes(const CacheShape &shape, const Schedule &schedule,
                   const PageLevels &levels, int32_t layer) {
  int64_t bytes = fixedLayerBytes(shape);
  for (int32_t sequence = 0; sequence < levels.sequences(); ++sequence)
    for (int64_t page = 0; page < levels.pages(sequence); ++page)
      for (int32_t head = 0; head < levels.kvHeads(); ++head)
        bytes += pageHeadBytes(shape, schedule,
                               levels.at(sequence, page, layer, head));
  return bytes;
}

int64_t totalBytes(const CacheShape &shape, const Schedule &schedule,
                   const PageLevels &levels) {
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < levels.layers(); ++layer)
    bytes += layerBytes(shape, schedule, levels, layer);
  return bytes;
}

int64_t bytesAtFloor(const CacheShape &shape, const Schedule &schedule,
                     const std::vector<int64_t> &tokens) {
  int32_t lowest = lowestLevel(schedule);
  int64_t least = pageHeadBytes(shape, schedule, lowest), bytes = 0;
  for (int64_t count : tokens)
    if (int64_t pages = pagesForTokens(shape.sinkTokens, count))
      bytes += (pages - 1) * least +
               (lowest == 1 ? pageHeadBytes(shape, schedule, 2) : least);
  return fixedBytes(shape) + bytes * shape.layers * shape.kvHeads;
}

//===----------------------------------------------------------------------===//
// Levels
//===----------------------------------------------------------------------===//

int32_t partLevel(const Schedule &schedule, int32_t level, int32_t part) {
  if (level == kApart)
    level = part == rt::kKey ? 4 : 2;
  return std::max(level, schedule.floor[part]);
}

int32_t levelBelow(const Schedule &schedule, int32_t level) {
  if (level == kApart)
    return 2;
  return schedule.kind == ScheduleKind::KeysLast && level == 4 ? kApart
                                                               : level / 2;
}

int32_t lowestLevel(const Schedule &schedule) {
  return std::min(schedule.floor[rt::kKey], schedule.floor[rt::kValue]);
}

int32_t initialLevel(const Schedule &schedule) {
  return schedule.kind == ScheduleKind::None ? lowestLevel(schedule)
                                             : rt::kLadder[0];
}

int64_t PageLevels::pages(int32_t sequence) const {
  return static_cast<int64_t>(levels_[sequence].size()) /
         (int64_t(layers_) * kvHeads_);
}

void PageLevels::addPage(int32_t sequence, int32_t level) {
  std::vector<int32_t> &pages = levels_[sequence];
  pages.insert(pages.end(), int64_t(layers_) * kvHeads_, level);
}

namespace {

/// Lowers page-heads at `from`, oldest page first, then sequence, layer, head,
/// until `bytes` is within the budget or none is left.  To level 1, where two
/// share a block, they fall in pairs, and none of a sequence's newest page.
void lowerFrom(int32_t from, const CacheShape &shape, const Schedule &schedule,
               PageLevels &levels, int64_t &bytes) {
  int32_t below = levelBelow(schedule, from);
  int64_t saved = pageHeadBytes(shape, schedule, from) -
                  pageHeadBytes(shape, schedule, below);
  bool single = false;
  int64_t lastPage = 0;
  for (int32_t sequence = 0; sequence < levels.sequences(); ++sequence)
    lastPage = std::max(lastPage, levels.pages(sequence));
  for (int64_t page = 0; page < lastPage; ++page)
    for (int32_t sequence = 0; sequence < levels.sequences(); ++sequence) {
      if (page >= levels.pages(sequence) - (below == 1))
        continue;
      for (int32_t layer = 0; layer < levels.layers(); ++layer)
        for (int32_t head = 0; head < levels.kvHeads(); ++head) {
          if (bytes <= schedule.budgetBytes && !single)
            return;
          int32_t &level = levels.at(sequence, page, layer, head);
          if (level != from)
            continue;
          level = below;
          bytes -= saved;
          single = below == 1 && !single;
        }
    }
}

/// Lowers page-heads until the whole fits or all are at the lowest level;
/// returns the bytes that the whole then takes.
int64_t lowerPages(const CacheShape &shape, const Schedule &schedule,
                   PageLevels &levels) {
  int64_t bytes = totalBytes(shape, schedule, levels);
  // "Highest level first" is one scan a level: a lowered page-head is below all
  // that are still to be lowered in the same scan.
  for (int32_t from = rt::kLadder[0]; from > lowestLevel(schedule);
       from = levelBelow(schedule, from))
    lowerFrom(from, shape, schedule, levels, bytes);
  return bytes;
}

/// Calls `visit` with the level of every page-head of a layer.
template <typename Visit>
void forEachOfLayer(PageLevels &levels, int32_t layer, Visit visit) {
  for (int32_t sequence = 0; sequence < levels.sequences(); ++sequence)
    for (int64_t page = 0; page < levels.pages(sequence); ++page)
      for (int32_t head = 0; head < levels.kvHeads(); ++head)
        visit(levels.at(sequence, page, layer, head));
}

/// Gives all page-heads of a layer the level at which it fits its share, or the
/// lowest; returns the bytes that the layer then takes.
int64_t lowerLayer(const CacheShape &shape, const Schedule &schedule,
                   PageLevels &levels, int32_t layer) {
  int32_t level = rt::kLadder[0];
  forEachOfLayer(levels, layer,
                 [&](int32_t own) { level = std::min(level, own); });
  for (;; level /= 2) {
    forEachOfLayer(levels, layer, [&](int32_t &own) { own = level; });
    int64_t bytes = layerBytes(shape, schedule, levels, layer);
    if (bytes <= layerShare(shape, schedule) || level <= lowestLevel(schedule))
      return bytes;
  }
}

/// Lowers what the schedule lowers; returns the bytes that the whole then
/// takes.
int64_t lower(const CacheShape &shape, const Schedule &schedule,
              PageLevels &levels) {
  switch (schedule.kind) {
  case ScheduleKind::None:
    return totalBytes(shape, schedule, levels);
  case ScheduleKind::Page:
  case ScheduleKind::KeysLast:
    return lowerPages(shape, schedule, levels);
  case ScheduleKind::Layer:
    break;
  }
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < levels.layers(); ++layer)
    bytes += lowerLayer(shape, schedule, levels, layer);
  return bytes;
}

} // namespace

PlanResult planLevels(const CacheShape &shape, const Schedule &schedule,
                      PageLevels &levels) {
  PlanResult result;
  if (schedule.budgetBytes == 0) {
    result.bytes = totalBytes(shape, schedule, levels);
    return result;
  }
  PageLevels lowered = levels;
  result.bytes = lower(shape, schedule, lowered);
  // The layer schedule needs no other test: at the floor all layers take the
  // same, so either each fits its share or none does.
  result.missingBytes =
      std::max<int64_t>(0, result.bytes - schedule.budgetBytes);
  if (result.fits())
    levels = std::move(lowered);
  return result;
}

} // namespace pmkvq::reference
