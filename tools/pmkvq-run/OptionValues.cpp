//===- OptionValues.cpp - Values of options, checked ----------------------===//
//
// Neighbours: OptionValues.h.
//
//===----------------------------------------------------------------------===//

#include "OptionValues.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"

using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;

Error pmkvq::run::optionError(const llvm::cl::Option &option,
                              const Twine &expected, StringRef actual) {
  return llvm::createStringError("--" + option.ArgStr + ": expected " +
                                 expected + ", got '" + actual + "'");
}

Expected<int64_t> pmkvq::run::readCount(const StringOption &option,
                                        int64_t max) {
  int64_t count;
  if (StringRef(option).getAsInteger(10, count) || count < 1 || count > max)
    return optionError(option, "a whole number from 1 to " + Twine(max),
                       option);
  return count;
}

Expected<std::string> pmkvq::run::readChoice(const StringOption &option) {
  if (!option.given())
    return option.choices.front();
  if (!llvm::is_contained(option.choices, option.getValue()))
    return optionError(option, llvm::join(option.choices, " or "), option);
  return option.getValue();
}

Expected<std::string> pmkvq::run::readFormat(const StringOption &option) {
  if (!option.given())
    return std::string();
  Expected<std::string> format = parseFormat(option);
  if (!format)
    return llvm::createStringError("--" + option.ArgStr + ": " +
                                   llvm::toString(format.takeError()) +
                                   ", got '" + option.getValue() + "'");
  return format;
}

Error pmkvq::run::readThreads(const CommandLine &line, Options &options) {
  if (!line.threads.given())
    return Error::success();
  Expected<int64_t> count = readCount(line.threads, 1024);
  if (!count)
    return count.takeError();
  options.threads = static_cast<int32_t>(*count);
  return Error::success();
}

/// --ptxas.
static Error readAssembler(const CommandLine &line, Options &options) {
  mlir::pmkvq::Assembler &assembler = options.assembler;
  if (!line.ptxas.given() || line.ptxas == "auto") {
    assembler.ptxas = mlir::pmkvq::findPtxas();
    return Error::success();
  }
  if (line.ptxas == "none")
    return Error::success();
  assembler.ptxas = line.ptxas;
  assembler.isRequired = true;
  return llvm::sys::fs::can_execute(assembler.ptxas)
             ? Error::success()
             : optionError(line.ptxas, "auto, none or an executable file",
                           line.ptxas);
}

Error pmkvq::run::readHost(const CommandLine &line, Options &options) {
  Expected<std::string> cpu = readChoice(line.cpu);
  if (!cpu)
    return cpu.takeError();
  options.host.cpu = *cpu;
  if (Error error = readAssembler(line, options))
    return error;
  if (line.codeCache.given()) {
    if (line.codeCache == "none")
      return Error::success();
    options.host.codeFolder = line.codeCache;
    std::error_code error =
        llvm::sys::fs::create_directories(options.host.codeFolder);
    if (!error && !llvm::sys::fs::is_directory(options.host.codeFolder))
      error = std::make_error_code(std::errc::not_a_directory);
    return error ? optionError(line.codeCache,
                               "none or a folder (" + error.message() + ")",
                               line.codeCache)
                 : Error::success();
  }
  llvm::SmallString<128> folder;
  if (llvm::sys::path::cache_directory(folder)) {
    llvm::sys::path::append(folder, "pmkvq", "code");
    options.host.codeFolder = folder.str().str();
  }
  return Error::success();
}
