//===- CompilerDeviceTest.cpp - PTX of decode attention -------------------===//
//
// Every kind of kernel compiles, its PTX has the instructions that the design
// promises and no others on codes, and ptxas takes it within a budget of
// registers.  Neighbours: DeviceProgram.h, PtxText.h,
// CompilerFragmentLayoutTest.cpp (which code is where).
//
//===----------------------------------------------------------------------===//

#include "PtxText.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/Assembler.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq/Target/SharedLayout.h"

#include <gtest/gtest.h>
#include <memory>
#include <set>

using namespace pmkvq;
using namespace pmkvq::test;
using mlir::pmkvq::DecodeSpec;
using mlir::pmkvq::DeviceKernel;
using rt::UnitKind;

namespace {
// NOLINTNEXTLINE(bugprone-throwing-static-initialization): a test's.
const std::vector<UnitKind> kEveryKind = {
    {16, 16}, {16, 8}, {16, 4}, {16, 2}, {8, 16}, {8, 8}, {8, 4}, {8, 2},
    {4, 16},  {4, 8},  {4, 4},  {4, 2},  {2, 16}, {2, 8}, {2, 4}, {2, 2}};
const char *const kPerToken = "<per_token, hadamard>";

struct DecodeCase {
  std::vector<UnitKind> kinds;
  int64_t group = 4;
  bool keysPerToken = false;
  bool dependentLaunch = false;
  int64_t headDim = 128;
  std::string chip = "sm_90a";
  int64_t rows = 1;
  bool symmetric = false;

  std::string name() const {
    std::string text;
    for (UnitKind kind : kinds)
      text += "K" + std::to_string(kind.key) + "V" + std::to_string(kind.value);
    text = kinds.size() == kEveryKind.size() ? "EveryKind" : text;
    return text + "Group" + std::to_string(group) +
           (keysPerToken ? "PerToken" : "") +
           (dependentLaunch ? "Dependent" : "") +
           (headDim == 128 ? "" : "Dims" + std::to_string(headDim)) +
           (chip == "sm_90a" ? "" : chip) +
           (rows == 1 ? "" : "Rows" + std::to_string(rows)) +
           (symmetric ? "Symmetric" : "");
  }
  DecodeSpec spec() const {
    DecodeSpec spec;
    spec.kvHeads = 2;
    spec.queryHeads = 2 * group;
    spec.headDim = headDim;
    // Of several rows, without products of warpgroups.
    spec.chip = chip == "sm_90a" && rows > 1 ? "sm_90" : chip;
    spec.kinds = kinds;
    spec.dependentLaunch = dependentLaunch;
    spec.rows = rows;
    if (keysPerToken)
      spec.keyFormat = kPerToken;
    if (symmetric)
      spec.valueFormat = "<per_token_symmetric, hadamard>";
    return spec;
  }
  int sets() const { return group * rows > 8 ? 2 : 1; }
  int operands() const { return group * rows > 4 ? 2 * sets() : 1; }
};

// NOLINTNEXTLINE(readability-identifier-naming): GoogleTest's name.
void PrintTo(const DecodeCase &c, std::ostream *os) { *os << c.name(); }

/// Each kind, each group, each layout of keys' parameters, and both ways to
/// launch; not their product, which would take a minute.
std::vector<DecodeCase> makeCases() {
  std::vector<DecodeCase> cases;
  for (UnitKind kind : kEveryKind)
    cases.push_back({{kind}});
  for (UnitKind kind : {UnitKind{8, 8}, {4, 4}, {2, 2}, {2, 8}, {2, 16}})
    cases.push_back({{kind}, 4, /*keysPerToken=*/true});
  for (int64_t group : {1, 2, 3, 5, 6, 7, 8})
    cases.push_back({{{2, 2}}, group});
  for (UnitKind kind : {UnitKind{16, 16}, {8, 8}, {4, 4}})
    cases.push_back({{kind}, 8});
  cases.push_back({{{2, 2}}, 8, /*keysPerToken=*/true});
  cases.push_back({{{2, 2}}, 4, false, /*dependentLaunch=*/true});
  for (int64_t headDim : {64, 256}) {
    for (int64_t group : {4, 8})
      cases.push_back({{{2, 2}}, group, false, false, headDim});
    cases.push_back({{{8, 8}}, 4, /*keysPerToken=*/true, false, headDim});
    cases.push_back({{{16, 16}}, 8, false, false, headDim});
    cases.push_back({{{2, 2}, {4, 16}, {16, 16}}, 8, true, true, headDim});
  }
  for (UnitKind kind : {UnitKind{16, 16}, {4, 4}, {2, 2}})
    cases.push_back({{kind}, 16});
  for (int64_t headDim : {80, 96}) {
    for (UnitKind kind : {UnitKind{16, 16}, {8, 8}, {4, 4}, {2, 2}})
      cases.push_back({{kind}, 4, false, false, headDim});
    cases.push_back({{{2, 2}}, 8, false, false, headDim});
    cases.push_back({{{4, 2}}, 16, false, false, headDim});
    cases.push_back({kEveryKind, 4, /*keysPerToken=*/true, true, headDim});
    for (const char *chip : {"sm_80", "sm_89", "sm_100", "sm_120"})
      cases.push_back({{{4, 2}, {16, 8}}, 3, false, false, headDim, chip});
  }
  cases.push_back({{{2, 2}, {4, 16}, {16, 16}}, 12, true, true, 64});
  for (const char *chip : {"sm_80", "sm_89", "sm_100"})
    cases.push_back({{{4, 2}}, 4, false, false, 128, chip});
  for (const char *chip : {"sm_86", "sm_120"})
    cases.push_back({{{2, 2}, {16, 16}}, 3, true, false, 64, chip});
  cases.push_back({{{2, 2}}, 8, false, false, 128, "sm_80"});
  // States in the one slot of a ring.
  cases.push_back({{{2, 2}}, 8, false, false, 128, "sm_89"});
  cases.push_back({{{2, 2}}, 4, false, false, 256, "sm_80"});
  // Tokens decoded at once.
  for (auto [group, rows] : {std::pair<int64_t, int64_t>(2, 2), {3, 5}, {4, 4}})
    for (UnitKind kind : {UnitKind{16, 16}, {4, 4}})
      cases.push_back({{kind}, group, false, false, 128, "sm_90a", rows});
  cases.push_back({{{2, 2}, {16, 16}}, 4, true, true, 64, "sm_90a", 2});
  // Values with a range alone.
  for (UnitKind kind : {UnitKind{8, 8}, {4, 4}, {2, 2}, {16, 2}})
    cases.push_back({{kind}, 4, false, false, 128, "sm_90a", 1, true});
  cases.push_back({{{2, 2}}, 8, false, false, 80, "sm_80", 1, true});
  cases.push_back({kEveryKind});
  cases.push_back({kEveryKind, 8, /*keysPerToken=*/true,
                   /*dependentLaunch=*/true});
  return cases;
}

mlir::MLIRContext &context() {
  static auto instance = [] {
    mlir::DialectRegistry registry;
    mlir::pmkvq::registerAllForStages(registry);
    return std::make_unique<mlir::MLIRContext>(registry);
  }();
  return *instance;
}

/// Each kernel is compiled once for all tests.
const DeviceKernel &compile(const DecodeCase &c) {
  static std::map<std::string, DeviceKernel> compiled;
  auto [it, isNew] = compiled.try_emplace(c.name());
  if (isNew) {
    auto kernel = mlir::pmkvq::compileDecode(context(), c.spec());
    if (kernel)
      it->second = std::move(*kernel);
    else
      ADD_FAILURE() << llvm::toString(kernel.takeError());
  }
  return it->second;
}

class DeviceKernels : public ::testing::TestWithParam<DecodeCase> {};

//===----------------------------------------------------------------------===//
// Instructions
//===----------------------------------------------------------------------===//

FragmentLayout layout(UnitKind kind, rt::Part part, int64_t headDim) {
  return {part, kind.level(part), kind.copiedTokens(part), headDim};
}

/// Operands of codes of one side: with `size` registers, four, or two of half
/// a block of k.
int fragments(UnitKind kind, rt::Part part, int64_t headDim, int size = 4) {
  FragmentLayout order = layout(kind, part, headDim);
  int blocks = 0;
  for (int32_t k = 0; k < order.kBlocks(); ++k)
    blocks += order.registers(k) == size;
  return order.rowBlocks() * blocks;
}
/// Registers of all of them.
int registers(UnitKind kind, rt::Part part, int64_t headDim) {
  return 4 * fragments(kind, part, headDim) +
         2 * fragments(kind, part, headDim, 2);
}

/// Masks under which registers are taken out of words, as PTX prints them.
std::set<std::string> codeMasks() {
  std::set<std::string> masks;
  for (int32_t level : {4, 2})
    for (int32_t index = 0; index < 8 / level; ++index)
      for (const FragmentRegister &r :
           layout({level, level}, rt::kKey, 128).fragment(0, index).registers)
        masks.insert(std::to_string(static_cast<int32_t>(r.mask)));
  return masks;
}

bool isMaskedCode(const PtxInstruction &instruction) {
  static const std::set<std::string> masks = codeMasks();
  return instruction.is("and.b32") && instruction.operands.size() == 3 &&
         masks.count(instruction.operands[2][0]);
}

bool isByteMma(const PtxInstruction &instruction) {
  return instruction.is("mma.sync.aligned.m16n8k32.row.col.s32.u8.") ||
         instruction.is("mma.sync.aligned.m16n8k16.row.col.s32.u8.");
}

TEST_P(DeviceKernels, OneAndForEachRegisterOfAnOperand) {
  PtxText text(compile(GetParam()).ptx);
  int expected = 0, found = 0;
  for (UnitKind kind : GetParam().kinds)
    for (rt::Part part : {rt::kKey, rt::kValue})
      if (kind.level(part) < 8)
        expected += registers(kind, part, GetParam().headDim);
  for (const PtxInstruction &instruction : text.instructions())
    found += isMaskedCode(instruction);
  EXPECT_EQ(found, expected);
}

TEST_P(DeviceKernels, CodesAreOnlyMaskedAndMultiplied) {
  PtxText text(compile(GetParam()).ptx);
  std::set<std::string> words;
  int products = 0;
  for (const PtxInstruction &mma : text.instructions()) {
    if (!isByteMma(mma))
      continue;
    for (const std::string &name : mma.operands[1]) {
      auto definitions = text.definitions(name);
      ASSERT_EQ(definitions.size(), 1u) << name;
      const PtxInstruction &definition = *definitions[0];
      if (definition.is("mov")) // ones, for sums
        continue;
      ++products;
      words.insert(isMaskedCode(definition) ? definition.operands[1][0] : name);
    }
  }
  for (const std::string &word : words) {
    auto definitions = text.definitions(word);
    ASSERT_EQ(definitions.size(), 1u) << word;
    // Of 80 dims' values at 2 bits some fields are moved to those of their row.
    bool moves = GetParam().headDim == 80;
    EXPECT_TRUE(definitions[0]->is("ld.shared.") ||
                (moves && definitions[0]->is("shr.u32")))
        << definitions[0]->opcode;
    for (const PtxInstruction *use : text.uses(word))
      EXPECT_TRUE(isMaskedCode(*use) || isByteMma(*use) ||
                  (moves && use->is("shr.u32")))
          << use->opcode;
  }
  int expected = 0;
  for (UnitKind kind : GetParam().kinds)
    for (rt::Part part : {rt::kKey, rt::kValue})
      if (kind.level(part) < 16)
        expected +=
            registers(kind, part, GetParam().headDim) * GetParam().operands();
  EXPECT_EQ(products, expected);
}

TEST_P(DeviceKernels, MatrixInstructions) {
  const DecodeCase &c = GetParam();
  PtxText text(compile(c).ptx);
  int bytes = 0, halfBytes = 0, halves = 0, brainFloats = 0;
  const int dimBlocks = static_cast<int>(c.headDim + 31) / 32;
  for (UnitKind kind : c.kinds) {
    for (rt::Part part : {rt::kKey, rt::kValue}) {
      (kind.level(part) == 16 ? brainFloats : bytes) +=
          fragments(kind, part, c.headDim);
      halfBytes += fragments(kind, part, c.headDim, 2);
    }
    if (kind.key == 16)
      continue;
    // Sums of queries, with ones for codes: where offsets have a part that is
    // the same for all dims, which of keys per channel only those at 2 bits do.
    if (c.keysPerToken || kind.key == 2)
      bytes += dimBlocks;
    // Minima of channels weigh the queries, of which one operand in f16 has
    // eight.
    if (!c.keysPerToken)
      halves += dimBlocks * 2 * c.sets();
  }
  EXPECT_EQ(text.count("mma.sync.aligned.m16n8k32"), bytes * c.operands());
  EXPECT_EQ(text.count("mma.sync.aligned.m16n8k16.row.col.s32"),
            halfBytes * c.operands());
  EXPECT_EQ(text.count("mma.sync.aligned.m16n8k16.row.col.f32.f16"), halves);
  EXPECT_EQ(text.count("mma.sync.aligned.m16n8k16.row.col.f32.bf16"),
            brainFloats * c.operands());
}

TEST_P(DeviceKernels, LaunchesAndShape) {
  const DecodeCase &c = GetParam();
  const DeviceKernel &kernel = compile(c);
  PtxText text(kernel.ptx);
  EXPECT_EQ(kernel.name, "decode");
  EXPECT_EQ(kernel.threads, 256);
  EXPECT_NE(kernel.ptx.find(".entry decode"), std::string::npos);
  EXPECT_NE(kernel.ptx.find(".reqntid 256"), std::string::npos);
  EXPECT_EQ(text.count("griddepcontrol.wait"), c.dependentLaunch ? 1 : 0);
  EXPECT_EQ(text.count("griddepcontrol.launch_dependents"),
            c.dependentLaunch ? 1 : 0);
  // What a thread block of the chip can have.
  static const std::map<std::string, int> sharedKiB = {
      {"sm_80", 163},  {"sm_86", 99},   {"sm_89", 99},
      {"sm_90a", 227}, {"sm_100", 227}, {"sm_120", 99}};
  EXPECT_LE(kernel.sharedBytes, sharedKiB.at(c.chip) * 1024);
  // Bulk copies and barriers that count bytes are of sm_90 and later.
  bool isHopper = std::stoi(c.chip.substr(3)) >= 90;
  EXPECT_EQ(text.count("cp.async.bulk") > 0, isHopper);
  EXPECT_EQ(text.count("mbarrier") > 0, isHopper);
  EXPECT_EQ(text.count("cp.async.cg") > 0, !isHopper);
  // No call of a library: nothing would resolve it.
  EXPECT_EQ(text.count("call"), 0);
}

//===----------------------------------------------------------------------===//
// Registers
//===----------------------------------------------------------------------===//

/// 256 threads, one block an SM: 65536 / 256, of which ptxas gives 255.
constexpr int kRegisterLimit = 255;

/// What a kernel may take: what ptxas of CUDA 12 or 13 gives it today, and up
/// to 8 more, since that differs by version.  More is not wrong as long as it
/// fits, but a change to look at.  Sixteen shares' records, all in flight, take
/// more than a unit does at 16 bits, and with two operands at 4 too.
int registerBudget(const DecodeCase &c) {
  if (c.kinds.size() > 1 || c.headDim > 128 || c.sets() > 1 ||
      c.chip != "sm_90a")
    return kRegisterLimit;
  bool isTwoOperands = c.operands() == 2;
  // Numbers of rows, and which of them exist.
  const int more = c.rows > 1 ? 8 : 0;
  switch (c.kinds[0].key) {
  case 2:
    return (isTwoOperands ? 240 : 172) + more;
  case 4:
  case 8:
    return (isTwoOperands ? 216 : 144) + more;
  default:
    return (isTwoOperands ? 200 : 136) + more;
  }
}

/// Bytes stored to local memory and loaded from it.  Scores of more than 8
/// queries with 128 tokens, or outputs of 8 queries of 256 dims, and what else
/// is alive, are more than registers; 15 of several rows with 64 tokens lack
/// one, as do two blocks of 64 dims on sm_120.
int spillBudget(const DecodeCase &c) {
  if (c.chip == "sm_120")
    return 8;
  if (c.rows * c.group == 15)
    return 8;
  bool isLarge = c.sets() > 1 || (c.headDim > 128 && c.operands() > 1);
  return isLarge && c.kinds[0].key == 2 ? 176 : 0;
}

TEST_P(DeviceKernels, FitRegisters) {
  std::string ptxas = mlir::pmkvq::findPtxas();
  if (ptxas.empty())
    GTEST_SKIP() << "no ptxas in PATH or /usr/local/cuda/bin";
  PtxasReport report =
      runPtxas(ptxas, compile(GetParam()).ptx, GetParam().chip);
  ASSERT_TRUE(report.accepted) << report.output;
  EXPECT_LE(report.spillBytes, spillBudget(GetParam())) << report.output;
  EXPECT_LE(report.stackBytes, spillBudget(GetParam())) << report.output;
  RecordProperty("registers", report.registers);
  EXPECT_GT(report.registers, 0) << report.output;
  EXPECT_LE(report.registers, registerBudget(GetParam())) << report.output;
}

INSTANTIATE_TEST_SUITE_P(Compiler, DeviceKernels,
                         ::testing::ValuesIn(makeCases()),
                         [](const auto &info) { return info.param.name(); });

//===----------------------------------------------------------------------===//
// The read kernel, and errors
//===----------------------------------------------------------------------===//

TEST(DeviceRead, LoadsFourVectorsAtATime) {
  auto kernel = mlir::pmkvq::compileRead(context(), "sm_90a");
  ASSERT_TRUE(static_cast<bool>(kernel)) << llvm::toString(kernel.takeError());
  EXPECT_EQ(kernel->name, "read");
  EXPECT_GE(PtxText(kernel->ptx).count("ld.global.v4"), 4);
  std::string ptxas = mlir::pmkvq::findPtxas();
  if (ptxas.empty())
    GTEST_SKIP() << "no ptxas in PATH or /usr/local/cuda/bin";
  PtxasReport report = runPtxas(ptxas, kernel->ptx);
  EXPECT_TRUE(report.accepted) << report.output;
  EXPECT_EQ(report.spillBytes, 0);
}

/// Kinds of which one part is raw do not say what its pages' slots hold.
TEST(DeviceSlots, AreThoseOfTheFormatsWhateverTheKinds) {
  auto multiplies = [](DecodeCase what, int64_t slotBytes, int64_t by) {
    auto kernel = mlir::pmkvq::compileDecode(context(), what.spec());
    EXPECT_TRUE(static_cast<bool>(kernel))
        << llvm::toString(kernel.takeError());
    if (!kernel)
      return false;
    EXPECT_EQ(kernel->slotBytes, slotBytes);
    const std::string factor = ", " + std::to_string(by);
    return kernel->ptx.find(factor + ";") != std::string::npos ||
           kernel->ptx.find(factor + ",") != std::string::npos;
  };
  DecodeCase symmetric = {{{4, 16}, {16, 16}}};
  symmetric.symmetric = true;
  EXPECT_TRUE(multiplies(symmetric, 640, 640));
  // A shift; with keys per channel it were 832.
  DecodeCase perToken = {{{16, 4}}, 4, /*keysPerToken=*/true, false, 80};
  EXPECT_FALSE(multiplies(perToken, 1024, 832));
  perToken.keysPerToken = false;
  EXPECT_TRUE(multiplies(perToken, 832, 832));
}

/// The message with which `spec` is refused.
std::string refusal(const DecodeSpec &spec) {
  auto kernel = mlir::pmkvq::compileDecode(context(), spec);
  return kernel ? "compiled" : llvm::toString(kernel.takeError());
}

DecodeSpec goodSpec() { return DecodeCase{{{4, 4}}}.spec(); }

TEST(DeviceErrors, Chip) {
  DecodeSpec spec = goodSpec();
  spec.chip = "sm_75";
  const std::string known = "; expected one of sm_80, sm_86, sm_87, sm_89, "
                            "sm_90, sm_90a, sm_100, sm_120";
  EXPECT_EQ(refusal(spec), "no kernels for a GPU of kind sm_75" + known);
  spec.chip = "sm_80";
  spec.dependentLaunch = true;
  EXPECT_EQ(refusal(spec), "a GPU of kind sm_80 has no dependent launch; "
                           "expected sm_90a or later");
  // Units of 8 warps, 17.5 KiB each.
  spec = DecodeCase{{{2, 2}}, 8, false, false, 256, "sm_89"}.spec();
  EXPECT_NE(refusal(spec).find("bytes of shared memory for a head_dim of 256 "
                               "and 8 queries a kv head; a thread block has "
                               "101376"),
            std::string::npos)
      << refusal(spec);
  auto read = mlir::pmkvq::compileRead(context(), "gfx942");
  ASSERT_FALSE(static_cast<bool>(read));
  EXPECT_EQ(llvm::toString(read.takeError()),
            "no kernels for a GPU of kind gfx942" + known);
}

TEST(DeviceErrors, HeadDim) {
  DecodeSpec spec = goodSpec();
  spec.headDim = 72;
  EXPECT_NE(refusal(spec).find(
                "expected a head_dim of 64, 80, 96, 128 or 256, got 72"),
            std::string::npos)
      << refusal(spec);
}

TEST(DeviceErrors, RowsCountAsQueries) {
  DecodeSpec spec = goodSpec();
  spec.chip = "sm_90";
  spec.rows = 5;
  auto kernel = mlir::pmkvq::compileDecode(context(), spec);
  ASSERT_TRUE(bool(kernel)) << llvm::toString(kernel.takeError());
  EXPECT_EQ(kernel->rows, 4) << "16 queries a segment";
  spec.rows = 0;
  EXPECT_NE(refusal(spec).find("expected 1 to 16 rows of queries, got 0"),
            std::string::npos)
      << refusal(spec);
}

TEST(DeviceErrors, Group) {
  DecodeSpec spec = goodSpec();
  spec.queryHeads = 34;
  EXPECT_NE(
      refusal(spec).find("has 17 queries a kv head; a GPU supports up to 16"),
      std::string::npos)
      << refusal(spec);
}

TEST(DeviceErrors, HeadsThatDoNotDivide) {
  DecodeSpec spec = goodSpec();
  spec.queryHeads = 7;
  EXPECT_NE(refusal(spec).find("expected a number of query heads that 2 kv "
                               "heads divide, got 7"),
            std::string::npos)
      << refusal(spec);
  spec = goodSpec();
  spec.kvHeads = 0;
  EXPECT_NE(refusal(spec).find("(C1)"), std::string::npos) << refusal(spec);
}

//===----------------------------------------------------------------------===//
// The assembler
//===----------------------------------------------------------------------===//

const char *const kNoPtx = "this is no PTX";

std::string assembled(const mlir::pmkvq::Assembler &assembler,
                      const std::string &ptx, const std::string &target) {
  auto code = assembler.assemble(ptx, target);
  return code ? *code : llvm::toString(code.takeError());
}

TEST(DeviceAssembler, PtxIsLeftToTheDriver) {
  EXPECT_EQ(assembled({}, kNoPtx, "sm_90a"), kNoPtx);
  // For a chip that is not the device's, and what a found ptxas refuses.
  mlir::pmkvq::Assembler assembler{"/no/ptxas", "sm_90a", false, ""};
  EXPECT_EQ(assembled(assembler, kNoPtx, "sm_80"), kNoPtx);
  EXPECT_EQ(assembled(assembler, kNoPtx, "sm_90a"), kNoPtx);
  assembler.isRequired = true;
  EXPECT_NE(assembled(assembler, kNoPtx, "sm_90a").find("/no/ptxas"),
            std::string::npos);
}

TEST(DeviceAssembler, MakesCubins) {
  mlir::pmkvq::Assembler assembler{mlir::pmkvq::findPtxas(), "sm_90a", true,
                                   ""};
  if (assembler.ptxas.empty())
    GTEST_SKIP() << "no ptxas in PATH or /usr/local/cuda/bin";
  std::string cubin =
      assembled(assembler, compile(DecodeCase{{{4, 4}}}).ptx, "sm_90a");
  EXPECT_EQ(cubin.substr(0, 4), "\x7f"
                                "ELF");
  EXPECT_NE(assembled(assembler, kNoPtx, "sm_90a").find("refuses"),
            std::string::npos);
}

TEST(DeviceErrors, Formats) {
  DecodeSpec spec = goodSpec();
  spec.keyFormat = "<no_such_format>";
  EXPECT_NE(refusal(spec).find("no_such_format"), std::string::npos)
      << refusal(spec);
  spec = goodSpec();
  spec.valueFormat = "per_token";
  EXPECT_NE(refusal(spec).find("unknown attribute"), std::string::npos)
      << refusal(spec);
  spec = goodSpec();
  spec.keyFormat = spec.valueFormat = "<paper>";
  EXPECT_NE(refusal(spec).find("keys of the format 'paper' at level 4, which a "
                               "GPU does not support; use per_channel or "
                               "per_token"),
            std::string::npos)
      << refusal(spec);
  spec = goodSpec();
  spec.valueFormat = "<per_channel>";
  EXPECT_NE(refusal(spec).find("values of the format 'per_channel' at level 4, "
                               "which a GPU does not support; use per_token or "
                               "per_token_symmetric"),
            std::string::npos)
      << refusal(spec);
  spec = goodSpec();
  spec.keyFormat = "<per_token_symmetric>";
  EXPECT_NE(refusal(spec).find("keys of the format 'per_token_symmetric' at "
                               "level 4, which a GPU does not support; use "
                               "per_channel or per_token"),
            std::string::npos)
      << refusal(spec);
}

TEST(DeviceErrors, Kinds) {
  DecodeSpec spec = goodSpec();
  spec.kinds = {};
  EXPECT_EQ(refusal(spec), "expected at least one kind of unit");
  spec.kinds = {{4, 0}};
  EXPECT_EQ(refusal(spec),
            "expected kinds at levels of 16, 8, 4 or 2, got 4 and 0");
}

} // namespace
