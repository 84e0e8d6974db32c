//===- Assembler.h - PTX to a GPU's own code --------------------*- C++ -*-===//
//
// Runs the toolkit's ptxas where there is one.  Neighbours: DeviceProgram.h
// (who makes PTX), pmkvq_rt/cuda/Device.h (whose driver takes either).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_ASSEMBLER_H
#define PMKVQ_TARGET_ASSEMBLER_H

#include "llvm/Support/Error.h"
#include <string>

namespace mlir::pmkvq {

/// What ptxas said of some PTX.
struct AssemblerReport {
  bool accepted = false;
  /// Registers, spills and warnings, or errors.
  std::string text;
  /// The code, if it was accepted.
  std::string cubin;
};

/// ptxas of PATH, of $CUDA_HOME or $CUDA_PATH, or of /usr/local/cuda; empty if
/// there is none.
std::string findPtxas();

/// Assembles for `chip`, like "sm_90a".
///
/// Errors: ptxas cannot be run, or temporary files cannot be made.
llvm::Expected<AssemblerReport> runPtxas(const std::string &ptxas,
                                         const std::string &ptx,
                                         const std::string &chip);

/// Who makes a kernel's code.
struct Assembler {
  /// Empty: the driver, from PTX.
  std::string ptxas;
  /// The chip of the device at hand; PTX for another is left to the driver.
  std::string chip;
  /// Whether what ptxas refuses is an error.  A ptxas that was only found may
  /// be older than the driver.
  bool isRequired = false;
  /// Where cubins are kept, and found again by PTX, chip and ptxas (its path,
  /// size and time); empty: nowhere.
  std::string codeFolder;

  /// A cubin, or the PTX as it is.
  ///
  /// Errors: what ptxas says, if it is required.
  llvm::Expected<std::string> assemble(std::string ptx,
                                       const std::string &target) const;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_TARGET_ASSEMBLER_H
