//===- Loading.h - From a model's files to a program ------------*- C++ -*-===//
//
// Opens a model, compiles it and hands its weights over.  Neighbours: Compile.h
// (the stages), CachePlace.h and Check.h (what a run has beside its program);
// pmkvq-run.cpp and ModelSweep.cpp run it.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_LOADING_H
#define PMKVQ_TOOLS_RUN_LOADING_H

#include "CachePlace.h"
#include "CachePlan.h"
#include "Check.h"
#include "pmkvq/Import/Safetensors.h"

namespace pmkvq::run {

/// A model's files, checked against each other.
struct Model {
  std::string folder;
  mlir::pmkvq::ModelConfig config;
  mlir::pmkvq::Checkpoint checkpoint;
};

/// Opens a model with the calibration that it is to have, if any. `scalesKeys`:
/// its weights take the calibration's key scales.
///
/// Errors: files that are missing, damaged or do not fit together.
llvm::Expected<Model> openModel(llvm::StringRef name,
                                llvm::StringRef calibration = "",
                                bool scalesKeys = false);

/// What a run needs beside its program.
struct Equipment {
  CachePlace cache;
  /// Null: nothing is checked.
  std::unique_ptr<check::AttentionChecker> checker;
  /// Bytes of each weight, in the order of the program's table.
  std::vector<int64_t> weightBytes;
};

/// Compiles the model and hands its weights over; takes its checkpoint.
/// `equipment` becomes what the options ask for.
///
/// Errors: those of the compiler, of the weights, of a GPU that is asked for.
llvm::Expected<rt::Program> loadProgram(Model &model, const CachePlan &plan,
                                        const Options &options,
                                        mlir::MLIRContext &context,
                                        Equipment &equipment);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_LOADING_H
