//===- SharedObject.h - Code that another process can load ------*- C++ -*-===//
//
// Cuts code loose from the process that compiles it: hooks become pointers that
// a loader sets, and a linker makes a shared object of it.  Neighbours:
// HostProgram.cpp (whose code it is), pmkvq_rt/Artifact.h (who loads it).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_TARGET_SHAREDOBJECT_H
#define PMKVQ_LIB_TARGET_SHAREDOBJECT_H

#include "mlir/Support/LLVM.h"
#include "llvm/Support/Error.h"
#include <string>
#include <vector>

namespace llvm {
class Module;
}

namespace mlir::pmkvq {

/// Defines the runtime's functions that `ir` declares, and those that a CPU
/// without conversions of halves calls, as jumps through exported pointers.
/// Returns the names of the functions.
std::vector<std::string> callThroughPointers(llvm::Module &ir);

/// A shared object of one object file.
///
/// Errors: the linker cannot be run, or what it says.
llvm::Expected<std::string> linkShared(StringRef object,
                                       const std::string &linker);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_TARGET_SHAREDOBJECT_H
