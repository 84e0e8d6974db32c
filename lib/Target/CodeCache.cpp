//===- CodeCache.cpp - Compiled code in files -----------------------------===//
//
// A file is the code and its SHA-256.  Neighbours: CodeCache.h.
//
//===----------------------------------------------------------------------===//

#include "CodeCache.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Bitcode/BitcodeWriter.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/CachePruning.h"
#include "llvm/Support/Caching.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/SHA256.h"
#include "llvm/Support/raw_ostream.h"
#include <array>
#include <chrono>

using namespace mlir;
using namespace mlir::pmkvq;

/// Of one attention kernel some 100 KB.
static constexpr uint64_t kMostBytes = uint64_t{256} << 20;
static constexpr std::chrono::hours kMostAge(24 * 30);
static constexpr size_t kDigestBytes = 32;

static StringRef digestText(const std::array<uint8_t, kDigestBytes> &digest) {
  return {reinterpret_cast<const char *>(digest.data()), digest.size()};
}

static std::array<uint8_t, kDigestBytes> digestOf(StringRef bytes) {
  return llvm::SHA256::hash(llvm::arrayRefFromStringRef(bytes));
}

std::string mlir::pmkvq::codeKey(StringRef text) {
  return llvm::toHex(digestOf(text), /*LowerCase=*/true);
}

std::string mlir::pmkvq::codeKey(const llvm::Module &ir, StringRef target) {
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream os(text);
  os << LLVM_VERSION_STRING << '\n' << target << '\n';
  llvm::WriteBitcodeToFile(ir, os);
  return codeKey(text);
}

/// LLVM's cache of files in `folder`; what is there under a key, it hands to
/// `found`.
static llvm::Expected<llvm::FileCache>
openFolder(StringRef folder, std::unique_ptr<llvm::MemoryBuffer> &found) {
  return llvm::localCache("code", "code", folder,
                          [&found](unsigned, const llvm::Twine &,
                                   std::unique_ptr<llvm::MemoryBuffer> bytes) {
                            found = std::move(bytes);
                          });
}

std::unique_ptr<llvm::MemoryBuffer> CodeCache::load(StringRef key) const {
  if (folder.empty())
    return nullptr;
  std::unique_ptr<llvm::MemoryBuffer> file;
  auto cache = openFolder(folder, file);
  if (!cache) {
    llvm::consumeError(cache.takeError());
    return nullptr;
  }
  if (auto missing = (*cache)(0, key, ""); !missing)
    llvm::consumeError(missing.takeError());
  if (!file || file->getBufferSize() <= kDigestBytes)
    return nullptr;
  StringRef code = file->getBuffer().drop_back(kDigestBytes);
  if (file->getBuffer().take_back(kDigestBytes) != digestText(digestOf(code)))
    return nullptr;
  return llvm::MemoryBuffer::getMemBufferCopy(code, key);
}

void CodeCache::keep(StringRef key, llvm::MemoryBufferRef code) const {
  if (folder.empty())
    return;
  auto write = [&]() -> llvm::Error {
    // A damaged file is in the way.
    llvm::SmallString<128> path(folder);
    llvm::sys::path::append(path, "llvmcache-" + key);
    if (std::error_code error = llvm::sys::fs::remove(path))
      return llvm::errorCodeToError(error);
    std::unique_ptr<llvm::MemoryBuffer> file;
    auto cache = openFolder(folder, file);
    if (!cache)
      return cache.takeError();
    auto open = (*cache)(0, key, "");
    if (!open || !*open)
      return open.takeError();
    auto stream = (*open)(0, "");
    if (!stream)
      return stream.takeError();
    // The stream of such a cache is of a file.  Where the disk is full, what is
    // written of it will not be taken for code.
    auto &os = static_cast<llvm::raw_fd_ostream &>(*(*stream)->OS);
    os << code.getBuffer() << digestText(digestOf(code.getBuffer()));
    os.flush();
    os.clear_error();
    return (*stream)->commit();
  };
  llvm::consumeError(write());
  llvm::CachePruningPolicy policy;
  policy.MaxSizeBytes = kMostBytes;
  policy.Expiration = kMostAge;
  llvm::pruneCache(folder, policy);
}
