//===- UnpackCodes.cpp - Codes to operands of matrix instructions ---------===//
//
// Lowers multiply_codes.  Neighbours: FragmentLayout.h (masks and exponents).
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/FragmentLayout.h"
#include <map>

namespace mlir::pmkvq {
#define GEN_PASS_DEF_UNPACKCODES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FragmentLayout;

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
  Value scaled = number(high);
  scaled = b.fma(scaled, b.f32(units), b.f32(-(units + 1.0) * bias(isKey)));
  return b.addF(scaled, number(low));
}

namespace {
/// The products of one side of a unit with all operands.
class Product {
public:
  Product(LaneBuilder &b, MultiplyCodesOp op)
      : b(b), isKey(op.getPart() == Part::Key),
        layout({isKey ? rt::kKey : rt::kValue,
                static_cast<int32_t>(op.getLevel()),
                static_cast<int32_t>(op.getTokens()),
                static_cast<int64_t>(op.getHeadDim())}),
        raw(layout.level == 16) {
    for (Value operand : op.getColumns())
      operands.push_back(b.unpack(operand));
    lane = b.andBits(b.threadId(), FragmentLayout::kLanes - 1);
    codes = op.getCodes();
    mine = b.at(codes, b.shl(lane, 4));
  }

  SmallVector<Value> run() {
    SmallVector<Values> all(operands.size());
    for (int32_t first = 0; first < layout.rowBlocks(); first += blocksAtOnce())
      multiplyRows(first, all);
    SmallVector<Value> results;
    for (const Values &query : all)
      results.push_back(b.pack(query));
    return results;
  }

private:
  /// Row blocks whose accumulators are alive together: more leave no registers
  /// for outputs.
  int32_t blocksAtOnce() {
    // Values at 2 bits have operands of four row blocks in a vector, keys of
    // two.
    size_t accumulators = isKey && operands.size() > 2 ? 32 : 64;
    size_t each = 4 * operands.size() * layout.sumParts();
    return std::min(layout.rowBlocks(),
                    static_cast<int32_t>(accumulators / each));
  }

  /// The operands of row blocks from `first` on, in the order of their codes.
  void forEachBlock(int32_t first, int32_t count,
                    function_ref<void(int32_t rowBlock, int32_t kBlock)> body) {
    // Of values all rows come before the next of k, of keys at 2 bits the two
    // row blocks that share words.
    int32_t together =
        std::min(isKey ? (layout.level == 2 ? 2 : 1) : count, count);
    for (int32_t row = first; row < first + count; row += together)
      for (int32_t kBlock = 0; kBlock < layout.kBlocks(); ++kBlock)
        for (int32_t i = 0; i < together; ++i)
          body(row + i, kBlock);
  }

  /// The registers of an operand, four, or two of half a block of k.  Fields
  /// stay where they lie, unless it is elsewhere than those of their row.
  Values unpack(int32_t rowBlock, int32_t kBlock) {
    Values operand;
    for (int32_t i = 0; i < layout.registers(kBlock); ++i) {
      FragmentLayout::Source source = layout.source(rowBlock, kBlock, i);
      Values &words = vectors[source.vector.byte];
      if (words.empty()) {
        // `mine` is a lane's place in vectors of four words.
        Value place = source.vector.words == 4 ? mine : placeIn(source.vector);
        words =
            b.loadWords(b.at(place, source.vector.byte), source.vector.words);
      }
      Value word = words[source.field.word];
      uint32_t mask = source.field.mask;
      if (int32_t by =
              source.field.exponent - layout.exponent(rowBlock, i % 2)) {
        word = b.shr(word, by);
        mask >>= by;
      }
      operand.push_back(mask == 0xffffffffu
                            ? word
                            : b.andBits(word, static_cast<int32_t>(mask)));
    }
    return operand;
  }

  Value placeIn(const FragmentLayout::Vector &vector) {
    return b.at(codes, b.mul(lane, vector.laneBytes()));
  }

  /// Adds what row blocks from `first` on give to the results of `all` queries.
  void multiplyRows(int32_t first, SmallVectorImpl<Values> &all) {
    Value start =
        raw ? b.f32(0.0) : b.bitcast(b.f32(bias(isKey)), b.getI32Type());
    int32_t parts = layout.sumParts();
    int32_t count = std::min(blocksAtOnce(), layout.rowBlocks() - first);
    // [operand][row block][part of k] four accumulators.
    SmallVector<SmallVector<SmallVector<Values>>> sums(
        operands.size(),
        SmallVector<SmallVector<Values>>(
            count, SmallVector<Values>(parts, Values(4, start))));
    forEachBlock(first, count, [&](int32_t rowBlock, int32_t kBlock) {
      Values a = unpack(rowBlock, kBlock);
      int32_t part = kBlock * parts / layout.kBlocks();
      for (auto [operand, sum] : llvm::zip(operands, sums)) {
        ArrayRef<Value> k =
            ArrayRef<Value>(operand).slice(size_t(kBlock) * 2, a.size() / 2);
        Values &c = sum[rowBlock - first][part];
        c = raw ? b.mmaBrainFloats(a, k, c) : b.mmaBytes(a, k, c, isKey);
      }
    });
    vectors.clear();
    for (size_t query = 0; query < operands.size(); ++query)
      for (int32_t block = 0; block < count; ++block)
        for (size_t row : {0, 2}) { // g, g + 8
          Value sum;
          for (int32_t part = 0; part < parts; ++part) {
            auto [high, low] = partsOf(query);
            Value mine = add(sums[high.first][block][part][row + high.second],
                             sums[low.first][block][part][row + low.second]);
            sum = sum ? b.addF(sum, mine) : mine;
          }
          all[query].push_back(sum);
        }
  }

  /// Operand and column of the lane's two with a query's high and low part.
  std::pair<std::pair<size_t, size_t>, std::pair<size_t, size_t>>
  partsOf(size_t query) {
    if (operands.size() == 1)
      return {{0, 0}, {0, 1}};
    size_t set = query / 2 * 2;
    return {{set, query % 2}, {set + 1, query % 2}};
  }

  Value add(Value high, Value low) {
    return raw ? b.addF(high, low) : addParts(b, high, low, isKey);
  }

  LaneBuilder &b;
  bool isKey;
  FragmentLayout layout;
  bool raw;
  SmallVector<Values> operands;
  Value codes, lane, mine;
  /// Words that were loaded, by where their vector begins.
  std::map<int64_t, Values> vectors;
};
} // namespace

static SmallVector<Value> multiplyCodes(LaneBuilder &b, MultiplyCodesOp op) {
  return Product(b, op).run();
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
