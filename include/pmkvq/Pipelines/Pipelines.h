//===- Pipelines.h - The stages from model to host code ---------*- C++ -*-===//
//
// Names the compiler's stages and runs them; every stage can also be run alone
// with pmkvq-opt.  Neighbours: Passes.td (the passes), HostProgram.h (what runs
// the result), tools/pmkvq-run (who calls).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_PIPELINES_PIPELINES_H
#define PMKVQ_PIPELINES_PIPELINES_H

#include "mlir/Support/LLVM.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/StringRef.h"
#include <string>
#include <vector>

namespace mlir {
class DialectRegistry;
class ModuleOp;
class OpPassManager;
namespace pmkvq {

/// What the user decides about a program's caches.
struct PlanOptions {
  /// Format attributes as text, without `#pmkvq.format`.
  std::string keyFormat = "<per_channel, hadamard>";
  std::string valueFormat = "<per_token, hadamard>";
  /// "keys_last", "page", "least_loss", "layer", "none", or a name that was
  /// added to the dialect.
  std::string schedule = "keys_last";
  /// Lowest level per part, in bits; under "none" the level of every page.
  int64_t keyFloor = 2;
  int64_t valueFloor = 2;
  /// Bytes that all caches may take together; 0: no limit.
  int64_t budgetBytes = 0;
  /// Floors of single layers, as pmkvq-set-schedule reads them.
  std::vector<std::string> layerFloors;
  /// Whether floors are allocated by what calibration found, under the budget
  /// and for sequences that have so many tokens cached at their end; layers
  /// with floors of their own stay.
  bool allocate = false;
  std::vector<int64_t> tokens;
  std::vector<int64_t> keptLayers;
  /// Whether keys fall with feedback where calibration has what it takes.
  bool feedback = true;
  /// Bytes of a vector register of the CPU: 32 or 64.
  int64_t registerBytes = 32;
};

/// One stage of the way from an imported model to host code.
struct Stage {
  /// Kebab-case; `pmkvq-opt --pmkvq-stage-NAME` runs it.
  llvm::StringRef name;
  /// What a reader finds in the module after it.
  llvm::StringRef summary;
  void (*build)(OpPassManager &, const PlanOptions &);
};

/// All stages, in order.
llvm::ArrayRef<Stage> getStages();

/// Runs the stages on an imported module, up to `lastStage` or, if that is
/// empty, all.  If `dumpFolder` is not empty, the module before the first stage
/// and after each is written to it as NN-NAME.mlir, and what they hold to
/// index.md.  `afterStage` is shown the module after each.  Errors are
/// diagnostics on the offending op.
LogicalResult runStages(
    ModuleOp module, const PlanOptions &options,
    llvm::StringRef dumpFolder = "", llvm::StringRef lastStage = "",
    llvm::function_ref<void(llvm::StringRef stage, ModuleOp)> afterStage = {});

/// What a GPU kernel is compiled for.
struct DeviceOptions {
  /// Key and value level of each kind of unit, in turns; empty: all of the
  /// ladder, both sides alike.
  std::vector<int64_t> kinds;
  /// Rows of queries that a segment may have.
  int64_t rows = 1;
  /// Whether pages at 8 and 4 bits may fall by a level after they are read.
  bool lowers = false;
  bool dependentLaunch = false;
  /// What the chip has: bulk copies, max(|a|, |b|) of f16, shared memory that a
  /// thread block can have.
  bool bulkCopies = true;
  bool absoluteMaximum = true;
  int64_t sharedBytes = 227 << 10;
  /// What a page's slot of parameters holds, whichever kinds occur: of keys, a
  /// group a token; of a token's values, so many bytes.
  bool keysPerToken = false;
  int64_t valueBytes = 4;
};

/// From kernels in tile form over pages to one gpu.module in the LLVM and NVVM
/// dialects; an op of the dialect that is outside of kernels, or left at the
/// end, is diagnosed.  `pmkvq-opt --pmkvq-lower-to-gpu` runs it.
void buildDevicePipeline(OpPassManager &pm, const DeviceOptions &options);

/// What a prefill kernel is compiled for.
struct PrefillOptions {
  /// Levels of each part that can occur; empty: the ladder's.
  std::vector<int64_t> keys, values;
  /// As in PrefillLayout.
  int64_t stages = 2;
  /// Rows of queries that a segment may have, or 0: tasks of 128 queries.
  int64_t rows = 0;
  /// Of segments: warpgroups, or 0: as many as there are registers for.
  int64_t warpgroups = 0;
  bool dependentLaunch = false;
  /// Whether ranges of groups may be above rt::kNarrowRange.
  bool wideRanges = false;
};

/// The same for attention of many query rows a task, or of many queries a
/// segment, on warpgroups.
/// `pmkvq-opt --pmkvq-lower-prefill-to-gpu` runs it.
void buildPrefillPipeline(OpPassManager &pm, const PrefillOptions &options);

/// Registers `--pmkvq-stage-NAME` for each stage, and the GPU's pipeline.
void registerStagePipelines();

/// Every dialect, format, interface and translation the stages need.
void registerAllForStages(DialectRegistry &registry);

} // namespace pmkvq
} // namespace mlir

#endif // PMKVQ_PIPELINES_PIPELINES_H
