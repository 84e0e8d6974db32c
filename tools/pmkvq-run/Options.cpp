//===- Options.cpp - pmkvq-run's command line -----------------------------===//
//
// Reads the values of the options that CommandLine.h declares.  Neighbours:
// Options.h.
//
//===----------------------------------------------------------------------===//

#include "Options.h"
#include "CommandLine.h"
#include "OptionValues.h"
#include "pmkvq/Allocation/Levels.h"
#include "pmkvq/Check/AttentionCheck.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallPtrSet.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/CheckedArithmetic.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"
#include <cmath>
#include <limits>

using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;
namespace check = ::pmkvq::check;
namespace rt = ::pmkvq::rt;
namespace allocation = ::pmkvq::allocation;
namespace cl = llvm::cl;

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

std::optional<int64_t> pmkvq::run::parseSize(StringRef text) {
  constexpr std::pair<StringRef, int64_t> units[] = {{"", 1},
                                                     {"b", 1},
                                                     {"kb", 1000},
                                                     {"kib", 1 << 10},
                                                     {"mb", 1000000},
                                                     {"mib", 1 << 20},
                                                     {"gb", 1000000000},
                                                     {"gib", 1 << 30},
                                                     {"tb", 1000000000000},
                                                     {"tib", int64_t(1) << 40}};
  StringRef number =
      text.take_while([](char c) { return llvm::isDigit(c) || c == '.'; });
  std::string unit = text.drop_front(number.size()).trim().lower();
  const auto *found =
      llvm::find_if(units, [&](auto &known) { return known.first == unit; });
  if (found == std::end(units))
    return std::nullopt;
  if (int64_t whole; !number.getAsInteger(10, whole)) {
    std::optional<int64_t> bytes = llvm::checkedMul(whole, found->second);
    return bytes && *bytes > 0 ? bytes : std::nullopt;
  }
  // A part of a byte is none.
  if (found->second == 1)
    return std::nullopt;
  double fraction;
  if (number.getAsDouble(fraction, /*AllowInexact=*/true))
    return std::nullopt;
  double bytes = std::floor(fraction * static_cast<double>(found->second));
  if (!(bytes >= 1 && bytes < 0x1p62))
    return std::nullopt;
  return static_cast<int64_t>(bytes);
}

Expected<std::string> pmkvq::run::parseFormat(StringRef text) {
  llvm::SmallVector<StringRef> parts;
  text.split(parts, '+');
  StringRef name = parts.front();
  bool isName = !name.empty() && llvm::all_of(name, [](char c) {
    return llvm::isAlnum(c) || c == '_';
  });
  if (!isName)
    return llvm::createStringError("expected the name of a format");
  std::string rotation, clip;
  for (StringRef part : llvm::drop_begin(parts)) {
    double value;
    if (name == "paper")
      return llvm::createStringError("expected paper alone: it has no options");
    if (part == "hadamard" || part == "plain") {
      if (!rotation.empty())
        return llvm::createStringError("expected one of +hadamard and +plain");
      rotation = (", " + part).str();
    } else if (part.consume_front("clip=") && !part.getAsDouble(value) &&
               std::isfinite(value)) {
      llvm::raw_string_ostream(clip)
          << ", clip = " << llvm::format("%.9f", value);
    } else {
      return llvm::createStringError("expected +hadamard, +plain or +clip=F "
                                     "after the format's name");
    }
  }
  return ("<" + name + rotation + clip + ">").str();
}

/// Sets `value` to the option's number, if it is given.
static Error readNumber(const StringOption &option, double &value) {
  if (option.given() &&
      (StringRef(option).getAsDouble(value) || !std::isfinite(value)))
    return optionError(option, "a number", option);
  return Error::success();
}

static Expected<std::vector<int64_t>> readTokens(const StringOption &option) {
  llvm::SmallVector<StringRef> parts;
  StringRef(option).split(parts, ',');
  std::vector<int64_t> tokens;
  for (StringRef part : parts)
    if (part.getAsInteger(10, tokens.emplace_back()))
      return optionError(option, "token ids like 1,2,3", option);
  return tokens;
}

//===----------------------------------------------------------------------===//
// Groups of options
//===----------------------------------------------------------------------===//

static Error readCheck(const CommandLine &line, Options &options) {
  if (line.checkTolerance.given() && !line.check)
    return llvm::createStringError("expected --check with --check-tolerance");
  double tolerance = options.cacheDevice == "cuda" ? check::kDeviceTolerance
                                                   : check::kTolerance;
  if (Error error = readNumber(line.checkTolerance, tolerance))
    return error;
  if (tolerance <= 0)
    return optionError(line.checkTolerance, "a number above 0",
                       line.checkTolerance);
  if (line.check)
    options.checkTolerance = tolerance;
  return Error::success();
}

/// What to do instead of generating.
static Error readAction(const CommandLine &line, Options &options) {
  if (line.outputFile.given() && line.outputFile.empty())
    return llvm::createStringError("-o: expected a file, got ''");
  options.outputFile = line.outputFile;
  if (line.explain)
    options.action = Options::Action::Explain;
  if (!line.emit.given())
    return Error::success();
  Expected<std::string> what = readChoice(line.emit);
  if (!what)
    return what.takeError();
  auto [form, stage] = StringRef(*what).split(':');
  options.emitStage = stage.str();
  options.action = llvm::StringSwitch<Options::Action>(form)
                       .Case("import", Options::Action::EmitImport)
                       .Case("mlir", Options::Action::EmitMLIR)
                       .Case("llvm", Options::Action::EmitLLVM)
                       .Default(Options::Action::EmitAssembly);
  return Error::success();
}

/// Options that would have no effect beside others.
static Error checkTogether(const CommandLine &line, Options &options) {
  auto conflict = [](StringRef one, StringRef other, StringRef reason) {
    return llvm::createStringError("expected one of " + one + " and " + other +
                                   ", got both; " + reason);
  };
  if (line.outputFile.given() && !line.emit.given())
    return llvm::createStringError("expected --emit with -o");
  if (line.explain && line.emit.given())
    return conflict("--explain", "--emit", "--explain compiles nothing");
  if (line.explain && line.dumpStages.given())
    return conflict("--explain", "--dump-stages", "--explain compiles nothing");
  if (options.action == Options::Action::EmitImport && line.dumpStages.given())
    return conflict("--emit=import", "--dump-stages",
                    "the imported module has passed no stage");
  // What only a run has.
  StringRef action = line.explain ? "--explain" : "--emit";
  if (!line.explain && !line.emit.given())
    return Error::success();
  if (line.output.given())
    return conflict(action, "--output", action.str() + " prints its own form");
  if (line.logits.given())
    return conflict(action, "--logits", action.str() + " runs nothing");
  if (line.check)
    return conflict(action, "--check", action.str() + " runs nothing");
  if (line.cacheDevice.given())
    return conflict(action, "--cache-device", action.str() + " runs nothing");
  if (!options.hasPrompts() && line.kvBits.given())
    return llvm::createStringError(
        "expected --kv-budget instead of --kv-bits, or prompts and "
        "--max-tokens: a budget in bits follows from their lengths");
  return Error::success();
}

static Error readPrompts(const CommandLine &line, Options &options) {
  if (line.maxTokens.given()) {
    Expected<int64_t> count =
        readCount(line.maxTokens, std::numeric_limits<int32_t>::max());
    if (!count)
      return count.takeError();
    options.maxTokens = *count;
  }
  int given =
      line.prompt.given() + line.promptTokens.given() + line.prompts.given();
  // Without prompts a program can be shown, but nothing can be said of bytes.
  if (options.emits() && !given && !line.maxTokens.given())
    return Error::success();
  if (given != 1)
    return llvm::createStringError(
        Twine("expected one of --prompt, --prompt-tokens and --prompts, got ") +
        (given ? "several" : "none"));
  if (line.prompt.given())
    options.prompt = line.prompt;
  if (line.prompts.given())
    options.promptsFile = line.prompts;
  if (line.promptTokens.given()) {
    Expected<std::vector<int64_t>> tokens = readTokens(line.promptTokens);
    if (!tokens)
      return tokens.takeError();
    options.promptTokens = std::move(*tokens);
  }
  if (!line.maxTokens.given())
    return llvm::createStringError(
        "expected --max-tokens=N, the tokens to generate for each prompt");
  return Error::success();
}

std::optional<double> pmkvq::run::parseBits(StringRef text) {
  constexpr double maxBits = 32;
  double bits;
  if (text.getAsDouble(bits, /*AllowInexact=*/true) ||
      !(bits > 0 && bits <= maxBits))
    return std::nullopt;
  return bits;
}

static Error readBudget(const CommandLine &line, Options &options) {
  if (line.kvBudget.given() && line.kvBits.given())
    return llvm::createStringError(
        "expected one of --kv-budget and --kv-bits, got both");
  if (line.kvBudget.given()) {
    options.budgetBytes = parseSize(line.kvBudget);
    if (!options.budgetBytes)
      return optionError(line.kvBudget,
                         "a size of at least one byte, like 300000, 3500KiB, "
                         "2MiB or 1.5GB",
                         line.kvBudget);
  }
  if (line.kvBits.given()) {
    options.bitsPerElement = parseBits(line.kvBits);
    if (!options.bitsPerElement)
      return optionError(line.kvBits, "a number above 0, at most 32",
                         line.kvBits);
  }
  return Error::success();
}

/// The floor of one part, in bits: its own option's, or else --floor's.
static Expected<int64_t> readFloor(const StringOption &both,
                                   const StringOption &own) {
  for (const StringOption *option : {&both, &own})
    if (Expected<std::string> level = readChoice(*option); !level)
      return level.takeError();
  if (both.given() && own.given() && both.getValue() != own.getValue())
    return llvm::createStringError("--" + both.ArgStr + "=" + both.getValue() +
                                   " contradicts --" + own.ArgStr + "=" +
                                   own.getValue() +
                                   "; --floor is the floor of both parts");
  Expected<std::string> level = readChoice(own.given() ? own : both);
  return std::stoll(*level);
}

static Error readFloors(const CommandLine &line, Options &options) {
  Expected<int64_t> key = readFloor(line.floorLevel, line.keyFloor);
  if (!key)
    return key.takeError();
  Expected<int64_t> value = readFloor(line.floorLevel, line.valueFloor);
  if (!value)
    return value.takeError();
  options.keyFloor = *key;
  options.valueFloor = *value;
  return Error::success();
}

/// The calibration, and what it or the user says of single layers.
static Error readLayers(const CommandLine &line, Options &options) {
  if (line.calibration.given() && line.calibration.empty())
    return optionError(line.calibration, "a file", line.calibration);
  options.calibrationFile = line.calibration;
  options.allocate = line.allocate;
  if (line.allocate && !line.calibration.given())
    return llvm::createStringError("expected --calibration with --allocate");
  if (line.allocate && !line.kvBudget.given() && !line.kvBits.given())
    return llvm::createStringError(
        "expected --kv-budget or --kv-bits with --allocate");
  if (line.allocate && !options.hasPrompts())
    return llvm::createStringError(
        "expected prompts and --max-tokens with --allocate: what pages take "
        "follows from their lengths");
  if (!line.layerFloors.given())
    return Error::success();
  llvm::SmallVector<StringRef> parts;
  StringRef(line.layerFloors).split(parts, ',');
  for (StringRef part : parts) {
    auto floors = allocation::parseLayerFloors(part.str());
    if (!floors.ok())
      return llvm::createStringError("--layer-floors: " +
                                     floors.status().message());
    options.layerFloors.push_back(part.str());
  }
  return Error::success();
}

/// Whether anything asks for pages below 16 bits.
static bool mayLower(const CommandLine &line) {
  return line.allocate || line.layerFloors.given() ||
         llvm::any_of(
             llvm::ArrayRef<const StringOption *>(
                 {&line.kvBudget, &line.kvBits, &line.schedule,
                  &line.floorLevel, &line.keyFloor, &line.valueFloor}),
             [](const StringOption *option) { return option->given(); });
}

static Error readCache(const CommandLine &line, Options &options) {
  if (Error error = readBudget(line, options))
    return error;
  if (Error error = readFloors(line, options))
    return error;
  if (Error error = readLayers(line, options))
    return error;
  Expected<std::string> kind = readChoice(line.schedule);
  if (!kind)
    return kind.takeError();
  options.schedule = *kind;
  // Without a budget nothing has to fall; unless asked for, nothing does.
  if (!mayLower(line)) {
    options.schedule = "none";
    options.keyFloor = options.valueFloor = 16;
  }
  Expected<std::string> key = readFormat(line.keyFormat);
  if (!key)
    return key.takeError();
  Expected<std::string> value = readFormat(line.valueFormat);
  if (!value)
    return value.takeError();
  options.keyFormat = *key;
  options.valueFormat = *value;
  return Error::success();
}

static Error readSampling(const CommandLine &line, Options &options) {
  if (Error error = readNumber(line.temperature, options.sampling.temperature))
    return error;
  if (Error error = readNumber(line.topP, options.sampling.topP))
    return error;
  if (line.seed.given() &&
      StringRef(line.seed).getAsInteger(10, options.sampling.seed))
    return optionError(line.seed, "a whole number from 0 to 2^64 - 1",
                       line.seed);
  rt::Status status = rt::checkSampling(options.sampling);
  if (!status.ok())
    return llvm::createStringError(
        (options.sampling.temperature < 0 ? "--temperature: " : "--top-p: ") +
        status.message());
  return Error::success();
}

static Error readExecution(const CommandLine &line, Options &options) {
  Expected<std::string> place = readChoice(line.device);
  if (!place)
    return place.takeError();
  if (*place == "cuda")
    return optionError(line.device,
                       "cpu or auto with a MODEL, because whole steps do not "
                       "run on a GPU yet (--bench=attention does, and "
                       "--cache-device=cuda keeps the cache there)",
                       line.device);
  Expected<std::string> cache = readChoice(line.cacheDevice);
  if (!cache)
    return cache.takeError();
  options.cacheDevice = *cache;
  if (Error error = readHost(line, options))
    return error;
  Expected<std::string> form = readChoice(line.output);
  if (!form)
    return form.takeError();
  if (*form == "csv")
    return optionError(line.output, "text or jsonl with a MODEL", line.output);
  options.output =
      *form == "jsonl" ? Options::Output::JsonLines : Options::Output::Text;
  if (line.dumpStages.given() && line.dumpStages.empty())
    return optionError(line.dumpStages, "a folder", line.dumpStages);
  options.dumpFolder = line.dumpStages;
  if (line.logits.given() && line.logits.empty())
    return optionError(line.logits, "a file", line.logits);
  options.logitsFile = line.logits;
  return readThreads(line, options);
}

/// What LLVM would print itself instead of reporting it: values that are
/// missing or too many, options that occur twice.
static Error checkArguments(llvm::ArrayRef<char *> arguments) {
  auto &known = cl::getRegisteredOptions();
  llvm::SmallPtrSet<const cl::Option *, 16> seen;
  for (size_t i = 1; i < arguments.size(); ++i) {
    StringRef argument = arguments[i];
    if (argument == "--")
      break;
    auto [name, value] = argument.ltrim('-').split('=');
    auto found = known.find(name);
    if (!argument.starts_with("-") || found == known.end())
      continue;
    const cl::Option *option = found->second;
    StringRef spelled = argument.take_until([](char c) { return c == '='; });
    if (!seen.insert(option).second)
      return llvm::createStringError(spelled + ": expected once, got twice");
    bool hasValue = argument.contains('=');
    bool takesValue = !option->ValueStr.empty();
    if (hasValue && !takesValue)
      return llvm::createStringError(spelled + ": expected no value, got '" +
                                     value + "'");
    if (takesValue && !hasValue && ++i == arguments.size())
      return llvm::createStringError(spelled + ": expected a value, got none");
  }
  return Error::success();
}

/// LLVM's own report, without the tool's name and its guesses.
static Error commandLineError(StringRef report) {
  StringRef line = report.ltrim().split('\n').first;
  line.consume_front("pmkvq-run: ");
  return llvm::createStringError(line);
}

/// Forgets the options of LLVM's libraries, which are no part of this tool.
static void removeForeignOptions() {
  std::vector<cl::Option *> foreign;
  for (auto &[name, option] : cl::getRegisteredOptions())
    foreign.push_back(option);
  for (cl::Option *option : foreign)
    option->removeArgument();
}

Expected<Options> pmkvq::run::parseOptions(int argc, char **argv) {
  removeForeignOptions();
  static CommandLine line;
  if (Error error = checkArguments({argv, static_cast<size_t>(argc)}))
    return error;
  std::string report;
  llvm::raw_string_ostream errors(report);
  argv[0] = const_cast<char *>("pmkvq-run"); // as reports and the help name it
  if (!cl::ParseCommandLineOptions(argc, argv, "", &errors))
    return commandLineError(report);
  Options options;
  if (line.help) {
    options.action = Options::Action::Print;
    options.text = helpText(line);
    return options;
  }
  if (line.completion.given()) {
    Expected<std::string> shell = readChoice(line.completion);
    if (!shell)
      return shell.takeError();
    options.action = Options::Action::Print;
    options.text = bashCompletion(line);
    return options;
  }
  if (Error error = checkBenchOptions(line))
    return error;
  if (line.bench.given()) {
    if (Error error = readBench(line, options))
      return error;
    return options;
  }
  if (line.models.size() != 1)
    return llvm::createStringError("expected one MODEL, got " +
                                   Twine(line.models.size()) +
                                   "; pmkvq-run --help shows how");
  options.model = line.models.front();
  for (auto *read : {readAction, readPrompts, readCache, readSampling,
                     readExecution, readCheck, checkTogether})
    if (Error error = read(line, options))
      return error;
  return options;
}
