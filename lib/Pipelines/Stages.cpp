//===- Stages.cpp - The stages from model to host code --------------------===//
//
// The one place that says in which order passes run.  Neighbours: Passes.td,
// Pipelines.h.
//
//===----------------------------------------------------------------------===//

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Bufferization/Pipelines/Passes.h"
#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Support/FileUtilities.h"
#include "mlir/Transforms/Passes.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/ToolOutputFile.h"

using namespace mlir;
using namespace mlir::pmkvq;

//===----------------------------------------------------------------------===//
// Stages
//===----------------------------------------------------------------------===//

static void buildPlan(OpPassManager &pm, const PlanOptions &options) {
  SetScheduleOptions schedule;
  schedule.schedule = options.schedule;
  schedule.keyFloor = options.keyFloor;
  schedule.valueFloor = options.valueFloor;
  schedule.budget = options.budgetBytes;
  pm.addPass(createSetSchedule(schedule));
  SetFormatsOptions formats;
  formats.key = options.keyFormat;
  formats.value = options.valueFormat;
  pm.addPass(createSetFormats(formats));
  pm.addPass(createFoldValueRotation());
  pm.addPass(createAddPageFunctions());
}

static void buildTile(OpPassManager &pm, const PlanOptions &) {
  pm.addPass(createConvertPMKVQToTile());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static void buildFold(OpPassManager &pm, const PlanOptions &) {
  pm.addNestedPass<KernelOp>(createFoldParameters());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static void buildVector(OpPassManager &pm, const PlanOptions &) {
  pm.addPass(createConvertTileToVector());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static void buildBuffers(OpPassManager &pm, const PlanOptions &) {
  bufferization::OneShotBufferizePassOptions options;
  options.bufferizeFunctionBoundaries = true;
  options.functionBoundaryTypeConversion =
      bufferization::LayoutMapOption::IdentityLayoutMap;
  pm.addPass(bufferization::createOneShotBufferizePass(options));
  pm.addPass(bufferization::createDropEquivalentBufferResultsPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  bufferization::buildBufferDeallocationPipeline(pm);
  pm.addNestedPass<func::FuncOp>(
      bufferization::createOptimizeAllocationLivenessPass());
}

static void buildHost(OpPassManager &pm, const PlanOptions &) {
  pm.addNestedPass<func::FuncOp>(createLowerLinears());
  pm.addPass(createOutlineLoops());
  pm.addPass(createLowerHost());
  pm.addNestedPass<func::FuncOp>(createConvertLinalgToLoopsPass());
}

static void buildLLVM(OpPassManager &pm, const PlanOptions &) {
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  pm.addPass(memref::createExpandStridedMetadataPass());
  pm.addPass(createLowerAffinePass());
  pm.addPass(createSCFToControlFlowPass());
  pm.addPass(createConvertVectorToLLVMPass());
  pm.addPass(createConvertMathToLLVMPass());
  pm.addPass(createArithToLLVMConversionPass());
  pm.addPass(createFinalizeMemRefToLLVMConversionPass());
  pm.addPass(createConvertFuncToLLVMPass());
  pm.addPass(createConvertControlFlowToLLVMPass());
  pm.addPass(createReconcileUnrealizedCastsPass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

ArrayRef<Stage> mlir::pmkvq::getStages() {
  static constexpr Stage stages[] = {
      {"plan", "formats, schedule and budget are chosen, rotations folded",
       buildPlan},
      {"tile", "attention over the cache is kernels in tile form", buildTile},
      {"fold", "parameters are folded out of products with codes", buildFold},
      {"vector", "kernels are vector code", buildVector},
      {"buffers", "tensors are memory", buildBuffers},
      {"host", "the step has its entry point and calls the runtime", buildHost},
      {"llvm", "everything is in the LLVM dialect", buildLLVM}};
  return stages;
}

//===----------------------------------------------------------------------===//
// Running
//===----------------------------------------------------------------------===//

/// Writes `module` to FOLDER/NN-NAME.mlir.
static LogicalResult dump(ModuleOp module, StringRef folder, size_t number,
                          StringRef name) {
  if (std::error_code code = llvm::sys::fs::create_directories(folder))
    return module.emitError("cannot make the folder '")
           << folder << "': " << code.message();
  SmallString<128> path(folder);
  llvm::sys::path::append(
      path,
      llvm::formatv("{0}{1}-{2}.mlir", number / 10, number % 10, name).str());
  std::string message;
  auto file = openOutputFile(path, &message);
  if (!file)
    return module.emitError() << message;
  // Weights are external; constants of a head are read with the code.
  OpPrintingFlags flags;
  flags.elideLargeElementsAttrs(128);
  module.print(file->os(), flags);
  file->keep();
  return success();
}

LogicalResult mlir::pmkvq::runStages(ModuleOp module,
                                     const PlanOptions &options,
                                     StringRef dumpFolder) {
  if (!dumpFolder.empty() && failed(dump(module, dumpFolder, 0, "import")))
    return failure();
  for (auto [i, stage] : llvm::enumerate(getStages())) {
    PassManager pm(module.getContext());
    stage.build(pm, options);
    if (failed(pm.run(module)))
      return failure();
    if (!dumpFolder.empty() &&
        failed(dump(module, dumpFolder, i + 1, stage.name)))
      return failure();
  }
  return success();
}

namespace {
/// PlanOptions on the command line of pmkvq-opt.
struct PlanPipelineOptions : PassPipelineOptions<PlanPipelineOptions> {
  PlanOptions defaults;
  Option<std::string> key{*this, "key", llvm::cl::desc("Format of keys"),
                          llvm::cl::init(defaults.keyFormat)};
  Option<std::string> value{*this, "value", llvm::cl::desc("Format of values"),
                            llvm::cl::init(defaults.valueFormat)};
  Option<std::string> schedule{*this, "schedule",
                               llvm::cl::desc("page or none"),
                               llvm::cl::init(defaults.schedule)};
  Option<int64_t> keyFloor{*this, "key-floor",
                           llvm::cl::desc("Lowest level of keys, bits"),
                           llvm::cl::init(defaults.keyFloor)};
  Option<int64_t> valueFloor{*this, "value-floor",
                             llvm::cl::desc("Lowest level of values, bits"),
                             llvm::cl::init(defaults.valueFloor)};
  Option<int64_t> budget{*this, "budget",
                         llvm::cl::desc("Bytes for all caches; 0 is no limit"),
                         llvm::cl::init(defaults.budgetBytes)};

  PlanOptions get() const {
    PlanOptions options;
    options.keyFormat = key;
    options.valueFormat = value;
    options.schedule = schedule;
    options.keyFloor = keyFloor;
    options.valueFloor = valueFloor;
    options.budgetBytes = budget;
    return options;
  }
};
} // namespace

void mlir::pmkvq::registerStagePipelines() {
  for (const Stage &stage : getStages())
    PassPipelineRegistration<PlanPipelineOptions>(
        ("pmkvq-stage-" + stage.name).str(), stage.summary,
        [build = stage.build](OpPassManager &pm,
                              const PlanPipelineOptions &options) {
          build(pm, options.get());
        });
}
