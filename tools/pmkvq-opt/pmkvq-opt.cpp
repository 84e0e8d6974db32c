//===- pmkvq-opt.cpp - Runs passes on modules -----------------------------===//
//
// mlir-opt with the pmkvq dialect, its passes and its stages.  Neighbours:
// Passes.td, lib/Pipelines.
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/DialectRegistry.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Pipelines/Pipelines.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  mlir::registerAllPasses();
  mlir::pmkvq::registerPMKVQPasses();
  mlir::pmkvq::registerStagePipelines();
  return mlir::asMainReturnCode(mlir::MlirOptMain(
      argc, argv, "pmkvq: progressively quantized key-value caches\n",
      registry));
}
