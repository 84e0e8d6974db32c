//===- BenchLowerTest.cpp - Pages that fall, on a stand-in GPU ------------===//
//
// The host side of `--lower`: which pages fall, where to, and that wrong codes
// are seen.  Neighbours: StandInDecode.h (the kernel), BenchDeviceTest.cpp (the
// same for attention alone).
//
//===----------------------------------------------------------------------===//

#include "StandInCuda.h"
#include "StandInDecode.h"
#include "bench/LowerBench.h"
#include "pmkvq/Target/CacheImage.h"
#include "pmkvq_rt/DeviceKernelNames.h"

#include <gtest/gtest.h>
#include <memory>

namespace cuda = pmkvq::rt::cuda;
namespace bench = pmkvq::bench;
namespace rt = pmkvq::rt;
using pmkvq::test::Entries;
using pmkvq::test::StandIn;
using pmkvq::test::StandInDecode;
using pmkvq::test::StandInLaunch;
using rt::StatusCode;

namespace {
/// What the stand-in's kernels do; a plain function cannot carry it.
struct LoweringBehaviour {
  bench::Problem problem;
  std::vector<float> results;
  /// Spoils what a launch that lowers has written, or what it read.
  void (*spoil)(const rt::DecodeArgs &) = nullptr;
};
// NOLINTNEXTLINE(bugprone-throwing-static-initialization): a test's.
LoweringBehaviour lowering;

/// A page's part in place, as requantize leaves it.
void requantize(const rt::PagesArgs &args, unsigned blocks, rt::Part part,
                int32_t from) {
  pmkvq::DeviceImage image(lowering.problem.image(), args.codes,
                           args.parameters);
  const int64_t headDim = lowering.problem.shape.headDim;
  for (unsigned block = 0; block < blocks; ++block) {
    rt::PageEntry page = {};
    std::copy_n(args.tasks[block].blocks, rt::kMaxBlocksPerPart,
                page.blocks[part]);
    page.level[part] = static_cast<uint8_t>(from);
    std::vector<uint32_t> codes;
    for (int64_t token = 0; token < rt::kPageTokens; ++token)
      for (int64_t dim = 0; dim < headDim; ++dim)
        codes.push_back(pmkvq::reference::lowerCode(
            lowering.problem.format[part], image.code(page, part, token, dim),
            from));
    page.level[part] = static_cast<uint8_t>(from / 2);
    for (int64_t token = 0; token < rt::kPageTokens; ++token)
      for (int64_t dim = 0; dim < headDim; ++dim)
        image.setCode(page, part, token, dim,
                      codes[static_cast<size_t>(token * headDim + dim)]);
  }
}

double runLowering(const StandInLaunch &launch, const void *argument) {
  if (launch.kernel == "read")
    return 5;
  for (rt::Part part : {rt::kKey, rt::kValue})
    for (int32_t level : {8, 4})
      if (launch.kernel == rt::requantizeKernel(part, level)) {
        if (!launch.inGraph)
          requantize(*static_cast<const rt::PagesArgs *>(argument),
                     launch.blocks, part, level);
        return 3;
      }
  const auto &arguments = *static_cast<const rt::DecodeArgs *>(argument);
  const bool lowers = launch.kernel == "lowering";
  if (launch.inGraph) {
    std::copy(lowering.results.begin(), lowering.results.end(),
              arguments.results);
    return lowers ? 12 : 10;
  }
  StandInDecode(lowering.problem, 1,
                lowers ? Entries::FallingUnits : Entries::Units)
      .run(arguments, launch.blocks);
  if (lowers && lowering.spoil)
    lowering.spoil(arguments);
  lowering.results.assign(arguments.results,
                          arguments.results + lowering.problem.outputs());
  return 10;
}

class BenchLowerTest : public testing::Test {
protected:
  int64_t headDim = 64;

  BenchLowerTest() {
    lowering = {};
    standIn.state().run = runLowering;
    auto &bytes = standIn.state().argumentBytes;
    bytes = {{"decode", sizeof(rt::DecodeArgs)},
             {"lowering", sizeof(rt::DecodeArgs)},
             {"read", sizeof(rt::ReadArgs)},
             {rt::kAppendKernel, sizeof(rt::AppendArgs)}};
    auto code = [](const bench::Problem &problem, const char *name) {
      return bench::DeviceCode{
          std::string(".entry ") + name, name, 256, 150000,
          pmkvq::deviceSlotBytes(problem.shape.headDim,
                                 problem.image().perToken[rt::kKey])};
    };
    compiler.decode = [code](const bench::Problem &problem, bool,
                             const std::string &) {
      return code(problem, "decode");
    };
    compiler.lowering = [code](const bench::Problem &problem,
                               const std::string &) {
      return code(problem, "lowering");
    };
    compiler.read = [](const std::string &) {
      return bench::DeviceCode{".entry read", "read", 512, 0, 0};
    };
    rt::cuda::WriterCode writers = {rt::kAppendKernel, {}};
    writers.threads[rt::kAppendKernel] = 32;
    for (rt::Part part : {rt::kKey, rt::kValue})
      for (int32_t level : rt::kLadder)
        for (const std::string &name : {rt::flushKernel(part, level),
                                        rt::requantizeKernel(part, level)}) {
          writers.code += " " + name;
          writers.threads[name] = 128;
          bytes[name] = sizeof(rt::PagesArgs);
        }
    compiler.writers = [writers](const bench::Problem &, bool,
                                 const std::string &) { return writers; };
  }

  rt::Result<std::vector<bench::Measurement>>
  measure(const char *levels, const char *context, int64_t every) {
    bench::Shape shape;
    shape.kvHeads = 2;
    shape.queryHeads = 6;
    shape.headDim = headDim;
    shape.batch = 2;
    shape.context = context;
    shape.levels = levels;
    auto problem = bench::understand(shape);
    EXPECT_TRUE(problem.ok()) << problem.status().message();
    lowering.problem = *problem;
    auto driver = cuda::Driver::load(standIn.file());
    EXPECT_TRUE(driver.ok()) << driver.status().message();
    auto device = cuda::Device::open(*driver);
    EXPECT_TRUE(device.ok()) << device.status().message();
    return bench::measureLowering(*device, compiler, *problem, every);
  }

  void expectRefused(const char *levels, const char *context, StatusCode code,
                     const char *word) {
    auto rows = measure(levels, context, 1);
    ASSERT_FALSE(rows.ok()) << word;
    EXPECT_EQ(rows.status().code(), code);
    EXPECT_NE(rows.status().message().find(word), std::string::npos)
        << rows.status().message();
  }

  void TearDown() override {
    EXPECT_EQ(standIn.state().live, 0) << "handles are left";
  }

  StandIn standIn{PMKVQ_STANDIN_CUDA};
  bench::DeviceCompiler compiler;
};

TEST_F(BenchLowerTest, MeasuresAttentionLoweringAndBoth) {
  // 4 pairs of 8 pages, of which two fall, each of 2 + 2 blocks of 2,048 bytes.
  auto rows = measure("4", "1024", 4);
  ASSERT_TRUE(rows.ok()) << rows.status().message();
  ASSERT_EQ(rows->size(), 4u);
  const bench::Measurement &attention = (*rows)[0], &alone = (*rows)[1],
                           &after = (*rows)[2], &both = (*rows)[3];
  EXPECT_EQ(attention.device, "cuda");
  EXPECT_EQ(alone.device, "cuda-lower");
  EXPECT_EQ(after.device, "cuda;lower");
  EXPECT_NEAR(after.attention.median, 16, 1e-3);
  EXPECT_EQ(both.device, "cuda+lower");
  const int64_t written = 4 * 2 * 2 * 2048;
  EXPECT_EQ(both.bytes - attention.bytes, written);
  EXPECT_EQ(alone.bytes, 3 * written);
  // Keys and values, one launch each.
  EXPECT_NEAR(alone.attention.median, 6, 1e-3);
  EXPECT_NEAR(both.attention.median, 12, 1e-3);
  EXPECT_NEAR(both.readMicroseconds,
              10.0 * double(both.bytes) / double(attention.bytes), 1e-3);
}

TEST_F(BenchLowerTest, EveryKindThatFallsIsTheReferences) {
  for (auto [levels, context] :
       {std::pair("8", "ragged:200-900"),
        {"k8v4", "1024"},
        {"k4v2", "ragged:200-900"},
        {"k2v8", "1024"},
        {"mixed:k4v2=3/4=2/k8v4=2/16=1", "ragged:600-900"}}) {
    auto rows = measure(levels, context, 3);
    EXPECT_TRUE(rows.ok()) << levels << " " << context << ": "
                           << rows.status().message();
  }
}

TEST_F(BenchLowerTest, WhatDoesNotFallIsRefused) {
  expectRefused("2", "1024", StatusCode::InvalidArgument, "at 2 already");
  expectRefused("16", "1024", StatusCode::InvalidArgument, "below 16 bits");
  expectRefused("k16v4", "1024", StatusCode::InvalidArgument, "below 16 bits");
  expectRefused("4", "100", StatusCode::InvalidArgument, "at least one page");
  expectRefused("4", "1024+2", StatusCode::InvalidArgument, "one query token");
  headDim = 80;
  expectRefused("4", "1024", StatusCode::InvalidArgument, "multiple of 64");
}

TEST_F(BenchLowerTest, AWrongCodeIsSeen) {
  // A bit of the last block that is written; of a block that is read.
  lowering.spoil = [](const rt::DecodeArgs &arguments) {
    auto *codes = const_cast<uint8_t *>(arguments.codes);
    const int64_t read = 4 * 8 * (4 * 2048 + (64 + 128) * 4);
    codes[(read + 2047) / 2048 * 2048 + 5] ^= 1;
  };
  expectRefused("4", "1024", StatusCode::Internal, "page");
  lowering.spoil = [](const rt::DecodeArgs &arguments) {
    static bool isOdd = false;
    isOdd = !isOdd;
    // Parameters of a slot that attention rounds away.
    if (!isOdd)
      const_cast<uint8_t *>(arguments.codes)[0] ^= 1;
  };
  auto rows = measure("4", "1024", 1);
  EXPECT_FALSE(rows.ok());
}
} // namespace
