//===- DeviceWorkList.cpp - Decode attention as rows of a GPU -------------===//
//
// Neighbours: DeviceWorkList.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/DeviceWorkList.h"

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
                      " are out of reach, expected below 2 TiB");
  return static_cast<uint32_t>(grains);
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

Status pmkvq::rt::addPageUnits(const PageEntry &page, int64_t headDim,
                               int64_t codesOffset,
                               std::vector<UnitTask> &units) {
  UnitKind kind{page.level[kKey], page.level[kValue]};
  if (!isLevel(kind.key) || !isLevel(kind.value))
    return {StatusCode::InvalidArgument,
            "expected levels of 16, 8, 4 or 2 bits, got " +
                std::to_string(kind.key) + " and " +
                std::to_string(kind.value)};
  if ((kind.key == 16) != (kind.value == 16))
    return {StatusCode::Unimplemented,
            "a page with keys at " + std::to_string(kind.key) +
                " bits and values at " + std::to_string(kind.value) +
                ": on a GPU both are at 16 bits or neither is"};
  auto offsetOf = [&](Part part, int32_t token) {
    int32_t level = kind.level(part);
    int64_t block = page.blocks[part][token / tokensPerBlock(level)];
    return codesOffset + block * blockBytes(headDim) +
           token % tokensPerBlock(level) * headDim * level / 8;
  };
  for (int32_t token = 0; token < kPageTokens; token += kind.tokens()) {
    UnitTask unit = {};
    unit.slot = kind.key == 16 ? 0 : page.slot;
    unit.info = UnitTask::makeInfo(kind, kind.tokens(), token / kUnitGrain);
    if (Status status = addUnit(offsetOf(kKey, token), offsetOf(kValue, token),
                                unit, units);
        !status.ok())
      return status;
  }
  return {};
}

Status pmkvq::rt::addFixedUnits(int64_t keyOffset, int64_t valueOffset,
                                int32_t tokens, int64_t headDim,
                                std::vector<UnitTask> &units) {
  constexpr UnitKind kind{16, 16};
  for (int32_t token = 0; token < tokens; token += kind.tokens()) {
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

void pmkvq::rt::spreadKinds(std::vector<UnitTask> &units) {
  // Unit r of the n of its kind lies at (2 r + 1) / 2 n of the way.
  struct Placed {
    int64_t numerator, denominator;
    size_t index;
  };
  auto isFixed = [](const UnitTask &unit) {
    return (unit.info & UnitTask::kFixedArea) != 0;
  };
  std::array<int64_t, 256> count = {}, seen = {};
  for (const UnitTask &unit : units)
    if (!isFixed(unit))
      ++count[unit.info & 0xff];
  std::vector<Placed> placed;
  for (size_t i = 0; i < units.size(); ++i) {
    uint32_t kind = units[i].info & 0xff;
    if (!isFixed(units[i]))
      placed.push_back({2 * seen[kind]++ + 1, 2 * count[kind], i});
  }
  std::sort(placed.begin(), placed.end(), [](const Placed &a, const Placed &b) {
    int64_t left = a.numerator * b.denominator;
    int64_t right = b.numerator * a.denominator;
    return left != right ? left < right : a.index < b.index;
  });
  std::vector<UnitTask> spread;
  spread.reserve(units.size());
  for (const Placed &place : placed)
    spread.push_back(units[place.index]);
  std::copy_if(units.begin(), units.end(), std::back_inserter(spread), isFixed);
  units = std::move(spread);
}

int64_t pmkvq::rt::unitCost(const UnitTask &unit) {
  UnitKind kind = UnitKind::fromIndex(static_cast<int32_t>(unit.info & 0xff));
  return kind.tokens() * (kind.key + kind.value) / 64;
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

namespace {
/// Units [begin, end) of a pair.
struct Run {
  uint32_t pair;
  size_t begin, end;
};

/// What one row takes, in order.
using RowCut = std::vector<Run>;

/// The cut of all pairs, and what its dearest row costs.
struct Split {
  std::vector<RowCut> rows;
  int64_t dearest = 0;
};

/// Pairs with the cost of every prefix of their units.
class Costs {
public:
  explicit Costs(const std::vector<std::vector<UnitTask>> &pairs) {
    for (const std::vector<UnitTask> &units : pairs) {
      std::vector<int64_t> &sums = prefix_.emplace_back(1, 0);
      for (const UnitTask &unit : units)
        sums.push_back(sums.back() + unitCost(unit));
      total_ += sums.back();
    }
  }

  size_t pairs() const { return prefix_.size(); }
  int64_t total() const { return total_; }
  int64_t of(size_t pair) const { return prefix_[pair].back(); }
  int64_t of(const Run &run) const {
    return prefix_[run.pair][run.end] - prefix_[run.pair][run.begin];
  }
  size_t units(size_t pair) const { return prefix_[pair].size() - 1; }

  /// The first unit of a pair at which at least `cost` lies behind.
  size_t unitAt(size_t pair, int64_t cost) const {
    const std::vector<int64_t> &sums = prefix_[pair];
    return static_cast<size_t>(
        std::lower_bound(sums.begin(), sums.end(), cost) - sums.begin());
  }

private:
  std::vector<std::vector<int64_t>> prefix_;
  int64_t total_ = 0;
};
} // namespace

static void finish(const Costs &costs, Split &split) {
  split.rows.erase(
      std::remove_if(split.rows.begin(), split.rows.end(),
                     [](const RowCut &row) { return row.empty(); }),
      split.rows.end());
  for (const RowCut &row : split.rows) {
    int64_t cost = 0;
    for (const Run &run : row)
      cost += costs.of(run);
    split.dearest = std::max(split.dearest, cost);
  }
}

/// As many rows for every pair, or as many pairs for every row.
static Split splitAligned(const Costs &costs, int64_t blocks) {
  Split split;
  auto pairs = static_cast<int64_t>(costs.pairs());
  int64_t rowsPerPair = std::max<int64_t>(1, blocks / pairs);
  int64_t pairsPerRow = (pairs + blocks - 1) / blocks;
  for (size_t pair = 0; pair < costs.pairs(); ++pair) {
    if (rowsPerPair == 1 && pair % static_cast<size_t>(pairsPerRow) != 0) {
      split.rows.back().push_back(
          {static_cast<uint32_t>(pair), 0, costs.units(pair)});
      continue;
    }
    size_t begin = 0;
    for (int64_t row = 1; row <= rowsPerPair; ++row) {
      size_t end = costs.unitAt(pair, costs.of(pair) * row / rowsPerPair);
      split.rows.emplace_back();
      if (begin < end)
        split.rows.back().push_back({static_cast<uint32_t>(pair), begin, end});
      begin = end;
    }
  }
  finish(costs, split);
  return split;
}

/// All units, one pair after the other, in rows of equal cost.
static Split splitEvenly(const Costs &costs, int64_t blocks) {
  Split split;
  split.rows.resize(static_cast<size_t>(blocks));
  int64_t before = 0;
  int64_t row = 0;
  for (size_t pair = 0; pair < costs.pairs(); ++pair) {
    for (size_t begin = 0; begin < costs.units(pair); ++row) {
      // RowCut r ends at the first unit with (r + 1) / blocks of all cost
      // behind.
      int64_t limit = costs.total() * (row + 1) / blocks - before;
      size_t end = limit >= costs.of(pair) ? costs.units(pair)
                                           : costs.unitAt(pair, limit);
      if (begin < end)
        split.rows[static_cast<size_t>(row)].push_back(
            {static_cast<uint32_t>(pair), begin, end});
      begin = std::max(begin, end);
      // The row may go on in the next pair.
      if (begin == costs.units(pair) && limit > costs.of(pair))
        break;
    }
    before += costs.of(pair);
  }
  finish(costs, split);
  return split;
}

/// Partial results of shared pairs, numbered; [pair], {first, shares}.
static std::vector<std::pair<uint32_t, uint16_t>>
numberPartials(const Split &split, size_t pairs, int64_t &count) {
  std::vector<std::pair<uint32_t, uint16_t>> numbered(pairs);
  for (const RowCut &row : split.rows)
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
static int64_t
countEarlyUnits(const RowCut &row,
                const std::vector<std::vector<UnitTask>> &pairs) {
  int64_t early = 0;
  for (const Run &run : row)
    for (size_t i = run.begin; i < run.end; ++i, ++early)
      if (pairs[run.pair][i].info & UnitTask::kFixedArea)
        return early;
  return early;
}

/// Sizes of the rows; bytes are allocated, and zero.
static Status layOut(const Split &split, DeviceWorkList &list) {
  size_t segments = 0;
  int64_t units = 0;
  for (const RowCut &row : split.rows) {
    segments = std::max(segments, row.size());
    units = std::max(units, countUnits(row));
  }
  auto bytes =
      static_cast<int64_t>(sizeof(WorkHeader)) +
      static_cast<int64_t>(segments * sizeof(WorkSegment)) +
      (units + kUnitTaskPadding) * static_cast<int64_t>(sizeof(UnitTask));
  // Rows begin at lines of the cache.
  bytes = (bytes + 127) / 128 * 128;
  if (bytes > std::numeric_limits<uint32_t>::max())
    return {StatusCode::InvalidArgument,
            "a row of the work list takes " + std::to_string(bytes) +
                " bytes, expected below 4 GiB; use more thread blocks"};
  list.rows = static_cast<int32_t>(split.rows.size());
  list.rowBytes = static_cast<uint32_t>(bytes);
  list.segmentsPerRow = static_cast<uint32_t>(segments);
  list.bytes.assign(split.rows.size() * static_cast<size_t>(bytes), 0);
  return {};
}

Result<DeviceWorkList>
pmkvq::rt::buildDeviceWorkList(const std::vector<std::vector<UnitTask>> &pairs,
                               int32_t blocks) {
  constexpr int32_t maxBlocks = std::numeric_limits<uint16_t>::max();
  if (blocks < 1 || blocks > maxBlocks)
    return Status(StatusCode::InvalidArgument,
                  "expected 1 to " + std::to_string(maxBlocks) +
                      " thread blocks, got " + std::to_string(blocks));
  for (size_t pair = 0; pair < pairs.size(); ++pair)
    if (pairs[pair].empty())
      return Status(StatusCode::InvalidArgument,
                    "pair " + std::to_string(pair) +
                        " has no units: attention needs at least one token");
  DeviceWorkList list;
  if (pairs.empty())
    return list;
  Costs costs(pairs);
  Split split = splitEvenly(costs, blocks);
  Split aligned = splitAligned(costs, blocks);
  // The dearest row decides; 5 % is less than a second merge costs.
  if (aligned.dearest * 95 <= split.dearest * 100) {
    split = std::move(aligned);
    list.aligned = true;
  }
  if (Status status = layOut(split, list); !status.ok())
    return status;
  auto partials = numberPartials(split, pairs.size(), list.partials);
  std::vector<uint16_t> seen(pairs.size());
  for (size_t r = 0; r < split.rows.size(); ++r) {
    const RowCut &row = split.rows[r];
    uint8_t *at = list.bytes.data() + r * list.rowBytes;
    WorkHeader header = {static_cast<uint32_t>(row.size()),
                         static_cast<uint32_t>(countUnits(row)),
                         static_cast<uint32_t>(countEarlyUnits(row, pairs)), 0};
    std::memcpy(at, &header, sizeof(header));
    uint8_t *segmentAt = at + sizeof(WorkHeader);
    uint8_t *unitAt = segmentAt + list.segmentsPerRow * sizeof(WorkSegment);
    for (const Run &run : row) {
      auto [first, shares] = partials[run.pair];
      WorkSegment segment = {run.pair,
                             static_cast<uint32_t>(run.end - run.begin),
                             seen[run.pair]++, shares, first};
      std::memcpy(segmentAt, &segment, sizeof(segment));
      segmentAt += sizeof(segment);
      size_t bytes = (run.end - run.begin) * sizeof(UnitTask);
      std::memcpy(unitAt, pairs[run.pair].data() + run.begin, bytes);
      unitAt += bytes;
    }
  }
  return list;
}
