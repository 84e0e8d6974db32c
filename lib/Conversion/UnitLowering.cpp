//===- UnitLowering.cpp - One unit's attention in lanes -------------------===//
//
// See UnitLowering.h.
//
//===----------------------------------------------------------------------===//

#include "UnitLowering.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "llvm/ADT/TypeSwitch.h"
#include <cmath>
#include <limits>
#include <optional>

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FragmentLayout;

LaneState LaneState::initial(LaneBuilder &b, int64_t headDim) {
  Value zero = b.f32(0.0);
  // Finite, so that the difference of two such maxima is no NaN.
  return {b.f32(-1e30), zero, zero, Values(headDim / 8, zero)};
}

void LaneState::append(SmallVectorImpl<Value> &to) const {
  llvm::append_range(to, ArrayRef<Value>{maximum, sum, offset});
  llvm::append_range(to, outputs);
}

LaneState LaneState::take(ValueRange &from, int64_t headDim) {
  LaneState state = {from[0], from[1], from[2], {}};
  state.outputs = Values(from.slice(3, headDim / 8));
  from = from.drop_front(3 + headDim / 8);
  return state;
}

namespace {

/// Elements as product * factor + bias; null factors are 1, null biases 0.
struct Affine {
  Values products, factors, bias;
};

/// The lane form of a value of the tile form.
struct Lanes {
  enum Form {
    /// Queries as a B operand: words of two f16, or of two bf16.
    Queries,
    /// Elements of scores or outputs.
    Elements,
    /// Weights after the softmax, maybe with the ranges that scale them.
    Weights,
    /// Parameters in the queries' order, words of two f16.
    PerChannel,
    /// Parameters of tokens g and g + 8, one word a block of 16.
    PerToken,
    /// A number a query.
    Scalars,
    /// A constant, the same for all elements.
    Constant
  } form;
  explicit Lanes(Form form = Constant) : form(form) {}

  /// [operand] for everything but parameters, which have one.
  SmallVector<Values> words;
  SmallVector<Affine> elements;
  /// Packed f16 weights, and ranges (empty: all 1).
  SmallVector<Values> weights;
  Values ranges;
  Values scalars;
  double constant = 0.0;
  /// Bytes and scale of queries, once they are split.
  Values bytes, scales;
};

class UnitLowering {
public:
  UnitLowering(LaneBuilder &b, Region &unit, const SegmentLanes &segment,
               Value slot, Value tokens, Value isSecondHalf,
               ArrayRef<LaneState> states)
      : b(b), unit(unit), segment(segment), slot(slot), tokens(tokens),
        isSecondHalf(isSecondHalf), states(states) {}

  FailureOr<SmallVector<LaneState>> run() {
    Block &block = unit.front();
    keys = cast<TileType>(block.getArgument(2).getType());
    values = cast<TileType>(block.getArgument(3).getType());
    kind = {static_cast<int32_t>(keys.getLevel()),
            static_cast<int32_t>(values.getLevel())};
    places = rt::unitSlot(kind, keys.getHeadDim(), segment.keysPerToken);
    g = b.shr(segment.lane, 2);
    t = b.andBits(segment.lane, 3);
    for (Operation &op : block.without_terminator())
      if (failed(lower(&op)))
        return failure();
    return states;
  }

private:
  int64_t headDim() { return keys.getHeadDim(); }
  int64_t operands() { return segment.shared.operands(); }
  /// The order of the tokens that were copied: the tile's, or their grain.
  FragmentLayout layout(TileType tile) {
    rt::Part part = tile.getPart() == Part::Key ? rt::kKey : rt::kValue;
    return {part, static_cast<int32_t>(tile.getLevel()),
            kind.copiedTokens(part), tile.getHeadDim()};
  }

  //===--------------------------------------------------------------------===//
  // Halves of grains
  //===--------------------------------------------------------------------===//

  bool isHalf(TileType tile) { return layout(tile).tokens > tile.getTokens(); }

  Value pickHalf(Value first, Value second) {
    return first == second ? first : b.select(isSecondHalf, second, first);
  }

  /// Scores of a grain's tokens to those of the half that is the tile.
  void keepHalf(Affine &scores) {
    for (Values *values : {&scores.products, &scores.factors, &scores.bias}) {
      size_t half = values->size() / 2;
      for (size_t i = 0; i < half; ++i)
        (*values)[i] = pickHalf((*values)[i], (*values)[half + i]);
      values->resize(half);
    }
  }

  /// A tile's weights to those of its grain's tokens: the others are zero.
  Values widenWeights(const Values &weights) {
    Value zero = b.f32(0.0);
    Values all;
    for (Value weight : weights)
      all.push_back(pickHalf(weight, zero));
    for (Value weight : weights)
      all.push_back(pickHalf(zero, weight));
    return all;
  }

  //===--------------------------------------------------------------------===//
  // Operands
  //===--------------------------------------------------------------------===//

  /// The lane form of an operand; constants and queries are outside the region.
  Lanes &get(Value value) {
    auto it = forms.find(value);
    if (it != forms.end())
      return it->second;
    DenseFPElementsAttr attr;
    if (matchPattern(value, m_Constant(&attr)) && attr.isSplat()) {
      Lanes constant(Lanes::Constant);
      constant.constant = attr.getSplatValue<APFloat>().convertToFloat();
      return forms[value] = constant;
    }
    assert(isa<RowsType>(value.getType()) && "only queries come from outside");
    return forms[value] = loadQueries(/*raw=*/keys.isRaw());
  }

  Lanes loadQueries(bool raw) {
    Lanes result(Lanes::Queries);
    int64_t start =
        raw ? segment.shared.rawQueries() : segment.shared.halfQueries();
    Value mine = b.at(segment.base, b.shl(segment.lane, 4));
    for (int64_t operand = 0; operand < operands(); ++operand) {
      Values words;
      for (int64_t i = 0; i < headDim() / 32; ++i)
        llvm::append_range(
            words,
            b.loadWords(
                b.at(mine,
                     start + operand * segment.shared.operandBytes() + i * 512),
                4));
      result.words.push_back(words);
    }
    return result;
  }

  /// Parameters of a tile: minima, then ranges, as formats number them.
  LogicalResult lowerParameters(LoadParametersOp op) {
    TileType tile = op.getTile().getType();
    bool isKey = tile.getPart() == Part::Key;
    if (op.getParameters().size() != 2 || !tile.getFormat())
      return op.emitOpError("has no lane form: expected a minimum and a range");
    if (!isKey && !tile.groupsAlongReduction())
      return op.emitOpError("has no lane form: values have groups per token "
                            "on a GPU");
    if (tile.groupsAlongReduction() == (isKey && segment.keysPerToken))
      return op.emitOpError("disagrees with the kernel's parameter layout");
    int64_t start = isKey ? 0 : places.valueParameters;
    Lanes minimum, range;
    if (isKey && !segment.keysPerToken) {
      minimum.form = range.form = Lanes::PerChannel;
      Value mine = b.at(slot, b.mul(t, headDim() / 2));
      for (int64_t i = 0; i < headDim() / 32; ++i)
        llvm::append_range(range.ranges,
                           b.loadWords(b.at(mine, start + i * 16), 4));
      for (int64_t i = 0; i < headDim() / 32; ++i)
        llvm::append_range(
            minimum.ranges,
            b.loadWords(b.at(mine, start + headDim() * 2 + i * 16), 4));
    } else {
      minimum.form = range.form = Lanes::PerToken;
      Value mine = b.at(slot, b.shl(g, 4));
      for (int64_t run = 0; run < layout(tile).tokens / 32; ++run) {
        Values words = b.loadWords(b.at(mine, start + run * 128), 4);
        if (isHalf(tile)) {
          range.ranges.push_back(pickHalf(words[0], words[1]));
          minimum.ranges.push_back(pickHalf(words[2], words[3]));
          continue;
        }
        llvm::append_range(range.ranges, ArrayRef<Value>{words[0], words[1]});
        llvm::append_range(minimum.ranges, ArrayRef<Value>{words[2], words[3]});
      }
    }
    forms[op.getParameters()[0]] = minimum;
    forms[op.getParameters()[1]] = range;
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Rows
  //===--------------------------------------------------------------------===//

  LogicalResult unsupported(Operation *op) {
    return op->emitOpError("has no lane form for these operands");
  }

  /// element * factor, for elements kept as product * factor + bias.
  void multiply(Affine &affine, function_ref<Value(size_t)> factor) {
    for (size_t i = 0; i < affine.products.size(); ++i) {
      Value by = factor(i);
      auto times = [&](Value &value, bool isOne) {
        value = value ? b.mulF(value, by) : isOne ? by : value;
      };
      times(affine.factors[i], /*isOne=*/true);
      times(affine.bias[i], /*isOne=*/false);
    }
  }

  void addBias(Affine &affine, function_ref<Value(size_t)> bias) {
    for (size_t i = 0; i < affine.products.size(); ++i) {
      Value &value = affine.bias[i];
      value = value ? b.addF(value, bias(i)) : bias(i);
    }
  }

  /// Parameter of element i of a lane's scores: token g or g + 8 of block i
  /// / 2.
  Value tokenParameter(const Lanes &parameters, size_t i) {
    return b.half(parameters.ranges[i / 2], i % 2);
  }

  LogicalResult lowerScale(ScaleOp op) {
    Lanes rows = get(op.getRows());
    const Lanes &by = get(op.getBy());
    if (rows.form == Lanes::Queries && by.form == Lanes::PerChannel) {
      for (Values &words : rows.words)
        for (auto [word, range] : llvm::zip(words, by.ranges))
          word = b.mulHalves(word, range);
    } else if (rows.form == Lanes::Weights && by.form == Lanes::PerToken) {
      rows.ranges = by.ranges;
    } else if (rows.form == Lanes::Elements && by.form == Lanes::Constant) {
      Value factor = b.f32(by.constant);
      for (Affine &affine : rows.elements)
        multiply(affine, [&](size_t) { return factor; });
    } else if (rows.form == Lanes::Elements && by.form == Lanes::PerToken) {
      for (Affine &affine : rows.elements)
        multiply(affine, [&](size_t i) { return tokenParameter(by, i); });
    } else {
      return unsupported(op);
    }
    forms[op.getResult()] = rows;
    return success();
  }

  LogicalResult lowerReduce(ReduceOp op) {
    Lanes by = get(op.getBy());
    Lanes &rows = get(op.getRows());
    Lanes result(Lanes::Scalars);
    bool ones = by.form == Lanes::Constant && by.constant == 1.0;
    if (rows.form == Lanes::Queries && by.form == Lanes::PerChannel) {
      Value weights = b.pack(by.ranges);
      for (Values &words : rows.words)
        result.scalars.push_back(
            WeighRowsOp::create(b, b.pack(words), weights));
    } else if (rows.form == Lanes::Queries && ones) {
      split(rows);
      for (auto [bytes, scale] : llvm::zip(rows.bytes, rows.scales))
        result.scalars.push_back(b.mulF(SumBytesOp::create(b, bytes), scale));
    } else if (rows.form == Lanes::Weights &&
               (by.form == Lanes::PerToken || ones)) {
      reduceWeights(rows, by, result);
    } else {
      return unsupported(op);
    }
    forms[op.getResult()] = result;
    return success();
  }

  /// This lane's part of sum_t weight[t] * range[t] * by[t].  Two products are
  /// added in f16, the rest in f32: short contexts show the error of longer
  /// sums in f16.
  void reduceWeights(const Lanes &rows, const Lanes &by, Lanes &result) {
    for (const Values &weights : rows.weights) {
      auto factor = [&](size_t i) {
        Value range = rows.ranges.empty() ? Value() : rows.ranges[i];
        if (by.form != Lanes::PerToken)
          return range;
        return range ? b.mulHalves(range, by.ranges[i]) : by.ranges[i];
      };
      Value sum;
      for (size_t i = 0; i < weights.size(); i += 2) {
        Value pair = weights[i];
        if (Value by = factor(i))
          pair = b.mulHalves(pair, by);
        if (i + 1 < weights.size()) {
          Value by = factor(i + 1);
          pair = by ? b.fmaHalves(weights[i + 1], by, pair)
                    : b.addHalves(weights[i + 1], pair);
        }
        Value both = b.addF(b.half(pair, 0), b.half(pair, 1));
        sum = sum ? b.addF(sum, both) : both;
      }
      result.scalars.push_back(sum);
    }
  }

  LogicalResult lowerAddOuter(AddOuterOp op) {
    Lanes rows = get(op.getRows());
    const Lanes left = get(op.getLeft()), right = get(op.getRight());
    if (rows.form != Lanes::Elements || left.form != Lanes::Scalars)
      return unsupported(op);
    for (auto [affine, scalar] : llvm::zip(rows.elements, left.scalars)) {
      if (right.form == Lanes::Constant && right.constant == 1.0)
        addBias(affine, [&, scalar = scalar](size_t) { return scalar; });
      else if (right.form == Lanes::PerToken)
        addBias(affine, [&, scalar = scalar](size_t i) {
          return b.mulF(scalar, tokenParameter(right, i));
        });
      else
        return unsupported(op);
    }
    forms[op.getResult()] = rows;
    return success();
  }

  /// Elementwise arithmetic on numbers of queries.
  template <typename OpTy>
  LogicalResult lowerScalars(OpTy op,
                             function_ref<Value(Value, Value)> combine) {
    Lanes result(Lanes::Scalars);
    Lanes left = get(op.getLhs()), right = get(op.getRhs());
    if (left.form != Lanes::Scalars && right.form != Lanes::Scalars)
      return unsupported(op);
    for (int64_t i = 0; i < operands(); ++i) {
      auto element = [&](const Lanes &lanes) {
        return lanes.form == Lanes::Scalars ? lanes.scalars[i]
                                            : b.f32(lanes.constant);
      };
      result.scalars.push_back(combine(element(left), element(right)));
    }
    forms[op.getResult()] = result;
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Products
  //===--------------------------------------------------------------------===//

  void split(Lanes &queries) {
    if (!queries.bytes.empty())
      return;
    for (Values &words : queries.words) {
      auto op = SplitRowsOp::create(b, b.words(words.size() / 2),
                                    b.getF32Type(), b.pack(words));
      queries.bytes.push_back(op.getBytes());
      queries.scales.push_back(op.getScale());
    }
  }

  /// The product as elements of two per block of rows.  `lowUnits` is how many
  /// units of the low byte the high one is worth; 0 for raw products.
  LogicalResult lowerContract(ContractOp op) {
    TileType tile = op.getTile().getType();
    Lanes &rows = get(op.getRows());
    bool isKey = tile.getPart() == Part::Key, raw = tile.isRaw();
    Values operands, scales;
    int64_t lowUnits = 0;
    if (isKey && rows.form == Lanes::Queries && raw) {
      for (Values &words : rows.words)
        operands.push_back(b.pack(words));
    } else if (isKey && rows.form == Lanes::Queries) {
      split(rows);
      operands = rows.bytes;
      scales = rows.scales;
      lowUnits = 254;
    } else if (!isKey && rows.form == Lanes::Weights && raw) {
      for (Affine &affine : rows.elements)
        operands.push_back(RepackRawWeightsOp::create(
            b, b.words(affine.products.size()), b.pack(affine.products)));
    } else if (!isKey && rows.form == Lanes::Weights && !rows.ranges.empty()) {
      bool half = isHalf(tile);
      Value ranges = b.pack(half ? Values(2, rows.ranges[0]) : rows.ranges);
      for (Affine &affine : rows.elements) {
        Values weights = half ? widenWeights(affine.products) : affine.products;
        auto repack =
            RepackWeightsOp::create(b, b.words(weights.size() / 2),
                                    b.getF32Type(), b.pack(weights), ranges);
        operands.push_back(repack.getOperand());
        scales.push_back(repack.getUnscale());
      }
      lowUnits = 256;
    } else {
      return unsupported(op);
    }
    forms[op.getResult()] = multiplyCodes(tile, operands, scales, lowUnits);
    return success();
  }

  Lanes multiplyCodes(TileType tile, Values &operands, Values &scales,
                      int64_t lowUnits) {
    FragmentLayout order = layout(tile);
    // Each lane has rows g and g + 8 of a block.
    int64_t rows = int64_t{order.rowBlocks()} * 2;
    Value codes = b.at(slot, tile.getPart() == Part::Key ? places.keyCodes
                                                         : places.valueCodes);
    Type type = lowUnits ? Type(b.words(rows * 2)) : Type(b.floats(rows * 2));
    auto product = MultiplyCodesOp::create(
        b, SmallVector<Type>(operands.size(), type), tile.getPart(),
        tile.getLevel(), order.tokens, tile.getHeadDim(), codes, operands);
    Lanes result(Lanes::Elements);
    for (auto [i, vector] : llvm::enumerate(product.getSums())) {
      Values c = b.unpack(vector);
      Affine affine;
      llvm::SmallDenseMap<int32_t, Value> factors;
      for (int64_t row = 0; row < rows; ++row) {
        Value high = c[row * 2], low = c[row * 2 + 1];
        if (!lowUnits) {
          affine.products.push_back(b.addF(high, low));
          affine.factors.push_back(Value());
          continue;
        }
        Value sum = b.add(
            lowUnits == 256 ? b.shl(high, 8) : b.mul(high, lowUnits), low);
        affine.products.push_back(b.toF32(sum));
        int32_t exponent =
            order.exponent(static_cast<int32_t>(row / 2), row % 2);
        Value &factor = factors[exponent];
        if (!factor)
          factor = b.mulF(scales[i], b.f32(std::ldexp(1.0, -exponent)));
        affine.factors.push_back(factor);
      }
      affine.bias.assign(affine.products.size(), Value());
      if (tile.getPart() == Part::Key && isHalf(tile))
        keepHalf(affine);
      result.elements.push_back(affine);
    }
    return result;
  }

  //===--------------------------------------------------------------------===//
  // Softmax
  //===--------------------------------------------------------------------===//

  /// Tokens that do not count get minus infinity.
  LogicalResult lowerMask(CausalMaskOp op) {
    Lanes rows = get(op.getScores());
    if (rows.form != Lanes::Elements)
      return unsupported(op);
    Value hidden = b.f32(-std::numeric_limits<double>::infinity());
    for (Affine &affine : rows.elements)
      for (size_t i = 0; i < affine.products.size(); ++i) {
        Value token = b.add(g, static_cast<int64_t>(i) * 8);
        Value counts = b.compare(arith::CmpIPredicate::slt, token, tokens);
        affine.products[i] = b.select(counts, affine.products[i], hidden);
      }
    forms[op.getResult()] = rows;
    return success();
  }

  LogicalResult lowerUpdate(SoftmaxUpdateOp op) {
    Lanes scores = get(op.getScores());
    if (scores.form != Lanes::Elements)
      return unsupported(op);
    Lanes weights(Lanes::Weights);
    for (int64_t i = 0; i < operands(); ++i) {
      Affine &affine = scores.elements[i];
      Value log2 = keys.isRaw() ? b.f32(segment.rawFactor) : segment.factors[i];
      scaleFactors(affine, log2);
      LaneState &state = states[i];
      size_t count = affine.products.size();
      auto softmax = LazySoftmaxOp::create(
          b, b.getF32Type(), TypeRange{b.getF32Type(), b.getF32Type()},
          b.floats(state.outputs.size()), b.floats(count), b.words(count / 2),
          state.maximum, ValueRange{state.sum, state.offset},
          b.pack(state.outputs), b.pack(affine.products),
          b.pack(affine.factors), b.pack(affine.bias));
      state.maximum = softmax.getNextMaximum();
      state.sum = softmax.getNextSums()[0];
      state.offset = softmax.getNextSums()[1];
      state.outputs = b.unpack(softmax.getNextOutputs());
      Affine result;
      result.products = b.unpack(softmax.getWeights());
      weights.weights.push_back(b.unpack(softmax.getPacked()));
      state.sum = b.addF(state.sum, sumOf(result.products));
      weights.elements.push_back(result);
    }
    forms[op.getWeights()] = weights;
    return success();
  }

  /// Factors and biases times `by`, each distinct one once.
  void scaleFactors(Affine &affine, Value by) {
    llvm::SmallDenseMap<Value, Value> done;
    Value zero = b.f32(0.0);
    for (size_t i = 0; i < affine.products.size(); ++i) {
      auto times = [&](Value value) {
        Value &result = done[value];
        if (!result)
          result = b.mulF(value, by);
        return result;
      };
      affine.factors[i] = affine.factors[i] ? times(affine.factors[i]) : by;
      affine.bias[i] = affine.bias[i] ? times(affine.bias[i]) : zero;
    }
  }

  Value sumOf(const Values &weights) {
    Value sum = weights[0];
    for (Value weight : llvm::drop_begin(weights))
      sum = b.addF(sum, weight);
    return sum;
  }

  LogicalResult lowerAdd(SoftmaxAddOp op) {
    Lanes rows = get(op.getRows());
    if (rows.form != Lanes::Elements)
      return unsupported(op);
    for (auto [state, affine] : llvm::zip(states, rows.elements)) {
      for (size_t i = 0; i < affine.products.size(); ++i) {
        Value &output = state.outputs[i];
        output = affine.factors[i]
                     ? b.fma(affine.products[i], affine.factors[i], output)
                     : b.addF(output, affine.products[i]);
      }
      // The same for all dims: added once, at the merge.
      if (affine.bias[0])
        state.offset = b.addF(state.offset, affine.bias[0]);
    }
    return success();
  }

  LogicalResult lower(Operation *op) {
    return llvm::TypeSwitch<Operation *, LogicalResult>(op)
        .Case([&](LoadParametersOp op) { return lowerParameters(op); })
        .Case([&](ScaleOp op) { return lowerScale(op); })
        .Case([&](ReduceOp op) { return lowerReduce(op); })
        .Case([&](AddOuterOp op) { return lowerAddOuter(op); })
        .Case([&](ContractOp op) { return lowerContract(op); })
        .Case([&](CausalMaskOp op) { return lowerMask(op); })
        .Case([&](SoftmaxUpdateOp op) { return lowerUpdate(op); })
        .Case([&](SoftmaxAddOp op) { return lowerAdd(op); })
        .Case([&](arith::AddFOp op) {
          return lowerScalars(op,
                              [&](Value x, Value y) { return b.addF(x, y); });
        })
        .Case([&](arith::MulFOp op) {
          return lowerScalars(op,
                              [&](Value x, Value y) { return b.mulF(x, y); });
        })
        .Case([&](arith::ConstantOp) { return success(); })
        .Default(
            [](Operation *op) { return op->emitOpError("has no lane form"); });
  }

  LaneBuilder &b;
  Region &unit;
  const SegmentLanes &segment;
  Value slot, tokens, isSecondHalf;
  SmallVector<LaneState> states;
  TileType keys, values;
  rt::UnitKind kind;
  rt::UnitSlot places;
  Value g, t;
  llvm::DenseMap<Value, Lanes> forms;
};
} // namespace

FailureOr<SmallVector<LaneState>>
mlir::pmkvq::lowerUnit(LaneBuilder &b, Region &unit,
                       const SegmentLanes &segment, Value slot, Value tokens,
                       Value isSecondHalf, ArrayRef<LaneState> states) {
  return UnitLowering(b, unit, segment, slot, tokens, isSecondHalf, states)
      .run();
}
