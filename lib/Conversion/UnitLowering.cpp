//===- UnitLowering.cpp - One unit's attention in lanes -------------------===//
//
// See UnitLowering.h.
//
//===----------------------------------------------------------------------===//

#include "UnitLowering.h"
#include "LaneForms.h"
#include "LaneParameters.h"
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

namespace {
class UnitLowering {
public:
  UnitLowering(LaneBuilder &b, Region &unit, const SegmentLanes &segment,
               Value slot, Value tokens, Value isSecondHalf,
               const UnitFall &fall, ArrayRef<LaneState> states)
      : b(b), unit(unit), segment(segment), slot(slot), tokens(tokens),
        isSecondHalf(isSecondHalf), fall(fall), states(states) {}

  FailureOr<SmallVector<LaneState>> run() {
    Block &block = unit.front();
    keys = cast<TileType>(block.getArgument(2).getType());
    values = cast<TileType>(block.getArgument(3).getType());
    kind = {static_cast<int32_t>(keys.getLevel()),
            static_cast<int32_t>(values.getLevel())};
    places = ::pmkvq::unitSlot(kind, keys.getHeadDim(), segment.keysPerToken,
                               groupBytes(values));
    g = b.shr(segment.lane, 2);
    t = b.andBits(segment.lane, 3);
    newest = block.getArgument(0);
    for (Operation &op : block.without_terminator())
      if (failed(checkOperands(&op)) || failed(lower(&op)))
        return failure();
    if (failed(checkOperands(block.getTerminator())))
      return failure();
    return states;
  }

private:
  int64_t headDim() { return keys.getHeadDim(); }
  int64_t queriesPerLane() { return segment.shared.queriesPerLane(); }
  /// Queries of the lane in one set of operands, and as many types.
  int64_t perSet() { return queriesPerLane() / segment.shared.sets(); }
  SmallVector<Type> ofSet(Type type) {
    return SmallVector<Type>(perSet(), type);
  }
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

  static std::optional<double> splatOf(Value value) {
    DenseFPElementsAttr attr;
    if (!matchPattern(value, m_Constant(&attr)) || !attr.isSplat())
      return std::nullopt;
    return attr.getSplatValue<APFloat>().convertToFloat();
  }

  /// Lanes hold the unit's tiles and values made of them, one state, the
  /// queries that were staged, and constants.
  LogicalResult checkOperands(Operation *op) {
    for (Value operand : op->getOperands()) {
      if (isa<SoftmaxType>(operand.getType())) {
        if (operand != newest)
          return op->emitOpError("expected the newest state of the unit");
        continue;
      }
      auto argument = dyn_cast<BlockArgument>(operand);
      bool isOwn = argument && argument.getOwner() == &unit.front();
      if (isOwn || operand == segment.queries || forms.contains(operand) ||
          splatOf(operand))
        continue;
      return op->emitOpError("has no lane form for an operand from outside the "
                             "unit that is neither the segment's scaled "
                             "queries nor a splat constant");
    }
    return success();
  }

  /// The lane form of an operand that was checked.
  Lanes &get(Value value) {
    auto it = forms.find(value);
    if (it != forms.end())
      return it->second;
    if (std::optional<double> splat = splatOf(value)) {
      Lanes constant(Lanes::Constant);
      constant.constant = *splat;
      return forms[value] = constant;
    }
    return forms[value] = loadQueries(/*raw=*/keys.isRaw());
  }

  /// Words of two 16-bit elements that a lane has of all head dims.
  int64_t wordsOfDims() { return headDim() / 8; }

  Lanes loadQueries(bool raw) {
    Lanes result(Lanes::Queries);
    int64_t start =
        raw ? segment.shared.rawQueries() : segment.shared.halfQueries();
    Value mine = b.at(segment.base, b.shl(segment.lane, 4));
    int64_t operands = raw ? segment.shared.operands() : segment.shared.sets();
    for (int64_t operand = 0; operand < operands; ++operand) {
      int64_t at = start + operand * segment.shared.operandBytes();
      Values words;
      for (int64_t i = 0; i < wordsOfDims(); i += 4, at += 512)
        llvm::append_range(
            words, b.loadWords(b.at(mine, at),
                               std::min<int64_t>(4, wordsOfDims() - i)));
      if (!raw)
        fillBlock(b, words);
      result.words.push_back(words);
    }
    return result;
  }

  /// Adds a word a block of a grain, or that of the half which is the tile.
  void addBlocks(TileType tile, Value first, Value second, Values &to) {
    if (isHalf(tile))
      to.push_back(pickHalf(first, second));
    else
      to.append({first, second});
  }

  /// Parameters of a tile: minima, then ranges, or ranges alone.
  LogicalResult lowerParameters(LoadParametersOp op) {
    TileType tile = op.getTile().getType();
    bool isKey = tile.getPart() == Part::Key;
    if (tile.groupsAlongReduction() == (isKey && segment.keysPerToken))
      return op.emitOpError("disagrees with the kernel's parameter layout");
    int64_t start = isKey ? 0 : places.valueParameters;
    Lanes minimum, range;
    if (op.getParameters().size() == 1) {
      range.form = Lanes::PerToken;
      for (auto [first, second] :
           loadByteRanges(b, b.at(slot, start), g, layout(tile).tokens))
        addBlocks(tile, first, second, range.parameters);
      forms[op.getParameters()[0]] = range;
      return success();
    }
    if (isKey && !segment.keysPerToken) {
      minimum.form = range.form = Lanes::PerChannel;
      Value mine = b.at(slot, b.mul(t, headDim() / 2));
      range.parameters = loadChannels(b, b.at(mine, start), headDim());
      minimum.parameters =
          loadChannels(b, b.at(mine, start + headDim() * 2), headDim());
    } else {
      minimum.form = range.form = Lanes::PerToken;
      Value mine = b.at(slot, b.shl(g, 4));
      for (int64_t run = 0; run < layout(tile).tokens / 32; ++run) {
        Values words = b.loadWords(b.at(mine, start + run * 128), 4);
        addBlocks(tile, words[0], words[1], range.parameters);
        addBlocks(tile, words[2], words[3], minimum.parameters);
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

  /// Parameter of element i of a lane's scores: token g or g + 8 of block i
  /// / 2.
  Value tokenParameter(const Lanes &parameters, size_t i) {
    return b.half(parameters.parameters[i / 2], i % 2);
  }

  LogicalResult lowerScale(ScaleOp op) {
    Lanes rows = get(op.getRows());
    const Lanes &by = get(op.getBy());
    if (rows.form == Lanes::Queries && by.form == Lanes::PerChannel) {
      for (Values &words : rows.words)
        for (auto [word, range] : llvm::zip(words, by.parameters))
          word = b.mulHalves(word, range);
    } else if (rows.form == Lanes::Weights && rows.parameters.empty() &&
               by.form == Lanes::PerToken) {
      rows.parameters = by.parameters;
    } else if (rows.form == Lanes::Elements && by.form == Lanes::Constant) {
      Value factor = b.f32(by.constant);
      for (Affine &affine : rows.elements)
        affine.multiply(b, [&](size_t) { return factor; });
    } else if (rows.form == Lanes::Elements && by.form == Lanes::PerToken) {
      for (Affine &affine : rows.elements)
        affine.multiply(b, [&](size_t i) { return tokenParameter(by, i); });
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
      for (const Values &words : rows.words) {
        Value packed = b.pack(words);
        auto weighed = WeighRowsOp::create(b, ofSet(b.getF32Type()), packed,
                                           b.pack(by.parameters));
        llvm::append_range(result.scalars, weighed.getSums());
      }
    } else if (rows.form == Lanes::Queries && ones) {
      split(rows);
      for (int64_t first = 0; first < queriesPerLane(); first += perSet()) {
        auto sums = SumBytesOp::create(
            b, ofSet(b.getF32Type()),
            ArrayRef<Value>(rows.columns).slice(first, perSet()));
        for (auto [i, sum] : llvm::enumerate(sums.getSums()))
          result.scalars.push_back(b.mulF(sum, rows.scales[first + i]));
      }
    } else if (rows.form == Lanes::Weights && !rows.parameters.empty() &&
               ones) {
      repack(rows);
      result.scalars = rows.sums;
    } else if (rows.form == Lanes::Weights && rows.parameters.empty() &&
               by.form == Lanes::PerToken) {
      for (const Affine &affine : rows.elements)
        result.scalars.push_back(weighTokens(affine.products, by));
    } else {
      return unsupported(op);
    }
    forms[op.getResult()] = result;
    return success();
  }

  /// This lane's part of sum_t weight[t] * by[t].
  Value weighTokens(const Values &weights, const Lanes &by) {
    Value sum = b.mulF(weights[0], tokenParameter(by, 0));
    for (size_t i = 1; i < weights.size(); ++i)
      sum = b.fma(weights[i], tokenParameter(by, i), sum);
    return sum;
  }

  LogicalResult lowerAddOuter(AddOuterOp op) {
    Lanes rows = get(op.getRows());
    const Lanes left = get(op.getLeft()), right = get(op.getRight());
    if (rows.form != Lanes::Elements || left.form != Lanes::Scalars)
      return unsupported(op);
    for (auto [affine, scalar] : llvm::zip(rows.elements, left.scalars)) {
      if (right.form == Lanes::Constant && right.constant == 1.0)
        affine.addBias(b, [&, scalar = scalar](size_t) { return scalar; });
      else if (right.form == Lanes::PerToken)
        affine.addBias(b, [&, scalar = scalar](size_t i) {
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
    for (int64_t i = 0; i < queriesPerLane(); ++i) {
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
    if (!queries.columns.empty())
      return;
    for (const Values &words : queries.words) {
      SmallVector<Type> types = ofSet(b.words(words.size() / 2));
      llvm::append_range(types, ofSet(b.getF32Type()));
      auto op = SplitRowsOp::create(b, types, b.pack(words));
      llvm::append_range(queries.columns, op.getBytes());
      llvm::append_range(queries.scales, op.getScales());
    }
  }

  void repack(Lanes &weights) {
    if (!weights.columns.empty())
      return;
    int64_t queries = queriesPerLane();
    // Both halves of a grain have words, the tile one half's parameters.
    Values ranges = weights.parameters, products;
    if (isHalf(values))
      ranges.append(weights.parameters);
    for (const Affine &affine : weights.elements)
      products.push_back(b.pack(isHalf(values) ? widenWeights(affine.products)
                                               : affine.products));
    SmallVector<Type> types(queries, b.words(ranges.size()));
    types.append(1 + queries, b.getF32Type());
    auto op = RepackWeightsOp::create(b, types, b.pack(ranges), products);
    weights.columns = Values(op.getColumns());
    weights.scales = Values(queries, op.getUnscale());
    weights.sums = Values(op.getSums());
  }

  /// [query] What elements are before factors and biases.
  Values packProducts(const Lanes &rows) {
    Values packed;
    for (const Affine &affine : rows.elements)
      packed.push_back(b.pack(affine.products));
    return packed;
  }

  LogicalResult lowerContract(ContractOp op) {
    TileType tile = op.getTile().getType();
    Lanes &rows = get(op.getRows());
    bool isKey = tile.getPart() == Part::Key, raw = tile.isRaw();
    Values columns;
    if (isKey && rows.form == Lanes::Queries && raw) {
      for (const Values &words : rows.words)
        columns.push_back(b.pack(words));
    } else if (isKey && rows.form == Lanes::Queries) {
      split(rows);
      columns = rows.columns;
    } else if (!isKey && rows.form == Lanes::Weights && raw) {
      size_t tokens = rows.elements[0].products.size();
      SmallVector<Type> types(queriesPerLane(), b.words(tokens));
      auto repacked = RepackRawWeightsOp::create(b, types, packProducts(rows));
      columns = Values(repacked.getColumns());
    } else if (!isKey && rows.form == Lanes::Weights &&
               !rows.parameters.empty()) {
      repack(rows);
      columns = rows.columns;
    } else {
      return unsupported(op);
    }
    forms[op.getResult()] = multiplyCodes(tile, columns, rows.scales);
    return success();
  }

  /// Where a tile's codes lie.
  Value codesOf(TileType tile) {
    return b.at(slot, tile.getPart() == Part::Key ? places.keyCodes
                                                  : places.valueCodes);
  }

  /// The product's elements, two a block of rows.  A query's scale and the
  /// rows' exponents become their factors; products with raw tiles have no
  /// scales and need none.
  Lanes multiplyCodes(TileType tile, const Values &columns,
                      const Values &scales) {
    FragmentLayout order = layout(tile);
    // Each lane has rows g and g + 8 of a block.
    int64_t rows = int64_t{order.rowBlocks()} * 2;
    auto product = MultiplyCodesOp::create(
        b, SmallVector<Type>(columns.size(), b.floats(rows)), tile.getPart(),
        tile.getLevel(), order.tokens, tile.getHeadDim(), codesOf(tile),
        columns);
    Lanes result(Lanes::Elements);
    for (auto [query, sums] : llvm::enumerate(product.getSums())) {
      Affine affine;
      affine.products = b.unpack(sums);
      affine.factors.assign(rows, Value());
      affine.bias.assign(rows, Value());
      llvm::SmallDenseMap<int32_t, Value> factors;
      for (int64_t row = 0; row < rows && !scales.empty(); ++row) {
        int32_t exponent =
            order.exponent(static_cast<int32_t>(row / 2), row % 2);
        Value &factor = factors[exponent];
        if (!factor)
          factor = b.mulF(scales[query], b.f32(std::ldexp(1.0, -exponent)));
        affine.factors[row] = factor;
      }
      if (tile.getPart() == Part::Key && isHalf(tile))
        keepHalf(affine);
      result.elements.push_back(affine);
    }
    return result;
  }

  //===--------------------------------------------------------------------===//
  // Softmax
  //===--------------------------------------------------------------------===//

  /// The row that the lane's `query` is of.
  Value rowOf(size_t query, int64_t group) {
    const ::pmkvq::SharedLayout &shared = segment.shared;
    Value number =
        b.add(b.mul(t, shared.laneStride()),
              ::pmkvq::SharedLayout::toQuery(static_cast<int64_t>(query)));
    return arith::DivUIOp::create(b, number, b.i32(group));
  }

  /// Tokens that do not count get minus infinity.
  LogicalResult lowerMask(CausalMaskOp op) {
    Lanes rows = get(op.getScores());
    if (rows.form != Lanes::Elements)
      return unsupported(op);
    Value hidden = b.f32(-std::numeric_limits<double>::infinity());
    for (auto [query, affine] : llvm::enumerate(rows.elements)) {
      Value visible = tokens;
      if (segment.shared.rows > 1)
        visible = b.add(tokens, rowOf(query, op.getGroup()));
      for (size_t i = 0; i < affine.products.size(); ++i) {
        Value token = b.add(g, static_cast<int64_t>(i) * 8);
        Value counts = b.compare(arith::CmpIPredicate::slt, token, visible);
        affine.products[i] = b.select(counts, affine.products[i], hidden);
      }
    }
    forms[op.getResult()] = rows;
    return success();
  }

  LogicalResult lowerUpdate(SoftmaxUpdateOp op) {
    Lanes scores = get(op.getScores());
    if (scores.form != Lanes::Elements)
      return unsupported(op);
    Values maxima, sums, offsets, outputs, products, factors, biases;
    for (auto [query, state] : llvm::enumerate(states)) {
      Affine &affine = scores.elements[query];
      affine.scaleFactors(b, keys.isRaw() ? b.f32(segment.rawFactor)
                                          : segment.factors[query]);
      maxima.push_back(state.maximum);
      sums.push_back(state.sum);
      offsets.push_back(state.offset);
      outputs.push_back(b.pack(state.outputs));
      products.push_back(b.pack(affine.products));
      factors.push_back(b.pack(affine.factors));
      biases.push_back(b.pack(affine.bias));
    }
    SmallVector<Type> types(3 * states.size(), b.getF32Type());
    types.append(states.size(), outputs[0].getType());
    types.append(states.size(), products[0].getType());
    auto softmax = OnlineSoftmaxOp::create(b, types, maxima, sums, offsets,
                                           outputs, products, factors, biases);
    Lanes weights(Lanes::Weights);
    for (auto [query, state] : llvm::enumerate(states)) {
      state.maximum = softmax.getNextMaxima()[query];
      state.sum = softmax.getNextSums()[query];
      state.offset = softmax.getNextOffsets()[query];
      state.outputs = b.unpack(softmax.getNextOutputs()[query]);
      Affine result;
      result.products = b.unpack(softmax.getWeights()[query]);
      weights.elements.push_back(result);
    }
    forms[op.getWeights()] = weights;
    newest = op.getNext();
    return success();
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
    newest = op.getNext();
    return success();
  }

  //===--------------------------------------------------------------------===//
  // Lowering
  //===--------------------------------------------------------------------===//

  LogicalResult lowerStore(StoreLoweredOp op) {
    auto shift = op.getTile().getDefiningOp<ShiftOp>();
    TileType tile = shift ? shift.getSource().getType() : TileType();
    if (!tile || isHalf(tile) || !fall.places[0])
      return unsupported(op);
    auto part = static_cast<rt::Part>(tile.getPart());
    Value falls = b.compare(arith::CmpIPredicate::ne,
                            b.andBits(fall.info, rt::UnitTask::falls(part)), 0);
    Value place =
        b.atRecord(fall.codes, fall.places[part], rt::kDeviceGrainBytes);
    ShiftCodesOp::create(b, tile.getPart(), tile.getLevel(), tile.getTokens(),
                         tile.getHeadDim(), tile.getFormat(), codesOf(tile),
                         place, falls);
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
        .Case([&](ShiftOp op) {
          forms[op.getResult()] = Lanes(Lanes::Codes);
          return success();
        })
        .Case([&](StoreLoweredOp op) { return lowerStore(op); })
        .Case([&](arith::ConstantOp) { return success(); })
        .Default(
            [](Operation *op) { return op->emitOpError("has no lane form"); });
  }

  LaneBuilder &b;
  Region &unit;
  const SegmentLanes &segment;
  Value slot, tokens, isSecondHalf;
  const UnitFall &fall;
  SmallVector<LaneState> states;
  /// The tile form's value that `states` are the lane form of.
  Value newest;
  TileType keys, values;
  rt::UnitKind kind;
  ::pmkvq::UnitSlot places;
  Value g, t;
  llvm::DenseMap<Value, Lanes> forms;
};
} // namespace

FailureOr<SmallVector<LaneState>>
mlir::pmkvq::lowerUnit(LaneBuilder &b, Region &unit,
                       const SegmentLanes &segment, Value slot, Value tokens,
                       Value isSecondHalf, const UnitFall &fall,
                       ArrayRef<LaneState> states) {
  return UnitLowering(b, unit, segment, slot, tokens, isSecondHalf, fall,
                      states)
      .run();
}
