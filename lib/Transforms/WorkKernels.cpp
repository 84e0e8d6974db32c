//===- WorkKernels.cpp - Kernels of attention over work lists -------------===//
//
// See WorkKernels.h.
//
//===----------------------------------------------------------------------===//

#include "WorkKernels.h"
#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace mlir::pmkvq;

SmallVector<KernelOp> mlir::pmkvq::attentionKernels(ModuleOp module) {
  SmallVector<KernelOp> kernels;
  for (KernelOp kernel : module.getOps<KernelOp>())
    if (!kernel.getBody().front().getOps<AttendTaskOp>().empty())
      kernels.push_back(kernel);
  return kernels;
}

void mlir::pmkvq::replaceByWorkKernel(
    KernelOp kernel, Type heads,
    function_ref<void(ImplicitLocOpBuilder &, Block &)> build) {
  ImplicitLocOpBuilder b(kernel.getLoc(), kernel);
  auto type = b.getFunctionType(
      {WorkType::get(b.getContext()), heads, heads, b.getIndexType()},
      {b.getI1Type()});
  auto result = KernelOp::create(b, kernel.getSymNameAttr(),
                                 TypeAttr::get(type), nullptr, nullptr);
  Block *entry = b.createBlock(&result.getBody());
  for (Type input : type.getInputs())
    entry->addArgument(input, b.getLoc());
  build(b, *entry);
  b.setInsertionPointToEnd(entry);
  ReturnOp::create(b, arith::ConstantOp::create(b, b.getBoolAttr(true)));
  kernel.erase();
}
