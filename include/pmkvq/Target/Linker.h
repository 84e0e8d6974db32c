//===- Linker.h - The linker of artifacts -----------------------*- C++ -*-===//
//
// Neighbours: HostProgram.h (what it links), Assembler.h (the same for GPUs).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_LINKER_H
#define PMKVQ_TARGET_LINKER_H

#include <string>

namespace mlir::pmkvq {

/// ld.lld of LLVM's version, any ld.lld, or ld, of PATH; empty if there is
/// none.
std::string findLinker();

} // namespace mlir::pmkvq

#endif // PMKVQ_TARGET_LINKER_H
