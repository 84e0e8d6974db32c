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

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;

static FormatAttr parseFormat(MLIRContext &context, const std::string &text) {
  return dyn_cast_or_null<FormatAttr>(
      parseAttribute("#pmkvq.format" + text, &context));
}

OwningOpRef<ModuleOp> mlir::pmkvq::buildDecodeModule(MLIRContext &context,
                                                     const DecodeSpec &spec) {
  context.loadDialect<PMKVQDialect, arith::ArithDialect, scf::SCFDialect>();
  Location loc = UnknownLoc::get(&context);
  FormatAttr key = parseFormat(context, spec.keyFormat);
  FormatAttr value = parseFormat(context, spec.valueFormat);
  if (!key || !value)
    return {};
  auto emitError = [&] { return mlir::emitError(loc); };
  CacheType cache =
      CacheType::getChecked(emitError, &context, spec.kvHeads, spec.headDim,
                            key, value, ArrayRef<int64_t>{16, 8, 4, 2},
                            /*sink=*/int64_t(1));
  if (!cache)
    return {};
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
  shape.queriesRotated = true;
  buildAttendKernel(b, "decode", shape);
  return module;
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
  Value thread = plus(times(widen(b.blockId()), threads), widen(b.threadId()));
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
  OpBuilder at = OpBuilder::atBlockEnd(module->getBody());
  auto kernels = gpu::GPUModuleOp::create(at, loc, "kernels");
  at.setInsertionPointToStart(kernels.getBody());
  LaneBuilder b(loc, at);
  auto function = LLVM::LLVMFuncOp::create(
      b, "read",
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(&context),
                                  {b.pointer(0)}));
  auto bytes =
      LLVM::LLVMArrayType::get(b.getI64Type(), sizeof(rt::ReadArgs) / 8);
  function.setArgAttr(0, LLVM::LLVMDialect::getByValAttrName(),
                      TypeAttr::get(bytes));
  function->setAttr("nvvm.kernel", b.getUnitAttr());
  Block *entry = function.addEntryBlock(b);
  b.setInsertionPointToStart(entry);
  Value arguments = entry->getArgument(0);
  auto field = [&](Type type, size_t offset) {
    return b.load(type, b.at(arguments, offset), 8);
  };
  auto global = [&](size_t offset) -> Value {
    return LLVM::AddrSpaceCastOp::create(b, b.pointer(kGlobalSpace),
                                         field(b.pointer(0), offset));
  };
  Value data = global(offsetof(rt::ReadArgs, data));
  Value size = field(b.getI64Type(), offsetof(rt::ReadArgs, bytes));
  Value sink = global(offsetof(rt::ReadArgs, sink));
  Value sum = emitReadLoop(b, data, size);
  Value never = b.compare(arith::CmpIPredicate::eq, sum, 0x12345677);
  auto branch = scf::IfOp::create(b, never, /*withElseRegion=*/false);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    b.store(sum, sink, 4);
  }
  LLVM::ReturnOp::create(b, ValueRange());
  return module;
}
