//===- Status.h - Errors of the runtime -------------------------*- C++ -*-===//
//
// The result of every call that can fail.  No exceptions, no aborts.
// Neighbours: Runtime.h (the C API maps these codes one to one).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_STATUS_H
#define PMKVQ_RT_STATUS_H

#include <optional>
#include <string>
#include <utility>

namespace pmkvq::rt {

enum class StatusCode : int {
  Ok = 0,
  /// The caller passed something wrong: correct the argument and call again.
  InvalidArgument = 1,
  /// Memory or the byte budget does not suffice: raise the budget, lower the
  /// floor, or ask for fewer tokens.
  OutOfMemory = 2,
  /// A value cannot be represented by the cache's format: choose another format
  /// or level 16; the session is not usable any more.
  NotRepresentable = 3,
  /// A file or program is damaged or of another version: make it again.
  DataLoss = 4,
  /// The call does not fit the state of the session: see the message.
  FailedPrecondition = 5,
  /// Not built: the message names what is.
  Unimplemented = 6,
  /// A defect of pmkvq itself: report it with the message.
  Internal = 7,
};

/// A code, a message that says what to do, and where it arose.
class [[nodiscard]] Status {
public:
  Status() = default;
  Status(StatusCode code, std::string message,
         const char *file = __builtin_FILE(), int line = __builtin_LINE())
      : code_(code), message_(std::move(message)), file_(file), line_(line) {}

  bool ok() const { return code_ == StatusCode::Ok; }
  StatusCode code() const { return code_; }
  const std::string &message() const { return message_; }
  const char *file() const { return file_; }
  int line() const { return line_; }

private:
  StatusCode code_ = StatusCode::Ok;
  std::string message_;
  const char *file_ = "";
  int line_ = 0;
};

/// A value, or the Status that says why there is none.  `*result` and
/// `result->` require ok().
template <typename T> class [[nodiscard]] Result {
public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status status) : status_(std::move(status)) {}

  bool ok() const { return value_.has_value(); }
  const Status &status() const { return status_; }

  T &operator*() { return *value_; }
  const T &operator*() const { return *value_; }
  T *operator->() { return &*value_; }
  const T *operator->() const { return &*value_; }

private:
  Status status_;
  std::optional<T> value_;
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_STATUS_H
