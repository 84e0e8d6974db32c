//===- ModelFolder.h - A model's folder, made if need be --------*- C++ -*-===//
//
// GGUF files go through a converter in Python.  Neighbours: Text.h (how Python
// is started), Loading.h; python/pmkvq/gguf_import.py is the other end.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_MODELFOLDER_H
#define PMKVQ_TOOLS_RUN_MODELFOLDER_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>

namespace pmkvq::run {

/// The folder of a model: `model` itself, or what its GGUF file was converted
/// to, now or earlier.
///
/// Errors: `model` does not exist; the converter's message.
llvm::Expected<std::string> findModelFolder(llvm::StringRef model);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_MODELFOLDER_H
