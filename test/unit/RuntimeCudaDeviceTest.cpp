//===- RuntimeCudaDeviceTest.cpp - Handles on a stand-in GPU --------------===//
//
// Devices, memory, graphs, modules and launches, and that nothing is left
// behind, on a driver of the tests' own.  Neighbours: Device.h, Decode.h.
//
//===----------------------------------------------------------------------===//

#include "StandInCuda.h"
#include "pmkvq_rt/cuda/Decode.h"

#include <cstring>
#include <gtest/gtest.h>
#include <thread>

namespace cuda = pmkvq::rt::cuda;
using namespace pmkvq::rt;
using pmkvq::test::StandIn;
using pmkvq::test::StandInLaunch;

namespace {
class CudaDeviceTest : public testing::Test {
protected:
  cuda::DeviceRef open() {
    auto driver = cuda::Driver::load(standIn.file());
    EXPECT_TRUE(driver.ok()) << driver.status().message();
    auto device = cuda::Device::open(*driver);
    EXPECT_TRUE(device.ok()) << device.status().message();
    return *device;
  }

  Status refusal() {
    auto driver = cuda::Driver::load(standIn.file());
    EXPECT_TRUE(driver.ok());
    auto device = cuda::Device::open(*driver);
    EXPECT_FALSE(device.ok());
    return device.status();
  }

  void TearDown() override {
    EXPECT_EQ(standIn.state().live, 0) << "handles are left";
    EXPECT_EQ(standIn.state().usedBytes, 0u);
    EXPECT_EQ(standIn.state().lost, 0) << "calls without a context";
  }

  StandIn standIn{PMKVQ_STANDIN_CUDA};
};

bool says(const Status &status, const std::string &word) {
  return status.message().find(word) != std::string::npos;
}

TEST_F(CudaDeviceTest, KnowsItsChip) {
  EXPECT_EQ(open()->chip(), "sm_90a");
  EXPECT_EQ(open()->multiprocessors(), 132);
  standIn.state().major = 8;
  standIn.state().minor = 6;
  EXPECT_EQ(open()->chip(), "sm_86");
  standIn.state().major = 12;
  EXPECT_EQ(open()->chip(), "sm_120");
  standIn.state().major = 10;
  EXPECT_EQ(open()->chip(), "sm_100");
}

TEST_F(CudaDeviceTest, RefusesChipsWithoutTheInstructions) {
  standIn.state().major = 7;
  standIn.state().minor = 5;
  Status status = refusal();
  EXPECT_EQ(status.code(), StatusCode::Unimplemented);
  EXPECT_TRUE(says(status, "7.5") && says(status, "8.0") &&
              says(status, "Stand-in GPU"))
      << status.message();
}

TEST_F(CudaDeviceTest, RefusesWhenNoDeviceIsVisible) {
  standIn.state().devices = 0;
  Status status = refusal();
  EXPECT_EQ(status.code(), StatusCode::FailedPrecondition);
  EXPECT_TRUE(says(status, "CUDA_VISIBLE_DEVICES")) << status.message();
}

TEST_F(CudaDeviceTest, MemoryGoesThereAndBack) {
  cuda::DeviceRef device = open();
  auto memory = cuda::DeviceMemory::allocate(device, 1000);
  ASSERT_TRUE(memory.ok());
  std::string text(600, 'x'), back(600, ' ');
  ASSERT_TRUE(memory->upload(text.data(), 600, 400).ok());
  ASSERT_TRUE(memory->download(back.data(), 600, 400).ok());
  EXPECT_EQ(back, text);
  auto copy = cuda::DeviceMemory::allocate(device, 1000);
  ASSERT_TRUE(copy->copyFrom(*memory).ok());
  ASSERT_TRUE(memory->fill(0).ok());
  ASSERT_TRUE(copy->download(back.data(), 600, 400).ok());
  EXPECT_EQ(back, text);
  EXPECT_EQ(memory->upload(text.data(), 600, 401).code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(memory->download(back.data(), 1, -1).code(),
            StatusCode::InvalidArgument);
  // Moved from: empty, and freed once.
  cuda::DeviceMemory moved = std::move(*memory);
  EXPECT_EQ(moved.bytes(), 1000);
}

TEST_F(CudaDeviceTest, TooLittleMemorySaysHowMuchThereIs) {
  standIn.state().memoryBytes = 1 << 20;
  cuda::DeviceRef device = open();
  auto memory = cuda::DeviceMemory::allocate(device, 2 << 20);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.status().code(), StatusCode::OutOfMemory);
  EXPECT_TRUE(says(memory.status(), "2097152") &&
              says(memory.status(), "1048576 are free"))
      << memory.status().message();
  // The device works on.
  EXPECT_TRUE(cuda::DeviceMemory::allocate(device, 1 << 20).ok());
}

TEST_F(CudaDeviceTest, HandlesWorkOnAnyThread) {
  cuda::DeviceRef device = open();
  auto memory = cuda::DeviceMemory::allocate(device, 64);
  Status status;
  std::thread([&] { status = memory->fill(7); }).join();
  EXPECT_TRUE(status.ok());
}

TEST_F(CudaDeviceTest, BadCodeBringsTheCompilersWords) {
  auto module = cuda::Module::load(open(), "BAD");
  ASSERT_FALSE(module.ok());
  EXPECT_TRUE(says(module.status(), "ptxas: line 1: syntax error"))
      << module.status().message();
}

TEST_F(CudaDeviceTest, AMissingKernelIsNamed) {
  auto module = cuda::Module::load(open(), ".entry decode");
  ASSERT_TRUE(module.ok());
  auto function = (*module)->function("read");
  ASSERT_FALSE(function.ok());
  EXPECT_TRUE(says(function.status(), "read"));
}

TEST_F(CudaDeviceTest, SharedMemoryThatIsNotThereIsRefused) {
  auto module = cuda::Module::load(open(), ".entry decode");
  auto function = (*module)->function("decode");
  ASSERT_TRUE(function.ok());
  EXPECT_TRUE(function->reserve(232448).ok());
  Status status = function->reserve(232449);
  EXPECT_EQ(status.code(), StatusCode::Unimplemented);
  EXPECT_TRUE(says(status, "232449") && says(status, "232448"));
}

TEST_F(CudaDeviceTest, GraphsRunWhatWasRecorded) {
  cuda::DeviceRef device = open();
  standIn.state().argumentBytes["decode"] = sizeof(DecodeArgs);
  standIn.state().run = [](const StandInLaunch &, const void *argument) {
    return static_cast<double>(
        static_cast<const DecodeArgs *>(argument)->rowBytes);
  };
  auto stream = cuda::Stream::create(device);
  auto module = cuda::Module::load(device, ".entry decode");
  auto function = (*module)->function("decode");
  ASSERT_TRUE(stream.ok() && function.ok());
  auto graph = cuda::Graph::capture(*stream, [&]() -> Status {
    for (uint32_t i = 0; i < 3; ++i) {
      DecodeArgs arguments = {};
      arguments.rowBytes = 10 + i;
      Status status =
          function->launch(*stream, {132, 256, 1024, i > 0}, arguments);
      if (!status.ok())
        return status;
    }
    return {};
  });
  ASSERT_TRUE(graph.ok()) << graph.status().message();
  EXPECT_TRUE(standIn.state().launches.empty());
  auto begin = cuda::Event::create(device), end = cuda::Event::create(device);
  ASSERT_TRUE(begin->record(*stream).ok());
  ASSERT_TRUE(graph->launch(*stream).ok() && graph->launch(*stream).ok());
  ASSERT_TRUE(end->record(*stream).ok() && end->synchronize().ok());
  const auto &launches = standIn.state().launches;
  ASSERT_EQ(launches.size(), 6u);
  EXPECT_EQ(launches[0].blocks, 132u);
  EXPECT_EQ(launches[0].threads, 256u);
  EXPECT_EQ(launches[0].sharedBytes, 1024u);
  EXPECT_FALSE(launches[0].dependent);
  EXPECT_TRUE(launches[1].dependent && launches[1].inGraph);
  auto time = end->microsecondsSince(*begin);
  ASSERT_TRUE(time.ok());
  EXPECT_NEAR(*time, 2 * (10 + 11 + 12), 1e-2);
}

TEST_F(CudaDeviceTest, ACaptureThatFailsEnds) {
  cuda::DeviceRef device = open();
  auto stream = cuda::Stream::create(device);
  auto graph = cuda::Graph::capture(
      *stream, [] { return Status(StatusCode::Internal, "mine"); });
  ASSERT_FALSE(graph.ok());
  EXPECT_EQ(graph.status().message(), "mine");
  EXPECT_TRUE(cuda::Graph::capture(*stream, [] { return Status(); }).ok());
}

TEST_F(CudaDeviceTest, FaultsOfKernelsArrive) {
  auto stream = cuda::Stream::create(open());
  standIn.state().failing = "cuStreamSynchronize";
  standIn.state().failure = 700;
  Status status = stream->synchronize();
  EXPECT_EQ(status.code(), StatusCode::Internal);
  EXPECT_TRUE(says(status, "cuStreamSynchronize") &&
              says(status, "ILLEGAL_ADDRESS"));
}

TEST_F(CudaDeviceTest, PoolsAreLaidOutAsTheKernelAddressesThem) {
  cuda::DeviceRef device = open();
  cuda::PoolLayout layout;
  layout.blocks = 5;
  layout.fixedAreas = 2;
  layout.slots = 3;
  layout.slotBytes = 1024;
  auto pool = cuda::CachePool::create(device, layout);
  ASSERT_TRUE(pool.ok()) << pool.status().message();
  // 144 tokens of keys, then of values, for each area.
  EXPECT_EQ(layout.fixedOffset(1, kValue), 5 * 4096 + 3 * 144 * 256);
  EXPECT_EQ(layout.slotOffset(0), 5 * 4096 + 4 * 144 * 256);
  EXPECT_EQ(layout.bytes(), layout.slotOffset(0) + 3 * 1024);
  EXPECT_EQ(pool->memory().bytes(), layout.bytes());
  std::vector<uint8_t> content(static_cast<size_t>(layout.bytes()), 1);
  ASSERT_TRUE(pool->memory().download(content.data(), layout.bytes()).ok());
  EXPECT_EQ(std::count(content.begin(), content.end(), 0), layout.bytes());
  DecodeArgs arguments = {};
  pool->fill(arguments);
  EXPECT_EQ(arguments.parameters - arguments.codes, layout.slotOffset(0));
  std::array<uint32_t, 5> ids;
  EXPECT_TRUE(pool->blocks().allocate(5, ids.data()).ok());
  EXPECT_EQ(pool->blocks().allocate(1, ids.data()).code(),
            StatusCode::OutOfMemory);
  layout.slotBytes = 1000;
  EXPECT_EQ(cuda::CachePool::create(device, layout).status().code(),
            StatusCode::InvalidArgument);
  layout.slotBytes = 1024;
  layout.blocks = -1;
  EXPECT_EQ(cuda::CachePool::create(device, layout).status().code(),
            StatusCode::InvalidArgument);
}

TEST_F(CudaDeviceTest, WorkListsArriveWithClearedCounters) {
  cuda::DeviceRef device = open();
  std::vector<std::vector<UnitTask>> pairs(2);
  for (auto &units : pairs)
    for (uint32_t i = 0; i < 40; ++i)
      units.push_back({i, i, i, UnitTask::makeInfo({2, 2}, 128, 0)});
  auto list = buildDeviceWorkList(pairs, 6);
  ASSERT_TRUE(list.ok());
  auto work = cuda::DecodeWork::create(device, *list, 4, 128);
  ASSERT_TRUE(work.ok()) << work.status().message();
  DecodeArgs arguments = {};
  work->fill(arguments);
  EXPECT_EQ(work->rows(), 6);
  EXPECT_EQ(arguments.rowBytes, list->rowBytes);
  EXPECT_EQ(arguments.segmentsPerRow, list->segmentsPerRow);
  // The stand-in's device memory is the host's.
  EXPECT_EQ(std::memcmp(arguments.work, list->bytes.data(), list->bytes.size()),
            0);
  for (int64_t i = 0; i < list->partials * devicePartialBytes(4, 128); ++i)
    ASSERT_EQ(arguments.partials[i], 0u);
}
} // namespace
