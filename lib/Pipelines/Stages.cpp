//===- Stages.cpp - The stages from model to host code --------------------===//
//
// The one place that says in which order passes run.  Neighbours: Passes.td,
// Pipelines.h, StageDump.h.
//
//===----------------------------------------------------------------------===//

#include "StageDump.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Bufferization/Pipelines/Passes.h"
#include "mlir/Dialect/Bufferization/Transforms/Passes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Pipelines/Pipelines.h"

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
  schedule.layerFloors.assign(options.layerFloors.begin(),
                              options.layerFloors.end());
  pm.addPass(createSetSchedule(schedule));
  SetFormatsOptions formats;
  formats.key = options.keyFormat;
  formats.value = options.valueFormat;
  pm.addPass(createSetFormats(formats));
  if (options.allocate) {
    AllocateBitsOptions allocate;
    allocate.tokens.assign(options.tokens.begin(), options.tokens.end());
    allocate.keep.assign(options.keptLayers.begin(), options.keptLayers.end());
    pm.addPass(createAllocateBits(allocate));
  }
  pm.addPass(createApplyCalibration({options.feedback}));
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
  pm.addNestedPass<KernelOp>(createProductsToIntegers());
  pm.addNestedPass<KernelOp>(createPrefetchPages());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static void buildVector(OpPassManager &pm, const PlanOptions &options) {
  pm.addPass(createConvertTileToVector({options.registerBytes}));
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

LogicalResult mlir::pmkvq::runStages(
    ModuleOp module, const PlanOptions &options, StringRef dumpFolder,
    StringRef lastStage,
    llvm::function_ref<void(StringRef, ModuleOp)> afterStage) {
  StageDump dump(dumpFolder);
  if (failed(dump.add(module, "import", "the model's step over its caches")))
    return failure();
  for (const Stage &stage : getStages()) {
    PassManager pm(module.getContext());
    stage.build(pm, options);
#ifdef NDEBUG
    // A fifth of a start; what a stage leaves is verified in every build.
    pm.enableVerifier(false);
#endif
    if (failed(pm.run(module)) || failed(verify(module)) ||
        failed(dump.add(module, stage.name, stage.summary)))
      return failure();
    if (afterStage)
      afterStage(stage.name, module);
    if (stage.name == lastStage)
      break;
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
                               llvm::cl::desc("keys_last, page, least_loss, "
                                              "layer or none"),
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
  Option<bool> feedback{
      *this, "feedback",
      llvm::cl::desc("Let keys fall with feedback where calibration allows"),
      llvm::cl::init(defaults.feedback)};
  Option<int64_t> registerBytes{
      *this, "register-bytes",
      llvm::cl::desc("Bytes of a vector register: 32 or 64"),
      llvm::cl::init(defaults.registerBytes)};

  PlanOptions get() const {
    PlanOptions options;
    options.keyFormat = key;
    options.valueFormat = value;
    options.schedule = schedule;
    options.keyFloor = keyFloor;
    options.valueFloor = valueFloor;
    options.budgetBytes = budget;
    options.feedback = feedback;
    options.registerBytes = registerBytes;
    return options;
  }
};
} // namespace

namespace {
struct DevicePipelineOptions
    : public PassPipelineOptions<DevicePipelineOptions> {
  ListOption<int64_t> kinds{*this, "kinds",
                            llvm::cl::desc("Key and value levels of units")};
  Option<bool> dependentLaunch{
      *this, "dependent-launch",
      llvm::cl::desc("Start while the launch before may still run")};
  Option<bool> lowers{
      *this, "lowers",
      llvm::cl::desc("Whether pages may fall after they are read")};
};

struct PrefillPipelineOptions
    : public PassPipelineOptions<PrefillPipelineOptions> {
  ListOption<int64_t> keys{*this, "keys", llvm::cl::desc("Levels of keys")};
  ListOption<int64_t> values{*this, "values",
                             llvm::cl::desc("Levels of values")};
  Option<int64_t> stages{*this, "stages", llvm::cl::init(2),
                         llvm::cl::desc("Tiles under way")};
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
  PassPipelineRegistration<DevicePipelineOptions>(
      "pmkvq-lower-to-gpu", "kernels in tile form to a GPU's instructions",
      [](OpPassManager &pm, const DevicePipelineOptions &options) {
        DeviceOptions device;
        device.kinds.assign(options.kinds.begin(), options.kinds.end());
        device.dependentLaunch = options.dependentLaunch;
        device.lowers = options.lowers;
        buildDevicePipeline(pm, device);
      });
  PassPipelineRegistration<PrefillPipelineOptions>(
      "pmkvq-lower-prefill-to-gpu",
      "kernels in tile form to a GPU's instructions for many query rows",
      [](OpPassManager &pm, const PrefillPipelineOptions &options) {
        PrefillOptions prefill;
        prefill.keys.assign(options.keys.begin(), options.keys.end());
        prefill.values.assign(options.values.begin(), options.values.end());
        prefill.stages = options.stages;
        buildPrefillPipeline(pm, prefill);
      });
}
