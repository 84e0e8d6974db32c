//===- Loader.cpp - pmkvq-run without the compiler ------------------------===//
//
// Runs artifacts; built with PMKVQ_COMPILER=OFF, without LLVM.  Neighbours:
// LoadedRun.h; pmkvq-run.cpp is the tool with the compiler.
//
//===----------------------------------------------------------------------===//

#include "run/LoadedRun.h"
#include "run/OptionValues.h"
#include "run/Output.h"
#include <algorithm>
#include <csignal>
#include <cstdio>

using namespace pmkvq::run;
namespace rt = ::pmkvq::rt;

static rt::Status runTool(const std::vector<std::string> &arguments) {
  CommandLine line(/*stages=*/{}, /*compiles=*/false);
  if (rt::Status s = line.parse(arguments); !s.ok())
    return s;
  if (line.help)
    return printOut(helpText(line));
  if (line.completion.given()) {
    rt::Result<std::string> shell = readChoice(line.completion);
    return shell.ok() ? printOut(bashCompletion(line)) : shell.status();
  }
  if (line.load.given())
    return runArtifact(line);
  return refusal(
      "built without the compiler: expected --load=FILE, which "
      "pmkvq-run MODEL --emit=artifact -o FILE makes, got " +
      (line.models.empty() ? "none" : "MODEL '" + line.models.front() + "'"));
}

int main(int argc, char **argv) {
  // A reader that goes away shows as a failed write.
  std::signal(SIGPIPE, SIG_IGN);
  rt::Status status = runTool({argv + 1, argv + argc});
  if (status.ok())
    return 0;
  std::string message = status.message();
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fprintf(stderr, "pmkvq-run: error: %s\n", message.c_str());
  return 1;
}
