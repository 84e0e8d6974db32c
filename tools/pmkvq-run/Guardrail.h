//===- Guardrail.h - Plans that lose too much -------------------*- C++ -*-===//
//
// Says what a run will lose by its calibration, and refuses one that loses too
// much.  Neighbours: CachePlan.h (the plan), Explain.h (which prints it);
// python/pmkvq/guardrail.py does the same for floors alone.
//
// Mental model.  Calibration measures the KL that each part of each layer
// causes alone, with all of its pages at 8, 4, 2 or 1 bits, and how much of
// that the pages of each kv head and age bear.  A plan's is their sum, each
// part's weighted by what its pages at a level bear when the run ends: pages
// only fall, so that it is the most the run comes to.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_GUARDRAIL_H
#define PMKVQ_TOOLS_RUN_GUARDRAIL_H

#include "CachePlan.h"
#include <optional>

namespace pmkvq::run {

/// Nats a token that a plan may lose unless --max-loss says otherwise;
/// docs/calibration.md has the reason.
inline constexpr double kMaxLoss = 0.1;

/// A loss with three digits: "0.0123".
std::string formatLoss(double loss);

/// KL in nats a token at the end of a run, by its calibration.
struct PredictedLoss {
  allocation::LossTable parts;
  double sum = 0;

  /// "layer 3 keys 0.02, ...", the parts that lose most.
  std::string worst() const;
};

/// What a planned run loses at its end; none if its calibration has no
/// divergences or there is none.
///
/// Errors: the calibration is of other formats or scales than the plan, and
/// pages fall below 16 bits; those of allocation::makePlan.
llvm::Expected<std::optional<PredictedLoss>>
predictLoss(const CachePlan &plan, const Options &options);

/// Refuses a run that loses more than the options allow.
///
/// Errors: the predicted loss, the limit, where most is lost and what to do; a
/// loss that is not known; a limit without divergences to compare with.
llvm::Error checkLoss(const CachePlan &plan, const Options &options);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_GUARDRAIL_H
