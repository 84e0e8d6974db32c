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

/// What accumulators of bytes start with: the bits of a number in whose binade
/// an integer is worth one unit in the last place, so that sums are f32 numbers
/// without a conversion.  Signed sums have half of [2^23, 2^24) on each side.
static double bias(bool isSigned) {
  return isSigned ? 1.5 * (1 << 23) : 1 << 23;
}

/// units * high + low, of sums with a bias.  The first step leaves minus one
/// bias, which the low part brings; both are exact where they matter, since no
/// step has more than 24 bits that are not rounded in the sum, too.
static Value addParts(LaneBuilder &b, Value high, Value low, bool isKey) {
  double units =
      isKey ? FragmentLayout::kQueryUnits : FragmentLayout::kWeightUnits;
  auto number = [&](Value bits) { return b.bitcast(bits, b.getF32Type()); };
  Value scaled =
      b.fma(number(high), b.f32(units), b.f32(-(units + 1.0) * bias(isKey)));
  return b.addF(scaled, number(low));
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
  Value start =
      raw ? b.f32(0.0) : b.bitcast(b.f32(bias(isKey)), b.getI32Type());
  // [operand][row block] four accumulators.
  SmallVector<SmallVector<Values>> sums(
      operands.size(),
      SmallVector<Values>(layout.rowBlocks(), Values(4, start)));
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
  auto add = [&](Value high, Value low) {
    return raw ? b.addF(high, low) : addParts(b, high, low, isKey);
  };
  SmallVector<Value> results;
  for (size_t query = 0; query < operands.size(); ++query) {
    Values all;
    for (int32_t block = 0; block < layout.rowBlocks(); ++block)
      for (size_t row : {0, 2}) // g, g + 8
        all.push_back(operands.size() == 1
                          ? add(sums[0][block][row], sums[0][block][row + 1])
                          : add(sums[0][block][row + query],
                                sums[1][block][row + query]));
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
