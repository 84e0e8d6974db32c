//===- Check.cpp - What --check asks for ----------------------------------===//
//
// See Check.h.
//
//===----------------------------------------------------------------------===//

#include "Check.h"
#include "llvm/Support/FormatVariadic.h"
#include <nlohmann/json.hpp>

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;

char CheckFailed::ID;

Expected<std::unique_ptr<check::AttentionChecker>>
pmkvq::run::makeChecker(const Options &options,
                        std::vector<check::Attention> layers,
                        const mlir::pmkvq::HostProgram &code) {
  if (!options.checkTolerance)
    return nullptr;
  auto checker = check::AttentionChecker::create(
      std::move(layers), check::findAttentionKernels([&](llvm::StringRef name) {
        return code.lookUp(name);
      }),
      options.threads);
  if (!checker)
    return llvm::createStringError("--check: " +
                                   llvm::toString(checker.takeError()));
  return checker;
}

CheckedText pmkvq::run::describeCheck(const check::Report &report) {
  nlohmann::ordered_json object = {{"steps", report.steps},
                                   {"outputs", report.outputs},
                                   {"largest", report.largest},
                                   {"rms", report.rms},
                                   {"worst",
                                    {{"step", report.worst.step},
                                     {"sequence", report.worst.sequence},
                                     {"position", report.worst.position},
                                     {"layer", report.worst.layer},
                                     {"head", report.worst.head}}}};
  return {object.dump(),
          llvm::formatv("check   {0:N} outputs of {1:N} steps; relative "
                        "errors: {2}",
                        report.outputs, report.steps, report.text())
              .str()};
}

Error pmkvq::run::judge(const Options &options,
                        const check::AttentionChecker *checker, Error run) {
  if (!checker)
    return run;
  check::Report report = checker->report();
  // A run that failed may have stopped within a step.
  if (report.largest <= *options.checkTolerance &&
      (run || report.defect.empty()))
    return run;
  std::string message =
      report.defect.empty()
          ? llvm::formatv("--check: expected relative errors of attention of "
                          "at most {0:e1}, got {1}",
                          *options.checkTolerance, report.text())
                .str()
          : "--check: " + report.defect;
  if (run)
    message += "; then the run failed: " + llvm::toString(std::move(run));
  return llvm::make_error<CheckFailed>(std::move(message));
}
