//===- StageDump.h - Modules between stages, as files -----------*- C++ -*-===//
//
// Neighbours: Stages.cpp, which runs the stages.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_PIPELINES_STAGEDUMP_H
#define PMKVQ_LIB_PIPELINES_STAGEDUMP_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Support/LLVM.h"
#include <string>

namespace mlir::pmkvq {

/// Writes modules to FOLDER/NN-NAME.mlir and a table of them to
/// FOLDER/index.md; does nothing if the folder's name is empty.
class StageDump {
public:
  explicit StageDump(StringRef folder) : folder(folder) {}

  /// Writes the module after a stage, and the table anew: it is also there when
  /// a later stage fails.
  LogicalResult add(ModuleOp module, StringRef name, StringRef summary);

private:
  LogicalResult write(ModuleOp module, StringRef file, StringRef text) const;

  std::string folder;
  std::string rows;
  unsigned count = 0;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_PIPELINES_STAGEDUMP_H
