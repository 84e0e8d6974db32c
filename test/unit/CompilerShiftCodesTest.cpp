//===- CompilerShiftCodesTest.cpp - What lanes write of codes that fall ---===//
//
// The code that `shift_codes` becomes, run lane by lane on the host, against
// the reference: every code of a unit arrives, at its place at the lower level.
// Neighbours: ShiftCodes.cpp, CompilerFragmentLayoutTest.cpp (the places).
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Pipelines/Pipelines.h"
#include "pmkvq/Reference/Quantize.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/FormatVariadic.h"

#include <cstring>
#include <gtest/gtest.h>
#include <random>
#include <vector>

using namespace mlir;
using ::pmkvq::FragmentLayout;
namespace rt = ::pmkvq::rt;

namespace {
/// Runs integer code of one lane; pointers are offsets into one memory a space.
class LaneMachine {
public:
  LaneMachine(std::vector<uint8_t> &shared, std::vector<uint8_t> &global)
      : shared(shared), global(global) {}

  void run(func::FuncOp function, uint32_t laneNumber, bool falls) {
    lane = laneNumber;
    values.clear();
    for (Value argument : function.getArguments())
      values[argument] = {argument.getType().isInteger(1) && falls ? 1u : 0u};
    runBlock(function.front());
  }

private:
  using Words = std::vector<uint32_t>;

  void runBlock(Block &block) {
    for (Operation &op : block)
      runOp(&op);
  }

  uint32_t get(Value value) { return values.at(value).at(0); }

  template <typename OpTy, typename Function> void binary(OpTy op, Function f) {
    values[op.getResult()] = {f(get(op.getLhs()), get(op.getRhs()))};
  }

  std::vector<uint8_t> &memoryOf(Value pointer) {
    auto type = cast<LLVM::LLVMPointerType>(pointer.getType());
    return type.getAddressSpace() == 3 ? shared : global;
  }

  /// st.global of a vector: address, words, policy.
  void storeVector(LLVM::InlineAsmOp op) {
    ASSERT_TRUE(op.getAsmString().starts_with("st.global."));
    ASSERT_EQ(op->getNumOperands(), 6u);
    const uint32_t at = get(op->getOperand(0));
    std::vector<uint8_t> &memory = memoryOf(op->getOperand(0));
    ASSERT_LE(at + 16, memory.size());
    for (unsigned i = 0; i < 4; ++i) {
      const uint32_t word = get(op->getOperand(1 + i));
      std::memcpy(&memory[at + 4 * i], &word, 4);
    }
  }

  void runOp(Operation *op) {
    // Of no dialect that is linked here for its header's sake.
    StringRef name = op->getName().getStringRef();
    if (name == "nvvm.read.ptx.sreg.tid.x") {
      values[op->getResult(0)] = {lane};
      return;
    }
    if (name == "nvvm.bar.warp.sync" || isOpTriviallyDead(op))
      return;
    llvm::TypeSwitch<Operation *>(op)
        .Case([&](arith::ConstantOp c) {
          auto value = cast<IntegerAttr>(c.getValue()).getValue();
          values[c] = {static_cast<uint32_t>(value.getZExtValue())};
        })
        .Case([&](arith::AndIOp o) {
          binary(o, [](uint32_t a, uint32_t b) { return a & b; });
        })
        .Case([&](arith::OrIOp o) {
          binary(o, [](uint32_t a, uint32_t b) { return a | b; });
        })
        .Case([&](arith::AddIOp o) {
          binary(o, [](uint32_t a, uint32_t b) { return a + b; });
        })
        .Case([&](arith::MulIOp o) {
          binary(o, [](uint32_t a, uint32_t b) { return a * b; });
        })
        .Case([&](arith::ShLIOp o) {
          binary(o, [](uint32_t a, uint32_t b) { return a << b; });
        })
        .Case([&](arith::ShRUIOp o) {
          binary(o, [](uint32_t a, uint32_t b) { return a >> b; });
        })
        .Case([&](LLVM::GEPOp o) {
          uint32_t at = get(o.getBase());
          for (auto index : o.getIndices())
            at += isa<Value>(index)
                      ? get(cast<Value>(index))
                      : static_cast<uint32_t>(
                            cast<IntegerAttr>(index).getValue().getZExtValue());
          values[o] = {at};
        })
        .Case([&](LLVM::LoadOp o) {
          Words words(4);
          std::memcpy(words.data(), &memoryOf(o.getAddr()).at(get(o.getAddr())),
                      16);
          values[o] = words;
        })
        .Case([&](LLVM::InlineAsmOp o) {
          if (o.getAsmString().starts_with("createpolicy"))
            values[o->getResult(0)] = {0};
          else
            storeVector(o);
        })
        .Case([&](LLVM::ExtractElementOp o) {
          values[o] = {values.at(o.getVector()).at(get(o.getPosition()))};
        })
        .Case([&](scf::IfOp o) {
          if (get(o.getCondition()))
            runBlock(*o.thenBlock());
        })
        .Case<scf::YieldOp, func::ReturnOp>([](Operation *) {})
        .Default(
            [&](Operation *) { ADD_FAILURE() << "unknown op " << name.str(); });
  }

  std::vector<uint8_t> &shared, &global;
  uint32_t lane = 0;
  DenseMap<Value, Words> values;
};

struct FallingUnit {
  rt::Part part;
  int32_t level, tokens;
  int64_t headDim;
  const char *format;

  std::string name() const {
    return (part == rt::kKey ? "Key" : "Value") + std::to_string(level) +
           "Tokens" + std::to_string(tokens) + "Dims" +
           std::to_string(headDim) +
           (std::string(format) == "per_channel" ? "PerChannel" : "PerToken");
  }
};

class ShiftCodes : public ::testing::TestWithParam<FallingUnit> {
protected:
  OwningOpRef<ModuleOp> lower() {
    const FallingUnit &unit = GetParam();
    std::string text = llvm::formatv(
        R"mlir(func.func @f(%c: !llvm.ptr<3>, %p: !llvm.ptr<1>, %l: i1) {{
  pmkvq.shift_codes {0} {1} tokens {2} head_dim {3} format <{4}>
    in %c to %p if %l : !llvm.ptr<3>, !llvm.ptr<1>
  return
}
)mlir",
        unit.part == rt::kKey ? "key" : "value", unit.level, unit.tokens,
        unit.headDim, unit.format);
    auto module = parseSourceString<ModuleOp>(text, &context);
    if (!module)
      return module;
    PassManager passes(&context);
    passes.addPass(mlir::pmkvq::createShiftCodes());
    EXPECT_TRUE(succeeded(passes.run(*module)));
    return module;
  }

  static DialectRegistry registry() {
    DialectRegistry all;
    mlir::pmkvq::registerAllForStages(all);
    return all;
  }
  MLIRContext context{registry()};
};

TEST_P(ShiftCodes, EveryCodeArrivesAtItsPlace) {
  const FallingUnit &unit = GetParam();
  auto module = lower();
  ASSERT_TRUE(module);
  FragmentLayout from{unit.part, unit.level, unit.tokens, unit.headDim};
  FragmentLayout to{unit.part, unit.level / 2, unit.tokens, unit.headDim};
  const auto bytes =
      static_cast<size_t>(unit.tokens * unit.headDim * unit.level / 8);
  std::mt19937 random(5);
  std::vector<uint8_t> shared(bytes), global(bytes / 2, 0xa5);
  for (uint8_t &byte : shared)
    byte = static_cast<uint8_t>(random());
  const std::vector<uint8_t> before = global;

  LaneMachine machine(shared, global);
  auto function = *module->getOps<func::FuncOp>().begin();
  for (uint32_t lane = 0; lane < 32; ++lane)
    machine.run(function, lane, /*falls=*/false);
  EXPECT_EQ(global, before);
  for (uint32_t lane = 0; lane < 32; ++lane)
    machine.run(function, lane, /*falls=*/true);

  ::pmkvq::reference::UniformFormat format;
  for (int64_t token = 0; token < unit.tokens; ++token)
    for (int64_t dim = 0; dim < unit.headDim; ++dim) {
      auto codeAt = [&](const FragmentLayout &layout,
                        const std::vector<uint8_t> &memory) {
        FragmentLayout::Place place = layout.place(token, dim);
        return memory.at(place.byte) >> place.bit & ((1u << layout.level) - 1);
      };
      ASSERT_EQ(codeAt(to, global),
                ::pmkvq::reference::lowerCode(format, codeAt(from, shared),
                                              unit.level))
          << "token " << token << " dim " << dim;
    }
}

std::vector<FallingUnit> fallingUnits() {
  std::vector<FallingUnit> units;
  for (rt::Part part : {rt::kKey, rt::kValue})
    for (int64_t headDim : {64, 128, 256})
      for (int32_t level : {8, 4})
        for (int32_t tokens = rt::kUnitGrain;
             tokens <= rt::tokensPerBlock(level); tokens *= 2)
          units.push_back({part, level, tokens, headDim,
                           part == rt::kKey ? "per_channel" : "per_token"});
  units.push_back({rt::kKey, 8, 32, 128, "per_token"});
  return units;
}

INSTANTIATE_TEST_SUITE_P(Compiler, ShiftCodes,
                         ::testing::ValuesIn(fallingUnits()),
                         [](const auto &info) { return info.param.name(); });
} // namespace
