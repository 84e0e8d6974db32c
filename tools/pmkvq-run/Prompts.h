//===- Prompts.h - Prompts as token ids -------------------------*- C++ -*-===//
//
// Reads what --prompt, --prompt-tokens or --prompts hold and checks it against
// the model.  Neighbours: Python.h (text), Options.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_PROMPTS_H
#define PMKVQ_TOOLS_RUN_PROMPTS_H

#include "Options.h"
#include "Python.h"
#include "pmkvq/Import/ModelConfig.h"

namespace pmkvq::run {

/// The prompts in order, each with at least one token.
///
/// Errors: the option or the file and line, and the offending value.
llvm::Expected<std::vector<std::vector<int32_t>>>
readPrompts(const Options &options, const mlir::pmkvq::ModelConfig &config,
            TextServer &text);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_PROMPTS_H
