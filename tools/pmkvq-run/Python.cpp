//===- Python.cpp - The tool's Python children ----------------------------===//
//
// Neighbours: Python.h.
//
//===----------------------------------------------------------------------===//

#include "Python.h"
#include "Output.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/xxhash.h"
#include <nlohmann/json.hpp>

using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;
using nlohmann::json;
namespace fs = llvm::sys::fs;
namespace path = llvm::sys::path;

/// $PMKVQ_PYTHON, the clone's own environment, or python3.
static std::string findPython() {
  if (auto chosen = llvm::sys::Process::GetEnv("PMKVQ_PYTHON");
      chosen && !chosen->empty())
    return *chosen;
  std::string own = PMKVQ_SOURCE_DIR "/.venv/bin/python";
  return fs::can_execute(own) ? own : "python3";
}

static Expected<Child> startPython(std::vector<std::string> arguments) {
  std::string modules = PMKVQ_SOURCE_DIR "/python";
  if (auto others = llvm::sys::Process::GetEnv("PYTHONPATH");
      others && !others->empty())
    modules += ":" + *others;
  arguments.insert(arguments.begin(), {findPython(), "-m"});
  return Child::start(arguments, {"PYTHONPATH=" + modules});
}

/// Why a child failed, in its own words if it has any.
static std::string failure(StringRef module, const Child &child, int code) {
  std::string line = child.lastErrorLine();
  StringRef reason = line;
  reason.consume_front("error: ");
  if (reason.empty())
    return (findPython() + " -m " + module + ": exit code " + Twine(code))
        .str();
  // Python's own reports don't say who speaks.
  if (reason.size() == line.size())
    return (findPython() + " -m " + module + ": " + reason).str();
  return reason.str();
}

//===----------------------------------------------------------------------===//
// GGUF files
//===----------------------------------------------------------------------===//

/// To be raised when pmkvq.gguf_import writes other files than before: folders
/// of an older version are not used any more.
static constexpr int kConversionVersion = 1;

/// Where a file's conversion belongs: told apart by path, size and time.
static Expected<std::string> conversionFolder(StringRef file,
                                              const fs::file_status &status) {
  llvm::SmallString<128> folder, real;
  if (auto cache = llvm::sys::Process::GetEnv("XDG_CACHE_HOME");
      cache && !cache->empty()) {
    folder = *cache;
  } else if (auto home = llvm::sys::Process::GetEnv("HOME");
             home && !home->empty()) {
    folder = *home;
    path::append(folder, ".cache");
  } else {
    return llvm::createStringError(
        "a GGUF file is converted into a cache folder: expected HOME or "
        "XDG_CACHE_HOME in the environment, got neither");
  }
  if (fs::real_path(file, real))
    real = file;
  std::string identity =
      (Twine(kConversionVersion) + "\n" + real + "\n" +
       Twine(status.getSize()) + "\n" +
       Twine(status.getLastModificationTime().time_since_epoch().count()))
          .str();
  std::string name =
      path::stem(file).str() + "-" +
      llvm::utohexstr(llvm::xxh3_64bits(identity), /*LowerCase=*/true);
  path::append(folder, "pmkvq", name);
  return folder.str().str();
}

static Expected<std::string> convertGGUF(StringRef file,
                                         const fs::file_status &status) {
  Expected<std::string> folder = conversionFolder(file, status);
  if (!folder || fs::is_directory(*folder))
    return folder;
  Progress progress;
  progress.show("converting " + file);
  // The converter writes beside the folder and renames: it is whole or absent.
  Expected<Child> child =
      startPython({"pmkvq.gguf_import", file.str(), *folder});
  if (!child)
    return llvm::createStringError(
        file + ": converting it: " + llvm::toString(child.takeError()));
  int code = child->wait();
  // Another process may have been faster.
  if (code != 0 && !fs::is_directory(*folder))
    return llvm::createStringError(failure("pmkvq.gguf_import", *child, code));
  return folder;
}

Expected<std::string> pmkvq::run::findModelFolder(StringRef model) {
  fs::file_status status;
  if (std::error_code error = fs::status(model, status))
    return llvm::createStringError(model + ": " + error.message());
  if (fs::is_directory(status))
    return model.str();
  return convertGGUF(model, status);
}

//===----------------------------------------------------------------------===//
// Text
//===----------------------------------------------------------------------===//

bool TextServer::hasTokenizer() const {
  llvm::SmallString<128> file(folder);
  path::append(file, "tokenizer.json");
  return fs::exists(file);
}

Error TextServer::start() {
  if (child)
    return Error::success();
  Expected<Child> started = startPython({"pmkvq.text", folder});
  if (!started)
    return llvm::createStringError("text: " +
                                   llvm::toString(started.takeError()));
  child.emplace(std::move(*started));
  return Error::success();
}

Expected<std::string> TextServer::ask(StringRef request) {
  if (Error error = start())
    return error;
  std::string answer;
  if (child->writeLine(request) && child->readLine(answer))
    return answer;
  int code = child->wait();
  return llvm::createStringError(failure("pmkvq.text", *child, code));
}

/// The member `field` of an answer, or the error in it.
static Expected<json> readAnswer(StringRef answer, const char *field) {
  json object = json::parse(answer.begin(), answer.end(), nullptr,
                            /*allow_exceptions=*/false);
  if (object.is_object() && object.contains("error") &&
      object["error"].is_string())
    return llvm::createStringError(object["error"].get<std::string>());
  if (!object.is_object() || !object.contains(field))
    return llvm::createStringError("pmkvq.text: expected \"" + Twine(field) +
                                   "\" in its answer, got none");
  return object[field];
}

Expected<std::vector<int64_t>> TextServer::encode(StringRef text) {
  if (!llvm::json::isUTF8(text))
    return llvm::createStringError("a prompt's text is UTF-8");
  Expected<std::string> answer =
      ask(json({{"encode", text.str()}, {"chat", "auto"}}).dump());
  if (!answer)
    return answer.takeError();
  Expected<json> list = readAnswer(*answer, "tokens");
  if (!list)
    return list.takeError();
  std::vector<int64_t> tokens;
  for (const json &token : *list)
    tokens.push_back(token.is_number_unsigned() ? token.get<int64_t>() : -1);
  return tokens;
}

Expected<std::string>
TextServer::stream(int32_t sequence, llvm::ArrayRef<int32_t> tokens, bool end) {
  json request = {{"stream", std::vector<int32_t>(tokens)},
                  {"sequence", sequence},
                  {"end", end}};
  Expected<std::string> answer = ask(request.dump());
  if (!answer)
    return answer.takeError();
  Expected<json> text = readAnswer(*answer, "text");
  if (!text)
    return text.takeError();
  return text->is_string() ? text->get<std::string>() : std::string();
}
