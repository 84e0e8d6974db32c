//===- Kernels.h - Kernels of attention alone -------------------*- C++ -*-===//
//
// Compiles attention for a shape, without a model: for this CPU, and for GPUs.
// Neighbours: Bench.cpp (who measures them), Pipelines.h, DeviceProgram.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_KERNELS_H
#define PMKVQ_TOOLS_RUN_KERNELS_H

#include "bench/DeviceBench.h"
#include "bench/HostBench.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Target/Assembler.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq/Target/HostProgram.h"
#include <map>

namespace pmkvq::run {

/// Compiles, and keeps what it has compiled for the CPU: those kernels take any
/// levels and lengths.
class KernelCompiler {
public:
  explicit KernelCompiler(mlir::pmkvq::HostOptions host = {},
                          mlir::pmkvq::Assembler assembler = {});

  /// Errors: what MLIR reports first, or that this machine is no such CPU.
  rt::Result<bench::HostKernels> compileHost(const bench::Problem &problem);

  /// A compiler for GPUs; lives as long as this.
  bench::DeviceCompiler forDevices();

private:
  rt::Result<bench::DeviceCode>
  toCode(llvm::Expected<mlir::pmkvq::DeviceKernel> kernel,
         const std::string &chip) const;

  mlir::pmkvq::HostOptions host;
  mlir::pmkvq::Assembler assembler;
  mlir::MLIRContext context;
  std::map<std::string, bench::HostKernels> compiled;
};

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_KERNELS_H
