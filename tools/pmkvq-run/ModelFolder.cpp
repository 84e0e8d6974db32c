//===- ModelFolder.cpp - A model's folder, made if need be ----------------===//
//
// Neighbours: ModelFolder.h.
//
//===----------------------------------------------------------------------===//

#include "ModelFolder.h"
#include "run/Output.h"
#include "run/Text.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/xxhash.h"

using namespace pmkvq::run;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;
namespace fs = llvm::sys::fs;
namespace path = llvm::sys::path;
namespace rt = ::pmkvq::rt;

/// To be raised when pmkvq.gguf_import writes other files than before: folders
/// of an older version are not used any more.
static constexpr int kConversionVersion = 1;

/// Where a file's conversion belongs: told apart by path, size and time.
static Expected<std::string> conversionFolder(StringRef file,
                                              const fs::file_status &status) {
  llvm::SmallString<128> folder, real;
  if (auto cache = llvm::sys::Process::GetEnv("XDG_CACHE_HOME");
      cache && !cache->empty()) {
    folder = *cache;
  } else if (auto home = llvm::sys::Process::GetEnv("HOME");
             home && !home->empty()) {
    folder = *home;
    path::append(folder, ".cache");
  } else {
    return llvm::createStringError(
        "a GGUF file is converted into a cache folder: expected HOME or "
        "XDG_CACHE_HOME in the environment, got neither");
  }
  if (fs::real_path(file, real))
    real = file;
  std::string identity =
      (Twine(kConversionVersion) + "\n" + real + "\n" +
       Twine(status.getSize()) + "\n" +
       Twine(status.getLastModificationTime().time_since_epoch().count()))
          .str();
  std::string name =
      path::stem(file).str() + "-" +
      llvm::utohexstr(llvm::xxh3_64bits(identity), /*LowerCase=*/true);
  path::append(folder, "pmkvq", name);
  return folder.str().str();
}

static Expected<std::string> convertGGUF(StringRef file,
                                         const fs::file_status &status) {
  Expected<std::string> folder = conversionFolder(file, status);
  if (!folder || fs::is_directory(*folder))
    return folder;
  Progress progress;
  progress.show(("converting " + file).str());
  // The converter writes beside the folder and renames: it is whole or absent.
  rt::Result<Child> child =
      startPython({"pmkvq.gguf_import", file.str(), *folder});
  if (!child.ok())
    return llvm::createStringError(
        file + ": converting it: " + child.status().message());
  int code = child->wait();
  // Another process may have been faster.
  if (code != 0 && !fs::is_directory(*folder))
    return llvm::createStringError(
        pythonFailure("pmkvq.gguf_import", *child, code));
  return folder;
}

Expected<std::string> pmkvq::run::findModelFolder(StringRef model) {
  fs::file_status status;
  if (std::error_code error = fs::status(model, status))
    return llvm::createStringError(model + ": " + error.message());
  if (fs::is_directory(status))
    return model.str();
  return convertGGUF(model, status);
}
