//===- RopeConfig.h - What config.json says of RoPE -------------*- C++ -*-===//
//
// Neighbours: ModelConfig.cpp (the rest of config.json), Fields.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_IMPORT_ROPECONFIG_H
#define PMKVQ_LIB_IMPORT_ROPECONFIG_H

#include "Fields.h"
#include "pmkvq/Import/ModelConfig.h"

namespace mlir::pmkvq {

/// RoPE as fields rope_parameters, or rope_theta and rope_scaling, have it.
/// What is wrong is kept in `fields`.
RopeConfig readRope(Fields &fields, int64_t headDim, int64_t maxPositions);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_IMPORT_ROPECONFIG_H
