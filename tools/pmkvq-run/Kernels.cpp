//===- Kernels.cpp - Kernels of attention alone ---------------------------===//
//
// Neighbours: Kernels.h.
//
//===----------------------------------------------------------------------===//

#include "Kernels.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq/Target/FirstError.h"
#include "pmkvq/Target/HostProgram.h"
#include "llvm/Support/FormatVariadic.h"
#include <set>

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Expected;
using mlir::ModuleOp;
using mlir::pmkvq::FirstError;
using mlir::pmkvq::HostOptions;
using mlir::pmkvq::HostProgram;

static mlir::DialectRegistry makeKernelRegistry() {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  return registry;
}

KernelCompiler::KernelCompiler(HostOptions host,
                               mlir::pmkvq::Assembler assembler)
    : host(std::move(host)), assembler(std::move(assembler)),
      context(makeKernelRegistry()) {}

static rt::Status toStatus(llvm::Error error) {
  return {rt::StatusCode::Unimplemented, llvm::toString(std::move(error))};
}

//===----------------------------------------------------------------------===//
// The CPU
//===----------------------------------------------------------------------===//

/// The calibration that keys of the layer fall by, or nothing.
static std::string calibrationText(const bench::DrawnFeedback &feedback) {
  if (feedback.squares.empty())
    return "";
  std::string squares;
  for (float square : feedback.squares)
    squares += llvm::formatv("{0}{1:e8}", squares.empty() ? "" : ", ", square);
  return "calibration <query_squares = [" + squares + "]>";
}

/// A layer of attention over an explicit cache.
static std::string moduleText(const bench::Problem &problem) {
  return llvm::formatv(R"mlir(
!kv = !pmkvq.cache<kv_heads = {0}, head_dim = {2}, sink = {3}>
func.func @create() -> !kv {{
  %c = pmkvq.create layer 0 max_tokens 4096 {5} : !kv
  return %c : !kv
}
func.func @layer(%q: tensor<?x{1}x{2}xf32>, %k: tensor<?x{0}x{2}xf32>,
                 %v: tensor<?x{0}x{2}xf32>, %b: !pmkvq.batch, %c: !kv)
    -> tensor<?x{1}x{2}xf32> {{
  %c1 = pmkvq.append %c, %k, %v, %b : !kv, tensor<?x{0}x{2}xf32>
  %o = pmkvq.attend %q, %c1, %b scale {4:E15}
    : tensor<?x{1}x{2}xf32>, !kv
  return %o : tensor<?x{1}x{2}xf32>
}
)mlir",
                       problem.shape.kvHeads, problem.shape.queryHeads,
                       problem.shape.headDim, bench::kSinkTokens,
                       problem.scale(), calibrationText(problem.feedback))
      .str();
}

/// Runs all stages; of the program, only the kernels remain.
static Expected<std::unique_ptr<HostProgram>>
compileProgram(const bench::Problem &problem, const HostOptions &options,
               mlir::MLIRContext &context) {
  FirstError diagnostics(context);
  auto module =
      mlir::parseSourceString<ModuleOp>(moduleText(problem), &context);
  if (!module)
    return diagnostics.take("the layer's module");
  mlir::pmkvq::PlanOptions plan;
  plan.keyFormat = problem.shape.keyFormat;
  plan.valueFormat = problem.shape.valueFormat;
  plan.registerBytes = HostProgram::registerBytes(options.cpu);
  for (const mlir::pmkvq::Stage &stage : mlir::pmkvq::getStages()) {
    mlir::PassManager passes(&context);
    stage.build(passes, plan);
    if (failed(passes.run(*module)))
      return diagnostics.take(stage.name);
    if (stage.name == "tile")
      module->lookupSymbol("layer")->erase();
  }
  return HostProgram::compile(*module, options);
}

rt::Result<bench::HostKernels>
KernelCompiler::compileHost(const bench::Problem &problem) {
  const bench::Shape &shape = problem.shape;
  std::string key =
      llvm::formatv("{0}/{1}/{2}/{3}/{4}", shape.kvHeads, shape.queryHeads,
                    shape.headDim, shape.keyFormat, shape.valueFormat);
  if (auto found = compiled.find(key); found != compiled.end())
    return found->second;
  auto program = compileProgram(problem, host, context);
  if (!program)
    return toStatus(program.takeError());
  bench::HostKernels kernels;
  kernels.attend =
      reinterpret_cast<rt::KernelFn>((*program)->lookUp("attend_0"));
  kernels.merge = reinterpret_cast<rt::KernelFn>((*program)->lookUp("merge_0"));
  if (!kernels.attend || !kernels.merge)
    return rt::Status(rt::StatusCode::Internal,
                      "the compiled layer has no kernels of attention");
  for (rt::Part part : {rt::kKey, rt::kValue})
    for (int32_t level : rt::kLadder)
      if (level > rt::kLadder.back())
        kernels.requantize[part][rt::ladderIndex(level)] =
            reinterpret_cast<rt::KernelFn>((*program)->lookUp(
                llvm::formatv("pmkvq_requantize_{0}_{1}_{2}",
                              part == rt::kKey ? "key" : "value", level,
                              level / 2)
                    .str()));
  kernels.code = std::shared_ptr<HostProgram>(std::move(*program));
  return compiled[key] = std::move(kernels);
}

//===----------------------------------------------------------------------===//
// GPUs
//===----------------------------------------------------------------------===//

rt::Result<bench::DeviceCode>
KernelCompiler::toCode(Expected<mlir::pmkvq::DeviceKernel> kernel,
                       const std::string &chip) const {
  if (!kernel)
    return toStatus(kernel.takeError());
  auto code = assembler.assemble(std::move(kernel->ptx), chip);
  if (!code)
    return toStatus(code.takeError());
  return bench::DeviceCode{std::move(*code),  std::move(kernel->name),
                           kernel->threads,   kernel->sharedBytes,
                           kernel->slotBytes, kernel->rows,
                           kernel->takesPages};
}

static void describe(mlir::pmkvq::CacheSpec &spec,
                     const bench::Problem &problem, const std::string &chip) {
  spec.kvHeads = problem.shape.kvHeads;
  spec.headDim = problem.shape.headDim;
  spec.keyFormat = problem.shape.keyFormat;
  spec.valueFormat = problem.shape.valueFormat;
  spec.chip = chip;
}

static void describe(mlir::pmkvq::AttentionSpec &spec,
                     const bench::Problem &problem, const std::string &chip) {
  describe(static_cast<mlir::pmkvq::CacheSpec &>(spec), problem, chip);
  spec.queryHeads = problem.shape.queryHeads;
  spec.scale = problem.scale();
  spec.wideRanges = problem.inputs.largestRange() > rt::kNarrowRange;
}

bench::DeviceCompiler KernelCompiler::forDevices() {
  bench::DeviceCompiler compiler;
  auto decodeSpec = [](const bench::Problem &problem, const std::string &chip) {
    mlir::pmkvq::DecodeSpec spec;
    describe(spec, problem, chip);
    spec.kinds = problem.kinds();
    spec.rows = problem.rows;
    return spec;
  };
  compiler.decode = [this, decodeSpec](const bench::Problem &problem,
                                       bool dependentLaunch,
                                       const std::string &chip) {
    mlir::pmkvq::DecodeSpec spec = decodeSpec(problem, chip);
    spec.dependentLaunch = dependentLaunch;
    return toCode(mlir::pmkvq::compileDecode(context, spec, host.codeFolder),
                  chip);
  };
  compiler.lowering = [this, decodeSpec](const bench::Problem &problem,
                                         const std::string &chip) {
    mlir::pmkvq::DecodeSpec spec = decodeSpec(problem, chip);
    spec.lowers = true;
    return toCode(mlir::pmkvq::compileDecode(context, spec, host.codeFolder),
                  chip);
  };
  compiler.read = [this](const std::string &chip) {
    return toCode(mlir::pmkvq::compileRead(context, chip, host.codeFolder),
                  chip);
  };
  compiler.prefill = [this](const bench::Problem &problem,
                            const std::string &chip) {
    mlir::pmkvq::PrefillSpec spec;
    describe(spec, problem, chip);
    // The chunk's own tokens are raw.
    std::set<int64_t> keys = {16}, values = {16};
    for (rt::UnitKind kind : problem.kinds()) {
      keys.insert(kind.key);
      values.insert(kind.value);
    }
    spec.keyLevels.assign(keys.begin(), keys.end());
    spec.valueLevels.assign(values.begin(), values.end());
    spec.wideRanges |= problem.inputs.sharpScores;
    return toCode(mlir::pmkvq::compilePrefill(context, spec, host.codeFolder),
                  chip);
  };
  compiler.writers =
      [this](const bench::Problem &problem, bool positions,
             const std::string &chip) -> rt::Result<rt::cuda::WriterCode> {
    mlir::pmkvq::WriterSpec spec;
    describe(spec, problem, chip);
    spec.sink = bench::kSinkTokens;
    spec.embedsPositions = positions;
    auto kernels = mlir::pmkvq::compileWriters(context, spec, host.codeFolder);
    if (!kernels)
      return toStatus(kernels.takeError());
    auto code = assembler.assemble(std::move(kernels->ptx), chip);
    if (!code)
      return toStatus(code.takeError());
    return rt::cuda::WriterCode{std::move(*code), std::move(kernels->threads)};
  };
  return compiler;
}
