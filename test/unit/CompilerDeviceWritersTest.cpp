//===- CompilerDeviceWritersTest.cpp - PTX of kernels that write ----------===//
//
// The kernels that append, flush and requantize compile for every format and
// head_dim that a GPU has, and ptxas takes them without spills.  What they
// write: AttentionWriteTest.cpp, on a GPU.  Neighbours: CompilerDeviceTest.cpp
// (the kernels that read).
//
//===----------------------------------------------------------------------===//

#include "PtxText.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/Assembler.h"
#include "pmkvq/Target/DeviceProgram.h"
#include "pmkvq_rt/DeviceKernelNames.h"

#include <gtest/gtest.h>
#include <map>
#include <sstream>

using namespace pmkvq;
using namespace pmkvq::test;
using mlir::pmkvq::WriterSpec;

namespace {
mlir::MLIRContext &writersContext() {
  static mlir::DialectRegistry registry = [] {
    mlir::DialectRegistry all;
    mlir::pmkvq::registerAllForStages(all);
    return all;
  }();
  static mlir::MLIRContext instance(registry);
  return instance;
}

struct Geometry {
  const char *keyFormat;
  int64_t headDim;
  const char *valueFormat = "<per_token, hadamard>";

  std::string name() const {
    auto has = [](const char *text, const char *word) {
      return std::string(text).find(word) != std::string::npos;
    };
    return (has(keyFormat, "channel") ? "PerChannel" : "PerToken") +
           std::to_string(headDim) +
           (has(valueFormat, "symmetric") ? "Symmetric" : "");
  }
};

class DeviceWriters : public ::testing::TestWithParam<Geometry> {
protected:
  WriterSpec spec() const {
    WriterSpec spec;
    spec.headDim = GetParam().headDim;
    spec.keyFormat = GetParam().keyFormat;
    spec.valueFormat = GetParam().valueFormat;
    spec.embedsPositions = true;
    return spec;
  }
  /// Compiled once a geometry: it takes a second.
  const mlir::pmkvq::DeviceKernels &compile() const {
    static std::map<std::string, mlir::pmkvq::DeviceKernels> compiled;
    auto [it, isNew] = compiled.try_emplace(GetParam().name());
    if (isNew) {
      auto kernels = mlir::pmkvq::compileWriters(writersContext(), spec());
      EXPECT_TRUE(static_cast<bool>(kernels))
          << llvm::toString(kernels.takeError());
      if (kernels)
        it->second = std::move(*kernels);
    }
    return it->second;
  }
};

/// The PTX of one kernel of a module.
std::string bodyOf(const std::string &ptx, const std::string &name) {
  size_t begin = ptx.find(".entry " + name + "(");
  if (begin == std::string::npos)
    return "";
  size_t end = ptx.find("\n}", begin);
  return ptx.substr(begin, end - begin);
}
} // namespace

TEST_P(DeviceWriters, AreAllThereWithTheirThreads) {
  const mlir::pmkvq::DeviceKernels &kernels = compile();
  std::map<std::string, int32_t> expected = {{rt::kAppendKernel, 32}};
  auto perChannel =
      std::string(GetParam().keyFormat).find("channel") != std::string::npos;
  for (rt::Part part : {rt::kKey, rt::kValue})
    for (int32_t level : rt::kLadder) {
      // A warp takes 32 channels where groups are channels, or 16 where those
      // are no multiple of 32, else 32 tokens.
      bool quantizes = part == rt::kKey && perChannel;
      auto channels = static_cast<int32_t>(GetParam().headDim);
      int32_t slices = quantizes ? channels / (channels % 32 ? 16 : 32)
                                 : rt::kPageTokens / 32;
      int32_t moves = rt::kPageTokens / 32;
      expected[rt::flushKernel(part, level)] =
          32 * (level == 16 ? moves : slices);
      if (level > 2)
        expected[rt::requantizeKernel(part, level)] =
            32 * (level == 16 ? slices : moves);
    }
  EXPECT_EQ(kernels.threads, expected);
}

TEST_P(DeviceWriters, FitRegisters) {
  std::string ptxas = mlir::pmkvq::findPtxas();
  if (ptxas.empty())
    GTEST_SKIP() << "no ptxas in PATH or /usr/local/cuda/bin";
  PtxasReport report = runPtxas(ptxas, compile().ptx);
  ASSERT_TRUE(report.accepted) << report.output;
  std::istringstream lines(report.output);
  int kernels = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("spill stores") == std::string::npos)
      continue;
    ++kernels;
    EXPECT_NE(line.find(" 0 bytes stack frame, 0 bytes spill stores"),
              std::string::npos)
        << report.output;
  }
  EXPECT_EQ(kernels, 15);
}

// Codes stay in their lanes, in words: no shuffle, no conversion, no operation
// on halves of a word.
TEST_P(DeviceWriters, ShiftsAreArithmeticOnWords) {
  const mlir::pmkvq::DeviceKernels &kernels = compile();
  for (rt::Part part : {rt::kKey, rt::kValue})
    for (int32_t from : {8, 4}) {
      std::string text = bodyOf(kernels.ptx, rt::requantizeKernel(part, from));
      ASSERT_FALSE(text.empty());
      PtxText ptx(text);
      for (const char *opcode : {"shfl", "cvt.u16", "cvt.rn", "mul.lo.s16",
                                 "shr.u16", "add.s16", "prmt"})
        EXPECT_EQ(ptx.count(opcode), 0) << opcode << " from " << from;
      // A quarter of the codes a warp: 32 tokens, 16 bytes at a time, and of
      // head dims beyond a multiple of 64 what is left.
      int64_t rest = GetParam().headDim % 64;
      for (auto [opcode, level] :
           {std::pair("ld.global.", from), {"st.global.", from / 2}}) {
        int64_t first = (GetParam().headDim - rest) * level / 32;
        int64_t others = rest * level / 32;
        auto vectors = [first, others](int64_t words) {
          return (words == 4 ? first / 4 + others / 4 : 0) +
                 (others % 4 == words);
        };
        for (int64_t words : {4, 2})
          EXPECT_EQ(ptx.count(opcode + ("v" + std::to_string(words))),
                    vectors(words))
              << from;
      }
    }
}

// One division a group, none an element.
TEST_P(DeviceWriters, QuantizingDividesOnceAGroup) {
  const mlir::pmkvq::DeviceKernels &kernels = compile();
  auto perChannel =
      std::string(GetParam().keyFormat).find("channel") != std::string::npos;
  for (rt::Part part : {rt::kKey, rt::kValue}) {
    PtxText ptx(bodyOf(kernels.ptx, rt::requantizeKernel(part, 16)));
    int groups = part == rt::kValue || perChannel ? 8 : 4;
    if (part == rt::kKey && perChannel && GetParam().headDim % 32)
      groups = 4;
    EXPECT_EQ(ptx.count("div.rn.f32") + ptx.count("rcp.rn.f32"), groups);
    EXPECT_EQ(ptx.count("cvt.rni"), 0);
  }
}

TEST(DeviceWriterErrors, SayWhatIsNotThere) {
  WriterSpec spec;
  spec.chip = "sm_70";
  auto kernels = mlir::pmkvq::compileWriters(writersContext(), spec);
  ASSERT_FALSE(static_cast<bool>(kernels));
  EXPECT_NE(llvm::toString(kernels.takeError()).find("sm_70"),
            std::string::npos);
  spec = WriterSpec();
  spec.keyFormat = "<paper>";
  kernels = mlir::pmkvq::compileWriters(writersContext(), spec);
  ASSERT_FALSE(static_cast<bool>(kernels));
  EXPECT_NE(llvm::toString(kernels.takeError()).find("first level is 8"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Compiler, DeviceWriters,
    ::testing::Values(Geometry{"<per_channel, hadamard>", 128},
                      Geometry{"<per_token, hadamard>", 128},
                      Geometry{"<per_channel, hadamard>", 64},
                      Geometry{"<per_token, hadamard>", 64},
                      Geometry{"<per_channel, hadamard>", 80},
                      Geometry{"<per_token, hadamard>", 80},
                      Geometry{"<per_channel, hadamard>", 96},
                      Geometry{"<per_token, hadamard>", 96},
                      Geometry{"<per_channel, hadamard>", 128,
                               "<per_token_symmetric, hadamard>"}),
    [](const auto &info) { return info.param.name(); });

namespace {
/// Keys that fall with feedback.
class DeviceFeedback
    : public ::testing::TestWithParam<std::tuple<const char *, int64_t>> {
protected:
  /// Compiled once a geometry.
  static const std::string &kernels(const char *format, int64_t headDim) {
    static std::map<std::pair<std::string, int64_t>, std::string> known;
    auto [it, isNew] = known.try_emplace({format, headDim});
    if (!isNew)
      return it->second;
    WriterSpec spec;
    spec.keyFormat = format;
    spec.headDim = headDim;
    auto compiled = mlir::pmkvq::compileWriters(writersContext(), spec);
    EXPECT_TRUE(static_cast<bool>(compiled))
        << llvm::toString(compiled.takeError());
    if (compiled)
      it->second = std::move(compiled->ptx);
    return it->second;
  }
};
} // namespace

// A float a head dim of each thread is memory of its own, and nothing else.
TEST_P(DeviceFeedback, FitsRegisters) {
  std::string ptxas = mlir::pmkvq::findPtxas();
  if (ptxas.empty())
    GTEST_SKIP() << "no ptxas in PATH or /usr/local/cuda/bin";
  auto [format, headDim] = GetParam();
  PtxasReport report = runPtxas(ptxas, kernels(format, headDim));
  ASSERT_TRUE(report.accepted) << report.output;
  std::string own = " " + std::to_string(headDim * 4) + " bytes stack frame, ";
  std::istringstream lines(report.output);
  int feedingBack = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("spill stores") == std::string::npos)
      continue;
    EXPECT_NE(line.find(" 0 bytes spill stores"), std::string::npos)
        << report.output;
    feedingBack += line.find(own) != std::string::npos;
  }
  // Flushes of keys to 4 and 2 bits, and from 8 and 4.
  EXPECT_EQ(feedingBack, 4);
}

// As rounded as on the CPU: multiply-adds that are asked for, and no others.
TEST_P(DeviceFeedback, FeedsBackByMultiplyAdds) {
  auto [format, headDim] = GetParam();
  PtxText text(
      bodyOf(kernels(format, headDim), rt::requantizeKernel(rt::kKey, 8)));
  constexpr int64_t block = 8, quad = 4;
  EXPECT_EQ(text.count("fma.rn.f32"),
            block * quad + block * (block - 1) / 2 + block);
  EXPECT_EQ(text.count("call"), 0);
  EXPECT_EQ(text.count("fma.rn.ftz"), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Compiler, DeviceFeedback,
    ::testing::Combine(::testing::Values("<per_channel, hadamard, feedback>",
                                         "<per_token, hadamard, feedback>"),
                       ::testing::Values(64, 80, 128)));
