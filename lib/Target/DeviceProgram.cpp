//===- DeviceProgram.cpp - Kernels for a GPU ------------------------------===//
//
// NVVM dialect to LLVM IR to PTX.  Neighbours: DeviceProgram.h,
// DeviceStages.cpp (what runs before), HostProgram.cpp (the same for the CPU).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/DeviceProgram.h"
#include "CodeCache.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/ExecutionEngine/OptUtils.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/FirstError.h"
#include "pmkvq/Target/SharedLayout.h"
#include "pmkvq/Target/WarpgroupLayout.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include <set>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
/// What kernels may use on a chip.
struct Chip {
  llvm::StringRef name;
  /// KiB of shared memory that a thread block can have.
  int64_t sharedKiB;
  /// Bulk copies, barriers that count their bytes, dependent launches.
  bool isHopper;
  /// max(|a|, |b|) of f16.
  bool absoluteMaximum;
  /// PTX 8.3 is the first with 128-bit accesses that others see whole (a driver
  /// of CUDA 12.3 takes it), 8.6 with bulk copies to shared::cta (12.7).
  llvm::StringRef features;
};
} // namespace

static constexpr Chip kChips[] = {{"sm_80", 163, false, false, "+ptx83"},
                                  {"sm_86", 99, false, true, "+ptx83"},
                                  {"sm_87", 163, false, true, "+ptx83"},
                                  {"sm_89", 99, false, true, "+ptx83"},
                                  {"sm_90", 227, true, true, "+ptx86"},
                                  {"sm_90a", 227, true, true, "+ptx86"},
                                  {"sm_100", 227, true, true, "+ptx86"},
                                  {"sm_120", 99, true, true, "+ptx87"}};

static llvm::Expected<Chip> findChip(const std::string &name) {
  std::string known;
  for (const Chip &chip : kChips) {
    if (chip.name == name)
      return chip;
    known += (known.empty() ? "" : ", ") + chip.name.str();
  }
  return llvm::createStringError("no kernels for a GPU of kind " + name +
                                 "; expected one of " + known);
}

static llvm::Expected<std::unique_ptr<llvm::TargetMachine>>
createMachine(const Chip &chip) {
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
    return llvm::createStringError(message);
  std::unique_ptr<llvm::TargetMachine> machine(target->createTargetMachine(
      triple, chip.name, chip.features, llvm::TargetOptions(),
      llvm::Reloc::PIC_, std::nullopt, llvm::CodeGenOptLevel::Aggressive));
  if (!machine)
    return llvm::createStringError("no code for a GPU of kind " + chip.name);
  return machine;
}

static llvm::Expected<std::string> printPTX(llvm::Module &ir,
                                            llvm::TargetMachine &machine) {
  auto optimize =
      makeOptimizingTransformer(/*optLevel=*/3, /*sizeLevel=*/0, &machine);
  if (llvm::Error error = optimize(&ir))
    return error;
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream os(text);
  llvm::legacy::PassManager passes;
  if (machine.addPassesToEmitFile(passes, os, /*DwoOut=*/nullptr,
                                  llvm::CodeGenFileType::AssemblyFile))
    return llvm::createStringError("cannot print PTX");
  passes.run(ir);
  return text.str().str();
}

/// PTX of a lowered module's kernels, from the folder if it is there.
static llvm::Expected<std::string>
findOrPrintPTX(ModuleOp module, const Chip &chip, StringRef codeFolder) {
  auto machine = createMachine(chip);
  if (!machine)
    return machine.takeError();
  auto kernels = *module.getOps<gpu::GPUModuleOp>().begin();
  llvm::LLVMContext context;
  auto ir = translateModuleToLLVMIR(kernels, context, "kernels");
  if (!ir)
    return llvm::createStringError("cannot translate the kernel to LLVM IR");
  ir->setTargetTriple((*machine)->getTargetTriple());
  ir->setDataLayout((*machine)->createDataLayout());
  CodeCache cache(codeFolder);
  const std::string key = codeKey(*ir, ((*machine)->getTargetCPU() + " " +
                                        (*machine)->getTargetFeatureString())
                                           .str());
  if (std::unique_ptr<llvm::MemoryBuffer> known = cache.load(key))
    return known->getBuffer().str();
  auto ptx = printPTX(*ir, **machine);
  if (ptx)
    cache.keep(key, {*ptx, key});
  return ptx;
}

/// Sizes are computed from kinds before an op verifies them.
static llvm::Error checkKinds(llvm::ArrayRef<rt::UnitKind> kinds) {
  if (kinds.empty())
    return llvm::createStringError("expected at least one kind of unit");
  for (rt::UnitKind kind : kinds)
    if (!rt::isLevel(kind.key) || !rt::isLevel(kind.value))
      return llvm::createStringError(
          "expected kinds at levels of 16, 8, 4 or 2, got " +
          llvm::Twine(kind.key) + " and " + llvm::Twine(kind.value));
  return llvm::Error::success();
}

static CacheType cacheOf(ModuleOp module) {
  auto kernel = *module.getOps<KernelOp>().begin();
  return cast<CacheType>(kernel.getFunctionType().getInput(0));
}

/// Whether the format of keys has groups along tokens.
static bool hasKeysPerToken(ModuleOp module) {
  return cacheOf(module).getKey().getModel().getGroupAxis() == GroupAxis::Token;
}

/// Bytes of parameters of a token's values.
static int64_t valueBytesOf(ModuleOp module) {
  return cacheOf(module).getValue().getModel().getGroupBytes();
}

/// Queries a kv head, of several rows, from which on warpgroups are faster.
static constexpr int64_t kFewestWarpgroupQueries = 9;

static int64_t groupOf(const AttentionSpec &spec) {
  return spec.queryHeads / spec.kvHeads;
}

/// Whether warpgroups are to attend.
static bool usesWarpgroups(const Chip &chip, const DecodeSpec &spec,
                           ModuleOp module) {
  const FormatAttr values = cacheOf(module).getValue();
  const int64_t group = groupOf(spec);
  return !spec.lowers && chip.name == "sm_90a" &&
         spec.headDim == ::pmkvq::HalfTile::kColumns && spec.rows > 1 &&
         group * spec.rows >= kFewestWarpgroupQueries &&
         group <= rt::kMaxWarpgroupQueries && !hasKeysPerToken(module) &&
         values.getModel().getGroupAxis() == GroupAxis::Token &&
         valueBytesOf(module) == ::pmkvq::kGroupBytes;
}

/// Levels of a part's pages, each once, and 16, at which fixed areas are.
static std::vector<int64_t> levelsOf(llvm::ArrayRef<rt::UnitKind> kinds,
                                     rt::Part part) {
  std::set<int64_t> levels = {16};
  for (rt::UnitKind kind : kinds)
    levels.insert(kind.level(part));
  return {levels.begin(), levels.end()};
}

/// Decode attention of many queries, over pages.
static llvm::Expected<DeviceKernel>
compileForWarpgroups(const Chip &chip, const DecodeSpec &spec, ModuleOp module,
                     StringRef codeFolder, FirstError &diagnostics) {
  const int64_t group = groupOf(spec);
  PrefillOptions options;
  options.rows = rt::segmentRows(group, spec.rows, rt::kMaxWarpgroupQueries);
  options.keys = levelsOf(spec.kinds, rt::kKey);
  options.values = levelsOf(spec.kinds, rt::kValue);
  options.dependentLaunch = spec.dependentLaunch;
  options.wideRanges = spec.wideRanges;
  PassManager pm(module.getContext());
  buildPrefillPipeline(pm, options);
  if (failed(pm.run(module)))
    return diagnostics.take("cannot lower the kernel for " + spec.chip);
  auto ptx = findOrPrintPTX(module, chip, codeFolder);
  if (!ptx)
    return ptx.takeError();
  auto shared = ::pmkvq::SharedRowsLayout::of(group * options.rows);
  DeviceKernel kernel;
  kernel.ptx = std::move(*ptx);
  kernel.name = "decode";
  kernel.threads = static_cast<int32_t>(shared.allThreads());
  kernel.sharedBytes = static_cast<int32_t>(shared.bytes());
  kernel.slotBytes =
      ::pmkvq::deviceSlotBytes(spec.headDim, /*keysPerToken=*/false);
  kernel.rows = options.rows;
  kernel.takesPages = true;
  return kernel;
}

llvm::Expected<DeviceKernel> mlir::pmkvq::compileDecode(MLIRContext &context,
                                                        const DecodeSpec &spec,
                                                        StringRef codeFolder) {
  auto chip = findChip(spec.chip);
  if (!chip)
    return chip.takeError();
  if (spec.dependentLaunch && !chip->isHopper)
    return llvm::createStringError(
        "a GPU of kind " + spec.chip +
        " has no dependent launch; expected sm_90a or later");
  if (spec.dependentLaunch && spec.lowers)
    return llvm::createStringError(
        "a kernel that lowers pages has no dependent launch: the next launch "
        "would read them before they are written");
  if (llvm::Error error = checkKinds(spec.kinds))
    return error;
  FirstError diagnostics(context);
  OwningOpRef<ModuleOp> module = buildDecodeModule(context, spec);
  if (!module)
    return diagnostics.take("cannot build the kernel");
  if (spec.lowers && cacheOf(*module).getKey().getFeedback())
    return llvm::createStringError(
        "keys that fall with feedback do not fall as they are read: a lane has "
        "no whole token of a unit");
  if (usesWarpgroups(*chip, spec, *module))
    return compileForWarpgroups(*chip, spec, *module, codeFolder, diagnostics);
  DeviceOptions options;
  options.rows = rt::segmentRows(groupOf(spec), spec.rows);
  options.lowers = spec.lowers;
  options.dependentLaunch = spec.dependentLaunch;
  options.bulkCopies = chip->isHopper;
  options.absoluteMaximum = chip->absoluteMaximum;
  options.sharedBytes = chip->sharedKiB * 1024;
  const bool keysPerToken = options.keysPerToken = hasKeysPerToken(*module);
  const int64_t valueBytes = options.valueBytes = valueBytesOf(*module);
  ::pmkvq::SharedLayout shared;
  shared.headDim = spec.headDim;
  shared.group = spec.queryHeads / spec.kvHeads;
  shared.rows = options.rows;
  for (rt::UnitKind kind : spec.kinds) {
    options.kinds.push_back(kind.key);
    options.kinds.push_back(kind.value);
    shared.fit(kind, keysPerToken, valueBytes);
  }
  PassManager pm(&context);
  buildDevicePipeline(pm, options);
  if (failed(pm.run(*module)))
    return diagnostics.take("cannot lower the kernel for " + spec.chip);
  shared.fitInto(options.sharedBytes, /*mayShare=*/!options.bulkCopies);
  auto ptx = findOrPrintPTX(*module, *chip, codeFolder);
  if (!ptx)
    return ptx.takeError();
  return DeviceKernel{
      std::move(*ptx),
      "decode",
      static_cast<int32_t>(::pmkvq::SharedLayout::kWarps * 32),
      static_cast<int32_t>(shared.bytes()),
      ::pmkvq::deviceSlotBytes(spec.headDim, keysPerToken, valueBytes),
      options.rows};
}

llvm::Expected<DeviceKernel>
mlir::pmkvq::compilePrefill(MLIRContext &context, const PrefillSpec &spec,
                            StringRef codeFolder) {
  auto chip = findChip(spec.chip);
  if (!chip)
    return chip.takeError();
  if (chip->name != "sm_90a")
    return llvm::createStringError("no prefill kernels for a GPU of kind " +
                                   spec.chip + " yet; expected sm_90a");
  for (const auto *levels : {&spec.keyLevels, &spec.valueLevels})
    if (!llvm::is_contained(*levels, 16) || !llvm::all_of(*levels, rt::isLevel))
      return llvm::createStringError(
          "expected levels of 16, 8, 4 or 2, 16 among them: a "
          "chunk's own tokens are raw");
  FirstError diagnostics(context);
  OwningOpRef<ModuleOp> module = buildPrefillModule(context, spec);
  if (!module)
    return diagnostics.take("cannot build the kernel");
  PrefillOptions options;
  options.keys = spec.keyLevels;
  options.values = spec.valueLevels;
  options.stages = spec.stages;
  options.wideRanges = spec.wideRanges;
  PassManager pm(&context);
  buildPrefillPipeline(pm, options);
  if (failed(pm.run(*module)))
    return diagnostics.take("cannot lower the kernel");
  auto ptx = findOrPrintPTX(*module, *chip, codeFolder);
  if (!ptx)
    return ptx.takeError();
  ::pmkvq::PrefillLayout shared;
  shared.stages = spec.stages;
  return DeviceKernel{std::move(*ptx), "prefill",
                      static_cast<int32_t>(::pmkvq::PrefillLayout::kThreads),
                      static_cast<int32_t>(shared.bytes())};
}

llvm::Expected<DeviceKernels>
mlir::pmkvq::compileWriters(MLIRContext &context, const WriterSpec &spec,
                            StringRef codeFolder) {
  auto chip = findChip(spec.chip);
  if (!chip)
    return chip.takeError();
  FirstError diagnostics(context);
  OwningOpRef<ModuleOp> module = buildWriterModule(context, spec);
  if (!module)
    return diagnostics.take("cannot build the kernels that write");
  PassManager pm(&context);
  buildDevicePipeline(pm, DeviceOptions());
  if (failed(pm.run(*module)))
    return diagnostics.take("cannot lower the kernels that write");
  auto ptx = findOrPrintPTX(*module, *chip, codeFolder);
  if (!ptx)
    return ptx.takeError();
  DeviceKernels kernels = {std::move(*ptx), {}};
  module->walk([&](LLVM::LLVMFuncOp function) {
    if (auto threads =
            function->getAttrOfType<DenseI32ArrayAttr>("nvvm.reqntid"))
      kernels.threads[function.getName().str()] = threads[0];
  });
  return kernels;
}

llvm::Expected<DeviceKernel> mlir::pmkvq::compileRead(MLIRContext &context,
                                                      const std::string &name,
                                                      StringRef codeFolder) {
  auto chip = findChip(name);
  if (!chip)
    return chip.takeError();
  FirstError diagnostics(context);
  OwningOpRef<ModuleOp> module = buildReadModule(context);
  PassManager pm(&context);
  buildDevicePipeline(pm, DeviceOptions());
  if (failed(pm.run(*module)))
    return diagnostics.take("cannot lower the read kernel");
  auto ptx = findOrPrintPTX(*module, *chip, codeFolder);
  if (!ptx)
    return ptx.takeError();
  return DeviceKernel{std::move(*ptx), "read", /*threads=*/512,
                      /*sharedBytes=*/0, /*slotBytes=*/0};
}
