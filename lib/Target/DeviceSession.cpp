//===- DeviceSession.cpp - Kernels for a session's cache on a GPU ---------===//
//
// Neighbours: DeviceSession.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/DeviceSession.h"
#include "mlir/IR/BuiltinOps.h"
#include "pmkvq/Formats/Format.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/HostProgram.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
namespace cuda = ::pmkvq::rt::cuda;

/// "<per_token, hadamard>", as a spec has it.
static std::string textOf(FormatAttr format) {
  std::string text;
  llvm::raw_string_ostream(text) << format;
  StringRef rest = text;
  rest.consume_front("#pmkvq.format");
  return rest.str();
}

static bool equal(const DecodeSpec &a, const DecodeSpec &b) {
  return a.queryHeads == b.queryHeads && a.scale == b.scale &&
         a.keyFormat == b.keyFormat && a.valueFormat == b.valueFormat;
}

llvm::Expected<DeviceSession> DeviceSession::collect(ModuleOp planned) {
  SmallVector<AttendOp> attends;
  SmallVector<AppendOp> appends;
  planned.walk([&](AttendOp op) { attends.push_back(op); });
  planned.walk([&](AppendOp op) { appends.push_back(op); });
  if (attends.empty() || appends.empty())
    return llvm::createStringError("expected a program with attention");
  // Layers may have clips of their own: what reads codes is compiled for each.
  CacheType cache = attends.front().getCache().getType().withoutClips();
  if (cache.getLadder().back() == 1)
    return llvm::createStringError(
        "expected values of 2 bits or more on a GPU; use --value-floor=2");
  const FormatModel &keys = cache.getKey().getModel(),
                    &values = cache.getValue().getModel();
  const bool symmetric = values.getParameterType() == ParameterType::E5M3;
  if (keys.getParameterType() != ParameterType::F16)
    return llvm::createStringError(
        "expected keys with fp16 parameters on a GPU, got " + keys.getName());
  if (!symmetric && values.getParameterType() != ParameterType::F16)
    return llvm::createStringError(
        "expected values with fp16 parameters or one byte on a GPU, got " +
        values.getName());
  DeviceSession session;
  session.writers.kvHeads = cache.getKvHeads();
  session.writers.headDim = cache.getHeadDim();
  session.writers.sink = cache.getSink();
  session.writers.keyFormat = textOf(cache.getKey());
  session.writers.valueFormat = textOf(cache.getValue());
  session.writers.valuesRotated = appends.front().getValuesRotated();
  session.shape.headDim = cache.getHeadDim();
  session.shape.symmetricValues = symmetric;
  for (Part part : {Part::Key, Part::Value})
    session.shape.perToken[static_cast<size_t>(part)] =
        cache.getFormat(part).getModel().getGroupAxis() == GroupAxis::Token;
  for (AppendOp append : appends)
    if (append.getCache().getType().withoutClips() != cache ||
        append.getValuesRotated() != session.writers.valuesRotated)
      return llvm::createStringError(
          "expected caches of one type but for clips in all layers");
  for (AttendOp attend : attends) {
    CacheType layer = attend.getCache().getType();
    if (layer.withoutClips() != cache)
      return llvm::createStringError(
          "expected caches of one type but for clips in all layers");
    if (cache.getValue().getHadamard() && !attend.getResultRotated())
      return llvm::createStringError(
          "attention rotates its results back, which a GPU's "
          "does not; fold the rotation into the projection "
          "behind it, or use values without one (+plain)");
    DecodeSpec spec;
    spec.kvHeads = cache.getKvHeads();
    spec.headDim = cache.getHeadDim();
    spec.queryHeads =
        cast<RankedTensorType>(attend.getQuery().getType()).getDimSize(1);
    spec.scale = attend.getScale().convertToDouble();
    spec.keyFormat = textOf(layer.getKey());
    spec.valueFormat = textOf(layer.getValue());
    spec.queriesRotated = false;
    session.layers.push_back(std::move(spec));
  }
  return session;
}

/// NAME_0, NAME_1, ... of a program.
static std::vector<rt::KernelFn> findKernels(const HostProgram &program,
                                             StringRef name) {
  std::vector<rt::KernelFn> kernels;
  while (void *address =
             program.lookUp((name + "_" + Twine(kernels.size())).str()))
    kernels.push_back(reinterpret_cast<rt::KernelFn>(address));
  return kernels;
}

static llvm::Expected<cuda::DecodeCode>
compileFor(MLIRContext &context, const Assembler &assembler, DecodeSpec spec,
           const cuda::DecodeNeeds &needs) {
  spec.rows = needs.rows;
  spec.kinds = needs.kinds;
  spec.wideRanges = needs.wideRanges;
  auto kernel = compileDecode(context, spec, assembler.codeFolder);
  if (!kernel)
    return kernel.takeError();
  auto code = assembler.assemble(std::move(kernel->ptx), spec.chip);
  if (!code)
    return code.takeError();
  return cuda::DecodeCode{std::move(*code), std::move(kernel->name),
                          kernel->threads,  kernel->sharedBytes,
                          kernel->rows,     kernel->takesPages};
}

llvm::Expected<cuda::DeviceCacheCode>
DeviceSession::compile(MLIRContext &context, const HostProgram &program,
                       const std::string &chip,
                       const Assembler &assembler) const {
  cuda::DeviceCacheCode code;
  code.append = findKernels(program, "append");
  code.attend = findKernels(program, "attend");
  code.merge = findKernels(program, "merge");
  WriterSpec spec = writers;
  spec.chip = chip;
  auto compiled = compileWriters(context, spec, assembler.codeFolder);
  if (!compiled)
    return compiled.takeError();
  auto writersCode = assembler.assemble(std::move(compiled->ptx), chip);
  if (!writersCode)
    return writersCode.takeError();
  code.writers = {std::move(*writersCode), std::move(compiled->threads)};
  code.slotBytes = ::pmkvq::DeviceImage(shape, nullptr, nullptr).slotBytes();
  std::vector<DecodeSpec> variants;
  for (DecodeSpec layer : layers) {
    layer.chip = chip;
    auto known = llvm::find_if(
        variants, [&](const DecodeSpec &other) { return equal(layer, other); });
    code.variants.push_back(static_cast<int32_t>(known - variants.begin()));
    if (known == variants.end())
      variants.push_back(std::move(layer));
  }
  code.decode =
      [&context, assembler, variants = std::move(variants)](
          int32_t variant,
          const cuda::DecodeNeeds &needs) -> rt::Result<cuda::DecodeCode> {
    auto kernel = compileFor(context, assembler,
                             variants[static_cast<size_t>(variant)], needs);
    if (!kernel)
      return rt::Status(rt::StatusCode::Unimplemented,
                        llvm::toString(kernel.takeError()));
    return std::move(*kernel);
  };
  code.orders = ::pmkvq::pageOrders(shape);
  return code;
}
