//===- CompilerShiftTest.cpp - Why a shift of a shift is one shift --------===//
//
// The algebra that formats emit for shifts, folded over every code.  The proof
// behind the canonicalization of `shift`.  Neighbours: PMKVQTileOps.cpp,
// ReferenceShiftTest.cpp (the same of the specification).
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Pipelines/Pipelines.h"

#include <gtest/gtest.h>
#include <vector>

using namespace mlir;
using namespace mlir::pmkvq;

namespace {
/// Lanes are 32 bits wide from level 16, 16 bits below.
VectorType lanes(OpBuilder &b, int64_t count, int64_t level) {
  return VectorType::get({count}, b.getIntegerType(level == 16 ? 32 : 16));
}

/// Every code at `from`, as a constant.
Value allCodes(ImplicitLocOpBuilder &b, int64_t from) {
  VectorType type = lanes(b, int64_t(1) << from, from);
  std::vector<APInt> codes;
  for (int64_t code = 0; code < type.getNumElements(); ++code)
    codes.emplace_back(type.getElementTypeBitWidth(), code);
  return arith::ConstantOp::create(b, DenseElementsAttr::get(type, codes));
}

/// The codes at `to` of every code at `from`, by way of every level between.
std::vector<uint64_t> shiftAll(const char *name, int64_t from, int64_t to) {
  DialectRegistry registry;
  registerAllForStages(registry);
  MLIRContext context(registry);
  context.loadDialect<PMKVQDialect, arith::ArithDialect, func::FuncDialect>();
  auto format = FormatAttr::get(StringAttr::get(&context, name),
                                /*hadamard=*/false, FormatAttr::kDefaultClip);
  OwningOpRef<ModuleOp> module =
      ModuleOp::create(UnknownLoc::get(&context), "m");
  ImplicitLocOpBuilder b(module->getLoc(), &context);
  b.setInsertionPointToEnd(module->getBody());
  int64_t count = int64_t(1) << from;
  auto function = func::FuncOp::create(
      b, "f", b.getFunctionType({}, {lanes(b, count, to)}));
  b.setInsertionPointToStart(function.addEntryBlock());
  Value codes = allCodes(b, from);
  for (int64_t level = from; level > to; level /= 2) {
    codes = format.getModel().emitShift(b, format, codes, level);
    if (level == 16)
      codes = arith::TruncIOp::create(b, lanes(b, count, 8), codes);
  }
  auto result = func::ReturnOp::create(b, codes);
  PassManager pm(&context);
  pm.addPass(createCanonicalizerPass());
  EXPECT_TRUE(succeeded(pm.run(*module)));
  DenseElementsAttr folded;
  EXPECT_TRUE(matchPattern(result.getOperand(0), m_Constant(&folded)));
  std::vector<uint64_t> shifted;
  if (folded)
    for (const APInt &code : folded.getValues<APInt>())
      shifted.push_back(code.getZExtValue());
  return shifted;
}

/// round(code / divisor) for an odd divisor: there are no ties.
uint64_t divideRounded(uint64_t code, uint64_t divisor) {
  return (code + divisor / 2) / divisor;
}

TEST(CompilerShiftTest, ChainsOfThePaperAreOneRoundedDivision) {
  struct Chain {
    int64_t from, to;
  };
  for (Chain chain : {Chain{16, 4}, {16, 2}, {8, 2}}) {
    std::vector<uint64_t> codes = shiftAll("paper", chain.from, chain.to);
    ASSERT_EQ(codes.size(), size_t(1) << chain.from);
    uint64_t divisor = ((1u << chain.from) - 1) / ((1u << chain.to) - 1);
    for (size_t code = 0; code < codes.size(); ++code)
      ASSERT_EQ(codes[code], divideRounded(code, divisor))
          << chain.from << " to " << chain.to << " bits, code " << code;
  }
}

TEST(CompilerShiftTest, ChainsWithClipAreOneDivision) {
  for (const char *format : {"per_channel", "per_token"}) {
    std::vector<uint64_t> codes = shiftAll(format, 8, 2);
    ASSERT_EQ(codes.size(), 256u);
    // round(code / 17) >> 2 without the step between.
    for (size_t code = 0; code < codes.size(); ++code)
      ASSERT_EQ(codes[code], (code + 8) / 68) << format << " code " << code;
  }
}
} // namespace
