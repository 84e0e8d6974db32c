//===- Text.cpp - Text in and out of token ids ----------------------------===//
//
// Neighbours: Text.h.
//
//===----------------------------------------------------------------------===//

#include "run/Text.h"
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <unistd.h>

using namespace pmkvq::run;
using nlohmann::json;
namespace rt = ::pmkvq::rt;

/// A variable of the environment; empty: it is not set.
static std::string variable(const char *name) {
  const char *value = std::getenv(name);
  return value ? value : "";
}

/// $PMKVQ_PYTHON, the clone's own environment, or python3.
static std::string findPython() {
  if (std::string chosen = variable("PMKVQ_PYTHON"); !chosen.empty())
    return chosen;
  std::string own = PMKVQ_SOURCE_DIR "/.venv/bin/python";
  return ::access(own.c_str(), X_OK) == 0 ? own : "python3";
}

rt::Result<Child> pmkvq::run::startPython(std::vector<std::string> arguments) {
  std::string modules = PMKVQ_SOURCE_DIR "/python";
  if (std::string others = variable("PYTHONPATH"); !others.empty())
    modules += ":" + others;
  arguments.insert(arguments.begin(), {findPython(), "-m"});
  return Child::start(arguments, {"PYTHONPATH=" + modules});
}

std::string pmkvq::run::pythonFailure(const std::string &module,
                                      const Child &child, int code) {
  std::string line = child.lastErrorLine();
  const std::string ours = "error: ";
  // Python's own reports don't say who speaks.
  if (line.compare(0, ours.size(), ours) == 0 && line.size() > ours.size())
    return line.substr(ours.size());
  return findPython() + " -m " + module + ": " +
         (line.empty() || line == "error:" ? "exit code " + std::to_string(code)
                                           : line);
}

static rt::Status textError(const std::string &message) {
  return {rt::StatusCode::FailedPrecondition, message};
}

rt::Status TextServer::start() {
  if (child)
    return rt::Status();
  rt::Result<Child> started = startPython({"pmkvq.text", place});
  if (!started.ok())
    return textError("text: " + started.status().message());
  child.emplace(std::move(*started));
  return rt::Status();
}

rt::Result<std::string> TextServer::ask(const std::string &request) {
  if (rt::Status status = start(); !status.ok())
    return status;
  std::string answer;
  if (child->writeLine(request) && child->readLine(answer))
    return answer;
  int code = child->wait();
  return textError(pythonFailure("pmkvq.text", *child, code));
}

/// The member `field` of an answer, or the error in it.
static rt::Result<json> readAnswer(const std::string &answer,
                                   const char *field) {
  json object = json::parse(answer, nullptr, /*allow_exceptions=*/false);
  if (object.is_object() && object.contains("error") &&
      object["error"].is_string())
    return textError(object["error"].get<std::string>());
  if (!object.is_object() || !object.contains(field))
    return textError("pmkvq.text: expected \"" + std::string(field) +
                     "\" in its answer, got none");
  return rt::Result<json>(object[field]);
}

/// Whether nothing has to be left out to make JSON of a text.
static bool isUTF8(const std::string &text) {
  std::string kept =
      json(text).dump(-1, ' ', false, json::error_handler_t::ignore);
  return json::parse(kept, nullptr, /*allow_exceptions=*/false) == text;
}

rt::Result<std::vector<int64_t>> TextServer::encode(const std::string &text) {
  if (!isUTF8(text))
    return textError("a prompt's text is UTF-8");
  rt::Result<std::string> answer =
      ask(json({{"encode", text}, {"chat", "auto"}}).dump());
  if (!answer.ok())
    return answer.status();
  rt::Result<json> list = readAnswer(*answer, "tokens");
  if (!list.ok())
    return list.status();
  std::vector<int64_t> tokens;
  for (const json &token : *list)
    tokens.push_back(token.is_number_unsigned() ? token.get<int64_t>() : -1);
  return tokens;
}

rt::Result<std::string> TextServer::stream(int32_t sequence,
                                           const std::vector<int32_t> &tokens,
                                           bool end) {
  json request = {{"stream", tokens}, {"sequence", sequence}, {"end", end}};
  rt::Result<std::string> answer = ask(request.dump());
  if (!answer.ok())
    return answer.status();
  rt::Result<json> text = readAnswer(*answer, "text");
  if (!text.ok())
    return text.status();
  return text->is_string() ? text->get<std::string>() : std::string();
}
