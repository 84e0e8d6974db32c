//===- CommandLine.h - pmkvq-run's options as declared ----------*- C++ -*-===//
//
// Names, values and help of the options, in groups.  Neighbours: Options.cpp
// reads their values, Help.cpp prints them.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_COMMANDLINE_H
#define PMKVQ_TOOLS_RUN_COMMANDLINE_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/CommandLine.h"
#include <string>
#include <vector>

namespace pmkvq::run {

/// An option with a value.  Values are strings, so that each refusal can be one
/// line that names the option, what is expected and what was given.
struct StringOption : llvm::cl::opt<std::string> {
  StringOption(llvm::StringRef name, llvm::StringRef value,
               llvm::StringRef help)
      : llvm::cl::opt<std::string>(name, llvm::cl::desc(help),
                                   llvm::cl::value_desc(value)) {}
  bool given() const { return getNumOccurrences() > 0; }

  /// What the value is one of, the default first; empty: any text.
  std::vector<std::string> choices;
};

/// An option whose value is one of a few words.
struct ChoiceOption : StringOption {
  /// `words` is "page|none", the default first.
  ChoiceOption(llvm::StringRef name, llvm::StringRef words,
               llvm::StringRef help);
};

/// An option without a value.
struct Flag : llvm::cl::opt<bool> {
  Flag(llvm::StringRef name, llvm::StringRef help)
      : llvm::cl::opt<bool>(name, llvm::cl::desc(help),
                            llvm::cl::ValueDisallowed) {}
};

/// Options that belong together, and a command line that shows them at work.
struct OptionGroup {
  llvm::StringRef title;
  std::vector<llvm::cl::Option *> options;
  llvm::StringRef example;
};

/// The options.  Made only once LLVM's own are out of the way: it has a
/// `--threads` too.
struct CommandLine {
  CommandLine();

  llvm::cl::list<std::string> models{llvm::cl::Positional};

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

  ChoiceOption bench;
  StringOption kvHeads;
  StringOption queryHeads;
  StringOption headDim;
  StringOption batch;
  StringOption context;
  StringOption levels;
  StringOption chip;

  Flag explain;
  Flag check;
  StringOption checkTolerance;
  StringOption emit;
  StringOption outputFile;
  StringOption dumpStages;

  Flag help;
  llvm::cl::alias shortHelp{"h", llvm::cl::aliasopt(help)};
  ChoiceOption completion;

  /// Every option, in the order of the help.
  std::vector<OptionGroup> groups;
};

/// How an option is written: "--floor=2|4|8|16", "--explain", "-o FILE".
std::string spell(const llvm::cl::Option &option);

/// The text of --help.
std::string helpText(const CommandLine &line);

/// The script of --completion=bash.
std::string bashCompletion(const CommandLine &line);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_COMMANDLINE_H
