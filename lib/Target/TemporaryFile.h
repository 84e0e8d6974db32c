//===- TemporaryFile.h - Files for other programs ---------------*- C++ -*-===//
//
// Neighbours: Assembler.cpp and SharedObject.cpp, which run ptxas and linkers.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_TARGET_TEMPORARYFILE_H
#define PMKVQ_LIB_TARGET_TEMPORARYFILE_H

#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/raw_ostream.h"
#include <string>

namespace mlir::pmkvq {

/// A temporary file that is gone in the end.
struct TemporaryFile {
  explicit TemporaryFile(llvm::StringRef extension)
      : error(llvm::sys::fs::createTemporaryFile("pmkvq", extension, path)),
        remover(path) {}

  llvm::Error write(llvm::StringRef bytes) const {
    std::error_code code;
    llvm::raw_fd_ostream os(path, code);
    os << bytes;
    os.close();
    if (!os.has_error())
      return llvm::Error::success();
    os.clear_error();
    return llvm::createStringError("cannot write " + path.str());
  }

  /// Empty if it cannot be read.
  std::string read() const {
    auto text = llvm::MemoryBuffer::getFile(path, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
    return text ? (*text)->getBuffer().str() : "";
  }

  llvm::SmallString<128> path;
  std::error_code error;
  llvm::FileRemover remover;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_TARGET_TEMPORARYFILE_H
