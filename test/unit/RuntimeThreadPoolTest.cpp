//===- RuntimeThreadPoolTest.cpp - Tests of threads and launches ----------===//
//
// Every task runs once, whatever the timing; a launch's status does not depend
// on it.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Launch.h"
#include "pmkvq_rt/ThreadPool.h"

#include "gtest/gtest.h"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

using namespace pmkvq::rt;

static std::unique_ptr<ThreadPool> makePool(int32_t threads) {
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::create(threads);
  EXPECT_TRUE(pool.ok()) << pool.status().message();
  return pool.ok() ? std::move(*pool) : nullptr;
}

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (int32_t threads : {1, 2, 3, 8}) {
    auto pool = makePool(threads);
    EXPECT_EQ(pool->threads(), threads);
    for (int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(tasks);
      pool->parallelFor(tasks, [&](int64_t task) { ++runs[task]; });
      for (auto &count : runs)
        EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, ManyShortJobsInARow) {
  auto pool = makePool(4);
  std::atomic<int64_t> sum{0};
  for (int64_t job = 0; job < 20000; ++job)
    pool->parallelFor(1 + job % 5, [&](int64_t task) { sum += task + 1; });
  // Five job sizes, 1 to 5 tasks: 1 + 3 + 6 + 10 + 15 in every five jobs.
  EXPECT_EQ(sum.load(), 20000 / 5 * 35);
}

TEST(ThreadPool, WakesThreadsThatSleep) {
  auto pool = makePool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> count{0};
    pool->parallelFor(100, [&](int64_t) { ++count; });
    EXPECT_EQ(count.load(), 100);
  }
}

TEST(ThreadPool, WaitsForATaskThatTakesLong) {
  auto pool = makePool(2);
  std::atomic<int> count{0};
  pool->parallelFor(2, [&](int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    ++count;
  });
  EXPECT_EQ(count.load(), 2);
}

TEST(ThreadPool, NestedLoopsRunInline) {
  auto pool = makePool(3);
  std::atomic<int> count{0};
  pool->parallelFor(
      10, [&](int64_t) { pool->parallelFor(10, [&](int64_t) { ++count; }); });
  EXPECT_EQ(count.load(), 100);
}

TEST(ThreadPool, SeveralCallersTakeTurns) {
  auto pool = makePool(3);
  std::atomic<int> count{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&] {
      for (int job = 0; job < 300; ++job)
        pool->parallelFor(7, [&](int64_t) { ++count; });
    });
  for (std::thread &caller : callers)
    caller.join();
  EXPECT_EQ(count.load(), 3 * 300 * 7);
}

TEST(ThreadPool, RefusesImpossibleCounts) {
  EXPECT_EQ(ThreadPool::create(-1).status().code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(ThreadPool::create(1 << 20).status().code(),
            StatusCode::InvalidArgument);
  EXPECT_GE(makePool(0)->threads(), 1);
}

static int32_t failFrom(void *const *operands, int64_t task) {
  const int64_t *first = static_cast<const int64_t *>(operands[0]);
  ++*static_cast<std::atomic<int64_t> *>(operands[1]);
  return task >= *first ? static_cast<int32_t>(task) : kKernelOk;
}

TEST(Launch, ReturnsTheFirstFailureInTaskOrder) {
  HookContext context{makePool(4)};
  for (int round = 0; round < 200; ++round) {
    int64_t first = 5 + round % 50;
    std::atomic<int64_t> ran{0};
    void *operands[] = {&first, &ran};
    EXPECT_EQ(pmkvq_rt_launch(&context, failFrom, operands, 64), first);
    EXPECT_EQ(ran.load(), 64);
  }
}

static int32_t failSlowlyFirst(void *const *, int64_t task) {
  if (task == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return static_cast<int32_t>(task) + 1;
}

TEST(Launch, ReturnsTheFirstFailureAlsoWhenItComesLast) {
  HookContext context{makePool(3)};
  LaunchResult result = launch(*context.threads, failSlowlyFirst, nullptr, 9);
  EXPECT_EQ(result.task, 0);
  EXPECT_EQ(result.status, 1);
}

TEST(Launch, OkWithoutFailures) {
  HookContext context{makePool(2)};
  int64_t first = 1000;
  std::atomic<int64_t> ran{0};
  void *operands[] = {&first, &ran};
  EXPECT_EQ(pmkvq_rt_launch(&context, failFrom, operands, 64), kKernelOk);
  EXPECT_EQ(pmkvq_rt_launch(&context, failFrom, operands, 0), kKernelOk);
  EXPECT_EQ(ran.load(), 64);
}

TEST(Launch, TasksAheadStayWithinTheList) {
  std::vector<PageTask> tasks(7);
  nameTasksAhead(tasks.data(), 7, 2);
  for (size_t i = 0; i < tasks.size(); ++i)
    EXPECT_EQ(tasks[i].ahead, i < 3 ? 4 : 0) << i;
  nameTasksAhead(tasks.data(), 0, 2);
  nameTasksAhead(tasks.data(), 7, 8);
  EXPECT_EQ(tasks[0].ahead, 0);
}

TEST(Launch, AttentionLooksAheadToTasksThatReadPages) {
  std::vector<AttendTask> tasks(4);
  for (AttendTask &task : tasks)
    task.pageEnd = 16;
  tasks[3].pageEnd = tasks[3].pageBegin;
  nameTasksAhead(tasks.data(), 4, 2);
  EXPECT_EQ(tasks[0].ahead, 2);
  EXPECT_EQ(tasks[1].ahead, 0);
  EXPECT_EQ(tasks[2].ahead, 0);
}

TEST(Launch, AnObserverSeesWhatIsOver) {
  HookContext context{makePool(3)};
  int64_t first = 40;
  std::atomic<int64_t> ran{0};
  void *operands[] = {&first, &ran};
  std::vector<int64_t> seen;
  context.observer = [&](const LaunchRecord &record) {
    EXPECT_EQ(record.kernel, failFrom);
    EXPECT_EQ(record.operands, operands);
    EXPECT_EQ(ran.load(), record.tasks);
    seen.push_back(record.tasks);
    ran = 0;
  };
  // Also one that fails, and the status stays what it was.
  EXPECT_EQ(pmkvq_rt_launch(&context, failFrom, operands, 7), kKernelOk);
  EXPECT_EQ(pmkvq_rt_launch(&context, failFrom, operands, 64), 40);
  EXPECT_EQ(seen, (std::vector<int64_t>{7, 64}));
  context.observer = nullptr;
  EXPECT_EQ(pmkvq_rt_launch(&context, failFrom, operands, 7), kKernelOk);
  EXPECT_EQ(seen.size(), 2u);
}

TEST(Launch, HooksAreListedByName) {
  for (const HookSymbol &hook : hookSymbols()) {
    EXPECT_EQ(std::string(hook.name).rfind("pmkvq_rt_", 0), 0u);
    EXPECT_NE(hook.address, nullptr);
  }
}
