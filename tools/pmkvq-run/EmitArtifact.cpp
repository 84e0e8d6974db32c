//===- EmitArtifact.cpp - A model as one file -----------------------------===//
//
// Neighbours: EmitArtifact.h.
//
//===----------------------------------------------------------------------===//

#include "EmitArtifact.h"
#include "Compile.h"
#include "pmkvq/Import/WeightStore.h"
#include "pmkvq/Target/HostProgram.h"
#include "pmkvq/Target/Linker.h"
#include "llvm/ADT/SmallString.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include <cmath>

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using mlir::pmkvq::HostProgram;
using mlir::pmkvq::SharedCode;
using mlir::pmkvq::WeightSpec;
using mlir::pmkvq::WeightStore;

/// What text.py reads of a model's folder.
static constexpr StringRef kTokenizerFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};

Expected<rt::ArtifactWriter>
pmkvq::run::prepareArtifact(const Options &options) {
  auto writer = rt::ArtifactWriter::create(options.outputFile);
  if (!writer.ok())
    return llvm::createStringError("-o: " + writer.status().message());
  if (mlir::pmkvq::findLinker().empty())
    return llvm::createStringError(
        "--emit=artifact: expected a linker, ld.lld-22, ld.lld or ld, in PATH, "
        "got none; LLVM's is in the package lld-22");
  return std::move(*writer);
}

/// The files of the folder's tokenizer that are there, by name.
static Expected<std::vector<std::pair<std::string, std::string>>>
readTokenizer(StringRef folder) {
  std::vector<std::pair<std::string, std::string>> files;
  for (StringRef name : kTokenizerFiles) {
    llvm::SmallString<128> path(folder);
    llvm::sys::path::append(path, name);
    auto buffer = llvm::MemoryBuffer::getFile(path);
    if (buffer) {
      files.emplace_back(name.str(), (*buffer)->getBuffer().str());
      continue;
    }
    if (buffer.getError() != std::errc::no_such_file_or_directory)
      return llvm::createStringError(path + ": " + buffer.getError().message());
  }
  return files;
}

/// "<per_token, plain, clip = 8.0e-01>" as the user writes it.
static std::string plainFormat(StringRef attribute) {
  llvm::SmallVector<StringRef> parts;
  attribute.trim("<>").split(parts, ',');
  std::string text;
  for (StringRef part : parts) {
    auto [name, value] = part.trim().split('=');
    text += (text.empty() ? "" : "+") + name.trim().str() +
            (value.empty() ? "" : "=" + value.trim().str());
  }
  return text;
}

static rt::ArtifactDescription describe(const Model &model,
                                        const CachePlan &plan,
                                        const Options &options,
                                        const SharedCode &code) {
  rt::ArtifactDescription description;
  description.producer = "pmkvq " PMKVQ_VERSION;
  description.modelName =
      llvm::sys::path::filename(StringRef(options.model).rtrim('/')).str();
  description.modelHash = model.checkpoint.fingerprint();
  description.stopTokens = model.config.stopTokens;
  description.target = {code.architecture, options.host.cpu, code.features,
                        code.hooks};
  description.plan = {
      plan.compiler.schedule,
      plainFormat(plan.compiler.keyFormat) + (plan.feedback ? "+feedback" : ""),
      plainFormat(plan.compiler.valueFormat),
      options.bitsPerElement.value_or(0), model.config.calibration.has_value()};
  description.info = plan.workload.info;
  description.info.budgetBytes = plan.compiler.budgetBytes;
  for (const WeightSpec &weight : code.weights)
    description.weights.push_back(weight.name);
  return description;
}

static rt::ArtifactSection weightSection(const WeightSpec &weight,
                                         const void *data) {
  rt::ArtifactSection section;
  section.name = rt::kWeightPrefix + weight.name;
  section.dtype = "BF16";
  section.shape = weight.shape;
  section.data = static_cast<const uint8_t *>(data);
  section.bytes = sizeof(uint16_t);
  for (int64_t size : weight.shape)
    section.bytes *= size;
  return section;
}

Error pmkvq::run::emitArtifact(rt::ArtifactWriter writer, Model &model,
                               const CachePlan &plan, const Options &options,
                               mlir::MLIRContext &context) {
  auto tokenizer = readTokenizer(model.folder);
  if (!tokenizer)
    return tokenizer.takeError();
  std::string program;
  auto module = compileModule(
      model.config, plan.compiler, options.dumpFolder,
      /*lastStage=*/"", context, [&](StringRef stage, mlir::ModuleOp planned) {
        if (stage == "plan")
          llvm::raw_string_ostream(program) << planned << "\n";
      });
  if (!module)
    return module.takeError();
  auto code = HostProgram::compileShared(**module, options.host,
                                         mlir::pmkvq::findLinker());
  if (!code)
    return code.takeError();
  rt::ArtifactDescription description = describe(model, plan, options, *code);
  Expected<WeightStore> weights =
      WeightStore::create(std::move(model.checkpoint), code->weights);
  if (!weights)
    return weights.takeError();
  std::vector<rt::ArtifactSection> sections;
  for (auto [weight, data] : llvm::zip(code->weights, weights->pointers()))
    sections.push_back(weightSection(weight, data));
  sections.push_back(
      rt::byteSection(rt::kCodePrefix + options.host.cpu, code->bytes));
  sections.push_back(rt::byteSection(rt::kProgramSection, program));
  for (const auto &[name, bytes] : *tokenizer)
    sections.push_back(rt::byteSection(rt::kTokenizerPrefix + name, bytes));
  rt::Status status = writer.write(description, sections);
  return status.ok() ? Error::success() : toError(status);
}
