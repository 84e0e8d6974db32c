//===- EmitArtifact.h - A model as one file ---------------------*- C++ -*-===//
//
// What --emit=artifact does.  Neighbours: pmkvq_rt/Artifact.h (the file),
// Loading.h (the same, to be run at once).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_EMITARTIFACT_H
#define PMKVQ_TOOLS_RUN_EMITARTIFACT_H

#include "CachePlan.h"
#include "Loading.h"
#include "pmkvq_rt/Artifact.h"

namespace pmkvq::run {

/// Looks for what only an artifact needs: a place and a linker.
///
/// Errors: why the file cannot be written; no linker.
llvm::Expected<rt::ArtifactWriter> prepareArtifact(const Options &options);

/// Compiles the model, takes its checkpoint, and writes both.
///
/// Errors: those of the compiler, of the weights, of the linker; a disk that is
/// full.
llvm::Error emitArtifact(rt::ArtifactWriter writer, Model &model,
                         const CachePlan &plan, const Options &options,
                         mlir::MLIRContext &context);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_EMITARTIFACT_H
