//===- Logits.cpp - Logits of given tokens, as a file ---------------------===//
//
// See Logits.h.
//
//===----------------------------------------------------------------------===//

#include "Logits.h"
#include "CachePlan.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include <cstdio>
#include <fstream>
#include <string>

using namespace pmkvq::run;
using llvm::Error;
using llvm::StringRef;
namespace rt = ::pmkvq::rt;

namespace {
/// A safetensors file whose rows are written in any order.
class LogitsFile {
public:
  LogitsFile(const std::vector<std::vector<int32_t>> &prompts, int64_t vocab,
             StringRef file)
      : vocab(vocab), target(resolve(file)), partial(target + ".partial"),
        stream(partial, std::ios::binary) {
    llvm::json::Object tensors;
    int64_t end = 0;
    for (const std::vector<int32_t> &prompt : prompts) {
      int64_t rows = static_cast<int64_t>(prompt.size());
      starts.push_back(end);
      end += rows * rowBytes();
      tensors["logits." + std::to_string(starts.size() - 1)] =
          llvm::json::Object{
              {"dtype", "F32"},
              {"shape", llvm::json::Array{rows, vocab}},
              {"data_offsets", llvm::json::Array{starts.back(), end}}};
    }
    std::string header;
    llvm::raw_string_ostream(header) << llvm::json::Value(std::move(tensors));
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
    llvm::sys::fs::file_status status;
    bool exists = !llvm::sys::fs::status(target, status);
    return stream.good() && (!exists || is_regular_file(status));
  }

  /// Gives the file its name.
  Error finish() {
    stream.close();
    if (stream.fail() || llvm::sys::fs::rename(partial, target))
      return failure();
    return Error::success();
  }

  Error failure() const {
    return llvm::createStringError("--logits: cannot write '" + target + "'");
  }

private:
  /// What a link leads to, so that it stays a link.
  static std::string resolve(StringRef file) {
    llvm::SmallString<128> real;
    return llvm::sys::fs::real_path(file, real) ? file.str() : real.str().str();
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

Error pmkvq::run::writeLogits(rt::Session &session,
                              const std::vector<std::vector<int32_t>> &prompts,
                              int64_t vocab, StringRef file,
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
  if (!status.ok())
    return toError(status);
  return out.finish();
}
