//===- DeviceStages.cpp - From tile form to a GPU's kernels ---------------===//
//
// The one place that says in which order the GPU's passes run.  Neighbours:
// Passes.td, Pipelines.h, Stages.cpp (the CPU's).
//
//===----------------------------------------------------------------------===//

#include "mlir/Conversion/ConvertToLLVM/ToLLVMPass.h"
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Pipelines/Pipelines.h"

using namespace mlir;
using namespace mlir::pmkvq;

void mlir::pmkvq::buildDevicePipeline(OpPassManager &pm,
                                      const DeviceOptions &options) {
  // Tile form: split and plan, fold.
  SplitUnitsOptions units;
  units.kinds.assign(options.kinds.begin(), options.kinds.end());
  pm.addPass(createSplitUnits(units));
  pm.addNestedPass<KernelOp>(createFoldParameters());
  pm.addNestedPass<KernelOp>(createHoistConstants());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());

  // Lanes, and each step of theirs.
  ConvertTileToLanesOptions lanes;
  lanes.dependentLaunch = options.dependentLaunch;
  pm.addPass(createConvertTileToLanes(lanes));
  pm.addPass(createLowerRing());
  pm.addPass(createSplitQueries());
  pm.addPass(createUnpackCodes());
  pm.addPass(createLowerOnlineSoftmax());
  pm.addPass(createRepackWeights());
  pm.addPass(createLowerMerges());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());

  OpPassManager &kernels = pm.nest<gpu::GPUModuleOp>();
  kernels.addPass(createSCFToControlFlowPass());
  kernels.addPass(createConvertToLLVMPass());
  kernels.addPass(createConvertNVVMToLLVMPass());
  kernels.addPass(createReconcileUnrealizedCastsPass());
  kernels.addPass(createCanonicalizerPass());
  kernels.addPass(createCSEPass());
}
