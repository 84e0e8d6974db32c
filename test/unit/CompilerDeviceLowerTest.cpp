//===- CompilerDeviceLowerTest.cpp - PTX of attention that lowers ---------===//
//
// The kernel that attends over pages and stores those that fall: what it has
// beside attention alone, within a budget of instructions and registers.
// Neighbours: CompilerDeviceTest.cpp (attention alone),
// CompilerShiftCodesTest.cpp (what is stored).
//
//===----------------------------------------------------------------------===//

#include "PtxText.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/Assembler.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq/Target/FragmentLayout.h"

#include <gtest/gtest.h>
#include <map>

using namespace pmkvq;
using namespace pmkvq::test;
using mlir::pmkvq::DecodeSpec;
using rt::UnitKind;

namespace {
mlir::MLIRContext &lowerContext() {
  static mlir::DialectRegistry registry = [] {
    mlir::DialectRegistry all;
    mlir::pmkvq::registerAllForStages(all);
    return all;
  }();
  static mlir::MLIRContext instance(registry);
  return instance;
}

struct LowerCase {
  std::vector<UnitKind> kinds;
  int64_t group = 4;
  int64_t headDim = 128;
  std::string chip = "sm_90a";

  std::string name() const {
    std::string text;
    for (UnitKind kind : kinds)
      text += "K" + std::to_string(kind.key) + "V" + std::to_string(kind.value);
    return text + "Group" + std::to_string(group) + "Dims" +
           std::to_string(headDim) + chip;
  }
  DecodeSpec spec(bool lowers) const {
    DecodeSpec spec;
    spec.kvHeads = 2;
    spec.queryHeads = 2 * group;
    spec.headDim = headDim;
    spec.chip = chip;
    spec.kinds = kinds;
    spec.lowers = lowers;
    return spec;
  }
  /// Vectors that fall, as they are written.
  int written() const {
    int vectors = 0;
    for (UnitKind kind : kinds)
      for (rt::Part part : {rt::kKey, rt::kValue})
        if (kind.key < 16 && kind.value < 16 && kind.level(part) > 2)
          vectors +=
              FragmentLayout{part, kind.level(part) / 2, kind.tokens(), headDim}
                  .vectors();
    return vectors;
  }
};

class LoweringKernels : public ::testing::TestWithParam<LowerCase> {
protected:
  static const std::string &compile(bool lowers) {
    static std::map<std::string, std::string> compiled;
    auto [it, isNew] =
        compiled.try_emplace(GetParam().name() + (lowers ? "+" : "-"));
    if (isNew) {
      auto kernel =
          mlir::pmkvq::compileDecode(lowerContext(), GetParam().spec(lowers));
      if (kernel)
        it->second = std::move(kernel->ptx);
      else
        ADD_FAILURE() << llvm::toString(kernel.takeError());
    }
    return it->second;
  }
};

TEST_P(LoweringKernels, LoadCodesAgainAndStoreHalfAsMany) {
  PtxText alone(compile(false)), both(compile(true));
  const int written = GetParam().written();
  EXPECT_EQ(both.count("st.global.L2::cache_hint.v4.b32"), written);
  EXPECT_EQ(both.count("st.global.v4.b32"), alone.count("st.global.v4.b32"));
  EXPECT_EQ(both.count("ld.shared.v4") - alone.count("ld.shared.v4"),
            2 * written);
  EXPECT_EQ(both.count("mma.sync"), alone.count("mma.sync"));
}

/// Integer instructions of one word that is read: from 4 bits a shift and an
/// AND for each of two fields, from 8 two products of two codes, what takes
/// them apart and together; and an OR to join it with others.  PTX has no
/// three-input logic, ptxas has.
TEST_P(LoweringKernels, ShiftsAreFewInstructions) {
  PtxText alone(compile(false)), both(compile(true));
  int more = 0;
  for (const char *prefix :
       {"and.b32", "or.b32", "shl.b32", "shr.u32", "mul.lo", "mad.lo",
        "add.s32", "prmt.b32", "xor.b32", "bfe", "bfi"})
    more += both.count(prefix) - alone.count(prefix);
  int budget = 0;
  for (UnitKind kind : GetParam().kinds)
    for (rt::Part part : {rt::kKey, rt::kValue})
      if (kind.key < 16 && kind.value < 16 && kind.level(part) > 2)
        budget += static_cast<int>(kind.tokens() * GetParam().headDim *
                                   kind.level(part) / 8 / 128) *
                  (kind.level(part) == 8 ? 13 : 7);
  RecordProperty("more", more);
  EXPECT_LE(more, budget + 24);
}

TEST_P(LoweringKernels, FitRegistersBesideOutputs) {
  std::string ptxas = mlir::pmkvq::findPtxas();
  if (ptxas.empty())
    GTEST_SKIP() << "no ptxas in PATH or /usr/local/cuda/bin";
  PtxasReport alone = runPtxas(ptxas, compile(false), GetParam().chip);
  PtxasReport both = runPtxas(ptxas, compile(true), GetParam().chip);
  ASSERT_TRUE(both.accepted) << both.output;
  // Two thread blocks of 64 dims share the registers: 8 bits lack one.
  EXPECT_LE(both.spillBytes, GetParam().headDim == 64 ? 16 : 0) << both.output;
  RecordProperty("registers", both.registers);
  EXPECT_LE(both.registers, alone.registers + 32) << both.output;
}

std::vector<LowerCase> lowerCases() {
  return {
      {{{4, 4}}},         {{{8, 8}}},
      {{{8, 4}}},         {{{4, 2}}},
      {{{2, 8}}},         {{{8, 8}, {4, 4}, {4, 2}, {2, 2}, {16, 4}, {16, 16}}},
      {{{4, 4}}, 8},      {{{8, 8}}, 4, 64},
      {{{4, 4}}, 4, 256}, {{{4, 4}}, 4, 128, "sm_80"}};
}

INSTANTIATE_TEST_SUITE_P(Compiler, LoweringKernels,
                         ::testing::ValuesIn(lowerCases()),
                         [](const auto &info) { return info.param.name(); });

TEST(LoweringErrors, TheNextLaunchMustNotReadBefore) {
  DecodeSpec spec = LowerCase{{{4, 4}}}.spec(/*lowers=*/true);
  spec.dependentLaunch = true;
  auto kernel = mlir::pmkvq::compileDecode(lowerContext(), spec);
  ASSERT_FALSE(kernel);
  EXPECT_NE(llvm::toString(kernel.takeError()).find("no dependent launch"),
            std::string::npos);
}

TEST(LoweringErrors, KeysWithFeedbackDoNotFallAsTheyAreRead) {
  DecodeSpec spec = LowerCase{{{4, 4}}}.spec(/*lowers=*/true);
  spec.keyFormat = "<per_channel, hadamard, feedback>";
  auto kernel = mlir::pmkvq::compileDecode(lowerContext(), spec);
  ASSERT_FALSE(kernel);
  EXPECT_NE(llvm::toString(kernel.takeError()).find("feedback"),
            std::string::npos);
}
} // namespace
