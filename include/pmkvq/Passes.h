//===- Passes.h - Every pass of pmkvq ---------------------------*- C++ -*-===//
//
// Declarations generated from Passes.td.  Neighbours: lib/Transforms and
// lib/Conversion (the passes), lib/Pipelines (their order).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_PASSES_H
#define PMKVQ_PASSES_H

#include "mlir/Pass/Pass.h"
#include <memory>

namespace mlir::pmkvq {
#define GEN_PASS_DECL
#include "pmkvq/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

#endif // PMKVQ_PASSES_H
