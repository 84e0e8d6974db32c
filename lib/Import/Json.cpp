//===- Json.cpp - JSON files without exceptions ---------------------------===//
//
// Neighbours: Json.h.
//
//===----------------------------------------------------------------------===//

#include "Json.h"
#include "pmkvq/Import/Safetensors.h"

using namespace mlir;
using namespace mlir::pmkvq;
using nlohmann::json;

llvm::Expected<json> mlir::pmkvq::readJsonObject(StringRef path) {
  auto buffer = llvm::MemoryBuffer::getFile(path);
  if (std::error_code error = buffer.getError())
    return fileError(path, "file", error.message());
  StringRef text = (*buffer)->getBuffer();
  json value = json::parse(text.begin(), text.end(), nullptr,
                           /*allow_exceptions=*/false);
  if (value.is_discarded())
    return fileError(path, "file", "not well-formed JSON");
  if (!value.is_object())
    return fileError(path, "file",
                     "expected a JSON object, got " + showJson(value));
  return value;
}

std::string mlir::pmkvq::showJson(const json &value) {
  constexpr size_t maxLength = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true,
                                json::error_handler_t::replace);
  if (text.size() > maxLength)
    text = text.substr(0, maxLength - 3) + "...";
  return text;
}
