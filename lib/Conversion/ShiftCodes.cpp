//===- ShiftCodes.cpp - Staged codes to pages that fall -------------------===//
//
// Lowers shift_codes.  Neighbours: FragmentLayout.h (who has which code at each
// level), HalvesInWords.h (the format's shift), PagesToLanes.cpp (the same in a
// launch of its own).
//
// A unit is read from shared memory a second time, which costs little beside
// what it took to get there; words kept from the products would take the
// registers of outputs.  The first level's fields of a word are shifted
// together, and each goes to its place at the second.  What is stored is not
// read again in this launch, and leaves the GPU's cache first.
//
//===----------------------------------------------------------------------===//

#include "HalvesInWords.h"
#include "LanePass.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/FragmentLayout.h"
#include <map>

namespace mlir::pmkvq {
#define GEN_PASS_DEF_SHIFTCODES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::Fragment;
using ::pmkvq::FragmentLayout;
using ::pmkvq::FragmentRegister;

namespace {
/// One side of a unit on its way to half its level.
class FallingSide {
public:
  FallingSide(LaneBuilder &b, ShiftCodesOp op)
      : b(b), format(op.getFormat()), from(layoutAt(op, op.getLevel())),
        to(layoutAt(op, op.getLevel() / 2)) {
    Value lane = b.andBits(b.threadId(), FragmentLayout::kLanes - 1);
    source = b.at(op.getCodes(), b.shl(lane, 4));
    target = b.at(op.getPlace(), b.shl(lane, 4));
    policy = b.evictFirstPolicy();
  }

  void run() {
    for (int32_t vector = 0; vector < to.vectors(); ++vector) {
      sources.clear();
      Values words(4);
      for (int32_t i = 0; i < to.fragmentsPerVector(); ++i)
        shiftFragment(to.fragment(vector, i), words);
      b.storeWithPolicy(
          words, b.at(target, int64_t{vector} * FragmentLayout::kVectorBytes),
          policy);
    }
  }

private:
  static FragmentLayout layoutAt(ShiftCodesOp op, uint64_t level) {
    return {op.getPart() == Part::Key ? rt::kKey : rt::kValue,
            static_cast<int32_t>(level), static_cast<int32_t>(op.getTokens()),
            static_cast<int64_t>(op.getHeadDim())};
  }

  /// Adds an operand's codes to the words of the vector that it is part of.
  void shiftFragment(const Fragment &fragment, Values &words) {
    int32_t vector = 0, index = 0;
    from.locate(fragment.rowBlock, fragment.kBlock, vector, index);
    const Fragment before = from.fragment(vector, index);
    for (auto [old, now] : llvm::zip(before.registers, fragment.registers)) {
      Value codes = emitShiftOfBytes(b, format, load(vector, old), from.level);
      if (now.exponent)
        codes = b.shl(codes, now.exponent);
      Value &word = words[now.word];
      word = word ? Value(arith::OrIOp::create(b, word, codes)) : codes;
    }
  }

  /// A register of an operand, its codes at bit 0 of each byte.
  Value load(int32_t vector, const FragmentRegister &of) {
    Values &words = sources[vector];
    if (words.empty())
      words = b.loadWords(
          b.at(source, int64_t{vector} * FragmentLayout::kVectorBytes), 4);
    Value word = words[of.word];
    if (of.exponent)
      word = b.shr(word, of.exponent);
    return of.mask == 0xffffffffu
               ? word
               : b.andBits(word, static_cast<int32_t>(of.mask >> of.exponent));
  }

  LaneBuilder &b;
  FormatAttr format;
  FragmentLayout from, to;
  Value source, target, policy;
  /// Vectors that become the one at hand.
  std::map<int32_t, Values> sources;
};
} // namespace

static SmallVector<Value> shiftCodes(LaneBuilder &b, ShiftCodesOp op) {
  auto branch = scf::IfOp::create(b, op.getFalls(), /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  // Or the loads are taken for those of the products, and their words kept.
  b.syncWarp();
  FallingSide(b, op).run();
  return {};
}

namespace {
class ShiftCodesPass
    : public mlir::pmkvq::impl::ShiftCodesBase<ShiftCodesPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<ShiftCodesOp>(getOperation(), shiftCodes);
  }
};
} // namespace
