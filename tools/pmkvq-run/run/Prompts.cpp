//===- Prompts.cpp - Prompts as token ids ---------------------------------===//
//
// Neighbours: Prompts.h.
//
//===----------------------------------------------------------------------===//

#include "run/Prompts.h"
#include "run/OptionValues.h"
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

using namespace pmkvq::run;
using nlohmann::json;
namespace rt = ::pmkvq::rt;

namespace {
/// Reads prompts of one source; `where` names the place in every error.
class PromptReader {
public:
  PromptReader(const ModelFacts &model, TextServer &text, int64_t maxNewTokens)
      : model(model), text(text), maxNewTokens(maxNewTokens) {}

  rt::Status addTokens(const std::string &where,
                       const std::vector<int64_t> &tokens);
  rt::Status addText(const std::string &where, const std::string &prompt);
  rt::Status addJson(const std::string &where, const std::string &line);

  Prompts prompts;

private:
  rt::Status fail(const std::string &where, const std::string &message) {
    return refusal(where + ": " + message);
  }

  const ModelFacts &model;
  TextServer &text;
  int64_t maxNewTokens;
};
} // namespace

rt::Status PromptReader::addTokens(const std::string &where,
                                   const std::vector<int64_t> &tokens) {
  if (tokens.empty())
    return fail(where, "expected at least one token, got none");
  for (int64_t token : tokens)
    if (token < 0 || token >= model.vocabSize)
      return fail(where, "expected token ids from 0 to " +
                             std::to_string(model.vocabSize - 1) + ", got " +
                             std::to_string(token));
  // The last generated token is never cached.
  int64_t count = static_cast<int64_t>(tokens.size());
  int64_t cached = count + maxNewTokens - 1;
  if (cached > model.maxPositions)
    return fail(where, "expected at most max_position_embeddings " +
                           std::to_string(model.maxPositions) + " of " +
                           model.path + ", got " + std::to_string(count) +
                           " tokens and " + std::to_string(maxNewTokens) +
                           " by --max-tokens, which take " +
                           std::to_string(cached) + " positions");
  prompts.emplace_back(tokens.begin(), tokens.end());
  return rt::Status();
}

rt::Status PromptReader::addText(const std::string &where,
                                 const std::string &prompt) {
  if (prompt.empty())
    return fail(where, "expected a text, got an empty one");
  rt::Result<std::vector<int64_t>> tokens = text.encode(prompt);
  if (!tokens.ok())
    return fail(where, tokens.status().message());
  return addTokens(where, *tokens);
}

rt::Status PromptReader::addJson(const std::string &where,
                                 const std::string &line) {
  json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
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

/// All of a file, or why it cannot be read.
static rt::Result<std::string> readText(const std::string &file) {
  std::error_code code;
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  std::string text;
  if (stream && !std::filesystem::is_directory(file, code))
    text.assign(std::istreambuf_iterator<char>(stream), {});
  else if (!errno)
    errno = EISDIR;
  if (errno)
    return refusal(file + ": " + std::strerror(errno));
  return text;
}

static rt::Status readFile(const std::string &file, PromptReader &reader) {
  rt::Result<std::string> text = readText(file);
  if (!text.ok())
    return text.status();
  int64_t number = 0;
  for (const std::string &line : splitList(*text, '\n')) {
    ++number;
    if (line.find_first_not_of(" \t\v\f\r") == std::string::npos)
      continue;
    rt::Status status =
        reader.addJson(file + ": line " + std::to_string(number), line);
    if (!status.ok())
      return status;
  }
  if (reader.prompts.empty())
    return refusal(file + ": expected a prompt a line, got none");
  return rt::Status();
}

rt::Result<Prompts> pmkvq::run::readPrompts(const RunOptions &options,
                                            const ModelFacts &model,
                                            TextServer &text) {
  PromptReader reader(model, text, options.maxTokens);
  rt::Status status =
      options.promptTokens
          ? reader.addTokens("--prompt-tokens", *options.promptTokens)
      : options.prompt ? reader.addText("--prompt", *options.prompt)
                       : readFile(*options.promptsFile, reader);
  if (!status.ok())
    return status;
  return std::move(reader.prompts);
}
