//===- Json.cpp - JSON files without exceptions ---------------------------===//
//
// Neighbours: Json.h.
//
//===----------------------------------------------------------------------===//

#include "Json.h"
#include "pmkvq/Import/Safetensors.h"
#include "llvm/ADT/STLExtras.h"
#include <unordered_set>

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
    return llvm::createStringError("not well-formed JSON");
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
