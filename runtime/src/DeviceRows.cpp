//===- DeviceRows.cpp - Units of all pairs cut into rows ------------------===//
//
// Neighbours: DeviceRows.h.
//
//===----------------------------------------------------------------------===//

#include "DeviceRows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

using namespace pmkvq::rt;

static UnitKind kindOf(const UnitTask &unit) {
  return UnitKind::fromIndex(static_cast<int32_t>(unit.info & 0xff));
}

static int64_t sumOfSides(const UnitTask &unit, const UnitCosts &costs,
                          const std::array<int64_t, 4> &token) {
  UnitKind kind = kindOf(unit);
  int64_t tokens = costs.unitTokens ? costs.unitTokens : kind.tokens();
  int64_t sum = 0;
  for (Part part : {kKey, kValue}) {
    int64_t side = token[static_cast<size_t>(ladderIndex(kind.level(part)))];
    // What falls is written at half its bytes.
    sum += (unit.info & UnitTask::falls(part)) != 0 ? side + side / 2 : side;
  }
  return tokens * sum;
}

static bool fallsAtAll(const UnitTask &unit) {
  return (unit.info & (UnitTask::falls(kKey) | UnitTask::falls(kValue))) != 0;
}

int64_t pmkvq::rt::unitCost(const UnitTask &unit, const UnitCosts &costs) {
  return sumOfSides(unit, costs, costs.token);
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

namespace {
/// Pairs with the cost of every prefix of their units.
class Prefixes {
public:
  Prefixes(const std::vector<std::vector<UnitTask>> &pairs,
           const UnitCosts &costs)
      : costs_(costs) {
    for (const std::vector<UnitTask> &units : pairs) {
      std::vector<int64_t> &sums = prefix_.emplace_back(1, 0);
      for (const UnitTask &unit : units)
        sums.push_back(sums.back() + unitCost(unit, costs));
    }
  }

  const UnitCosts &costs() const { return costs_; }
  size_t pairs() const { return prefix_.size(); }
  size_t units(size_t pair) const { return prefix_[pair].size() - 1; }

  /// The cost of a segment.
  int64_t of(const Run &run) const {
    const std::vector<int64_t> &sums = prefix_[run.pair];
    return costs_.segment + sums[run.end] - sums[run.begin];
  }
  Run whole(size_t pair) const {
    return {static_cast<uint32_t>(pair), 0, units(pair)};
  }
  /// The longest segment from `begin` on that costs at most `limit`, maybe
  /// empty.
  Run within(size_t pair, size_t begin, int64_t limit) const {
    const std::vector<int64_t> &sums = prefix_[pair];
    int64_t most = sums[begin] + limit - costs_.segment;
    auto end = std::upper_bound(sums.begin() + static_cast<ptrdiff_t>(begin),
                                sums.end(), most);
    auto count = static_cast<size_t>(end - sums.begin());
    return {static_cast<uint32_t>(pair), begin, std::max(count, begin + 1) - 1};
  }
  /// The first unit at which `part` of `parts` of a pair lies behind.
  size_t cutAt(size_t pair, int64_t part, int64_t parts) const {
    const std::vector<int64_t> &sums = prefix_[pair];
    int64_t cost =
        sums.back() / parts * part + sums.back() % parts * part / parts;
    return static_cast<size_t>(
        std::lower_bound(sums.begin(), sums.end(), cost) - sums.begin());
  }

private:
  const UnitCosts &costs_;
  std::vector<std::vector<int64_t>> prefix_;
};

/// When a row ends within a pair.
enum class Cut {
  /// When it is full.
  Anywhere,
  /// The same, but not if all of the pair fits into the next one.
  LongPairs,
  Never
};

/// A cut of all pairs, and when the last row ends.
struct Split {
  std::vector<RowCut> rows;
  int64_t end = 0;
};
} // namespace

/// Rows in the order of pairs that cost at most `limit`; none if there would be
/// more than `blocks`.
static std::optional<std::vector<RowCut>>
fillRows(const Prefixes &prefixes, size_t blocks, int64_t limit, Cut cut) {
  std::vector<RowCut> rows(1);
  int64_t room = limit;
  for (size_t pair = 0; pair < prefixes.pairs(); ++pair) {
    const size_t units = prefixes.units(pair);
    const bool fits = prefixes.of(prefixes.whole(pair)) <= limit;
    if (!fits && cut == Cut::Never)
      return std::nullopt;
    for (size_t begin = 0; begin < units;) {
      Run run = prefixes.within(pair, begin, room);
      size_t count = run.end - begin;
      // A segment of less than a unit a worker costs more than it does.
      bool waits = run.end < units && !rows.back().empty() &&
                   (count < static_cast<size_t>(prefixes.costs().workers) ||
                    (begin == 0 && fits && cut != Cut::Anywhere));
      if (!waits && count == 0)
        return std::nullopt;
      if (!waits) {
        rows.back().push_back(run);
        room -= prefixes.of(run);
        begin = run.end;
      }
      if (begin == units)
        break;
      if (rows.size() == blocks)
        return std::nullopt;
      rows.emplace_back();
      room = limit;
    }
  }
  return rows;
}

/// When a split ends: with its dearest row, or later if pairs are shared.
static Split finish(const Prefixes &prefixes, std::vector<RowCut> rows) {
  Split split;
  std::vector<int64_t> shares(prefixes.pairs());
  for (const RowCut &row : rows) {
    int64_t cost = 0;
    for (const Run &run : row) {
      cost += prefixes.of(run);
      ++shares[run.pair];
    }
    split.end = std::max(split.end, cost);
  }
  const UnitCosts &costs = prefixes.costs();
  if (int64_t most = *std::max_element(shares.begin(), shares.end()); most > 1)
    split.end += costs.merge + costs.share * most;
  split.rows = std::move(rows);
  return split;
}

/// The lowest limit that `blocks` rows allow.
static Split fillEvenly(const Prefixes &prefixes, size_t blocks, Cut cut) {
  // One row always takes all.
  int64_t low = 0, high = 0;
  for (size_t pair = 0; pair < prefixes.pairs(); ++pair)
    high += prefixes.of(prefixes.whole(pair));
  std::optional<std::vector<RowCut>> best =
      fillRows(prefixes, blocks, high, cut);
  while (low + 1 < high) {
    int64_t middle = low + (high - low) / 2;
    auto rows = fillRows(prefixes, blocks, middle, cut);
    (rows ? high : low) = middle;
    if (rows)
      best = std::move(rows);
  }
  // Fewer segments, if they cost no time.
  if (cut == Cut::Anywhere)
    if (auto rows = fillRows(prefixes, blocks, high, Cut::LongPairs))
      best = std::move(rows);
  return finish(prefixes, std::move(*best));
}

/// The shares of a pair, of the mean cost of all, at which a share fewer would
/// take as much longer as merging it does.
static int64_t cheapestShares(const Prefixes &prefixes) {
  if (prefixes.costs().share == 0)
    return std::numeric_limits<int64_t>::max();
  int64_t units = 0;
  for (size_t pair = 0; pair < prefixes.pairs(); ++pair)
    units += prefixes.of(prefixes.whole(pair)) - prefixes.costs().segment;
  const auto mean =
      static_cast<double>(units) / static_cast<double>(prefixes.pairs());
  const double shares =
      std::sqrt(mean / static_cast<double>(prefixes.costs().share));
  return std::max(int64_t{1}, static_cast<int64_t>(std::llround(shares)));
}

/// As many rows for every pair.
static Split alignRows(const Prefixes &prefixes, int64_t rowsPerPair) {
  std::vector<RowCut> rows;
  for (size_t pair = 0; pair < prefixes.pairs(); ++pair) {
    size_t begin = 0;
    for (int64_t row = 1; row <= rowsPerPair; ++row) {
      size_t end = prefixes.cutAt(pair, row, rowsPerPair);
      if (begin < end)
        rows.push_back({{static_cast<uint32_t>(pair), begin, end}});
      begin = end;
    }
  }
  return finish(prefixes, std::move(rows));
}

std::vector<RowCut>
pmkvq::rt::cutRows(const std::vector<std::vector<UnitTask>> &pairs,
                   size_t blocks, const UnitCosts &costs) {
  Prefixes prefixes(pairs, costs);
  // Fewest segments first.  A few idle multiprocessors leave their bandwidth to
  // the others: rows that seem 5 % shorter are not.
  Split best = fillEvenly(prefixes, blocks, Cut::Never);
  auto take = [&](Split other) {
    if (other.end / 95 < best.end / 100)
      best = std::move(other);
  };
  if (pairs.size() <= blocks) {
    auto most = static_cast<int64_t>(blocks / pairs.size());
    take(alignRows(prefixes, most));
    if (int64_t fewer = cheapestShares(prefixes); fewer < most)
      take(alignRows(prefixes, fewer));
  }
  take(fillEvenly(prefixes, blocks, Cut::Anywhere));
  return std::move(best.rows);
}

//===----------------------------------------------------------------------===//
// Warps
//===----------------------------------------------------------------------===//

std::vector<size_t> pmkvq::rt::dealToWarps(const UnitTask *units, size_t count,
                                           const UnitCosts &costs) {
  std::vector<size_t> dealt(count);
  std::iota(dealt.begin(), dealt.end(), size_t{0});
  auto isFixed = [](const UnitTask &unit) {
    return (unit.info & UnitTask::kFixedArea) != 0;
  };
  auto pages =
      static_cast<size_t>(std::find_if(units, units + count, isFixed) - units);
  std::vector<int64_t> work(pages);
  std::transform(units, units + pages, work.begin(), [&](const UnitTask &unit) {
    return sumOfSides(unit, costs, costs.work);
  });
  std::vector<size_t> order(pages);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return work[a] != work[b] ? work[a] > work[b] : a < b;
  });
  // A warp has every kDecodeWarps-th place of the run.
  struct Warp {
    size_t places = 0;
    int64_t work = 0;
    std::vector<size_t> units;
  };
  std::array<Warp, kDecodeWarps> warps;
  for (size_t first = 0; first < kDecodeWarps; ++first)
    warps[first].places = (pages + kDecodeWarps - 1 - first) / kDecodeWarps;
  // The dearest unit first, to the warp that has least and a place left.
  for (size_t index : order) {
    Warp *least = nullptr;
    for (Warp &warp : warps)
      if (warp.units.size() < warp.places &&
          (!least || warp.work < least->work))
        least = &warp;
    least->units.push_back(index);
    least->work += work[index];
  }
  for (size_t first = 0; first < kDecodeWarps; ++first) {
    // In the order of the list, so that kinds stay mixed in time; but what
    // falls before all else: writes among reads cost memory more than together.
    std::sort(warps[first].units.begin(), warps[first].units.end(),
              [&](size_t a, size_t b) {
                const bool aFalls = fallsAtAll(units[a]);
                return aFalls != fallsAtAll(units[b]) ? aFalls : a < b;
              });
    for (size_t i = 0; i < warps[first].units.size(); ++i)
      dealt[first + i * kDecodeWarps] = warps[first].units[i];
  }
  return dealt;
}
