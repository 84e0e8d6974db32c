//===- CompilerPrefillTest.cpp - PTX of prefill attention -----------------===//
//
// Every kind of prefill kernel compiles, its PTX has the instructions that the
// design promises, and ptxas takes it without spilling and without making
// products of warpgroups wait for each other.  Neighbours: DeviceProgram.h,
// PtxText.h, CompilerWarpgroupLayoutTest.cpp (which element is where).  And
// that many decoded tokens are products of warpgroups.
//
//===----------------------------------------------------------------------===//

#include "PtxText.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/Assembler.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq/Target/WarpgroupLayout.h"

#include <gtest/gtest.h>
#include <memory>
#include <set>

using namespace ::pmkvq;
using namespace ::pmkvq::test;
using mlir::pmkvq::DeviceKernel;
using mlir::pmkvq::PrefillSpec;

namespace {
struct PrefillCase {
  std::vector<int64_t> keys, values;
  int64_t stages = 2, group = 4;
  bool wide = false;

  std::string name() const {
    std::string text = "K";
    for (int64_t level : keys)
      text += std::to_string(level) + "x";
    text.back() = 'V';
    for (int64_t level : values)
      text += std::to_string(level) + "x";
    text.pop_back();
    return text + "Stages" + std::to_string(stages) + "Group" +
           std::to_string(group) + (wide ? "Wide" : "");
  }
  PrefillSpec spec() const {
    PrefillSpec spec;
    spec.kvHeads = 2;
    spec.queryHeads = 2 * group;
    spec.keyLevels = keys;
    spec.valueLevels = values;
    spec.stages = stages;
    spec.wideRanges = wide;
    return spec;
  }
  std::vector<WarpShare> shares() const {
    std::vector<WarpShare> all;
    for (int64_t level : keys)
      all.emplace_back(rt::kKey, static_cast<int32_t>(level));
    for (int64_t level : values)
      all.emplace_back(rt::kValue, static_cast<int32_t>(level));
    return all;
  }
};

// NOLINTNEXTLINE(readability-identifier-naming): GoogleTest's name.
void PrintTo(const PrefillCase &c, std::ostream *os) { *os << c.name(); }

mlir::MLIRContext &prefillContext() {
  static auto instance = [] {
    mlir::DialectRegistry registry;
    mlir::pmkvq::registerAllForStages(registry);
    return std::make_unique<mlir::MLIRContext>(registry);
  }();
  return *instance;
}

const DeviceKernel &compilePrefill(const PrefillCase &c) {
  static std::map<std::string, DeviceKernel> compiled;
  auto [it, isNew] = compiled.try_emplace(c.name());
  if (isNew) {
    auto kernel = mlir::pmkvq::compilePrefill(prefillContext(), c.spec());
    if (kernel)
      it->second = std::move(*kernel);
    else
      ADD_FAILURE() << llvm::toString(kernel.takeError());
  }
  return it->second;
}

/// Bytes that ptxas stores and loads again: none is the goal.  Where pages at 8
/// bits are beside those at 4 or 2, 68 to 80 are left of ptxas 13.0.
int prefillSpillBudget(const PrefillCase &c) {
  return c.keys.size() == 4 ? 80 : 0;
}

class PrefillKernels : public ::testing::TestWithParam<PrefillCase> {};

/// What an element of a tile costs: one multiply-add and one AND for two codes,
/// of wide ranges a multiplication.
TEST_P(PrefillKernels, TwoInstructionsForTwoCodes) {
  PtxText text(compilePrefill(GetParam()).ptx);
  constexpr int64_t elements = HalfTile::kRows * HalfTile::kColumns;
  int codes = 0, groups = 0;
  for (const WarpShare &share : GetParam().shares()) {
    if (share.level() == 16)
      continue;
    codes += elements / 2 / 128;
    // Offsets with a part of the range, steps that are no f16.
    groups += 4 * share.columnBlocks() *
              ((share.level() == 2) + (share.level() == 8));
  }
  EXPECT_EQ(text.count("fma.rn.f16x2"), codes + groups);
  int masked = 0;
  for (const PtxInstruction &i : text.instructions())
    masked += i.is("and.b32") && i.operands.size() == 3 &&
              std::set<std::string>{"16711935", "983055", "15728880", "196611",
                                    "786444"}
                  .count(i.operands[2][0]);
  EXPECT_EQ(masked, codes);
  if (!GetParam().wide)
    return;
  PrefillCase narrow = GetParam();
  narrow.wide = false;
  EXPECT_EQ(text.count("mul.rn.f16x2"),
            PtxText(compilePrefill(narrow).ptx).count("mul.rn.f16x2") + codes);
}

TEST_P(PrefillKernels, Products) {
  const PrefillCase &c = GetParam();
  PtxText text(compilePrefill(c).ptx);
  // Scores of the first page, of the others; outputs of those, of the last.
  EXPECT_EQ(text.count("wgmma.mma_async"), 4 * 8);
  EXPECT_EQ(text.count("wgmma.wait_group"), 4);
  EXPECT_EQ(text.count("setmaxnreg.dec"), 1);
  EXPECT_EQ(text.count("setmaxnreg.inc"), 1);
  EXPECT_EQ(text.count("call"), 0);
}

TEST_P(PrefillKernels, Shape) {
  const PrefillCase &c = GetParam();
  const DeviceKernel &kernel = compilePrefill(c);
  EXPECT_EQ(kernel.name, "prefill");
  EXPECT_EQ(kernel.threads, 512);
  EXPECT_LE(kernel.sharedBytes, 227 * 1024);
  EXPECT_NE(kernel.ptx.find(".entry prefill"), std::string::npos);
}

TEST_P(PrefillKernels, ProductsAreNotSerializedAndSpillsStayFew) {
  std::string ptxas = mlir::pmkvq::findPtxas();
  if (ptxas.empty())
    GTEST_SKIP() << "no ptxas in PATH or /usr/local/cuda/bin";
  PtxasReport report = runPtxas(ptxas, compilePrefill(GetParam()).ptx);
  ASSERT_TRUE(report.accepted) << report.output;
  EXPECT_EQ(report.output.find("C7512"), std::string::npos) << report.output;
  EXPECT_EQ(report.output.find("serialized"), std::string::npos)
      << report.output;
  EXPECT_LE(report.spillBytes, prefillSpillBudget(GetParam())) << report.output;
  EXPECT_LE(report.stackBytes, prefillSpillBudget(GetParam())) << report.output;
}

// NOLINTNEXTLINE(bugprone-throwing-static-initialization): a test's.
const PrefillCase kCases[] = {{{16, 4}, {16, 4}},
                              {{16, 2}, {16, 2}},
                              {{16, 8}, {16, 8}},
                              {{16, 8}, {16, 2}},
                              {{16, 4, 2}, {16, 4, 2}},
                              {{16}, {16}},
                              {{16, 8, 4, 2}, {16, 8, 4, 2}},
                              {{16, 4}, {16, 4}, 2, 4, /*wide=*/true},
                              {{16, 2}, {16, 2}, 2, 4, /*wide=*/true},
                              {{16, 8}, {16, 8}, 2, 4, /*wide=*/true},
                              {{16, 8, 4, 2}, {16, 8, 4, 2}, 2, 4, true}};

INSTANTIATE_TEST_SUITE_P(Compiler, PrefillKernels, ::testing::ValuesIn(kCases),
                         [](const auto &info) { return info.param.name(); });

//===----------------------------------------------------------------------===//
// Decoding many tokens
//===----------------------------------------------------------------------===//

/// Decode attention of `rows` tokens of 4 heads over pages at `level`.
mlir::pmkvq::DecodeSpec manyTokens(int64_t rows, int32_t level) {
  mlir::pmkvq::DecodeSpec spec;
  spec.kvHeads = 2;
  spec.queryHeads = 8;
  spec.kinds = {{16, 16}, {level, level}};
  spec.rows = rows;
  return spec;
}

TEST(ManyTokens, AreProductsOfWarpgroupsWithCodesFromRegisters) {
  for (int64_t rows : {3, 4, 8, 16})
    for (int32_t level : {16, 8, 4, 2}) {
      auto kernel =
          mlir::pmkvq::compileDecode(prefillContext(), manyTokens(rows, level));
      ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
      EXPECT_TRUE(kernel->takesPages);
      EXPECT_EQ(kernel->rows, rows);
      EXPECT_LE(kernel->sharedBytes, 227 * 1024);
      PtxText text(kernel->ptx);
      // Of keys and values, raw and not: 8 steps of both products.
      EXPECT_EQ(text.count("wgmma.mma_async"), (level == 16 ? 2 : 4) * 16);
      EXPECT_EQ(text.count("call"), 0);
      std::string ptxas = mlir::pmkvq::findPtxas();
      if (ptxas.empty() || level != 4)
        continue;
      PtxasReport report = runPtxas(ptxas, kernel->ptx);
      ASSERT_TRUE(report.accepted) << report.output;
      EXPECT_EQ(report.output.find("serialized"), std::string::npos)
          << report.output;
    }
}

TEST(ManyTokens, WideRangesAreMultipliedAndSpillNoMore) {
  std::string ptxas = mlir::pmkvq::findPtxas();
  for (auto [rows, level] : {std::pair(8, 8), {8, 4}, {16, 4}, {16, 2}}) {
    int products[2] = {}, spills[2] = {};
    for (bool wide : {false, true}) {
      mlir::pmkvq::DecodeSpec spec = manyTokens(rows, level);
      spec.wideRanges = wide;
      auto kernel = mlir::pmkvq::compileDecode(prefillContext(), spec);
      ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
      PtxText text(kernel->ptx);
      EXPECT_EQ(text.count("wgmma.mma_async"), 4 * 16);
      products[wide] = text.count("mul.rn.f16x2");
      if (ptxas.empty())
        continue;
      PtxasReport report = runPtxas(ptxas, kernel->ptx);
      ASSERT_TRUE(report.accepted) << report.output;
      EXPECT_EQ(report.output.find("serialized"), std::string::npos)
          << report.output;
      spills[wide] = report.spillBytes;
    }
    // A lane decodes 128 of 128 x 128 elements, in twos, of both parts.
    EXPECT_EQ(products[1], products[0] + 2 * 64);
    EXPECT_LE(spills[1], spills[0]) << rows << " rows at " << level;
  }
}

// Up to 16 queries over narrow ranges.
TEST(ManyTokens, FewQueriesTakeStepsAndOffsets) {
  for (auto [rows, wide, folds] : {std::tuple(3, false, true),
                                   {4, false, true},
                                   {4, true, false},
                                   {5, false, false}}) {
    mlir::pmkvq::DecodeSpec spec = manyTokens(rows, /*level=*/4);
    spec.wideRanges = wide;
    auto kernel = mlir::pmkvq::compileDecode(prefillContext(), spec);
    ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
    PtxText text(kernel->ptx);
    // A lane decodes 128 of 128 x 128 elements, in twos, of both parts.
    EXPECT_EQ(text.count("fma.rn.f16x2"), folds ? 0 : 2 * 64);
    EXPECT_EQ(text.count("mma.sync.aligned.m16n8k16"), folds ? 2 : 0);
  }
}

TEST(ManyTokens, OthersStayOnWarps) {
  mlir::pmkvq::DecodeSpec specs[] = {manyTokens(2, 4), manyTokens(4, 4),
                                     manyTokens(4, 4), manyTokens(4, 4),
                                     manyTokens(4, 4)};
  specs[1].chip = "sm_90";
  specs[2].keyFormat = "<per_token>";
  specs[3].headDim = 64;
  specs[4].valueFormat = "<per_token_symmetric>";
  for (const mlir::pmkvq::DecodeSpec &spec : specs) {
    auto kernel = mlir::pmkvq::compileDecode(prefillContext(), spec);
    ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
    EXPECT_FALSE(kernel->takesPages);
    EXPECT_EQ(kernel->rows, spec.rows);
  }
  // Rows that do not fit a segment are parted.
  mlir::pmkvq::DecodeSpec many = manyTokens(16, 4);
  many.queryHeads = 2 * 16;
  auto kernel = mlir::pmkvq::compileDecode(prefillContext(), many);
  ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
  EXPECT_EQ(kernel->rows, 4);
}

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

/// The message with which `spec` is refused.
std::string refusal(const PrefillSpec &spec) {
  auto kernel = mlir::pmkvq::compilePrefill(prefillContext(), spec);
  return kernel ? "compiled" : llvm::toString(kernel.takeError());
}

void expectRefused(const PrefillSpec &spec, const char *message) {
  EXPECT_NE(refusal(spec).find(message), std::string::npos) << refusal(spec);
}

TEST(PrefillErrors, Chip) {
  PrefillSpec spec = kCases[0].spec();
  spec.chip = "sm_90";
  EXPECT_EQ(refusal(spec), "no prefill kernels for a GPU of kind sm_90 yet; "
                           "expected sm_90a");
}

TEST(PrefillErrors, Levels) {
  PrefillSpec spec = kCases[0].spec();
  spec.valueLevels = {3};
  EXPECT_EQ(refusal(spec), "expected levels of 16, 8, 4 or 2, 16 among them: a "
                           "chunk's own tokens are raw");
  spec.valueLevels = {4};
  EXPECT_EQ(refusal(spec), "expected levels of 16, 8, 4 or 2, 16 among them: a "
                           "chunk's own tokens are raw");
  spec.valueLevels.clear();
  EXPECT_EQ(refusal(spec), "expected levels of 16, 8, 4 or 2, 16 among them: a "
                           "chunk's own tokens are raw");
}

TEST(PrefillErrors, HeadDim) {
  PrefillSpec spec = kCases[0].spec();
  spec.headDim = 64;
  expectRefused(spec, "has a head_dim of 64; prefill on a GPU supports 128");
}

TEST(PrefillErrors, KeysPerToken) {
  PrefillSpec spec = kCases[0].spec();
  spec.keyFormat = "<per_token>";
  expectRefused(spec, "has keys with parameters per token; prefill on a GPU "
                      "supports the other axis");
}

TEST(PrefillErrors, ValuesWithARangeAlone) {
  PrefillSpec spec = kCases[0].spec();
  spec.keyLevels = spec.valueLevels = {16, 4};
  spec.valueFormat = "<per_token_symmetric>";
  expectRefused(spec, "has a format whose elements are no minimum plus a range "
                      "times the code: #pmkvq.format<per_token_symmetric>");
}

TEST(PrefillErrors, Stages) {
  PrefillSpec spec = kCases[0].spec();
  spec.stages = 4;
  expectRefused(spec, "expected 2 or 3 stages of tiles, got 4");
}

TEST(PrefillErrors, Group) {
  PrefillSpec spec = kCases[0].spec();
  spec.queryHeads = 2 * 129;
  expectRefused(spec, "has 129 queries a kv head; a task takes 128");
}

} // namespace
