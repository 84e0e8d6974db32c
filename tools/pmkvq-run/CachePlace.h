//===- CachePlace.h - Where the cache of a run lies -------------*- C++ -*-===//
//
// What --cache-device asks for: a store on a GPU, beside the CPU's if --check
// looks at it.  Neighbours: Target/DeviceSession.h (kernels),
// Check/MirroredCache.h, Bench.cpp (GPUs for the benchmark).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_CACHEPLACE_H
#define PMKVQ_TOOLS_RUN_CACHEPLACE_H

#include "Options.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Check/MirroredCache.h"
#include "pmkvq/Target/DeviceSession.h"
#include "pmkvq/Target/HostProgram.h"

namespace pmkvq::run {

/// The first GPU that is visible.
///
/// Errors: why there is none.
rt::Result<rt::cuda::DeviceRef> openDevice();

struct CachePlace {
  /// Null: the CPU.
  rt::cuda::DeviceRef device;
  std::shared_ptr<rt::CacheStore> store;
  /// The store again, if it is mirrored.
  std::shared_ptr<check::MirroredCache> mirror;
};

/// The device that the options ask for; its store is made later.
///
/// Errors: why it cannot be used.
llvm::Expected<CachePlace> chooseCachePlace(const Options &options);

/// Compiles kernels for the device, if there is one, and makes its store.
///
/// Errors: what the kernels do not support; those of the driver.
llvm::Error makeStore(const Options &options,
                      const mlir::pmkvq::DeviceSession &session,
                      const mlir::pmkvq::HostProgram &program,
                      mlir::MLIRContext &context, CachePlace &place);

/// CheckFailed, after `run`, if a mirrored cache differs from the CPU's.
llvm::Error judgeCache(const CachePlace &place, llvm::Error run);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_CACHEPLACE_H
