//===- Reader.cpp - Artifacts from files, checked -------------------------===//
//
// Everything is checked before anything is used; what takes long, the hashes,
// comes last.  Neighbours: Artifact.h, Container.h, Description.h.
//
//===----------------------------------------------------------------------===//

#include "../Guard.h"
#include "Description.h"
#include "SharedCode.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace pmkvq::rt;
using namespace pmkvq::rt::artifact;
using nlohmann::json;

static std::string inQuotes(const std::string &text) {
  return "'" + text + "'";
}

//===----------------------------------------------------------------------===//
// The file
//===----------------------------------------------------------------------===//

Artifact::~Artifact() {
  if (file_)
    ::munmap(const_cast<uint8_t *>(file_), static_cast<size_t>(fileBytes_));
}

Status Artifact::map() {
  auto fail = [&](const std::string &message) {
    return fileError(path_, "file", message, StatusCode::InvalidArgument);
  };
  int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return fail(std::strerror(errno));
  struct stat status;
  bool isFile = ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  void *mapped = MAP_FAILED;
  if (isFile && status.st_size > 0)
    mapped = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ,
                    MAP_PRIVATE, fd, 0);
  int error = errno;
  ::close(fd);
  if (!isFile)
    return fail("not a regular file");
  if (status.st_size == 0)
    return fail(difference("at least 8 bytes", "0"));
  if (mapped == MAP_FAILED)
    return fail(std::strerror(error));
  file_ = static_cast<const uint8_t *>(mapped);
  fileBytes_ = status.st_size;
  return Status();
}

/// `__metadata__.NAME`, a string; empty: it is not there.
static std::string metadata(const json &header, const char *name) {
  auto found = header.find("__metadata__");
  if (found == header.end() || !found->is_object())
    return "";
  auto text = found->find(name);
  return text != found->end() && text->is_string() ? text->get<std::string>()
                                                   : "";
}

/// Whether these are the words of an artifact that this reader knows.
static Status checkFormat(const json &header, const std::string &path) {
  std::string format = metadata(header, "format");
  if (format != kFormatName)
    return fileError(path, "__metadata__.format",
                     difference(inQuotes(kFormatName), inQuotes(format)) +
                         "; this is no artifact, pmkvq-run MODEL "
                         "--emit=artifact makes one",
                     StatusCode::InvalidArgument);
  std::string version = metadata(header, "version");
  if (version != std::to_string(kArtifactVersion))
    return fileError(path, "__metadata__.version",
                     difference(inQuotes(std::to_string(kArtifactVersion)),
                                inQuotes(version)) +
                         "; emit it again");
  std::string hash = hashOfHeader(header);
  if (metadata(header, "hash") != hash)
    return fileError(
        path, "__metadata__.hash",
        difference(inQuotes(hash), inQuotes(metadata(header, "hash"))) +
            "; the header is damaged");
  return Status();
}

Status Artifact::readHeader() {
  // The format's own limit.
  constexpr uint64_t maxHeaderBytes = 100'000'000;
  uint64_t length = 0;
  if (fileBytes_ < static_cast<int64_t>(sizeof(length)))
    return fileError(path_, "file",
                     difference("at least 8 bytes", std::to_string(fileBytes_)),
                     StatusCode::InvalidArgument);
  for (size_t i = 0; i < sizeof(length); ++i)
    length |= uint64_t(file_[i]) << (8 * i);
  uint64_t most =
      std::min<uint64_t>(maxHeaderBytes, fileBytes_ - sizeof(length));
  if (length > most)
    return fileError(path_, "header length",
                     difference("at most " + std::to_string(most) + " bytes",
                                std::to_string(length)) +
                         "; this is no artifact, or one that was cut off",
                     StatusCode::InvalidArgument);
  dataBegin_ = static_cast<int64_t>(sizeof(length) + length);
  Result<json> header =
      parseObject(reinterpret_cast<const char *>(file_) + sizeof(length),
                  static_cast<int64_t>(length));
  if (!header.ok())
    return fileError(path_, "header", header.status().message(),
                     StatusCode::InvalidArgument);
  if (Status status = checkFormat(*header, path_); !status.ok())
    return status;
  for (auto &[name, entry] : header->items()) {
    if (name == "__metadata__")
      continue;
    Result<ArtifactSection> section =
        readEntry(name, entry, file_ + dataBegin_, fileBytes_ - dataBegin_);
    if (!section.ok())
      return fileError(path_, "section " + name, section.status().message());
    sections_.emplace(name, std::move(*section));
  }
  std::string text = metadata(*header, "pmkvq");
  Result<json> description =
      parseObject(text.data(), static_cast<int64_t>(text.size()));
  if (!description.ok())
    return fileError(path_, "__metadata__.pmkvq",
                     description.status().message());
  return fromJson(*description, path_, description_, hashes_);
}

Status Artifact::checkLayout() const {
  std::vector<const ArtifactSection *> ordered;
  for (const auto &[name, section] : sections_)
    ordered.push_back(&section);
  std::sort(ordered.begin(), ordered.end(),
            [](const ArtifactSection *a, const ArtifactSection *b) {
              return std::pair(a->data, a->bytes) <
                     std::pair(b->data, b->bytes);
            });
  const uint8_t *end = file_ + dataBegin_;
  for (const ArtifactSection *section : ordered) {
    if (section->data != end)
      return fileError(
          path_, "section " + section->name,
          "data_offsets: " +
              difference("data from byte " +
                             std::to_string(end - file_ - dataBegin_) +
                             " on, where the section before it ends",
                         "byte " + std::to_string(section->data - file_ -
                                                  dataBegin_)));
    bool isPadding = section->name.rfind(kPaddingPrefix, 0) == 0;
    if (!isPadding && (section->data - file_) % kArtifactAlignment)
      return fileError(
          path_, "section " + section->name,
          difference("a place at a multiple of " +
                         std::to_string(kArtifactAlignment) + " bytes",
                     "byte " + std::to_string(section->data - file_)));
    end = section->data + section->bytes;
  }
  if (end != file_ + fileBytes_)
    return fileError(path_, "data",
                     difference(std::to_string(end - file_ - dataBegin_) +
                                    " bytes, as the sections add up to",
                                std::to_string(fileBytes_ - dataBegin_)));
  return Status();
}

//===----------------------------------------------------------------------===//
// What it says
//===----------------------------------------------------------------------===//

Status Artifact::checkTarget() const {
  const ArtifactTarget &target = description_.target;
  if (description_.info.abiVersion != kAbiVersion)
    return fileError(path_, "program.abi_version",
                     difference(std::to_string(kAbiVersion),
                                std::to_string(description_.info.abiVersion)) +
                         "; emit it again with this version");
  auto otherMachine = [&](const char *field, const std::string &expected,
                          const std::string &actual) {
    return fileError(path_, field,
                     difference(expected, actual) +
                         "; emit it again with another --cpu",
                     StatusCode::FailedPrecondition);
  };
  if (target.architecture != machineArchitecture())
    return otherMachine("target.architecture",
                        inQuotes(machineArchitecture()) + ", this machine's",
                        inQuotes(target.architecture));
  for (const std::string &feature : target.features)
    if (!machineHas(feature).value_or(false))
      return otherMachine("target.features",
                          machineHas(feature)
                              ? "what this machine's CPU has"
                              : "features that this loader knows",
                          inQuotes(feature) + " (code for " + target.cpu + ")");
  for (const std::string &hook : target.hooks)
    if (!findHook(hook))
      return fileError(path_, "target.hooks",
                       difference("functions of this runtime", inQuotes(hook)));
  return Status();
}

/// `section`, and whether it has the type.
static Status checkSection(const std::map<std::string, ArtifactSection> &all,
                           const std::string &path, const std::string &name,
                           const std::string &dtype) {
  auto found = all.find(name);
  if (found == all.end())
    return fileError(path, "section " + name,
                     difference(dtype + " data", "none"));
  if (found->second.dtype != dtype)
    return fileError(path, "section " + name,
                     "dtype: " + difference(dtype, found->second.dtype));
  return Status();
}

Status Artifact::checkSections() const {
  Status status = checkSection(sections_, path_,
                               kCodePrefix + description_.target.cpu, "U8");
  if (status.ok())
    status = checkSection(sections_, path_, kProgramSection, "U8");
  for (const std::string &weight : description_.weights)
    if (status.ok())
      status = checkSection(sections_, path_, kWeightPrefix + weight, "BF16");
  if (!status.ok())
    return status;
  for (const auto &[name, section] : sections_)
    if (!hashes_.count(name))
      return fileError(path_, "hashes",
                       difference("one of section " + name, "none"));
  for (const auto &[name, hash] : hashes_)
    if (!sections_.count(name))
      return fileError(path_, "section " + name,
                       difference("data of hash " + inQuotes(hash), "none"));
  return Status();
}

Status Artifact::checkHashes() const {
  for (const auto &[name, section] : sections_) {
    std::string hash = hashOf(section.data, section.bytes);
    if (hash != hashes_.at(name))
      return fileError(
          path_, "section " + name,
          "hash: " + difference(inQuotes(hashes_.at(name)), inQuotes(hash)) +
              "; the file is damaged");
  }
  return Status();
}

Result<std::shared_ptr<const Artifact>>
Artifact::open(const std::string &path) {
  return guarded([&]() -> Result<std::shared_ptr<const Artifact>> {
    std::shared_ptr<Artifact> artifact(new Artifact());
    artifact->path_ = path;
    Status status = artifact->map();
    if (status.ok())
      status = artifact->readHeader();
    if (status.ok())
      status = artifact->checkLayout();
    if (status.ok())
      status = artifact->checkTarget();
    if (status.ok())
      status = artifact->checkSections();
    if (status.ok())
      status = artifact->checkHashes();
    if (!status.ok())
      return status;
    return std::shared_ptr<const Artifact>(std::move(artifact));
  });
}

bool Artifact::hasTokenizer() const {
  return sections_.count(std::string(kTokenizerPrefix) + "tokenizer.json") > 0;
}

//===----------------------------------------------------------------------===//
// The program
//===----------------------------------------------------------------------===//

namespace {
/// What a program needs as long as it lives.
struct Loaded {
  std::shared_ptr<const Artifact> artifact;
  std::shared_ptr<SharedCode> code;
};
} // namespace

Result<Program>
pmkvq::rt::loadProgram(std::shared_ptr<const Artifact> artifact) {
  return guarded([&]() -> Result<Program> {
    const ArtifactDescription &description = artifact->description();
    const auto &sections = artifact->sections();
    std::string name = kCodePrefix + description.target.cpu;
    const ArtifactSection &section = sections.at(name);
    auto fail = [&](const Status &status) {
      return fileError(artifact->path(), "section " + name, status.message(),
                       status.code());
    };
    auto code =
        SharedCode::load(section.data, section.bytes, description.target.hooks);
    if (!code.ok())
      return fail(code.status());
    auto entries =
        findEntries([&](const char *entry) { return (*code)->lookUp(entry); });
    if (!entries.ok())
      return fail(entries.status());
    std::vector<const void *> weights;
    for (const std::string &weight : description.weights)
      weights.push_back(sections.at(kWeightPrefix + weight).data);
    auto program =
        openProgram(*entries, std::move(weights),
                    std::make_shared<Loaded>(Loaded{artifact, *code}));
    if (!program.ok())
      return fail(program.status());
    Status same = compare(description.info, program->info, artifact->path());
    if (!same.ok())
      return same;
    return program;
  });
}
