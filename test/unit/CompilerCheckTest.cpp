//===- CompilerCheckTest.cpp - The checker of attention -------------------===//
//
// A session over compiled kernels, watched: right kernels pass, and each kind
// of wrong one is found and named.  Neighbours: lib/Check, KernelHarness.h,
// CompilerAttentionTest.cpp (the same kernels without a session).
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"
#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Parser/Parser.h"
#include "pmkvq/Check/AttentionCheck.h"
#include "pmkvq/Pipelines/Pipelines.h"

#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <random>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
constexpr int32_t kLayers = 2, kVocab = 8;
/// The harness compiles attention with this scale.
constexpr double kCheckScale = 0.125;
/// The step from which on a fault shows: pages at several levels are there.
constexpr int64_t kFaultyStep = 10;

enum class Fault { None, Merge, NaN, SkippedPage, Codes, LostLayer };

/// A model without weights: queries, keys and values of a token are random.
/// Entry points are plain functions, so it is global.
struct Model {
  const Kernels *kernels = nullptr;
  rt::ProgramInfo info = {};
  Fault fault = Fault::None;
  int64_t steps = 0;
  std::mt19937 random{11};

  bool faulty(int32_t layer) const { return layer == 1 && steps > kFaultyStep; }
  rt::KernelFn kernel(const char *name) const { return kernels->find(name); }
};
Model *model = nullptr;

/// Merges, then moves one output by 1 %: query head 1 of each row.
int32_t wrongMerge(void *const *operands, int64_t index) {
  int32_t status = model->kernel("merge_0")(operands, index);
  const auto &args = *static_cast<const rt::StepArgs *>(operands[0]);
  const rt::MergeTask &task = args.mergeTasks[index];
  float *out = static_cast<float *>(operands[1]);
  for (int32_t row = task.row; row < task.row + task.rows; ++row) {
    float *head =
        out + (row * model->info.queryHeads + 1) * model->info.headDim;
    for (int32_t d = 0; task.head == 0 && d < model->info.headDim; ++d)
      head[d] = model->fault == Fault::NaN ? NAN : head[d] * 1.01f;
  }
  return status;
}

/// Leaves out page 0.
int32_t wrongAttend(void *const *operands, int64_t index) {
  auto args = *static_cast<const rt::StepArgs *>(operands[1]);
  std::vector<rt::AttendTask> tasks(args.attendTasks,
                                    args.attendTasks + args.attendTaskCount);
  if (tasks[index].pageBegin == 0 && tasks[index].pageEnd > 0)
    tasks[index].pageBegin = 1;
  args.attendTasks = tasks.data();
  void *changed[] = {operands[0], &args, operands[2]};
  return model->kernel("attend_0")(changed, index);
}

/// Other codes than those that the kernels have read.
void damageCodes(const rt::CacheView &cache) {
  int64_t bytes = rt::blockBytes(model->info.headDim);
  uint8_t *block = cache.blocks + cache.pages[0].blocks[rt::kValue][0] * bytes;
  for (int64_t i = 0; i < bytes; ++i)
    block[i] ^= 0xff;
}

std::vector<float> randomRows(int64_t rows, int64_t heads) {
  std::normal_distribution<float> normal;
  std::vector<float> values(rows * heads * model->info.headDim);
  for (float &value : values)
    value = normal(model->random);
  return values;
}

void runLayer(rt::StepArgs *args, int32_t layer) {
  rt::CacheView *cache = args->caches + layer;
  std::vector<float> q = randomRows(args->rowCount, model->info.queryHeads);
  std::vector<float> k = randomRows(args->rowCount, model->info.kvHeads);
  std::vector<float> v = randomRows(args->rowCount, model->info.kvHeads);
  std::vector<float> out(q.size());
  void *append[] = {cache, args, k.data(), v.data()};
  void *attend[] = {cache, args, q.data()};
  void *merge[] = {args, out.data()};
  Fault fault = model->faulty(layer) ? model->fault : Fault::None;
  pmkvq_rt_launch(args->runtime, model->kernel("append_0"), append,
                  args->rowCount);
  if (fault == Fault::LostLayer)
    return;
  pmkvq_rt_launch(args->runtime,
                  fault == Fault::SkippedPage ? wrongAttend
                                              : model->kernel("attend_0"),
                  attend, args->attendTaskCount);
  if (fault == Fault::Codes)
    damageCodes(*cache);
  bool wrong = fault == Fault::Merge || fault == Fault::NaN;
  pmkvq_rt_launch(args->runtime, wrong ? wrongMerge : model->kernel("merge_0"),
                  merge, args->mergeTaskCount);
}

int32_t runStep(rt::StepArgs *args) {
  for (int32_t layer = 0; layer < kLayers; ++layer)
    runLayer(args, layer);
  ++model->steps;
  std::fill_n(args->logits, args->outputCount * kVocab, 0.0f);
  return rt::kKernelOk;
}

/// Compiled once for each shape: that takes longer than a test.
const Kernels *compiled(const KernelShape &shape) {
  static std::map<std::string, std::unique_ptr<Kernels>> all;
  std::unique_ptr<Kernels> &kernels = all[shape.key + shape.value];
  if (!kernels)
    kernels = Kernels::compile(shape);
  return kernels.get();
}

class Checked {
public:
  Checked(const KernelShape &shape, Fault fault) : kernels(compiled(shape)) {
    mlir::pmkvq::registerAllForStages(registry);
    context.appendDialectRegistry(registry);
    context.loadDialect<mlir::pmkvq::PMKVQDialect>();
    model = &state;
    state.kernels = kernels;
    state.fault = fault;
    cache = llvm::cast<mlir::pmkvq::CacheType>(mlir::parseType(
        "!pmkvq.cache<kv_heads = " + std::to_string(shape.kvHeads) +
            ", head_dim = " + std::to_string(shape.headDim) +
            ", key = " + shape.key + ", value = #pmkvq.format" + shape.value +
            ", sink = " + std::to_string(shape.sink) + ">",
        &context));
    describe(shape);
  }
  ~Checked() { model = nullptr; }

  /// Two prompts, then single tokens, in a budget that takes several levels.
  check::Report run() {
    rt::Program program = open();
    rt::SessionOptions options;
    options.maxSequences = 2;
    options.maxTokens = 500;
    options.threads = 2;
    options.plans = {{0, 450, 20}, {1, 150, 20}};
    options.budgetBytes =
        *rt::minimumBytes(program, options, options.plans) + 30000;
    auto session = rt::Session::open(program, options);
    EXPECT_TRUE(session.ok()) << session.status().message();
    auto checker = check::AttentionChecker::create(
        std::vector<check::Attention>(
            kLayers, {cache, state.info.queryHeads, kCheckScale, false}),
        {{state.kernel("attend_0"), wrongAttend},
         {state.kernel("merge_0"), wrongMerge}},
        /*threads=*/2);
    EXPECT_TRUE(static_cast<bool>(checker));
    (*checker)->watch(**session);
    auto result = (*session)->generate(
        {{0, std::vector<int32_t>(450, 1)}, {1, std::vector<int32_t>(150, 2)}},
        {20, 20});
    EXPECT_TRUE(result.ok()) << result.status().message();
    levels = (*session)->levels(0, rt::kKey);
    return (*checker)->report();
  }

  const Kernels *kernels;
  Model state;
  rt::LevelCounts levels = {};

private:
  void describe(const KernelShape &shape) {
    rt::ProgramInfo &info = state.info;
    info.abiVersion = rt::kAbiVersion;
    info.layers = kLayers;
    info.kvHeads = static_cast<int32_t>(shape.kvHeads);
    info.queryHeads = static_cast<int32_t>(shape.queryHeads);
    info.headDim = static_cast<int32_t>(shape.headDim);
    info.sinkTokens = static_cast<int32_t>(shape.sink);
    info.vocabSize = kVocab;
    info.maxPositions = 4096;
    info.schedule = rt::kSchedulePage;
    for (int32_t part : {rt::kKey, rt::kValue}) {
      info.floor[part] = 2;
      info.parameterBytes[part] = static_cast<int32_t>(
          cache.getParameterBytes(static_cast<mlir::pmkvq::Part>(part)));
    }
  }

  rt::Program open() {
    rt::ProgramEntries entries = {};
    entries.describe = [](rt::ProgramInfo *info) { *info = model->info; };
    entries.step = runStep;
    for (int32_t part : {rt::kKey, rt::kValue})
      for (int32_t level : rt::kLadder) {
        int32_t index = rt::ladderIndex(level);
        entries.flush[part][index] = kernels->flush(part, level);
        if (level > 2)
          entries.requantize[part][index] = kernels->requantize(part, level);
      }
    auto program = rt::openProgram(entries, {});
    EXPECT_TRUE(program.ok()) << program.status().message();
    return *program;
  }

  mlir::DialectRegistry registry;
  mlir::MLIRContext context;
  mlir::pmkvq::CacheType cache;
};

KernelShape makeCheckShape(int64_t kvHeads, int64_t group, int64_t headDim,
                           const char *key, const char *value,
                           int64_t sink = 1) {
  KernelShape shape;
  shape.kvHeads = kvHeads;
  shape.queryHeads = kvHeads * group;
  shape.headDim = headDim;
  shape.key = key;
  shape.value = value;
  shape.sink = sink;
  return shape;
}

KernelShape defaultShape() {
  return makeCheckShape(2, 3, 64, "<per_channel, hadamard>",
                        "<per_token, hadamard>");
}

class RightKernels : public testing::TestWithParam<KernelShape> {};

TEST_P(RightKernels, AreWithinTheTolerance) {
  Checked checked(GetParam(), Fault::None);
  check::Report report = checked.run();
  EXPECT_TRUE(report.within(check::kTolerance))
      << report.text() << report.defect;
  // Every row of every layer was compared, and something was rounded.
  EXPECT_EQ(report.outputs, (469 + 169) * kLayers * GetParam().queryHeads);
  EXPECT_EQ(report.steps, checked.state.steps);
  EXPECT_GT(report.largest, 0);
  EXPECT_LE(report.rms, report.largest);
  // Pages are at more than one level.
  EXPECT_GE(llvm::count_if(checked.levels, [](int64_t n) { return n > 0; }), 2);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, RightKernels,
    testing::Values(defaultShape(),
                    makeCheckShape(1, 2, 128, "<per_token>",
                                   "<per_channel, clip = 0.85>", 4),
                    makeCheckShape(2, 2, 64, "<per_channel>",
                                   "<per_token_symmetric, hadamard>"),
                    makeCheckShape(1, 4, 128, "<paper>", "<paper>", 0)));

class WrongKernels : public testing::TestWithParam<Fault> {};

TEST_P(WrongKernels, AreFoundWhereTheyAre) {
  Checked checked(defaultShape(), GetParam());
  check::Report report = checked.run();
  EXPECT_FALSE(report.within(check::kTolerance)) << report.text();
  EXPECT_EQ(report.defect, "");
  EXPECT_EQ(report.worst.layer, 1);
  EXPECT_GT(report.worst.step, kFaultyStep);
  // Braces, because g++ warns of an else within the macros.
  if (GetParam() == Fault::Merge || GetParam() == Fault::NaN) {
    EXPECT_EQ(report.worst.head, 1);
  }
  if (GetParam() == Fault::Merge) {
    EXPECT_LE(report.largest, 0.0101);
  }
  if (GetParam() == Fault::NaN) {
    EXPECT_TRUE(std::isinf(report.largest));
  }
}

INSTANTIATE_TEST_SUITE_P(Faults, WrongKernels,
                         testing::Values(Fault::Merge, Fault::NaN,
                                         Fault::SkippedPage, Fault::Codes));

TEST(LostLayer, IsADefect) {
  Checked checked(defaultShape(), Fault::LostLayer);
  check::Report report = checked.run();
  EXPECT_FALSE(report.within(check::kTolerance));
  EXPECT_NE(report.defect.find("attends to the cache of layer 0 in layer 1"),
            std::string::npos)
      << report.defect;
}

TEST(AttentionChecker, RefusesWhatItCannotCheck) {
  auto none = check::AttentionChecker::create({}, {}, 1);
  ASSERT_FALSE(static_cast<bool>(none));
  EXPECT_NE(llvm::toString(none.takeError()).find("0 layers"),
            std::string::npos);
}

TEST(CollectAttention, IsInTheOrderOfTheStep) {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  mlir::MLIRContext context(registry);
  auto module = mlir::parseSourceString<mlir::ModuleOp>(R"mlir(
    !a = !pmkvq.cache<kv_heads = 2, head_dim = 64>
    !b = !pmkvq.cache<kv_heads = 3, head_dim = 64>
    func.func @step(%q: tensor<?x6x64xf32>, %s: !pmkvq.batch, %a: !a, %b: !b)
        -> tensor<?x6x64xf32> {
      %0 = pmkvq.attend %q, %a, %s scale 1.250000e-01
        : tensor<?x6x64xf32>, !a
      %1 = pmkvq.attend %0, %b, %s scale 2.500000e-01 result_rotated
        : tensor<?x6x64xf32>, !b
      return %1 : tensor<?x6x64xf32>
    })mlir",
                                                        &context);
  ASSERT_TRUE(module);
  std::vector<check::Attention> layers = check::collectAttention(*module);
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_EQ(layers[0].cache.getKvHeads(), 2);
  EXPECT_EQ(layers[1].cache.getKvHeads(), 3);
  EXPECT_EQ(layers[1].queryHeads, 6);
  EXPECT_EQ(layers[1].scale, 0.25);
  EXPECT_FALSE(layers[0].resultRotated);
  EXPECT_TRUE(layers[1].resultRotated);
}
} // namespace
