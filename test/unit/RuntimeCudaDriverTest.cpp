//===- RuntimeCudaDriverTest.cpp - The driver, found or refused -----------===//
//
// Loading and error mapping against a stand-in library, and the declared types
// against cuda.h where a toolkit is installed.  Neighbours: Driver.h,
// StandInCuda.h.
//
//===----------------------------------------------------------------------===//

#include "StandInCuda.h"
#include "pmkvq_rt/cuda/Device.h"

#include <cstdlib>
#include <gtest/gtest.h>

#if __has_include(</usr/local/cuda/include/cuda.h>)
#include </usr/local/cuda/include/cuda.h>
#define PMKVQ_HAS_CUDA_H
#endif

namespace cuda = pmkvq::rt::cuda;
using pmkvq::rt::Status;
using pmkvq::rt::StatusCode;
using pmkvq::test::StandIn;

#ifdef PMKVQ_HAS_CUDA_H
static_assert(sizeof(cuda::LaunchConfig) == sizeof(CUlaunchConfig));
static_assert(offsetof(cuda::LaunchConfig, stream) ==
              offsetof(CUlaunchConfig, hStream));
static_assert(offsetof(cuda::LaunchConfig, attributeCount) ==
              offsetof(CUlaunchConfig, numAttrs));
static_assert(sizeof(cuda::LaunchAttribute) == sizeof(CUlaunchAttribute));
static_assert(offsetof(cuda::LaunchAttribute, value) ==
              offsetof(CUlaunchAttribute, value));
static_assert(sizeof(cuda::DeviceAddress) == sizeof(CUdeviceptr));
static_assert(int(cuda::kProgrammaticStreamSerialization) ==
              CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
static_assert(int(cuda::kCaptureThreadLocal) ==
              CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
static_assert(int(cuda::kStreamNonBlocking) == CU_STREAM_NON_BLOCKING);
static_assert(int(cuda::kMultiprocessorCount) ==
              CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
static_assert(int(cuda::kL2CacheBytes) == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
static_assert(int(cuda::kCapabilityMajor) ==
              CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(int(cuda::kCapabilityMinor) ==
              CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(int(cuda::kSharedBytesPerBlockOptIn) ==
              CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(int(cuda::kFunctionLocalBytes) ==
              CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
static_assert(int(cuda::kFunctionRegisters) == CU_FUNC_ATTRIBUTE_NUM_REGS);
static_assert(int(cuda::kFunctionMaxDynamicSharedBytes) ==
              CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(int(cuda::kJitErrorLog) == CU_JIT_ERROR_LOG_BUFFER);
static_assert(int(cuda::kJitErrorLogBytes) ==
              CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
static_assert(int(cuda::kDriverUnsupportedPtxVersion) ==
              CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
static_assert(int(cuda::kDriverInvalidPtx) == CUDA_ERROR_INVALID_PTX);
static_assert(int(cuda::kDriverNoBinaryForGpu) == CUDA_ERROR_NO_BINARY_FOR_GPU);
static_assert(int(cuda::kDriverSystemDriverMismatch) ==
              CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
#endif

namespace {
void expectRefused(const Status &status, StatusCode code,
                   const std::vector<std::string> &words) {
  EXPECT_EQ(status.code(), code) << status.message();
  for (const std::string &word : words)
    EXPECT_NE(status.message().find(word), std::string::npos)
        << "'" << word << "' in: " << status.message();
}

/// An environment variable, for as long as this lives.
class Variable {
public:
  Variable(const char *name, const char *value) : name(name) {
    ::setenv(name, value, 1);
  }
  ~Variable() { ::unsetenv(name); }

private:
  const char *name;
};

TEST(CudaDriverTest, LoadsAndInitializes) {
  StandIn standIn{PMKVQ_STANDIN_CUDA};
  auto driver = cuda::Driver::load(standIn.file());
  ASSERT_TRUE(driver.ok()) << driver.status().message();
  EXPECT_EQ((*driver)->version(), 13000);
  EXPECT_EQ(standIn.state().initialized, 1);
}

TEST(CudaDriverTest, NoDriverSaysWhatToDo) {
  auto driver = cuda::Driver::load("/nonexistent/libcuda.so.1");
  ASSERT_FALSE(driver.ok());
  expectRefused(driver.status(), StatusCode::FailedPrecondition,
                {"no CUDA driver", "/nonexistent/libcuda.so.1",
                 "PMKVQ_CUDA_LIBRARY", "--device=cpu"});
}

TEST(CudaDriverTest, TheVariableNamesTheLibrary) {
  StandIn standIn{PMKVQ_STANDIN_CUDA};
  Variable named(cuda::Driver::kLibraryVariable, standIn.file().c_str());
  EXPECT_TRUE(cuda::Driver::load().ok());
  Variable other(cuda::Driver::kLibraryVariable, "/nonexistent.so");
  EXPECT_FALSE(cuda::Driver::load().ok());
}

TEST(CudaDriverTest, ALibraryThatLacksAnEntryPointIsNamedWithIt) {
  auto driver = cuda::Driver::load(PMKVQ_STANDIN_OLD_CUDA);
  ASSERT_FALSE(driver.ok());
  expectRefused(driver.status(), StatusCode::FailedPrecondition,
                {PMKVQ_STANDIN_OLD_CUDA, "cuLaunchKernelEx", "12.3",
                 "update NVIDIA's driver"});
}

TEST(CudaDriverTest, AnOldDriverIsRefusedBeforeItIsInitialized) {
  StandIn standIn{PMKVQ_STANDIN_CUDA};
  standIn.state().version = 11080;
  auto driver = cuda::Driver::load(standIn.file());
  ASSERT_FALSE(driver.ok());
  expectRefused(driver.status(), StatusCode::FailedPrecondition,
                {"CUDA 11.8", "12.3", "update"});
  EXPECT_EQ(standIn.state().initialized, 0);
}

TEST(CudaDriverTest, InitializationThatFailsIsNamed) {
  StandIn standIn{PMKVQ_STANDIN_CUDA};
  standIn.state().failing = "cuInit";
  standIn.state().failure = cuda::kDriverNoDevice;
  auto driver = cuda::Driver::load(standIn.file());
  ASSERT_FALSE(driver.ok());
  expectRefused(driver.status(), StatusCode::FailedPrecondition,
                {"cuInit", "error 100", "CUDA_VISIBLE_DEVICES"});
}

TEST(CudaDriverTest, ResultsMapToCodesAndAdvice) {
  StandIn standIn{PMKVQ_STANDIN_CUDA};
  auto driver = cuda::Driver::load(standIn.file());
  ASSERT_TRUE(driver.ok());
  expectRefused(
      (*driver)->error(cuda::kDriverOutOfMemory, "cuMemAlloc_v2"),
      StatusCode::OutOfMemory,
      {"cuMemAlloc_v2", "CUDA_ERROR_OUT_OF_MEMORY", "(out of memory)"});
  expectRefused((*driver)->error(700, "cuStreamSynchronize"),
                StatusCode::Internal, {"CUDA_ERROR_ILLEGAL_ADDRESS"});
  expectRefused(
      (*driver)->error(cuda::kDriverUnsupportedPtxVersion, "cuModuleLoad"),
      StatusCode::FailedPrecondition, {"update the driver"});
  expectRefused((*driver)->error(cuda::kDriverNotSupported, "x"),
                StatusCode::Unimplemented, {"error 801"});
}
} // namespace
