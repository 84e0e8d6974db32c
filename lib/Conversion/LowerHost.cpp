//===- LowerHost.cpp - The step's entry point -----------------------------===//
//
// Gives the step the signature of pmkvq_step, reads arguments and weights from
// StepArgs, buffers from its scratch memory, and turns launches into calls of
// the runtime.  Neighbours: pmkvq_rt/Abi.h (the structs addressed here),
// StepScratch.h (where buffers lie), TileToVector.cpp (the kernels).
//
//===----------------------------------------------------------------------===//

#include "HostCalls.h"
#include "StepScratch.h"
#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"
#include "pmkvq_rt/Abi.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERHOST
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
/// A memref argument of the step: where StepArgs has its memory and its rows.
struct StepBuffer {
  StringLiteral name;
  size_t pointer;
  size_t rows;
};

constexpr size_t kFirstBuffer = 1; // argument 0 is the batch
constexpr StepBuffer kBuffers[] = {{"tokens", offsetof(rt::StepArgs, tokens),
                                    offsetof(rt::StepArgs, rowCount)},
                                   {"positions",
                                    offsetof(rt::StepArgs, positions),
                                    offsetof(rt::StepArgs, rowCount)},
                                   {"outputs", offsetof(rt::StepArgs, outputs),
                                    offsetof(rt::StepArgs, outputCount)},
                                   {"logits", offsetof(rt::StepArgs, logits),
                                    offsetof(rt::StepArgs, outputCount)}};
constexpr size_t kFirstCache = kFirstBuffer + std::size(kBuffers);

class StepLowering {
public:
  StepLowering(func::FuncOp step, LLVMTypeConverter &types)
      : step(step), types(types), b(step.getLoc(), step.getContext()),
        pointer(LLVM::LLVMPointerType::get(step.getContext())) {}

  LogicalResult run() {
    if (failed(verifySignature()) || failed(verifyUses()))
      return failure();
    auto planned = StepScratch::plan(step, unitOfArgument);
    if (failed(planned))
      return failure();
    scratch = std::move(*planned);
    Block &entry = step.getBody().front();
    b.setInsertionPointToStart(&entry);
    args = entry.insertArgument(0u, pointer, step.getLoc());
    replaceArguments(entry);
    findRegions();
    numberWeights();
    status = arith::ConstantOp::create(b, b.getI32IntegerAttr(rt::kKernelOk));
    SmallVector<Operation *> ops;
    step.walk([&](Operation *op) { ops.push_back(op); });
    for (Operation *op : ops)
      lower(op);
    entry.eraseArguments(1, entry.getNumArguments() - 1);
    step.setType(b.getFunctionType({pointer}, {b.getI32Type()}));
    step.setName("pmkvq_step");
    addScratchFunction();
    return success();
  }

private:
  LogicalResult verifySignature() {
    if (step.isExternal())
      return step.emitOpError("expected a body");
    ArrayRef<Type> inputs = step.getArgumentTypes();
    if (inputs.size() < kFirstCache || !isa<BatchType>(inputs[0]))
      return step.emitOpError("expected (batch, tokens, positions, outputs, "
                              "logits, caches...)");
    for (auto [i, buffer] : llvm::enumerate(kBuffers)) {
      Type type = inputs[kFirstBuffer + i];
      bool isLogits = buffer.pointer == offsetof(rt::StepArgs, logits);
      if (isLogits ? !isLogitsType(type) : type != indicesType())
        return step.emitOpError("expected argument '")
               << buffer.name << "' to be a contiguous memref of "
               << (isLogits ? "?xVOCABxf32" : "?xi32") << ", got " << type;
    }
    for (Type type : inputs.drop_front(kFirstCache))
      if (!isa<CacheType>(type))
        return step.emitOpError("expected a cache after the logits, got ")
               << type;
    return success();
  }

  Type indicesType() {
    return MemRefType::get({ShapedType::kDynamic}, b.getI32Type());
  }

  bool isLogitsType(Type type) {
    auto memref = dyn_cast<MemRefType>(type);
    return memref && memref.getRank() == 2 && !memref.isDynamicDim(1) &&
           type == MemRefType::get({ShapedType::kDynamic, memref.getDimSize(1)},
                                   b.getF32Type());
  }

  /// Batch and caches become addresses, which launches alone can take.
  LogicalResult verifyUses() {
    Block &entry = step.getBody().front();
    for (BlockArgument argument : entry.getArguments())
      if (isa<BatchType, CacheType>(argument.getType()))
        for (Operation *user : argument.getUsers())
          if (!isa<LaunchOp, func::ReturnOp>(user))
            return user->emitOpError("expected batch and caches of the step in "
                                     "launches only");
    auto module = step->getParentOfType<ModuleOp>();
    if (!SymbolTable::symbolKnownUseEmpty(step, module))
      return step.emitOpError("expected no use of the step in the program");
    WalkResult result = step.walk([&](Operation *op) -> WalkResult {
      if (auto launch = dyn_cast<LaunchOp>(op))
        return verifyLaunch(launch);
      if (auto weight = dyn_cast<GetWeightOp>(op);
          weight && !isContiguous(weight.getResult().getType()))
        return weight.emitOpError("expected a contiguous memref; bufferize "
                                  "first");
      return WalkResult::advance();
    });
    return failure(result.wasInterrupted());
  }

  static bool isContiguous(Type type) {
    auto memref = dyn_cast<MemRefType>(type);
    return memref && memref.getLayout().isIdentity();
  }

  LogicalResult verifyLaunch(LaunchOp launch) {
    if (launch->getParentOp() != step)
      return launch.emitOpError("expected a launch outside of loops");
    auto isArgument = [&](Value value) {
      return value.getParentBlock() == &step.getBody().front() &&
             isa<BlockArgument>(value);
    };
    if (!isArgument(launch.getBatch()) ||
        (launch.getCache() && !isArgument(launch.getCache())))
      return launch.emitOpError("expected batch and cache to be arguments of "
                                "the step");
    for (ValueRange values : {launch.getInputs(), launch.getOutputs()})
      for (Type type : values.getTypes())
        if (!isContiguous(type))
          return launch.emitOpError("expected contiguous memrefs, got ")
                 << type;
    auto kernel = SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(
        step, launch.getKernelAttr());
    if (!kernel ||
        kernel.getFunctionType() !=
            b.getFunctionType({pointer, b.getI64Type()}, {b.getI32Type()}))
      return launch.emitOpError("expected a lowered kernel; run "
                                "convert-pmkvq-tile-to-vector first");
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Arguments
  //===--------------------------------------------------------------------===//

  Value address(Value base, int64_t bytes) {
    return LLVM::GEPOp::create(
        b, pointer, b.getI8Type(), base,
        ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(bytes)});
  }

  Value field(Type type, size_t offset) {
    return LLVM::LoadOp::create(b, type, address(args, offset));
  }

  /// A contiguous memref over `memory`; `rows` is its only dynamic size.
  Value memrefOver(MemRefType type, Value memory, Value rows) {
    auto structType = cast<LLVM::LLVMStructType>(types.convertType(type));
    auto descriptor = MemRefDescriptor::poison(b, b.getLoc(), structType);
    descriptor.setAllocatedPtr(b, b.getLoc(), memory);
    descriptor.setAlignedPtr(b, b.getLoc(), memory);
    descriptor.setOffset(b, b.getLoc(), constant(0));
    int64_t stride = 1;
    for (int64_t dim = type.getRank() - 1; dim >= 0; --dim) {
      Value size =
          type.isDynamicDim(dim) ? rows : constant(type.getDimSize(dim));
      descriptor.setSize(b, b.getLoc(), dim, size);
      descriptor.setStride(b, b.getLoc(), dim, constant(stride));
      stride *= type.isDynamicDim(dim) ? 1 : type.getDimSize(dim);
    }
    return UnrealizedConversionCastOp::create(b, Type(type), Value(descriptor))
        .getResult(0);
  }

  /// The step's arguments, one place later now, come from the struct.
  void replaceArguments(Block &entry) {
    for (auto [i, buffer] : llvm::enumerate(kBuffers)) {
      BlockArgument argument = entry.getArgument(1 + kFirstBuffer + i);
      Value memory = field(pointer, buffer.pointer);
      Value rows = field(b.getI64Type(), buffer.rows);
      argument.replaceAllUsesWith(
          memrefOver(cast<MemRefType>(argument.getType()), memory, rows));
    }
    Value caches = field(pointer, offsetof(rt::StepArgs, caches));
    for (size_t layer = 0; 1 + kFirstCache + layer < entry.getNumArguments();
         ++layer)
      cacheOf[entry.getArgument(1 + kFirstCache + layer)] =
          address(caches, layer * sizeof(rt::CacheView));
  }

  //===--------------------------------------------------------------------===//
  // Buffers
  //===--------------------------------------------------------------------===//

  /// What the dynamic size of an argument of the step counts.
  static std::optional<ScratchUnit> unitOfArgument(BlockArgument argument) {
    size_t index = argument.getArgNumber();
    if (index < kFirstBuffer || index >= kFirstCache)
      return std::nullopt;
    return kBuffers[index - kFirstBuffer].rows ==
                   offsetof(rt::StepArgs, rowCount)
               ? ScratchUnit::Row
               : ScratchUnit::Output;
  }

  Value constant(int64_t value) {
    return LLVM::ConstantOp::create(b, b.getI64Type(),
                                    b.getI64IntegerAttr(value));
  }

  Value times(Value count, int64_t bytes) {
    return LLVM::MulOp::create(b, count, constant(bytes));
  }

  Value advance(Value base, Value bytes) {
    return LLVM::GEPOp::create(b, pointer, b.getI8Type(), base,
                               ArrayRef<LLVM::GEPArg>{bytes});
  }

  /// Where the regions of scratch memory begin, and how many units they have.
  void findRegions() {
    Value begin = field(pointer, offsetof(rt::StepArgs, scratch));
    Value counts[] = {
        constant(1), field(b.getI64Type(), offsetof(rt::StepArgs, rowCount)),
        field(b.getI64Type(), offsetof(rt::StepArgs, outputCount))};
    for (auto [i, count] : llvm::enumerate(counts)) {
      regions[i] = {begin, count};
      begin = advance(begin,
                      times(count, scratch.bytes(static_cast<ScratchUnit>(i))));
    }
  }

  void lowerBuffer(memref::AllocOp buffer) {
    StepScratch::Place place = scratch.placeOf(buffer);
    auto [begin, count] = regions[static_cast<size_t>(place.unit)];
    Value memory = advance(begin, times(count, place.offset));
    buffer.replaceAllUsesWith(memrefOver(buffer.getType(), memory, count));
    buffer.erase();
  }

  /// int64_t pmkvq_scratch(int64_t rows, int64_t outputs)
  void addScratchFunction() {
    b.setInsertionPointAfter(step);
    Type i64 = b.getI64Type();
    auto function = func::FuncOp::create(b, "pmkvq_scratch",
                                         b.getFunctionType({i64, i64}, {i64}));
    Block *entry = function.addEntryBlock();
    b.setInsertionPointToStart(entry);
    Value bytes = constant(scratch.bytes(ScratchUnit::Step));
    for (ScratchUnit unit : {ScratchUnit::Row, ScratchUnit::Output})
      bytes = LLVM::AddOp::create(
          b, bytes,
          times(entry->getArgument(unit == ScratchUnit::Row ? 0 : 1),
                scratch.bytes(unit)));
    func::ReturnOp::create(b, bytes);
  }

  /// A weight's place in the table is its place in the module.
  void numberWeights() {
    for (WeightOp weight : step->getParentOfType<ModuleOp>().getOps<WeightOp>())
      weightIndex.try_emplace(weight.getSymNameAttr(), weightIndex.size());
  }

  //===--------------------------------------------------------------------===//
  // Ops
  //===--------------------------------------------------------------------===//

  void lower(Operation *op) {
    b.setInsertionPoint(op);
    b.setLoc(op->getLoc());
    if (auto launch = dyn_cast<LaunchOp>(op))
      return lowerLaunch(launch);
    if (auto weight = dyn_cast<GetWeightOp>(op))
      return lowerWeight(weight);
    if (auto buffer = dyn_cast<memref::AllocOp>(op))
      return lowerBuffer(buffer);
    if (isa<memref::DeallocOp>(op))
      return op->erase();
    if (auto call = dyn_cast<func::CallOp>(op))
      if (call.getCallee() == kRuntimePlaceholder) {
        call.getResult(0).replaceAllUsesWith(runtime());
        return call.erase();
      }
    if (isa<func::ReturnOp>(op)) {
      func::ReturnOp::create(b, status);
      op->erase();
    }
  }

  Value runtime() { return field(pointer, offsetof(rt::StepArgs, runtime)); }

  void lowerWeight(GetWeightOp op) {
    Value table = field(pointer, offsetof(rt::StepArgs, weights));
    unsigned index = weightIndex.lookup(op.getWeightAttr().getAttr());
    Value memory = LLVM::LoadOp::create(b, pointer,
                                        address(table, index * sizeof(void *)));
    op.getResult().replaceAllUsesWith(memrefOver(
        cast<MemRefType>(op.getResult().getType()), memory, Value()));
    op.erase();
  }

  /// Number of tasks of a work list.
  Value taskCount(WorkList list) {
    switch (list) {
    case WorkList::Rows:
      return field(b.getI64Type(), offsetof(rt::StepArgs, rowCount));
    case WorkList::Attend:
      return field(b.getI64Type(), offsetof(rt::StepArgs, attendTaskCount));
    case WorkList::Merge:
      return field(b.getI64Type(), offsetof(rt::StepArgs, mergeTaskCount));
    }
    llvm_unreachable("unknown work list");
  }

  void lowerLaunch(LaunchOp op) {
    SmallVector<Value> operands;
    if (op.getCache())
      operands.push_back(cacheOf.lookup(op.getCache()));
    operands.push_back(args);
    for (Value memref : op.getInputs())
      operands.push_back(pointerTo(b, memref));
    for (Value memref : op.getOutputs())
      operands.push_back(pointerTo(b, memref));
    Value array = operandArray(operands);
    Value kernel = kernelAddress(op.getKernelAttr());
    Value next = callHook(b, "pmkvq_rt_launch",
                          {runtime(), kernel, array, taskCount(op.getOver())},
                          {b.getI32Type()})
                     .getResult(0);
    status = arith::MaxSIOp::create(b, status, next);
    op.erase();
  }

  /// Operands in memory; the array is taken once a step.
  Value operandArray(ArrayRef<Value> operands) {
    Value array;
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(&step.getBody().front());
      Value count = LLVM::ConstantOp::create(
          b, b.getI64Type(), b.getI64IntegerAttr(operands.size()));
      array = LLVM::AllocaOp::create(b, pointer, pointer, count);
    }
    for (auto [i, operand] : llvm::enumerate(operands))
      LLVM::StoreOp::create(b, operand, address(array, i * sizeof(void *)));
    return array;
  }

  Value kernelAddress(FlatSymbolRefAttr name) {
    auto kernel =
        SymbolTable::lookupNearestSymbolFrom<func::FuncOp>(step, name);
    Value function =
        func::ConstantOp::create(b, kernel.getFunctionType(), name);
    return UnrealizedConversionCastOp::create(b, pointer, function)
        .getResult(0);
  }

  func::FuncOp step;
  LLVMTypeConverter &types;
  ImplicitLocOpBuilder b;
  Type pointer;
  Value args, status;
  StepScratch scratch;
  struct Region {
    Value begin, count;
  };
  std::array<Region, kScratchUnits> regions;
  DenseMap<Value, Value> cacheOf;
  DenseMap<StringAttr, unsigned> weightIndex;
};

class LowerHostPass : public mlir::pmkvq::impl::LowerHostBase<LowerHostPass> {
public:
  void runOnOperation() override {
    auto step = getOperation().lookupSymbol<func::FuncOp>("step");
    if (!step)
      return;
    LLVMTypeConverter types(&getContext());
    if (failed(StepLowering(step, types).run()))
      return signalPassFailure();
    if (Operation *placeholder =
            getOperation().lookupSymbol(kRuntimePlaceholder))
      placeholder->erase();
  }
};
} // namespace
