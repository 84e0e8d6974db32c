//===- DeviceModules.cpp - Modules of single GPU kernels ------------------===//
//
// Decode attention in tile form, ready for the GPU's stages, and the read
// kernel that it is measured against.  Neighbours: DeviceProgram.h (who asks),
// TileKernels.cpp (the same kernel on the CPU).
//
//===----------------------------------------------------------------------===//

#include "LaneBuilder.h"
#include "TileKernels.h"
#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Diagnostics.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq_rt/DeviceKernelNames.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;

static FormatAttr parseFormat(MLIRContext &context, const std::string &text) {
  return dyn_cast_or_null<FormatAttr>(
      parseAttribute("#pmkvq.format" + text, &context));
}

/// The cache type of a spec; null after an error.
template <typename Spec>
static CacheType makeCache(MLIRContext &context, const Spec &spec,
                           int64_t sink) {
  context.loadDialect<PMKVQDialect, arith::ArithDialect, scf::SCFDialect>();
  FormatAttr key = parseFormat(context, spec.keyFormat);
  FormatAttr value = parseFormat(context, spec.valueFormat);
  if (!key || !value)
    return {};
  auto emitError = [&] { return mlir::emitError(UnknownLoc::get(&context)); };
  SmallVector<int64_t> ladder(rt::kLadder.begin(), rt::kLadder.end());
  return CacheType::getChecked(emitError, &context, spec.kvHeads, spec.headDim,
                               key, value, ArrayRef<int64_t>(ladder), sink);
}

OwningOpRef<ModuleOp> mlir::pmkvq::buildWriterModule(MLIRContext &context,
                                                     const WriterSpec &spec) {
  CacheType cache = makeCache(context, spec, spec.sink);
  if (!cache)
    return {};
  Location loc = UnknownLoc::get(&context);
  OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
  OpBuilder at = OpBuilder::atBlockEnd(module->getBody());
  ImplicitLocOpBuilder b(loc, at);
  buildAppendKernel(b, rt::kAppendKernel,
                    {cache, spec.valuesRotated, spec.embedsPositions});
  for (Part part : {Part::Key, Part::Value}) {
    auto of = static_cast<rt::Part>(part);
    for (int32_t to : rt::kLadder)
      buildFlushKernel(b, rt::flushKernel(of, to), cache, part, to);
    for (int32_t from : ArrayRef<int32_t>(rt::kLadder).drop_back())
      buildRequantizeKernel(b, rt::requantizeKernel(of, from), cache, part,
                            from);
  }
  return module;
}

/// Attention over a cache of any level, named `name`.
template <typename Spec>
static OwningOpRef<ModuleOp> buildAttention(MLIRContext &context,
                                            const Spec &spec, StringRef name,
                                            bool queriesRotated) {
  CacheType cache = makeCache(context, spec, /*sink=*/1);
  if (!cache)
    return {};
  Location loc = UnknownLoc::get(&context);
  auto emitError = [&] { return mlir::emitError(loc); };
  if (spec.queryHeads <= 0 || spec.queryHeads % spec.kvHeads) {
    emitError() << "expected a number of query heads that " << spec.kvHeads
                << " kv heads divide, got " << spec.queryHeads;
    return {};
  }
  OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
  OpBuilder at = OpBuilder::atBlockEnd(module->getBody());
  ImplicitLocOpBuilder b(loc, at);
  AttentionShape shape;
  shape.cache = cache;
  shape.queryHeads = spec.queryHeads;
  shape.scale = spec.scale;
  shape.resultRotated = true;
  shape.queriesRotated = queriesRotated;
  buildAttendKernel(b, name, shape);
  return module;
}

OwningOpRef<ModuleOp> mlir::pmkvq::buildDecodeModule(MLIRContext &context,
                                                     const DecodeSpec &spec) {
  return buildAttention(context, spec, "decode", spec.queriesRotated);
}

OwningOpRef<ModuleOp> mlir::pmkvq::buildPrefillModule(MLIRContext &context,
                                                      const PrefillSpec &spec) {
  return buildAttention(context, spec, "prefill", /*queriesRotated=*/true);
}

/// xor of all words of `data`: thread i of n takes 16-byte vectors i, i + n,
/// i + 2 n, ..., four at once.
static Value emitReadLoop(LaneBuilder &b, Value data, Value size) {
  auto widen = [&](Value value) -> Value {
    return arith::ExtUIOp::create(b, b.getI64Type(), value);
  };
  auto times = [&](Value x, Value y) -> Value {
    return arith::MulIOp::create(b, x, y);
  };
  auto plus = [&](Value x, Value y) -> Value {
    return arith::AddIOp::create(b, x, y);
  };
  constexpr int64_t kAtOnce = 4, kVectorBytes = 16;
  Value threads = widen(b.blockThreads());
  Value stride =
      times(times(threads, widen(b.gridBlocks())), b.i64(kVectorBytes));
  Value before = times(widen(b.blockId()), threads);
  Value thread = plus(before, widen(b.threadId()));
  Value start = times(thread, b.i64(kVectorBytes));
  Value step = times(stride, b.i64(kAtOnce));
  auto loop = scf::ForOp::create(b, start, size, step, ValueRange{b.i32(0)});
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  Value offset = loop.getInductionVar();
  Values loaded;
  for (int64_t i = 0; i < kAtOnce; ++i) {
    Value inside =
        arith::CmpIOp::create(b, arith::CmpIPredicate::ult, offset, size);
    SmallVector<Type> types(4, b.getI32Type());
    auto branch = scf::IfOp::create(b, types, inside, /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    OpBuilder::InsertionGuard inner(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, Values(4, b.i32(0)));
    b.setInsertionPointToStart(branch.thenBlock());
    scf::YieldOp::create(b, b.loadWords(b.at(data, offset), 4));
    llvm::append_range(loaded, branch.getResults());
    b.setInsertionPointAfter(branch);
    offset = plus(offset, stride);
  }
  Value sum = loop.getRegionIterArg(0);
  for (Value word : loaded)
    sum = arith::XOrIOp::create(b, sum, word);
  scf::YieldOp::create(b, sum);
  return loop.getResult(0);
}

OwningOpRef<ModuleOp> mlir::pmkvq::buildReadModule(MLIRContext &context) {
  DialectRegistry registry;
  registerLaneDialects(registry);
  context.appendDialectRegistry(registry);
  context.loadAllAvailableDialects();
  Location loc = UnknownLoc::get(&context);
  OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
  OpBuilder at = OpBuilder::atBlockEnd(getLaneModule(*module));
  LaneBuilder b(loc, at);
  Value arguments =
      b.startFunction("read", sizeof(rt::ReadArgs), /*threads=*/0);
  Value data = b.pointerArgument(arguments, offsetof(rt::ReadArgs, data));
  Value size =
      b.load(b.getI64Type(), b.at(arguments, offsetof(rt::ReadArgs, bytes)), 8);
  Value sink = b.pointerArgument(arguments, offsetof(rt::ReadArgs, sink));
  Value sum = emitReadLoop(b, data, size);
  Value never = b.compare(arith::CmpIPredicate::eq, sum, 0x12345677);
  auto branch = scf::IfOp::create(b, never, /*withElseRegion=*/false);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    b.store(sum, sink, 4);
  }
  return module;
}
