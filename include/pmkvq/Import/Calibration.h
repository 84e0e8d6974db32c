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

/// Reads a calibration file: clips, and the losses by the file's measure.
///
/// Errors: the file, the field, what was expected and what is; a version that
/// is not known; sizes or a hash of another model.
llvm::Expected<std::vector<LayerCalibration>>
readCalibration(llvm::StringRef path, const ModelConfig &config,
                const Checkpoint &checkpoint);

} // namespace mlir::pmkvq

#endif // PMKVQ_IMPORT_CALIBRATION_H
