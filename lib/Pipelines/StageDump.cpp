//===- StageDump.cpp - Modules between stages, as files -------------------===//
//
// Neighbours: StageDump.h.
//
//===----------------------------------------------------------------------===//

#include "StageDump.h"
#include "mlir/Support/FileUtilities.h"
#include "pmkvq/IR/PMKVQ.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/ToolOutputFile.h"
#include <map>

using namespace mlir;
using namespace mlir::pmkvq;

/// "name 3, other 1" in the order of the names.
static std::string listCounts(const std::map<std::string, int64_t> &counts) {
  std::string text;
  for (const auto &[name, number] : counts)
    text += (text.empty() ? "" : ", ") + name + " " + std::to_string(number);
  return text.empty() ? "none" : text;
}

/// A module's row of the table.
static std::string describe(ModuleOp module, StringRef file, StringRef summary,
                            int64_t lines) {
  std::map<std::string, int64_t> dialects, ops;
  module.walk([&](Operation *op) {
    ++dialects[op->getName().getDialectNamespace().str()];
    if (isa_and_nonnull<PMKVQDialect>(op->getDialect()))
      ++ops[op->getName().stripDialect().str()];
  });
  return llvm::formatv("| [{0}]({0}) | {1} | {2} | {3} | {4} |\n", file,
                       summary, lines, listCounts(ops), listCounts(dialects));
}

LogicalResult StageDump::write(ModuleOp module, StringRef file,
                               StringRef text) const {
  SmallString<128> path(folder);
  llvm::sys::path::append(path, file);
  std::string message;
  auto output = openOutputFile(path, &message);
  if (!output)
    return module.emitError() << message;
  output->os() << text;
  output->keep();
  return success();
}

LogicalResult StageDump::add(ModuleOp module, StringRef name,
                             StringRef summary) {
  if (folder.empty())
    return success();
  if (std::error_code code = llvm::sys::fs::create_directories(folder))
    return module.emitError("cannot make the folder '")
           << folder << "': " << code.message();
  std::string file =
      llvm::formatv("{0}{1}-{2}.mlir", count / 10, count % 10, name);
  ++count;
  // Weights are external; constants of a head are read with the code.
  OpPrintingFlags flags;
  flags.elideLargeElementsAttrs(128);
  std::string text;
  llvm::raw_string_ostream os(text);
  module.print(os, flags);
  rows += describe(module, file, summary, llvm::count(text, '\n'));
  if (failed(write(module, file, text)))
    return failure();
  return write(module, "index.md",
               "# Stages\n\nThe module before the first stage and after each; "
               "ops with how often they occur.\n\n"
               "| file | what a reader finds in it | lines | pmkvq ops | "
               "dialects |\n|---|---|---|---|---|\n" +
                   rows);
}
