//===- BenchOptions.cpp - Options of the benchmark ------------------------===//
//
// Comma lists as sweeps, and which options go together.  Neighbours:
// Options.h, bench/Sweep.h.
//
//===----------------------------------------------------------------------===//

#include "Options.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "run/OptionValues.h"
#include "llvm/ADT/STLExtras.h"
#include <limits>

using namespace pmkvq;
using namespace pmkvq::run;

static rt::Status readCounts(const StringOption &option,
                             std::vector<int64_t> &counts) {
  if (!option.given())
    return rt::Status();
  counts.clear();
  for (const std::string &part : splitList(option)) {
    std::optional<int64_t> count = parseWhole(part);
    if (!count || *count < 1 || *count > std::numeric_limits<int32_t>::max())
      return optionError(option, "whole numbers of at least 1, like 1,8",
                         option);
    counts.push_back(*count);
  }
  return rt::Status();
}

/// Texts whose syntax bench/Shape.h knows; checked when a shape is made.
static void readTexts(const StringOption &option,
                      std::vector<std::string> &texts) {
  if (!option.given())
    return;
  texts.clear();
  for (const std::string &part : splitList(option))
    texts.push_back(part);
}

static rt::Status readFormats(const StringOption &option,
                              std::vector<std::string> &formats) {
  if (!option.given())
    return rt::Status();
  formats.clear();
  for (const std::string &part : splitList(option)) {
    rt::Result<std::string> format = parseFormat(part);
    if (!format.ok())
      return refusal("--" + option.name + ": " + format.status().message() +
                     ", got '" + part + "'");
    formats.push_back(std::move(*format));
  }
  return rt::Status();
}

/// Whether the benchmark runs a model.
static bool benchesModel(const CommandLine &line) {
  return line.bench.given() && !line.models.empty();
}

/// A benchmark that needs a MODEL has one, and no other.
static rt::Status checkBenchModel(const CommandLine &line) {
  const bool needs = line.bench == "decode";
  if (needs && line.models.size() != 1)
    return refusal("expected one MODEL with --bench=decode, "
                   "got " +
                   std::to_string(line.models.size()));
  if (line.models.empty() || needs ||
      (line.bench == "prefill" && line.models.size() == 1))
    return rt::Status();
  return refusal("expected no MODEL with --bench=" + line.bench.getValue() +
                 ", got '" + line.models.front() + "'");
}

rt::Status pmkvq::run::checkBenchOptions(const CommandLine &line) {
  const Option *own[] = {&line.kvHeads, &line.queryHeads, &line.headDim,
                         &line.batch,   &line.context,    &line.levels,
                         &line.inputs,  &line.chip,       &line.lower};
  std::vector<const Option *> allowed = {
      &line.bench,  &line.keyFormat, &line.valueFormat, &line.device,
      &line.cpu,    &line.codeCache, &line.ptxas,       &line.threads,
      &line.output, &line.batch,     &line.context,     &line.levels};
  if (benchesModel(line))
    allowed.push_back(&line.kvBits);
  else
    allowed.insert(allowed.end(),
                   {&line.kvHeads, &line.queryHeads, &line.headDim,
                    &line.inputs, &line.chip, &line.lower});
  for (const OptionGroup &group : line.groups)
    for (const Option *option : group.options) {
      bool given = option->given();
      bool isOwn = llvm::is_contained(own, option);
      if (given && isOwn && !line.bench.given())
        return refusal("expected --bench=attention with --" + option->name);
      if (given && line.bench.given() && !llvm::is_contained(allowed, option))
        return refusal("expected no --" + option->name + " with --bench" +
                       (benchesModel(line) ? " and a MODEL" : ""));
    }
  return line.bench.given() ? checkBenchModel(line) : rt::Status();
}

/// Cache and threads of a model's benchmark.
static rt::Status readModelSweep(const CommandLine &line, Options &options) {
  ModelSweepOptions &sweep = options.modelSweep;
  std::vector<int64_t> threads;
  if (rt::Status s = readCounts(line.threads, threads); !s.ok())
    return s;
  if (!threads.empty())
    sweep.threads.clear();
  for (int64_t count : threads) {
    constexpr int64_t most = 1024;
    if (count > most)
      return optionError(line.threads, "at most 1024 threads", line.threads);
    sweep.threads.push_back(static_cast<int32_t>(count));
  }
  if (rt::Status s = readCounts(line.batch, sweep.batches); !s.ok())
    return s;
  if (rt::Status s = readCounts(line.context, sweep.contexts); !s.ok())
    return s;
  if (line.kvBits.given())
    for (const std::string &part : splitList(line.kvBits)) {
      std::optional<double> bits = parseBits(part);
      if (!bits)
        return optionError(line.kvBits,
                           "numbers above 0, at most 32, like 3,4.5",
                           line.kvBits);
      sweep.kvBits.emplace_back(part, *bits);
    }
  std::vector<std::string> levels;
  if (!line.kvBits.given())
    levels = options.sweep.levels;
  readTexts(line.levels, levels);
  for (const std::string &level : levels) {
    auto kind = bench::parseLevel(level);
    if (!kind.ok())
      return refusal("--levels: " + kind.status().message() + " with a MODEL");
    sweep.levels.emplace_back(level, *kind);
  }
  return rt::Status();
}

/// The benchmark of whole steps.
static rt::Status readModelBench(const CommandLine &line, Options &options) {
  options.model = line.models.front();
  if (line.device == "cuda")
    return optionError(line.device,
                       "cpu or auto with a MODEL, because whole steps do not "
                       "run on a GPU yet",
                       line.device);
  // What a budget lowers pages by; settings with a level have their own.
  options.schedule = mlir::pmkvq::PlanOptions().schedule;
  options.keyFloor = options.valueFloor = 2;
  for (auto [option, format, shown] :
       {std::tuple(&line.keyFormat, &options.keyFormat,
                   &options.sweep.keyFormats),
        std::tuple(&line.valueFormat, &options.valueFormat,
                   &options.sweep.valueFormats)}) {
    rt::Result<std::string> text = readFormat(*option);
    if (!text.ok())
      return text.status();
    *format = *text;
    if (!text->empty())
      *shown = {*text};
  }
  return readModelSweep(line, options);
}

/// Where it runs and how it prints.
static rt::Status readBenchExecution(const CommandLine &line,
                                     Options &options) {
  rt::Result<std::string> device = readChoice(line.device);
  if (!device.ok())
    return device.status();
  options.device = *device;
  if (rt::Status s = readHost(line, options); !s.ok())
    return s;
  rt::Result<std::string> form = readChoice(line.output);
  if (!form.ok())
    return form.status();
  if (*form == "jsonl")
    return optionError(line.output, "text or csv with --bench", line.output);
  options.output =
      *form == "csv" ? Options::Output::Csv : Options::Output::Text;
  return rt::Status();
}

/// --lower goes with attention over one token a sequence, on a GPU.
static rt::Status readLower(const CommandLine &line, Options &options) {
  if (!line.lower.given())
    return rt::Status();
  std::optional<int64_t> every = parseWhole(line.lower.text);
  if (!every || *every < 1)
    return optionError(line.lower, "a whole number of at least 1", line.lower);
  if (options.bench != "attention")
    return optionError(line.lower, "--bench=attention with it", line.bench);
  if (line.device == "cpu")
    return optionError(line.lower,
                       "--device=cuda or auto with it: pages fall "
                       "while attention reads them on a GPU only",
                       line.device);
  options.lowerEvery = *every;
  return rt::Status();
}

rt::Status pmkvq::run::readBench(const CommandLine &line, Options &options) {
  options.action = Options::Action::Bench;
  rt::Result<std::string> what = readChoice(line.bench);
  if (!what.ok())
    return what.status();
  options.bench = *what;
  if (rt::Status s = readBenchExecution(line, options); !s.ok())
    return s;
  if (benchesModel(line))
    return readModelBench(line, options);
  bench::Sweep &sweep = options.sweep;
  const std::pair<const StringOption *, std::vector<int64_t> *> counts[] = {
      {&line.kvHeads, &sweep.kvHeads},
      {&line.queryHeads, &sweep.queryHeads},
      {&line.headDim, &sweep.headDims},
      {&line.batch, &sweep.batches}};
  for (auto [option, values] : counts)
    if (rt::Status s = readCounts(*option, *values); !s.ok())
      return s;
  readTexts(line.context, sweep.contexts);
  readTexts(line.levels, sweep.levels);
  if (rt::Status s = readFormats(line.keyFormat, sweep.keyFormats); !s.ok())
    return s;
  if (rt::Status s = readFormats(line.valueFormat, sweep.valueFormats); !s.ok())
    return s;
  if (line.inputs.given())
    sweep.inputs = line.inputs.text;
  options.chip = line.chip.text;
  if (rt::Status s = readLower(line, options); !s.ok())
    return s;
  // A shape that cannot be is better refused before anything is measured.
  rt::Status status = bench::checkCount(sweep);
  if (status.ok())
    for (const bench::Shape &shape : bench::expand(sweep, "128")) {
      auto problem = bench::understand(shape);
      status = problem.ok() ? bench::checkOrder(*problem) : problem.status();
      if (status.ok() && problem->rows > 1 && options.bench != "attention")
        status = {rt::StatusCode::InvalidArgument,
                  "expected several query tokens with --bench=attention alone, "
                  "got a context of '" +
                      shape.context + "' with --bench=" + options.bench};
      if (!status.ok())
        break;
    }
  if (!status.ok())
    return refusal("--bench: " + status.message());
  return readThreads(line, options);
}
