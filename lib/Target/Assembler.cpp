//===- Assembler.cpp - PTX to a GPU's own code ----------------------------===//
//
// Neighbours: Assembler.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/Assembler.h"
#include "CodeCache.h"
#include "TemporaryFile.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir::pmkvq;
using llvm::SmallString;
using llvm::StringRef;

std::string mlir::pmkvq::findPtxas() {
  if (auto path = llvm::sys::findProgramByName("ptxas"))
    return *path;
  llvm::SmallVector<std::string> folders;
  for (const char *variable : {"CUDA_HOME", "CUDA_PATH"})
    if (auto root = llvm::sys::Process::GetEnv(variable)) {
      SmallString<128> folder(*root);
      llvm::sys::path::append(folder, "bin");
      folders.push_back(folder.str().str());
    }
  folders.push_back("/usr/local/cuda/bin");
  for (const std::string &folder : folders)
    if (auto path = llvm::sys::findProgramByName("ptxas", {folder}))
      return *path;
  return "";
}

llvm::Expected<AssemblerReport> mlir::pmkvq::runPtxas(const std::string &ptxas,
                                                      const std::string &ptx,
                                                      const std::string &chip) {
  TemporaryFile source("ptx"), log("log"), cubin("cubin");
  for (const TemporaryFile *file : {&source, &log, &cubin})
    if (file->error)
      return llvm::createStringError(
          file->error,
          "cannot make a temporary file for ptxas: " + file->error.message());
  if (llvm::Error error = source.write(ptx))
    return error;
  std::optional<StringRef> redirects[] = {StringRef(), StringRef(log.path),
                                          StringRef(log.path)};
  std::string message;
  int status = llvm::sys::ExecuteAndWait(
      ptxas, {ptxas, "-arch=" + chip, "-v", source.path, "-o", cubin.path},
      std::nullopt, redirects, /*SecondsToWait=*/0, /*MemoryLimit=*/0,
      &message);
  if (status < 0)
    return llvm::createStringError("cannot run " + ptxas + ": " + message);
  AssemblerReport report;
  report.accepted = status == 0;
  report.text = log.read();
  if (report.accepted)
    report.cubin = cubin.read();
  return report;
}

static std::string cubinKey(const std::string &ptxas, const std::string &ptx,
                            const std::string &chip) {
  std::string text = ptxas;
  llvm::raw_string_ostream os(text);
  llvm::sys::fs::file_status status;
  if (!llvm::sys::fs::status(ptxas, status))
    os << ' ' << status.getSize() << ' '
       << status.getLastModificationTime().time_since_epoch().count();
  os << '\n' << chip << '\n' << ptx;
  return codeKey(text);
}

llvm::Expected<std::string>
Assembler::assemble(std::string ptx, const std::string &target) const {
  if (ptxas.empty() || target != chip)
    return ptx;
  CodeCache cache(codeFolder);
  const std::string key = cubinKey(ptxas, ptx, target);
  if (std::unique_ptr<llvm::MemoryBuffer> known = cache.load(key))
    return known->getBuffer().str();
  auto report = runPtxas(ptxas, ptx, target);
  if (report && report->accepted) {
    cache.keep(key, {report->cubin, key});
    return std::move(report->cubin);
  }
  if (!isRequired) {
    llvm::consumeError(report.takeError());
    return ptx;
  }
  if (!report)
    return report.takeError();
  return llvm::createStringError(ptxas + " refuses a kernel for " + target +
                                 ": " + report->text);
}
