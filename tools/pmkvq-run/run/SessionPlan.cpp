//===- SessionPlan.cpp - Lengths and budgets of a run ---------------------===//
//
// Neighbours: SessionPlan.h.
//
//===----------------------------------------------------------------------===//

#include "run/SessionPlan.h"
#include "run/OptionValues.h"
#include <algorithm>

using namespace pmkvq;
using namespace pmkvq::run;

rt::SessionOptions pmkvq::run::planSession(const RunOptions &options,
                                           const Prompts &prompts) {
  rt::SessionOptions session;
  session.maxSequences = static_cast<int32_t>(prompts.size());
  session.threads = options.threads;
  session.budgetBytes = -1;
  for (const std::vector<int32_t> &prompt : prompts) {
    int64_t tokens = static_cast<int64_t>(prompt.size());
    session.plans.push_back({static_cast<int32_t>(session.plans.size()), tokens,
                             options.maxTokens});
    session.maxTokens =
        std::max(session.maxTokens, tokens + options.maxTokens - 1);
  }
  return session;
}

rt::Result<std::optional<int64_t>>
pmkvq::run::chooseBudget(const RunOptions &options,
                         const allocation::Workload &workload) {
  rt::Result<int64_t> minimum = allocation::minimumBytes(workload);
  if (!minimum.ok())
    return minimum.status();
  std::optional<int64_t> budget = options.budgetBytes;
  if (options.bitsPerElement) {
    rt::Result<int64_t> bytes =
        allocation::budgetForBits(workload, *options.bitsPerElement);
    if (!bytes.ok())
      return bytes.status();
    budget = *bytes;
  }
  if (budget && *budget < *minimum) {
    const int32_t *floor = workload.info.floor;
    const std::string floors =
        rt::layersDiffer(workload.info)
            ? "each layer at its floors (--layer-floors)"
            : "keys at " + std::to_string(floor[rt::kKey]) + " and values at " +
                  std::to_string(floor[rt::kValue]) +
                  " bits (--key-floor, --value-floor)";
    return refusal((options.bitsPerElement ? "--kv-bits: " : "--kv-budget: ") +
                   std::to_string(*minimum - *budget) +
                   " bytes are missing: the sequences to their end take at "
                   "least " +
                   std::to_string(*minimum) + " bytes with " + floors +
                   ", the budget is " + std::to_string(*budget));
  }
  return budget;
}
