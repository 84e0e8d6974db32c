//===- Launch.cpp - Kernels on the runtime's threads ----------------------===//
//
// A launch is a parallelFor that remembers its first failure.  Neighbours:
// Launch.h, and Abi.h, which declares the hook for generated code.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/CacheStore.h"

#include <mutex>

using namespace pmkvq::rt;

LaunchResult pmkvq::rt::launch(ThreadPool &threads, KernelFn kernel,
                               void *const *operands, int64_t tasks) {
  LaunchResult result;
  std::mutex mutex;
  threads.parallelFor(tasks, [&](int64_t task) {
    int32_t status = kernel(operands, task);
    if (status == kKernelOk)
      return;
    std::lock_guard<std::mutex> lock(mutex);
    if (result.task < 0 || task < result.task)
      result = {status, task};
  });
  return result;
}

void pmkvq::rt::nameTasksAhead(PageTask *tasks, int64_t count,
                               int32_t threads) {
  const int32_t away = 2 * threads;
  for (int64_t i = 0; i < count; ++i)
    tasks[i].ahead = away < count - i ? away : 0;
}

void pmkvq::rt::nameTasksAhead(AttendTask *tasks, int64_t count,
                               int32_t threads) {
  for (int64_t i = 0; i < count; ++i) {
    const AttendTask *next =
        threads < count - i ? &tasks[i + threads] : nullptr;
    bool reads = next && next->pageBegin < next->pageEnd;
    tasks[i].ahead = reads ? threads : 0;
  }
}

std::array<HookSymbol, 2> pmkvq::rt::hookSymbols() {
  return {{
      {"pmkvq_rt_launch", reinterpret_cast<void *>(&pmkvq_rt_launch)},
      {"pmkvq_rt_linear", reinterpret_cast<void *>(&pmkvq_rt_linear)},
  }};
}

#ifdef __x86_64__
extern "C" {
void extendHalf() __asm__("__extendhfsf2");
void truncateToHalf() __asm__("__truncsfhf2");
}
#endif

std::vector<HookSymbol> pmkvq::rt::conversionSymbols() {
#ifdef __x86_64__
  return {
      {"__extendhfsf2", reinterpret_cast<void *>(&extendHalf)},
      {"__truncsfhf2", reinterpret_cast<void *>(&truncateToHalf)},
  };
#else
  return {};
#endif
}

extern "C" int32_t pmkvq_rt_launch(void *runtime, KernelFn kernel,
                                   void *const *operands, int64_t tasks) {
  auto *context = static_cast<HookContext *>(runtime);
  LaunchRecord record = {kernel, operands, tasks};
  int32_t status =
      context->store
          ? context->store->launch(record)
          : launch(*context->threads, kernel, operands, tasks).status;
  if (context->observer)
    context->observer(record);
  return status;
}
