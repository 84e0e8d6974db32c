//===- AttentionSanitizedTest.cpp - Shapes for tools that are slow --------===//
//
// Attention on a GPU over so few tokens that compute-sanitizer ends in a
// minute, and planted errors that prove that it looks.  Neighbours:
// script/run-gpu --sanitize (which runs them), ReadConformance.h.
//
//===----------------------------------------------------------------------===//

#include "CudaReader.h"
#include "RequireGpu.h"

#include <cctype>
#include <cstdio>
#include <cstring>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
bench::Problem fewTokens(const char *levels, int64_t group,
                         const char *more = "") {
  bench::Shape shape;
  shape.kvHeads = 2;
  shape.queryHeads = 2 * group;
  shape.batch = 2;
  shape.context = std::string("ragged:300-700") + more;
  shape.levels = levels;
  auto problem = bench::understand(shape);
  EXPECT_TRUE(problem.ok()) << problem.status().message();
  return *problem;
}

class Sanitized : public testing::TestWithParam<const char *> {
protected:
  void SetUp() override { PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable()); }
  static void expectRight(int32_t blocks, const char *more = "") {
    for (int64_t group : {3, 8})
      for (bool dependent : {false, true}) {
        auto errors = CudaReader::run(fewTokens(GetParam(), group, more),
                                      {dependent, blocks, nullptr});
        EXPECT_TRUE(errors.ok()) << GetParam() << ", groups of " << group
                                 << ": " << errors.status().message();
      }
  }
};

/// A launch whose work list is spoilt.  What a launch leaves after an error is
/// the driver's affair: the test only says it.
class Planted : public testing::Test {
protected:
  void SetUp() override { PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable()); }
  static void runSpoilt(std::function<void(rt::DeviceWorkList &)> spoil) {
    auto errors = CudaReader::run(fewTokens("4", 3), {false, 1, spoil});
    std::printf("planted: %s\n", errors.ok()
                                     ? "nothing seen"
                                     : errors.status().message().c_str());
  }
  /// Adds to a word of the first row.
  static void addTo(rt::DeviceWorkList &list, size_t offset, uint32_t number) {
    uint32_t word = 0;
    std::memcpy(&word, &list.bytes.at(offset), sizeof(word));
    word += number;
    std::memcpy(&list.bytes.at(offset), &word, sizeof(word));
  }
};
} // namespace

// Shares wait for each other by reading memory again and again, which a tool
// that runs one thread block at a time never lets end.
TEST_P(Sanitized, OneThreadBlock) { expectRight(/*blocks=*/1); }
TEST_P(Sanitized, ManyThreadBlocks) { expectRight(/*blocks=*/0); }
// 12 and 32 queries a kv head, on warpgroups.
TEST_P(Sanitized, OneThreadBlockOfSegments) { expectRight(/*blocks=*/1, "+4"); }
TEST_P(Sanitized, ManyThreadBlocksOfSegments) {
  expectRight(/*blocks=*/0, "+4");
}

INSTANTIATE_TEST_SUITE_P(Attention, Sanitized,
                         testing::Values("16", "8", "4", "2", "k4v2",
                                         "mixed:2=1/4=1/8=1/16=1"),
                         [](const auto &levels) {
                           std::string name = levels.param;
                           for (char &c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c)))
                               c = '_';
                           return name;
                         });

/// Far past any allocation of so small a case.
static constexpr uint32_t kFarBytes = 1u << 31;

// Queries are read by loads.
TEST_F(Planted, DISABLED_QueriesPastTheEnd) {
  runSpoilt([](rt::DeviceWorkList &list) {
    addTo(list, sizeof(rt::WorkHeader) + offsetof(rt::WorkSegment, pair),
          kFarBytes / (3 * 128 * sizeof(float)));
  });
}

// Codes are read by bulk copies.
TEST_F(Planted, DISABLED_BlockPastTheEnd) {
  runSpoilt([](rt::DeviceWorkList &list) {
    addTo(list,
          sizeof(rt::WorkHeader) +
              list.segmentsPerRow * sizeof(rt::WorkSegment) +
              offsetof(rt::UnitTask, key),
          kFarBytes / static_cast<uint32_t>(rt::kDeviceGrainBytes));
  });
}

/// Every thread reads what another has written, with no barrier between.
static constexpr const char *kRacingKernel = R"(
.version 8.0
.target sm_80
.address_size 64
.visible .entry race(.param .u64 out) {
  .reg .b32 %r<5>;
  .reg .b64 %rd<4>;
  .shared .align 4 .b8 cells[256];
  mov.u32 %r0, %tid.x;
  mov.u32 %r1, cells;
  mad.lo.u32 %r2, %r0, 4, %r1;
  st.shared.u32 [%r2], %r0;
  xor.b32 %r3, %r0, 32;
  mad.lo.u32 %r3, %r3, 4, %r1;
  ld.shared.u32 %r4, [%r3];
  ld.param.u64 %rd0, [out];
  cvta.to.global.u64 %rd1, %rd0;
  mul.wide.u32 %rd2, %r0, 4;
  add.s64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r4;
  ret;
}
)";

TEST_F(Planted, DISABLED_RaceInSharedMemory) {
  auto device = CudaReader::open();
  ASSERT_TRUE(device.ok()) << device.status().message();
  auto module = rt::cuda::Module::load(*device, kRacingKernel);
  ASSERT_TRUE(module.ok()) << module.status().message();
  auto kernel = (*module)->function("race");
  auto out = rt::cuda::DeviceMemory::allocate(*device, 64 * sizeof(uint32_t));
  auto stream = rt::cuda::Stream::create(*device);
  ASSERT_TRUE(kernel.ok() && out.ok() && stream.ok());
  rt::cuda::LaunchShape shape;
  shape.blocks = 1;
  shape.threads = 64;
  rt::Status status = kernel->launch(*stream, shape, out->pointer<uint32_t>());
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(stream->synchronize().ok());
}
