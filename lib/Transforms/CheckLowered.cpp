//===- CheckLowered.cpp - What a pipeline leaves
//---------------------------===//
//
// Diagnoses ops of the dialect that no step takes, so that a pipeline does not
// end well with its work undone.  Neighbours: lib/Pipelines/DeviceStages.cpp.
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/BuiltinOps.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_CHECKLOWERED
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

namespace {
class CheckLoweredPass
    : public mlir::pmkvq::impl::CheckLoweredBase<CheckLoweredPass> {
public:
  using CheckLoweredBase::CheckLoweredBase;

  void runOnOperation() override {
    getOperation()->walk<WalkOrder::PreOrder>([&](Operation *op) {
      if (!isa_and_nonnull<PMKVQDialect>(op->getDialect()))
        return WalkResult::advance();
      if (allowKernels && isa<KernelOp>(op))
        return WalkResult::skip();
      diagnose(op);
      signalPassFailure();
      return WalkResult::skip();
    });
  }

private:
  void diagnose(Operation *op) {
    if (allowKernels)
      op->emitOpError("is outside of kernels; this pipeline takes a module of "
                      "kernels in tile form alone");
    else if (auto kernel = dyn_cast<KernelOp>(op))
      op->emitOpError("'") << kernel.getSymName()
                           << "' is not lowered by any step of this pipeline";
    else
      op->emitOpError("is not lowered by any step of this pipeline");
  }
};
} // namespace
