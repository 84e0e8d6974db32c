//===- HostCalls.h - Calls of the runtime's hooks ---------------*- C++ -*-===//
//
// What LowerLinears and LowerHost share.  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_HOSTCALLS_H
#define PMKVQ_LIB_CONVERSION_HOSTCALLS_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace mlir::pmkvq {

/// Function that stands for the runtime's state until the entry point has it.
inline constexpr llvm::StringLiteral kRuntimePlaceholder = "pmkvq_runtime";

/// Calls `name`, declared on first use with the operands' types.
inline func::CallOp callHook(ImplicitLocOpBuilder &b, StringRef name,
                             ValueRange operands, TypeRange results) {
  auto module =
      b.getInsertionBlock()->getParentOp()->getParentOfType<ModuleOp>();
  if (!module.lookupSymbol(name)) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(module.getBody());
    auto type = b.getFunctionType(operands.getTypes(), results);
    func::FuncOp::create(b, name, type).setPrivate();
  }
  return func::CallOp::create(b, name, results, operands);
}

inline Value runtimePlaceholder(ImplicitLocOpBuilder &b) {
  Type pointer = LLVM::LLVMPointerType::get(b.getContext());
  return callHook(b, kRuntimePlaceholder, {}, {pointer}).getResult(0);
}

/// Address of a memref's first element.
inline Value pointerTo(ImplicitLocOpBuilder &b, Value memref) {
  Value index = memref::ExtractAlignedPointerAsIndexOp::create(b, memref);
  Value address = arith::IndexCastOp::create(b, b.getI64Type(), index);
  return LLVM::IntToPtrOp::create(b, LLVM::LLVMPointerType::get(b.getContext()),
                                  address);
}

inline Value sizeOf(ImplicitLocOpBuilder &b, Value memref, int64_t dim) {
  Value size = memref::DimOp::create(b, memref, dim);
  return arith::IndexCastOp::create(b, b.getI64Type(), size);
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_HOSTCALLS_H
