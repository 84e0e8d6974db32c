//===- TileToVector.cpp - Kernels in tile form to vector code -------------===//
//
// The pass: types, kernels as functions, and the patterns of Lower*.cpp.
// Neighbours: TileBuilder.h (what types become), pmkvq_rt/Abi.h (KernelFn).
//
//===----------------------------------------------------------------------===//

#include "TileLowering.h"
#include "mlir/Conversion/ReconcileUnrealizedCasts/ReconcileUnrealizedCasts.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/SCF/Transforms/Patterns.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "pmkvq/Passes.h"
#include "pmkvq_rt/Abi.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_CONVERTTILETOVECTOR
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
class TileTypeConverter : public TypeConverter {
public:
  TileTypeConverter() {
    addConversion([](Type type) { return type; });
    auto toPointer = [](Type type) -> Type {
      return LLVM::LLVMPointerType::get(type.getContext());
    };
    addConversion([=](CacheType type) { return toPointer(type); });
    addConversion([=](BatchType type) { return toPointer(type); });
    addConversion([=](FeedbackType type) { return toPointer(type); });
    addConversion([=](PagesType type) { return toPointer(type); });
    addConversion([=](RowsType type) { return toPointer(type); });
    addConversion([=](IntegerRowsType type) { return toPointer(type); });
    addConversion([=](SoftmaxType type) { return toPointer(type); });
    addConversion([=](MemRefType type) { return toPointer(type); });
    addConversion([](PageType type) -> Type {
      return TileBuilder::pageStruct(type.getContext());
    });
    addConversion([](TileType type) -> Type {
      return TileBuilder::tileStruct(type.getContext());
    });
    auto cast = [](OpBuilder &b, Type type, ValueRange inputs,
                   Location loc) -> Value {
      return UnrealizedConversionCastOp::create(b, loc, type, inputs)
          .getResult(0);
    };
    addSourceMaterialization(cast);
    addTargetMaterialization(cast);
  }
};

class ConvertTileToVectorPass
    : public mlir::pmkvq::impl::ConvertTileToVectorBase<
          ConvertTileToVectorPass> {
public:
  using Base::Base;

  void runOnOperation() override {
    SmallVector<KernelOp> kernels(getOperation().getOps<KernelOp>());
    for (KernelOp kernel : kernels)
      if (failed(verifyGroups(kernel)))
        return signalPassFailure();
    SmallVector<func::FuncOp> functions;
    for (KernelOp kernel : kernels)
      functions.push_back(toFunction(kernel));
    for (func::FuncOp function : functions)
      if (failed(lowerBody(function)))
        return signalPassFailure();
  }

private:
  /// Lowerings place the parameters of whole axes.
  LogicalResult verifyGroups(KernelOp kernel) {
    WalkResult result = kernel.walk([](Operation *op) {
      SmallVector<Type> types(op->getOperandTypes());
      llvm::append_range(types, op->getResultTypes());
      for (Type type : types)
        if (auto tile = dyn_cast<TileType>(type);
            tile && tile.hasPartialGroups()) {
          op->emitOpError("not lowered yet: groups smaller than the axis in ")
              << tile;
          return WalkResult::interrupt();
        }
      return WalkResult::advance();
    });
    return failure(result.wasInterrupted());
  }

  /// A KernelFn: loads the operands, then the kernel's body behind casts.
  func::FuncOp toFunction(KernelOp kernel) {
    OpBuilder at(kernel);
    TileBuilder b(kernel.getLoc(), at);
    auto function = func::FuncOp::create(
        b, kernel.getSymName(),
        b.getFunctionType({b.ptrType(), b.getI64Type()}, {b.getI32Type()}));
    Block *entry = function.addEntryBlock();
    b.setInsertionPointToStart(entry);
    Block &body = kernel.getBody().front();
    SmallVector<Value> arguments;
    for (BlockArgument argument : body.getArguments().drop_back()) {
      Value operand = b.loadPtrField(entry->getArgument(0),
                                     argument.getArgNumber() * sizeof(void *));
      arguments.push_back(
          UnrealizedConversionCastOp::create(b, argument.getType(), operand)
              .getResult(0));
    }
    arguments.push_back(b.toIndex(entry->getArgument(1)));
    for (auto [argument, value] : llvm::zip(body.getArguments(), arguments))
      argument.replaceAllUsesWith(value);
    entry->getOperations().splice(entry->end(), body.getOperations());
    lowerReturn(b, cast<ReturnOp>(entry->getTerminator()));
    kernel.erase();
    return function;
  }

  void lowerReturn(TileBuilder &b, ReturnOp op) {
    b.setInsertionPoint(op);
    Type i32 = b.getI32Type();
    Value status =
        arith::SelectOp::create(b, op.getOk(), b.splatInt(i32, rt::kKernelOk),
                                b.splatInt(i32, rt::kKernelNotRepresentable));
    func::ReturnOp::create(b, status);
    op.erase();
  }

  LogicalResult lowerBody(func::FuncOp function) {
    TileTypeConverter converter;
    RewritePatternSet patterns(&getContext());
    ConversionTarget target(getContext());
    populateWorkLowerings(patterns, converter);
    populateCodeLowerings(patterns, converter);
    populateProductLowerings(patterns, converter, registerBytes);
    populateIntegerLowerings(patterns, converter, registerBytes);
    populateSoftmaxLowerings(patterns, converter, registerBytes);
    scf::populateSCFStructuralTypeConversionsAndLegality(converter, patterns,
                                                         target);
    target.addIllegalDialect<PMKVQDialect>();
    target.markUnknownOpDynamicallyLegal([](Operation *) { return true; });
    if (failed(applyPartialConversion(function, target, std::move(patterns))))
      return failure();
    SmallVector<UnrealizedConversionCastOp> casts;
    function.walk([&](UnrealizedConversionCastOp op) { casts.push_back(op); });
    reconcileUnrealizedCasts(casts);
    return success();
  }
};
} // namespace
