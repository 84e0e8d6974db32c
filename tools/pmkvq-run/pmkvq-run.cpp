//===- pmkvq-run.cpp - Compile a model and generate -----------------------===//
//
// The way of the data in one process: checkpoint, module, stages, code,
// session, tokens.  Neighbours: Options.h, Prompts.h, CachePlan.h, Output.h;
// lib/Import, lib/Pipelines and runtime/ do the work.
//
//===----------------------------------------------------------------------===//

#include "Bench.h"
#include "CachePlace.h"
#include "CachePlan.h"
#include "Check.h"
#include "Compile.h"
#include "Explain.h"
#include "Loading.h"
#include "Logits.h"
#include "ModelSweep.h"
#include "Options.h"
#include "Output.h"
#include "Prompts.h"
#include "Python.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "pmkvq/Import/ImportModel.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/raw_ostream.h"
#include <csignal>
#include <cstdio>

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using mlir::pmkvq::ModelConfig;

static double secondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
      .count();
}

static Error prefill(rt::Session &session, const Options &options,
                     int64_t vocab,
                     const std::vector<std::vector<int32_t>> &prompts,
                     Progress &progress, Timing &timing) {
  std::vector<rt::Prompt> batch;
  for (const std::vector<int32_t> &prompt : prompts) {
    timing.promptTokens += static_cast<int64_t>(prompt.size());
    batch.push_back({static_cast<int32_t>(batch.size()), prompt});
  }
  timing.sequences = static_cast<int64_t>(batch.size());
  auto show = [&](int64_t done, int64_t total) {
    progress.update("reading the prompt: " + llvm::Twine(done) + " of " +
                    llvm::Twine(total) + " tokens");
  };
  auto begin = std::chrono::steady_clock::now();
  if (!options.logitsFile.empty()) {
    Error error =
        writeLogits(session, prompts, vocab, options.logitsFile, show);
    timing.prefillSeconds = secondsSince(begin);
    return error;
  }
  rt::Status status = session.prefill(batch, show);
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
  static_cast<rt::SamplingOptions &>(decodeOptions) = options.sampling;
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

/// Prompts as token ids, and what follows from them for the caches.
struct Batch {
  std::vector<std::vector<int32_t>> prompts;
  CachePlan plan;
};

static Expected<Batch> readBatch(const Model &model, const Options &options,
                                 TextServer &text, mlir::MLIRContext &context) {
  Batch batch;
  if (options.hasPrompts()) {
    auto prompts = readPrompts(options, model.config, text);
    if (!prompts)
      return prompts.takeError();
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

static Error emit(Model &model, const Options &options,
                  mlir::MLIRContext &context) {
  TextServer text(model.folder);
  Expected<Batch> batch = readBatch(model, options, text, context);
  if (!batch)
    return batch.takeError();
  Expected<std::string> code =
      emitCode(options, model.config, batch->plan.compiler, context);
  if (!code)
    return code.takeError();
  return options.outputFile.empty() ? printOut(*code)
                                    : writeFile(options.outputFile, *code);
}

static Error explain(Model &model, const Options &options,
                     mlir::MLIRContext &context) {
  TextServer text(model.folder);
  Expected<Batch> batch = readBatch(model, options, text, context);
  if (!batch)
    return batch.takeError();
  Expected<std::string> plan = explainPlan(batch->plan);
  return plan ? printOut(*plan) : plan.takeError();
}

/// Prompts in, tokens and summary out.
static Error runBatch(const ModelConfig &config, const Batch &batch,
                      const Options &options, rt::Session &session,
                      TextServer &text, const check::AttentionChecker *checker,
                      Progress &progress) {
  Timing timing;
  if (Error error = prefill(session, options, config.vocabSize, batch.prompts,
                            progress, timing))
    return error;
  Printer printer(options.output, session.maxSequences(), text);
  progress.clear();
  printer.prepare();
  auto results =
      decode(session, options, config.stopTokens, printer, progress, timing);
  progress.clear();
  if (!results)
    return results.takeError();
  std::optional<check::Report> checked;
  if (checker)
    checked = checker->report();
  return printer.finish(*results, session, timing, checked);
}

static Error generate(Model &model, const Options &options,
                      mlir::MLIRContext &context) {
  Progress progress;
  TextServer text(model.folder);
  Expected<Batch> batch = readBatch(model, options, text, context);
  if (!batch)
    return batch.takeError();
  // Python needs as long to start as the compiler to compile.  If it cannot
  // start, the printer says so.
  if (options.output == Options::Output::Text && text.hasTokenizer())
    llvm::consumeError(text.start());
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
  Error error = runBatch(model.config, *batch, options, **session, text,
                         checker, progress);
  return judgeCache(equipment.cache, judge(options, checker, std::move(error)));
}

static Error runTool(int argc, char **argv) {
  Expected<Options> options = parseOptions(argc, argv);
  if (!options)
    return options.takeError();
  if (options->action == Options::Action::Print)
    return printOut(options->text);
  if (options->action == Options::Action::Bench && options->model.empty())
    return runBench(*options);
  if (options->action == Options::Action::Bench) {
    mlir::DialectRegistry registry;
    mlir::pmkvq::registerImportDialects(registry);
    mlir::pmkvq::registerAllForStages(registry);
    return runModelBench(*options, registry);
  }
  Expected<Model> model = openModel(options->model, options->calibrationFile);
  if (!model)
    return model.takeError();
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerImportDialects(registry);
  mlir::pmkvq::registerAllForStages(registry);
  mlir::MLIRContext context(registry);
  if (options->emits())
    return emit(*model, *options, context);
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
