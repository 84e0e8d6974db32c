//===- HalvesInWords.cpp - Two lanes of 16 bits in one word ---------------===//
//
// See HalvesInWords.h.
//
//===----------------------------------------------------------------------===//

#include "HalvesInWords.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::pmkvq;

namespace {
class Rewriter {
public:
  explicit Rewriter(LaneBuilder &b) : b(b) {}

  void know(Value pair, Value word) { words[pair] = word; }

  /// The word of a pair, whatever made it.
  Value wordOf(Value pair) {
    Value &word = words[pair];
    if (!word) {
      if (std::optional<uint32_t> half = constantOf(pair))
        word = b.i32(static_cast<int32_t>(*half * 0x10001u));
      else
        word = b.bitcast(pair, b.getI32Type());
    }
    return word;
  }

  template <typename OpTy> Value onWords(OpTy op) {
    Value left = wordOf(op.getLhs()), right = wordOf(op.getRhs());
    return OpTy::create(b, left, right);
  }

  /// The op's result as a word; null if it must stay a vector.
  Value rewrite(Operation *op) {
    return llvm::TypeSwitch<Operation *, Value>(op)
        .Case([&](arith::AddIOp add) -> Value {
          return onWords<arith::AddIOp>(add);
        })
        .Case([&](arith::AndIOp both) -> Value {
          return onWords<arith::AndIOp>(both);
        })
        .Case([&](arith::MulIOp product) -> Value {
          std::optional<uint32_t> by = constantOf(product.getRhs());
          return by ? b.mul(wordOf(product.getLhs()), *by) : Value();
        })
        .Case([&](arith::ShRUIOp shift) -> Value {
          std::optional<uint32_t> by = constantOf(shift.getRhs());
          if (!by)
            return {};
          return b.andBits(b.shr(wordOf(shift.getLhs()), *by),
                           int64_t{0xffff >> *by} * 0x10001);
        })
        .Default([](Operation *) { return Value(); });
  }

private:
  static std::optional<uint32_t> constantOf(Value pair) {
    DenseIntElementsAttr elements;
    if (!matchPattern(pair, m_Constant(&elements)) || !elements.isSplat())
      return std::nullopt;
    return static_cast<uint32_t>(
        elements.getSplatValue<APInt>().getZExtValue());
  }

  LaneBuilder &b;
  DenseMap<Value, Value> words;
};
} // namespace

Value mlir::pmkvq::emitOnHalves(LaneBuilder &b, Value word,
                                function_ref<Value(Value)> emit) {
  auto type = VectorType::get({2}, b.getI16Type());
  Value pair = b.bitcast(word, type);
  Operation *before = pair.getDefiningOp();
  Value result = emit(pair);
  SmallVector<Operation *> emitted;
  for (auto it = std::next(before->getIterator()); it != b.getInsertionPoint();
       ++it)
    emitted.push_back(&*it);
  Rewriter rewriter(b);
  rewriter.know(pair, word);
  for (Operation *op : emitted)
    if (op->getNumResults() == 1 && op->getResult(0).getType() == type)
      if (Value rewritten = rewriter.rewrite(op))
        rewriter.know(op->getResult(0), rewritten);
  // What only the vectors used is gone.
  Value inWord = rewriter.wordOf(result);
  for (Operation *op : llvm::reverse(emitted))
    if (op->use_empty())
      op->erase();
  return inWord;
}

Value mlir::pmkvq::emitShiftOfBytes(LaneBuilder &b, FormatAttr format,
                                    Value word, int64_t from) {
  auto shiftPair = [&](Value codes) {
    return emitOnHalves(b, codes, [&](Value pair) {
      return format.getModel().emitShift(b, format, pair, from);
    });
  };
  Value even = shiftPair(b.andBits(word, 0x00ff00ff));
  Value odd = shiftPair(b.andBits(b.shr(word, 8), 0x00ff00ff));
  return arith::OrIOp::create(b, even, b.shl(odd, 8));
}
