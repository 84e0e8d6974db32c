//===- Compile.cpp - From a checkpoint's config to a module ---------------===//
//
// Neighbours: Compile.h.
//
//===----------------------------------------------------------------------===//

#include "Compile.h"
#include "pmkvq/Import/ImportModel.h"
#include "pmkvq/Target/FirstError.h"
#include "pmkvq/Target/HostProgram.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"

using namespace pmkvq::run;
using llvm::Expected;
using llvm::StringRef;
using mlir::ModuleOp;
using mlir::OwningOpRef;
using mlir::pmkvq::FirstError;
using mlir::pmkvq::HostProgram;
using mlir::pmkvq::ModelConfig;
using mlir::pmkvq::PlanOptions;

Expected<OwningOpRef<ModuleOp>> pmkvq::run::compileModule(
    const ModelConfig &config, const PlanOptions &plan, StringRef dumpFolder,
    StringRef lastStage, mlir::MLIRContext &context,
    llvm::function_ref<void(StringRef, ModuleOp)> afterStage) {
  if (!dumpFolder.empty())
    if (std::error_code error = llvm::sys::fs::create_directories(dumpFolder))
      return llvm::createStringError("--dump-stages: " + dumpFolder + ": " +
                                     error.message());
  auto module = mlir::pmkvq::importModel(&context, config);
  if (!module)
    return module.takeError();
  FirstError diagnostics(context);
  if (failed(mlir::pmkvq::runStages(**module, plan, dumpFolder, lastStage,
                                    afterStage)))
    return diagnostics.take("compiling");
  return std::move(*module);
}

static Expected<std::string> emitImport(const ModelConfig &config,
                                        mlir::MLIRContext &context) {
  auto module = mlir::pmkvq::importModel(&context, config);
  if (!module)
    return module.takeError();
  std::string text;
  llvm::raw_string_ostream(text) << **module << "\n";
  return text;
}

Expected<std::string> pmkvq::run::emitCode(const Options &options,
                                           const ModelConfig &config,
                                           const PlanOptions &plan,
                                           mlir::MLIRContext &context) {
  using Action = Options::Action;
  if (options.action == Action::EmitImport)
    return emitImport(config, context);
  auto module = compileModule(config, plan, options.dumpFolder,
                              options.emitStage, context);
  if (!module)
    return module.takeError();
  if (options.action != Action::EmitMLIR) {
    FirstError diagnostics(context);
    return HostProgram::print(**module,
                              options.action == Action::EmitLLVM
                                  ? HostProgram::Form::LLVMIR
                                  : HostProgram::Form::Assembly,
                              options.host.cpu);
  }
  std::string text;
  llvm::raw_string_ostream(text) << **module << "\n";
  return text;
}
