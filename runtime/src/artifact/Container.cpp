//===- Container.cpp - The safetensors layout of artifacts ----------------===//
//
// Neighbours: Container.h.
//
//===----------------------------------------------------------------------===//

#include "Container.h"

#include <limits>
#include <unordered_set>

// All of the library is in its header.
#define XXH_INLINE_ALL
#include <xxhash.h>

using namespace pmkvq::rt;
using nlohmann::json;

Status artifact::fileError(const std::string &path, const std::string &field,
                           const std::string &message, StatusCode code) {
  return Status(code, path + ": " + field + ": " + message);
}

std::string artifact::difference(const std::string &expected,
                                 const std::string &actual) {
  return "expected " + expected + ", got " + actual;
}

std::string artifact::hashOf(const void *data, int64_t bytes) {
  XXH128_canonical_t digits;
  XXH128_canonicalFromHash(&digits,
                           XXH3_128bits(data, static_cast<size_t>(bytes)));
  std::string text;
  for (unsigned char byte : digits.digest)
    for (int nibble : {byte >> 4, byte & 15})
      text += "0123456789abcdef"[nibble];
  return text;
}

std::string artifact::hashOfHeader(json header) {
  header["__metadata__"].erase("hash");
  std::string text = header.dump(-1, ' ', /*ensure_ascii=*/false,
                                 json::error_handler_t::replace);
  return hashOf(text.data(), static_cast<int64_t>(text.size()));
}

//===----------------------------------------------------------------------===//
// JSON
//===----------------------------------------------------------------------===//

/// Whether brackets nest at most `depth` deep; serializing recurses.
static bool isShallow(const json &value, int depth) {
  if (!value.is_structured())
    return true;
  if (depth == 0)
    return false;
  for (const json &element : value)
    if (!isShallow(element, depth - 1))
      return false;
  return true;
}

std::string artifact::show(const json &value) {
  constexpr size_t maxLength = 80;
  if (!isShallow(value, /*depth=*/8))
    return value.is_array() ? "a deep list" : "a deep object";
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true,
                                json::error_handler_t::replace);
  return text.size() <= maxLength ? text
                                  : text.substr(0, maxLength - 3) + "...";
}

Result<json> artifact::parseObject(const char *text, int64_t bytes) {
  // Members of the objects that have not ended yet.
  std::vector<std::unordered_set<std::string>> open;
  std::string twice;
  json value = json::parse(
      text, text + bytes,
      [&](int, json::parse_event_t event, json &seen) {
        if (event == json::parse_event_t::object_start)
          open.emplace_back();
        else if (event == json::parse_event_t::object_end)
          open.pop_back();
        else if (event == json::parse_event_t::key && twice.empty() &&
                 !open.back().insert(seen.get<std::string>()).second)
          twice = show(seen);
        return true;
      },
      /*allow_exceptions=*/false);
  if (value.is_discarded())
    return Status(StatusCode::DataLoss, "not well-formed JSON");
  if (!value.is_object())
    return Status(StatusCode::DataLoss,
                  difference("a JSON object", show(value)));
  // Readers differ in which of the two they take.
  if (!twice.empty())
    return Status(StatusCode::DataLoss,
                  difference("each member once", twice + " twice"));
  if (!isShallow(value, /*depth=*/8))
    return Status(StatusCode::DataLoss, "nested more than 8 deep");
  return value;
}

//===----------------------------------------------------------------------===//
// Entries
//===----------------------------------------------------------------------===//

int64_t artifact::elementBytes(const std::string &dtype) {
  return dtype == "BF16" ? 2 : dtype == "U8" ? 1 : 0;
}

/// The list `field` as numbers that fit an int64.
static Result<std::vector<int64_t>> readSizes(const json &entry,
                                              const char *field) {
  auto found = entry.find(field);
  if (found == entry.end() || !found->is_array())
    return Status(StatusCode::DataLoss,
                  std::string(field) + ": expected a list of numbers");
  std::vector<int64_t> sizes;
  for (const json &size : *found) {
    if (!size.is_number_unsigned() ||
        size.get<uint64_t>() >
            static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return Status(StatusCode::DataLoss,
                    std::string(field) + ": " +
                        artifact::difference("whole numbers from 0 on",
                                             artifact::show(size)));
    sizes.push_back(size.get<int64_t>());
  }
  return sizes;
}

Result<ArtifactSection> artifact::readEntry(const std::string &name,
                                            const json &entry,
                                            const uint8_t *data,
                                            int64_t dataBytes) {
  auto damaged = [](const std::string &message) {
    return Status(StatusCode::DataLoss, message);
  };
  if (!entry.is_object())
    return damaged(difference("a JSON object", show(entry)));
  auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string() ||
      !elementBytes(dtype->get<std::string>()))
    return damaged("dtype: " + difference("BF16 or U8", dtype == entry.end()
                                                            ? "none"
                                                            : show(*dtype)));
  Result<std::vector<int64_t>> shape = readSizes(entry, "shape");
  if (!shape.ok())
    return shape.status();
  Result<std::vector<int64_t>> offsets = readSizes(entry, "data_offsets");
  if (!offsets.ok())
    return offsets.status();
  if (offsets->size() != 2)
    return damaged("data_offsets: " +
                   difference("2 numbers", std::to_string(offsets->size())));
  int64_t begin = (*offsets)[0], end = (*offsets)[1];
  if (begin > end || end > dataBytes)
    return damaged("data_offsets: " +
                   difference("a range within the " +
                                  std::to_string(dataBytes) + " bytes of data",
                              show(entry["data_offsets"])));
  int64_t bytes = elementBytes(dtype->get<std::string>());
  bool fits = true;
  for (int64_t size : *shape)
    fits = fits && !__builtin_mul_overflow(bytes, size, &bytes);
  if (!fits || bytes != end - begin)
    return damaged(difference((fits ? std::to_string(bytes) : "over 2^63") +
                                  " bytes for shape " + show(entry["shape"]),
                              std::to_string(end - begin)));
  return ArtifactSection{name, dtype->get<std::string>(), *shape, data + begin,
                         bytes};
}
