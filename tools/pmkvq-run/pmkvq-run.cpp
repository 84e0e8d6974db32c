//===- pmkvq-run.cpp - Compile a model and generate -----------------------===//
//
// The way of the data in one process: checkpoint, module, stages, code,
// session, tokens.  Neighbours: Options.h, CachePlan.h, Loading.h, Generate.h;
// lib/Import, lib/Pipelines and runtime/ do the work.
//
//===----------------------------------------------------------------------===//

#include "Bench.h"
#include "CachePlace.h"
#include "CachePlan.h"
#include "Check.h"
#include "Compile.h"
#include "EmitArtifact.h"
#include "Explain.h"
#include "Guardrail.h"
#include "Loading.h"
#include "ModelSweep.h"
#include "Options.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "pmkvq/Import/ImportModel.h"
#include "run/Generate.h"
#include "run/LoadedRun.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"
#include <csignal>
#include <cstdio>

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using mlir::pmkvq::ModelConfig;

/// What prompts have to do with a model.
static ModelFacts factsOf(const ModelConfig &config) {
  return {config.path, config.vocabSize, config.maxPositions,
          config.stopTokens};
}

static TextServer textServer(const Model &model) {
  llvm::SmallString<128> file(model.folder);
  llvm::sys::path::append(file, "tokenizer.json");
  return TextServer(model.folder, llvm::sys::fs::exists(file));
}

/// Prompts as token ids, and what follows from them for the caches.
struct Batch {
  Prompts prompts;
  CachePlan plan;
};

static Expected<Batch> readBatch(const Model &model, const Options &options,
                                 TextServer &text, mlir::MLIRContext &context) {
  Batch batch;
  if (options.hasPrompts()) {
    auto prompts = readPrompts(options, factsOf(model.config), text);
    if (!prompts.ok())
      return toError(prompts.status());
    batch.prompts = std::move(*prompts);
  }
  Expected<CachePlan> plan =
      planCaches(options, model.config, batch.prompts, context);
  if (!plan)
    return plan.takeError();
  batch.plan = std::move(*plan);
  return batch;
}

/// Writes all or nothing; devices and pipes are written to, not replaced.
static Error writeFile(StringRef file, StringRef text) {
  llvm::sys::fs::file_status status;
  if (!llvm::sys::fs::status(file, status) && !is_regular_file(status)) {
    std::error_code code;
    llvm::raw_fd_ostream os(file, code, llvm::sys::fs::CD_OpenExisting);
    if (!code) {
      os << text;
      os.flush();
      code = os.error();
      os.clear_error();
    }
    return code ? llvm::createStringError("-o: " + file + ": " + code.message())
                : Error::success();
  }
  llvm::SmallString<128> real;
  if (!llvm::sys::fs::real_path(file, real))
    file = real;
  Error error = llvm::writeToOutput(file, [&](llvm::raw_ostream &os) -> Error {
    os << text;
    return Error::success();
  });
  if (!error)
    return error;
  return llvm::createStringError(
      "-o: " + file + ": " +
      llvm::errorToErrorCode(std::move(error)).message());
}

/// printOut, of the rest of this file's kind.
static Error print(const std::string &text) {
  rt::Status status = printOut(text);
  return status.ok() ? Error::success() : toError(status);
}

static Error emit(Model &model, const Options &options,
                  std::optional<rt::ArtifactWriter> writer,
                  mlir::MLIRContext &context) {
  TextServer text = textServer(model);
  Expected<Batch> batch = readBatch(model, options, text, context);
  if (!batch)
    return batch.takeError();
  // Without prompts there are no pages to predict a loss of.
  if (writer && options.hasPrompts())
    if (Error error = checkLoss(batch->plan, options))
      return error;
  if (writer)
    return emitArtifact(std::move(*writer), model, batch->plan, options,
                        context);
  Expected<std::string> code =
      emitCode(options, model.config, batch->plan.compiler, context);
  if (!code)
    return code.takeError();
  return options.outputFile.empty() ? print(*code)
                                    : writeFile(options.outputFile, *code);
}

static Error explain(Model &model, const Options &options,
                     mlir::MLIRContext &context) {
  TextServer text = textServer(model);
  Expected<Batch> batch = readBatch(model, options, text, context);
  if (!batch)
    return batch.takeError();
  Expected<std::string> plan = explainPlan(batch->plan, options);
  return plan ? print(*plan) : plan.takeError();
}

static Error generate(Model &model, const Options &options,
                      mlir::MLIRContext &context) {
  Progress progress;
  TextServer text = textServer(model);
  Expected<Batch> batch = readBatch(model, options, text, context);
  if (!batch)
    return batch.takeError();
  if (Error error = checkLoss(batch->plan, options))
    return error;
  // Python needs as long to start as the compiler to compile.  If it cannot
  // start, the printer says so.
  if (options.output == Options::Output::Text && text.hasTokenizer())
    (void)text.start();
  progress.show("compiling");
  Equipment equipment;
  Expected<rt::Program> program =
      loadProgram(model, batch->plan, options, context, equipment);
  if (!program)
    return program.takeError();
  rt::SessionOptions sessionOptions = batch->plan.workload.session;
  sessionOptions.store = equipment.cache.store;
  rt::Result<std::unique_ptr<rt::Session>> session =
      rt::Session::open(std::move(*program), std::move(sessionOptions));
  if (!session.ok())
    return toError(session.status());
  check::AttentionChecker *checker = equipment.checker.get();
  if (checker)
    checker->watch(**session);
  std::function<CheckedText()> checked;
  if (checker)
    checked = [&] { return describeCheck(checker->report()); };
  rt::Status status =
      generateAndPrint(factsOf(model.config), batch->prompts, options,
                       **session, text, progress, checked);
  Error error = status.ok() ? Error::success() : toError(status);
  return judgeCache(equipment.cache, judge(options, checker, std::move(error)));
}

static Error runTool(int argc, char **argv) {
  std::vector<std::string> stages;
  for (const mlir::pmkvq::Stage &stage : mlir::pmkvq::getStages())
    stages.push_back(stage.name.str());
  CommandLine line(stages, /*compiles=*/true);
  if (rt::Status status = line.parse({argv + 1, argv + argc}); !status.ok())
    return toError(status);
  rt::Result<Options> options = readOptions(line);
  if (!options.ok())
    return toError(options.status());
  if (options->action == Options::Action::Print)
    return print(options->text);
  if (options->action == Options::Action::Load) {
    rt::Status status = runArtifact(line);
    return status.ok() ? Error::success() : toError(status);
  }
  if (options->action == Options::Action::Bench && options->model.empty())
    return runBench(*options);
  if (options->action == Options::Action::Bench) {
    mlir::DialectRegistry registry;
    mlir::pmkvq::registerImportDialects(registry);
    mlir::pmkvq::registerAllForStages(registry);
    return runModelBench(*options, registry);
  }
  std::optional<rt::ArtifactWriter> writer;
  if (options->action == Options::Action::EmitArtifact) {
    auto prepared = prepareArtifact(*options);
    if (!prepared)
      return prepared.takeError();
    writer.emplace(std::move(*prepared));
  }
  Expected<Model> model =
      openModel(options->model, options->calibrationFile, options->keyScales);
  if (!model)
    return model.takeError();
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerImportDialects(registry);
  mlir::pmkvq::registerAllForStages(registry);
  mlir::MLIRContext context(registry);
  if (options->emits())
    return emit(*model, *options, std::move(writer), context);
  if (options->action == Options::Action::Explain)
    return explain(*model, *options, context);
  return generate(*model, *options, context);
}

int main(int argc, char **argv) {
  // A reader that goes away shows as a failed write.
  std::signal(SIGPIPE, SIG_IGN);
  Error error = runTool(argc, argv);
  if (!error)
    return 0;
  int code = error.isA<CheckFailed>() ? kCheckExitCode : 1;
  std::string message = llvm::toString(std::move(error));
  std::replace(message.begin(), message.end(), '\n', ' ');
  llvm::errs() << "pmkvq-run: error: " << message << "\n";
  return code;
}
