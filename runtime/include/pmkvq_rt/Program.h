//===- Program.h - Compiled code, checked -----------------------*- C++ -*-===//
//
// Finds and checks the entry points of a program before anything of it is
// used.  Neighbours: Abi.h lists the entry points; whoever loads code (a tool
// with a JIT, the artifact's loader) makes a Program; Session.h runs it.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_PROGRAM_H
#define PMKVQ_RT_PROGRAM_H

#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/Schedule.h"
#include "pmkvq_rt/Status.h"

#include <functional>
#include <memory>
#include <vector>

namespace pmkvq::rt {

/// A program that passed `openProgram`.
struct Program {
  ProgramEntries entries = {};
  ProgramInfo info = {};
  /// In the order of the program's weight table; must outlive every session.
  std::vector<const void *> weights;
  /// Of all layers, or none: under kScheduleLeastLoss there are some.
  std::vector<LayerLosses> losses;
  /// Whatever keeps code and weights alive (a library handle, a mapping).
  std::shared_ptr<void> owner;

  /// Query heads that share a kv head.
  int32_t groupSize() const { return info.queryHeads / info.kvHeads; }
  /// Bytes of the parameters of one page, both parts.
  int64_t slotBytes() const {
    return int64_t(info.parameterBytes[kKey]) + info.parameterBytes[kValue];
  }
};

/// Looks up every entry point by its name in Abi.h.  `lookUp` returns null for
/// a name that the program does not export.
///
/// Errors: DataLoss if pmkvq_describe or pmkvq_step is missing.  Page kernels
/// may be missing: a session says which ones it needs.
Result<ProgramEntries>
findEntries(const std::function<void *(const char *name)> &lookUp);

/// Asks a program to describe itself and checks what it says.
///
/// Shapes: weights in the order of the program's weight table.
/// Errors: InvalidArgument if an entry or a weight is null; DataLoss if the
/// program is of another ABI version, describes an impossible geometry, or
/// lacks losses that its schedule goes by.
Result<Program> openProgram(const ProgramEntries &entries,
                            std::vector<const void *> weights,
                            std::shared_ptr<void> owner = nullptr);

/// Which levels a session's policy may write.
enum class LevelUse {
  /// The floor alone.
  Floor,
  /// Level 16 alone: nothing is ever lowered.
  Highest,
  /// All from 16 to the floor.
  All,
};

/// Checks that the page kernels are there that a session needs.
///
/// Errors: DataLoss, naming the first one missing.
Status checkKernels(const Program &program, LevelUse use);

} // namespace pmkvq::rt

#endif // PMKVQ_RT_PROGRAM_H
