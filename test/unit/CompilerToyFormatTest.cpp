//===- CompilerToyFormatTest.cpp - A new format, from outside -------------===//
//
// How a format is added without touching the library: a code book of four
// entries at 2 bits, through every stage to codes and decoded values.  This
// file is the tutorial that docs/new-format.md points to.  Neighbours:
// Format.h.
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"
#include "pmkvq/Formats/UniformFormat.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Reference/Bits.h"

#include <cmath>
#include <gtest/gtest.h>
#include <random>

using namespace mlir;
using namespace mlir::pmkvq;
using namespace ::pmkvq::test;
namespace rt = ::pmkvq::rt;
namespace reference = ::pmkvq::reference;

//===----------------------------------------------------------------------===//
// The format
//===----------------------------------------------------------------------===//

namespace {
/// Where the four 2-bit codes lie in the group's range: closer together in the
/// middle, as values of a bell curve are.
constexpr double kEntries[] = {0.1, 0.4, 0.6, 0.9};
/// 4-bit codes from which on the next entry is the nearest: midpoints 0.25,
/// 0.5, 0.75 of 15.
constexpr int64_t kThresholds[] = {4, 8, 12};

Value constant(ImplicitLocOpBuilder &b, Type type, TypedAttr element) {
  return arith::ConstantOp::create(
      b, DenseElementsAttr::get(cast<VectorType>(type),
                                static_cast<Attribute>(element)));
}

/// Per token; linear at 8 and 4 bits as UniformFormat, a code book at 2.
class CodeBook : public UniformFormat {
  llvm::StringRef getName() const override { return "code_book"; }
  GroupAxis getGroupAxis() const override { return GroupAxis::Token; }
  bool hasLinearGrid(int64_t level) const override { return level != 2; }

  Value emitShift(ImplicitLocOpBuilder &b, FormatAttr format, Value codes,
                  int64_t from) const override {
    if (from != 4)
      return UniformFormat::emitShift(b, format, codes, from);
    Type type = codes.getType();
    Value nearest = constant(b, type, b.getI16IntegerAttr(0));
    for (int64_t threshold : kThresholds) {
      Value above = arith::CmpIOp::create(
          b, arith::CmpIPredicate::uge, codes,
          constant(b, type, b.getI16IntegerAttr(threshold)));
      nearest = arith::AddIOp::create(b, nearest,
                                      arith::ExtUIOp::create(b, type, above));
    }
    return nearest;
  }

  Affine emitAffine(ImplicitLocOpBuilder &b, FormatAttr format,
                    ValueRange parameters, int64_t level) const override {
    if (level != 2)
      return UniformFormat::emitAffine(b, format, parameters, level);
    return {parameters[0], parameters[1]};
  }

  Value emitGrid(ImplicitLocOpBuilder &b, FormatAttr format, Value codes,
                 int64_t level) const override {
    if (level != 2)
      return UniformFormat::emitGrid(b, format, codes, level);
    Type f32 = cast<VectorType>(codes.getType()).clone(b.getF32Type());
    Value value = constant(b, f32, b.getF32FloatAttr(kEntries[0]));
    for (int64_t code : {1, 2, 3}) {
      Value is = arith::CmpIOp::create(
          b, arith::CmpIPredicate::eq, codes,
          constant(b, codes.getType(), b.getI32IntegerAttr(code)));
      value = arith::SelectOp::create(
          b, is, constant(b, f32, b.getF32FloatAttr(kEntries[code])), value);
    }
    return value;
  }
};

/// A code book at 4 bits already: nothing can be shifted on from it.
class EarlyCodeBook : public CodeBook {
  llvm::StringRef getName() const override { return "early_code_book"; }
  bool hasLinearGrid(int64_t level) const override { return level > 4; }
};

void addCodeBook(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *, PMKVQDialect *dialect) {
    dialect->addFormat(std::make_unique<CodeBook>());
    dialect->addFormat(std::make_unique<EarlyCodeBook>());
  });
}

//===----------------------------------------------------------------------===//
// Through all stages
//===----------------------------------------------------------------------===//

constexpr int64_t kToyHeadDim = 64;
constexpr int64_t kToyParameterBytes = 2 * 2 * rt::kPageTokens;

KernelShape codeBookShape() {
  KernelShape shape;
  shape.headDim = kToyHeadDim;
  shape.key = shape.value = "<code_book>";
  return shape;
}

TEST(ToyFormatTest, CodesAreTheNearestEntries) {
  auto kernels = Kernels::compile(codeBookShape(), addCodeBook);
  ASSERT_NE(kernels, nullptr);
  TestCache cache(kernels->shape, kToyParameterBytes, kToyParameterBytes, 1, 1);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  cache.makePage(0, 0, 0, 2, 2);
  rt::PageTask task = {0, 0, 0, 0};
  void *operands[] = {cache.view(), &task};
  for (int32_t part : {rt::kKey, rt::kValue}) {
    for (int64_t t = 0; t < rt::kPageTokens; ++t)
      for (int64_t d = 0; d < kToyHeadDim; ++d)
        // The first two elements fix the range of the group.
        cache.fixed(0, 0, part, 1 + t)[d] = reference::floatToBf16(
            d < 2 ? 2.0f * static_cast<float>(d) - 1.0f : uniform(random));
    ASSERT_EQ(kernels->flush(part, 2)(operands, 0), rt::kKernelOk);
    for (int64_t t = 0; t < rt::kPageTokens; ++t)
      for (int64_t d = 0; d < kToyHeadDim; ++d) {
        // Minimum -1 and range 2, then the chain 8 -> 4 -> nearest entry.
        float x = reference::bf16ToFloat(cache.fixed(0, 0, part, 1 + t)[d]);
        auto code8 =
            static_cast<uint32_t>(std::nearbyintf((x + 1.0f) * 255.0f / 2.0f));
        uint32_t code4 = reference::equivalentShift(code8, 8);
        uint32_t expected = 0;
        for (int64_t threshold : kThresholds)
          expected += code4 >= threshold;
        ASSERT_EQ(cache.code(cache.entry(0, 0, 0), part, t, d), expected)
            << "part " << part << " token " << t << " dim " << d;
      }
  }
}

TEST(ToyFormatTest, AttentionDecodesTheEntries) {
  auto kernels = Kernels::compile(codeBookShape(), addCodeBook);
  ASSERT_NE(kernels, nullptr);
  TestCache cache(kernels->shape, kToyParameterBytes, kToyParameterBytes, 1, 1);
  cache.makePage(0, 0, 0, 2, 2);
  rt::PageTask pageTask = {0, 0, 0, 0};
  void *pageOperands[] = {cache.view(), &pageTask};
  // All keys are equal, so attention is the mean of the values.
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  for (int64_t t = 0; t <= rt::kPageTokens; ++t)
    for (int64_t d = 0; d < kToyHeadDim; ++d) {
      cache.fixed(0, 0, rt::kKey, t)[d] = reference::floatToBf16(0.5f);
      cache.fixed(0, 0, rt::kValue, t)[d] =
          reference::floatToBf16(t == 0  ? 0.0f
                                 : d < 2 ? 2.0f * d - 1.0f
                                         : uniform(random));
    }
  for (int32_t part : {rt::kKey, rt::kValue})
    ASSERT_EQ(kernels->flush(part, 2)(pageOperands, 0), rt::kKernelOk);
  rt::AttendTask attend = {0, 0, 0, 1, 0, 1, 0, 0};
  rt::MergeTask merge = {0, 0, 1, 0, 1};
  std::vector<float> query(kToyHeadDim, 0.1f), out(kToyHeadDim);
  std::vector<float> partials(rt::partialFloats(1, kToyHeadDim));
  rt::StepArgs step = {};
  step.attendTasks = &attend;
  step.mergeTasks = &merge;
  step.rowsPerTask = 1;
  step.partials = partials.data();
  void *worker[] = {cache.view(), &step, query.data()};
  ASSERT_EQ(kernels->find("attend_0")(worker, 0), rt::kKernelOk);
  void *combine[] = {&step, out.data()};
  ASSERT_EQ(kernels->find("merge_0")(combine, 0), rt::kKernelOk);
  for (int64_t d = 0; d < kToyHeadDim; ++d) {
    double sum = 0; // the sink's value is 0
    for (int64_t t = 0; t < rt::kPageTokens; ++t)
      sum +=
          kEntries[cache.code(cache.entry(0, 0, 0), rt::kValue, t, d)] * 2 - 1;
    EXPECT_NEAR(out[d], sum / (rt::kPageTokens + 1), 1e-5) << "dim " << d;
  }
}

//===----------------------------------------------------------------------===//
// What it cannot do
//===----------------------------------------------------------------------===//

/// What parsing `text` reports; empty if it verifies.
std::string diagnosticsOf(const std::string &text) {
  DialectRegistry registry;
  registerAllForStages(registry);
  addCodeBook(registry);
  MLIRContext context(registry);
  std::string messages;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    messages += diagnostic.str();
    return success();
  });
  parseSourceString<ModuleOp>(
      "!kv = !pmkvq.cache<kv_heads = 1, head_dim = 64, key = <per_channel>, "
      "value = <early_code_book>>\n" +
          text,
      &context);
  return messages;
}

TEST(ToyFormatTest, NoRightShiftLeadsOnFromACodeBook) {
  const char *const reason =
      "the codes of format 'early_code_book' at 4 bits are no linear grid";
  // The code book itself can be reached.
  EXPECT_EQ(diagnosticsOf("func.func @f(%c: !kv, %p: !pmkvq.pages) {\n"
                          "%0 = pmkvq.flush value %c, %p to 4 : !kv\n"
                          "return }"),
            "");
  auto expectRefused = [&](const std::string &text, const char *constraint) {
    std::string messages = diagnosticsOf(text);
    EXPECT_NE(messages.find(std::string(constraint) + " " + reason),
              std::string::npos)
        << text << messages;
  };
  expectRefused("func.func @f(%c: !kv, %p: !pmkvq.pages) {\n"
                "%0 = pmkvq.requantize value %c, %p from 4 to 2 : !kv\n"
                "return }",
                "(C4)");
  expectRefused("func.func @f(%c: !kv, %p: !pmkvq.pages) {\n"
                "%0 = pmkvq.flush value %c, %p to 2 : !kv\n"
                "return }",
                "(C3)");
  expectRefused("%c = pmkvq.create layer 0 max_tokens 128 schedule "
                "<page, key_floor = 2, value_floor = 2> : !kv",
                "(C5)");
  for (const char *level : {"8", "4"})
    expectRefused("func.func @f(%t: !pmkvq.tile<value, " + std::string(level) +
                      ", 128, 64, <early_code_book>>) {\n"
                      "%0 = pmkvq.shift %t : !pmkvq.tile<value, " +
                      level +
                      ", 128, 64, <early_code_book>> -> "
                      "!pmkvq.tile<value, 2, 128, 64, <early_code_book>>\n"
                      "return }",
                  "(C2)");
}
} // namespace
