//===- Levels.h - Which layer gets which bits -------------------*- C++ -*-===//
//
// The integer program of a plan: levels of every layer's keys and values that
// lose least within a budget.  Neighbours: Plan.h (what a run takes at them),
// lib/Transforms/AllocateBits.cpp and tools/pmkvq-run (who ask),
// python/pmkvq/allocation.py (the same program, solved by HiGHS).
//
// Mental model.  Bytes are blocks: a part at b bits takes b / 2 of them a page,
// of one size in all layers, and everything else takes the same whatever the
// levels.  So the budget is a number of blocks that one page of every layer may
// take together, at most 16 a layer, and exact dynamic programming over it is
// as small as the answer: 2 * layers * 4 levels * blocks steps.
//
// Example: one layer, 5 blocks.  Keys lose 0, 1, 4, 9 and values 0, 1, 2, 3 at
// 16, 8, 4 and 2 bits.  Keys at 8 and values at 2 take 4 + 1 blocks and lose 4;
// any other pair that fits loses more.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_ALLOCATION_LEVELS_H
#define PMKVQ_ALLOCATION_LEVELS_H

#include "pmkvq/Allocation/Plan.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace pmkvq::allocation {

/// What one part of one layer may be at, and what that loses.
struct PartChoice {
  /// By ladderIndex: 16, 8, 4, 2 bits, of values 1; finite.
  std::array<double, rt::kValueLadder.size()> loss = {};
  /// Levels that may be chosen, in bits; 1 is never.
  int32_t lowest = 2;
  int32_t highest = 16;
};

/// [layer][part]
using Choices = std::vector<std::array<PartChoice, rt::kParts>>;
/// A number for each layer and part: [layer][part].
using LossTable = std::vector<std::array<double, rt::kParts>>;
/// [layer][part], in bits.
using Levels = std::vector<std::array<int32_t, rt::kParts>>;

/// The levels that lose least in sum, among those of which one page of every
/// layer takes at most `blocks` blocks; of several the ones with fewest blocks.
///
/// Errors: OutOfMemory if not even the lowest fit, naming both numbers.
rt::Result<Levels> allocateLevels(const Choices &choices, int64_t blocks);

/// What one more block would gain at most, in units of loss: the dual of the
/// budget in the program's linear relaxation; 0 if nothing would gain.
///
/// Shapes: `blocks` holds the lowest levels.
double shadowPrice(const Choices &choices, int64_t blocks);

/// Blocks that one page of every layer takes at these levels.
int64_t countBlocks(const Levels &levels);

/// Sum of the losses at these levels.
double sumLosses(const Choices &choices, const Levels &levels);

/// What each part loses when pages at each level bear these fractions of it.
LossTable weighLosses(const Choices &choices, const WeightTable &weights);

/// Blocks that one page of every layer may take, one kv head's, if all pages of
/// the workload at its end are to fit the budget with everything else; without
/// pages or a budget, what level 16 takes.
///
/// Errors: as minimumBytes.
rt::Result<int64_t> blocksForPages(const Workload &workload);

/// Floors that the user gives some layers.
struct LayerFloors {
  int32_t first = 0;
  int32_t last = 0;
  std::array<int32_t, rt::kParts> floor = {2, 2};
};

/// Reads "0-3:8", floors of both parts, or "5:4+2", of keys and of values.
///
/// Errors: InvalidArgument, with what was expected.
rt::Result<LayerFloors> parseLayerFloors(const std::string &text);

/// Makes `levels` the floors of a program of as many layers.
void setFloors(const Levels &levels, rt::ProgramInfo &info);

} // namespace pmkvq::allocation

#endif // PMKVQ_ALLOCATION_LEVELS_H
