//===- CachePlan.h - Formats, levels and bytes of a run ---------*- C++ -*-===//
//
// Turns options into what the compiler and the runtime want to know about the
// caches.  Neighbours: Pipelines.h (PlanOptions), Allocation/Plan.h (what it
// costs).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_CACHEPLAN_H
#define PMKVQ_TOOLS_RUN_CACHEPLAN_H

#include "Options.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Allocation/Levels.h"
#include "pmkvq/Import/ModelConfig.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "run/SessionPlan.h"

namespace pmkvq::run {

struct CachePlan {
  mlir::pmkvq::PlanOptions compiler;
  allocation::Workload workload;
  /// Each layer's floors.
  allocation::Levels levels;
  /// What each layer may be at, and loses there; empty: it is not known.
  allocation::Choices choices;
  /// The same losses as KL, nats a token; empty: it was not measured.
  allocation::Choices divergences;
  /// Whether keys fall with feedback, if they fall below 8 bits.
  bool feedback = false;
  /// In what the plan differs from what divergences are of; empty: in nothing.
  std::string unmeasured;
};

/// Plans the caches of a batch.  Without prompts nothing is said of bytes.
///
/// Errors: a format that does not exist; a layer that does not; a budget that
/// is too small, with the bytes missing; sizes too large to count.
llvm::Expected<CachePlan>
planCaches(const Options &options, const mlir::pmkvq::ModelConfig &config,
           const std::vector<std::vector<int32_t>> &prompts,
           mlir::MLIRContext &context);

/// A runtime's status as an error; it must not be ok.
llvm::Error toError(const rt::Status &status);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_CACHEPLAN_H
