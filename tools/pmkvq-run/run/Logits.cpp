//===- Logits.cpp - Logits of given tokens, as a file ---------------------===//
//
// See Logits.h.
//
//===----------------------------------------------------------------------===//

#include "run/Logits.h"
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

using namespace pmkvq::run;
namespace fs = std::filesystem;
namespace rt = ::pmkvq::rt;

namespace {
/// A safetensors file whose rows are written in any order.
class LogitsFile {
public:
  LogitsFile(const std::vector<std::vector<int32_t>> &prompts, int64_t vocab,
             const std::string &file)
      : vocab(vocab), target(resolve(file)), partial(target + ".partial"),
        stream(partial, std::ios::binary) {
    nlohmann::json tensors;
    int64_t end = 0;
    for (const std::vector<int32_t> &prompt : prompts) {
      int64_t rows = static_cast<int64_t>(prompt.size());
      starts.push_back(end);
      end += rows * rowBytes();
      tensors["logits." + std::to_string(starts.size() - 1)] = {
          {"dtype", "F32"},
          {"shape", {rows, vocab}},
          {"data_offsets", {starts.back(), end}}};
    }
    std::string header = tensors.dump();
    header.resize((header.size() + 7) / 8 * 8, ' ');
    auto size = static_cast<uint64_t>(header.size());
    stream.write(reinterpret_cast<const char *>(&size), sizeof(size));
    stream.write(header.data(), static_cast<std::streamsize>(header.size()));
    dataStart = static_cast<int64_t>(sizeof(size) + header.size());
  }

  ~LogitsFile() {
    stream.close();
    std::remove(partial.c_str());
  }

  void write(const rt::PositionLogits &row) {
    stream.seekp(dataStart + starts[row.sequence] + row.position * rowBytes());
    stream.write(reinterpret_cast<const char *>(row.logits), rowBytes());
  }

  /// Rows are written in any order, and the file gets its name at the end: a
  /// device or a pipe can be neither.
  bool good() const {
    std::error_code error;
    fs::file_status status = fs::status(target, error);
    return stream.good() && (!fs::exists(status) || is_regular_file(status));
  }

  /// Gives the file its name.
  rt::Status finish() {
    stream.close();
    std::error_code error;
    if (!stream.fail())
      fs::rename(partial, target, error);
    return stream.fail() || error ? failure() : rt::Status();
  }

  rt::Status failure() const {
    return {rt::StatusCode::InvalidArgument,
            "--logits: cannot write '" + target + "'"};
  }

private:
  /// What a link leads to, so that it stays a link.
  static std::string resolve(const std::string &file) {
    std::error_code error;
    fs::path real = fs::canonical(file, error);
    return error ? file : real.string();
  }

  int64_t rowBytes() const {
    return vocab * static_cast<int64_t>(sizeof(float));
  }

  int64_t vocab;
  std::string target, partial;
  std::ofstream stream;
  int64_t dataStart = 0;
  std::vector<int64_t> starts;
};
} // namespace

rt::Status
pmkvq::run::writeLogits(rt::Session &session,
                        const std::vector<std::vector<int32_t>> &prompts,
                        int64_t vocab, const std::string &file,
                        const rt::PrefillProgress &progress) {
  LogitsFile out(prompts, vocab, file);
  if (!out.good())
    return out.failure();
  std::vector<rt::Prompt> given;
  int64_t done = 0, total = 0;
  for (const std::vector<int32_t> &prompt : prompts) {
    given.push_back({static_cast<int32_t>(given.size()), prompt});
    total += static_cast<int64_t>(prompt.size());
  }
  rt::Status status = session.force(given, [&](const rt::PositionLogits &row) {
    out.write(row);
    progress(++done, total);
    return out.good();
  });
  if (!out.good())
    return out.failure();
  return status.ok() ? out.finish() : status;
}
