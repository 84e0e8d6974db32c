//===- ModelSweep.cpp - Whole steps of a model, many settings -------------===//
//
// Neighbours: ModelSweep.h.
//
//===----------------------------------------------------------------------===//

#include "ModelSweep.h"
#include "Loading.h"
#include "bench/ModelBench.h"
#include "bench/Shape.h"
#include "run/Output.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;

namespace {
/// One line of the table, as asked for.
struct Setting {
  bool hasBudget() const { return kvBits > 0; }

  int32_t threads;
  int64_t batch;
  int64_t context;
  /// Bits of keys and values, or a budget in bits an element; 0: the other.
  rt::UnitKind level;
  double kvBits;
  /// As the user writes it.
  std::string text;
};
} // namespace

static std::vector<Setting> expandSettings(const ModelSweepOptions &sweep) {
  std::vector<Setting> settings;
  auto add = [&](int32_t threads, int64_t batch, int64_t context) {
    for (const auto &[levels, kind] : sweep.levels)
      settings.push_back({threads, batch, context, kind, 0, levels});
    for (const auto &[text, bits] : sweep.kvBits)
      settings.push_back({threads, batch, context, {}, bits, text});
  };
  for (int32_t threads : sweep.threads)
    for (int64_t batch : sweep.batches)
      for (int64_t context : sweep.contexts)
        add(threads, batch, context);
  return settings;
}

static std::string describe(const Setting &setting) {
  return llvm::formatv("{0} x {1}, {2}, {3} threads", setting.batch,
                       setting.context,
                       setting.hasBudget() ? setting.text + " bits an element"
                                           : "levels " + setting.text,
                       setting.threads)
      .str();
}

/// The options of a run with this cache.
static Options optionsOf(const Setting &setting, const Options &options) {
  Options run = options;
  run.threads = setting.threads;
  run.checkTolerance = check::kTolerance;
  if (setting.hasBudget()) {
    run.bitsPerElement = setting.kvBits;
    return run;
  }
  run.schedule = "none";
  run.keyFloor = setting.level.key;
  run.valueFloor = setting.level.value;
  return run;
}

/// Weights that a step reads whole: all, but for a table of embeddings that is
/// not the last layer, too.
static std::vector<bench::WeightRange>
wholeWeights(const mlir::pmkvq::ModelConfig &config, const rt::Program &program,
             const Equipment &equipment) {
  std::vector<bench::WeightRange> ranges;
  int64_t embeddings = config.vocabSize * config.hiddenSize * 2;
  bool skipped = config.tiedEmbeddings;
  for (auto [data, bytes] : llvm::zip(program.weights, equipment.weightBytes)) {
    // The table comes first; the last layer has its shape.
    if (!skipped && bytes == embeddings) {
      skipped = true;
      continue;
    }
    ranges.push_back({data, bytes});
  }
  return ranges;
}

static Expected<bench::ModelMeasurement> measure(const Setting &setting,
                                                 const Options &options,
                                                 mlir::MLIRContext &context) {
  Expected<Model> model = openModel(options.model);
  if (!model)
    return model.takeError();
  Options run = optionsOf(setting, options);
  bool isPrefill = options.bench == "prefill";
  int64_t end = isPrefill ? setting.context + bench::kPrefillTokens
                          : bench::decodeTokens(setting.context,
                                                model->config.maxPositions);
  run.maxTokens = end - setting.context + 1;
  std::vector<std::vector<int32_t>> prompts(
      static_cast<size_t>(setting.batch),
      std::vector<int32_t>(static_cast<size_t>(setting.context)));
  Expected<CachePlan> plan = planCaches(run, model->config, prompts, context);
  if (!plan)
    return plan.takeError();
  Equipment equipment;
  auto program = loadProgram(*model, *plan, run, context, equipment);
  if (!program)
    return program.takeError();
  bench::ModelCase what;
  what.weights = wholeWeights(model->config, *program, equipment);
  what.program = std::move(*program);
  what.session = plan->workload.session;
  what.batch = setting.batch;
  what.context = setting.context;
  check::AttentionChecker &checker = *equipment.checker;
  what.watch = [&](rt::Session &session) { checker.watch(session); };
  what.judge = [&]() -> rt::Result<bench::Errors> {
    check::Report report = checker.report();
    if (report.within(check::kTolerance))
      return bench::Errors{report.rms, report.largest};
    return rt::Status(rt::StatusCode::Internal,
                      "attention is wrong: " + (report.defect.empty()
                                                    ? report.text()
                                                    : report.defect));
  };
  auto row =
      isPrefill ? bench::measurePrefill(what) : bench::measureDecode(what);
  if (!row.ok())
    return toError(row.status());
  return *row;
}

//===----------------------------------------------------------------------===//
// The table
//===----------------------------------------------------------------------===//

static std::string modelHeader(bool csv) {
  if (csv)
    return "device,model,threads,batch,context,levels,kv_bits,key_format,"
           "value_format,tokens,us,spread,bytes,read_us,ratio,rms_rel_err,"
           "max_rel_err,flush_us,lower_us\n";
  return llvm::formatv("{0,-8}{1,-18}{2,-8}{3,11}{4,10}{5,9}{6,11}{7,7}{8,10}"
                       "{9,11}{10,11}{11,10}\n",
                       "threads", "batch x context", "cache", "us", "spread",
                       "MB", "read us", "ratio", "tokens/s", "flush us",
                       "lower us", "rms err")
      .str();
}

/// A time that may not have been measured.
static std::string optional(double time, StringRef none) {
  return time > 0 ? llvm::formatv("{0:f1}", time).str() : none.str();
}

static std::string modelLine(bool csv, const Options &options,
                             const Setting &setting,
                             const bench::ModelMeasurement &row) {
  double ratio = row.time.median / row.readMicroseconds;
  if (csv)
    return llvm::formatv(
               "cpu,{0},{1},{2},{3},{4},{5},{6},{7},{8},{9:f1},{10:f1},{11},"
               "{12:f1},{13:f4},{14:e3},{15:e3},{16},{17}\n",
               llvm::sys::path::filename(StringRef(options.model).rtrim('/')),
               setting.threads, setting.batch, setting.context,
               setting.hasBudget() ? "" : setting.text,
               setting.hasBudget() ? setting.text : "",
               bench::plainFormat(options.sweep.keyFormats.front()),
               bench::plainFormat(options.sweep.valueFormats.front()),
               row.tokens, row.time.median, row.time.spread, row.bytes,
               row.readMicroseconds, ratio, row.errors.rms, row.errors.largest,
               optional(row.flushMicroseconds, ""),
               optional(row.lowerMicroseconds, ""))
        .str();
  return llvm::formatv(
             "{0,-8}{1,-18}{2,-8}{3,11:f1}{4,10:f1}{5,9:f1}{6,11:f1}{7,7:f3}"
             "{8,10:f1}{9,11}{10,11}{11,10:e1}\n",
             setting.threads,
             llvm::formatv("{0} x {1}", setting.batch, setting.context).str(),
             setting.text + (setting.hasBudget() ? "b" : ""), row.time.median,
             row.time.spread, static_cast<double>(row.bytes) / 1e6,
             row.readMicroseconds, ratio,
             static_cast<double>(row.tokens) / row.time.median * 1e6,
             optional(row.flushMicroseconds, "-"),
             optional(row.lowerMicroseconds, "-"), row.errors.rms)
      .str();
}

Error pmkvq::run::runModelBench(const Options &options,
                                const mlir::DialectRegistry &registry) {
  mlir::MLIRContext context(registry);
  // A model that is not there fails every line: better once.
  if (Expected<Model> model = openModel(options.model); !model)
    return model.takeError();
  const bool csv = options.output == Options::Output::Csv;
  if (rt::Status s = printOut(modelHeader(csv)); !s.ok())
    return toError(s);
  std::vector<Setting> settings = expandSettings(options.modelSweep);
  size_t failed = 0;
  Progress progress;
  for (const Setting &setting : settings) {
    progress.show("measuring " + describe(setting));
    auto row = measure(setting, options, context);
    progress.clear();
    if (!row) {
      ++failed;
      llvm::errs() << describe(setting) << ": "
                   << llvm::toString(row.takeError()) << "\n";
      continue;
    }
    if (rt::Status s = printOut(modelLine(csv, options, setting, *row));
        !s.ok())
      return toError(s);
  }
  if (!failed)
    return Error::success();
  return llvm::createStringError("--bench: " + llvm::Twine(failed) + " of " +
                                 llvm::Twine(settings.size()) +
                                 " settings failed");
}
