//===- LanePass.h - Steps of the lowering to lanes --------------*- C++ -*-===//
//
// What the passes that lower one kind of op each have in common.  Neighbours:
// LaneBuilder.h (the code they emit).  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_LANEPASS_H
#define PMKVQ_LIB_CONVERSION_LANEPASS_H

#include "LaneBuilder.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"
#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// Replaces every `OpTy` under `root` by what `emit` builds before it.
template <typename OpTy>
void replaceEach(Operation *root,
                 function_ref<SmallVector<Value>(LaneBuilder &, OpTy)> emit) {
  SmallVector<OpTy> ops;
  root->walk([&](OpTy op) { ops.push_back(op); });
  for (OpTy op : ops) {
    OpBuilder at(op);
    LaneBuilder b(op.getLoc(), at);
    op->replaceAllUsesWith(emit(b, op));
    op->erase();
  }
}

/// Replaces every kernel of `module` that has a `MarkOp` by what `Lowering`
/// makes of it in the module of lanes.
template <typename MarkOp, typename Lowering>
LogicalResult lowerKernels(ModuleOp module) {
  for (KernelOp kernel :
       llvm::make_early_inc_range(module.getOps<KernelOp>())) {
    if (kernel.getBody().front().getOps<MarkOp>().empty())
      continue;
    OpBuilder builder = OpBuilder::atBlockEnd(getLaneModule(module));
    if (failed(Lowering(kernel, builder).run()))
      return failure();
    kernel.erase();
  }
  return success();
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_LANEPASS_H
