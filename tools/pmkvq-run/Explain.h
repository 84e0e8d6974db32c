//===- Explain.h - A plan in words and tables -------------------*- C++ -*-===//
//
// What --explain prints.  Neighbours: Allocation/Plan.h (the numbers),
// CachePlan.h (what was asked for).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_EXPLAIN_H
#define PMKVQ_TOOLS_RUN_EXPLAIN_H

#include "CachePlan.h"
#include "Options.h"

namespace pmkvq::run {

/// The plan of a run: its bytes by kind, when pages fall, levels at the end,
/// what calibration says it loses, what the budget buys and what one MiB more
/// would buy.
///
/// Errors: sizes that the runtime refuses.
llvm::Expected<std::string> explainPlan(const CachePlan &plan,
                                        const Options &options);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_EXPLAIN_H
