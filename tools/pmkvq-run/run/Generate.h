//===- Generate.h - Prompts in, tokens out ----------------------*- C++ -*-===//
//
// A run, once there is a session.  Neighbours: pmkvq-run.cpp and LoadedRun.cpp
// (who open one), Output.h (what is printed).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_GENERATE_H
#define PMKVQ_TOOLS_RUN_RUN_GENERATE_H

#include "run/Output.h"
#include "run/Prompts.h"
#include <functional>

namespace pmkvq::run {

/// Runs the prompts and prints tokens and summary, with what `checked`, which
/// may be empty, says at the end.
///
/// Errors: those of the session; nobody reads stdout; a file of logits that
/// cannot be written.
rt::Status generateAndPrint(const ModelFacts &model, const Prompts &prompts,
                            const RunOptions &options, rt::Session &session,
                            TextServer &text, Progress &progress,
                            const std::function<CheckedText()> &checked = {});

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_GENERATE_H
