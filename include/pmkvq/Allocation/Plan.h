//===- Plan.h - Bytes and levels of a run before it runs --------*- C++ -*-===//
//
// Says what a run will take, to the byte, and when its pages fall.  Neighbours:
// Geometry.h and Abi.h have the sizes, Session.h spends them;
// lib/Reference/Planner states the same rules a second time, for the tests.
//
// Mental model.  What a run takes depends on lengths alone, never on a value.
// So a plan is a run of the runtime's own session over a program that computes
// nothing: prompts are cut into the same chunks, windows fill at the same
// moments, the same policy lowers the same pages.  No cost is written twice,
// and a new schedule of the runtime is planned without a line here.
//
// Example: one layer and kv head of head_dim 128 (a block is 4 KiB), one
// sequence of 400 cached tokens: pages of 128 tokens at 129, 257 and 385.  A
// budget with room for 24 blocks: page 0 is written at 16 bits (16 blocks),
// page 0 falls to 8 when page 1 comes (8 + 16), and both new ones are at 8
// after the third (8 + 8 + 8).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_ALLOCATION_PLAN_H
#define PMKVQ_ALLOCATION_PLAN_H

#include "pmkvq_rt/Session.h"

#include <array>
#include <cstdint>
#include <vector>

namespace pmkvq::allocation {

/// What is to run.
struct Workload {
  /// Geometry, parameter bytes, schedule and floors.  Not used: the size of the
  /// vocabulary and the budget.
  rt::ProgramInfo info = {};
  /// What `least_loss` goes by, and how much each page bears of its layer's
  /// losses under any schedule; empty: all pages are alike.
  std::vector<rt::LayerLosses> losses;
  /// The batch: how many sequences of which lengths, and the budget.
  rt::SessionOptions session;
};

/// A number for each layer and part: [layer][part][ladderIndex].
using LevelTable = std::vector<std::array<rt::LevelCounts, rt::kParts>>;
/// Fractions by ladderIndex.
using LevelWeights = std::array<double, rt::kValueLadder.size()>;
/// Fractions for each layer and part: [layer][part][ladderIndex].
using WeightTable = std::vector<std::array<LevelWeights, rt::kParts>>;

struct Plan {
  /// Bytes that the run takes with every page at the floor.
  int64_t minimumBytes = 0;
  /// Bytes by which that exceeds the budget.  If there are any, the run is not
  /// possible and all that follows is empty.
  int64_t missingBytes = 0;
  /// At the end, when every sequence has all its tokens; with the peak.
  rt::CacheBytes bytes;
  /// Pages at the end.
  LevelTable pages;
  /// What of a layer's losses the pages at each level bear, by their shares:
  /// fractions that add up to 1; zeros without pages.
  WeightTable weights;
  /// Tokens that the longest sequence has cached when the first page of a layer
  /// is at a level; -1: none ever is.
  LevelTable firstAt;
  /// Bits an element of all pages at the end, parameters included; 0 without
  /// pages.
  double bitsPerElement = 0;

  bool fits() const { return missingBytes == 0; }
};

/// Bytes that the run takes with every page at the floor: what a budget must at
/// least be.
///
/// Errors: InvalidArgument for sizes out of range or too large to count.
rt::Result<int64_t> minimumBytes(const Workload &workload);

/// The budget that leaves pages `bits` bits an element when every sequence has
/// all its tokens, codes and parameters, and has everything else on top.
///
/// Errors: as minimumBytes.
rt::Result<int64_t> budgetForBits(const Workload &workload, double bits);

/// Pages of all sequences, layers and kv heads at the end.
int64_t countPageHeads(const Workload &workload);

/// New tokens that every sequence can have at most within the budget, at the
/// floor; 0: not even one.  Without a budget, what the positions allow.
int64_t mostNewTokens(const Workload &workload);

/// Plans a run.
///
/// Errors: InvalidArgument for sizes out of range or too large to count, and
/// for a sequence without a prompt; OutOfMemory if the plan itself finds no
/// memory.
rt::Result<Plan> makePlan(const Workload &workload);

} // namespace pmkvq::allocation

#endif // PMKVQ_ALLOCATION_PLAN_H
