//===- Fields.h - Typed access to a JSON object of a file -------*- C++ -*-===//
//
// Neighbours: Json.h (how files are read), ModelConfig.cpp, RopeConfig.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_IMPORT_FIELDS_H
#define PMKVQ_LIB_IMPORT_FIELDS_H

#include "Json.h"
#include "mlir/Support/LLVM.h"
#include "llvm/ADT/Twine.h"
#include <optional>
#include <string>

namespace mlir::pmkvq {

/// Typed access to an object of a file.  The first error is kept and everything
/// after it returns some valid value, so that reading needs no check a field.
class Fields {
public:
  using json = nlohmann::json;

  /// `prefix` stands before the names of fields in messages.
  Fields(const json &object, StringRef path, std::string prefix = "")
      : object(object), path(path.str()), prefix(std::move(prefix)) {}
  Fields(const Fields &) = delete;
  Fields &operator=(const Fields &) = delete;
  ~Fields() { llvm::consumeError(std::move(error)); }

  /// Null for a field that is missing or null.
  const json *find(StringRef name) const;

  /// A number from 1 to 2^31 - 1.
  int64_t count(StringRef name, std::optional<int64_t> fallback = {});

  /// A positive finite number.
  double positive(StringRef name, std::optional<double> fallback = {});

  bool flag(StringRef name, bool fallback);

  /// Refuses a field that is set to anything but null or `allowed`.
  void only(StringRef name, const json &allowed, const Twine &reason);

  /// Keeps the error that `name` is not as expected; null is a missing field.
  void fail(StringRef name, const Twine &expected, const json *actual);

  /// Takes over the error of an inner object.
  void adopt(llvm::Error inner);

  llvm::Error takeError() { return std::move(error); }
  const json &getObject() const { return object; }
  const std::string &getPath() const { return path; }

private:
  const json &object;
  std::string path;
  std::string prefix;
  llvm::Error error = llvm::Error::success();
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_IMPORT_FIELDS_H
