//===- RunOptions.cpp - What a run is asked for ---------------------------===//
//
// Neighbours: RunOptions.h.
//
//===----------------------------------------------------------------------===//

#include "run/RunOptions.h"
#include "run/OptionValues.h"
#include <cstdlib>
#include <limits>

using namespace pmkvq::run;
namespace rt = ::pmkvq::rt;

static rt::Result<std::vector<int64_t>>
readTokenIds(const StringOption &option) {
  std::vector<int64_t> tokens;
  for (const std::string &part : splitList(option)) {
    std::optional<int64_t> token = parseWhole(part);
    if (!token)
      return optionError(option, "token ids like 1,2,3", option);
    tokens.push_back(*token);
  }
  return tokens;
}

rt::Status pmkvq::run::readPromptOptions(const CommandLine &line, bool required,
                                         RunOptions &options) {
  if (line.maxTokens.given()) {
    rt::Result<int64_t> count =
        readCount(line.maxTokens, std::numeric_limits<int32_t>::max());
    if (!count.ok())
      return count.status();
    options.maxTokens = *count;
  }
  int given =
      line.prompt.given() + line.promptTokens.given() + line.prompts.given();
  // Without prompts a program can be shown, but nothing can be said of bytes.
  if (!required && !given && !line.maxTokens.given())
    return rt::Status();
  if (given != 1)
    return refusal(std::string("expected one of --prompt, --prompt-tokens and "
                               "--prompts, got ") +
                   (given ? "several" : "none"));
  if (line.prompt.given())
    options.prompt = line.prompt.text;
  if (line.prompts.given())
    options.promptsFile = line.prompts.text;
  if (line.promptTokens.given()) {
    rt::Result<std::vector<int64_t>> tokens = readTokenIds(line.promptTokens);
    if (!tokens.ok())
      return tokens.status();
    options.promptTokens = std::move(*tokens);
  }
  if (!line.maxTokens.given())
    return refusal(
        "expected --max-tokens=N, the tokens to generate for each prompt");
  return rt::Status();
}

rt::Status pmkvq::run::readBudget(const CommandLine &line,
                                  RunOptions &options) {
  if (line.kvBudget.given() && line.kvBits.given())
    return refusal("expected one of --kv-budget and --kv-bits, got both");
  if (line.kvBudget.given()) {
    options.budgetBytes = parseSize(line.kvBudget);
    if (!options.budgetBytes)
      return optionError(line.kvBudget,
                         "a size of at least one byte, like 300000, 3500KiB, "
                         "2MiB or 1.5GB",
                         line.kvBudget);
  }
  if (line.kvBits.given()) {
    options.bitsPerElement = parseBits(line.kvBits);
    if (!options.bitsPerElement)
      return optionError(line.kvBits, "a number above 0, at most 32",
                         line.kvBits);
  }
  return rt::Status();
}

/// A whole number from 0 to 2^64 - 1.
static std::optional<uint64_t> parseSeed(const std::string &text) {
  if (text.empty() || text.find_first_not_of("0123456789") != text.npos)
    return std::nullopt;
  errno = 0;
  uint64_t seed = std::strtoull(text.c_str(), nullptr, 10);
  return errno ? std::nullopt : std::optional(seed);
}

rt::Status pmkvq::run::readSampling(const CommandLine &line,
                                    RunOptions &options) {
  rt::SamplingOptions &sampling = options.sampling;
  if (rt::Status s = readNumber(line.temperature, sampling.temperature);
      !s.ok())
    return s;
  if (rt::Status s = readNumber(line.topP, sampling.topP); !s.ok())
    return s;
  if (line.seed.given()) {
    std::optional<uint64_t> seed = parseSeed(line.seed);
    if (!seed)
      return optionError(line.seed, "a whole number from 0 to 2^64 - 1",
                         line.seed);
    sampling.seed = *seed;
  }
  rt::Status status = rt::checkSampling(sampling);
  if (!status.ok())
    return refusal(
        (sampling.temperature < 0 ? "--temperature: " : "--top-p: ") +
        status.message());
  return status;
}

rt::Status pmkvq::run::readThreads(const CommandLine &line,
                                   RunOptions &options) {
  if (!line.threads.given())
    return rt::Status();
  rt::Result<int64_t> count = readCount(line.threads, 1024);
  if (count.ok())
    options.threads = static_cast<int32_t>(*count);
  return count.status();
}

rt::Status pmkvq::run::readOutput(const CommandLine &line,
                                  RunOptions &options) {
  rt::Result<std::string> form = readChoice(line.output);
  if (!form.ok())
    return form.status();
  if (*form == "csv")
    return optionError(line.output, "text or jsonl with a MODEL", line.output);
  options.output = *form == "jsonl" ? RunOptions::Output::JsonLines
                                    : RunOptions::Output::Text;
  if (line.logits.given() && line.logits.empty())
    return optionError(line.logits, "a file", line.logits);
  options.logitsFile = line.logits.text;
  return rt::Status();
}

rt::Result<RunOptions> pmkvq::run::readLoadOptions(const CommandLine &line) {
  if (line.load.empty())
    return optionError(line.load, "a file", line.load);
  if (!line.models.empty())
    return refusal("expected one of MODEL and --load, got '" +
                   line.models.front() + "' and '" + line.load.text + "'");
  for (const OptionGroup &group : line.groups)
    for (const Option *option : group.options)
      if (option->given() && option->use == Option::Use::Compiler)
        return refusal("expected no " +
                       std::string(option->name.size() == 1 ? "-" : "--") +
                       option->name +
                       " with --load: an artifact is compiled already");
  RunOptions options;
  rt::Status status = readPromptOptions(line, /*required=*/true, options);
  for (auto *read : {readBudget, readSampling, readThreads, readOutput})
    if (status.ok())
      status = read(line, options);
  if (!status.ok())
    return status;
  return options;
}
