//===- Artifact.h - A compiled model in one file ----------------*- C++ -*-===//
//
// Writes and reads what `pmkvq-run --emit=artifact` makes: code, weights and
// all that a run has to know, for machines without a compiler.  Neighbours:
// Program.h (what becomes of it), docs/artifact.md (the layout as a table).
//
// Mental model.  An artifact is a safetensors file: a u64 header length, a JSON
// header, data.  Any reader of that format lists it.  Sections are its tensors:
//
//   weight/NAME      BF16, folded, as the program reads it where it lies
//   code/CPU         U8, a shared object that needs nothing but the C library
//   program.mlir     U8, the program with its plan, to read and to compile
//   again tokenizer/FILE   U8, for prompts and answers in text padding/N U8, so
//   that every section starts at a multiple of 64 bytes
//
// `__metadata__`, strings by the format's rules, has `format`, `version`, the
// description as JSON (`pmkvq`) and the header's own hash.  The description
// holds a hash of every section.  Hashes are XXH3 with 128 bits: they find
// damage, not malice.  Code of an artifact runs, so it is to be trusted like
// any other program.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_ARTIFACT_H
#define PMKVQ_RT_ARTIFACT_H

#include "pmkvq_rt/Program.h"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pmkvq::rt {

/// Changes whenever an older reader would misunderstand a file.
inline constexpr int32_t kArtifactVersion = 1;

/// Sections start at multiples of it, counted from the file's first byte.
inline constexpr int64_t kArtifactAlignment = 64;

inline constexpr const char *kProgramSection = "program.mlir";
inline constexpr const char *kTokenizerPrefix = "tokenizer/";
inline constexpr const char *kWeightPrefix = "weight/";
inline constexpr const char *kCodePrefix = "code/";

/// What a machine must be to run the code.
struct ArtifactTarget {
  /// As LLVM spells it: "x86_64".
  std::string architecture;
  /// "generic", "avx2" or "avx512".
  std::string cpu;
  /// Levels and features that the CPU must have, as LLVM spells them.
  std::vector<std::string> features;
  /// Functions of the runtime that the code calls, see hookPointerName.
  std::vector<std::string> hooks;
};

/// What was decided when the program was compiled, as the user writes it.
struct ArtifactPlan {
  std::string schedule;
  std::string keyFormat;
  std::string valueFormat;
  /// The budget that a run has unless it is given one, in bits an element; 0:
  /// the program's own, in bytes.
  double bitsPerElement = 0;
  bool calibrated = false;
};

/// What an artifact says of itself.
struct ArtifactDescription {
  /// Who made it: "pmkvq 0.1.0".
  std::string producer;
  std::string modelName;
  /// Checkpoint::fingerprint of the weights that it was made from.
  std::string modelHash;
  /// Tokens that end a text.
  std::vector<int32_t> stopTokens;
  ArtifactTarget target;
  ArtifactPlan plan;
  /// What the code says too; layout and formatHash are the code's alone.
  ProgramInfo info = {};
  /// Names of the weights, in the order of the program's table.
  std::vector<std::string> weights;
};

/// Some bytes of an artifact, as the format calls them: a tensor.
struct ArtifactSection {
  std::string name;
  /// "BF16" or "U8".
  std::string dtype;
  std::vector<int64_t> shape;
  const uint8_t *data = nullptr;
  int64_t bytes = 0;
};

/// A section of bytes that have no shape of their own.
ArtifactSection byteSection(std::string name, const std::string &bytes);

/// The variable of the code that holds a hook's address: the loader sets it, so
/// that code finds hooks in whatever program loads it.
std::string hookPointerName(const std::string &hook);

/// Whether this machine's CPU has a level or a feature; none: it is not known.
std::optional<bool> machineHas(const std::string &feature);

/// The CPU that this program is compiled for: "x86_64".
const char *machineArchitecture();

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

/// Writes one artifact; it is at its place whole or not at all.
class ArtifactWriter {
public:
  /// Makes a temporary file beside `path`, so that a place where nothing can be
  /// written is known before there is anything to write.
  ///
  /// Errors: InvalidArgument, with the system's reason; for what exists and is
  /// no regular file.
  static Result<ArtifactWriter> create(const std::string &path);

  ArtifactWriter(ArtifactWriter &&other) noexcept;
  ArtifactWriter &operator=(ArtifactWriter &&other) = delete;
  ~ArtifactWriter();

  /// Writes everything and gives the file its name.
  ///
  /// Shapes: sections in the order of the file, names without padding.
  /// Errors: InvalidArgument, with the system's reason, for a disk that is
  /// full.
  Status write(const ArtifactDescription &description,
               const std::vector<ArtifactSection> &sections);

private:
  ArtifactWriter() = default;
  std::string path_;
  std::string partial_;
  int fd_ = -1;
};

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

/// A mapped file that was checked whole.
class Artifact {
public:
  /// Maps a file and checks all of it: layout, versions, this machine's CPU,
  /// names, hashes.
  ///
  /// Errors: InvalidArgument for a file that cannot be read or is no artifact;
  /// DataLoss if it is damaged or of another version; FailedPrecondition if it
  /// was made for another machine.  The message names file, field, what was
  /// expected and what is there.
  static Result<std::shared_ptr<const Artifact>> open(const std::string &path);

  ~Artifact();
  Artifact(const Artifact &) = delete;
  Artifact &operator=(const Artifact &) = delete;

  const std::string &path() const { return path_; }
  const ArtifactDescription &description() const { return description_; }
  /// By name.
  const std::map<std::string, ArtifactSection> &sections() const {
    return sections_;
  }
  bool hasTokenizer() const;

private:
  Artifact() = default;
  Status map();
  Status readHeader();
  Status checkLayout() const;
  Status checkTarget() const;
  Status checkSections() const;
  Status checkHashes() const;

  std::string path_;
  const uint8_t *file_ = nullptr;
  int64_t fileBytes_ = 0;
  int64_t dataBegin_ = 0;
  ArtifactDescription description_;
  std::map<std::string, ArtifactSection> sections_;
  std::map<std::string, std::string> hashes_;
};

/// Loads the code of an artifact; weights stay in the file's mapping, which the
/// program keeps.
///
/// Errors: as openProgram; code that the system does not load, with its reason;
/// FailedPrecondition if the code says other things of itself than the file.
Result<Program> loadProgram(std::shared_ptr<const Artifact> artifact);

} // namespace pmkvq::rt

#endif // PMKVQ_RT_ARTIFACT_H
