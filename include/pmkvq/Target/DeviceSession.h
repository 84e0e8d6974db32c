//===- DeviceSession.h - Kernels for a session's cache on a GPU -*- C++ -*-===//
//
// From a planned module to what a cache on a GPU needs: which of the program's
// kernels it takes over, the kernels in their place, and conversions.
// Neighbours: DeviceProgram.h (the kernels), PageOrders.h (the conversions),
// pmkvq_rt/cuda/DeviceCache.h (who runs them).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_DEVICESESSION_H
#define PMKVQ_TARGET_DEVICESESSION_H

#include "pmkvq/Target/Assembler.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq/Target/PageOrders.h"

namespace mlir::pmkvq {

class HostProgram;

/// What a module says of its caches and attention; holds nothing of it.
class DeviceSession {
public:
  /// Reads a module that has passed the stage `plan`.
  ///
  /// Errors: caches that one set of kernels cannot serve, with the reason.
  static llvm::Expected<DeviceSession> collect(ModuleOp planned);

  /// Compiles the kernels that write, and the first that attend.  The result
  /// compiles more as other kinds of units occur, in `context`, which must live
  /// as long.
  ///
  /// Errors: a shape, format or chip that is not supported, with the reason;
  /// those of the assembler.
  llvm::Expected<::pmkvq::rt::cuda::DeviceCacheCode>
  compile(MLIRContext &context, const HostProgram &program,
          const std::string &chip, const Assembler &assembler = {}) const;

private:
  WriterSpec writers;
  /// [layers]
  std::vector<DecodeSpec> layers;
  ::pmkvq::ImageShape shape;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_TARGET_DEVICESESSION_H
