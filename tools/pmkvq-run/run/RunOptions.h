//===- RunOptions.h - What a run is asked for -------------------*- C++ -*-===//
//
// Prompts, budgets and output: what needs no compiler and no model. Neighbours:
// Options.h adds what the compiler wants to know.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_RUNOPTIONS_H
#define PMKVQ_TOOLS_RUN_RUN_RUNOPTIONS_H

#include "pmkvq_rt/Sampling.h"
#include "run/CommandLine.h"
#include <cstdint>
#include <optional>

namespace pmkvq::run {

struct RunOptions {
  enum class Output { Text, JsonLines, Csv };

  // One of these; or none, if only code is asked for.
  std::optional<std::string> prompt;
  std::optional<std::vector<int64_t>> promptTokens;
  std::optional<std::string> promptsFile;

  int64_t maxTokens = 0;
  /// At most one of the two; neither: no budget.
  std::optional<int64_t> budgetBytes;
  std::optional<double> bitsPerElement;

  /// 0: one a core.
  int32_t threads = 0;
  rt::SamplingOptions sampling;
  /// Where the logits of the prompts go; empty: nowhere.
  std::string logitsFile;
  Output output = Output::Text;

  bool hasPrompts() const { return prompt || promptTokens || promptsFile; }
};

/// Prompts and --max-tokens; all may be missing if they are not `required`.
rt::Status readPromptOptions(const CommandLine &line, bool required,
                             RunOptions &options);

/// --kv-budget and --kv-bits.
rt::Status readBudget(const CommandLine &line, RunOptions &options);

rt::Status readSampling(const CommandLine &line, RunOptions &options);

rt::Status readThreads(const CommandLine &line, RunOptions &options);

/// --output and --logits.
rt::Status readOutput(const CommandLine &line, RunOptions &options);

/// All of them, of a run with --load, and that no other option is given.
///
/// Errors: the option, what was expected and what was given.
rt::Result<RunOptions> readLoadOptions(const CommandLine &line);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_RUNOPTIONS_H
