//===- StepScratch.h - Where a step's buffers lie ---------------*- C++ -*-===//
//
// Gives every buffer of a bufferized step its place in StepArgs::scratch.
// Private to lib/Conversion.  Neighbours: LowerHost.cpp (which addresses them),
// pmkvq_rt/Abi.h.
//
// Mental model.  How many rows a step has is known only when it runs, but every
// buffer has either a fixed size or one that is a multiple of rows or of
// outputs.  So scratch is three regions, one behind the other, and a place is a
// number of bytes a row (or output) from the start of its region:
//
//   fixed buffers | rows x buffers of rows | outputs x buffers of outputs
//
// Buffers that are not in use at the same time share a place.  Places and sizes
// are multiples of 64 bytes a row, so that every buffer is aligned.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_STEPSCRATCH_H
#define PMKVQ_LIB_CONVERSION_STEPSCRATCH_H

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include <array>

namespace mlir::pmkvq {

/// What the size of a buffer is a multiple of.
enum class ScratchUnit { Step, Row, Output };
inline constexpr size_t kScratchUnits = 3;

class StepScratch {
public:
  /// Plans the buffers of `step`; `unitOf` says what an argument's only dynamic
  /// size counts.
  ///
  /// Errors: a diagnostic on a buffer inside of a loop, or whose size is
  /// neither fixed nor rows nor outputs.
  static FailureOr<StepScratch>
  plan(func::FuncOp step,
       llvm::function_ref<std::optional<ScratchUnit>(BlockArgument)> unitOf);

  struct Place {
    ScratchUnit unit;
    /// Bytes a unit from the start of the region.
    int64_t offset;
  };
  Place placeOf(memref::AllocOp buffer) const { return places.at(buffer); }

  /// Bytes a unit that a region has.
  int64_t bytes(ScratchUnit unit) const {
    return sizes[static_cast<size_t>(unit)];
  }

private:
  DenseMap<Operation *, Place> places;
  std::array<int64_t, kScratchUnits> sizes = {};
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_STEPSCRATCH_H
