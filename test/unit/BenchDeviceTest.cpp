//===- BenchDeviceTest.cpp - The benchmark on a stand-in GPU --------------===//
//
// The whole host side of a measurement, with a kernel that does what the ABI
// says: content, conversion, work lists, launches, checks, times.  Neighbours:
// StandInDecode.h (the kernel), StandInCuda.h (the driver).
//
//===----------------------------------------------------------------------===//

#include "StandInCuda.h"
#include "StandInDecode.h"
#include "bench/DeviceBench.h"

#include <gtest/gtest.h>

namespace cuda = pmkvq::rt::cuda;
namespace bench = pmkvq::bench;
namespace rt = pmkvq::rt;
using pmkvq::test::StandIn;
using pmkvq::test::StandInDecode;
using pmkvq::test::StandInLaunch;
using rt::StatusCode;

namespace {
/// What the stand-in's kernels do; a plain function cannot carry it.
struct Behaviour {
  const StandInDecode *decode = nullptr;
  /// After a run of decode: may spoil its results.
  void (*spoil)(const rt::DecodeArgs &) = nullptr;
  /// What the last run of decode alone has left.  Launches in graphs have the
  /// same content, and there are thousands of them: they copy it.
  std::vector<float> results;
  size_t count = 0;
  bool graphsForget = false;
  std::vector<unsigned> readGrids;
};
Behaviour behaviour;

double runKernel(const StandInLaunch &launch, const void *argument) {
  if (launch.kernel == "read") {
    behaviour.readGrids.push_back(launch.blocks);
    // 4 blocks a multiprocessor are best.
    return launch.blocks == 4 * 132 ? 5 : 8;
  }
  const auto &arguments = *static_cast<const rt::DecodeArgs *>(argument);
  if (launch.inGraph) {
    if (!launch.dependent || !behaviour.graphsForget)
      std::copy(behaviour.results.begin(), behaviour.results.end(),
                arguments.results);
    return launch.dependent ? 9 : 10;
  }
  behaviour.decode->run(arguments, launch.blocks);
  if (behaviour.spoil)
    behaviour.spoil(arguments);
  behaviour.results.assign(arguments.results,
                           arguments.results + behaviour.count);
  return 10;
}

class BenchDeviceTest : public testing::Test {
protected:
  BenchDeviceTest() {
    behaviour = {};
    standIn.state().run = runKernel;
    standIn.state().argumentBytes = {{"decode", sizeof(rt::DecodeArgs)},
                                     {"read", sizeof(rt::ReadArgs)}};
    compiler.decode = [this](const bench::Problem &problem, bool,
                             const std::string &chip) {
      EXPECT_EQ(chip, "sm_90a");
      return bench::DeviceCode{
          ".entry decode",
          "decode",
          256,
          150000,
          pmkvq::deviceSlotBytes(problem.shape.headDim,
                                 problem.image().perToken[rt::kKey]),
          rowsOf(problem),
          takesPages};
    };
    compiler.read = [](const std::string &) {
      return bench::DeviceCode{".entry read", "read", 512, 0, 0};
    };
  }

  cuda::DeviceRef open() {
    auto driver = cuda::Driver::load(standIn.file());
    EXPECT_TRUE(driver.ok()) << driver.status().message();
    auto device = cuda::Device::open(*driver);
    EXPECT_TRUE(device.ok()) << device.status().message();
    return *device;
  }

  /// Small, and shared among several rows.
  static bench::Shape shape(const char *levels, const char *context = "1024") {
    bench::Shape shape;
    shape.kvHeads = 2;
    shape.queryHeads = 6;
    shape.headDim = 64;
    shape.batch = 2;
    shape.context = context;
    shape.levels = levels;
    return shape;
  }

  /// Rows of a segment.
  int64_t rowsOf(const bench::Problem &problem) const {
    return rt::segmentRows(problem.group(), problem.rows,
                           takesPages ? rt::kMaxWarpgroupQueries
                                      : rt::kMaxSegmentQueries);
  }

  rt::Result<bench::Errors> check(const bench::Shape &shape) {
    auto problem = bench::understand(shape);
    EXPECT_TRUE(problem.ok()) << problem.status().message();
    StandInDecode decode(*problem, rowsOf(*problem), takesPages);
    behave(*problem, decode);
    return bench::checkOnDevice(open(), compiler, *problem, {});
  }

  static void behave(const bench::Problem &problem,
                     const StandInDecode &decode) {
    behaviour.decode = &decode;
    behaviour.count = static_cast<size_t>(problem.outputs());
  }

  void expectRefused(const rt::Status &status, StatusCode code,
                     const char *word) {
    EXPECT_EQ(status.code(), code);
    EXPECT_NE(status.message().find(word), std::string::npos)
        << status.message();
  }

  void TearDown() override {
    EXPECT_EQ(standIn.state().live, 0) << "handles are left";
    EXPECT_EQ(standIn.state().lost, 0);
  }

  StandIn standIn{PMKVQ_STANDIN_CUDA};
  bench::DeviceCompiler compiler;
  /// Whether the kernels take pages.
  bool takesPages = false;
};

/// Partial results and outputs are f32; a few roundings of each.
constexpr double kSingle = 1e-6;

TEST_F(BenchDeviceTest, WhatTheHostHandsOverIsTheReferencesCache) {
  for (const char *levels :
       {"16", "8", "4", "2", "k8v2", "k2v4", "k4v8", "k16v8", "k16v4", "k16v2",
        "k8v16", "k4v16", "k2v16", "mixed:2=3/4=1/k8v4=1/k16v2=1/16=1"})
    for (const char *context : {"1024", "333", "ragged:1-1500"}) {
      auto errors = check(shape(levels, context));
      ASSERT_TRUE(errors.ok())
          << levels << " " << context << ": " << errors.status().message();
      EXPECT_LT(errors->rms, kSingle) << levels << " " << context;
      EXPECT_LT(errors->largest, 10 * kSingle);
    }
}

TEST_F(BenchDeviceTest, SeveralQueryTokensSeeOneMoreEach) {
  for (const char *context : {"128+2", "333+5", "121+4", "ragged:1-1500+16"}) {
    auto errors = check(shape("4", context));
    ASSERT_TRUE(errors.ok()) << context << ": " << errors.status().message();
    EXPECT_LT(errors->rms, kSingle) << context;
  }
}

TEST_F(BenchDeviceTest, ListsOfPagesAreOfTheSameTokens) {
  takesPages = true;
  for (const char *levels : {"4", "mixed:2=3/4=1/k8v4=1/k16v2=1/16=1"})
    for (const char *context :
         {"1024+4", "333+5", "105+16", "ragged:1-1500+16", "129+1"}) {
      auto errors = check(shape(levels, context));
      ASSERT_TRUE(errors.ok())
          << levels << " " << context << ": " << errors.status().message();
      EXPECT_LT(errors->rms, kSingle) << levels << " " << context;
    }
}

TEST_F(BenchDeviceTest, KeysPerTokenAndClipsAreHeeded) {
  bench::Shape made = shape("2", "ragged:200-900");
  made.keyFormat = "<per_token, plain, clip = 0.75>";
  made.valueFormat = "<per_token, hadamard, clip = 0.85>";
  for (const char *levels : {"2", "k4v16"}) {
    made.levels = levels;
    auto errors = check(made);
    ASSERT_TRUE(errors.ok()) << levels << ": " << errors.status().message();
    EXPECT_LT(errors->rms, kSingle) << levels;
  }
}

TEST_F(BenchDeviceTest, MeasuresBothWaysOfLaunchingBesideReading) {
  auto problem = bench::understand(shape("4"));
  ASSERT_TRUE(problem.ok());
  StandInDecode decode(*problem, rowsOf(*problem));
  behave(*problem, decode);
  auto rows = bench::measureOnDevice(open(), compiler, *problem);
  ASSERT_TRUE(rows.ok()) << rows.status().message();
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].device, "cuda");
  EXPECT_EQ((*rows)[1].device, "cuda+dependent");
  EXPECT_NEAR((*rows)[0].attention.median, 10, 1e-3);
  EXPECT_NEAR((*rows)[1].attention.median, 9, 1e-3);
  EXPECT_NEAR((*rows)[0].readMicroseconds, 5, 1e-3);
  EXPECT_NEAR((*rows)[0].ratio(), 2, 1e-3);
  // 4 pairs of 8 pages: 2 blocks a part of 2,048 bytes, and a slot.
  EXPECT_EQ((*rows)[0].bytes, 4 * 8 * (4 * 2048 + (64 + 128) * 4));
  // Every launch in a graph goes to memory of its own until all have been
  // used: the sets take more than the caches hold.
  int64_t sets = bench::setsOf((*rows)[0].bytes);
  EXPECT_GT(sets * (*rows)[0].bytes, 240000000);
  int64_t timed = 0;
  for (const StandInLaunch &launch : standIn.state().launches)
    timed += launch.inGraph && launch.kernel == "decode";
  EXPECT_EQ(timed, 2 * (3 + 31) * bench::launchesOf(sets));
}

TEST_F(BenchDeviceTest, LaunchesThatDisturbEachOtherAreSeen) {
  auto problem = bench::understand(shape("4"));
  ASSERT_TRUE(problem.ok());
  StandInDecode decode(*problem, rowsOf(*problem));
  behave(*problem, decode);
  behaviour.graphsForget = true;
  auto rows = bench::measureOnDevice(open(), compiler, *problem);
  ASSERT_FALSE(rows.ok());
  expectRefused(rows.status(), StatusCode::Internal, "launches in a row");
}

TEST_F(BenchDeviceTest, ResultsThatWereNotWrittenAreSeen) {
  behaviour.spoil = [](const rt::DecodeArgs &arguments) {
    std::memset(arguments.results + 5, 0xff, 4);
  };
  auto errors = check(shape("4"));
  ASSERT_FALSE(errors.ok());
  expectRefused(errors.status(), StatusCode::Internal, "result 5");
}

TEST_F(BenchDeviceTest, ContentThatIsNotNormalIsTheReferencesToo) {
  for (const char *inputs : {"outliers", "tiny", "huge", "constant", "nan"})
    for (const char *levels : {"16", "2"}) {
      bench::Shape made = shape(levels, "ragged:200-900");
      made.inputs = inputs;
      auto errors = check(made);
      ASSERT_TRUE(errors.ok()) << inputs << ": " << errors.status().message();
      EXPECT_LT(errors->rms, kSingle) << inputs << " " << levels;
    }
}

TEST_F(BenchDeviceTest, ANumberMadeOfNoneIsSeen) {
  behaviour.spoil = [](const rt::DecodeArgs &arguments) {
    arguments.results[0] = 1;
  };
  bench::Shape made = shape("4");
  made.inputs = "nan";
  auto errors = check(made);
  ASSERT_FALSE(errors.ok());
  expectRefused(errors.status(), StatusCode::Internal, "made a number");
}

TEST_F(BenchDeviceTest, WrongResultsAreNotMeasured) {
  behaviour.spoil = [](const rt::DecodeArgs &arguments) {
    arguments.results[0] += 0.1f;
  };
  auto errors = check(shape("4"));
  ASSERT_FALSE(errors.ok());
  expectRefused(errors.status(), StatusCode::Internal, "attention is wrong");
}

TEST_F(BenchDeviceTest, RunsThatDifferInABitAreSeen) {
  behaviour.spoil = [](const rt::DecodeArgs &arguments) {
    static int runs = 0;
    if (++runs % 2)
      arguments.results[0] = std::nextafter(arguments.results[0], 1e9f);
  };
  auto errors = check(shape("4"));
  ASSERT_FALSE(errors.ok());
  expectRefused(errors.status(), StatusCode::Internal, "differ in their bits");
}

TEST_F(BenchDeviceTest, WhatAGpuCannotDoIsRefused) {
  bench::Shape channels = shape("4");
  channels.valueFormat = "<per_channel>";
  auto values = check(channels);
  ASSERT_FALSE(values.ok());
  expectRefused(values.status(), StatusCode::Unimplemented, "per_token");
  standIn.state().sharedBytesPerBlock = 100000;
  auto shared = check(shape("4"));
  ASSERT_FALSE(shared.ok());
  expectRefused(shared.status(), StatusCode::Unimplemented, "150000");
}

TEST_F(BenchDeviceTest, TooLittleMemoryIsAStatus) {
  standIn.state().memoryBytes = 100 << 10;
  auto errors = check(shape("4"));
  ASSERT_FALSE(errors.ok());
  expectRefused(errors.status(), StatusCode::OutOfMemory, "are free");
}

TEST_F(BenchDeviceTest, SlotsOfAnotherSizeAreNotRead) {
  compiler.decode = [](const bench::Problem &, bool, const std::string &) {
    return bench::DeviceCode{".entry decode", "decode", 256, 150000, 512};
  };
  auto errors = check(shape("4"));
  ASSERT_FALSE(errors.ok());
  expectRefused(errors.status(), StatusCode::Internal, "512 bytes");
}

TEST_F(BenchDeviceTest, ACompilersErrorArrives) {
  compiler.decode = [](const bench::Problem &, bool,
                       const std::string &) -> rt::Result<bench::DeviceCode> {
    return rt::Status(StatusCode::Unimplemented, "groups of 3");
  };
  auto errors = check(shape("4"));
  ASSERT_FALSE(errors.ok());
  expectRefused(errors.status(), StatusCode::Unimplemented, "groups of 3");
}
} // namespace
