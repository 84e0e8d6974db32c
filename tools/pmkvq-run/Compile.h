//===- Compile.h - From a checkpoint's config to a module -------*- C++ -*-===//
//
// Import and stages, with their diagnostics as errors; and code as text.
// Neighbours: lib/Import, lib/Pipelines, lib/Target.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_COMPILE_H
#define PMKVQ_TOOLS_RUN_COMPILE_H

#include "Options.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"
#include "pmkvq/Import/ModelConfig.h"
#include "pmkvq/Pipelines/Pipelines.h"

namespace pmkvq::run {

/// Imports a model and runs the stages up to `lastStage`, or all.  Writes the
/// module after each of them to `dumpFolder` unless that is empty, and shows it
/// to `afterStage`.
///
/// Errors: what MLIR reports first; a folder that cannot be made.
llvm::Expected<mlir::OwningOpRef<mlir::ModuleOp>> compileModule(
    const mlir::pmkvq::ModelConfig &config,
    const mlir::pmkvq::PlanOptions &plan, llvm::StringRef dumpFolder,
    llvm::StringRef lastStage, mlir::MLIRContext &context,
    llvm::function_ref<void(llvm::StringRef, mlir::ModuleOp)> afterStage = {});

/// What --emit asks for, as text.
llvm::Expected<std::string> emitCode(const Options &options,
                                     const mlir::pmkvq::ModelConfig &config,
                                     const mlir::pmkvq::PlanOptions &plan,
                                     mlir::MLIRContext &context);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_COMPILE_H
