//===- Check.h - What --check asks for --------------------------*- C++ -*-===//
//
// Sets up the checker for a program and says what it has found.  Neighbours:
// Check/AttentionCheck.h (the checker), Output.h (who prints the report).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_CHECK_H
#define PMKVQ_TOOLS_RUN_CHECK_H

#include "Options.h"
#include "pmkvq/Check/AttentionCheck.h"
#include "pmkvq/Target/HostProgram.h"
#include "run/Output.h"

namespace pmkvq::run {

/// The exit code of a run whose attention is not the reference's.
inline constexpr int kCheckExitCode = 2;

/// The error that makes the exit code kCheckExitCode.
class CheckFailed : public llvm::ErrorInfo<CheckFailed> {
public:
  // NOLINTNEXTLINE(readability-identifier-naming): llvm::ErrorInfo's name.
  static char ID;
  explicit CheckFailed(std::string message) : message(std::move(message)) {}
  void log(llvm::raw_ostream &os) const override { os << message; }
  std::error_code convertToErrorCode() const override {
    return llvm::inconvertibleErrorCode();
  }

private:
  std::string message;
};

/// A checker of the program that `code` is, if the options ask for one.
///
/// Errors: as AttentionChecker::create.
llvm::Expected<std::unique_ptr<check::AttentionChecker>>
makeChecker(const Options &options, std::vector<check::Attention> layers,
            const mlir::pmkvq::HostProgram &code);

/// A report as the tool prints it.
CheckedText describeCheck(const check::Report &report);

/// CheckFailed if the checker, which may be null, has found more than the
/// options allow; `run`, the run's own error, then follows in the message.
/// Otherwise `run`.
llvm::Error judge(const Options &options,
                  const check::AttentionChecker *checker, llvm::Error run);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_CHECK_H
