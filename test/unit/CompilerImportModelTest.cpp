//===- CompilerImportModelTest.cpp - Modules of all kinds of model --------===//
//
// Every switch of a config gives a module that verifies.  Neighbours:
// lib/Import/ImportModel.cpp; test/Import has the IR of a whole model.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Import/ImportModel.h"

#include <gtest/gtest.h>

using namespace mlir;
using namespace mlir::pmkvq;

namespace {

ModelConfig smallConfig() {
  ModelConfig config;
  config.layers = 2;
  config.hiddenSize = 24;
  config.intermediateSize = 40;
  config.vocabSize = 10;
  config.heads = 6;
  config.kvHeads = 2;
  config.headDim = 64;
  config.maxPositions = 100;
  config.rmsNormEps = 1e-5;
  config.rope.frequencies.assign(32, 0.1f);
  config.tiedEmbeddings = config.qkvBias = config.outputBias = false;
  config.queryKeyNorms = config.fusedProjections = false;
  return config;
}

template <typename Op> int64_t countOps(ModuleOp module) {
  int64_t count = 0;
  module.walk([&](Op) { ++count; });
  return count;
}

TEST(ImportModel, EverySwitchGivesAModule) {
  DialectRegistry registry;
  registerImportDialects(registry);
  MLIRContext context(registry);
  for (int switches = 0; switches < 32; ++switches) {
    ModelConfig config = smallConfig();
    config.tiedEmbeddings = switches & 1;
    config.qkvBias = switches & 2;
    config.outputBias = switches & 4;
    config.queryKeyNorms = switches & 8;
    config.fusedProjections = switches & 16;
    auto module = importModel(&context, config);
    ASSERT_TRUE(static_cast<bool>(module))
        << llvm::toString(module.takeError());
    int64_t more = (config.qkvBias ? 3 : 0) + (config.outputBias ? 1 : 0) +
                   (config.queryKeyNorms ? 2 : 0);
    EXPECT_EQ(countOps<WeightOp>(**module),
              (config.tiedEmbeddings ? 2 : 3) + 2 * (9 + more));
    EXPECT_EQ(countOps<linalg::MatmulOp>(**module), 2 * 7 + 1);
    EXPECT_EQ(countOps<AttendOp>(**module), 2);
  }
}

} // namespace
