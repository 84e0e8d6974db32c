//===- CommandLine.h - pmkvq-run's options as declared ----------*- C++ -*-===//
//
// Names, values and help of the options, in groups; the same for a tool with
// the compiler and for one without.  Neighbours: RunOptions.cpp and Options.cpp
// read their values, Help.cpp prints them.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_COMMANDLINE_H
#define PMKVQ_TOOLS_RUN_RUN_COMMANDLINE_H

#include "pmkvq_rt/Status.h"
#include <string>
#include <vector>

namespace pmkvq::run {

/// An option of the command line.
struct Option {
  /// What it takes part in.
  enum class Use {
    /// Every run, and that of an artifact.
    Run,
    /// The compiler's decisions, which an artifact has already: --load takes
    /// what it has.
    Decision,
    /// The compiler, or a model's files.
    Compiler
  };

  Option(std::string name, std::string value, std::string help)
      : name(std::move(name)), value(std::move(value)), help(std::move(help)) {}
  bool given() const { return isGiven; }

  /// Without dashes.
  std::string name;
  /// What its value looks like; empty: it has none.
  std::string value;
  std::string help;
  Use use = Use::Run;
  bool isGiven = false;
};

/// An option with a value.  Values are strings, so that each refusal can be one
/// line that names the option, what is expected and what was given.
struct StringOption : Option {
  using Option::Option;
  const std::string &getValue() const { return text; }
  bool empty() const { return text.empty(); }
  operator const std::string &() const { return text; }
  bool operator==(const std::string &other) const { return text == other; }

  /// As it was given.
  std::string text;
  /// What the value is one of, the default first; empty: any text.
  std::vector<std::string> choices;
};

/// An option whose value is one of a few words.
struct ChoiceOption : StringOption {
  /// `words` is "page|none", the default first.
  ChoiceOption(std::string name, const std::string &words, std::string help);
};

/// An option without a value.
struct Flag : Option {
  Flag(std::string name, std::string help)
      : Option(std::move(name), "", std::move(help)) {}
  operator bool() const { return isGiven; }
};

/// Options that belong together, and a command line that shows them at work.
struct OptionGroup {
  std::string title;
  std::vector<Option *> options;
  std::string example;
};

/// The options.
struct CommandLine {
  /// `stages` are those that --emit=mlir knows by name; `compiles`: this tool
  /// has the compiler.
  CommandLine(const std::vector<std::string> &stages, bool compiles);
  CommandLine(const CommandLine &) = delete;

  /// Reads arguments, without the tool's name: values after "=" or as the next
  /// argument.
  ///
  /// Errors: an option that does not exist, occurs twice, or has a value too
  /// many or too few.
  rt::Status parse(const std::vector<std::string> &arguments);

  bool compiles;
  std::vector<std::string> models;

  StringOption prompt;
  StringOption promptTokens;
  StringOption prompts;
  StringOption maxTokens;

  StringOption kvBudget;
  StringOption kvBits;
  ChoiceOption schedule;
  ChoiceOption floorLevel;
  ChoiceOption keyFloor;
  ChoiceOption valueFloor;
  StringOption keyFormat;
  StringOption valueFormat;
  StringOption calibration;
  Flag allocate;
  StringOption layerFloors;
  Flag keyScales;
  ChoiceOption rounding;
  StringOption maxLoss;
  Flag acceptLoss;

  StringOption temperature;
  StringOption topP;
  StringOption seed;

  ChoiceOption device;
  ChoiceOption cacheDevice;
  ChoiceOption cpu;
  StringOption codeCache;
  StringOption ptxas;
  StringOption threads;
  ChoiceOption output;
  StringOption logits;

  StringOption load;

  ChoiceOption bench;
  StringOption kvHeads;
  StringOption queryHeads;
  StringOption headDim;
  StringOption batch;
  StringOption context;
  StringOption levels;
  StringOption inputs;
  StringOption chip;
  StringOption lower;

  Flag explain;
  Flag check;
  StringOption checkTolerance;
  StringOption emit;
  StringOption outputFile;
  StringOption dumpStages;

  Flag help;
  ChoiceOption completion;

  /// Every option, in the order of the help.
  std::vector<OptionGroup> groups;

private:
  Option *find(const std::string &name);
};

/// How an option is written: "--floor=2|4|8|16", "--explain", "-o FILE".
std::string spell(const Option &option);

/// The text of --help.
std::string helpText(const CommandLine &line);

/// The script of --completion=bash.
std::string bashCompletion(const CommandLine &line);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_COMMANDLINE_H
