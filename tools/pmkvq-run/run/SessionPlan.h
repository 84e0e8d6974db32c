//===- SessionPlan.h - Lengths and budgets of a run -------------*- C++ -*-===//
//
// What the runtime wants to know before it opens a session.  Neighbours:
// CachePlan.h (what the compiler wants to know, too), Allocation/Plan.h
// (bytes).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_SESSIONPLAN_H
#define PMKVQ_TOOLS_RUN_RUN_SESSIONPLAN_H

#include "pmkvq/Allocation/Plan.h"
#include "run/Prompts.h"

namespace pmkvq::run {

/// A session for these prompts, each to --max-tokens; without a budget.
rt::SessionOptions planSession(const RunOptions &options,
                               const Prompts &prompts);

/// The budget in bytes, if there is one.  With --kv-bits it follows from the
/// prompts: all pages that the batch has at its full length, at that many bits
/// an element, and everything else on top.  The runtime would refuse one that
/// is too small as well, but only after the compiler's work.
///
/// Errors: a budget that is too small, with the bytes missing; sizes too large
/// to count.
rt::Result<std::optional<int64_t>>
chooseBudget(const RunOptions &options, const allocation::Workload &workload);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_SESSIONPLAN_H
