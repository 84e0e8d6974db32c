//===- Options.cpp - pmkvq-run's command line -----------------------------===//
//
// Options are read as strings, so that each refusal is one line that names the
// option, what is expected and what was given.  Neighbours: Options.h.
//
//===----------------------------------------------------------------------===//

#include "Options.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/CheckedArithmetic.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"
#include <cmath>
#include <limits>

using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;
namespace cl = llvm::cl;

//===----------------------------------------------------------------------===//
// Declarations
//===----------------------------------------------------------------------===//

static cl::OptionCategory category("pmkvq-run options");

namespace {
struct StringOption : cl::opt<std::string> {
  StringOption(const char *name, const char *value, const char *help)
      : cl::opt<std::string>(StringRef(name), cl::desc(help),
                             cl::value_desc(value), cl::cat(category)) {}
  bool given() const { return getNumOccurrences() > 0; }
};

/// The options.  Made only once LLVM's own are out of the way: it has a
/// `--threads` too.
struct CommandLine {
  cl::list<std::string> models{cl::Positional, cl::desc("MODEL"),
                               cl::cat(category)};
  StringOption prompt{"prompt", "TEXT",
                      "One prompt as text, in the model's chat template "
                      "if it has one"};
  StringOption promptTokens{"prompt-tokens", "1,2,3",
                            "One prompt as token ids; needs no Python"};
  StringOption prompts{"prompts", "FILE.jsonl",
                       "JSON lines with \"prompt\" as text or token ids, "
                       "run as one batch"};
  StringOption maxTokens{"max-tokens", "N",
                         "Tokens to generate for each prompt, at most"};
  StringOption kvBudget{"kv-budget", "SIZE",
                        "Bytes of the whole batch's cache, everything "
                        "counted: 300000, 3500KiB, 2MiB, 1.5GB"};
  StringOption kvBits{"kv-bits", "F",
                      "A budget that gives pages F bits an element at "
                      "the full length, parameters included"};
  StringOption schedule{"schedule", "page|none",
                        "When pages are lowered: only as memory demands "
                        "(page, default), or never (none: each is "
                        "written at the floor)"};
  StringOption floorLevel{"floor", "2|4|8|16",
                          "Lowest bits a code (default 2)"};
  StringOption keyFloor{"key-floor", "2|4|8|16",
                        "The same for keys alone (default: --floor)"};
  StringOption valueFloor{"value-floor", "2|4|8|16",
                          "The same for values alone (default: --floor)"};
  StringOption keyFormat{"key-format", "FORMAT",
                         "per_channel|per_token[+hadamard|+plain]"
                         "[+clip=F], or paper (default "
                         "per_channel+hadamard)"};
  StringOption valueFormat{"value-format", "FORMAT",
                           "The same for values (default "
                           "per_token+hadamard)"};
  StringOption device{"device", "cpu", "Where to run (default cpu)"};
  StringOption threads{"threads", "N", "Threads (default: one a core)"};
  StringOption output{"output", "text|jsonl",
                      "Text as it comes (default), or one JSON line a "
                      "prompt and a summary"};
  StringOption dumpStages{"dump-stages", "DIR",
                          "Write the module before and after each stage "
                          "of the compiler"};
  StringOption emit{"emit", "import", "Print the imported module and stop"};
};
} // namespace

static cl::extrahelp examples(R"(
MODEL is a Hugging Face folder (config.json and safetensors) or a GGUF file.
Without --kv-budget and --kv-bits the cache stays bf16, unless --schedule or
a floor is given.

Examples:
  pmkvq-run model.gguf --prompt="Why is the sky blue?" --max-tokens=200 --kv-bits=4
  pmkvq-run test/models/reasoner --prompts=test/models/reasoner/programs-16.jsonl
            --max-tokens=112 --kv-budget=20MiB --output=jsonl
  pmkvq-run model/ --prompt-tokens=1,2,3 --max-tokens=8 --schedule=none --floor=4
  pmkvq-run model/ --emit=import > step.mlir
)");

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

static Error optionError(const cl::Option &option, const Twine &expected,
                         StringRef actual) {
  return llvm::createStringError("--" + option.ArgStr + ": expected " +
                                 expected + ", got '" + actual + "'");
}

static Expected<int64_t> readCount(const StringOption &option, int64_t max) {
  int64_t count;
  if (StringRef(option).getAsInteger(10, count) || count < 1 || count > max)
    return optionError(option, "a whole number from 1 to " + Twine(max),
                       option);
  return count;
}

/// The option's value if it is one of `values`; the first of them by default.
static Expected<std::string> readChoice(const StringOption &option,
                                        llvm::ArrayRef<StringRef> values) {
  if (!option.given())
    return values.front().str();
  if (!llvm::is_contained(values, StringRef(option)))
    return optionError(option, llvm::join(values, " or "), option);
  return option.getValue();
}

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
    if (part == "hadamard" || part == "plain") {
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

static Expected<std::string> readFormat(const StringOption &option) {
  if (!option.given())
    return std::string();
  Expected<std::string> format = parseFormat(option);
  if (!format)
    return llvm::createStringError("--" + option.ArgStr + ": " +
                                   llvm::toString(format.takeError()) +
                                   ", got '" + option.getValue() + "'");
  return format;
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

static Error readPrompts(const CommandLine &line, Options &options) {
  int given =
      line.prompt.given() + line.promptTokens.given() + line.prompts.given();
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
  Expected<int64_t> count =
      readCount(line.maxTokens, std::numeric_limits<int32_t>::max());
  if (!count)
    return count.takeError();
  options.maxTokens = *count;
  return Error::success();
}

static Error readBudget(const CommandLine &line, Options &options) {
  constexpr double maxBits = 32;
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
    double bits;
    if (StringRef(line.kvBits).getAsDouble(bits, /*AllowInexact=*/true) ||
        !(bits > 0 && bits <= maxBits))
      return optionError(line.kvBits, "a number above 0, at most 32",
                         line.kvBits);
    options.bitsPerElement = bits;
  }
  return Error::success();
}

/// The floor of one part, in bits: its own option's, or else --floor's.
static Expected<int64_t> readFloor(const StringOption &both,
                                   const StringOption &own) {
  constexpr StringRef levels[] = {"2", "4", "8", "16"};
  for (const StringOption *option : {&both, &own})
    if (Expected<std::string> level = readChoice(*option, levels); !level)
      return level.takeError();
  if (both.given() && own.given() && both.getValue() != own.getValue())
    return llvm::createStringError("--" + both.ArgStr + "=" + both.getValue() +
                                   " contradicts --" + own.ArgStr + "=" +
                                   own.getValue() +
                                   "; --floor is the floor of both parts");
  const StringOption &option = own.given() ? own : both;
  return option.given() ? std::stoll(option.getValue()) : 2;
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

/// Whether anything asks for pages below 16 bits.
static bool mayLower(const CommandLine &line) {
  return llvm::any_of(
      llvm::ArrayRef<const StringOption *>({&line.kvBudget, &line.kvBits,
                                            &line.schedule, &line.floorLevel,
                                            &line.keyFloor, &line.valueFloor}),
      [](const StringOption *option) { return option->given(); });
}

static Error readCache(const CommandLine &line, Options &options) {
  if (Error error = readBudget(line, options))
    return error;
  if (Error error = readFloors(line, options))
    return error;
  Expected<std::string> kind = readChoice(line.schedule, {"page", "none"});
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

static Error readExecution(const CommandLine &line, Options &options) {
  if (Expected<std::string> place = readChoice(line.device, {"cpu"}); !place)
    return place.takeError();
  Expected<std::string> form = readChoice(line.output, {"text", "jsonl"});
  if (!form)
    return form.takeError();
  options.output =
      *form == "jsonl" ? Options::Output::JsonLines : Options::Output::Text;
  if (line.dumpStages.given() && line.dumpStages.empty())
    return optionError(line.dumpStages, "a folder", line.dumpStages);
  options.dumpFolder = line.dumpStages;
  if (!line.threads.given())
    return Error::success();
  Expected<int64_t> count = readCount(line.threads, 1024);
  if (!count)
    return count.takeError();
  options.threads = static_cast<int32_t>(*count);
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
    if (!name.starts_with("help"))
      foreign.push_back(option);
  for (cl::Option *option : foreign)
    option->removeArgument();
}

Expected<Options> pmkvq::run::parseOptions(int argc, char **argv) {
  removeForeignOptions();
  static const CommandLine line;
  const char *overview =
      "Generates tokens with a progressively quantized key-value cache\n";
  std::string report;
  llvm::raw_string_ostream errors(report);
  argv[0] = const_cast<char *>("pmkvq-run"); // as reports and the help name it
  if (!cl::ParseCommandLineOptions(argc, argv, overview, &errors))
    return commandLineError(report);
  if (line.models.size() != 1)
    return llvm::createStringError("expected one MODEL, got " +
                                   Twine(line.models.size()) +
                                   "; pmkvq-run --help shows how");
  Options options;
  options.model = line.models.front();
  if (line.emit.given()) {
    Expected<std::string> what = readChoice(line.emit, {"import"});
    if (!what)
      return what.takeError();
    options.emitImport = true;
    return options;
  }
  for (auto *read : {readPrompts, readCache, readExecution})
    if (Error error = read(line, options))
      return error;
  return options;
}
