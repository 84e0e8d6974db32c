//===- ThreadPool.h - The runtime's threads ---------------------*- C++ -*-===//
//
// Runs numbered tasks on a fixed number of threads, the caller among them.
// Neighbours: Launch.h runs kernels on it, cpu/Linear.cpp panels of products.
//
// Mental model.  A job is a function and a count of tasks.  Whoever decrements
// `remaining_` from a positive value owns one task of the current job, and the
// job cannot end before that task is done; so a late thread can never touch a
// job that is over, and no thread needs to be waited for that has not come.
// Tasks are handed out in ascending order.  Idle threads spin briefly (decode
// launches follow each other within microseconds), then sleep.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_THREADPOOL_H
#define PMKVQ_RT_THREADPOOL_H

#include "pmkvq_rt/Status.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace pmkvq::rt {

class ThreadPool {
public:
  /// What a task runs: the context of the job and the task's index.
  using TaskFn = void (*)(void *context, int64_t task);

  /// Starts a pool.
  ///
  /// Units:  threads counts the caller; 0 means one per core.
  /// Errors: InvalidArgument if threads is negative or above 1,024;
  /// OutOfMemory if the system starts no more threads.
  static Result<std::unique_ptr<ThreadPool>> create(int32_t threads);

  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;
  ~ThreadPool();

  /// Threads that run tasks, the caller included.
  int32_t threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

  /// Runs fn(context, task) for task = 0 .. tasks-1 and waits for all.  From
  /// within a task it runs them in order on the same thread; several threads
  /// may call it, they take turns.  `fn` must not throw.
  void parallelFor(int64_t tasks, TaskFn fn, void *context);

  /// The same for any callable `void(int64_t task)`.
  template <typename Callable>
  void parallelFor(int64_t tasks, Callable &&callable) {
    parallelFor(
        tasks,
        [](void *context, int64_t task) {
          (*static_cast<std::remove_reference_t<Callable> *>(context))(task);
        },
        const_cast<void *>(static_cast<const void *>(&callable)));
  }

private:
  ThreadPool() = default;
  void work();
  void sleepUntilWork();
  bool runOneTask();
  void waitForJob();

  std::vector<std::thread> workers_;
  /// One job at a time.
  std::mutex jobMutex_;

  // The job.  Written before remaining_ is raised, stable until it is done.
  TaskFn fn_ = nullptr;
  void *context_ = nullptr;
  int64_t tasks_ = 0;
  alignas(64) std::atomic<int64_t> remaining_{0};
  alignas(64) std::atomic<int64_t> finished_{0};

  // Sleeping, in both directions.
  std::mutex sleepMutex_;
  std::condition_variable workCondition_;
  std::condition_variable doneCondition_;
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> callerSleeps_{false};
  std::atomic<bool> stop_{false};
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_THREADPOOL_H
