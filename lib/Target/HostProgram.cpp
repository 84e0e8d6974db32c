//===- HostProgram.cpp - Lowered modules as code in memory ----------------===//
//
// LLVM dialect to LLVM IR to code for this CPU, through ORC.  Neighbours:
// HostProgram.h, pmkvq_rt/Abi.h (the entry points looked up here).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/HostProgram.h"
#include "CodeCache.h"
#include "SharedObject.h"
#include "mlir/ExecutionEngine/OptUtils.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Launch.h"
#include "pmkvq_rt/Program.h"
#include "llvm/ExecutionEngine/Orc/JITTargetMachineBuilder.h"
#include "llvm/ExecutionEngine/Orc/LLJIT.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/SmallVectorMemoryBuffer.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/TargetParser/Host.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

HostProgram::HostProgram() = default;
HostProgram::~HostProgram() = default;

/// Takes the weight ops out of `module`, in the order of the weight table.
static std::vector<WeightSpec> takeWeights(ModuleOp module) {
  std::vector<WeightSpec> specs;
  for (WeightOp weight :
       llvm::make_early_inc_range(module.getOps<WeightOp>())) {
    WeightSpec spec;
    spec.name = weight.getSymName().str();
    spec.source = weight.getSource().str();
    spec.shape = cast<ShapedType>(weight.getType()).getShape().vec();
    spec.firstRow = weight.getFirstRow();
    if (auto rotations = weight.getRotations())
      for (auto rotation : rotations->getAsRange<RotationAttr>())
        spec.rotations.push_back({rotation.getDim(), rotation.getBlock()});
    if (std::optional<ArrayRef<int8_t>> exponents = weight.getScaleRows())
      spec.scaleRows = exponents->vec();
    specs.push_back(std::move(spec));
    weight.erase();
  }
  return specs;
}

/// LLVM IR for `machine`, not optimized yet.
static llvm::Expected<std::unique_ptr<llvm::Module>>
translate(ModuleOp module, llvm::LLVMContext &context,
          llvm::TargetMachine &machine) {
  auto ir = translateModuleToLLVMIR(module, context, "pmkvq");
  if (!ir)
    return llvm::createStringError("cannot translate the module to LLVM IR");
  ir->setTargetTriple(machine.getTargetTriple());
  ir->setDataLayout(machine.createDataLayout());
  for (llvm::Function &function : *ir) {
    if (function.isDeclaration())
      continue;
    function.addFnAttr("target-cpu", machine.getTargetCPU());
    function.addFnAttr("target-features", machine.getTargetFeatureString());
  }
  return ir;
}

static llvm::Error optimize(llvm::Module &ir, llvm::TargetMachine &machine) {
  return makeOptimizingTransformer(/*optLevel=*/3, /*sizeLevel=*/0,
                                   &machine)(&ir);
}

/// Optimizes `ir` and makes code of it.
static llvm::Expected<std::unique_ptr<llvm::MemoryBuffer>>
makeCode(llvm::Module &ir, llvm::TargetMachine &machine, StringRef name) {
  if (llvm::Error error = optimize(ir, machine))
    return error;
  llvm::SmallString<0> bytes;
  llvm::raw_svector_ostream os(bytes);
  llvm::legacy::PassManager passes;
  if (machine.addPassesToEmitFile(passes, os, /*DwoOut=*/nullptr,
                                  llvm::CodeGenFileType::ObjectFile))
    return llvm::createStringError("this target makes no object code");
  passes.run(ir);
  return std::make_unique<llvm::SmallVectorMemoryBuffer>(
      std::move(bytes), name, /*RequiresNullTerminator=*/false);
}

/// Hooks and the C library's functions that host code calls, from this process.
static llvm::Error addHooks(llvm::orc::LLJIT &jit) {
  llvm::orc::SymbolMap hooks;
  for (const rt::HookSymbol &hook : rt::hookSymbols())
    hooks[jit.mangleAndIntern(hook.name)] = {
        llvm::orc::ExecutorAddr::fromPtr(hook.address),
        llvm::JITSymbolFlags::Exported};
  for (const rt::HookSymbol &conversion : rt::conversionSymbols())
    hooks[jit.mangleAndIntern(conversion.name)] = {
        llvm::orc::ExecutorAddr::fromPtr(conversion.address),
        llvm::JITSymbolFlags::Exported | llvm::JITSymbolFlags::Callable};
  if (llvm::Error error = jit.getMainJITDylib().define(
          llvm::orc::absoluteSymbols(std::move(hooks))))
    return error;
  auto process = llvm::orc::DynamicLibrarySearchGenerator::GetForCurrentProcess(
      jit.getDataLayout().getGlobalPrefix());
  if (!process)
    return process.takeError();
  jit.getMainJITDylib().addGenerator(std::move(*process));
  return llvm::Error::success();
}

void *HostProgram::lookUp(StringRef name) const {
  if (!defined.contains(name))
    return nullptr;
  auto symbol = jit->lookup(name);
  if (!symbol) {
    llvm::consumeError(symbol.takeError());
    return nullptr;
  }
  return symbol->toPtr<void *>();
}

llvm::Expected<rt::ProgramEntries> HostProgram::entries() const {
  auto entries =
      rt::findEntries([&](const char *name) { return lookUp(name); });
  if (!entries.ok())
    return llvm::createStringError(entries.status().message());
  return *entries;
}

namespace {
/// A CPU that code can be made for wherever it is compiled.
struct NamedCpu {
  StringRef name, llvmName;
  /// What it has beyond that, or what kernels are made for.
  std::vector<StringRef> features;
};
} // namespace

/// The better ones last.
static llvm::ArrayRef<NamedCpu> namedCpus() {
  static const NamedCpu cpus[] = {
      {"generic", "x86-64", {}},
      {"avx2", "x86-64-v3", {"avx2", "fma", "f16c"}},
      {"avx512",
       "x86-64-v4",
       {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"}}};
  return cpus;
}

using MachineBuilder = llvm::orc::JITTargetMachineBuilder;

/// This machine's CPU with all that it has.
static llvm::Expected<MachineBuilder> detectHost() {
  static const bool initialized = [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    return true;
  }();
  (void)initialized;
  auto host = MachineBuilder::detectHost();
  if (host)
    host->setCodeGenOptLevel(llvm::CodeGenOptLevel::Aggressive);
  return host;
}

/// LLVM splits `vpdpwssd` into a product and an addition, so that an
/// accumulator is waited for less; kernels have accumulators enough to wait for
/// none.
static void keepDotProducts(MachineBuilder &builder) {
  if (builder.getTargetTriple().isX86())
    builder.addFeatures({"+fast-dpwssd"});
}

/// See HostProgram::compile; `here`: this machine must be able to run it.
static llvm::Expected<MachineBuilder> chooseMachine(StringRef name, bool here) {
  auto host = detectHost();
  if (host)
    keepDotProducts(*host);
  if (!host || name == "native")
    return host;
  const llvm::Triple &triple = host->getTargetTriple();
  const NamedCpu *cpu = llvm::find_if(
      namedCpus(), [&](const NamedCpu &cpu) { return cpu.name == name; });
  if (cpu == namedCpus().end())
    return llvm::createStringError(
        "expected a CPU native, generic, avx2 or avx512, got '" + name + "'");
  MachineBuilder builder(triple);
  builder.setCodeGenOptLevel(llvm::CodeGenOptLevel::Aggressive);
  if (!triple.isX86()) {
    if (!cpu->features.empty())
      return llvm::createStringError("CPU " + name +
                                     " is an x86, this machine is " +
                                     triple.getArchName());
    return builder;
  }
  builder.setCPU(cpu->llvmName.str());
  keepDotProducts(builder);
  llvm::StringMap<bool> has = llvm::sys::getHostCPUFeatures();
  std::vector<std::string> features;
  for (StringRef feature : cpu->features) {
    if (here && !has.lookup(feature))
      return llvm::createStringError("CPU " + name + ": this machine has no " +
                                     feature + "; native takes what it has");
    features.push_back(("+" + feature).str());
  }
  builder.addFeatures(features);
  return builder;
}

std::string HostProgram::namedHost() {
  auto host = detectHost();
  if (!host) {
    llvm::consumeError(host.takeError());
    return namedCpus().front().name.str();
  }
  llvm::StringMap<bool> has = llvm::sys::getHostCPUFeatures();
  const NamedCpu *best = namedCpus().begin();
  if (host->getTargetTriple().isX86())
    for (const NamedCpu &cpu : namedCpus())
      if (llvm::all_of(cpu.features,
                       [&](StringRef feature) { return has.lookup(feature); }))
        best = &cpu;
  return best->name.str();
}

int64_t HostProgram::registerBytes(StringRef cpu) {
  constexpr int64_t wide = 64, narrow = 32;
  return (cpu == "native" ? namedHost() : cpu.str()) == "avx512" ? wide
                                                                 : narrow;
}

static llvm::Expected<std::string> printAssembly(llvm::Module &ir,
                                                 llvm::TargetMachine &machine) {
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream os(text);
  llvm::legacy::PassManager passes;
  if (machine.addPassesToEmitFile(passes, os, /*DwoOut=*/nullptr,
                                  llvm::CodeGenFileType::AssemblyFile))
    return llvm::createStringError("this target prints no assembly");
  passes.run(ir);
  return text.str().str();
}

llvm::Expected<std::string> HostProgram::print(ModuleOp module, Form form,
                                               StringRef cpu) {
  takeWeights(module);
  auto host = chooseMachine(cpu, /*here=*/false);
  if (!host)
    return host.takeError();
  auto machine = host->createTargetMachine();
  if (!machine)
    return machine.takeError();
  llvm::LLVMContext context;
  auto ir = translate(module, context, **machine);
  if (!ir)
    return ir.takeError();
  if (llvm::Error error = optimize(**ir, **machine))
    return error;
  if (form == Form::Assembly)
    return printAssembly(**ir, **machine);
  std::string text;
  llvm::raw_string_ostream(text) << **ir;
  return text;
}

/// Code of the IR, from the folder if it is there.
static llvm::Expected<std::unique_ptr<llvm::MemoryBuffer>>
findOrMakeCode(llvm::Module &ir, llvm::TargetMachine &machine,
               StringRef folder) {
  CodeCache cache(folder);
  std::string key = codeKey(ir);
  if (std::unique_ptr<llvm::MemoryBuffer> code = cache.load(key))
    return code;
  auto made = makeCode(ir, machine, key);
  if (made)
    cache.keep(key, (*made)->getMemBufferRef());
  return made;
}

/// LLVM names of what a named CPU's code needs.
static std::vector<std::string> neededFeatures(StringRef name) {
  const NamedCpu *cpu = llvm::find_if(
      namedCpus(), [&](const NamedCpu &cpu) { return cpu.name == name; });
  std::vector<std::string> features = {cpu->llvmName.str()};
  for (StringRef feature : cpu->features)
    features.push_back(feature.str());
  return features;
}

llvm::Expected<SharedCode>
HostProgram::compileShared(ModuleOp module, const HostOptions &options,
                           const std::string &linker) {
  if (options.cpu == "native")
    return llvm::createStringError(
        "expected a CPU generic, avx2 or avx512, got 'native'");
  SharedCode shared;
  shared.weights = takeWeights(module);
  auto host = chooseMachine(options.cpu, /*here=*/false);
  if (!host)
    return host.takeError();
  host->setRelocationModel(llvm::Reloc::PIC_);
  host->setCodeModel(llvm::CodeModel::Small);
  auto machine = host->createTargetMachine();
  if (!machine)
    return machine.takeError();
  llvm::LLVMContext context;
  auto ir = translate(module, context, **machine);
  if (!ir)
    return ir.takeError();
  shared.hooks = callThroughPointers(**ir);
  auto code = findOrMakeCode(**ir, **machine, options.codeFolder);
  if (!code)
    return code.takeError();
  auto linked = linkShared((*code)->getBuffer(), linker);
  if (!linked)
    return linked.takeError();
  shared.bytes = std::move(*linked);
  shared.architecture = (*machine)->getTargetTriple().getArchName().str();
  if ((*machine)->getTargetTriple().isX86())
    shared.features = neededFeatures(options.cpu);
  return shared;
}

llvm::Expected<std::unique_ptr<HostProgram>>
HostProgram::compile(ModuleOp module, const HostOptions &options) {
  std::unique_ptr<HostProgram> program(new HostProgram());
  program->weightSpecs = takeWeights(module);
  auto host = chooseMachine(options.cpu, /*here=*/true);
  if (!host)
    return host.takeError();
  host->setRelocationModel(llvm::Reloc::PIC_);
  host->setCodeModel(llvm::CodeModel::Small);
  auto machine = host->createTargetMachine();
  if (!machine)
    return machine.takeError();
  llvm::LLVMContext context;
  auto ir = translate(module, context, **machine);
  if (!ir)
    return ir.takeError();
  for (const llvm::Function &function : **ir)
    if (!function.isDeclaration())
      program->defined.insert(function.getName());

  auto code = findOrMakeCode(**ir, **machine, options.codeFolder);
  if (!code)
    return code.takeError();

  auto jit = llvm::orc::LLJITBuilder()
                 .setJITTargetMachineBuilder(std::move(*host))
                 .create();
  if (!jit)
    return jit.takeError();
  if (llvm::Error error = addHooks(**jit))
    return error;
  if (llvm::Error error = (*jit)->addObjectFile(std::move(*code)))
    return error;
  program->jit = std::move(*jit);
  return program;
}
