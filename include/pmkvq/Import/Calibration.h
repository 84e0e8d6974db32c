//===- Calibration.h - What a calibration file says of a model --*- C++ -*-===//
//
// Reads the file that `pmkvq calibrate` writes (docs/calibration.md) and checks
// that it is of this model.  Neighbours: ModelConfig.h (which holds it for the
// importer), python/pmkvq/calibration_file.py.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_IMPORT_CALIBRATION_H
#define PMKVQ_IMPORT_CALIBRATION_H

#include "pmkvq/Import/ModelConfig.h"

namespace mlir::pmkvq {

/// Largest magnitude of an exponent of a key scale.
inline constexpr int64_t kMostKeyExponent = 13;

/// Largest loss, square of queries or share of a page: far above any, and
/// scaled squares fit an f32.
inline constexpr double kMostOfLists = 1e30;

/// Reads a calibration file: clips, the losses by the file's measure, and
/// divergences, key scales, squares of queries and shares of pages where it has
/// them.
///
/// Errors: the file, the field, what was expected and what is; a version that
/// is not known; sizes or a hash of another model; key scales that do not
/// commute with RoPE, or that a norm shared by all heads cannot take.
llvm::Expected<Calibration> readCalibration(llvm::StringRef path,
                                            const ModelConfig &config,
                                            const Checkpoint &checkpoint);

/// Has the weights of a calibrated model take its key scales.
///
/// Errors: the file and the layer that has none.
llvm::Error foldKeyScales(llvm::StringRef path, ModelConfig &config);

} // namespace mlir::pmkvq

#endif // PMKVQ_IMPORT_CALIBRATION_H
