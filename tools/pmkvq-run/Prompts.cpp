//===- Prompts.cpp - Prompts as token ids ---------------------------------===//
//
// Neighbours: Prompts.h.
//
//===----------------------------------------------------------------------===//

#include "Prompts.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/LineIterator.h"
#include "llvm/Support/MemoryBuffer.h"
#include <nlohmann/json.hpp>

using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;
using mlir::pmkvq::ModelConfig;
using nlohmann::json;

namespace {
/// Reads prompts of one source; `where` names the place in every error.
class PromptReader {
public:
  PromptReader(const ModelConfig &config, TextServer &text,
               int64_t maxNewTokens)
      : config(config), text(text), maxNewTokens(maxNewTokens) {}

  Error addTokens(const Twine &where, llvm::ArrayRef<int64_t> tokens);
  Error addText(const Twine &where, StringRef prompt);
  Error addJson(const Twine &where, StringRef line);

  std::vector<std::vector<int32_t>> prompts;

private:
  Error fail(const Twine &where, const Twine &message) {
    return llvm::createStringError(where + ": " + message);
  }

  const ModelConfig &config;
  TextServer &text;
  int64_t maxNewTokens;
};
} // namespace

Error PromptReader::addTokens(const Twine &where,
                              llvm::ArrayRef<int64_t> tokens) {
  if (tokens.empty())
    return fail(where, "expected at least one token, got none");
  for (int64_t token : tokens)
    if (token < 0 || token >= config.vocabSize)
      return fail(where, "expected token ids from 0 to " +
                             Twine(config.vocabSize - 1) + ", got " +
                             Twine(token));
  // The last generated token is never cached.
  int64_t count = static_cast<int64_t>(tokens.size());
  int64_t cached = count + maxNewTokens - 1;
  if (cached > config.maxPositions)
    return fail(where, "expected at most max_position_embeddings " +
                           Twine(config.maxPositions) + " of " + config.path +
                           ", got " + Twine(count) + " tokens and " +
                           Twine(maxNewTokens) +
                           " by --max-tokens, which take " + Twine(cached) +
                           " positions");
  prompts.emplace_back(tokens.begin(), tokens.end());
  return Error::success();
}

Error PromptReader::addText(const Twine &where, StringRef prompt) {
  if (prompt.empty())
    return fail(where, "expected a text, got an empty one");
  Expected<std::vector<int64_t>> tokens = text.encode(prompt);
  if (!tokens)
    return fail(where, llvm::toString(tokens.takeError()));
  return addTokens(where, *tokens);
}

Error PromptReader::addJson(const Twine &where, StringRef line) {
  json object = json::parse(line.begin(), line.end(), nullptr,
                            /*allow_exceptions=*/false);
  if (!object.is_object() || !object.contains("prompt"))
    return fail(where, "expected a JSON object with \"prompt\"");
  const json &prompt = object["prompt"];
  if (prompt.is_string())
    return addText(where, prompt.get_ref<const std::string &>());
  if (!prompt.is_array())
    return fail(where, "prompt: expected a text or a list of token ids");
  std::vector<int64_t> tokens;
  for (const json &token : prompt) {
    if (!token.is_number_integer())
      return fail(where, "prompt: expected whole numbers as token ids, got " +
                             (token.is_array() ? "a list"
                              : token.is_object()
                                  ? "an object"
                                  : token.dump(-1, ' ', true).substr(0, 40)));
    // What does not fit is no token id either.
    bool fits = !token.is_number_unsigned() ||
                token.get<uint64_t>() <=
                    static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    tokens.push_back(fits ? token.get<int64_t>()
                          : std::numeric_limits<int64_t>::max());
  }
  return addTokens(where, tokens);
}

static Error readFile(StringRef file, PromptReader &reader) {
  auto buffer = llvm::MemoryBuffer::getFile(file);
  if (std::error_code error = buffer.getError())
    return llvm::createStringError(file + ": " + error.message());
  for (llvm::line_iterator line(**buffer, /*SkipBlanks=*/true);
       !line.is_at_end(); ++line) {
    if (line->trim().empty())
      continue;
    std::string where = (file + ": line " + Twine(line.line_number())).str();
    if (Error error = reader.addJson(where, *line))
      return error;
  }
  if (reader.prompts.empty())
    return llvm::createStringError(file +
                                   ": expected a prompt a line, got none");
  return Error::success();
}

Expected<std::vector<std::vector<int32_t>>>
pmkvq::run::readPrompts(const Options &options, const ModelConfig &config,
                        TextServer &text) {
  PromptReader reader(config, text, options.maxTokens);
  Error error = Error::success();
  if (options.promptTokens)
    error = reader.addTokens("--prompt-tokens", *options.promptTokens);
  else if (options.prompt)
    error = reader.addText("--prompt", *options.prompt);
  else
    error = readFile(*options.promptsFile, reader);
  if (error)
    return error;
  return std::move(reader.prompts);
}
