//===- Writer.cpp - Artifacts into files ----------------------------------===//
//
// Neighbours: Artifact.h, Container.h (the layout), Reader.cpp (the other way).
//
//===----------------------------------------------------------------------===//

#include "../Guard.h"
#include "Description.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

using namespace pmkvq::rt;
using namespace pmkvq::rt::artifact;
using nlohmann::json;

/// Data starts at a page of memory.
static constexpr int64_t kHeaderAlignment = 4096;

static Status writeError(const std::string &path) {
  return Status(StatusCode::InvalidArgument,
                path + ": cannot write: " + std::strerror(errno));
}

ArtifactSection pmkvq::rt::byteSection(std::string name,
                                       const std::string &bytes) {
  ArtifactSection section;
  section.name = std::move(name);
  section.dtype = "U8";
  section.bytes = static_cast<int64_t>(bytes.size());
  section.shape = {section.bytes};
  section.data = reinterpret_cast<const uint8_t *>(bytes.data());
  return section;
}

ArtifactWriter::ArtifactWriter(ArtifactWriter &&other) noexcept
    : path_(std::move(other.path_)), partial_(std::move(other.partial_)),
      fd_(std::exchange(other.fd_, -1)) {}

ArtifactWriter::~ArtifactWriter() {
  if (fd_ < 0)
    return;
  ::close(fd_);
  ::unlink(partial_.c_str());
}

Result<ArtifactWriter> ArtifactWriter::create(const std::string &path) {
  ArtifactWriter writer;
  writer.path_ = path;
  // What a link leads to, so that it stays a link.
  if (char *real = ::realpath(path.c_str(), nullptr)) {
    writer.path_ = real;
    std::free(real);
  }
  struct stat status;
  if (::stat(writer.path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
    return Status(StatusCode::InvalidArgument,
                  path + ": expected a regular file or none, got another kind");
  writer.partial_ = writer.path_ + ".XXXXXX";
  writer.fd_ = ::mkstemp(writer.partial_.data());
  if (writer.fd_ < 0)
    return writeError(path);
  // As if the user's shell had made it.
  mode_t mask = ::umask(0);
  ::umask(mask);
  ::fchmod(writer.fd_, 0666 & ~mask);
  return writer;
}

static bool writeAll(int fd, const void *data, int64_t bytes) {
  const auto *from = static_cast<const uint8_t *>(data);
  while (bytes > 0) {
    ssize_t written = ::write(fd, from, static_cast<size_t>(bytes));
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return false;
    from += written;
    bytes -= written;
  }
  return true;
}

static constexpr uint8_t kZeros[kArtifactAlignment] = {};

/// The sections, each at a multiple of kArtifactAlignment.
static std::vector<ArtifactSection>
align(const std::vector<ArtifactSection> &sections) {
  std::vector<ArtifactSection> aligned;
  for (const ArtifactSection &section : sections) {
    aligned.push_back(section);
    int64_t missing = -section.bytes & (kArtifactAlignment - 1);
    if (!missing)
      continue;
    ArtifactSection &padding = aligned.emplace_back();
    padding.name = kPaddingPrefix + std::to_string(aligned.size());
    padding.dtype = "U8";
    padding.shape = {missing};
    padding.data = kZeros;
    padding.bytes = missing;
  }
  return aligned;
}

/// Length and text of the header, padded with spaces.
static std::string makeHeader(const ArtifactDescription &description,
                              const std::vector<ArtifactSection> &sections) {
  json header = json::object();
  Hashes hashes;
  int64_t end = 0;
  for (const ArtifactSection &section : sections) {
    int64_t begin = std::exchange(end, end + section.bytes);
    header[section.name] = {{"dtype", section.dtype},
                            {"shape", section.shape},
                            {"data_offsets", {begin, end}}};
    hashes[section.name] = hashOf(section.data, section.bytes);
  }
  constexpr auto replace = json::error_handler_t::replace;
  header["__metadata__"] = {
      {"format", kFormatName},
      {"version", std::to_string(kArtifactVersion)},
      {"pmkvq", toJson(description, hashes).dump(-1, ' ', false, replace)}};
  header["__metadata__"]["hash"] = hashOfHeader(header);
  std::string text = header.dump(-1, ' ', false, replace);
  auto bytes = static_cast<int64_t>(sizeof(uint64_t) + text.size());
  text.resize(text.size() + (-bytes & (kHeaderAlignment - 1)), ' ');
  uint64_t length = text.size();
  std::string prefix(sizeof(length), '\0');
  for (size_t i = 0; i < sizeof(length); ++i)
    prefix[i] = static_cast<char>(length >> (8 * i));
  return prefix + text;
}

Status ArtifactWriter::write(const ArtifactDescription &description,
                             const std::vector<ArtifactSection> &sections) {
  return guarded([&]() -> Status {
    std::vector<ArtifactSection> aligned = align(sections);
    std::string header = makeHeader(description, aligned);
    bool ok = writeAll(fd_, header.data(), static_cast<int64_t>(header.size()));
    for (const ArtifactSection &section : aligned)
      ok = ok && writeAll(fd_, section.data, section.bytes);
    // Some file systems say only now that they are full.
    ok = ok && ::fsync(fd_) == 0;
    if (!ok || ::rename(partial_.c_str(), path_.c_str()) != 0)
      return writeError(path_);
    ::close(std::exchange(fd_, -1));
    return Status();
  });
}
