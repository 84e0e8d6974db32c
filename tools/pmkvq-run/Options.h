//===- Options.h - pmkvq-run's command line ---------------------*- C++ -*-===//
//
// What the user asked for, checked as far as that needs no model.  Neighbours:
// RunOptions.h (the part without the compiler); Prompts.h and CachePlan.h,
// which check the rest.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_OPTIONS_H
#define PMKVQ_TOOLS_RUN_OPTIONS_H

#include "bench/Sweep.h"
#include "pmkvq/Target/Assembler.h"
#include "pmkvq/Target/HostProgram.h"
#include "run/RunOptions.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <cstdint>
#include <string>
#include <vector>

namespace pmkvq::run {

/// What --bench measures with a MODEL: every combination; levels and budgets
/// are in turns.
struct ModelSweepOptions {
  std::vector<int32_t> threads = {0};
  std::vector<int64_t> batches = {1};
  std::vector<int64_t> contexts = {512};
  /// As the user writes them, and what that is.
  std::vector<std::pair<std::string, rt::UnitKind>> levels;
  std::vector<std::pair<std::string, double>> kvBits;
};

struct Options : RunOptions {
  enum class Action {
    Generate,
    /// Print the plan.
    Explain,
    EmitImport,
    EmitMLIR,
    EmitLLVM,
    EmitAssembly,
    EmitArtifact,
    /// Measure `sweep` on `device`, or `modelSweep` with `model`; of the rest,
    /// formats, threads and output are set.
    Bench,
    /// Run an artifact; of the rest, nothing is set.
    Load,
    /// Print `text`; nothing else is set.
    Print
  };

  Action action = Action::Generate;
  std::string text;

  /// A folder or a GGUF file.
  std::string model;

  /// Empty: the best that is known of (CachePlan.cpp).
  std::string schedule;
  /// Lowest level of each part, in bits.
  int64_t keyFloor = 0;
  int64_t valueFloor = 0;
  /// Format attributes as text, without `#pmkvq.format`; empty: the default.
  std::string keyFormat;
  std::string valueFormat;
  /// Empty: none.
  std::string calibrationFile;
  /// Whether layers get their floors by what calibration found.
  bool allocate = false;
  /// Floors of single layers, as they were given.
  std::vector<std::string> layerFloors;
  /// Whether weights take the calibration's key scales.
  bool keyScales = false;
  /// How keys fall with a calibration: "feedback", "nearest" or, if empty, with
  /// feedback where the calibration has what it takes.
  std::string rounding;
  /// KL that a plan may lose by calibration, nats a token; none: the default.
  std::optional<double> maxLoss;
  /// Whether it may lose anything.
  bool acceptLoss = false;

  /// Relative error of attention that --check allows; none: nothing is checked.
  std::optional<double> checkTolerance;
  /// Empty: none.
  std::string dumpFolder;
  /// The stage after which EmitMLIR stops; empty: the last.
  std::string emitStage;
  /// Where code goes; empty: stdout.
  std::string outputFile;

  /// "auto", "cpu" or "cuda".
  std::string device = "auto";
  /// What code for the CPU is made for, and where it is kept.
  mlir::pmkvq::HostOptions host;
  /// Its chip is not known yet.
  mlir::pmkvq::Assembler assembler;
  /// The kind of GPU that a benchmark compiles for; empty: the device's.
  std::string chip;
  /// "cpu" or "cuda": where the cache of a model lies.
  std::string cacheDevice = "cpu";
  /// "attention", "append", "prefill", "requantize" or "decode".
  std::string bench;
  /// One page of so many falls while attention is measured; 0: none.
  int64_t lowerEvery = 0;
  bench::Sweep sweep;
  /// Of a benchmark with a model, in place of `sweep`.
  ModelSweepOptions modelSweep;

  bool emits() const {
    return action >= Action::EmitImport && action <= Action::EmitArtifact;
  }
};

/// Reads the command line.
///
/// Errors: the option, what was expected and what was given.
rt::Result<Options> readOptions(const CommandLine &line);

/// "per_token+plain+clip=0.8" as the text of a format attribute,
/// "<per_token, plain, clip = 0.8>".
///
/// Errors: what was expected; that the format exists is not checked.
rt::Result<std::string> parseFormat(const std::string &text);

/// A format's attribute; empty if the option is not given.
rt::Result<std::string> readFormat(const StringOption &option);

/// What code for the CPU is made for, and where it is kept.
rt::Status readHost(const CommandLine &line, Options &options);

/// Options that only the benchmark has, or that it does not have.
rt::Status checkBenchOptions(const CommandLine &line);

/// What --bench measures.
rt::Status readBench(const CommandLine &line, Options &options);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_OPTIONS_H
