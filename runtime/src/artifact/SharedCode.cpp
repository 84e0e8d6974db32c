//===- SharedCode.cpp - A shared object from memory -----------------------===//
//
// Neighbours: SharedCode.h.
//
//===----------------------------------------------------------------------===//

#include "SharedCode.h"

#include "pmkvq_rt/Launch.h"

#include <cerrno>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

using namespace pmkvq::rt;
using namespace pmkvq::rt::artifact;

// Newer than some systems' headers: systems that forbid code in such files ask
// for it.
#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

static Status systemError(const std::string &what) {
  return Status(StatusCode::FailedPrecondition,
                what + ": " + std::strerror(errno));
}

std::string pmkvq::rt::hookPointerName(const std::string &hook) {
  return "pmkvq_pointer_to_" + hook;
}

void *artifact::findHook(const std::string &name) {
  for (const HookSymbol &hook : hookSymbols())
    if (name == hook.name)
      return hook.address;
  for (const HookSymbol &conversion : conversionSymbols())
    if (name == conversion.name)
      return conversion.address;
  return nullptr;
}

Status SharedCode::copyIn(const uint8_t *data, int64_t bytes) {
  fd_ = ::memfd_create("pmkvq-code", MFD_CLOEXEC | MFD_EXEC);
  if (fd_ < 0 && errno == EINVAL)
    fd_ = ::memfd_create("pmkvq-code", MFD_CLOEXEC);
  if (fd_ < 0)
    return systemError("memfd_create");
  while (bytes > 0) {
    ssize_t written = ::write(fd_, data, static_cast<size_t>(bytes));
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return systemError("a file in memory");
    data += written;
    bytes -= written;
  }
  return Status();
}

/// The name of the file that no loaded library has.
Result<std::string> SharedCode::chooseName() {
  while (true) {
    std::string path = "/proc/self/fd/" + std::to_string(fd_);
    void *other = ::dlopen(path.c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (!other)
      return path;
    // One that was closed and stays, under the number of a file that is gone.
    ::dlclose(other);
    int next = ::fcntl(fd_, F_DUPFD_CLOEXEC, fd_ + 1);
    if (next < 0)
      return systemError("a number for a file");
    ::close(std::exchange(fd_, next));
  }
}

Status SharedCode::setHooks(const std::vector<std::string> &hooks) {
  for (const std::string &hook : hooks) {
    auto *pointer = static_cast<void **>(lookUp(hookPointerName(hook).c_str()));
    if (!pointer)
      return Status(StatusCode::FailedPrecondition,
                    "expected the code to export " + hookPointerName(hook) +
                        ", got no such name");
    *pointer = findHook(hook);
  }
  return Status();
}

Result<std::shared_ptr<SharedCode>>
SharedCode::load(const uint8_t *data, int64_t bytes,
                 const std::vector<std::string> &hooks) {
  std::shared_ptr<SharedCode> code(new SharedCode());
  if (Status status = code->copyIn(data, bytes); !status.ok())
    return status;
  Result<std::string> path = code->chooseName();
  if (!path.ok())
    return path.status();
  code->handle_ = ::dlopen(path->c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!code->handle_) {
    const char *reason = ::dlerror();
    return Status(StatusCode::FailedPrecondition,
                  std::string("the system does not load it: ") +
                      (reason ? reason : "no reason given"));
  }
  if (Status status = code->setHooks(hooks); !status.ok())
    return status;
  return code;
}

SharedCode::~SharedCode() {
  if (handle_)
    ::dlclose(handle_);
  if (fd_ >= 0)
    ::close(fd_);
}

void *SharedCode::lookUp(const char *name) const {
  return ::dlsym(handle_, name);
}
