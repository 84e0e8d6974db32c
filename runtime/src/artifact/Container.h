//===- Container.h - The safetensors layout of artifacts --------*- C++ -*-===//
//
// Header text and section bytes, without a word on what they mean.  Neighbours:
// Artifact.h (the mental model), Description.h (what the header says).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SRC_ARTIFACT_CONTAINER_H
#define PMKVQ_RT_SRC_ARTIFACT_CONTAINER_H

#include "pmkvq_rt/Artifact.h"

#include <nlohmann/json.hpp>

namespace pmkvq::rt::artifact {

inline constexpr const char *kFormatName = "pmkvq";
inline constexpr const char *kPaddingPrefix = "padding/";

/// "PATH: FIELD: MESSAGE".
Status fileError(const std::string &path, const std::string &field,
                 const std::string &message,
                 StatusCode code = StatusCode::DataLoss);

/// "expected EXPECTED, got ACTUAL".
std::string difference(const std::string &expected, const std::string &actual);

/// XXH3 with 128 bits, as 32 digits.
std::string hashOf(const void *data, int64_t bytes);

/// The header's hash: of its JSON without white space, members sorted by name,
/// `__metadata__.hash` left out.
std::string hashOfHeader(nlohmann::json header);

/// A value on one line of at most 80 characters.
std::string show(const nlohmann::json &value);

/// Parses an object.
///
/// Errors: DataLoss, without file and field: not JSON, not an object, a member
/// twice.
Result<nlohmann::json> parseObject(const char *text, int64_t bytes);

/// One entry of a header, its data within `data`.
///
/// Errors: DataLoss, without file and section.
Result<ArtifactSection> readEntry(const std::string &name,
                                  const nlohmann::json &entry,
                                  const uint8_t *data, int64_t dataBytes);

/// Bytes of an element; 0 for a type that artifacts do not have.
int64_t elementBytes(const std::string &dtype);

} // namespace pmkvq::rt::artifact

#endif // PMKVQ_RT_SRC_ARTIFACT_CONTAINER_H
