//===- Levels.cpp - Which layer gets which bits ---------------------------===//
//
// Dynamic programming over blocks, and the hull that prices them.  Neighbours:
// Levels.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Allocation/Levels.h"

#include <algorithm>
#include <cassert>
#include <limits>

using namespace pmkvq;
using namespace pmkvq::allocation;

static constexpr double kNever = std::numeric_limits<double>::infinity();

static bool isAllowed(const PartChoice &choice, int32_t bits) {
  return bits >= choice.lowest && bits <= choice.highest;
}

/// All parts, layer by layer.
static std::vector<PartChoice> flatten(const Choices &choices) {
  std::vector<PartChoice> parts;
  for (const auto &layer : choices)
    parts.insert(parts.end(), layer.begin(), layer.end());
  return parts;
}

static int64_t lowestBlocks(const std::vector<PartChoice> &parts) {
  int64_t blocks = 0;
  for (const PartChoice &part : parts)
    blocks += rt::blocksAtLevel(part.lowest);
  return blocks;
}

//===----------------------------------------------------------------------===//
// The integer program
//===----------------------------------------------------------------------===//

namespace {
/// Least losses by blocks, part after part.
class Table {
public:
  Table(const std::vector<PartChoice> &parts, int64_t blocks)
      : loss(blocks + 1, kNever) {
    loss[0] = 0;
    for (const PartChoice &part : parts)
      add(part);
  }

  /// Levels of the parts with the least loss.
  std::vector<int32_t> best() const {
    // The first of equals has fewest blocks.
    int64_t at = std::min_element(loss.begin(), loss.end()) - loss.begin();
    std::vector<int32_t> levels(taken.size());
    for (size_t i = taken.size(); i-- > 0;) {
      levels[i] = taken[i][at];
      at -= rt::blocksAtLevel(levels[i]);
    }
    return levels;
  }

private:
  void add(const PartChoice &part) {
    std::vector<double> next(loss.size(), kNever);
    std::vector<uint8_t> level(loss.size(), 0);
    for (int32_t bits : rt::kLadder) {
      if (!isAllowed(part, bits))
        continue;
      int64_t cost = rt::blocksAtLevel(bits);
      double own = part.loss[rt::ladderIndex(bits)];
      for (int64_t b = cost; b < static_cast<int64_t>(loss.size()); ++b)
        if (loss[b - cost] + own < next[b]) {
          next[b] = loss[b - cost] + own;
          level[b] = static_cast<uint8_t>(bits);
        }
    }
    loss = std::move(next);
    taken.push_back(std::move(level));
  }

  /// [blocks]: least loss of the parts so far with exactly so many.
  std::vector<double> loss;
  /// [part][blocks]: the part's level there.
  std::vector<std::vector<uint8_t>> taken;
};
} // namespace

rt::Result<Levels> allocation::allocateLevels(const Choices &choices,
                                              int64_t blocks) {
  std::vector<PartChoice> parts = flatten(choices);
  int64_t least = lowestBlocks(parts);
  if (least > blocks)
    return rt::Status(rt::StatusCode::OutOfMemory,
                      "a page of every layer takes at least " +
                          std::to_string(least) +
                          " blocks at the lowest levels, the budget holds " +
                          std::to_string(blocks));
  int64_t most = int64_t(rt::kMaxBlocksPerPart) * parts.size();
  std::vector<int32_t> flat = Table(parts, std::min(blocks, most)).best();
  Levels levels(choices.size());
  for (size_t i = 0; i < flat.size(); ++i)
    levels[i / rt::kParts][i % rt::kParts] = flat[i];
  return levels;
}

int64_t allocation::countBlocks(const Levels &levels) {
  int64_t blocks = 0;
  for (const auto &layer : levels)
    for (int32_t bits : layer)
      blocks += rt::blocksAtLevel(bits);
  return blocks;
}

double allocation::sumLosses(const Choices &choices, const Levels &levels) {
  assert(choices.size() == levels.size());
  double sum = 0;
  for (size_t layer = 0; layer < levels.size(); ++layer)
    for (int32_t part = 0; part < rt::kParts; ++part)
      sum += choices[layer][part].loss[rt::ladderIndex(levels[layer][part])];
  return sum;
}

LossTable allocation::weighLosses(const Choices &choices,
                                  const WeightTable &weights) {
  assert(choices.size() == weights.size());
  LossTable table(weights.size());
  for (size_t layer = 0; layer < weights.size(); ++layer)
    for (size_t part = 0; part < rt::kParts; ++part)
      for (size_t i = 0; i < rt::kValueLadder.size(); ++i)
        table[layer][part] +=
            weights[layer][part][i] * choices[layer][part].loss[i];
  return table;
}

//===----------------------------------------------------------------------===//
// The price of a block
//===----------------------------------------------------------------------===//

namespace {
/// A step up on a part's hull.
struct Step {
  int64_t blocks;
  /// Loss that each of them saves.
  double gain;
};
} // namespace

/// Appends the steps of a part's lower convex hull, from its lowest level up.
static void addHull(const PartChoice &part, std::vector<Step> &steps) {
  int32_t at = part.lowest;
  while (at < part.highest) {
    Step best{0, 0};
    int32_t to = at;
    for (int32_t bits = at * 2; bits <= part.highest; bits *= 2) {
      int64_t blocks = rt::blocksAtLevel(bits) - rt::blocksAtLevel(at);
      double gain =
          (part.loss[rt::ladderIndex(at)] - part.loss[rt::ladderIndex(bits)]) /
          static_cast<double>(blocks);
      if (gain > best.gain) {
        best = {blocks, gain};
        to = bits;
      }
    }
    if (to == at)
      return;
    steps.push_back(best);
    at = to;
  }
}

double allocation::shadowPrice(const Choices &choices, int64_t blocks) {
  std::vector<PartChoice> parts = flatten(choices);
  std::vector<Step> steps;
  for (const PartChoice &part : parts)
    addHull(part, steps);
  std::sort(steps.begin(), steps.end(),
            [](const Step &a, const Step &b) { return a.gain > b.gain; });
  int64_t left = blocks - lowestBlocks(parts);
  for (const Step &step : steps) {
    if (step.blocks > left)
      return step.gain;
    left -= step.blocks;
  }
  return 0;
}

//===----------------------------------------------------------------------===//
// Budgets and floors
//===----------------------------------------------------------------------===//

rt::Result<int64_t> allocation::blocksForPages(const Workload &workload) {
  const rt::ProgramInfo &info = workload.info;
  int64_t most = int64_t(info.layers) * rt::kParts * rt::kMaxBlocksPerPart;
  rt::Result<int64_t> minimum = minimumBytes(workload);
  if (!minimum.ok())
    return minimum.status();
  int64_t heads = int64_t(info.layers) * info.kvHeads;
  int64_t pages = countPageHeads(workload) / heads;
  if (pages == 0 || workload.session.budgetBytes <= 0)
    return most;
  int64_t slot =
      int64_t(info.parameterBytes[rt::kKey]) + info.parameterBytes[rt::kValue];
  int64_t others =
      *minimum - pages * rt::floorPagesBytes(info) + pages * heads * slot;
  int64_t left = std::max<int64_t>(0, workload.session.budgetBytes - others);
  return std::min(most,
                  left / (pages * info.kvHeads * rt::blockBytes(info.headDim)));
}

/// A whole number of at most 4 digits at `at`, which moves behind it; -1: none.
static int32_t readNumber(const std::string &text, size_t &at) {
  size_t begin = at;
  int32_t value = 0;
  while (at < text.size() && at - begin < 4 && text[at] >= '0' &&
         text[at] <= '9')
    value = 10 * value + (text[at++] - '0');
  return at == begin ? -1 : value;
}

static bool readSign(const std::string &text, size_t &at, char sign) {
  bool there = at < text.size() && text[at] == sign;
  at += there;
  return there;
}

rt::Result<LayerFloors> allocation::parseLayerFloors(const std::string &text) {
  size_t at = 0;
  LayerFloors read;
  read.first = readNumber(text, at);
  read.last = readSign(text, at, '-') ? readNumber(text, at) : read.first;
  bool whole =
      read.first >= 0 && read.last >= read.first && readSign(text, at, ':');
  read.floor[rt::kKey] = whole ? readNumber(text, at) : 0;
  read.floor[rt::kValue] = whole && readSign(text, at, '+')
                               ? readNumber(text, at)
                               : read.floor[rt::kKey];
  if (!whole || at != text.size() || !rt::isLevel(read.floor[rt::kKey]) ||
      !rt::isLevel(read.floor[rt::kValue]))
    return rt::Status(rt::StatusCode::InvalidArgument,
                      "expected layers and 16, 8, 4 or 2 bits, like 0-3:8, or "
                      "those of keys and values, like 5:4+2, got '" +
                          text + "'");
  return read;
}

void allocation::setFloors(const Levels &levels, rt::ProgramInfo &info) {
  assert(static_cast<size_t>(info.layers) == levels.size());
  for (int32_t part = 0; part < rt::kParts; ++part) {
    int32_t lowest = rt::kLadder.front();
    for (const auto &layer : levels)
      lowest = std::min(lowest, layer[part]);
    info.floor[part] = lowest;
    for (size_t layer = 0; layer < levels.size(); ++layer)
      info.layerFloor[layer][part] =
          levels[layer][part] == lowest
              ? uint8_t(0)
              : static_cast<uint8_t>(levels[layer][part]);
  }
}
