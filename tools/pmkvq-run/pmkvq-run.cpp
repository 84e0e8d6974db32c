//===- pmkvq-run.cpp - Compile a model and generate -----------------------===//
//
// The way of the data in one process: checkpoint, module, stages, code,
// session, tokens.  Neighbours: Options.h, Prompts.h, CachePlan.h, Output.h;
// lib/Import, lib/Pipelines and runtime/ do the work.
//
//===----------------------------------------------------------------------===//

#include "CachePlan.h"
#include "Options.h"
#include "Output.h"
#include "Prompts.h"
#include "Python.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "pmkvq/Import/ImportModel.h"
#include "pmkvq/Import/WeightStore.h"
#include "pmkvq/Target/HostProgram.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"
#include <csignal>
#include <cstdio>

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using mlir::pmkvq::Checkpoint;
using mlir::pmkvq::HostProgram;
using mlir::pmkvq::ModelConfig;
using mlir::pmkvq::WeightStore;

namespace {
/// A model's files, checked against each other.
struct Model {
  std::string folder;
  ModelConfig config;
  Checkpoint checkpoint;
};

/// Keeps the first error that MLIR reports, as one line.
class FirstError {
public:
  explicit FirstError(mlir::MLIRContext &context)
      : handler(&context, [this](mlir::Diagnostic &diagnostic) {
          if (message.empty() &&
              diagnostic.getSeverity() == mlir::DiagnosticSeverity::Error)
            llvm::raw_string_ostream(message)
                << diagnostic.getLocation() << ": " << diagnostic.str();
          return mlir::success();
        }) {}

  Error take(StringRef what) const {
    return llvm::createStringError(what + ": " +
                                   (message.empty() ? "failed" : message));
  }

private:
  std::string message;
  mlir::ScopedDiagnosticHandler handler;
};

/// Code and the weights it reads.
struct Loaded {
  std::unique_ptr<HostProgram> code;
  WeightStore weights;
};
} // namespace

static Expected<Model> openModel(StringRef name) {
  Expected<std::string> folder = findModelFolder(name);
  if (!folder)
    return folder.takeError();
  Expected<ModelConfig> config = mlir::pmkvq::readModelConfig(*folder);
  if (!config)
    return config.takeError();
  Expected<Checkpoint> checkpoint = Checkpoint::open(*folder);
  if (!checkpoint)
    return checkpoint.takeError();
  if (Error error = mlir::pmkvq::checkTensors(*config, *checkpoint))
    return error;
  return Model{*folder, std::move(*config), std::move(*checkpoint)};
}

static Error emitImport(const ModelConfig &config, mlir::MLIRContext &context) {
  auto module = mlir::pmkvq::importModel(&context, config);
  if (!module)
    return module.takeError();
  std::string text;
  llvm::raw_string_ostream os(text);
  (*module)->print(os);
  return printOut(text + "\n");
}

/// Compiles the model and hands its weights over.
static Expected<rt::Program> loadProgram(Model &model, const CachePlan &plan,
                                         StringRef dumpFolder,
                                         mlir::MLIRContext &context) {
  auto module = mlir::pmkvq::importModel(&context, model.config);
  if (!module)
    return module.takeError();
  FirstError diagnostics(context);
  if (failed(mlir::pmkvq::runStages(**module, plan.compiler, dumpFolder)))
    return diagnostics.take("compiling");
  Expected<std::unique_ptr<HostProgram>> code = HostProgram::compile(**module);
  if (!code)
    return code.takeError();
  Expected<rt::ProgramEntries> entries = (*code)->entries();
  if (!entries)
    return entries.takeError();
  Expected<WeightStore> weights =
      WeightStore::create(std::move(model.checkpoint), (*code)->weights());
  if (!weights)
    return weights.takeError();
  auto loaded =
      std::make_shared<Loaded>(Loaded{std::move(*code), std::move(*weights)});
  rt::Result<rt::Program> program =
      rt::openProgram(*entries, loaded->weights.pointers(), loaded);
  if (!program.ok())
    return toError(program.status());
  return *program;
}

static double secondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
      .count();
}

static Error prefill(rt::Session &session,
                     const std::vector<std::vector<int32_t>> &prompts,
                     Progress &progress, Timing &timing) {
  std::vector<rt::Prompt> batch;
  for (const std::vector<int32_t> &prompt : prompts) {
    timing.promptTokens += static_cast<int64_t>(prompt.size());
    batch.push_back({static_cast<int32_t>(batch.size()), prompt});
  }
  timing.sequences = static_cast<int64_t>(batch.size());
  auto begin = std::chrono::steady_clock::now();
  rt::Status status = session.prefill(batch, [&](int64_t done, int64_t total) {
    progress.update("reading the prompt: " + llvm::Twine(done) + " of " +
                    llvm::Twine(total) + " tokens");
  });
  timing.prefillSeconds = secondsSince(begin);
  return status.ok() ? Error::success() : toError(status);
}

static Expected<std::vector<rt::Generated>>
decode(rt::Session &session, const Options &options,
       const std::vector<int32_t> &stopTokens, Printer &printer,
       Progress &progress, Timing &timing) {
  std::vector<rt::DecodeRequest> requests;
  for (int32_t i = 0; i < session.maxSequences(); ++i)
    requests.push_back({i, options.maxTokens});
  Error printing = Error::success();
  bool streams =
      options.output == Options::Output::Text && session.maxSequences() == 1;
  rt::DecodeOptions decodeOptions;
  decodeOptions.stopTokens = stopTokens;
  decodeOptions.onToken = [&](const rt::TokenEvent &event) {
    ++timing.newTokens;
    if (streams)
      progress.clear();
    else
      progress.update("generating: " + llvm::Twine(timing.newTokens) +
                      " tokens");
    printing = printer.token(event);
    return !printing;
  };
  auto begin = std::chrono::steady_clock::now();
  rt::Result<std::vector<rt::Generated>> results =
      session.decode(requests, decodeOptions);
  timing.decodeSeconds = secondsSince(begin);
  if (printing)
    return printing;
  if (!results.ok())
    return toError(results.status());
  return std::move(*results);
}

static Error generate(Model &model, const Options &options,
                      mlir::MLIRContext &context) {
  Progress progress;
  TextServer text(model.folder);
  auto prompts = readPrompts(options, model.config, text);
  if (!prompts)
    return prompts.takeError();
  Expected<CachePlan> plan =
      planCaches(options, model.config, *prompts, context);
  if (!plan)
    return plan.takeError();
  // Python needs as long to start as the compiler to compile.  If it cannot
  // start, the printer says so.
  if (options.output == Options::Output::Text && text.hasTokenizer())
    llvm::consumeError(text.start());
  progress.show("compiling");
  Expected<rt::Program> program =
      loadProgram(model, *plan, options.dumpFolder, context);
  if (!program)
    return program.takeError();
  rt::Result<std::unique_ptr<rt::Session>> session =
      rt::Session::open(std::move(*program), plan->workload.session);
  if (!session.ok())
    return toError(session.status());
  Timing timing;
  if (Error error = prefill(**session, *prompts, progress, timing))
    return error;
  Printer printer(options.output, (*session)->maxSequences(), text);
  progress.clear();
  printer.prepare();
  auto results = decode(**session, options, model.config.stopTokens, printer,
                        progress, timing);
  progress.clear();
  if (!results)
    return results.takeError();
  return printer.finish(*results, **session, timing);
}

static Error runTool(int argc, char **argv) {
  Expected<Options> options = parseOptions(argc, argv);
  if (!options)
    return options.takeError();
  if (!options->dumpFolder.empty())
    if (std::error_code error =
            llvm::sys::fs::create_directories(options->dumpFolder))
      return llvm::createStringError("--dump-stages: " + options->dumpFolder +
                                     ": " + error.message());
  Expected<Model> model = openModel(options->model);
  if (!model)
    return model.takeError();
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerImportDialects(registry);
  mlir::pmkvq::registerAllForStages(registry);
  mlir::MLIRContext context(registry);
  if (options->emitImport)
    return emitImport(model->config, context);
  return generate(*model, *options, context);
}

int main(int argc, char **argv) {
  // A reader that goes away shows as a failed write.
  std::signal(SIGPIPE, SIG_IGN);
  Error error = runTool(argc, argv);
  if (!error)
    return 0;
  std::string message = llvm::toString(std::move(error));
  std::replace(message.begin(), message.end(), '\n', ' ');
  llvm::errs() << "pmkvq-run: error: " << message << "\n";
  return 1;
}
