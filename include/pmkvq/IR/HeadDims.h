//===- HeadDims.h - Sizes of head vectors that are built --------*- C++ -*-===//
//
// Types and the import of models refuse all others.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_IR_HEADDIMS_H
#define PMKVQ_IR_HEADDIMS_H

#include "llvm/ADT/STLExtras.h"

#include <cstdint>

namespace mlir::pmkvq {

inline constexpr int64_t kHeadDims[] = {64, 80, 96, 128, 256};
/// For errors.
inline constexpr char kHeadDimsText[] = "64, 80, 96, 128 or 256";

inline bool isHeadDim(int64_t headDim) {
  return llvm::is_contained(kHeadDims, headDim);
}

/// Values at level 1 lie in vectors of so many outputs.
inline constexpr int64_t kLevel1HeadDim = 64;

inline bool hasLevel1(int64_t headDim) { return headDim % kLevel1HeadDim == 0; }

} // namespace mlir::pmkvq

#endif // PMKVQ_IR_HEADDIMS_H
