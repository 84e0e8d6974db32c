//===- DeviceWorkList.cpp - Decode attention as rows of a GPU -------------===//
//
// Neighbours: DeviceWorkList.h has the mental model; DeviceRows.cpp cuts rows.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/DeviceWorkList.h"
#include "DeviceRows.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>

using namespace pmkvq::rt;

//===----------------------------------------------------------------------===//
// Units
//===----------------------------------------------------------------------===//

/// An offset in grains.
static Result<uint32_t> toGrains(int64_t offset) {
  if (offset % kDeviceGrainBytes)
    return Status(StatusCode::Unimplemented,
                  "codes of a unit begin at byte " + std::to_string(offset) +
                      ", expected a multiple of " +
                      std::to_string(kDeviceGrainBytes) +
                      "; this head_dim does not go with these levels on a GPU");
  int64_t grains = offset / kDeviceGrainBytes;
  if (offset < 0 || grains > std::numeric_limits<uint32_t>::max())
    return Status(StatusCode::InvalidArgument,
                  "codes at byte " + std::to_string(offset) +
                      " are out of reach, expected below 512 GiB");
  return static_cast<uint32_t>(grains);
}

static Status checkLevels(UnitKind kind) {
  if (isLevel(kind.key) && isLevel(kind.value))
    return {};
  return {StatusCode::InvalidArgument,
          "expected levels of 16, 8, 4 or 2 bits, got " +
              std::to_string(kind.key) + " and " + std::to_string(kind.value)};
}

/// Adds a unit whose sides begin at these bytes.
static Status addUnit(int64_t key, int64_t value, UnitTask unit,
                      std::vector<UnitTask> &units) {
  Result<uint32_t> keyGrain = toGrains(key), valueGrain = toGrains(value);
  for (const Result<uint32_t> *grain : {&keyGrain, &valueGrain})
    if (!grain->ok())
      return grain->status();
  unit.key = *keyGrain;
  unit.value = *valueGrain;
  units.push_back(unit);
  return {};
}

/// Where the codes of a part's tokens from `token` on lie, in bytes from block
/// 0.
static int64_t tokenOffset(const PageEntry &page, Part part, int32_t token,
                           int64_t headDim) {
  int32_t level = page.level[part];
  int64_t block = page.blocks[part][token / tokensPerBlock(level)];
  return block * blockBytes(headDim) +
         token % tokensPerBlock(level) * headDim * level / 8;
}

Status pmkvq::rt::addPageUnits(const PageEntry &page, int64_t headDim,
                               int64_t codesOffset,
                               std::vector<UnitTask> &units) {
  UnitKind kind{page.level[kKey], page.level[kValue]};
  if (Status status = checkLevels(kind); !status.ok())
    return status;
  auto offsetOf = [&](Part part, int32_t token) {
    token -= token % kind.copiedTokens(part);
    return codesOffset + tokenOffset(page, part, token, headDim);
  };
  for (int32_t token = 0; token < kPageTokens; token += kind.tokens()) {
    UnitTask unit = {};
    unit.slot = kind == UnitKind{16, 16} ? 0 : page.slot;
    unit.info = UnitTask::makeInfo(kind, kind.tokens(), token / kUnitGrain);
    if (kind.isHalfGrain() && token % kUnitGrain != 0)
      unit.info |= UnitTask::kSecondHalf;
    if (Status status = addUnit(offsetOf(kKey, token), offsetOf(kValue, token),
                                unit, units);
        !status.ok())
      return status;
  }
  return {};
}

Status pmkvq::rt::addFixedUnits(int64_t keyOffset, int64_t valueOffset,
                                int32_t tokens, int64_t headDim,
                                std::vector<UnitTask> &units,
                                int32_t moreRows) {
  constexpr UnitKind kind{16, 16};
  for (int32_t token = 0; token < tokens + moreRows; token += kind.tokens()) {
    int64_t bytes = token * headDim * 2;
    UnitTask unit = {};
    unit.info =
        UnitTask::makeInfo(kind, std::min(kind.tokens(), tokens - token),
                           token / kUnitGrain) |
        UnitTask::kFixedArea;
    if (Status status =
            addUnit(keyOffset + bytes, valueOffset + bytes, unit, units);
        !status.ok())
      return status;
  }
  return {};
}

//===----------------------------------------------------------------------===//
// Units that fall
//===----------------------------------------------------------------------===//

/// Whether `lowered` is what a page may be once it has been read.
static Status checkLowered(const PageEntry &page, const PageEntry &lowered,
                           Part part) {
  const int32_t level = page.level[part], to = lowered.level[part];
  if (to == level)
    return {};
  if (to * 2 != level || !isLevel(to))
    return {StatusCode::InvalidArgument,
            "expected a part that stays or falls by one level, got " +
                std::to_string(level) + " to " + std::to_string(to)};
  if (page.level[kKey] == 16 || page.level[kValue] == 16)
    return {StatusCode::Unimplemented,
            "attention lowers no part of a page at level 16, whose units are "
            "smaller than its groups; requantize it in a launch of its own"};
  for (int32_t i = 0; i < blocksAtLevel(to); ++i)
    for (Part other : {kKey, kValue}) {
      const uint32_t *own = page.blocks[other];
      if (std::find(own, own + blocksAtLevel(page.level[other]),
                    lowered.blocks[part][i]) !=
          own + blocksAtLevel(page.level[other]))
        return {StatusCode::InvalidArgument,
                "block " + std::to_string(lowered.blocks[part][i]) +
                    " is read by the launch that would write it; expected "
                    "blocks that are free"};
    }
  return {};
}

Status pmkvq::rt::addLoweringUnits(const PageEntry &page,
                                   const PageEntry &lowered, int64_t headDim,
                                   int64_t codesOffset,
                                   std::vector<LoweringTask> &units) {
  std::vector<UnitTask> read;
  if (Status status = addPageUnits(page, headDim, codesOffset, read);
      !status.ok())
    return status;
  for (Part part : {kKey, kValue})
    if (Status status = checkLowered(page, lowered, part); !status.ok())
      return status;
  int32_t token = 0;
  for (const UnitTask &unit : read) {
    LoweringTask task = {unit, {}, {}};
    for (Part part : {kKey, kValue}) {
      if (lowered.level[part] == page.level[part])
        continue;
      Result<uint32_t> grain =
          toGrains(codesOffset + tokenOffset(lowered, part, token, headDim));
      if (!grain.ok())
        return grain.status();
      task.unit.info |= UnitTask::falls(part);
      task.lowered[part] = *grain;
    }
    units.push_back(task);
    token +=
        UnitKind::fromIndex(static_cast<int32_t>(unit.info & 0xff)).tokens();
  }
  return {};
}

Status pmkvq::rt::addFixedUnits(int64_t keyOffset, int64_t valueOffset,
                                int32_t tokens, int64_t headDim,
                                std::vector<LoweringTask> &units,
                                int32_t moreRows) {
  std::vector<UnitTask> read;
  Status status =
      addFixedUnits(keyOffset, valueOffset, tokens, headDim, read, moreRows);
  for (const UnitTask &unit : read)
    units.push_back({unit, {}, {}});
  return status;
}

//===----------------------------------------------------------------------===//
// Pages
//===----------------------------------------------------------------------===//

static Status toEntryGrains(int64_t offset, uint32_t &grains) {
  if (offset < 0 || offset % kDeviceGrainBytes ||
      offset / kDeviceGrainBytes > std::numeric_limits<uint32_t>::max())
    return {StatusCode::InvalidArgument,
            "expected codes at a multiple of " +
                std::to_string(kDeviceGrainBytes) +
                " bytes, below 512 GiB, got offset " + std::to_string(offset)};
  grains = static_cast<uint32_t>(offset / kDeviceGrainBytes);
  return {};
}

Status pmkvq::rt::addPageEntry(const PageEntry &page, int64_t headDim,
                               int64_t codesOffset,
                               std::vector<PrefillPage> &pages) {
  UnitKind kind{page.level[kKey], page.level[kValue]};
  if (Status status = checkLevels(kind); !status.ok())
    return status;
  PrefillPage entry = {};
  for (Part part : {kKey, kValue})
    for (int32_t i = 0; i < blocksAtLevel(kind.level(part)); ++i) {
      int64_t offset =
          codesOffset + int64_t{page.blocks[part][i]} * blockBytes(headDim);
      if (Status status = toEntryGrains(offset, entry.blocks[part][i]);
          !status.ok())
        return status;
    }
  entry.first = PrefillPage::kSeenByAll;
  entry.info = PrefillPage::makeInfo(kind, kPageTokens);
  entry.slot = kind == UnitKind{16, 16} ? 0 : page.slot;
  pages.push_back(entry);
  return {};
}

Status pmkvq::rt::addRawEntries(int64_t keyOffset, int64_t valueOffset,
                                int64_t tokens, int64_t headDim, int32_t first,
                                std::vector<PrefillPage> &pages) {
  constexpr int64_t runTokens = tokensPerBlock(16);
  const int64_t runBytes = runTokens * headDim * 2;
  for (int64_t token = 0; token < tokens; token += kPageTokens) {
    int64_t count = std::min<int64_t>(kPageTokens, tokens - token);
    PrefillPage entry = {};
    for (Part part : {kKey, kValue})
      for (int64_t i = 0; i < kMaxBlocksPerPart; ++i) {
        // Runs beyond the last are the last again: their tokens count nothing,
        // but are read.
        int64_t run = token / runTokens + std::min(i, (count - 1) / runTokens);
        int64_t start = part == kKey ? keyOffset : valueOffset;
        if (Status status =
                toEntryGrains(start + run * runBytes, entry.blocks[part][i]);
            !status.ok())
          return status;
      }
    entry.first = first == PrefillPage::kSeenByAll
                      ? first
                      : first + static_cast<int32_t>(token);
    entry.info = PrefillPage::makeInfo({16, 16}, static_cast<int32_t>(count));
    pages.push_back(entry);
  }
  return {};
}

Status pmkvq::rt::addFixedEntries(int64_t keyOffset, int64_t valueOffset,
                                  int32_t tokens, int64_t headDim,
                                  std::vector<PrefillPage> &pages,
                                  int32_t moreRows) {
  return addRawEntries(keyOffset, valueOffset, tokens + moreRows, headDim,
                       /*first=*/1 - tokens, pages);
}

//===----------------------------------------------------------------------===//
// Order
//===----------------------------------------------------------------------===//

static bool isFixedArea(const UnitTask &unit) {
  return (unit.info & UnitTask::kFixedArea) != 0;
}
static bool isFixedArea(const LoweringTask &task) {
  return isFixedArea(task.unit);
}
static bool isFixedArea(const PrefillPage &page) {
  return page.first != PrefillPage::kSeenByAll;
}

/// A number below 256 for each kind of entry that lists mix.
static uint32_t mixOf(const UnitTask &unit) { return unit.info & 0xff; }
static uint32_t mixOf(const PrefillPage &page) { return page.info & 0xff; }
static uint32_t mixOf(const LoweringTask &task) {
  constexpr uint32_t kKinds = 16;
  uint32_t kind = mixOf(task.unit);
  for (Part part : {kKey, kValue})
    if (task.unit.info & UnitTask::falls(part))
      kind += kKinds << part;
  return kind;
}

template <typename Entry> static void spread(std::vector<Entry> &units) {
  // Unit r of the n of its kind lies at (2 r + 1) / 2 n of the way.
  struct Placed {
    int64_t numerator, denominator;
    size_t index;
  };
  auto isFixed = [](const Entry &unit) { return isFixedArea(unit); };
  std::array<int64_t, 256> count = {}, seen = {};
  for (const Entry &unit : units)
    if (!isFixed(unit))
      ++count[mixOf(unit)];
  std::vector<Placed> placed;
  for (size_t i = 0; i < units.size(); ++i) {
    uint32_t kind = mixOf(units[i]);
    if (!isFixed(units[i]))
      placed.push_back({2 * seen[kind]++ + 1, 2 * count[kind], i});
  }
  std::sort(placed.begin(), placed.end(), [](const Placed &a, const Placed &b) {
    int64_t left = a.numerator * b.denominator;
    int64_t right = b.numerator * a.denominator;
    return left != right ? left < right : a.index < b.index;
  });
  std::vector<Entry> ordered;
  ordered.reserve(units.size());
  for (const Placed &place : placed)
    ordered.push_back(units[place.index]);
  std::copy_if(units.begin(), units.end(), std::back_inserter(ordered),
               isFixed);
  units = std::move(ordered);
}

void pmkvq::rt::spreadKinds(std::vector<UnitTask> &units) { spread(units); }
void pmkvq::rt::spreadKinds(std::vector<LoweringTask> &units) { spread(units); }
void pmkvq::rt::spreadKinds(std::vector<PrefillPage> &pages) { spread(pages); }

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

UnitCosts pmkvq::rt::unitCosts(int64_t headDim,
                               int32_t blocksPerMultiprocessor) {
  constexpr int64_t kMeasuredDims = 128;
  UnitCosts costs;
  for (auto *of : {&costs.token, &costs.work})
    for (int64_t &cost : *of)
      cost = cost * headDim * blocksPerMultiprocessor / kMeasuredDims;
  return costs;
}

UnitCosts pmkvq::rt::pageCosts(int64_t queries) {
  // Of a token's side, picoseconds: decoding, and products with each query, by
  // the times of 4, 8 and 16 tokens of 4 heads.  Of a share, times the square
  // of queries: of 5, 12, 30, 60 and 120 ns a query 12 were best for 16 and 30
  // for 64 (3 sequences of 3,000 tokens).
  constexpr int64_t kDecode = 1400, kQuery = 58, kShare = 480;
  UnitCosts costs;
  for (int64_t &cost : costs.token)
    cost = std::max(cost, kDecode + queries * kQuery);
  costs.share = kShare * queries * queries;
  costs.unitTokens = kPageTokens;
  costs.workers = 2;
  return costs;
}

/// Partial results of shared pairs, numbered; [pair], {first, shares}.
static std::vector<std::pair<uint32_t, uint16_t>>
numberPartials(const std::vector<RowCut> &rows, size_t pairs, int64_t &count) {
  std::vector<std::pair<uint32_t, uint16_t>> numbered(pairs);
  for (const RowCut &row : rows)
    for (const Run &run : row)
      ++numbered[run.pair].second;
  count = 0;
  for (auto &[first, shares] : numbered) {
    first = shares > 1 ? static_cast<uint32_t>(count) : 0;
    count += shares > 1 ? shares : 0;
  }
  return numbered;
}

static int64_t countUnits(const RowCut &row) {
  int64_t units = 0;
  for (const Run &run : row)
    units += static_cast<int64_t>(run.end - run.begin);
  return units;
}

/// Units of a row before the first of a fixed area.
template <typename Entry>
static int64_t countEarlyUnits(const RowCut &row,
                               const std::vector<std::vector<Entry>> &pairs) {
  int64_t early = 0;
  for (const Run &run : row)
    for (size_t i = run.begin; i < run.end; ++i, ++early)
      if (isFixedArea(pairs[run.pair][i]))
        return early;
  return early;
}

/// Sizes of the rows, whose units take `unitBytes`; bytes are allocated, and
/// zero.
static Status layOut(const std::vector<RowCut> &rows, size_t unitBytes,
                     DeviceWorkList &list) {
  size_t segments = 0;
  int64_t units = 0;
  for (const RowCut &row : rows) {
    segments = std::max(segments, row.size());
    units = std::max(units, countUnits(row));
  }
  auto bytes = static_cast<int64_t>(sizeof(WorkHeader)) +
               static_cast<int64_t>(segments * sizeof(WorkSegment)) +
               units * static_cast<int64_t>(unitBytes) +
               kUnitTaskPadding * static_cast<int64_t>(sizeof(UnitTask));
  // Rows begin at lines of the cache.
  bytes = (bytes + 127) / 128 * 128;
  if (units > kMaxSegmentUnits)
    return {StatusCode::InvalidArgument,
            "a row of the work list has " + std::to_string(units) +
                " units, expected at most " + std::to_string(kMaxSegmentUnits) +
                "; use more thread blocks"};
  list.rows = static_cast<int32_t>(rows.size());
  list.rowBytes = static_cast<uint32_t>(bytes);
  list.segmentsPerRow = static_cast<uint32_t>(segments);
  list.bytes.assign(rows.size() * static_cast<size_t>(bytes), 0);
  return {};
}

static Status checkQueries(const std::vector<PairQueries> &queries,
                           size_t pairs) {
  if (!queries.empty() && queries.size() != pairs)
    return {StatusCode::InvalidArgument,
            "expected queries of " + std::to_string(pairs) + " pairs, got " +
                std::to_string(queries.size())};
  for (const PairQueries &whose : queries)
    if (whose.moreRows < 0 || whose.moreRows >= kMaxSegmentRows)
      return {StatusCode::InvalidArgument,
              "a pair has " + std::to_string(whose.moreRows + 1) +
                  " rows of queries, expected 1 to " +
                  std::to_string(kMaxSegmentRows)};
  return {};
}

/// Units of a run in the order in which workers take them.
template <typename Entry>
static std::vector<Entry> inTurns(const Entry *entries, const UnitTask *units,
                                  size_t count, const UnitCosts &costs) {
  std::vector<Entry> ordered;
  for (size_t index : dealToWarps(units, count, costs))
    ordered.push_back(entries[index]);
  return ordered;
}
static std::vector<PrefillPage> inTurns(const PrefillPage *pages,
                                        const UnitTask * /*units*/,
                                        size_t count,
                                        const UnitCosts & /*costs*/) {
  return {pages, pages + count};
}

/// Writes a row's segments and units.  `seen` counts the shares of each pair.
template <typename Entry>
static void writeRow(const RowCut &row,
                     const std::vector<std::vector<Entry>> &pairs,
                     const std::vector<std::vector<UnitTask>> &cut,
                     const std::vector<PairQueries> &queries,
                     const std::vector<std::pair<uint32_t, uint16_t>> &partials,
                     const UnitCosts &costs, uint32_t segmentsPerRow,
                     std::vector<uint16_t> &seen, uint8_t *at) {
  WorkHeader header = {static_cast<uint32_t>(row.size()),
                       static_cast<uint32_t>(countUnits(row)),
                       static_cast<uint32_t>(countEarlyUnits(row, pairs)), 0};
  std::memcpy(at, &header, sizeof(header));
  uint8_t *segmentAt = at + sizeof(WorkHeader);
  uint8_t *unitAt = segmentAt + segmentsPerRow * sizeof(WorkSegment);
  for (const Run &run : row) {
    auto [first, shares] = partials[run.pair];
    size_t count = run.end - run.begin;
    PairQueries whose =
        queries.empty() ? PairQueries{run.pair, 0} : queries[run.pair];
    WorkSegment segment = {};
    segment.pair = whose.pair;
    segment.units = static_cast<uint32_t>(count) & kMaxSegmentUnits;
    segment.moreRows = static_cast<uint32_t>(whose.moreRows) & 0xff;
    segment.share = seen[run.pair]++;
    segment.shares = shares;
    segment.partial = first;
    std::memcpy(segmentAt, &segment, sizeof(segment));
    segmentAt += sizeof(segment);
    std::vector<Entry> units =
        inTurns(pairs[run.pair].data() + run.begin,
                cut[run.pair].data() + run.begin, count, costs);
    std::memcpy(unitAt, units.data(), count * sizeof(Entry));
    unitAt += count * sizeof(Entry);
  }
}

/// Errors: what keeps a list from being made.
static Status checkList(size_t pairs, int32_t blocks,
                        const std::vector<PairQueries> &queries) {
  constexpr int32_t maxBlocks = std::numeric_limits<uint16_t>::max();
  if (blocks < 1 || blocks > maxBlocks)
    return {StatusCode::InvalidArgument,
            "expected 1 to " + std::to_string(maxBlocks) +
                " thread blocks, got " + std::to_string(blocks)};
  return checkQueries(queries, pairs);
}

/// A list of entries, cut as `units`, one for each, say.
template <typename Entry>
static Result<DeviceWorkList>
buildList(const std::vector<std::vector<Entry>> &pairs,
          const std::vector<std::vector<UnitTask>> &units, int32_t blocks,
          const UnitCosts &costs, const std::vector<PairQueries> &queries) {
  if (Status status = checkList(pairs.size(), blocks, queries); !status.ok())
    return status;
  for (size_t pair = 0; pair < pairs.size(); ++pair)
    if (pairs[pair].empty())
      return Status(StatusCode::InvalidArgument,
                    "pair " + std::to_string(pair) +
                        " has no units: attention needs at least one token");
  DeviceWorkList list;
  if (pairs.empty())
    return list;
  std::vector<RowCut> rows = cutRows(units, static_cast<size_t>(blocks), costs);
  if (Status status = layOut(rows, sizeof(Entry), list); !status.ok())
    return status;
  auto partials = numberPartials(rows, pairs.size(), list.partials);
  std::vector<uint16_t> seen(pairs.size());
  for (size_t r = 0; r < rows.size(); ++r)
    writeRow(rows[r], pairs, units, queries, partials, costs,
             list.segmentsPerRow, seen, list.bytes.data() + r * list.rowBytes);
  return list;
}

Result<DeviceWorkList>
pmkvq::rt::buildDeviceWorkList(const std::vector<std::vector<UnitTask>> &pairs,
                               int32_t blocks, const UnitCosts &costs,
                               const std::vector<PairQueries> &queries) {
  return buildList(pairs, pairs, blocks, costs, queries);
}

/// What cutting asks of entries.
template <typename Entry, typename ToUnit>
static std::vector<std::vector<UnitTask>>
unitsOf(const std::vector<std::vector<Entry>> &pairs, ToUnit toUnit) {
  std::vector<std::vector<UnitTask>> units;
  for (const std::vector<Entry> &entries : pairs) {
    std::vector<UnitTask> &made = units.emplace_back(entries.size());
    std::transform(entries.begin(), entries.end(), made.begin(), toUnit);
  }
  return units;
}

Result<DeviceWorkList> pmkvq::rt::buildLoweringWorkList(
    const std::vector<std::vector<LoweringTask>> &pairs, int32_t blocks,
    const UnitCosts &costs, const std::vector<PairQueries> &queries) {
  auto units =
      unitsOf(pairs, [](const LoweringTask &task) { return task.unit; });
  return buildList(pairs, units, blocks, costs, queries);
}

Result<DeviceWorkList>
pmkvq::rt::buildPageWorkList(const std::vector<std::vector<PrefillPage>> &pairs,
                             int32_t blocks, const UnitCosts &costs,
                             const std::vector<PairQueries> &queries) {
  // Of a page, its kind.
  auto units = unitsOf(pairs, [](const PrefillPage &page) {
    UnitTask unit = {};
    unit.info = page.info & 0xff;
    return unit;
  });
  return buildList(pairs, units, blocks, costs, queries);
}
