//===- Prompts.h - Prompts as token ids -------------------------*- C++ -*-===//
//
// Reads what --prompt, --prompt-tokens or --prompts hold and checks it against
// the model.  Neighbours: Text.h, RunOptions.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_PROMPTS_H
#define PMKVQ_TOOLS_RUN_RUN_PROMPTS_H

#include "run/RunOptions.h"
#include "run/Text.h"

namespace pmkvq::run {

/// What prompts and tokens have to do with a model.
struct ModelFacts {
  /// The file that says so, for messages.
  std::string path;
  int64_t vocabSize = 0;
  /// Tokens that a sequence may have.
  int64_t maxPositions = 0;
  /// Tokens that end a text.
  std::vector<int32_t> stopTokens;
};

using Prompts = std::vector<std::vector<int32_t>>;

/// The prompts in order, each with at least one token.
///
/// Errors: the option or the file and line, and the offending value.
rt::Result<Prompts> readPrompts(const RunOptions &options,
                                const ModelFacts &model, TextServer &text);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_PROMPTS_H
