//===- AttentionReplayTest.cpp - A model's cache on a GPU -----------------===//
//
// The reasoner runs a program of 256 lines with its cache on a GPU and on the
// CPU at once: the same keys and values, so the same codes, parameters and bf16
// tokens at every step, under a budget in which pages fall to 2 bits.
// Forks and snapshots, too, and small models of other head dims.
// Neighbours: MirroredCache.h (the two caches), AttentionCheck.h (attention).
//
// The model's files: $PMKVQ_MODEL_DIR, else those of the source tree.
//
//===----------------------------------------------------------------------===//

#include "CudaReader.h"
#include "RequireGpu.h"
#include "SmallModel.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "pmkvq/Check/AttentionCheck.h"
#include "pmkvq/Check/MirroredCache.h"
#include "pmkvq/Import/ImportModel.h"
#include "pmkvq/Import/WeightStore.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/DeviceSession.h"
#include "pmkvq/Target/FirstError.h"
#include "pmkvq/Target/HostProgram.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>

using namespace pmkvq;
using namespace pmkvq::test;
using mlir::pmkvq::Checkpoint;
using mlir::pmkvq::DeviceSession;
using mlir::pmkvq::HostProgram;
using mlir::pmkvq::ModelConfig;
using mlir::pmkvq::WeightStore;

namespace {
constexpr int64_t kBudget = 3500 * 1024;
/// Of two sequences of 1,200 tokens.
constexpr int64_t kForkBudget = 6000 * 1024;
/// All pages are compared every so many steps; what was written, every step.
constexpr int64_t kFullCompare = 128;
/// Attention is computed in double precision every so many steps: each time
/// the whole cache is decoded.
constexpr int64_t kAttentionCheck = 16;

std::string modelFolder() {
  const char *folder = std::getenv("PMKVQ_MODEL_DIR");
  return folder ? folder : PMKVQ_TEST_MODELS_DIR "/reasoner";
}

struct TracedProgram {
  std::vector<int32_t> prompt, answer;
};

/// The first program of 256 lines.
llvm::Expected<TracedProgram> readProgram(const std::string &folder) {
  auto file = llvm::MemoryBuffer::getFile(folder + "/programs-256.jsonl");
  if (!file)
    return llvm::createStringError(folder + ": " + file.getError().message());
  auto line = (*file)->getBuffer().split('\n').first;
  auto value = llvm::json::parse(line);
  if (!value)
    return value.takeError();
  auto tokens = [&](llvm::StringRef key) {
    std::vector<int32_t> result;
    for (const llvm::json::Value &token : *value->getAsObject()->getArray(key))
      result.push_back(static_cast<int32_t>(*token.getAsInteger()));
    return result;
  };
  return TracedProgram{tokens("prompt"), tokens("answer")};
}

mlir::DialectRegistry makeImportRegistry() {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerImportDialects(registry);
  mlir::pmkvq::registerAllForStages(registry);
  return registry;
}

class ReplayTest : public ::testing::Test {
protected:
  void SetUp() override {
    PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable());
    auto opened = CudaReader::open();
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    device = *opened;
  }

  template <typename T> static void must(llvm::Expected<T> &made) {
    if (!made)
      FAIL() << llvm::toString(made.takeError());
  }

  /// Each layer has a clip of its own, and keys fall with feedback.
  static mlir::pmkvq::Calibration calibrate(const ModelConfig &config) {
    mlir::pmkvq::Calibration calibration;
    std::mt19937 random(23);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < config.layers; ++i) {
      mlir::pmkvq::LayerCalibration layer;
      layer.clip = {0.74 + 0.06 * static_cast<double>(i % 2), 0.8};
      for (int64_t k = 0; k < config.kvHeads * config.headDim; ++k)
        layer.querySquares.push_back(std::exp(2 * normal(random)));
      calibration.layers.push_back(std::move(layer));
    }
    return calibration;
  }

  /// Compiles the model of a folder and loads its weights.
  void load(const std::string &folder, bool calibrated = false) {
    auto config = mlir::pmkvq::readModelConfig(folder);
    ASSERT_NO_FATAL_FAILURE(must(config));
    if (calibrated)
      config->calibration = calibrate(*config);
    auto checkpoint = Checkpoint::open(folder);
    ASSERT_NO_FATAL_FAILURE(must(checkpoint));
    auto module = mlir::pmkvq::importModel(&context, *config);
    ASSERT_NO_FATAL_FAILURE(must(module));
    mlir::pmkvq::PlanOptions plan;
    plan.budgetBytes = kBudget;
    mlir::pmkvq::FirstError diagnostics(context);
    auto staged = mlir::pmkvq::runStages(
        **module, plan, "", "",
        [&](llvm::StringRef stage, mlir::ModuleOp planned) {
          if (stage != "plan")
            return;
          layers = check::collectAttention(planned);
          auto collected = DeviceSession::collect(planned);
          ASSERT_NO_FATAL_FAILURE(must(collected));
          kernels = std::move(*collected);
        });
    ASSERT_TRUE(mlir::succeeded(staged))
        << llvm::toString(diagnostics.take("compiling"));
    auto compiled = HostProgram::compile(**module);
    ASSERT_NO_FATAL_FAILURE(must(compiled));
    code = std::move(*compiled);
    auto stored = WeightStore::create(std::move(*checkpoint), code->weights());
    ASSERT_NO_FATAL_FAILURE(must(stored));
    weights.emplace(std::move(*stored));
  }

  /// A cache on the device alone; the kernels that both stores run, and those
  /// that attend.
  void makeCache(std::shared_ptr<rt::CacheStore> &cache,
                 std::vector<rt::KernelFn> &append,
                 std::vector<rt::KernelFn> &attend) {
    auto deviceCode = kernels->compile(context, *code, device->chip());
    ASSERT_NO_FATAL_FAILURE(must(deviceCode));
    append = deviceCode->append;
    attend = deviceCode->attend;
    attend.insert(attend.end(), deviceCode->merge.begin(),
                  deviceCode->merge.end());
    auto made = rt::cuda::DeviceCache::create(device, std::move(*deviceCode));
    ASSERT_TRUE(made.ok()) << made.status().message();
    cache = std::move(*made);
  }

  void openSession(const rt::SessionOptions &options,
                   std::unique_ptr<rt::Session> &made) {
    auto entries = code->entries();
    ASSERT_NO_FATAL_FAILURE(must(entries));
    auto program = rt::openProgram(*entries, weights->pointers());
    ASSERT_TRUE(program.ok()) << program.status().message();
    auto opened = rt::Session::open(*program, options);
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    made = std::move(*opened);
  }

  /// A session whose cache is on both.
  void open(rt::SessionOptions options) {
    std::shared_ptr<rt::CacheStore> cache;
    std::vector<rt::KernelFn> append, attend;
    ASSERT_NO_FATAL_FAILURE(makeCache(cache, append, attend));
    mirror = std::make_shared<check::MirroredCache>(
        std::move(cache), std::move(append), std::move(attend));
    options.store = mirror;
    ASSERT_NO_FATAL_FAILURE(openSession(options, session));
    auto watching = check::AttentionChecker::create(
        layers, check::findAttentionKernels([&](llvm::StringRef name) {
          return code->lookUp(name);
        }),
        /*threads=*/0);
    ASSERT_NO_FATAL_FAILURE(must(watching));
    checker = std::move(*watching);
  }

  /// One step; gives the token that the model expects next.
  void step(const std::vector<int32_t> &tokens, int32_t &next) {
    if (steps % kAttentionCheck == 0)
      checker->watch(*session);
    else
      session->observeLaunches(nullptr);
    auto logits = session->step(
        {{0, tokens.data(), static_cast<int32_t>(tokens.size())}});
    ASSERT_TRUE(logits.ok()) << logits.status().message();
    const float *first = logits->logits;
    next = static_cast<int32_t>(
        std::max_element(first, first + session->program().info.vocabSize) -
        first);
    bool all = ++steps % kFullCompare == 0;
    rt::Status status = all ? mirror->compareAll() : mirror->compareWritten();
    ASSERT_TRUE(status.ok()) << "step " << steps << ": " << status.message();
  }

  /// Feeds tokens to a sequence, as many at a time as there is room for.
  void feed(int32_t sequence, const std::vector<int32_t> &tokens, int64_t begin,
            int64_t end) {
    while (begin < end) {
      int64_t count = std::min<int64_t>(end - begin, session->room(sequence));
      auto logits = session->step(
          {{sequence, tokens.data() + begin, static_cast<int32_t>(count)}});
      ASSERT_TRUE(logits.ok()) << logits.status().message();
      rt::Status status = mirror->compareAll();
      ASSERT_TRUE(status.ok()) << status.message();
      begin += count;
    }
  }

  /// From a session's snapshot to a cache on the device and back, and to one on
  /// the CPU.
  void expectSnapshots(rt::SessionOptions apart, int32_t sequence,
                       std::unique_ptr<rt::Session> &onDevice,
                       std::vector<uint8_t> &taken) {
    // The CPU's half of the mirror gives the first.
    auto first = session->snapshot(sequence);
    ASSERT_TRUE(first.ok()) << first.status().message();
    taken = *first;
    std::vector<rt::KernelFn> append, attend;
    ASSERT_NO_FATAL_FAILURE(makeCache(apart.store, append, attend));
    std::unique_ptr<rt::Session> onCpu;
    ASSERT_NO_FATAL_FAILURE(openSession(apart, onDevice));
    apart.store = nullptr;
    ASSERT_NO_FATAL_FAILURE(openSession(apart, onCpu));
    rt::Status status = onDevice->restore(0, taken.data(), taken.size());
    ASSERT_TRUE(status.ok()) << status.message();
    auto returned = onDevice->snapshot(0);
    ASSERT_TRUE(returned.ok()) << returned.status().message();
    EXPECT_EQ(*returned, taken);
    status = onCpu->restore(0, returned->data(), returned->size());
    ASSERT_TRUE(status.ok()) << status.message();
    auto again = onCpu->snapshot(0);
    ASSERT_TRUE(again.ok()) << again.status().message();
    EXPECT_EQ(*again, taken);
  }

  mlir::MLIRContext context{makeImportRegistry()};
  rt::cuda::DeviceRef device;
  std::vector<check::Attention> layers;
  std::optional<DeviceSession> kernels;
  std::unique_ptr<HostProgram> code;
  std::optional<WeightStore> weights;
  std::shared_ptr<check::MirroredCache> mirror;
  std::unique_ptr<check::AttentionChecker> checker;
  std::unique_ptr<rt::Session> session;
  int64_t steps = 0;
};

/// Of the reasoner, whose files may not be there.
class ReasonerTest : public ReplayTest {
protected:
  void SetUp() override {
    ReplayTest::SetUp();
    if (!llvm::sys::fs::exists(modelFolder() + "/config.json"))
      GTEST_SKIP() << "no model in " << modelFolder()
                   << "; name its folder in PMKVQ_MODEL_DIR";
  }
};

/// By head_dim, of models of random weights; with a calibration or without.
// NOLINTNEXTLINE(misc-multiple-inheritance): GoogleTest's way to parameters.
class SmallModelTest
    : public ReplayTest,
      public ::testing::WithParamInterface<std::pair<int64_t, bool>> {};

TEST_F(ReasonerTest, TheReasonersCacheIsTheSameOnBoth) {
  auto program = readProgram(modelFolder());
  ASSERT_NO_FATAL_FAILURE(must(program));
  auto prompt = static_cast<int64_t>(program->prompt.size());
  auto answer = static_cast<int64_t>(program->answer.size());
  // The last token is never cached.
  const int64_t tokens = prompt + answer - 1;
  ASSERT_GE(tokens, 3000);
  ASSERT_NO_FATAL_FAILURE(load(modelFolder()));
  rt::SessionOptions options;
  options.maxTokens = tokens;
  options.budgetBytes = kBudget;
  ASSERT_NO_FATAL_FAILURE(open(options));

  int32_t next = 0;
  for (int64_t done = 0; done < prompt;) {
    int64_t count = std::min<int64_t>(prompt - done, session->room(0));
    std::vector<int32_t> chunk(program->prompt.begin() + done,
                               program->prompt.begin() + done + count);
    ASSERT_NO_FATAL_FAILURE(step(chunk, next));
    done += count;
  }
  // What the model says goes in, right or wrong.
  int64_t right = next == program->answer[0];
  for (int64_t i = 1; i < answer; ++i) {
    ASSERT_NO_FATAL_FAILURE(step({next}, next));
    right += next == program->answer[static_cast<size_t>(i)];
  }
  rt::Status status = mirror->compareAll();
  ASSERT_TRUE(status.ok()) << status.message();

  // Every level has been there, and the budget was full.
  rt::CacheBytes bytes = session->bytes();
  EXPECT_LE(bytes.peak, kBudget);
  EXPECT_GT(session->levels(0, rt::kKey)[3], 0);
  check::Report report = checker->report();
  EXPECT_TRUE(report.within(check::kDeviceTolerance))
      << report.defect << " " << report.text();
  std::printf("%lld tokens in %lld steps, %lld of %lld tokens right, peak %lld "
              "bytes; %lld pages compared; attention of %lld steps: %s\n",
              static_cast<long long>(session->tokens(0)),
              static_cast<long long>(steps), static_cast<long long>(right),
              static_cast<long long>(answer),
              static_cast<long long>(bytes.peak),
              static_cast<long long>(mirror->comparedPages()),
              static_cast<long long>(report.steps), report.text().c_str());
}

TEST_F(ReasonerTest, ForksAndSnapshotsAreTheSameOnBoth) {
  auto program = readProgram(modelFolder());
  ASSERT_NO_FATAL_FAILURE(must(program));
  ASSERT_NO_FATAL_FAILURE(load(modelFolder()));
  // Twelve pages of both, of which some five would fit at 16 bits.
  rt::SessionOptions options;
  options.maxTokens = 1200;
  options.maxSequences = 2;
  options.budgetBytes = kForkBudget;
  ASSERT_NO_FATAL_FAILURE(open(options));
  const std::vector<int32_t> &prompt = program->prompt;
  ASSERT_NO_FATAL_FAILURE(feed(0, prompt, 0, 620));
  ASSERT_TRUE(session->fork(0, 1).ok());
  EXPECT_EQ(session->sharedPages(1), session->pages(0));
  ASSERT_NO_FATAL_FAILURE(feed(1, prompt, 0, 450));
  ASSERT_NO_FATAL_FAILURE(feed(0, prompt, 620, 1100));
  EXPECT_GT(session->sharedPages(1), 0);
  rt::LevelCounts levels = session->levels(1, 0, rt::kKey);
  EXPECT_LT(levels[0], session->pages(1)) << "no page has fallen";
  ASSERT_NO_FATAL_FAILURE(feed(1, prompt, 450, 460));

  std::unique_ptr<rt::Session> onDevice;
  std::vector<uint8_t> taken;
  ASSERT_NO_FATAL_FAILURE(expectSnapshots(options, 1, onDevice, taken));

  // Of another model, and damaged: refused with the reason, nothing is lost.
  std::vector<uint8_t> damaged = taken;
  damaged.at(damaged.size() / 2) ^= 1;
  rt::Status status = onDevice->restore(1, damaged.data(), damaged.size());
  EXPECT_EQ(status.code(), rt::StatusCode::DataLoss) << status.message();
  EXPECT_TRUE(onDevice->usable().ok());
  auto kept = onDevice->snapshot(0);
  ASSERT_TRUE(kept.ok()) << kept.status().message();
  EXPECT_EQ(*kept, taken);
}

TEST_P(SmallModelTest, OtherHeadDimsAreTheSameOnBoth) {
  const auto [headDim, calibrated] = GetParam();
  SmallModel model(headDim);
  ASSERT_NO_FATAL_FAILURE(load(model.folder(), calibrated));
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 1000; ++i)
    tokens.push_back(i * i % 31 % static_cast<int32_t>(SmallModel::kTokens));
  rt::SessionOptions options;
  options.maxTokens = 1000;
  options.maxSequences = 2;
  auto entries = code->entries();
  ASSERT_NO_FATAL_FAILURE(must(entries));
  EXPECT_EQ(entries->keyFeedback != nullptr, calibrated);
  auto program = rt::openProgram(*entries, weights->pointers());
  ASSERT_TRUE(program.ok()) << program.status().message();
  auto least = rt::minimumBytes(*program, options, {{0, 1000, 1}});
  ASSERT_TRUE(least.ok()) << least.status().message();
  // A few blocks more than all at 2 bits take: not enough for keys at 4.
  options.budgetBytes = *least + 16 * rt::blockBytes(headDim);
  ASSERT_NO_FATAL_FAILURE(open(options));
  checker->watch(*session);
  ASSERT_NO_FATAL_FAILURE(feed(0, tokens, 0, 900));
  for (int64_t i = 900; i < 990; ++i)
    ASSERT_NO_FATAL_FAILURE(feed(0, tokens, i, i + 1));
  EXPECT_GT(session->levels(0, rt::kKey)[3], 0) << "no page has fallen";
  check::Report report = checker->report();
  EXPECT_TRUE(report.within(check::kDeviceTolerance))
      << report.defect << " " << report.text();
  std::unique_ptr<rt::Session> onDevice;
  std::vector<uint8_t> taken;
  ASSERT_NO_FATAL_FAILURE(expectSnapshots(options, 0, onDevice, taken));
}

INSTANTIATE_TEST_SUITE_P(Cuda, SmallModelTest,
                         ::testing::Values(std::pair(64, false),
                                           std::pair(80, false),
                                           std::pair(96, false),
                                           std::pair(64, true),
                                           std::pair(80, true)),
                         [](const auto &info) {
                           return "Dims" + std::to_string(info.param.first) +
                                  (info.param.second ? "Calibrated" : "");
                         });
} // namespace
