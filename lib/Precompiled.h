//===- Precompiled.h - Headers of MLIR, parsed once -------------*- C++ -*-===//
//
// Most of a source's compile time is MLIR's headers; these are parsed once a
// build (cmake/Precompiled.cmake).  Sources include what they use all the same:
// script/lint parses each without this file.  g++ loads a precompiled header as
// a whole, 0.6 GB of the first group, 1.7 GB of both, so it has the first alone.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_PRECOMPILED_H
#define PMKVQ_LIB_PRECOMPILED_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/Transforms/DialectConversion.h"

#ifdef __clang__
#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#endif

#endif // PMKVQ_LIB_PRECOMPILED_H
