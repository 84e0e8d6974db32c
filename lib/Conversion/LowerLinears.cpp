//===- LowerLinears.cpp - Linear layers to calls of the runtime -----------===//
//
// Neighbours: pmkvq_rt/Abi.h (pmkvq_rt_linear), LowerHost.cpp (which gives the
// call its runtime).
//
//===----------------------------------------------------------------------===//

#include "HostCalls.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERLINEARS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

/// Whether `matmul` is f32 [m, k] times bf16 [n, k] transposed, on memrefs.
static bool isLinear(linalg::MatmulOp matmul) {
  if (!matmul.hasPureBufferSemantics())
    return false;
  AffineExpr m, n, k;
  MLIRContext *context = matmul.getContext();
  bindDims(context, m, n, k);
  SmallVector<AffineMap> expected = {AffineMap::get(3, 0, {m, k}, context),
                                     AffineMap::get(3, 0, {n, k}, context),
                                     AffineMap::get(3, 0, {m, n}, context)};
  auto element = [&](Value value) {
    return cast<MemRefType>(value.getType()).getElementType();
  };
  auto identity = [](Value value) {
    return cast<MemRefType>(value.getType()).getLayout().isIdentity();
  };
  return matmul.getIndexingMapsArray() == expected &&
         element(matmul.getInputs()[0]).isF32() &&
         element(matmul.getInputs()[1]).isBF16() &&
         element(matmul.getOutputs()[0]).isF32() &&
         llvm::all_of(matmul->getOperands(), identity);
}

namespace {
class LowerLinearsPass
    : public mlir::pmkvq::impl::LowerLinearsBase<LowerLinearsPass> {
public:
  void runOnOperation() override {
    SmallVector<linalg::MatmulOp> linears;
    getOperation().walk([&](linalg::MatmulOp matmul) {
      if (isLinear(matmul))
        linears.push_back(matmul);
    });
    for (linalg::MatmulOp linear : linears)
      lower(linear);
  }

private:
  void lower(linalg::MatmulOp linear) {
    ImplicitLocOpBuilder b(linear.getLoc(), linear);
    Value x = linear.getInputs()[0], w = linear.getInputs()[1];
    Value y = linear.getOutputs()[0];
    SmallVector<Value> operands = {runtimePlaceholder(b), pointerTo(b, x),
                                   pointerTo(b, w),       pointerTo(b, y),
                                   sizeOf(b, x, 0),       sizeOf(b, w, 0),
                                   sizeOf(b, x, 1)};
    callHook(b, "pmkvq_rt_linear", operands, {});
    linear.erase();
  }
};
} // namespace
