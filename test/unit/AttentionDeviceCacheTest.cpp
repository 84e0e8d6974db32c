//===- AttentionDeviceCacheTest.cpp - A session's cache on a GPU ----------===//
//
// Sessions that only keep a cache, one on a GPU with the generated kernels, one
// on the CPU with the reference's arithmetic: many tokens a step, over ranges
// that kernels on warpgroups take and over those that need others.  Neighbours:
// ArithmeticProgram.h (what both run), RuntimeDeviceCacheTest.cpp (the same on
// a stand-in), AttentionReplayTest.cpp (a model's).
//
//===----------------------------------------------------------------------===//

#include "ArithmeticProgram.h"
#include "CudaReader.h"
#include "RequireGpu.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq/Target/PageOrders.h"

#include <map>

namespace cuda = pmkvq::rt::cuda;
using namespace pmkvq;
using namespace pmkvq::rt;
using namespace pmkvq::test;

namespace {
constexpr const char *kKeyFormat = "<per_channel>",
                     *kValueFormat = "<per_token>";

mlir::DialectRegistry makeCacheRegistry() {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  return registry;
}

class DeviceCacheAtWork : public testing::Test {
protected:
  void SetUp() override {
    PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable());
    auto opened = CudaReader::open();
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    device = *opened;
    arithmetic = &state;
    state.info = arithmeticInfo();
    state.info.headDim = 128;
    state.info.queryHeads = 4 * state.info.kvHeads;
    state.info.parameterBytes[kKey] = state.info.parameterBytes[kValue] =
        128 * 4;
    bench::Shape shape;
    shape.kvHeads = state.info.kvHeads;
    shape.queryHeads = state.info.queryHeads;
    shape.context = "128";
    shape.keyFormat = kKeyFormat;
    shape.valueFormat = kValueFormat;
    auto problem = bench::understand(shape);
    ASSERT_TRUE(problem.ok()) << problem.status().message();
    state.problem = *problem;
    ASSERT_NO_FATAL_FAILURE(open());
  }
  void TearDown() override { arithmetic = nullptr; }

  Result<cuda::DecodeCode> compile(const cuda::DecodeNeeds &needs) {
    mlir::pmkvq::DecodeSpec spec;
    spec.kvHeads = state.info.kvHeads;
    spec.queryHeads = state.info.queryHeads;
    spec.keyFormat = kKeyFormat;
    spec.valueFormat = kValueFormat;
    spec.chip = device->chip();
    spec.kinds = needs.kinds;
    spec.rows = needs.rows;
    spec.wideRanges = needs.wideRanges;
    auto kernel = mlir::pmkvq::compileDecode(context, spec);
    if (!kernel)
      return Status(StatusCode::Unimplemented,
                    llvm::toString(kernel.takeError()));
    ++compiled[needs.rows];
    if (kernel->takesPages)
      ++(needs.wideRanges ? forWide : forNarrow);
    return cuda::DecodeCode{std::move(kernel->ptx), kernel->name,
                            kernel->threads,        kernel->sharedBytes,
                            kernel->rows,           kernel->takesPages};
  }

  /// Both sessions, with `room` bytes more than the least budget.
  void open(std::shared_ptr<const SchedulePolicy> policy = nullptr,
            int64_t room = 0) {
    compiled.clear();
    auto writers = CudaReader::compiler().forDevices().writers(
        state.problem, /*positions=*/false, device->chip());
    ASSERT_TRUE(writers.ok()) << writers.status().message();
    cuda::DeviceCacheCode code;
    code.append = {arithmeticAppend};
    code.attend = {arithmeticAttend};
    code.merge = {arithmeticMerge};
    code.writers = std::move(*writers);
    code.slotBytes =
        DeviceImage(state.problem.image(), nullptr, nullptr).slotBytes();
    code.variants = {0, 0};
    code.decode = [this](int32_t, const cuda::DecodeNeeds &needs) {
      return compile(needs);
    };
    code.orders = pageOrders(state.problem.image());
    auto cache = cuda::DeviceCache::create(device, std::move(code));
    ASSERT_TRUE(cache.ok()) << cache.status().message();

    auto program = openProgram(arithmeticEntries(), {});
    ASSERT_TRUE(program.ok()) << program.status().message();
    SessionOptions options;
    options.maxTokens = 1000;
    options.threads = 2;
    auto least = minimumBytes(*program, options, {{0, 900, 1}});
    ASSERT_TRUE(least.ok()) << least.status().message();
    options.budgetBytes = *least + room;
    options.policy = std::move(policy);
    auto first = Session::open(*program, options);
    ASSERT_TRUE(first.ok()) << first.status().message();
    cpu = std::move(*first);
    options.store = *cache;
    auto second = Session::open(*program, options);
    ASSERT_TRUE(second.ok()) << second.status().message();
    gpu = std::move(*second);
  }

  /// `count` tokens in steps of up to `most`, of which the last is compared.
  void feed(int32_t count, int32_t most) {
    while (count > 0) {
      int32_t now = std::min({count, most, cpu->room(0)});
      count -= now;
      std::vector<int32_t> tokens;
      for (int32_t i = 0; i < now; ++i)
        tokens.push_back(static_cast<int32_t>((cpu->tokens(0) + i) * 3 % 10));
      if (count == 0)
        tokens.back() = last;
      state.attends = count == 0;
      ASSERT_NO_FATAL_FAILURE(step(tokens));
    }
  }

  void step(const std::vector<int32_t> &tokens) {
    const std::vector<StepRun> runs = {
        {0, tokens.data(), static_cast<int32_t>(tokens.size())}};
    auto logits = cpu->step(runs);
    ASSERT_TRUE(logits.ok()) << logits.status().message();
    std::vector<float> expected = state.outputs;
    logits = gpu->step(runs);
    ASSERT_TRUE(logits.ok()) << logits.status().message();
    if (!state.attends)
      return;
    double wrong = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_TRUE(std::isfinite(state.outputs[i])) << "output " << i;
      double apart = state.outputs[i] - expected[i];
      wrong += apart * apart;
    }
    // Values are evenly distributed in -1 .. 1, and few of their groups differ:
    // what rounds them is the same in many, while their mean goes to 0.
    const double ofValues = static_cast<double>(expected.size()) / 3;
    EXPECT_LE(std::sqrt(wrong / ofValues), bound)
        << tokens.size() << " tokens after " << cpu->tokens(0);
  }

  mlir::MLIRContext context{makeCacheRegistry()};
  cuda::DeviceRef device;
  Arithmetic state;
  std::unique_ptr<Session> cpu, gpu;
  /// How often kernels for so many rows were compiled.
  std::map<int64_t, int32_t> compiled;
  /// Kernels on warpgroups that were compiled.
  int32_t forNarrow = 0, forWide = 0;
  double bound = bench::kHalfBounds.rms;
  int32_t last = 1;
};

TEST_F(DeviceCacheAtWork, ManyTokensAreThoseOfTheReference) {
  // A window alone, pages at every level, chunks of all that a step may have.
  for (auto [count, most] : {std::pair(40, 40),
                             {300, 128},
                             {16, 16},
                             {4, 4},
                             {1, 1},
                             {400, 128},
                             {3, 3}})
    ASSERT_NO_FATAL_FAILURE(feed(count, most));
  EXPECT_GT(gpu->levels(0, kKey)[3], 0) << "no page is at 2 bits";
  if (device->chip() == "sm_90a") {
    EXPECT_GT(forNarrow, 0);
  }
  EXPECT_EQ(forWide, 0);
}

TEST_F(DeviceCacheAtWork, KeysAndValuesFallByThemselves) {
  // Keys of layer 0 and values of layer 1 bear little.
  std::vector<LayerLosses> losses(2);
  losses[0].level = {{{1, 4, 16}, {0.1f, 0.4f, 1.6f}}};
  losses[1].level = {losses[0].level[kValue], losses[0].level[kKey]};
  for (LayerLosses &layer : losses)
    layer.setShares({0.3f, 0.2f, 0.1f, 0.25f, 0.15f, 0.05f}, 2);
  auto policy = makeSchedulePolicy(kScheduleLeastLoss, losses);
  ASSERT_TRUE(policy.ok()) << policy.status().message();
  ASSERT_NO_FATAL_FAILURE(open(std::move(*policy), /*room=*/100'000));
  for (auto [count, most] :
       {std::pair(40, 40), {300, 128}, {4, 4}, {1, 1}, {400, 128}, {1, 1}})
    ASSERT_NO_FATAL_FAILURE(feed(count, most));
  for (int32_t layer : {0, 1}) {
    EXPECT_NE(gpu->levels(layer, kKey), gpu->levels(layer, kValue));
    for (Part part : {kKey, kValue})
      EXPECT_EQ(gpu->levels(layer, part), cpu->levels(layer, part));
  }
  for (auto [rows, times] : compiled)
    EXPECT_EQ(times, 1) << rows << " rows";
}

TEST_F(DeviceCacheAtWork, ManyTokensOverWideRangesAreThoseOfTheReference) {
  state.wide = last = 10;
  // Keys of 100 are off by 0.02, and their scores by 2e-3.
  bound = 3e-3;
  for (auto [count, most] :
       {std::pair(140, 128), {300, 128}, {16, 16}, {4, 4}, {300, 128}, {3, 3}})
    ASSERT_NO_FATAL_FAILURE(feed(count, most));
  EXPECT_GT(gpu->levels(0, kKey)[3], 0) << "no page is at 2 bits";
  if (device->chip() == "sm_90a") {
    EXPECT_GT(forWide, 0);
  }
}
} // namespace
