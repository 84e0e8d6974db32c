//===- OptionValues.h - Values of options, checked --------------*- C++ -*-===//
//
// What Options.cpp and BenchOptions.cpp share.  Neighbours: CommandLine.h (the
// options), Options.h (what becomes of them).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_OPTIONVALUES_H
#define PMKVQ_TOOLS_RUN_OPTIONVALUES_H

#include "CommandLine.h"
#include "Options.h"
#include "llvm/ADT/Twine.h"

namespace pmkvq::run {

/// "--name: expected THIS, got 'THAT'".
llvm::Error optionError(const llvm::cl::Option &option,
                        const llvm::Twine &expected, llvm::StringRef actual);

llvm::Expected<int64_t> readCount(const StringOption &option, int64_t max);

/// The option's value if it is one of its choices; the first by default.
llvm::Expected<std::string> readChoice(const StringOption &option);

/// A format's attribute; empty if the option is not given.
llvm::Expected<std::string> readFormat(const StringOption &option);

llvm::Error readThreads(const CommandLine &line, Options &options);

/// What code for the CPU is made for, and where it is kept.
llvm::Error readHost(const CommandLine &line, Options &options);

/// Options that only the benchmark has, or that it does not have.
llvm::Error checkBenchOptions(const CommandLine &line);

/// A number of bits, as --kv-bits has it; none if `text` is not one.
std::optional<double> parseBits(llvm::StringRef text);

/// What --bench measures.
llvm::Error readBench(const CommandLine &line, Options &options);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_OPTIONVALUES_H
