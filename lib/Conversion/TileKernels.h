//===- TileKernels.h - Kernels in tile form ---------------------*- C++ -*-===//
//
// Builds each kernel of the program from tile ops.  Neighbours: PMKVQToTile.cpp
// (who asks), PMKVQTileOps.td (the ops).  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_TILEKERNELS_H
#define PMKVQ_LIB_CONVERSION_TILEKERNELS_H

#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// What an attention kernel is specialized on.
struct AttentionShape {
  CacheType cache;
  /// Query heads of the model.
  int64_t queryHeads;
  /// Factor of q . k before the softmax.
  double scale;
  /// Whether the output stays in the values' rotated basis.
  bool resultRotated;
  /// Whether queries come in the keys' basis.
  bool queriesRotated = false;

  int64_t group() const { return queryHeads / cache.getKvHeads(); }
};

/// Rows [rows, heads, head_dim] of a step, as kernels take them.
MemRefType headsType(MLIRContext *context, int64_t heads, int64_t headDim);

/// What an append kernel is specialized on.
struct AppendShape {
  CacheType cache;
  /// Whether values come in their rotated basis.
  bool valuesRotated;
  /// Whether the kernel embeds the keys' positions.
  bool embedsPositions = false;
};

/// (cache, batch, keys, values, row): rotates and stores one row.  Cosines and
/// sines [rows, head_dim / 2] come before the row if positions are embedded.
KernelOp buildAppendKernel(ImplicitLocOpBuilder &b, StringRef name,
                           const AppendShape &shape);

/// (cache, batch, queries, task): one entry of the work list of attention.
KernelOp buildAttendKernel(ImplicitLocOpBuilder &b, StringRef name,
                           const AttentionShape &shape);

/// (batch, out, task): combines partial results in their order.
KernelOp buildMergeKernel(ImplicitLocOpBuilder &b, StringRef name,
                          const AttentionShape &shape);

/// (caches, pages, task): a window to a page at level `to`.
KernelOp buildFlushKernel(ImplicitLocOpBuilder &b, StringRef name,
                          CacheType cache, Part part, int64_t to);

/// (caches, pages, task): a page from level `from` to half of it, in place.
KernelOp buildRequantizeKernel(ImplicitLocOpBuilder &b, StringRef name,
                               CacheType cache, Part part, int64_t from);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_TILEKERNELS_H
