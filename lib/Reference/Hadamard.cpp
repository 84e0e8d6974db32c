//===- Hadamard.cpp - Rotation of head vectors ----------------------------===//
//
// The fast transform in double precision: butterflies first, one division at
// the end.  Neighbours: Hadamard.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Hadamard.h"

#include <cassert>
#include <cmath>

namespace pmkvq::reference {
namespace {

void rotateBlock(double *x, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2)
    for (int64_t i = 0; i < size; ++i) {
      if (i & half)
        continue;
      double a = x[i];
      double b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  double norm = std::sqrt(static_cast<double>(size));
  for (int64_t i = 0; i < size; ++i)
    x[i] /= norm;
}

} // namespace

int64_t hadamardBlock(int64_t headDim) {
  assert(headDim > 0 && "no channels");
  return headDim & -headDim;
}

void rotate(double *vector, int64_t headDim) {
  int64_t block = hadamardBlock(headDim);
  for (int64_t begin = 0; begin < headDim; begin += block)
    rotateBlock(vector + begin, block);
}

} // namespace pmkvq::reference
