//===- BenchOptions.cpp - Options of the benchmark ------------------------===//
//
// Comma lists as sweeps, and which options go together.  Neighbours:
// OptionValues.h, bench/Sweep.h.
//
//===----------------------------------------------------------------------===//

#include "OptionValues.h"
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

Error pmkvq::run::checkBenchOptions(const CommandLine &line) {
  const llvm::cl::Option *own[] = {
      &line.kvHeads, &line.queryHeads, &line.headDim, &line.batch,
      &line.context, &line.levels,     &line.chip};
  const llvm::cl::Option *shared[] = {
      &line.bench,  &line.keyFormat, &line.valueFormat,
      &line.device, &line.cpu,       &line.codeCache,
      &line.ptxas,  &line.threads,   &line.output};
  for (const OptionGroup &group : line.groups)
    for (const llvm::cl::Option *option : group.options) {
      bool given = option->getNumOccurrences() > 0;
      bool isOwn = llvm::is_contained(own, option);
      if (given && isOwn && !line.bench.given())
        return llvm::createStringError("expected --bench=attention with --" +
                                       option->ArgStr);
      if (given && line.bench.given() && !isOwn &&
          !llvm::is_contained(shared, option))
        return llvm::createStringError("expected no --" + option->ArgStr +
                                       " with --bench");
    }
  if (line.bench.given() && !line.models.empty())
    return llvm::createStringError("expected no MODEL with --bench, got '" +
                                   line.models.front() + "'");
  return Error::success();
}

Error pmkvq::run::readBench(const CommandLine &line, Options &options) {
  options.action = Options::Action::Bench;
  Expected<std::string> what = readChoice(line.bench);
  if (!what)
    return what.takeError();
  options.bench = *what;
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
  Expected<std::string> device = readChoice(line.device);
  if (!device)
    return device.takeError();
  options.device = *device;
  options.chip = line.chip;
  if (Error error = readHost(line, options))
    return error;
  Expected<std::string> form = readChoice(line.output);
  if (!form)
    return form.takeError();
  if (*form == "jsonl")
    return optionError(line.output, "text or csv with --bench", line.output);
  options.output =
      *form == "csv" ? Options::Output::Csv : Options::Output::Text;
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
