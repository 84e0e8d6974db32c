//===- Json.h - JSON files without exceptions -----------------*- C++ -*-===//
//
// Reads a JSON file and shows values in messages.  The parser must not recurse:
// a damaged file may nest 100,000 brackets, which rules out llvm::json.
// Neighbours: Safetensors.cpp, ModelConfig.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_IMPORT_JSON_H
#define PMKVQ_LIB_IMPORT_JSON_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <nlohmann/json.hpp>

namespace mlir::pmkvq {

/// Reads a JSON object.
///
/// Errors: what is wrong; an object that has a member twice is, too: readers
/// differ in which of the two they take.
llvm::Expected<nlohmann::json> parseJsonObject(llvm::StringRef text);

/// Reads a file that holds one JSON object.
///
/// Errors: the file, and why it cannot be read.
llvm::Expected<nlohmann::json> readJsonObject(llvm::StringRef path);

/// A value on one line of at most 80 characters.
std::string showJson(const nlohmann::json &value);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_IMPORT_JSON_H
