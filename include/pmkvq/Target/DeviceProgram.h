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
#include <string>
#include <vector>

namespace mlir {
class ModuleOp;
class MLIRContext;
template <typename T> class OwningOpRef;
namespace pmkvq {

/// What a decode attention kernel is specialized on.
struct DecodeSpec {
  int64_t kvHeads = 8;
  int64_t queryHeads = 32;
  int64_t headDim = 128;
  /// Factor of q . k before the softmax.
  double scale = 0.08838834764831845;
  /// Formats as in #pmkvq.format, without the prefix.
  std::string keyFormat = "<per_channel, hadamard>";
  std::string valueFormat = "<per_token, hadamard>";
  /// The kinds of units that can occur.
  std::vector<::pmkvq::rt::UnitKind> kinds;
  /// Whether the launch before may still run when this one starts: copies of
  /// the cache begin at once, queries are read after it has ended.
  bool dependentLaunch = false;
  /// "sm_90a", "sm_80", ...
  std::string chip = "sm_90a";
};

/// A kernel as PTX, and how to launch it.
struct DeviceKernel {
  std::string ptx;
  std::string name;
  int32_t threads = 0;
  /// Dynamic shared memory, bytes.
  int32_t sharedBytes = 0;
};

/// The kernel in tile form; the GPU stages have not run yet.
OwningOpRef<ModuleOp> buildDecodeModule(MLIRContext &context,
                                        const DecodeSpec &spec);

/// A kernel that reads memory, as a function of a gpu.module.
OwningOpRef<ModuleOp> buildReadModule(MLIRContext &context);

/// Decode attention over one layer's cache; its argument is a DecodeArgs.
/// Errors: a shape, format or chip that is not supported, with the reason.
llvm::Expected<DeviceKernel> compileDecode(MLIRContext &context,
                                           const DecodeSpec &spec);

/// A kernel that reads memory as fast as the device can; its argument is a
/// ReadArgs.  Blocks and threads are free; those said are a good choice.
llvm::Expected<DeviceKernel> compileRead(MLIRContext &context,
                                         const std::string &chip);

} // namespace pmkvq
} // namespace mlir

#endif // PMKVQ_TARGET_DEVICEPROGRAM_H
