//===- Schedule.h - What the compiler knows of a schedule -------*- C++ -*-===//
//
// The name behind `#pmkvq.schedule`.  Neighbours: pmkvq_rt/Schedule.h (the
// policy, which the runtime executes), pmkvq_rt/Abi.h (ScheduleKind).
//
// Mental model.  A schedule is two halves with one number between them.  The
// compiler needs to know which levels pages can be at, to make the kernels for
// them; the runtime needs the policy, levels in and levels out.  The program's
// description carries the number from one to the other.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_IR_SCHEDULE_H
#define PMKVQ_IR_SCHEDULE_H

#include "llvm/ADT/StringRef.h"
#include <cstdint>
#include <string>

namespace mlir::pmkvq {

struct ScheduleModel {
  /// The keyword in `#pmkvq.schedule<...>`.
  std::string name;
  /// ScheduleKind of the runtime; from kScheduleExternal on for a policy that
  /// the runtime does not bring and SessionOptions::policy gives it.
  int32_t kind;
  /// Whether pages come in above their floor and fall later; otherwise each is
  /// written at its floor, and no other kernel is made.
  bool lowers = true;
  /// Whether it lowers values of partners to level 1 together (Geometry.h).
  bool pairsValues = false;
  /// Whether it goes by the losses that calibration found of every layer; the
  /// program carries them (pmkvq_page_losses in Abi.h).
  bool needsLosses = false;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_IR_SCHEDULE_H
