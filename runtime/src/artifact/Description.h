//===- Description.h - What an artifact says of itself, as JSON -*- C++ -*-===//
//
// Neighbours: Artifact.h (the struct), docs/artifact.md (the fields).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SRC_ARTIFACT_DESCRIPTION_H
#define PMKVQ_RT_SRC_ARTIFACT_DESCRIPTION_H

#include "Container.h"

namespace pmkvq::rt::artifact {

using Hashes = std::map<std::string, std::string>;

nlohmann::json toJson(const ArtifactDescription &description,
                      const Hashes &hashes);

/// Errors: DataLoss, with file, field, what was expected and what is there.
Status fromJson(const nlohmann::json &object, const std::string &path,
                ArtifactDescription &description, Hashes &hashes);

/// Whether code and file agree in all that both say.
///
/// Errors: DataLoss, with file, field and both values.
Status compare(const ProgramInfo &file, const ProgramInfo &code,
               const std::string &path);

} // namespace pmkvq::rt::artifact

#endif // PMKVQ_RT_SRC_ARTIFACT_DESCRIPTION_H
