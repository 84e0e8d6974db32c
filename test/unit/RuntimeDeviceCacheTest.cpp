//===- RuntimeDeviceCacheTest.cpp - Sessions on a stand-in GPU ------------===//
//
// A session whose cache is on a GPU beside one on the CPU: the same steps, the
// same codes, parameters, levels and attention; what fails leaves the session
// as it was.  Neighbours: ArithmeticProgram.h (what both run), DeviceCache.h.
//
//===----------------------------------------------------------------------===//

#include "ArithmeticProgram.h"
#include "pmkvq/Target/PageOrders.h"
#include "pmkvq_rt/Snapshot.h"

#include <cstring>
#include <set>

namespace cuda = pmkvq::rt::cuda;
using namespace pmkvq;
using namespace pmkvq::rt;
using namespace pmkvq::test;

namespace {
bool says(const Status &status, const std::string &word) {
  return status.message().find(word) != std::string::npos;
}

class DeviceCacheTest : public testing::Test {
protected:
  void SetUp() override {
    arithmetic = &state;
    state.info = arithmeticInfo();
    bench::Shape shape;
    shape.kvHeads = state.info.kvHeads;
    shape.queryHeads = state.info.queryHeads;
    shape.headDim = state.info.headDim;
    shape.context = "128";
    shape.keyFormat = "<per_channel>";
    shape.valueFormat = "<per_token>";
    auto problem = bench::understand(shape);
    ASSERT_TRUE(problem.ok()) << problem.status().message();
    state.problem = *problem;
    standIn.state().run = runArithmetic;
    auto &bytes = standIn.state().argumentBytes;
    bytes = {{kAppendKernel, sizeof(AppendArgs)}};
    for (const char *rows : {"1", "2", "4", "8", "16"})
      for (const char *kind : {"", "pages"})
        bytes[std::string("decode") + rows + kind] = sizeof(DecodeArgs);
    for (const std::string &name : pageKernels())
      bytes[name] = sizeof(PagesArgs);
  }

  void TearDown() override {
    cpu.reset();
    gpu.reset();
    EXPECT_EQ(standIn.state().live, 0) << "handles are left";
    EXPECT_EQ(standIn.state().lost, 0) << "calls without a context";
    arithmetic = nullptr;
  }

  static std::set<std::string> pageKernels() {
    std::set<std::string> names;
    for (Part part : {kKey, kValue})
      for (int32_t level : kLadder) {
        names.insert(flushKernel(part, level));
        if (level != kLadder.back())
          names.insert(requantizeKernel(part, level));
      }
    return names;
  }

  Program program() {
    auto opened = openProgram(arithmeticEntries(), {});
    EXPECT_TRUE(opened.ok()) << opened.status().message();
    return *opened;
  }

  cuda::DeviceCacheCode code() {
    cuda::DeviceCacheCode code;
    code.append = {arithmeticAppend};
    code.attend = {arithmeticAttend};
    code.merge = {arithmeticMerge};
    code.writers.code = kAppendKernel;
    code.writers.threads[kAppendKernel] = 32;
    for (const std::string &name : pageKernels()) {
      code.writers.code += " " + name;
      code.writers.threads[name] = 128;
    }
    code.slotBytes =
        DeviceImage(state.problem.image(), nullptr, nullptr).slotBytes();
    code.variants = {0, 0};
    code.decode =
        [this](int32_t,
               const cuda::DecodeNeeds &needs) -> Result<cuda::DecodeCode> {
      compiled.emplace_back(needs.rows, needs.kinds);
      const bool pages = takesPages && needs.rows > 1;
      forWide += pages && needs.wideRanges;
      const int64_t made =
          segmentRows(state.problem.group(), needs.rows,
                      pages ? kMaxWarpgroupQueries : kMaxSegmentQueries);
      std::string name =
          "decode" + std::to_string(made) + (pages ? "pages" : "");
      if (refusal.ok())
        return cuda::DecodeCode{name, name, 256, 150000, made, pages};
      return refusal;
    };
    code.orders = pageOrders(state.problem.image());
    return code;
  }

  SessionOptions options(int64_t room) {
    SessionOptions options;
    options.maxSequences = 3;
    options.maxTokens = 1000;
    options.threads = 2;
    auto least = minimumBytes(program(), options, {{0, 500, 1}});
    EXPECT_TRUE(least.ok()) << least.status().message();
    options.budgetBytes = *least + room;
    return options;
  }

  std::shared_ptr<cuda::DeviceCache> makeCache() {
    auto driver = cuda::Driver::load(standIn.file());
    EXPECT_TRUE(driver.ok()) << driver.status().message();
    auto device = cuda::Device::open(*driver);
    EXPECT_TRUE(device.ok()) << device.status().message();
    auto cache = cuda::DeviceCache::create(*device, code());
    EXPECT_TRUE(cache.ok()) << cache.status().message();
    return *cache;
  }

  /// Two sessions that differ in where their caches are.
  void open(int64_t room = 200'000) {
    SessionOptions options = this->options(room);
    auto first = Session::open(program(), options);
    ASSERT_TRUE(first.ok()) << first.status().message();
    cpu = std::move(*first);
    options.store = makeCache();
    auto second = Session::open(program(), options);
    ASSERT_TRUE(second.ok()) << second.status().message();
    gpu = std::move(*second);
  }

  std::vector<int32_t> tokens(int32_t sequence, int32_t count) {
    std::vector<int32_t> result;
    for (int32_t i = 0; i < count; ++i)
      result.push_back((sequence * 5 + i * 3 + i / 7) % 10);
    return result;
  }

  Status stepOn(Session &session, int32_t sequence,
                const std::vector<int32_t> &tokens) {
    return session
        .step({{sequence, tokens.data(), static_cast<int32_t>(tokens.size())}})
        .status();
  }

  /// One step of both; attention, if it is computed, must be the same.
  void step(int32_t sequence, const std::vector<int32_t> &tokens) {
    Status status = stepOn(*cpu, sequence, tokens);
    ASSERT_TRUE(status.ok()) << status.message();
    std::vector<float> expected = state.outputs;
    status = stepOn(*gpu, sequence, tokens);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(expected.size(), state.outputs.size());
    if (!state.attends)
      return;
    // Both are double precision rounded once; partial results are f32.
    for (size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(state.outputs[i], expected[i], 1e-5) << "output " << i;
  }

  /// `count` tokens in chunks as large as may be.
  void feed(int32_t sequence, int32_t count, bool attends = false) {
    state.attends = attends;
    while (count > 0) {
      int32_t now = std::min(count, cpu->room(sequence));
      ASSERT_NO_FATAL_FAILURE(step(sequence, tokens(sequence, now)));
      count -= now;
    }
    state.attends = true;
  }

  static std::vector<uint8_t> snapshot(const Session &session,
                                       int32_t sequence) {
    auto bytes = session.snapshot(sequence);
    EXPECT_TRUE(bytes.ok()) << bytes.status().message();
    return bytes.ok() ? *bytes : std::vector<uint8_t>();
  }

  /// Slots are zero at first on either side, and none of these tests makes a
  /// page in one that was used before: all bytes are equal.
  void expectEqual(int32_t sequence) {
    EXPECT_EQ(snapshot(*cpu, sequence), snapshot(*gpu, sequence));
  }

  StandIn standIn{PMKVQ_STANDIN_CUDA};
  Arithmetic state;
  /// Rows and kinds of each decode kernel that was asked for.
  std::vector<std::pair<int64_t, std::vector<UnitKind>>> compiled;
  Status refusal;
  /// Whether kernels of several rows take pages.
  bool takesPages = false;
  /// How many of those were asked for wide ranges.
  int32_t forWide = 0;
  std::unique_ptr<Session> cpu, gpu;
};

TEST_F(DeviceCacheTest, ASessionHasTheCacheOfTheCpu) {
  ASSERT_NO_FATAL_FAILURE(open());
  // A chunk of rows that see different tokens, then tokens one by one over the
  // end of a window.
  ASSERT_NO_FATAL_FAILURE(feed(0, 40, /*attends=*/true));
  ASSERT_NO_FATAL_FAILURE(feed(0, 340));
  expectEqual(0);
  for (int32_t i = 0; i < 12; ++i)
    ASSERT_NO_FATAL_FAILURE(step(0, {i % 10}));
  expectEqual(0);
  // Pages have fallen, and no kernel was made anew for what they fell to.
  EXPECT_GT(gpu->levels(0, kKey)[1] + gpu->levels(0, kKey)[2] +
                gpu->levels(0, kKey)[3],
            0);
  std::set<int64_t> rows;
  for (const auto &[count, kinds] : compiled) {
    EXPECT_TRUE(rows.insert(count).second) << count << " rows";
    EXPECT_EQ(kinds, (std::vector<UnitKind>{{16, 16}, {8, 8}, {4, 4}, {2, 2}}));
  }
}

TEST_F(DeviceCacheTest, ASnapshotsOtherLevelsMakeAKernelAnew) {
  ASSERT_NO_FATAL_FAILURE(open(/*room=*/0));
  ASSERT_NO_FATAL_FAILURE(feed(0, 330));
  ASSERT_GT(gpu->levels(0, kKey)[2] + gpu->levels(0, kKey)[3], 0);
  std::vector<uint8_t> bytes = snapshot(*gpu, 0);
  SessionOptions options = this->options(0);
  options.budgetBytes = -1;
  options.store = makeCache();
  compiled.clear();
  auto unlimited = Session::open(program(), options);
  ASSERT_TRUE(unlimited.ok()) << unlimited.status().message();
  ASSERT_EQ(compiled.size(), 1u);
  EXPECT_EQ(compiled[0].second, (std::vector<UnitKind>{{16, 16}}));
  ASSERT_TRUE((*unlimited)->restore(0, bytes.data(), bytes.size()).ok());
  ASSERT_TRUE(stepOn(**unlimited, 0, {1}).ok());
  EXPECT_GT(compiled.back().second.size(), 1u);
}

TEST_F(DeviceCacheTest, SequencesSideBySideAndOneAfterTheOther) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(feed(0, 150));
  ASSERT_NO_FATAL_FAILURE(feed(2, 135));
  std::vector<int32_t> first = {1, 2, 3}, second = {4};
  standIn.state().launches.clear();
  std::vector<StepRun> runs = {{2, first.data(), 3}, {0, second.data(), 1}};
  ASSERT_TRUE(cpu->step(runs).ok());
  std::vector<float> expected = state.outputs;
  ASSERT_TRUE(gpu->step(runs).ok());
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(state.outputs[i], expected[i], 1e-5) << "output " << i;
  expectEqual(0);
  expectEqual(2);
  // All three rows of the one sequence at once, beside the other's.
  EXPECT_TRUE(std::any_of(
      standIn.state().launches.begin(), standIn.state().launches.end(),
      [](const StandInLaunch &launch) { return launch.kernel == "decode4"; }));
}

TEST_F(DeviceCacheTest, KernelsForManyRowsMayTakePages) {
  takesPages = true;
  ASSERT_NO_FATAL_FAILURE(open());
  // Chunks with and without pages before them, the last of 16 rows and of few.
  for (int32_t count : {40, 130, 16, 140, 3, 1})
    ASSERT_NO_FATAL_FAILURE(feed(0, count, /*attends=*/true));
  expectEqual(0);
  std::set<std::string> names;
  for (const StandInLaunch &launch : standIn.state().launches)
    names.insert(launch.kernel);
  for (const char *name : {"decode1", "decode4pages", "decode16pages"})
    EXPECT_TRUE(names.count(name)) << name;
}

TEST_F(DeviceCacheTest, KernelsOverPagesTakeWideRangesOnceThereWasOne) {
  takesPages = true;
  state.wide = 10;
  ASSERT_NO_FATAL_FAILURE(open(/*room=*/0));
  // Pages fall to what narrow kernels take, then one has the token in it.
  ASSERT_NO_FATAL_FAILURE(feed(0, 330, /*attends=*/true));
  ASSERT_LT(gpu->levels(0, kKey)[0], gpu->pages(0)) << "no page has fallen";
  EXPECT_EQ(forWide, 0);
  ASSERT_NO_FATAL_FAILURE(step(0, {state.wide}));
  for (int32_t i = 0; i < 40 && forWide == 0; ++i)
    ASSERT_NO_FATAL_FAILURE(step(0, {i % 10, i % 7}));
  EXPECT_GT(forWide, 0);
  expectEqual(0);
  // A cache that the page is restored to knows, too.
  std::vector<uint8_t> bytes = snapshot(*gpu, 0);
  SessionOptions options = this->options(0);
  options.store = makeCache();
  auto restored = Session::open(program(), options);
  ASSERT_TRUE(restored.ok()) << restored.status().message();
  forWide = 0;
  ASSERT_TRUE((*restored)->restore(0, bytes.data(), bytes.size()).ok());
  ASSERT_TRUE(stepOn(**restored, 0, {1, 2}).ok());
  EXPECT_GT(forWide, 0);
}

TEST_F(DeviceCacheTest, AWarmStepIsTwoKernelsALayerAndAllocatesNothing) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(feed(0, 200));
  ASSERT_NO_FATAL_FAILURE(step(0, {3}));
  uint64_t before = standIn.state().usedBytes;
  standIn.state().launches.clear();
  ASSERT_NO_FATAL_FAILURE(step(0, {4}));
  std::vector<std::string> names;
  for (const StandInLaunch &launch : standIn.state().launches)
    names.push_back(launch.kernel);
  EXPECT_EQ(names, (std::vector<std::string>{"append", "decode1", "append",
                                             "decode1"}));
  EXPECT_EQ(standIn.state().launches[0].blocks, 2u);
  EXPECT_EQ(standIn.state().usedBytes, before);
}

TEST_F(DeviceCacheTest, AForkGoesOnByItself) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(feed(0, 300));
  for (Session *session : {cpu.get(), gpu.get()})
    ASSERT_TRUE(session->fork(0, 1).ok());
  expectEqual(1);
  ASSERT_NO_FATAL_FAILURE(step(0, {1, 2, 3}));
  ASSERT_NO_FATAL_FAILURE(step(1, {7}));
  expectEqual(0);
  expectEqual(1);
  EXPECT_NE(snapshot(*gpu, 0), snapshot(*gpu, 1));
  // The parent's window becomes a page, and pages that both hold fall.
  ASSERT_NO_FATAL_FAILURE(feed(0, 260));
  ASSERT_NO_FATAL_FAILURE(step(1, {8}));
  expectEqual(0);
  expectEqual(1);
}

TEST_F(DeviceCacheTest, SnapshotsGoFromOneToTheOther) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(feed(0, 345));
  std::vector<uint8_t> ofCpu = snapshot(*cpu, 0), ofGpu = snapshot(*gpu, 0);
  ASSERT_EQ(ofCpu, ofGpu);
  // Across, and among other sequences.
  ASSERT_TRUE(gpu->restore(1, ofCpu.data(), ofCpu.size()).ok());
  ASSERT_TRUE(cpu->restore(1, ofGpu.data(), ofGpu.size()).ok());
  expectEqual(0);
  expectEqual(1);
  // Both may have lowered what came in; attention goes on alike.
  ASSERT_NO_FATAL_FAILURE(step(1, {2}));
  ASSERT_NO_FATAL_FAILURE(step(0, {2}));
  expectEqual(1);
}

TEST_F(DeviceCacheTest, ACacheThatDoesNotFitIsRefusedWithItsBytes) {
  standIn.state().memoryBytes = 100'000;
  SessionOptions options = this->options(200'000);
  options.store = makeCache();
  auto opened = Session::open(program(), options);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.status().code(), StatusCode::OutOfMemory);
  EXPECT_TRUE(says(opened.status(), "100000 are free"))
      << opened.status().message();
}

TEST_F(DeviceCacheTest, WithoutMemoryAFlushLeavesTheSessionAsItWas) {
  ASSERT_NO_FATAL_FAILURE(open());
  // The next token makes the first page.
  ASSERT_NO_FATAL_FAILURE(feed(0, 129));
  std::vector<uint8_t> before = snapshot(*gpu, 0);
  uint64_t all = standIn.state().memoryBytes;
  standIn.state().memoryBytes = standIn.state().usedBytes;
  Status status = stepOn(*gpu, 0, {5});
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory) << status.message();
  EXPECT_TRUE(gpu->usable().ok());
  EXPECT_EQ(gpu->pages(0), 0);
  EXPECT_EQ(snapshot(*gpu, 0), before);
  // With memory it goes on as if nothing had been.
  standIn.state().memoryBytes = all;
  ASSERT_NO_FATAL_FAILURE(step(0, {5}));
  expectEqual(0);
}

TEST_F(DeviceCacheTest, WithoutMemoryALoweringLeavesTheSessionAsItWas) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(feed(0, 129));
  const uint64_t all = standIn.state().memoryBytes;
  int32_t refused = 0;
  // Every step makes a page and lowers others, if room is short.
  while (gpu->tokens(0) < 800) {
    std::vector<uint8_t> before = snapshot(*gpu, 0);
    LevelCounts levels = gpu->levels(0, kKey);
    standIn.state().memoryBytes = standIn.state().usedBytes;
    std::vector<int32_t> chunk = tokens(0, gpu->room(0));
    state.attends = false;
    Status status = stepOn(*gpu, 0, chunk);
    standIn.state().memoryBytes = all;
    if (status.ok()) {
      ASSERT_TRUE(stepOn(*cpu, 0, chunk).ok());
    } else {
      ASSERT_EQ(status.code(), StatusCode::OutOfMemory) << status.message();
      ASSERT_EQ(snapshot(*gpu, 0), before);
      ASSERT_NO_FATAL_FAILURE(feed(0, static_cast<int32_t>(chunk.size())));
      refused += gpu->levels(0, kKey)[0] <= levels[0];
    }
    expectEqual(0);
  }
  EXPECT_GT(refused, 0) << "no step that lowers pages was refused";
}

TEST_F(DeviceCacheTest, ASnapshotOfAnotherGeometryIsRefused) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(feed(0, 150));
  const std::vector<uint8_t> good = snapshot(*gpu, 0);
  SnapshotHeader header;
  std::memcpy(&header, good.data(), sizeof(header));
  auto restore = [&](SnapshotHeader changed) {
    std::vector<uint8_t> bytes = good;
    std::memcpy(bytes.data(), &changed, sizeof(changed));
    changed.hash = snapshotHash(bytes.data(), bytes.size());
    std::memcpy(bytes.data(), &changed, sizeof(changed));
    return gpu->restore(1, bytes.data(), bytes.size());
  };
  SnapshotHeader other = header;
  ++other.geometry.kvHeads;
  EXPECT_TRUE(says(restore(other), "kv heads 3, here 2"));
  other = header;
  ++other.geometry.formatHash;
  EXPECT_TRUE(says(restore(other), "other formats"));
  other = header;
  ++other.version;
  EXPECT_TRUE(says(restore(other), "version"));
  EXPECT_EQ(gpu->tokens(1), 0);
  EXPECT_EQ(snapshot(*gpu, 0), good);
  EXPECT_TRUE(restore(header).ok());
}

TEST_F(DeviceCacheTest, WithoutMemoryAStepLeavesTheSessionAsItWas) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(step(0, {1}));
  uint64_t all = standIn.state().memoryBytes;
  standIn.state().memoryBytes = standIn.state().usedBytes;
  // Many rows need larger buffers.
  Status status = stepOn(*gpu, 0, tokens(0, 100));
  EXPECT_EQ(status.code(), StatusCode::OutOfMemory) << status.message();
  EXPECT_EQ(gpu->tokens(0), 1);
  standIn.state().memoryBytes = all;
  ASSERT_NO_FATAL_FAILURE(feed(0, 100));
  expectEqual(0);
}

TEST_F(DeviceCacheTest, WhatTheCompilerRefusesIsSaidBeforeTheStep) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(feed(0, 129));
  refusal = {StatusCode::Unimplemented, "no such rows"};
  // The window is full, so that this would make a page; and no step had two
  // tokens yet.
  state.attends = false;
  std::vector<uint8_t> before = snapshot(*gpu, 0);
  Status status = stepOn(*gpu, 0, {1, 2});
  EXPECT_EQ(status.code(), StatusCode::Unimplemented) << status.message();
  EXPECT_EQ(snapshot(*gpu, 0), before);
  refusal = {};
  EXPECT_TRUE(stepOn(*gpu, 0, {1}).ok());
}

TEST_F(DeviceCacheTest, WhatCannotBeRepresentedIsNamedAsOnTheCpu) {
  ASSERT_NO_FATAL_FAILURE(open(/*room=*/0));
  state.poison = 10;
  state.attends = false;
  Status ofCpu, ofGpu;
  std::vector<int32_t> fed = tokens(0, 129);
  fed[77] = state.poison;
  for (Session *session : {cpu.get(), gpu.get()})
    ASSERT_TRUE(stepOn(*session, 0, fed).ok());
  for (int32_t i = 0; i < 700 && ofCpu.ok(); ++i) {
    ofCpu = stepOn(*cpu, 0, {1});
    ofGpu = stepOn(*gpu, 0, {1});
  }
  EXPECT_EQ(ofCpu.code(), StatusCode::NotRepresentable) << ofCpu.message();
  EXPECT_EQ(ofGpu.code(), StatusCode::NotRepresentable);
  EXPECT_EQ(ofGpu.message(), ofCpu.message());
  EXPECT_FALSE(gpu->usable().ok());
}

TEST_F(DeviceCacheTest, ADeviceThatFailsInAStepIsQuoted) {
  ASSERT_NO_FATAL_FAILURE(open());
  ASSERT_NO_FATAL_FAILURE(feed(0, 20));
  standIn.state().failing = "cuLaunchKernelEx";
  standIn.state().failure = 700;
  Status status = stepOn(*gpu, 0, {1});
  EXPECT_TRUE(says(status, "CUDA_ERROR_ILLEGAL_ADDRESS")) << status.message();
  EXPECT_FALSE(gpu->usable().ok());
}

TEST_F(DeviceCacheTest, AStoreIsForOneSession) {
  SessionOptions options = this->options(200'000);
  options.store = makeCache();
  auto first = Session::open(program(), options);
  ASSERT_TRUE(first.ok()) << first.status().message();
  auto second = Session::open(program(), options);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::FailedPrecondition);
}
} // namespace
