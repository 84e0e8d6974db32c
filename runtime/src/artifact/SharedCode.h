//===- SharedCode.h - A shared object from memory ---------------*- C++ -*-===//
//
// Neighbours: Artifact.cpp (who loads code), Launch.h (the hooks it is given).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SRC_ARTIFACT_SHAREDCODE_H
#define PMKVQ_RT_SRC_ARTIFACT_SHAREDCODE_H

#include "pmkvq_rt/Artifact.h"

namespace pmkvq::rt::artifact {

/// Code that is loaded while this lives.
class SharedCode {
public:
  /// Loads `bytes` bytes of a shared object and gives it its hooks.
  ///
  /// Errors: FailedPrecondition, with the system's reason.
  static Result<std::shared_ptr<SharedCode>>
  load(const uint8_t *data, int64_t bytes,
       const std::vector<std::string> &hooks);

  SharedCode(const SharedCode &) = delete;
  SharedCode &operator=(const SharedCode &) = delete;
  ~SharedCode();

  /// Null for a name that the code does not export.
  void *lookUp(const char *name) const;

private:
  SharedCode() = default;
  Status copyIn(const uint8_t *data, int64_t bytes);
  Result<std::string> chooseName();
  Status setHooks(const std::vector<std::string> &hooks);

  /// Open as long as the code is loaded: the system's loader knows libraries by
  /// their names, and would take another file of this number for this one.
  int fd_ = -1;
  void *handle_ = nullptr;
};

/// The function of the runtime that code calls by this name; null: there is
/// none.
void *findHook(const std::string &name);

} // namespace pmkvq::rt::artifact

#endif // PMKVQ_RT_SRC_ARTIFACT_SHAREDCODE_H
