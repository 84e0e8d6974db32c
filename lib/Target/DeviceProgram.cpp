//===- DeviceProgram.cpp - Kernels for a GPU ------------------------------===//
//
// NVVM dialect to LLVM IR to PTX.  Neighbours: DeviceProgram.h,
// DeviceStages.cpp (what runs before), HostProgram.cpp (the same for the CPU).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/DeviceProgram.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/ExecutionEngine/OptUtils.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/FirstError.h"
#include "pmkvq/Target/SharedLayout.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

static llvm::Error makeError(const llvm::Twine &message) {
  return llvm::createStringError(llvm::inconvertibleErrorCode(), message);
}

/// PTX 8.6 is the first with bulk copies to shared::cta; a driver of CUDA 12.7
/// or later takes it.
static llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
createMachine(const std::string &chip) {
  static const bool initialized = [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    return true;
  }();
  (void)initialized;
  llvm::Triple triple("nvptx64-nvidia-cuda");
  std::string message;
  const llvm::Target *target =
      llvm::TargetRegistry::lookupTarget(triple, message);
  if (!target)
    return makeError(message);
  std::unique_ptr<llvm::TargetMachine> machine(target->createTargetMachine(
      triple, chip, "+ptx86", llvm::TargetOptions(), llvm::Reloc::PIC_,
      std::nullopt, llvm::CodeGenOptLevel::Aggressive));
  if (!machine)
    return makeError("no code for a GPU of kind " + chip);
  return machine;
}

static llvm::Expected<std::string> printPTX(ModuleOp module,
                                            const std::string &chip) {
  auto machine = createMachine(chip);
  if (!machine)
    return machine.takeError();
  auto kernels = *module.getOps<gpu::GPUModuleOp>().begin();
  llvm::LLVMContext context;
  auto ir = translateModuleToLLVMIR(kernels, context, "kernels");
  if (!ir)
    return makeError("cannot translate the kernel to LLVM IR");
  ir->setTargetTriple((*machine)->getTargetTriple());
  ir->setDataLayout((*machine)->createDataLayout());
  auto optimize = makeOptimizingTransformer(/*optLevel=*/3, /*sizeLevel=*/0,
                                            machine->get());
  if (llvm::Error error = optimize(ir.get()))
    return error;
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream os(text);
  llvm::legacy::PassManager passes;
  if ((*machine)->addPassesToEmitFile(passes, os, /*DwoOut=*/nullptr,
                                      llvm::CodeGenFileType::AssemblyFile))
    return makeError("cannot print PTX");
  passes.run(*ir);
  return text.str().str();
}

/// The kernels that sm_90a code is for.
static llvm::Error checkChip(const std::string &chip) {
  if (chip == "sm_90" || chip == "sm_90a")
    return llvm::Error::success();
  return makeError("no kernels for a GPU of kind " + chip +
                   " yet; expected sm_90a");
}

/// Sizes are computed from kinds before an op verifies them.
static llvm::Error checkKinds(llvm::ArrayRef<rt::UnitKind> kinds) {
  if (kinds.empty())
    return makeError("expected at least one kind of unit");
  for (rt::UnitKind kind : kinds)
    if (!rt::isLevel(kind.key) || !rt::isLevel(kind.value))
      return makeError("expected kinds at levels of 16, 8, 4 or 2, got " +
                       llvm::Twine(kind.key) + " and " +
                       llvm::Twine(kind.value));
  return llvm::Error::success();
}

/// Whether the format of keys has groups along tokens.
static bool hasKeysPerToken(ModuleOp module) {
  auto kernel = *module.getOps<KernelOp>().begin();
  auto cache = cast<CacheType>(kernel.getFunctionType().getInput(0));
  return cache.getKey().getModel().getGroupAxis() == GroupAxis::Token;
}

llvm::Expected<DeviceKernel>
mlir::pmkvq::compileDecode(MLIRContext &context, const DecodeSpec &spec) {
  if (llvm::Error error = checkChip(spec.chip))
    return error;
  if (llvm::Error error = checkKinds(spec.kinds))
    return error;
  FirstError diagnostics(context);
  OwningOpRef<ModuleOp> module = buildDecodeModule(context, spec);
  if (!module)
    return diagnostics.take("cannot build the kernel");
  DeviceOptions options;
  options.dependentLaunch = spec.dependentLaunch;
  bool keysPerToken = hasKeysPerToken(*module);
  ::pmkvq::SharedLayout shared;
  shared.headDim = spec.headDim;
  shared.group = spec.queryHeads / spec.kvHeads;
  for (rt::UnitKind kind : spec.kinds) {
    options.kinds.push_back(kind.key);
    options.kinds.push_back(kind.value);
    shared.fit(kind, keysPerToken);
  }
  PassManager pm(&context);
  buildDevicePipeline(pm, options);
  if (failed(pm.run(*module)))
    return diagnostics.take("cannot lower the kernel");
  auto ptx = printPTX(*module, spec.chip);
  if (!ptx)
    return ptx.takeError();
  return DeviceKernel{std::move(*ptx), "decode",
                      static_cast<int32_t>(::pmkvq::SharedLayout::kWarps * 32),
                      static_cast<int32_t>(shared.bytes())};
}

llvm::Expected<DeviceKernel> mlir::pmkvq::compileRead(MLIRContext &context,
                                                      const std::string &chip) {
  if (llvm::Error error = checkChip(chip))
    return error;
  FirstError diagnostics(context);
  OwningOpRef<ModuleOp> module = buildReadModule(context);
  PassManager pm(&context);
  buildDevicePipeline(pm, DeviceOptions());
  if (failed(pm.run(*module)))
    return diagnostics.take("cannot lower the read kernel");
  auto ptx = printPTX(*module, chip);
  if (!ptx)
    return ptx.takeError();
  return DeviceKernel{std::move(*ptx), "read", /*threads=*/512,
                      /*sharedBytes=*/0};
}
