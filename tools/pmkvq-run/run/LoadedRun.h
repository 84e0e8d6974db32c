//===- LoadedRun.h - A run of an artifact -----------------------*- C++ -*-===//
//
// What --load does, in a tool with the compiler and in one without.
// Neighbours: pmkvq_rt/Artifact.h, Generate.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_LOADEDRUN_H
#define PMKVQ_TOOLS_RUN_RUN_LOADEDRUN_H

#include "run/CommandLine.h"

namespace pmkvq::run {

/// Reads the options, loads the artifact that --load names and runs it.
///
/// Errors: options that only the compiler can follow, or that contradict the
/// artifact, with both values; those of the artifact and of the run.
rt::Status runArtifact(const CommandLine &line);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_LOADEDRUN_H
