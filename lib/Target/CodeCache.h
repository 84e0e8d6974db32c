//===- CodeCache.h - Compiled code in files ---------------------*- C++ -*-===//
//
// Code that outlives the process that compiled it, found again by what it was
// compiled from.  Neighbours: HostProgram.cpp, DeviceProgram.cpp and
// Assembler.cpp, which compile; LLVM's Caching.h and CachePruning.h, which
// write files at once and delete old ones.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_TARGET_CODECACHE_H
#define PMKVQ_LIB_TARGET_CODECACHE_H

#include "mlir/Support/LLVM.h"
#include "llvm/Support/MemoryBuffer.h"
#include <memory>
#include <string>

namespace llvm {
class Module;
}

namespace mlir::pmkvq {

/// What code of `ir` is kept under: the module before it is optimized, with
/// triple, CPU and features in it or in `target`, and the version of LLVM.
std::string codeKey(const llvm::Module &ir, StringRef target = "");

/// What code made of `text` is kept under; who makes it must be part of it.
std::string codeKey(StringRef text);

/// A folder that several processes may use.  Nothing here fails: what cannot be
/// kept, or was damaged since, is compiled again.
class CodeCache {
public:
  /// `folder` is made when something is kept; empty: nothing ever is.
  explicit CodeCache(StringRef folder) : folder(folder) {}

  /// Null if there is none.
  std::unique_ptr<llvm::MemoryBuffer> load(StringRef key) const;

  void keep(StringRef key, llvm::MemoryBufferRef code) const;

private:
  std::string folder;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_TARGET_CODECACHE_H
