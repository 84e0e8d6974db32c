//===- BenchOptions.cpp - Options of the benchmark ------------------------===//
//
// Comma lists as sweeps, and which options go together.  Neighbours:
// OptionValues.h, bench/Sweep.h.
//
//===----------------------------------------------------------------------===//

#include "OptionValues.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include <limits>

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;

static llvm::SmallVector<StringRef> splitList(const StringOption &option) {
  llvm::SmallVector<StringRef> parts;
  StringRef(option).split(parts, ',');
  return parts;
}

static Error readCounts(const StringOption &option,
                        std::vector<int64_t> &counts) {
  if (!option.given())
    return Error::success();
  counts.clear();
  for (StringRef part : splitList(option)) {
    int64_t count;
    if (part.getAsInteger(10, count) || count < 1 ||
        count > std::numeric_limits<int32_t>::max())
      return optionError(option, "whole numbers of at least 1, like 1,8",
                         option);
    counts.push_back(count);
  }
  return Error::success();
}

/// Texts whose syntax bench/Shape.h knows; checked when a shape is made.
static void readTexts(const StringOption &option,
                      std::vector<std::string> &texts) {
  if (!option.given())
    return;
  texts.clear();
  for (StringRef part : splitList(option))
    texts.push_back(part.str());
}

static Error readFormats(const StringOption &option,
                         std::vector<std::string> &formats) {
  if (!option.given())
    return Error::success();
  formats.clear();
  for (StringRef part : splitList(option)) {
    Expected<std::string> format = parseFormat(part);
    if (!format)
      return llvm::createStringError("--" + option.ArgStr + ": " +
                                     llvm::toString(format.takeError()) +
                                     ", got '" + part + "'");
    formats.push_back(std::move(*format));
  }
  return Error::success();
}

/// Whether the benchmark runs a model.
static bool benchesModel(const CommandLine &line) {
  return line.bench.given() && !line.models.empty();
}

/// A benchmark that needs a MODEL has one, and no other.
static Error checkBenchModel(const CommandLine &line) {
  const bool needs = line.bench == "decode";
  if (needs && line.models.size() != 1)
    return llvm::createStringError("expected one MODEL with --bench=decode, "
                                   "got " +
                                   llvm::Twine(line.models.size()));
  if (line.models.empty() || needs ||
      (line.bench == "prefill" && line.models.size() == 1))
    return Error::success();
  return llvm::createStringError(
      "expected no MODEL with --bench=" + line.bench.getValue() + ", got '" +
      line.models.front() + "'");
}

Error pmkvq::run::checkBenchOptions(const CommandLine &line) {
  const llvm::cl::Option *own[] = {
      &line.kvHeads, &line.queryHeads, &line.headDim, &line.batch,
      &line.context, &line.levels,     &line.chip};
  std::vector<const llvm::cl::Option *> allowed = {
      &line.bench,  &line.keyFormat, &line.valueFormat, &line.device,
      &line.cpu,    &line.codeCache, &line.ptxas,       &line.threads,
      &line.output, &line.batch,     &line.context,     &line.levels};
  if (benchesModel(line))
    allowed.push_back(&line.kvBits);
  else
    allowed.insert(allowed.end(), {&line.kvHeads, &line.queryHeads,
                                   &line.headDim, &line.chip});
  for (const OptionGroup &group : line.groups)
    for (const llvm::cl::Option *option : group.options) {
      bool given = option->getNumOccurrences() > 0;
      bool isOwn = llvm::is_contained(own, option);
      if (given && isOwn && !line.bench.given())
        return llvm::createStringError("expected --bench=attention with --" +
                                       option->ArgStr);
      if (given && line.bench.given() && !llvm::is_contained(allowed, option))
        return llvm::createStringError(
            "expected no --" + option->ArgStr + " with --bench" +
            (benchesModel(line) ? " and a MODEL" : ""));
    }
  return line.bench.given() ? checkBenchModel(line) : Error::success();
}

/// Cache and threads of a model's benchmark.
static Error readModelSweep(const CommandLine &line, Options &options) {
  ModelSweepOptions &sweep = options.modelSweep;
  std::vector<int64_t> threads;
  if (Error error = readCounts(line.threads, threads))
    return error;
  if (!threads.empty())
    sweep.threads.clear();
  for (int64_t count : threads) {
    constexpr int64_t most = 1024;
    if (count > most)
      return optionError(line.threads, "at most 1024 threads", line.threads);
    sweep.threads.push_back(static_cast<int32_t>(count));
  }
  if (Error error = readCounts(line.batch, sweep.batches))
    return error;
  if (Error error = readCounts(line.context, sweep.contexts))
    return error;
  if (line.kvBits.given())
    for (StringRef part : splitList(line.kvBits)) {
      std::optional<double> bits = parseBits(part);
      if (!bits)
        return optionError(line.kvBits,
                           "numbers above 0, at most 32, like 3,4.5",
                           line.kvBits);
      sweep.kvBits.emplace_back(part.str(), *bits);
    }
  std::vector<std::string> levels;
  if (!line.kvBits.given())
    levels = options.sweep.levels;
  readTexts(line.levels, levels);
  for (const std::string &level : levels) {
    auto kind = bench::parseLevel(level);
    if (!kind.ok())
      return llvm::createStringError("--levels: " + kind.status().message() +
                                     " with a MODEL");
    sweep.levels.emplace_back(level, *kind);
  }
  return Error::success();
}

/// The benchmark of whole steps.
static Error readModelBench(const CommandLine &line, Options &options) {
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
    Expected<std::string> text = readFormat(*option);
    if (!text)
      return text.takeError();
    *format = *text;
    if (!text->empty())
      *shown = {*text};
  }
  return readModelSweep(line, options);
}

/// Where it runs and how it prints.
static Error readBenchExecution(const CommandLine &line, Options &options) {
  Expected<std::string> device = readChoice(line.device);
  if (!device)
    return device.takeError();
  options.device = *device;
  if (Error error = readHost(line, options))
    return error;
  Expected<std::string> form = readChoice(line.output);
  if (!form)
    return form.takeError();
  if (*form == "jsonl")
    return optionError(line.output, "text or csv with --bench", line.output);
  options.output =
      *form == "csv" ? Options::Output::Csv : Options::Output::Text;
  return Error::success();
}

Error pmkvq::run::readBench(const CommandLine &line, Options &options) {
  options.action = Options::Action::Bench;
  Expected<std::string> what = readChoice(line.bench);
  if (!what)
    return what.takeError();
  options.bench = *what;
  if (Error error = readBenchExecution(line, options))
    return error;
  if (benchesModel(line))
    return readModelBench(line, options);
  bench::Sweep &sweep = options.sweep;
  const std::pair<const StringOption *, std::vector<int64_t> *> counts[] = {
      {&line.kvHeads, &sweep.kvHeads},
      {&line.queryHeads, &sweep.queryHeads},
      {&line.headDim, &sweep.headDims},
      {&line.batch, &sweep.batches}};
  for (auto [option, values] : counts)
    if (Error error = readCounts(*option, *values))
      return error;
  readTexts(line.context, sweep.contexts);
  readTexts(line.levels, sweep.levels);
  if (Error error = readFormats(line.keyFormat, sweep.keyFormats))
    return error;
  if (Error error = readFormats(line.valueFormat, sweep.valueFormats))
    return error;
  options.chip = line.chip;
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
    return llvm::createStringError("--bench: " + status.message());
  return readThreads(line, options);
}
