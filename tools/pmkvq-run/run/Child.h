//===- Child.h - A child process to talk to ---------------------*- C++ -*-===//
//
// Starts a process with pipes to its input and output; what it writes to stderr
// is kept for an error message.  Neighbours: Python.h (which children there
// are).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_CHILD_H
#define PMKVQ_TOOLS_RUN_RUN_CHILD_H

#include "pmkvq_rt/Status.h"
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace pmkvq::run {

/// Owns a file descriptor.
class FileDescriptor {
public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd(fd) {}
  FileDescriptor(FileDescriptor &&other) noexcept
      : fd(std::exchange(other.fd, -1)) {}
  FileDescriptor &operator=(FileDescriptor &&other) noexcept {
    std::swap(fd, other.fd);
    return *this;
  }
  ~FileDescriptor() { close(); }
  int get() const { return fd; }
  void close();

private:
  int fd = -1;
};

/// A running process.  The destructor closes its input and waits for it.
class Child {
public:
  /// Starts `arguments[0]`, looked up in PATH, with this process's environment
  /// and `variables` ("NAME=VALUE") on top.
  ///
  /// Errors: the program and the system's reason.
  static rt::Result<Child> start(const std::vector<std::string> &arguments,
                                 const std::vector<std::string> &variables);

  Child(Child &&other) noexcept;
  Child &operator=(Child &&other) = delete;
  ~Child();

  /// False if the child does not listen any more.
  bool writeLine(const std::string &line);

  /// The next line without its end; false at the end of the output.
  bool readLine(std::string &line);

  /// Closes the input and waits; the exit code, or -1 if a signal ended it.
  int wait();

  /// The last line that the child has written to stderr.
  std::string lastErrorLine() const;

private:
  Child() = default;

  pid_t pid = -1;
  FileDescriptor input, output, errors;
  std::string buffered;
};

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_CHILD_H
