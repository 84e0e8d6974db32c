//===- Fields.cpp - Typed access to a JSON object of a file ---------------===//
//
// Neighbours: Fields.h.
//
//===----------------------------------------------------------------------===//

#include "Fields.h"
#include "pmkvq/Import/Safetensors.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
using nlohmann::json;

const json *Fields::find(StringRef name) const {
  auto found = object.find(name.str());
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

int64_t Fields::count(StringRef name, std::optional<int64_t> fallback) {
  constexpr int64_t max = std::numeric_limits<int32_t>::max();
  const json *value = find(name);
  if (!value && fallback)
    return *fallback;
  if (value && value->is_number_unsigned() && value->get<uint64_t>() >= 1 &&
      value->get<uint64_t>() <= max)
    return value->get<int64_t>();
  fail(name, "a whole number from 1 to " + Twine(max), value);
  return 1;
}

double Fields::positive(StringRef name, std::optional<double> fallback) {
  const json *value = find(name);
  if (!value && fallback)
    return *fallback;
  if (value && value->is_number()) {
    double number = value->get<double>();
    if (std::isfinite(number) && number > 0)
      return number;
  }
  fail(name, "a positive number", value);
  return 1;
}

bool Fields::flag(StringRef name, bool fallback) {
  const json *value = find(name);
  if (value && !value->is_boolean())
    fail(name, "true or false", value);
  return value && value->is_boolean() ? value->get<bool>() : fallback;
}

void Fields::only(StringRef name, const json &allowed, const Twine &reason) {
  const json *value = find(name);
  if (value && *value != allowed)
    fail(name, showJson(allowed) + " (" + reason + ")", value);
}

void Fields::fail(StringRef name, const Twine &expected, const json *actual) {
  if (error)
    return;
  error = fileError(path, prefix + name,
                    "expected " + expected + ", got " +
                        (actual ? showJson(*actual) : std::string("none")));
}

void Fields::adopt(llvm::Error inner) {
  if (error)
    llvm::consumeError(std::move(inner));
  else
    error = std::move(inner);
}
