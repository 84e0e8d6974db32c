//===- LowerFeedback.cpp - Shifts with feedback on the CPU ----------------===//
//
// Neighbours: FeedbackRounding.h (what is done with an element), HostLayout.h
// (where codes lie), Reference/Quantize.h (the same as a specification).
//
// Mental model.  Lanes are tokens, which do not depend on each other; head dims
// come one after the other.  32 tokens of 4 head dims are a bundle of the
// layout, at every level: it is read, gets from all head dims before it what
// they have left, is rounded, and is written, half as large, to where it was
// read or before.
//
//   excess [head_dim][32 tokens]  what each code has more than its target
//   factor [head_dim][head_dim]   row j: by how much each i < j changes j
//
//===----------------------------------------------------------------------===//

#include "LowerFeedback.h"
#include "FeedbackRounding.h"
#include "ParameterMemory.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "pmkvq_rt/Abi.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
/// Tokens that are worked on together: half a bundle.
constexpr int64_t kTokens = 2 * CodeLayout::kLanes;
constexpr int64_t kQuad = CodeLayout::kQuad;

class FeedbackShift {
public:
  FeedbackShift(TileBuilder &b, TileType from, const TileFields &source,
                Value feedback)
      : b(b), from(from), source(source),
        factor(b.offset(feedback, rt::kKeyFeedbackFactor * sizeof(float))),
        headDim(from.getHeadDim()), layout(from),
        perHeadDim(from.getFormat().getModel().getGroupAxis() ==
                   GroupAxis::HeadDim),
        offsetAt2(loadFloat(feedback, rt::kKeyFeedbackOffset)),
        stepAt2(loadFloat(feedback, rt::kKeyFeedbackStep)),
        rounding(b, from.getFormat(), from.getLevel(), offsetAt2, stepAt2),
        excess(b.scratchFloats(headDim * layout.runOutputs())) {}

  void run() {
    Value range = ParameterMemory(b, from, source.parameters).load().back();
    FeedbackGrid all = rounding.gridOf(range);
    grids = {b.spill(all.before), b.spill(all.offset), b.spill(all.step),
             b.spill(all.inverse)};
    b.forEach(rt::kPageTokens / layout.runOutputs(), [&](Value run) {
      b.forEach(headDim / kQuad, [&](Value quad) { shiftBundle(run, quad); });
    });
  }

private:
  Value loadFloat(Value base, int64_t index) {
    return b.load(b.getF32Type(), b.offset(base, index * 4), 4);
  }

  /// Address of a vector of a bundle at a level.
  Value vectorAddress(int64_t level, Value run, Value quad, int64_t vector) {
    Value bundle = b.add(b.mul(run, layout.runStride), quad);
    Value index =
        b.add(b.mul(bundle, CodeLayout::vectorsPerBundle(level)), vector);
    return b.codeVector(source, index, headDim);
  }

  /// What the groups of a head dim, or of tokens from `token` on, have.
  FeedbackGrid gridAt(Value dim, Value token) {
    auto at = [&](Value memory) -> Value {
      return perHeadDim ? b.broadcast(b.load(b.getF32Type(), b.at(memory, dim)),
                                      b.f32Vector(kTokens))
                        : b.loadLanes(b.at(memory, token), kTokens);
    };
    return {at(grids.before), at(grids.offset), at(grids.step),
            at(grids.inverse)};
  }

  /// Words of a bundle's groups of 8 tokens, a code of `from` in each byte.
  SmallVector<Value> loadWords(Value run, Value quad) {
    const int64_t level = from.getLevel();
    SmallVector<Value> words;
    for (int64_t i = 0; i < CodeLayout::vectorsPerBundle(level); ++i) {
      Value vector =
          b.load(b.i32Vector(), vectorAddress(level, run, quad, i), 4);
      for (int64_t field = 0; field < CodeLayout::fields(level); ++field) {
        Value bits = b.splatInt(b.i32Vector(), CodeLayout::bitOf(level, field));
        Value word = arith::ShRUIOp::create(b, vector, bits);
        words.push_back(arith::AndIOp::create(
            b, word,
            b.splatInt(b.i32Vector(), ((1ll << level) - 1) * 0x01010101ll)));
      }
    }
    return words;
  }

  void storeWords(Value run, Value quad, ArrayRef<Value> words) {
    const int64_t level = from.getLevel() / 2;
    const int64_t fields = CodeLayout::fields(level);
    for (int64_t i = 0; i < CodeLayout::vectorsPerBundle(level); ++i) {
      Value vector;
      for (int64_t field = 0; field < fields; ++field) {
        Value word = words[CodeLayout::groupOf(level, i, field)];
        Value bits = b.splatInt(b.i32Vector(), CodeLayout::bitOf(level, field));
        word = arith::ShLIOp::create(b, word, bits);
        vector =
            vector ? arith::OrIOp::create(b, vector, word).getResult() : word;
      }
      b.store(vector, vectorAddress(level, run, quad, i), 4);
    }
  }

  /// Codes of element `i` of a quad.
  Value codesOf(Value words, int64_t i) {
    Type type = words.getType();
    Value bits = b.splatInt(type, 8 * CodeLayout::kByteOf[i]);
    Value low = arith::ShRUIOp::create(b, words, bits);
    return arith::AndIOp::create(b, low, b.splatInt(type, 255));
  }

  void shiftBundle(Value run, Value quad) {
    SmallVector<Value> words = loadWords(run, quad);
    SmallVector<Value> shifted;
    for (int64_t half : {0, 1}) {
      Value both = b.join(words[2 * half], words[2 * half + 1]);
      Value chosen = shiftTokens(run, quad, half, both);
      for (int64_t group : {0, 1})
        shifted.push_back(b.slice(chosen, group * kLanes, kLanes));
    }
    storeWords(run, quad, shifted);
  }

  /// Address of what a head dim's codes of a half of the bundle have more.
  Value excessAt(Value dim, int64_t half) {
    Value row = b.at(excess, dim, layout.runOutputs() * 4);
    return b.offset(row, half * kTokens * 4);
  }

  /// Address of the factor's row of a head dim.
  Value factorRow(Value dim) { return b.at(factor, dim, headDim * 4); }

  Value factorAt(Value row, Value dim) {
    return b.broadcast(b.load(b.getF32Type(), b.at(row, dim), 4),
                       b.f32Vector(kTokens));
  }

  /// 4 head dims of half a bundle: words of codes to words of lower codes.
  Value shiftTokens(Value run, Value quad, int64_t half, Value words) {
    Value token = b.add(b.mul(run, layout.runOutputs()), half * kTokens);
    Value first = b.mul(quad, kQuad);
    SmallVector<Value> dims, rows, targets;
    SmallVector<FeedbackGrid> gridOf;
    for (int64_t i = 0; i < kQuad; ++i) {
      dims.push_back(b.add(first, i));
      rows.push_back(factorRow(dims[i]));
      gridOf.push_back(gridAt(dims[i], token));
      targets.push_back(
          rounding.targetsOf(codesOf(words, i), gridOf[i].before));
    }
    targets = b.loop(first, 1, targets, [&](Value dim, ValueRange running) {
      Value left = b.loadLanes(excessAt(dim, half), kTokens);
      SmallVector<Value> next;
      for (auto [row, target] : llvm::zip(rows, running))
        next.push_back(
            math::FmaOp::create(b, factorAt(row, dim), left, target));
      return next;
    });
    Value result;
    for (int64_t i = 0; i < kQuad; ++i) {
      auto [code, left] = rounding.choose(targets[i], gridOf[i]);
      b.store(left, excessAt(dims[i], half), 4);
      for (int64_t later = i + 1; later < kQuad; ++later)
        targets[later] = math::FmaOp::create(b, factorAt(rows[later], dims[i]),
                                             left, targets[later]);
      Value bits = b.splatInt(code.getType(), 8 * CodeLayout::kByteOf[i]);
      code = arith::ShLIOp::create(b, code, bits);
      result =
          result ? arith::OrIOp::create(b, result, code).getResult() : code;
    }
    return result;
  }

  TileBuilder &b;
  TileType from;
  TileFields source;
  Value factor;
  int64_t headDim;
  CodeLayout layout;
  bool perHeadDim;
  Value offsetAt2, stepAt2;
  FeedbackRounding rounding;
  Value excess;
  /// In memory, one a group.
  FeedbackGrid grids;
};
} // namespace

void mlir::pmkvq::shiftWithFeedback(TileBuilder &b, TileType from,
                                    const TileFields &source, Value feedback) {
  FeedbackShift(b, from, source, feedback).run();
}
