//===- ThreadPool.cpp - The runtime's threads -----------------------------===//
//
// Handing out tasks, spinning and sleeping.  Neighbours: ThreadPool.h has the
// mental model on which the memory orders below rest.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/ThreadPool.h"

#include <algorithm>
#include <system_error>

using namespace pmkvq::rt;

/// Rounds of spinning before a thread sleeps, about 20 to 50 us.  Longer than
/// the gap between two launches of a decode step; short enough that a busy
/// machine gets its core back (a spin barrier against a competing process was
/// measured to cost five times the step).
static constexpr int32_t kSpins = 1000;

static constexpr int32_t kMaxThreads = 1024;

/// The pool whose task this thread is running, if any.
static thread_local const ThreadPool *currentPool = nullptr;

static void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

Result<std::unique_ptr<ThreadPool>> ThreadPool::create(int32_t threads) {
  if (threads < 0 || threads > kMaxThreads)
    return Status(StatusCode::InvalidArgument,
                  std::to_string(threads) + " threads; from 0 to " +
                      std::to_string(kMaxThreads) + " are possible");
  if (threads == 0)
    threads = static_cast<int32_t>(std::clamp<int64_t>(
        std::thread::hardware_concurrency(), 1, kMaxThreads));
  try {
    std::unique_ptr<ThreadPool> pool(new ThreadPool());
    pool->workers_.reserve(threads - 1);
    for (int32_t i = 1; i < threads; ++i)
      pool->workers_.emplace_back([raw = pool.get()] { raw->work(); });
    return pool;
  } catch (const std::system_error &error) {
    // The pool's destructor has joined the threads that did start.
    return Status(StatusCode::OutOfMemory, "cannot start " +
                                               std::to_string(threads) +
                                               " threads: " + error.what());
  } catch (const std::bad_alloc &) {
    return Status(StatusCode::OutOfMemory, "no memory for a thread pool");
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(sleepMutex_);
    stop_.store(true);
  }
  workCondition_.notify_all();
  for (std::thread &worker : workers_)
    worker.join();
}

void ThreadPool::parallelFor(int64_t tasks, TaskFn fn, void *context) {
  if (tasks <= 0)
    return;
  if (tasks == 1 || workers_.empty() || currentPool == this) {
    for (int64_t task = 0; task < tasks; ++task)
      fn(context, task);
    return;
  }
  std::lock_guard<std::mutex> job(jobMutex_);
  fn_ = fn;
  context_ = context;
  tasks_ = tasks;
  finished_.store(0, std::memory_order_relaxed);
  // Sequentially consistent, as is the read of sleepers_: either this thread
  // sees the sleeper, or the sleeper sees the work before it sleeps.
  remaining_.store(tasks);
  if (sleepers_.load() > 0) {
    std::lock_guard<std::mutex> lock(sleepMutex_);
    workCondition_.notify_all();
  }
  while (runOneTask()) {
  }
  waitForJob();
}

bool ThreadPool::runOneTask() {
  if (remaining_.load(std::memory_order_relaxed) <= 0)
    return false;
  // Below zero is harmless: the next job overwrites it.
  int64_t mine = remaining_.fetch_sub(1, std::memory_order_acq_rel);
  if (mine <= 0)
    return false;
  // This task is not finished, so the job's fields cannot change.
  int64_t tasks = tasks_;
  const ThreadPool *outer = currentPool;
  currentPool = this;
  fn_(context_, tasks - mine);
  currentPool = outer;
  if (finished_.fetch_add(1) + 1 == tasks && callerSleeps_.load()) {
    std::lock_guard<std::mutex> lock(sleepMutex_);
    doneCondition_.notify_one();
  }
  return true;
}

void ThreadPool::waitForJob() {
  auto done = [this] { return finished_.load() == tasks_; };
  for (int32_t i = 0; i < kSpins; ++i) {
    if (done())
      return;
    pause();
  }
  std::unique_lock<std::mutex> lock(sleepMutex_);
  callerSleeps_.store(true);
  doneCondition_.wait(lock, done);
  callerSleeps_.store(false);
}

void ThreadPool::work() {
  int32_t idle = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    if (runOneTask()) {
      idle = 0;
    } else if (++idle < kSpins) {
      pause();
    } else {
      sleepUntilWork();
      idle = 0;
    }
  }
}

void ThreadPool::sleepUntilWork() {
  std::unique_lock<std::mutex> lock(sleepMutex_);
  sleepers_.fetch_add(1);
  workCondition_.wait(lock,
                      [this] { return remaining_.load() > 0 || stop_.load(); });
  sleepers_.fetch_sub(1);
}
