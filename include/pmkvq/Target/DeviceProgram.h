//===- DeviceProgram.h - Kernels for a GPU ----------------------*- C++ -*-===//
//
// Builds, lowers and compiles kernels for an NVIDIA GPU, from the tile form to
// PTX.  Neighbours: Pipelines.h (the stages), pmkvq_rt/DeviceAbi.h (arguments),
// FragmentLayout.h (the order of codes).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_DEVICEPROGRAM_H
#define PMKVQ_TARGET_DEVICEPROGRAM_H

#include "mlir/Support/LLVM.h"
#include "pmkvq_rt/DeviceAbi.h"
#include "llvm/Support/Error.h"
#include <map>
#include <string>
#include <vector>

namespace mlir {
class ModuleOp;
class MLIRContext;
template <typename T> class OwningOpRef;
namespace pmkvq {

/// What every kernel of a cache is specialized on.
struct CacheSpec {
  int64_t kvHeads = 8;
  int64_t headDim = 128;
  /// Formats as in #pmkvq.format, without the prefix.
  std::string keyFormat = "<per_channel, hadamard>";
  std::string valueFormat = "<per_token, hadamard>";
  /// "sm_90a", "sm_80", ...
  std::string chip = "sm_90a";
};

/// What kernels of attention are specialized on, too.
struct AttentionSpec : CacheSpec {
  int64_t queryHeads = 32;
  /// Factor of q . k before the softmax.
  double scale = 0.08838834764831845;
  /// Whether ranges of groups may be above rt::kNarrowRange, or scores of
  /// prefill 2^7 above those of the pages before, in log2: warpgroups take
  /// longer for it, and without such results are NaN there.
  bool wideRanges = false;
};

/// What a decode attention kernel is specialized on.
struct DecodeSpec : AttentionSpec {
  /// Whether queries come in the keys' basis; else the kernel rotates them.
  bool queriesRotated = true;
  /// The kinds of units that can occur.
  std::vector<::pmkvq::rt::UnitKind> kinds;
  /// Rows of queries that a segment is to have: tokens decoded at once.  It may
  /// have fewer (DeviceKernel::rows).
  int64_t rows = 1;
  /// Whether pages at 8 and 4 bits may fall by a level after they are read:
  /// work lists are of LoweringTasks then.  Not on warpgroups, and not with
  /// dependent launch, where the next launch would read before this one has
  /// written.
  bool lowers = false;
  /// Whether the launch before may still run when this one starts: copies of
  /// the cache begin at once, queries are read after it has ended.
  bool dependentLaunch = false;
};

/// What a prefill attention kernel is specialized on.
struct PrefillSpec : AttentionSpec {
  /// Levels of pages of each part that can occur, each once; 16 is among them,
  /// for the chunk's own tokens are raw.
  std::vector<int64_t> keyLevels, valueLevels;
  /// Tiles under way, 2 or 3.
  int64_t stages = 2;
};

/// What the kernels that write a cache are specialized on.
struct WriterSpec : CacheSpec {
  int64_t sink = 1;
  /// Whether values come in their rotated basis.
  bool valuesRotated = true;
  /// Whether append embeds the positions of keys.
  bool embedsPositions = false;
};

/// Kernels of one module.
struct DeviceKernels {
  std::string ptx;
  /// Threads of a block, by kernel.
  std::map<std::string, int32_t> threads;
};

/// A kernel as PTX, and how to launch it.
struct DeviceKernel {
  std::string ptx;
  std::string name;
  int32_t threads = 0;
  /// Dynamic shared memory, bytes.
  int32_t sharedBytes = 0;
  /// Bytes of a page's slot in the parameter pool.
  int64_t slotBytes = 0;
  /// Of decode attention: rows of queries that a segment may have, and whether
  /// its work lists are of pages, not of units.
  int64_t rows = 1;
  bool takesPages = false;
};

/// The kernel in tile form; the GPU stages have not run yet.
OwningOpRef<ModuleOp> buildDecodeModule(MLIRContext &context,
                                        const DecodeSpec &spec);

/// The same kernel for prefill; it differs in what stages follow.
OwningOpRef<ModuleOp> buildPrefillModule(MLIRContext &context,
                                         const PrefillSpec &spec);

/// The kernels that write one layer's cache, in tile form: append, and for each
/// part and level flush and requantize, with the names of DeviceKernelNames.h.
OwningOpRef<ModuleOp> buildWriterModule(MLIRContext &context,
                                        const WriterSpec &spec);

/// A kernel that reads memory, as a function of a gpu.module.
OwningOpRef<ModuleOp> buildReadModule(MLIRContext &context);

// Those that compile keep PTX in `codeFolder`, as HostOptions::codeFolder keeps
// the host's code, and find it there; empty: they do not.

/// Decode attention over one layer's cache; its argument is a DecodeArgs.  Of
/// many queries a kv head it is on warpgroups, where the chip has such products
/// and the shape goes with them.
/// Errors: a shape, format or chip that is not supported, with the reason.
llvm::Expected<DeviceKernel> compileDecode(MLIRContext &context,
                                           const DecodeSpec &spec,
                                           StringRef codeFolder = "");

/// Attention of many query rows over one layer's cache; its argument is a
/// PrefillArgs, a thread block takes one PrefillTask.
/// Errors: a shape, format or chip that is not supported, with the reason.
llvm::Expected<DeviceKernel> compilePrefill(MLIRContext &context,
                                            const PrefillSpec &spec,
                                            StringRef codeFolder = "");

/// The kernels of buildWriterModule; arguments are AppendArgs and PagesArgs.
/// Errors: a shape, format or chip that is not supported, with the reason.
llvm::Expected<DeviceKernels> compileWriters(MLIRContext &context,
                                             const WriterSpec &spec,
                                             StringRef codeFolder = "");

/// A kernel that reads memory as fast as the device can; its argument is a
/// ReadArgs.  Blocks and threads are free; those said are a good choice.
llvm::Expected<DeviceKernel> compileRead(MLIRContext &context,
                                         const std::string &chip,
                                         StringRef codeFolder = "");

} // namespace pmkvq
} // namespace mlir

#endif // PMKVQ_TARGET_DEVICEPROGRAM_H
