//===- Json.cpp - JSON files without exceptions ---------------------------===//
//
// Neighbours: Json.h.
//
//===----------------------------------------------------------------------===//

#include "Json.h"
#include "pmkvq/Import/Safetensors.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include <unordered_set>
#include <vector>

using namespace mlir;
using namespace mlir::pmkvq;
using nlohmann::json;

namespace {
/// Looks at a document while it is parsed.
class MemberNames {
public:
  bool see(json::parse_event_t event, const json &value) {
    if (event == json::parse_event_t::object_start)
      open.emplace_back();
    else if (event == json::parse_event_t::object_end)
      open.pop_back();
    else if (event == json::parse_event_t::key && duplicate.empty() &&
             !open.back().insert(value.get_ref<const std::string &>()).second)
      duplicate = showJson(value);
    return true;
  }

  /// The first name that an object has twice, as JSON; empty: none has.
  std::string duplicate;

private:
  /// Of the objects that have not ended yet.
  std::vector<std::unordered_set<std::string>> open;
};

/// Finds where a text stops being JSON.
class ErrorFinder : public nlohmann::json_sax<json> {
public:
  explicit ErrorFinder(StringRef text) : text(text) {
    json::sax_parse(text.begin(), text.end(), this);
  }

  /// The place, as far as it nests a few deep, the byte, and what is there.
  std::string describe() const {
    constexpr size_t kMostNested = 8;
    std::string path;
    for (const Level &level : llvm::ArrayRef(levels).take_front(kMostNested))
      if (level.isArray)
        path += "[" + std::to_string(level.index) + "]";
      else
        path += (path.empty() ? "" : ".") + level.name;
    if (levels.size() > kMostNested)
      path += "...";
    return (path.empty() ? "" : path + ", ") + "byte " +
           std::to_string(position) + ", got " + found();
  }

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t &) override {
    return value();
  }
  bool string(string_t &) override { return value(); }
  bool binary(binary_t &) override { return value(); }
  bool key(string_t &name) override {
    levels.back().name = name;
    return true;
  }
  bool start_object(size_t) override { return begin(/*isArray=*/false); }
  bool start_array(size_t) override { return begin(/*isArray=*/true); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool parse_error(size_t byte, const std::string &,
                   const nlohmann::detail::exception &) override {
    position = byte;
    return false;
  }

private:
  /// An array or object that has not ended.
  struct Level {
    bool isArray;
    size_t index = 0;
    std::string name;
  };

  bool begin(bool isArray) {
    levels.push_back({isArray, 0, ""});
    return true;
  }
  bool end() {
    levels.pop_back();
    return value();
  }
  bool value() {
    if (!levels.empty())
      ++levels.back().index;
    return true;
  }

  /// The word, or the one character, at which parsing stopped.
  std::string found() const {
    if (position == 0 || position > text.size())
      return "the end of the file";
    size_t first = position - 1;
    auto isWord = [](char c) { return llvm::isAlnum(c); };
    while (first > 0 && isWord(text[first]) && isWord(text[first - 1]))
      --first;
    constexpr size_t kMost = 20;
    StringRef word = text.substr(first, kMost).take_while(isWord);
    return showJson(json((word.empty() ? text.substr(first, 1) : word).str()));
  }

  StringRef text;
  std::vector<Level> levels;
  size_t position = 0;
};
} // namespace

llvm::Expected<json> mlir::pmkvq::parseJsonObject(StringRef text) {
  MemberNames names;
  json value = json::parse(
      text.begin(), text.end(),
      [&](int, json::parse_event_t event, json &seen) {
        return names.see(event, seen);
      },
      /*allow_exceptions=*/false);
  if (value.is_discarded())
    return llvm::createStringError("not well-formed JSON at " +
                                   ErrorFinder(text).describe());
  if (!value.is_object())
    return llvm::createStringError("expected a JSON object, got " +
                                   showJson(value));
  if (!names.duplicate.empty())
    return llvm::createStringError("expected each member once, got " +
                                   names.duplicate + " twice");
  return value;
}

llvm::Expected<json> mlir::pmkvq::readJsonObject(StringRef path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (std::error_code error = buffer.getError())
    return fileError(path, "file", error.message());
  llvm::Expected<json> value = parseJsonObject((*buffer)->getBuffer());
  if (!value)
    return fileError(path, "file", llvm::toString(value.takeError()));
  return value;
}

/// Whether brackets nest at most `depth` deep; serializing recurses.
static bool isShallow(const json &value, int depth) {
  if (!value.is_structured())
    return true;
  return depth > 0 && llvm::all_of(value, [&](const json &element) {
           return isShallow(element, depth - 1);
         });
}

std::string mlir::pmkvq::showJson(const json &value) {
  constexpr size_t maxLength = 80;
  constexpr int maxDepth = 16;
  if (!isShallow(value, maxDepth))
    return std::string(value.is_array() ? "a list" : "an object") +
           " nested more than " + std::to_string(maxDepth) + " deep";
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true,
                                json::error_handler_t::replace);
  if (text.size() > maxLength)
    text = text.substr(0, maxLength - 3) + "...";
  return text;
}
