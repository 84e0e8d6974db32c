//===- PMKVQ.h - The pmkvq dialect ------------------------------*- C++ -*-===//
//
// Includes the dialect's attributes, types and ops.  Neighbours: the .td files
// beside it, pmkvq/Formats/Format.h (what a format's name stands for).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_IR_PMKVQ_H
#define PMKVQ_IR_PMKVQ_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "pmkvq/Formats/Format.h"
#include "pmkvq/IR/Schedule.h"
#include "llvm/ADT/StringMap.h"

#include "pmkvq/IR/PMKVQEnums.h.inc"

#include "pmkvq/IR/PMKVQDialect.h.inc"

#define GET_ATTRDEF_CLASSES
#include "pmkvq/IR/PMKVQAttrs.h.inc"

#define GET_TYPEDEF_CLASSES
#include "pmkvq/IR/PMKVQTypes.h.inc"

#define GET_OP_CLASSES
#include "pmkvq/IR/PMKVQOps.h.inc"

#endif // PMKVQ_IR_PMKVQ_H
