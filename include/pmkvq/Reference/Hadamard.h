//===- Hadamard.h - Rotation of head vectors --------------------*- C++ -*-===//
//
// The normalized Walsh-Hadamard transform that spreads outliers over a head's
// channels before quantization.  Neighbours: Cache.h rotates what it stores,
// Attention.h rotates queries and undoes the rotation of values.
//
// The matrix (natural order, entry (i, j) = (-1)^popcount(i & j) / sqrt(n)) is
// symmetric and orthogonal, so the transform is its own inverse and leaves
// inner products as they are.  A head dim that is not a power of two is rotated
// in blocks: 80 = 5 x 16, 96 = 3 x 32.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_REFERENCE_HADAMARD_H
#define PMKVQ_REFERENCE_HADAMARD_H

#include <cstdint>

namespace pmkvq::reference {

/// The largest power of two that divides headDim (positive).
int64_t hadamardBlock(int64_t headDim);

/// Rotates one head vector in place.
/// Shapes: vector [headDim].
void rotate(double *vector, int64_t headDim);

} // namespace pmkvq::reference

#endif // PMKVQ_REFERENCE_HADAMARD_H
