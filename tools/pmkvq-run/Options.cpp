//===- Options.cpp - pmkvq-run's command line -----------------------------===//
//
// Reads the values of the options that CommandLine.h declares.  Neighbours:
// Options.h.
//
//===----------------------------------------------------------------------===//

#include "Options.h"
#include "pmkvq/Allocation/Levels.h"
#include "pmkvq/Check/AttentionCheck.h"
#include "run/CommandLine.h"
#include "run/OptionValues.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

using namespace pmkvq::run;
using llvm::StringRef;
namespace check = ::pmkvq::check;
namespace rt = ::pmkvq::rt;
namespace allocation = ::pmkvq::allocation;

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

rt::Result<std::string> pmkvq::run::parseFormat(const std::string &text) {
  rt::Result<FormatText> format = parseFormatText(text);
  if (!format.ok())
    return format.status();
  std::string attribute = "<" + format->name;
  llvm::raw_string_ostream os(attribute);
  if (!format->rotation.empty())
    os << ", " << format->rotation;
  if (format->clip)
    os << ", clip = " << llvm::format("%.9f", *format->clip);
  if (format->feedback)
    os << ", feedback";
  os << ">";
  return attribute;
}

rt::Result<std::string> pmkvq::run::readFormat(const StringOption &option) {
  if (!option.given())
    return std::string();
  rt::Result<std::string> format = parseFormat(option);
  if (!format.ok())
    return refusal("--" + option.name + ": " + format.status().message() +
                   ", got '" + option.getValue() + "'");
  if (option.getValue().find("+feedback") != std::string::npos)
    return refusal("--" + option.name +
                   ": +feedback is for --bench alone; keys of a model fall "
                   "with feedback by a --calibration (--rounding)");
  return format;
}

//===----------------------------------------------------------------------===//
// Groups of options
//===----------------------------------------------------------------------===//

static rt::Status readCheck(const CommandLine &line, Options &options) {
  if (line.checkTolerance.given() && !line.check)
    return refusal("expected --check with --check-tolerance");
  double tolerance = options.cacheDevice == "cuda" ? check::kDeviceTolerance
                                                   : check::kTolerance;
  if (rt::Status s = readNumber(line.checkTolerance, tolerance); !s.ok())
    return s;
  if (tolerance <= 0)
    return optionError(line.checkTolerance, "a number above 0",
                       line.checkTolerance);
  if (line.check)
    options.checkTolerance = tolerance;
  return rt::Status();
}

/// What to do instead of generating.
static rt::Status readAction(const CommandLine &line, Options &options) {
  if (line.outputFile.given() && line.outputFile.empty())
    return refusal("-o: expected a file, got ''");
  options.outputFile = line.outputFile.text;
  if (line.explain)
    options.action = Options::Action::Explain;
  if (!line.emit.given())
    return rt::Status();
  rt::Result<std::string> what = readChoice(line.emit);
  if (!what.ok())
    return what.status();
  auto [form, stage] = StringRef(*what).split(':');
  options.emitStage = stage.str();
  options.action = llvm::StringSwitch<Options::Action>(form)
                       .Case("import", Options::Action::EmitImport)
                       .Case("mlir", Options::Action::EmitMLIR)
                       .Case("llvm", Options::Action::EmitLLVM)
                       .Case("artifact", Options::Action::EmitArtifact)
                       .Default(Options::Action::EmitAssembly);
  return rt::Status();
}

/// Options that would have no effect beside others.
static rt::Status checkTogether(const CommandLine &line, Options &options) {
  auto conflict = [](const std::string &one, const std::string &other,
                     const std::string &reason) {
    return refusal("expected one of " + one + " and " + other + ", got both; " +
                   reason);
  };
  if (line.outputFile.given() && !line.emit.given())
    return refusal("expected --emit with -o");
  if (line.explain && line.emit.given())
    return conflict("--explain", "--emit", "--explain compiles nothing");
  if (line.explain && line.dumpStages.given())
    return conflict("--explain", "--dump-stages", "--explain compiles nothing");
  if (options.action == Options::Action::EmitImport && line.dumpStages.given())
    return conflict("--emit=import", "--dump-stages",
                    "the imported module has passed no stage");
  if (options.action == Options::Action::EmitArtifact &&
      !line.outputFile.given())
    return refusal("expected -o FILE with --emit=artifact");
  // What only a run has.
  std::string action = line.explain ? "--explain" : "--emit";
  if (!line.explain && !line.emit.given())
    return rt::Status();
  if (line.output.given())
    return conflict(action, "--output", action + " prints its own form");
  if (line.logits.given())
    return conflict(action, "--logits", action + " runs nothing");
  if (line.check)
    return conflict(action, "--check", action + " runs nothing");
  if (line.cacheDevice.given())
    return conflict(action, "--cache-device", action + " runs nothing");
  // An artifact keeps the bits for runs that have lengths.
  if (!options.hasPrompts() && line.kvBits.given() &&
      options.action != Options::Action::EmitArtifact)
    return refusal("expected --kv-budget instead of --kv-bits, or prompts and "
                   "--max-tokens: a budget in bits follows from their lengths");
  return rt::Status();
}

static rt::Status readWhatToGenerate(const CommandLine &line,
                                     Options &options) {
  return readPromptOptions(line, /*required=*/!options.emits(), options);
}

/// The floor of one part, in bits: its own option's, or else --floor's.
static rt::Result<int64_t> readFloor(const StringOption &both,
                                     const StringOption &own) {
  for (const StringOption *option : {&both, &own})
    if (rt::Result<std::string> level = readChoice(*option); !level.ok())
      return level.status();
  if (both.given() && own.given() && both.getValue() != own.getValue())
    return refusal("--" + both.name + "=" + both.getValue() +
                   " contradicts --" + own.name + "=" + own.getValue() +
                   "; --floor is the floor of both parts");
  rt::Result<std::string> level = readChoice(own.given() ? own : both);
  return *parseWhole(*level);
}

static rt::Status readFloors(const CommandLine &line, Options &options) {
  rt::Result<int64_t> key = readFloor(line.floorLevel, line.keyFloor);
  if (!key.ok())
    return key.status();
  rt::Result<int64_t> value = readFloor(line.floorLevel, line.valueFloor);
  if (!value.ok())
    return value.status();
  options.keyFloor = *key;
  options.valueFloor = *value;
  return rt::Status();
}

/// What a plan may lose by its calibration.
static rt::Status readLoss(const CommandLine &line, Options &options) {
  options.acceptLoss = line.acceptLoss;
  options.keyScales = line.keyScales;
  if (!line.calibration.given()) {
    for (const Option *option : {static_cast<const Option *>(&line.keyScales),
                                 static_cast<const Option *>(&line.rounding),
                                 static_cast<const Option *>(&line.maxLoss),
                                 static_cast<const Option *>(&line.acceptLoss)})
      if (option->given())
        return refusal("expected --calibration with --" + option->name);
    return rt::Status();
  }
  rt::Result<std::string> rounding = readChoice(line.rounding);
  if (!rounding.ok())
    return rounding.status();
  options.rounding = line.rounding.given() ? *rounding : "";
  if (!line.maxLoss.given())
    return rt::Status();
  if (line.acceptLoss)
    return refusal("expected one of --max-loss and --accept-loss, got both");
  options.maxLoss = parseNumber(line.maxLoss);
  if (!options.maxLoss || !(*options.maxLoss > 0))
    return optionError(line.maxLoss, "a number above 0, nats a token",
                       line.maxLoss);
  return rt::Status();
}

/// The calibration, and what it or the user says of single layers.
static rt::Status readLayers(const CommandLine &line, Options &options) {
  if (line.calibration.given() && line.calibration.empty())
    return optionError(line.calibration, "a file", line.calibration);
  options.calibrationFile = line.calibration.text;
  options.allocate = line.allocate;
  if (line.allocate && !line.calibration.given())
    return refusal("expected --calibration with --allocate");
  if (line.allocate && !line.kvBudget.given() && !line.kvBits.given())
    return refusal("expected --kv-budget or --kv-bits with --allocate");
  if (line.allocate && !options.hasPrompts())
    return refusal(
        "expected prompts and --max-tokens with --allocate: what pages take "
        "follows from their lengths");
  if (!line.layerFloors.given())
    return rt::Status();
  for (const std::string &part : splitList(line.layerFloors)) {
    auto floors = allocation::parseLayerFloors(part);
    if (!floors.ok())
      return refusal("--layer-floors: " + floors.status().message());
    options.layerFloors.push_back(part);
  }
  return rt::Status();
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

/// What a floor of 1 bit for values goes with.
static rt::Status checkOneBit(const CommandLine &line, const Options &options) {
  auto refuse = [](const std::string &reason) {
    return refusal("--value-floor=1: " + reason);
  };
  if (options.schedule == "none" || options.schedule == "layer")
    return refuse("values fall to 1 bit under the schedules keys_last, page "
                  "and least_loss, got " +
                  options.schedule);
  if (line.layerFloors.given())
    return refuse("it is the floor of all layers; leave out --layer-floors");
  if (line.allocate)
    return refuse("floors of layers are chosen from 2 bits up; leave out "
                  "--allocate");
  return rt::Status();
}

static rt::Status readCache(const CommandLine &line, Options &options) {
  if (rt::Status s = readBudget(line, options); !s.ok())
    return s;
  if (rt::Status s = readFloors(line, options); !s.ok())
    return s;
  if (rt::Status s = readLayers(line, options); !s.ok())
    return s;
  if (rt::Status s = readLoss(line, options); !s.ok())
    return s;
  rt::Result<std::string> kind = readChoice(line.schedule);
  if (!kind.ok())
    return kind.status();
  if (line.schedule.given())
    options.schedule = *kind;
  if (options.schedule == "least_loss" && !line.calibration.given())
    return refusal("expected --calibration with --schedule=least_loss");
  if (options.valueFloor == 1)
    if (rt::Status s = checkOneBit(line, options); !s.ok())
      return s;
  // Without a budget nothing has to fall; unless asked for, nothing does.
  if (!mayLower(line)) {
    options.schedule = "none";
    options.keyFloor = options.valueFloor = 16;
  }
  rt::Result<std::string> key = readFormat(line.keyFormat);
  if (!key.ok())
    return key.status();
  rt::Result<std::string> value = readFormat(line.valueFormat);
  if (!value.ok())
    return value.status();
  options.keyFormat = *key;
  options.valueFormat = *value;
  return rt::Status();
}

static rt::Status readSamplingAndThreads(const CommandLine &line,
                                         Options &options) {
  if (rt::Status s = readSampling(line, options); !s.ok())
    return s;
  return readThreads(line, options);
}

/// --ptxas.
static rt::Status readAssembler(const CommandLine &line, Options &options) {
  mlir::pmkvq::Assembler &assembler = options.assembler;
  if (!line.ptxas.given() || line.ptxas == "auto") {
    assembler.ptxas = mlir::pmkvq::findPtxas();
    return rt::Status();
  }
  if (line.ptxas == "none")
    return rt::Status();
  assembler.ptxas = line.ptxas.text;
  assembler.isRequired = true;
  return llvm::sys::fs::can_execute(assembler.ptxas)
             ? rt::Status()
             : optionError(line.ptxas, "auto, none or an executable file",
                           line.ptxas);
}

/// --cpu.
static rt::Status readCpu(const CommandLine &line, Options &options) {
  rt::Result<std::string> cpu = readChoice(line.cpu);
  if (!cpu.ok())
    return cpu.status();
  options.host.cpu = *cpu;
  if (options.action != Options::Action::EmitArtifact)
    return rt::Status();
  if (!line.cpu.given())
    options.host.cpu = mlir::pmkvq::HostProgram::namedHost();
  else if (*cpu == "native")
    return optionError(line.cpu,
                       "generic, avx2 or avx512 with --emit=artifact, which "
                       "says what it needs",
                       line.cpu);
  return rt::Status();
}

/// --code-cache.
static rt::Status readCodeCache(const CommandLine &line, Options &options) {
  if (line.codeCache.given()) {
    if (line.codeCache == "none")
      return rt::Status();
    options.host.codeFolder = line.codeCache.text;
    std::error_code error =
        llvm::sys::fs::create_directories(options.host.codeFolder);
    if (!error && !llvm::sys::fs::is_directory(options.host.codeFolder))
      error = std::make_error_code(std::errc::not_a_directory);
    return error ? optionError(line.codeCache,
                               "none or a folder (" + error.message() + ")",
                               line.codeCache)
                 : rt::Status();
  }
  llvm::SmallString<128> folder;
  if (llvm::sys::path::cache_directory(folder)) {
    llvm::sys::path::append(folder, "pmkvq", "code");
    options.host.codeFolder = folder.str().str();
  }
  return rt::Status();
}

rt::Status pmkvq::run::readHost(const CommandLine &line, Options &options) {
  if (rt::Status s = readCpu(line, options); !s.ok())
    return s;
  if (rt::Status s = readAssembler(line, options); !s.ok())
    return s;
  if (rt::Status s = readCodeCache(line, options); !s.ok())
    return s;
  options.assembler.codeFolder = options.host.codeFolder;
  return rt::Status();
}

static rt::Status readExecution(const CommandLine &line, Options &options) {
  rt::Result<std::string> place = readChoice(line.device);
  if (!place.ok())
    return place.status();
  if (*place == "cuda")
    return optionError(line.device,
                       "cpu or auto with a MODEL, because whole steps do not "
                       "run on a GPU yet (--bench=attention does, and "
                       "--cache-device=cuda keeps the cache there)",
                       line.device);
  rt::Result<std::string> cache = readChoice(line.cacheDevice);
  if (!cache.ok())
    return cache.status();
  options.cacheDevice = *cache;
  if (rt::Status s = readHost(line, options); !s.ok())
    return s;
  if (line.dumpStages.given() && line.dumpStages.empty())
    return optionError(line.dumpStages, "a folder", line.dumpStages);
  options.dumpFolder = line.dumpStages.text;
  return readOutput(line, options);
}

rt::Result<Options> pmkvq::run::readOptions(const CommandLine &line) {
  Options options;
  auto print = [&](std::string text) {
    options.action = Options::Action::Print;
    options.text = std::move(text);
    return options;
  };
  if (line.help)
    return print(helpText(line));
  if (line.completion.given()) {
    rt::Result<std::string> shell = readChoice(line.completion);
    if (!shell.ok())
      return shell.status();
    return print(bashCompletion(line));
  }
  if (line.load.given()) {
    options.action = Options::Action::Load;
    return options;
  }
  if (rt::Status s = checkBenchOptions(line); !s.ok())
    return s;
  if (line.bench.given()) {
    if (rt::Status s = readBench(line, options); !s.ok())
      return s;
    return options;
  }
  if (line.models.size() != 1)
    return refusal("expected one MODEL, got " +
                   std::to_string(line.models.size()) +
                   "; pmkvq-run --help shows how");
  options.model = line.models.front();
  for (auto *read :
       {readAction, readWhatToGenerate, readCache, readSamplingAndThreads,
        readExecution, readCheck, checkTogether})
    if (rt::Status s = read(line, options); !s.ok())
      return s;
  return options;
}
