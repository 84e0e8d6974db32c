//===- Launch.h - Kernels on the runtime's threads --------------*- C++ -*-===//
//
// Runs a kernel of a program over its tasks, and holds what the hooks of Abi.h
// need.  Neighbours: ThreadPool.h, Abi.h, Session.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_LAUNCH_H
#define PMKVQ_RT_LAUNCH_H

#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/ThreadPool.h"

#include <array>
#include <functional>
#include <memory>
#include <vector>

namespace pmkvq::rt {

/// A launch that generated code has asked for and that is over: the kernel, its
/// operands as Abi.h and the program have them, and how many tasks have run.
struct LaunchRecord {
  KernelFn kernel;
  void *const *operands;
  int64_t tasks;
};

/// Sees launches, in their order, on the thread of the step.  Reads what the
/// operands point to while nobody writes it; must not throw.
using LaunchObserver = std::function<void(const LaunchRecord &)>;

class CacheStore;

/// What `StepArgs::runtime` points to, and what every hook gets back.
struct HookContext {
  std::unique_ptr<ThreadPool> threads;
  /// Runs launches; null: the threads do.
  CacheStore *store = nullptr;
  /// Null: nobody looks.
  LaunchObserver observer = nullptr;
};

/// The outcome of a launch: the status of the first task, in the order of the
/// tasks, that did not return kKernelOk; else {kKernelOk, -1}.
struct LaunchResult {
  int32_t status = kKernelOk;
  int64_t task = -1;
};

/// Runs kernel(operands, task) for task = 0 .. tasks-1 and waits.  All tasks
/// run, also after one failed, so the result does not depend on timing.
LaunchResult launch(ThreadPool &threads, KernelFn kernel, void *const *operands,
                    int64_t tasks);

/// Sets PageTask::ahead in a list that `threads` threads work on.  They take
/// tasks in turns, so that as many tasks away is what a thread has next, more
/// or less; twice that is far enough for memory to answer.
void nameTasksAhead(PageTask *tasks, int64_t count, int32_t threads);
/// The same for AttendTask::ahead, which is what a thread has next: its page is
/// asked for while the last one of a task is worked on.
void nameTasksAhead(AttendTask *tasks, int64_t count, int32_t threads);

/// A hook of Abi.h as a JIT or a loader wants it.
struct HookSymbol {
  const char *name;
  void *address;
};

/// All hooks that generated code may call.  Naming them here also keeps a
/// linker from leaving them out of a tool that only generated code calls into.
std::array<HookSymbol, 2> hookSymbols();

/// The compiler's own functions that generated code calls where a CPU cannot
/// convert halves; a program that is linked to them exports no such names.
std::vector<HookSymbol> conversionSymbols();

} // namespace pmkvq::rt

#endif // PMKVQ_RT_LAUNCH_H
