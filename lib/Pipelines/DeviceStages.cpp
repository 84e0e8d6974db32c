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

/// Lane code to the LLVM and NVVM dialects.
static void addLLVMPasses(OpPassManager &pm) {
  OpPassManager &kernels = pm.nest<gpu::GPUModuleOp>();
  kernels.addPass(createSCFToControlFlowPass());
  kernels.addPass(createConvertToLLVMPass());
  kernels.addPass(createConvertNVVMToLLVMPass());
  kernels.addPass(createReconcileUnrealizedCastsPass());
  kernels.addPass(createCanonicalizerPass());
  kernels.addPass(createCSEPass());
  pm.addPass(createCheckLowered());
}

void mlir::pmkvq::buildDevicePipeline(OpPassManager &pm,
                                      const DeviceOptions &options) {
  CheckLoweredOptions before;
  before.allowKernels = true;
  pm.addPass(createCheckLowered(before));

  // Tile form: split and plan, fold.
  SplitUnitsOptions units;
  units.kinds.assign(options.kinds.begin(), options.kinds.end());
  units.rows = options.rows;
  units.lowers = options.lowers;
  pm.addPass(createSplitUnits(units));
  pm.addNestedPass<KernelOp>(createFoldParameters());
  pm.addNestedPass<KernelOp>(createHoistConstants());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());

  // Lanes, and each step of theirs.
  pm.addPass(createConvertAppendToLanes());
  pm.addPass(createConvertPagesToLanes());
  ConvertTileToLanesOptions lanes;
  lanes.dependentLaunch = options.dependentLaunch;
  lanes.bulkCopies = options.bulkCopies;
  lanes.sharedBytes = options.sharedBytes;
  lanes.keysPerToken = options.keysPerToken;
  lanes.valueBytes = options.valueBytes;
  pm.addPass(createConvertTileToLanes(lanes));
  LowerRingOptions ring;
  ring.bulkCopies = options.bulkCopies;
  pm.addPass(createLowerRing(ring));
  SplitQueriesOptions queries;
  queries.absoluteMaximum = options.absoluteMaximum;
  pm.addPass(createSplitQueries(queries));
  pm.addPass(createUnpackCodes());
  pm.addPass(createShiftCodes());
  pm.addPass(createLowerOnlineSoftmax());
  pm.addPass(createRepackWeights());
  pm.addPass(createLowerMerges());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());

  addLLVMPasses(pm);
}

void mlir::pmkvq::buildPrefillPipeline(OpPassManager &pm,
                                       const PrefillOptions &options) {
  CheckLoweredOptions before;
  before.allowKernels = true;
  pm.addPass(createCheckLowered(before));

  SplitRowsOptions rows;
  rows.rows = options.rows;
  pm.addPass(createSplitRows(rows));
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());

  ConvertTileToWarpgroupsOptions groups;
  groups.keys.assign(options.keys.begin(), options.keys.end());
  groups.values.assign(options.values.begin(), options.values.end());
  groups.stages = options.stages;
  groups.warpgroups = options.warpgroups;
  groups.dependentLaunch = options.dependentLaunch;
  groups.wideRanges = options.wideRanges;
  pm.addPass(createConvertTileToWarpgroups(groups));
  pm.addPass(createDequantizeTiles());
  pm.addPass(createLowerTileSoftmax());
  pm.addPass(createLowerTileProducts());
  pm.addPass(createLowerMerges());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());

  addLLVMPasses(pm);
}
