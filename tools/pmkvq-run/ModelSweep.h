//===- ModelSweep.h - Whole steps of a model, many settings -----*- C++ -*-===//
//
// What --bench=decode and --bench=prefill do with a MODEL.  Neighbours:
// bench/ModelBench.h (the measurements), Bench.h (kernels without a model).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_MODELSWEEP_H
#define PMKVQ_TOOLS_RUN_MODELSWEEP_H

#include "Options.h"
#include "mlir/IR/DialectRegistry.h"

namespace pmkvq::run {

/// Measures every combination of the lists and prints a line for each, as they
/// come; one that fails is reported on stderr and the rest goes on.
///
/// Errors: a model that cannot be opened; how many combinations failed.
llvm::Error runModelBench(const Options &options,
                          const mlir::DialectRegistry &registry);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_MODELSWEEP_H
