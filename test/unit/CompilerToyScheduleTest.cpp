//===- CompilerToyScheduleTest.cpp - A new schedule, from outside ---------===//
//
// How a schedule is added without touching the libraries: values fall before
// keys, through every stage of the compiler and a session of the runtime.  This
// file is the tutorial that docs/new-schedule.md points to.  Neighbours:
// pmkvq_rt/Schedule.h, pmkvq/IR/Schedule.h.
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/HostProgram.h"
#include "pmkvq_rt/Session.h"

#include <gtest/gtest.h>
#include <random>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

//===----------------------------------------------------------------------===//
// The schedule
//===----------------------------------------------------------------------===//

namespace {
/// The runtime's half: values fall to their floor before any key does, the
/// oldest page first.
class ValuesFirst : public rt::SchedulePolicy {
  rt::Status plan(std::vector<rt::PageState> &pages, size_t existing,
                  const rt::ScheduleLimits &limits) const override {
    std::vector<rt::PageState> planned = pages;
    int64_t bytes = 0;
    for (size_t i = 0; i < planned.size(); ++i) {
      if (i >= existing)
        planned[i].level = {16, 16};
      bytes += rt::pageBlockBytes(planned[i].level, limits.blockBytes);
    }
    for (rt::Part part : {rt::kValue, rt::kKey})
      while (bytes > limits.bytesAvailable) {
        rt::PageState *oldest = nullptr;
        for (rt::PageState &page : planned)
          if (page.level[part] > limits.floor[part] &&
              (!oldest || page.page < oldest->page))
            oldest = &page;
        if (!oldest)
          break;
        bytes -= rt::pageBlockBytes(oldest->level, limits.blockBytes);
        oldest->level[part] /= 2;
        bytes += rt::pageBlockBytes(oldest->level, limits.blockBytes);
      }
    if (bytes > limits.bytesAvailable)
      return rt::Status(rt::StatusCode::OutOfMemory,
                        std::to_string(bytes - limits.bytesAvailable) +
                            " bytes are missing");
    pages = planned;
    return rt::Status();
  }
};

/// The number by which program and policy know each other.
constexpr int32_t kValuesFirst = rt::kScheduleExternal + 1;

/// The compiler's half: a name, and that pages come in above their floor.
void addValuesFirst(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *, PMKVQDialect *dialect) {
    dialect->addSchedule({"values_first", kValuesFirst, /*lowers=*/true});
  });
}

//===----------------------------------------------------------------------===//
// Through all stages
//===----------------------------------------------------------------------===//

constexpr int64_t kScheduleHeadDim = 64;
constexpr int64_t kScheduleTokens = 600;
/// 4 pages of 128 tokens in 2 kv heads; a window and a sink beside them.
constexpr int64_t kPageHeads = 4 * 2;

class ToyScheduleTest : public testing::Test {
protected:
  void SetUp() override {
    DialectRegistry registry;
    registerAllForStages(registry);
    addValuesFirst(registry);
    MLIRContext context(registry);
    auto module = parseSourceFile<ModuleOp>(
        PMKVQ_TEST_DATA_DIR "/../Pipelines/Inputs/step.mlir", &context);
    ASSERT_TRUE(module);
    PlanOptions options;
    options.keyFormat = "<per_channel>";
    options.valueFormat = "<per_token>";
    options.schedule = "values_first";
    ASSERT_TRUE(succeeded(runStages(*module, options)));
    auto compiled = HostProgram::compile(*module);
    ASSERT_TRUE(static_cast<bool>(compiled));
    code = std::move(*compiled);
  }

  /// The program over random weights, which decide tokens but no level.
  rt::Program program() {
    std::mt19937 random(1);
    weights.clear();
    std::vector<const void *> table;
    for (const WeightSpec &spec : code->weights()) {
      weights.emplace_back(spec.shape[0] * spec.shape[1]);
      for (uint16_t &weight : weights.back()) // +-1/16 to +-1/8
        weight = static_cast<uint16_t>(0x3d80 | (random() & 0x807f));
      table.push_back(weights.back().data());
    }
    auto entries = code->entries();
    EXPECT_TRUE(static_cast<bool>(entries));
    auto opened = rt::openProgram(*entries, table);
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    return *opened;
  }

  /// Levels after kScheduleTokens tokens, under a budget `bytes` above the
  /// least.
  void run(int64_t bytes, rt::LevelCounts keys, rt::LevelCounts values) {
    rt::SessionOptions options;
    options.maxTokens = kScheduleTokens;
    options.threads = 1;
    options.policy = std::make_shared<ValuesFirst>();
    options.budgetBytes =
        *rt::minimumBytes(program(), options, {{0, kScheduleTokens, 1}}) +
        bytes;
    auto session = rt::Session::open(program(), options);
    ASSERT_TRUE(session.ok()) << session.status().message();
    auto generated = (*session)->generate(
        {{0, std::vector<int32_t>(kScheduleTokens - 8, 7)}}, {9});
    ASSERT_TRUE(generated.ok()) << generated.status().message();
    EXPECT_EQ(generated->front().tokens.size(), 9u);
    EXPECT_EQ((*session)->levels(0, rt::kKey), keys);
    EXPECT_EQ((*session)->levels(0, rt::kValue), values);
    EXPECT_LE((*session)->bytes().peak, options.budgetBytes);
  }

  std::unique_ptr<HostProgram> code;
  std::vector<std::vector<uint16_t>> weights;
};

TEST_F(ToyScheduleTest, ValuesFallBeforeKeys) {
  // At level 16 a part takes 7 blocks more than at 2 bits.
  const int64_t keysAt16 = kPageHeads * 7 * rt::blockBytes(kScheduleHeadDim);
  run(keysAt16, {8, 0, 0, 0}, {0, 0, 0, 8});
  // One byte less, and the oldest page's keys fall in one head.
  run(keysAt16 - 1, {7, 1, 0, 0}, {0, 0, 0, 8});
  // Room for one level more: the newest page's values stay at 4 bits.
  run(keysAt16 + rt::blockBytes(kScheduleHeadDim), {8, 0, 0, 0}, {0, 0, 1, 7});
  run(0, {0, 0, 0, 8}, {0, 0, 0, 8});
}

TEST_F(ToyScheduleTest, TheProgramNamesItsPolicy) {
  EXPECT_EQ(program().info.schedule, kValuesFirst);
  auto session = rt::Session::open(program(), {});
  EXPECT_EQ(session.status().code(), rt::StatusCode::Unimplemented);
}
} // namespace
