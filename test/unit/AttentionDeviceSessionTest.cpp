//===- AttentionDeviceSessionTest.cpp - From a plan to a GPU's kernels ----===//
//
// What a planned module says of its cache becomes kernels, or is refused.
// Neighbours: DeviceSession.h, AttentionReplayTest.cpp (the kernels at work).
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Target/DeviceSession.h"
#include "pmkvq/Target/HostProgram.h"

#include <gtest/gtest.h>
#include <optional>

using namespace pmkvq;
using mlir::pmkvq::DeviceSession;
using mlir::pmkvq::HostProgram;

namespace {
/// Two layers of attention.
constexpr const char *kLayers = R"mlir(
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, sink = 1>
!q = tensor<?x6x128xf32>
!k = tensor<?x2x128xf32>
func.func @create() -> (!kv, !kv) {
  %c0 = pmkvq.create layer 0 max_tokens 4096 : !kv
  %c1 = pmkvq.create layer 1 max_tokens 4096 : !kv
  return %c0, %c1 : !kv, !kv
}
func.func @step(%q: !q, %k: !k, %v: !k, %b: !pmkvq.batch, %c0: !kv, %c1: !kv) -> (!q, !q) {
  %a0 = pmkvq.append %c0, %k, %v, %b : !kv, !k
  %o0 = pmkvq.attend %q, %a0, %b scale 8.0e-02 : !q, !kv
  %a1 = pmkvq.append %c1, %k, %v, %b : !kv, !k
  %o1 = pmkvq.attend %q, %a1, %b scale 9.0e-02 : !q, !kv
  return %o0, %o1 : !q, !q
}
)mlir";

mlir::DialectRegistry makeStageRegistry() {
  mlir::DialectRegistry registry;
  mlir::pmkvq::registerAllForStages(registry);
  return registry;
}

class DeviceSessionTest : public ::testing::Test {
protected:
  /// The module after the stage `plan`; `error` says why it cannot be served.
  void plan(const mlir::pmkvq::PlanOptions &options,
            const std::string &text = kLayers) {
    module = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
    ASSERT_TRUE(module);
    auto run = mlir::pmkvq::runStages(*module, options, "", "plan");
    ASSERT_TRUE(mlir::succeeded(run));
    auto collected = DeviceSession::collect(*module);
    if (collected)
      session = std::move(*collected);
    else
      error = llvm::toString(collected.takeError());
  }

  /// The host's program; its kernels are those that a device takes over.
  std::unique_ptr<HostProgram> compileHost(const std::string &text = kLayers) {
    mlir::pmkvq::PlanOptions options;
    options.valueFormat = "<per_token, plain>";
    auto whole = mlir::parseSourceString<mlir::ModuleOp>(text, &context);
    for (const mlir::pmkvq::Stage &stage : mlir::pmkvq::getStages()) {
      mlir::PassManager passes(&context);
      stage.build(passes, options);
      EXPECT_TRUE(mlir::succeeded(passes.run(*whole)));
      // The step of a model would be in its place.
      if (stage.name == "tile")
        whole->lookupSymbol("step")->erase();
    }
    auto program = HostProgram::compile(*whole);
    EXPECT_TRUE(bool(program));
    return program ? std::move(*program) : nullptr;
  }

  mlir::MLIRContext context{makeStageRegistry()};
  mlir::OwningOpRef<mlir::ModuleOp> module;
  std::optional<DeviceSession> session;
  std::string error;
};

TEST_F(DeviceSessionTest, KernelsThatRotateQueriesForEachScale) {
  mlir::pmkvq::PlanOptions options;
  options.valueFormat = "<per_token, plain>";
  ASSERT_NO_FATAL_FAILURE(plan(options));
  ASSERT_TRUE(session) << error;
  std::unique_ptr<HostProgram> program = compileHost();
  ASSERT_TRUE(program);
  auto code = session->compile(context, *program, "sm_90a");
  ASSERT_TRUE(bool(code)) << llvm::toString(code.takeError());
  EXPECT_EQ(code->append.size(), 1u);
  EXPECT_EQ(code->attend.size(), 2u);
  EXPECT_EQ(code->merge.size(), 2u);
  EXPECT_EQ(code->variants, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(code->slotBytes, (128 + 128) * 4);
  EXPECT_NE(code->writers.code.find(".entry append"), std::string::npos);
  auto decode = code->decode(1, {1, {{16, 16}, {4, 4}}});
  ASSERT_TRUE(decode.ok()) << decode.status().message();
  // Only a rotation takes sums over pairs of lanes 1, 2, 4, 8, 16 apart.
  EXPECT_NE(decode->code.find("shfl.sync.bfly.b32"), std::string::npos);
  EXPECT_GT(decode->sharedBytes, 0);
  // There are no matrix instructions on bytes, nor copies past registers.
  auto other = session->compile(context, *program, "sm_75");
  ASSERT_FALSE(bool(other));
  EXPECT_NE(llvm::toString(other.takeError()).find("sm_75"), std::string::npos);
}

TEST_F(DeviceSessionTest, LayersMayHaveClipsAndKeysFallWithFeedback) {
  std::string squares = "1.0";
  for (int64_t i = 1; i < 2 * 128; ++i)
    squares += i % 3 ? ", 1.0" : ", 9.0";
  std::string text = kLayers;
  for (const char *clip : {"0.75", "0.85"}) {
    const std::string plain = "max_tokens 4096 : !kv";
    text.replace(
        text.find(plain), plain.size(),
        "max_tokens 4096 calibration <key_clip = " + std::string(clip) +
            ", query_squares = [" + squares + "]> : !kv");
  }
  // One scale, so that clips alone tell the layers apart.
  text.replace(text.find("9.0e-02"), 7, "8.0e-02");
  mlir::pmkvq::PlanOptions options;
  options.valueFormat = "<per_token, plain>";
  ASSERT_NO_FATAL_FAILURE(plan(options, text));
  ASSERT_TRUE(session) << error;
  std::unique_ptr<HostProgram> program = compileHost(text);
  ASSERT_TRUE(program);
  auto code = session->compile(context, *program, "sm_90a");
  ASSERT_TRUE(bool(code)) << llvm::toString(code.takeError());
  EXPECT_EQ(code->variants, (std::vector<int32_t>{0, 1}));
  // What a token's head dims have more than they were to be.
  EXPECT_NE(code->writers.code.find("requantize_key_8_feedback"),
            std::string::npos);
  EXPECT_TRUE(code->decode(1, {1, {{2, 2}}}).ok());
}

TEST_F(DeviceSessionTest, ValuesMayHaveARangeAlone) {
  mlir::pmkvq::PlanOptions options;
  options.valueFormat = "<per_token_symmetric, plain>";
  ASSERT_NO_FATAL_FAILURE(plan(options));
  ASSERT_TRUE(session) << error;
  std::unique_ptr<HostProgram> program = compileHost();
  ASSERT_TRUE(program);
  auto code = session->compile(context, *program, "sm_90a");
  ASSERT_TRUE(bool(code)) << llvm::toString(code.takeError());
  EXPECT_EQ(code->slotBytes, 128 * 4 + 128);
  auto decode = code->decode(0, {1, {{4, 2}}});
  ASSERT_TRUE(decode.ok()) << decode.status().message();
}

TEST_F(DeviceSessionTest, KeysWithARangeAloneAreRefused) {
  mlir::pmkvq::PlanOptions options;
  options.keyFormat = "<per_token_symmetric, hadamard>";
  options.valueFormat = "<per_token, plain>";
  ASSERT_NO_FATAL_FAILURE(plan(options));
  EXPECT_FALSE(session);
  EXPECT_NE(error.find("keys with fp16 parameters"), std::string::npos)
      << error;
}

TEST_F(DeviceSessionTest, ResultsThatAreRotatedBackAreRefused) {
  // Nothing behind these layers takes the rotation.
  ASSERT_NO_FATAL_FAILURE(plan({}));
  EXPECT_FALSE(session);
  EXPECT_NE(error.find("+plain"), std::string::npos) << error;
}
} // namespace
