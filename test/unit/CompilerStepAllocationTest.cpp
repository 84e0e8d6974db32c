//===- CompilerStepAllocationTest.cpp - A decode step needs no heap -------===//
//
// The reasoner decodes two sequences under a budget, and after the first tokens
// nothing asks the heap for memory: not the step's code, not its kernels on
// their threads, not the session around them, also where windows become pages
// and pages fall.  Neighbours: lib/Conversion/StepScratch.h,
// Session::reservePlanned.
//
// Counted are all calls of malloc, calloc, realloc, aligned_alloc, memalign and
// posix_memalign, by any thread of this process: operator new, the standard
// library and compiled code end there, too.  Memory from mmap is not counted;
// the runtime takes it for pools and activations, as Arena.h says.
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "pmkvq/Import/ImportModel.h"
#include "pmkvq/Import/WeightStore.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/FirstError.h"
#include "pmkvq/Target/HostProgram.h"
#include "pmkvq_rt/Session.h"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <gtest/gtest.h>

#if defined(__SANITIZE_ADDRESS__)
#define PMKVQ_HEAP_IS_TAKEN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PMKVQ_HEAP_IS_TAKEN 1
#endif
#endif

static std::atomic<int64_t> heapCalls{0};

#if !defined(PMKVQ_HEAP_IS_TAKEN) && defined(__GLIBC__)
#define PMKVQ_COUNTS_HEAP 1
// The C library's own; functions of a program take the place of its malloc.
// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming):
// glibc's names.
extern "C" {
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)

void *malloc(size_t size) {
  ++heapCalls;
  return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
  ++heapCalls;
  return __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size) {
  ++heapCalls;
  return __libc_realloc(memory, size);
}
void *memalign(size_t alignment, size_t size) {
  ++heapCalls;
  return __libc_memalign(alignment, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  ++heapCalls;
  return __libc_memalign(alignment, size);
}
int posix_memalign(void **memory, size_t alignment, size_t size) {
  ++heapCalls;
  *memory = __libc_memalign(alignment, size);
  return *memory ? 0 : ENOMEM;
}
}
#endif

using namespace ::pmkvq;
using mlir::pmkvq::Checkpoint;
using mlir::pmkvq::HostProgram;
using mlir::pmkvq::WeightStore;

namespace {
constexpr const char *kReasoner = PMKVQ_TEST_MODELS_DIR "/reasoner";
constexpr int32_t kSequences = 2;
constexpr int64_t kPromptTokens = 150, kNewTokens = 400;
/// Tokens until every list has been used once: two windows fill before.
constexpr int64_t kWarmUp = 250;

template <typename T> T orFail(llvm::Expected<T> made) {
  if (made)
    return std::move(*made);
  ADD_FAILURE() << llvm::toString(made.takeError());
  std::abort();
}

mlir::DialectRegistry makeStepRegistry() {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerImportDialects(registry);
  mlir::pmkvq::registerAllForStages(registry);
  return registry;
}

/// The reasoner's code and weights.
class StepAllocationTest : public ::testing::TestWithParam<const char *> {
protected:
  rt::Program load() {
    mlir::MLIRContext context(makeStepRegistry());
    mlir::pmkvq::ModelConfig config =
        orFail(mlir::pmkvq::readModelConfig(kReasoner));
    auto module = orFail(mlir::pmkvq::importModel(&context, config));
    mlir::pmkvq::PlanOptions plan;
    plan.schedule = GetParam();
    EXPECT_TRUE(
        mlir::succeeded(mlir::pmkvq::runStages(*module, plan, "", "", {})));
    code = orFail(HostProgram::compile(*module));
    weights.emplace(orFail(WeightStore::create(
        orFail(Checkpoint::open(kReasoner)), code->weights())));
    auto program =
        rt::openProgram(orFail(code->entries()), weights->pointers());
    EXPECT_TRUE(program.ok()) << program.status().message();
    return *program;
  }

  /// A budget that two sequences outgrow while they decode.
  std::unique_ptr<rt::Session> open() {
    rt::SessionOptions options;
    options.maxSequences = kSequences;
    options.maxTokens = kPromptTokens + kNewTokens;
    options.threads = 2;
    for (int32_t i = 0; i < kSequences; ++i)
      options.plans.push_back({i, kPromptTokens, kNewTokens});
    rt::Program program = load();
    auto least = rt::minimumBytes(program, options, options.plans);
    EXPECT_TRUE(least.ok());
    options.budgetBytes = *least * 5 / 4;
    auto session = rt::Session::open(std::move(program), std::move(options));
    EXPECT_TRUE(session.ok()) << session.status().message();
    return std::move(*session);
  }

  std::unique_ptr<HostProgram> code;
  std::optional<WeightStore> weights;
};

int64_t pagesBelow(const rt::Session &session, size_t index) {
  int64_t pages = 0;
  for (int32_t layer = 0; layer < session.program().info.layers; ++layer)
    for (rt::Part part : {rt::kKey, rt::kValue}) {
      rt::LevelCounts counts = session.levels(layer, part);
      for (size_t i = index; i < counts.size(); ++i)
        pages += counts[i];
    }
  return pages;
}
} // namespace

TEST_P(StepAllocationTest, NothingIsAllocatedAfterWarmUp) {
#ifndef PMKVQ_COUNTS_HEAP
  GTEST_SKIP() << "the heap is the sanitizer's, or not that of glibc";
#endif
  std::unique_ptr<rt::Session> session = open();
  std::vector<rt::Prompt> prompts;
  std::vector<rt::DecodeRequest> requests;
  for (int32_t i = 0; i < kSequences; ++i) {
    std::vector<int32_t> tokens(kPromptTokens);
    for (int64_t t = 0; t < kPromptTokens; ++t)
      tokens[t] = static_cast<int32_t>((t * 7 + i) % 1000);
    prompts.push_back({i, std::move(tokens)});
    requests.push_back({i, kNewTokens});
  }
  ASSERT_TRUE(session->prefill(prompts).ok());
  int64_t before = 0, after = 0, pagesBefore = 0, lowBefore = 0;
  rt::DecodeOptions options;
  options.onToken = [&](const rt::TokenEvent &event) {
    if (event.index == kWarmUp && event.sequence == 0) {
      pagesBefore = session->pages(0);
      lowBefore = pagesBelow(*session, 2);
      before = heapCalls;
    }
    after = heapCalls;
    return true;
  };
  auto results = session->decode(requests, options);
  ASSERT_TRUE(results.ok()) << results.status().message();
  ASSERT_EQ((*results)[1].tokens.size(), static_cast<size_t>(kNewTokens));
  EXPECT_EQ(after - before, 0);
  // What was counted has windows that became pages, and pages that fell.
  EXPECT_GT(session->pages(0), pagesBefore);
  EXPECT_GT(pagesBelow(*session, 2), lowBefore);
  // And the count does count.
  EXPECT_GT(before, 0);
}

INSTANTIATE_TEST_SUITE_P(Schedules, StepAllocationTest,
                         ::testing::Values("page", "layer"),
                         [](const auto &info) {
                           return std::string(info.param);
                         });
