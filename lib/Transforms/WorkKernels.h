//===- WorkKernels.h - Kernels of attention over work lists -----*- C++ -*-===//
//
// What the passes that split attention for a GPU share.  Users: SplitUnits.cpp,
// SplitRows.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_TRANSFORMS_WORKKERNELS_H
#define PMKVQ_LIB_TRANSFORMS_WORKKERNELS_H

#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// The module's kernels whose tasks attend over pages.
SmallVector<KernelOp> attentionKernels(ModuleOp module);

/// Puts a kernel of the same name in place of `kernel`: its operands are a work
/// list, queries and results, both of type `heads`, and the number of a block.
/// `build` makes its body, at the end of the block it is given.
void replaceByWorkKernel(
    KernelOp kernel, Type heads,
    function_ref<void(ImplicitLocOpBuilder &, Block &)> build);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_TRANSFORMS_WORKKERNELS_H
