//===- Child.cpp - A child process to talk to -----------------------------===//
//
// stderr goes to a file in memory: nobody has to read it while the child runs,
// so a talkative child cannot block.  Neighbours: Child.h.
//
//===----------------------------------------------------------------------===//

#include "run/Child.h"
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace pmkvq::run;
namespace rt = ::pmkvq::rt;

void FileDescriptor::close() {
  if (fd >= 0)
    ::close(std::exchange(fd, -1));
}

static rt::Status systemError(const std::string &what, int code) {
  return {rt::StatusCode::FailedPrecondition,
          what + ": " + std::strerror(code)};
}

/// NAME of "NAME=VALUE".
static std::string nameOf(const std::string &variable) {
  return variable.substr(0, variable.find('='));
}

/// This process's environment, each of `variables` replacing its namesake.
static std::vector<std::string>
makeEnvironment(const std::vector<std::string> &variables) {
  std::vector<std::string> environment = variables;
  for (char **entry = environ; *entry; ++entry) {
    bool replaced = std::any_of(variables.begin(), variables.end(),
                                [&](const std::string &variable) {
                                  return nameOf(variable) == nameOf(*entry);
                                });
    if (!replaced)
      environment.emplace_back(*entry);
  }
  return environment;
}

static std::vector<char *> pointers(const std::vector<std::string> &strings) {
  std::vector<char *> result;
  for (const std::string &string : strings)
    result.push_back(const_cast<char *>(string.c_str()));
  result.push_back(nullptr);
  return result;
}

static bool makePipe(FileDescriptor &readEnd, FileDescriptor &writeEnd) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return false;
  readEnd = FileDescriptor(ends[0]);
  writeEnd = FileDescriptor(ends[1]);
  return true;
}

/// posix_spawnp with the three descriptors as stdin, stdout and stderr.
/// Returns an errno.
static int spawn(pid_t &pid, const std::vector<std::string> &arguments,
                 const std::vector<std::string> &environment,
                 const int (&standard)[3]) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  for (int fd = 0; fd < 3; ++fd)
    posix_spawn_file_actions_adddup2(&actions, standard[fd], fd);
  // This process ignores SIGPIPE; its children should not.
  sigset_t defaults;
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  int code =
      posix_spawnp(&pid, arguments.front().c_str(), &actions, &attributes,
                   pointers(arguments).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  return code;
}

rt::Result<Child> Child::start(const std::vector<std::string> &arguments,
                               const std::vector<std::string> &variables) {
  Child child;
  FileDescriptor childInput, childOutput;
  child.errors = FileDescriptor(memfd_create("stderr", MFD_CLOEXEC));
  if (child.errors.get() < 0 || !makePipe(childInput, child.input) ||
      !makePipe(child.output, childOutput))
    return systemError("pipes to " + arguments.front(), errno);
  int code = spawn(child.pid, arguments, makeEnvironment(variables),
                   {childInput.get(), childOutput.get(), child.errors.get()});
  if (code != 0) {
    child.pid = -1;
    return systemError("cannot start " + arguments.front(), code);
  }
  return rt::Result<Child>(std::move(child));
}

Child::Child(Child &&other) noexcept
    : pid(std::exchange(other.pid, -1)), input(std::move(other.input)),
      output(std::move(other.output)), errors(std::move(other.errors)),
      buffered(std::move(other.buffered)) {}

Child::~Child() { wait(); }

bool Child::writeLine(const std::string &line) {
  std::string text = line + "\n";
  for (size_t done = 0; done < text.size();) {
    ssize_t count = write(input.get(), text.data() + done, text.size() - done);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return false;
    done += static_cast<size_t>(count);
  }
  return true;
}

bool Child::readLine(std::string &line) {
  size_t end;
  while ((end = buffered.find('\n')) == std::string::npos) {
    char chunk[4096];
    ssize_t count = read(output.get(), chunk, sizeof(chunk));
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return false;
    buffered.append(chunk, static_cast<size_t>(count));
  }
  line = buffered.substr(0, end);
  buffered.erase(0, end + 1);
  return true;
}

int Child::wait() {
  input.close();
  if (pid < 0)
    return 0;
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  pid = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string Child::lastErrorLine() const {
  std::string text;
  char chunk[4096];
  off_t offset = 0;
  ssize_t count;
  while ((count = pread(errors.get(), chunk, sizeof(chunk), offset)) > 0) {
    text.append(chunk, static_cast<size_t>(count));
    offset += count;
  }
  constexpr const char *blanks = " \t\n\v\f\r";
  text.erase(text.find_last_not_of(blanks) + 1);
  std::string line = text.substr(text.rfind('\n') + 1);
  line.erase(0, std::min(line.find_first_not_of(blanks), line.size()));
  return line;
}
