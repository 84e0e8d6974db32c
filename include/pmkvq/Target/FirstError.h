//===- FirstError.h - What MLIR reports, as one error -----------*- C++ -*-===//
//
// Neighbours: DeviceProgram.cpp and tools/pmkvq-run, which run MLIR's passes.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_FIRSTERROR_H
#define PMKVQ_TARGET_FIRSTERROR_H

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/MLIRContext.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/raw_ostream.h"
#include <string>

namespace mlir::pmkvq {

/// Keeps the first error that MLIR reports while this lives, as one line.
class FirstError {
public:
  explicit FirstError(mlir::MLIRContext &context)
      : handler(&context, [this](mlir::Diagnostic &diagnostic) {
          if (message.empty() &&
              diagnostic.getSeverity() == mlir::DiagnosticSeverity::Error)
            llvm::raw_string_ostream(message)
                << diagnostic.getLocation() << ": " << diagnostic.str();
          return mlir::success();
        }) {}

  llvm::Error take(llvm::StringRef what) const {
    return llvm::createStringError(what + ": " +
                                   (message.empty() ? "failed" : message));
  }

private:
  std::string message;
  mlir::ScopedDiagnosticHandler handler;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_TARGET_FIRSTERROR_H
