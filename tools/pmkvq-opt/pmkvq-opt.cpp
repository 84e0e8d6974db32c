//===- pmkvq-opt.cpp - Runs passes on modules -----------------------------===//
//
// mlir-opt with the pmkvq dialect, its passes and its stages.  Neighbours:
// Passes.td, lib/Pipelines.
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/InitAllPasses.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Pipelines/Pipelines.h"

/// A pipeline's passes in their order, without options.
static void listPasses(const mlir::OpPassManager &passes,
                       llvm::raw_ostream &os) {
  std::string text;
  llvm::raw_string_ostream pipeline(text);
  passes.printAsTextualPipeline(pipeline);
  int depth = 0;
  for (char c : text) {
    depth += c == '{';
    if (!depth)
      os << c;
    depth -= c == '}';
  }
  os << "\n";
}

/// The head of --help: which passes run in which order.
static std::string makeOverview() {
  using namespace mlir;
  std::string text;
  llvm::raw_string_ostream os(text);
  os << "pmkvq: progressively quantized key-value caches\n\n"
        "Stages of a model, in pipeline order; each runs as "
        "--pmkvq-stage-NAME:\n";
  for (const pmkvq::Stage &stage : pmkvq::getStages()) {
    OpPassManager passes(ModuleOp::getOperationName());
    stage.build(passes, pmkvq::PlanOptions());
    os << "  " << stage.name << ": ";
    listPasses(passes, os);
  }
  os << "From tile form to a GPU, --pmkvq-lower-to-gpu:\n  ";
  OpPassManager passes(ModuleOp::getOperationName());
  pmkvq::buildDevicePipeline(passes, pmkvq::DeviceOptions());
  listPasses(passes, os);
  return text;
}

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  mlir::registerAllPasses();
  mlir::pmkvq::registerPMKVQPasses();
  mlir::pmkvq::registerStagePipelines();
  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, makeOverview(), registry));
}
