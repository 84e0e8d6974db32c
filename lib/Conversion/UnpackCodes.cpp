//===- UnpackCodes.cpp - Codes to operands of matrix instructions ---------===//
//
// Lowers multiply_codes.  Neighbours: FragmentLayout.h (masks and exponents).
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/FragmentLayout.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_UNPACKCODES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::Fragment;
using ::pmkvq::FragmentLayout;
using ::pmkvq::FragmentRegister;

/// The four registers of an operand; fields stay where they lie.
static Values unpackFragment(LaneBuilder &b, const Values &words,
                             const Fragment &fragment) {
  Values operand;
  for (const FragmentRegister &r : fragment.registers) {
    Value word = words[r.word];
    operand.push_back(r.mask == 0xffffffffu
                          ? word
                          : b.andBits(word, static_cast<int32_t>(r.mask)));
  }
  return operand;
}

static SmallVector<Value> multiplyCodes(LaneBuilder &b, MultiplyCodesOp op) {
  bool isKey = op.getPart() == Part::Key;
  FragmentLayout layout = {isKey ? rt::kKey : rt::kValue,
                           static_cast<int32_t>(op.getLevel()),
                           static_cast<int32_t>(op.getTokens()),
                           static_cast<int64_t>(op.getHeadDim())};
  SmallVector<Values> operands;
  for (Value operand : op.getColumns())
    operands.push_back(b.unpack(operand));
  bool raw = layout.level == 16;
  Value zero = raw ? b.f32(0.0) : b.i32(0);
  // [operand][row block] four accumulators.
  SmallVector<SmallVector<Values>> sums(
      operands.size(),
      SmallVector<Values>(layout.rowBlocks(), Values(4, zero)));
  Value lane = b.andBits(b.threadId(), FragmentLayout::kLanes - 1);
  Value mine = b.at(op.getCodes(), b.shl(lane, 4));
  for (int32_t vector = 0; vector < layout.vectors(); ++vector) {
    Values words = b.loadWords(
        b.at(mine, int64_t{vector} * FragmentLayout::kVectorBytes), 4);
    for (int32_t i = 0; i < layout.fragmentsPerVector(); ++i) {
      Fragment fragment = layout.fragment(vector, i);
      Values a = unpackFragment(b, words, fragment);
      for (auto [operand, sum] : llvm::zip(operands, sums)) {
        ArrayRef<Value> k =
            ArrayRef<Value>(operand).slice(size_t(fragment.kBlock) * 2, 2);
        Values &c = sum[fragment.rowBlock];
        c = raw ? b.mmaBrainFloats(a, k, c) : b.mmaBytes(a, k, c, isKey);
      }
    }
  }
  SmallVector<Value> results;
  for (const SmallVector<Values> &sum : sums) {
    Values all;
    for (const Values &block : sum)
      llvm::append_range(all, block);
    results.push_back(b.pack(all));
  }
  return results;
}

namespace {
class UnpackCodesPass
    : public mlir::pmkvq::impl::UnpackCodesBase<UnpackCodesPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<MultiplyCodesOp>(getOperation(), multiplyCodes);
  }
};
} // namespace
