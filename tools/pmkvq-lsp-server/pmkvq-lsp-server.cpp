//===- pmkvq-lsp-server.cpp - MLIR's language server with pmkvq -----------===//
//
// For editors: the dialect's ops, types and diagnostics as one types.
// Neighbours: pmkvq-opt (the same registrations).
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/DialectRegistry.h"
#include "mlir/Tools/mlir-lsp-server/MlirLspServerMain.h"
#include "pmkvq/Pipelines/Pipelines.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  return mlir::failed(mlir::MlirLspServerMain(argc, argv, registry));
}
