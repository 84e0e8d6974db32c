//===- WeightStore.h - A program's weights in memory ------------*- C++ -*-===//
//
// Turns a checkpoint into the weight table of a program.  Neighbours:
// Safetensors.h (where weights come from), HostProgram.h (what they must be).
//
// Most weights are bf16 as they lie in the file and stay there; only rotated
// and scaled ones, and those of other types, are computed into memory of the
// store.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_IMPORT_WEIGHTSTORE_H
#define PMKVQ_IMPORT_WEIGHTSTORE_H

#include "pmkvq/Import/Safetensors.h"
#include "pmkvq/Target/HostProgram.h"
#include <deque>

namespace mlir::pmkvq {

/// Multiplies consecutive blocks of `block` elements of dimension `dim` by the
/// normalized Walsh-Hadamard matrix, H[i][j] = (-1)^popcount(i & j) /
/// sqrt(block), in single precision and in place.
///
/// Shapes: values [shape], row-major; block is a power of two and divides
/// shape[dim].
void rotateInPlace(llvm::MutableArrayRef<float> values,
                   llvm::ArrayRef<int64_t> shape, int64_t dim, int64_t block);

class WeightStore {
public:
  /// Finds, converts, rotates and scales the weights of `specs`.
  ///
  /// Errors: a tensor that is missing, of another shape or of a type other than
  /// bf16, f16, f32; a rotation or exponents that do not fit.
  static llvm::Expected<WeightStore> create(Checkpoint checkpoint,
                                            llvm::ArrayRef<WeightSpec> specs);

  /// bf16, in the order of the specs; valid while the store lives.
  const std::vector<const void *> &pointers() const { return table; }

private:
  explicit WeightStore(Checkpoint checkpoint)
      : checkpoint(std::move(checkpoint)) {}
  llvm::Error add(const WeightSpec &spec);

  Checkpoint checkpoint;
  /// A deque: what was added stays where it is.
  std::deque<std::vector<uint16_t>> owned;
  std::vector<const void *> table;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_IMPORT_WEIGHTSTORE_H
