//===- LowerCodes.cpp - Quantize, shift and parameters --------------------===//
//
// Lowers the tile ops that make codes.  The arithmetic is the format's; this
// file finds the extremes of groups and puts codes where the layout has them.
// Neighbours: Format.h, CodeLayout.h, TileLowering.h.
//
//===----------------------------------------------------------------------===//

#include "TileLowering.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "pmkvq_rt/Geometry.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
constexpr int64_t kLanes = CodeLayout::kLanes;

/// Quantizes one whole part from level 16 to 8.
class Quantizer {
public:
  Quantizer(TileBuilder &b, TileType type, const TileFields &raw)
      : b(b), type(type), raw(raw), format(type.getFormat()),
        model(format.getModel()), headDim(type.getHeadDim()),
        perHeadDim(model.getGroupAxis() == GroupAxis::HeadDim) {}

  Lowered run() {
    Value ok = makeParameters(findExtremes());
    Value codes = b.scratch(rt::kPageTokens * headDim);
    b.forEach(rt::kPageTokens / CodeLayout::kQuad, [&](Value tokenQuad) {
      b.forEach(
          headDim, [&](Value dim) { storeCodes(codes, tokenQuad, dim); },
          kLanes);
    });
    return {b.packTile({codes, b.identityIds(), parameterMemory,
                        b.constI64(rt::kPageTokens)}),
            ok};
  }

private:
  Value loadElements(Value token, Value dim) {
    return b.loadBf16Lanes(b.at(b.rawRow(raw, token, headDim), dim, 2));
  }

  struct Extremes {
    Value min, max; // memory of one float a group
  };

  /// minimumf and maximumf keep NaN, so that a format sees it.
  SmallVector<Value> takeIn(ValueRange running, Value x) {
    return {arith::MinimumFOp::create(b, running[0], x),
            arith::MaximumFOp::create(b, running[1], x)};
  }

  Extremes findExtremes() {
    Extremes extremes{b.scratchFloats(type.getGroups()),
                      b.scratchFloats(type.getGroups())};
    constexpr double infinity = std::numeric_limits<double>::infinity();
    Value high = b.splat(b.f32Vector(), infinity);
    Value low = b.splat(b.f32Vector(), -infinity);
    if (perHeadDim) {
      b.forEach(
          headDim,
          [&](Value dim) {
            auto found =
                b.loop(rt::kPageTokens, 1, {high, low},
                       [&](Value token, ValueRange running) {
                         return takeIn(running, loadElements(token, dim));
                       });
            b.store(found[0], b.at(extremes.min, dim), 4);
            b.store(found[1], b.at(extremes.max, dim), 4);
          },
          kLanes);
      return extremes;
    }
    b.forEach(rt::kPageTokens, [&](Value token) {
      auto found = b.loop(headDim, kLanes, {high, low},
                          [&](Value dim, ValueRange running) {
                            return takeIn(running, loadElements(token, dim));
                          });
      Value min = vector::ReductionOp::create(
          b, vector::CombiningKind::MINIMUMF, found[0]);
      Value max = vector::ReductionOp::create(
          b, vector::CombiningKind::MAXIMUMF, found[1]);
      b.store(min, b.at(extremes.min, token));
      b.store(max, b.at(extremes.max, token));
    });
    return extremes;
  }

  /// Leaves parameters in memory, in fp16 as they are stored and in f32 for the
  /// codes; gives whether all can be represented.
  Value makeParameters(const Extremes &extremes) {
    auto vector = b.f32Vector(type.getGroups());
    auto [values, representable] =
        model.emitParameters(b, format, b.load(vector, extremes.min, 4),
                             b.load(vector, extremes.max, 4));
    int64_t bytes = type.getGroups() * 2;
    parameterMemory = b.scratch(bytes * values.size());
    for (auto [i, value] : llvm::enumerate(values)) {
      b.store(value, b.offset(parameterMemory, i * bytes), 2);
      parameters.push_back(b.spill(arith::ExtFOp::create(b, vector, value)));
    }
    return vector::ReductionOp::create(b, vector::CombiningKind::AND,
                                       representable);
  }

  SmallVector<Value> parametersOf(Value token, Value dim) {
    SmallVector<Value> values;
    for (Value memory : parameters)
      values.push_back(
          perHeadDim ? b.loadLanes(b.at(memory, dim))
                     : b.broadcast(b.load(b.getF32Type(), b.at(memory, token)),
                                   b.f32Vector()));
    return values;
  }

  /// Codes of 4 tokens x 8 head dims, to their place at level 8.
  void storeCodes(Value codes, Value tokenQuad, Value dim) {
    SmallVector<Value> quad;
    for (int64_t i = 0; i < CodeLayout::kQuad; ++i) {
      Value token = b.add(b.mul(tokenQuad, CodeLayout::kQuad), i);
      Value code = model.emitCode(b, format, loadElements(token, dim),
                                  parametersOf(token, dim));
      if (type.getPart() == Part::Key)
        storeKeyCodes(codes, token, dim, code);
      quad.push_back(code);
    }
    if (type.getPart() == Part::Value)
      storeValueCodes(codes, tokenQuad, dim, quad);
  }

  /// Address of the vector of level 8 that holds outputs `output` .. + 7 and
  /// quad `quad`.
  Value vectorAddress(Value codes, Value output, Value quad) {
    CodeLayout layout(type);
    Value run = b.divide(output, CodeLayout::kBundleOutputs);
    Value group =
        b.divide(b.remainder(output, CodeLayout::kBundleOutputs), kLanes);
    Value bundle =
        b.add(b.mul(run, layout.outputStride), b.mul(quad, layout.quadStride));
    Value index = b.add(b.mul(bundle, CodeLayout::kBundleGroups), group);
    return b.at(codes, index, CodeLayout::kVectorBytes);
  }

  /// Keys: a token is a lane, 8 head dims are two quads.
  void storeKeyCodes(Value codes, Value token, Value dim, Value code) {
    auto i8 = VectorType::get({kLanes}, b.getI8Type());
    Value bytes = arith::TruncIOp::create(b, i8, code);
    SmallVector<int64_t> order;
    for (int64_t quad : {0, 1})
      for (int64_t byte : CodeLayout::kByteOf) // its own inverse
        order.push_back(quad * CodeLayout::kQuad + byte);
    bytes = vector::ShuffleOp::create(b, bytes, bytes, order);
    Value words = vector::BitCastOp::create(b, b.i32Vector(2), bytes);
    Value lane = b.remainder(token, kLanes);
    for (int64_t i : {0, 1}) {
      Value quad = b.add(b.divide(dim, CodeLayout::kQuad), i);
      Value word = vector::ExtractOp::create(b, words, ArrayRef<int64_t>{i});
      b.store(word, b.at(vectorAddress(codes, token, quad), lane));
    }
  }

  /// Values: 8 head dims are lanes, 4 tokens are one quad.
  void storeValueCodes(Value codes, Value tokenQuad, Value dim,
                       ArrayRef<Value> quad) {
    Value word = quad[0];
    for (int64_t i = 1; i < CodeLayout::kQuad; ++i) {
      Value bits = b.splatInt(b.i32Vector(), 8 * CodeLayout::kByteOf[i]);
      Value shifted = arith::ShLIOp::create(b, quad[i], bits);
      word = arith::OrIOp::create(b, word, shifted);
    }
    b.store(word, vectorAddress(codes, dim, tokenQuad), 4);
  }

  TileBuilder &b;
  TileType type;
  TileFields raw;
  FormatAttr format;
  const FormatModel &model;
  int64_t headDim;
  bool perHeadDim;
  Value parameterMemory;
  SmallVector<Value> parameters;
};
} // namespace

static Lowered lowerQuantize(TileBuilder &b, QuantizeOp op,
                             QuantizeOp::Adaptor values) {
  return Quantizer(b, op.getResult().getType(),
                   b.unpackTile(values.getSource()))
      .run();
}

/// One vector at half the level from two neighbouring ones.
static Value shiftVectors(TileBuilder &b, FormatAttr format, int64_t from,
                          ArrayRef<Value> halves) {
  auto i8 = cast<VectorType>(halves[0].getType());
  auto i16 = i8.clone(b.getI16Type());
  Value packed;
  for (auto [half, bytes] : llvm::enumerate(halves)) {
    Value wide = arith::ExtUIOp::create(b, i16, bytes);
    for (int64_t field = 0; field < CodeLayout::fields(from); ++field) {
      Value code = arith::ShRUIOp::create(
          b, wide, b.splatInt(i16, CodeLayout::bitOf(from, field)));
      code = arith::AndIOp::create(b, code, b.splatInt(i16, (1 << from) - 1));
      code = format.getModel().emitShift(b, format, code, from);
      code = arith::ShLIOp::create(
          b, code,
          b.splatInt(i16, CodeLayout::loweredBitOf(from, half, field)));
      packed =
          packed ? arith::OrIOp::create(b, packed, code).getResult() : code;
    }
  }
  return arith::TruncIOp::create(b, i8, packed);
}

static Lowered lowerShift(TileBuilder &b, ShiftOp op, ShiftOp::Adaptor values) {
  TileType from = op.getSource().getType();
  int64_t headDim = from.getHeadDim(), to = from.getLevel() / 2;
  TileFields source = b.unpackTile(values.getSource());
  int64_t bytes = rt::blocksAtLevel(to) * rt::blockBytes(headDim);
  Value codes = b.scratch(bytes);
  auto i8 = VectorType::get({CodeLayout::kVectorBytes}, b.getI8Type());
  b.forEach(bytes / CodeLayout::kVectorBytes, [&](Value i) {
    SmallVector<Value> halves;
    for (int64_t half : {0, 1})
      halves.push_back(b.load(
          i8, b.codeVector(source, b.add(b.mul(i, 2), half), headDim), 4));
    Value packed = shiftVectors(b, from.getFormat(), from.getLevel(), halves);
    b.store(packed, b.at(codes, i, CodeLayout::kVectorBytes), 4);
  });
  return {
      b.packTile({codes, b.identityIds(), source.parameters, source.count})};
}

static Lowered lowerLoadParameters(TileBuilder &b, LoadParametersOp op,
                                   LoadParametersOp::Adaptor values) {
  TileType type = op.getTile().getType();
  TileFields tile = b.unpackTile(values.getTile());
  auto f16 = VectorType::get({type.getGroups()}, b.getF16Type());
  Lowered parameters;
  for (auto [i, result] : llvm::enumerate(op.getParameters())) {
    Value stored =
        b.load(f16, b.offset(tile.parameters, i * type.getGroups() * 2), 2);
    parameters.push_back(arith::ExtFOp::create(b, result.getType(), stored));
  }
  return parameters;
}

void mlir::pmkvq::populateCodeLowerings(RewritePatternSet &patterns,
                                        const TypeConverter &converter) {
  patterns.add<TilePattern<QuantizeOp, lowerQuantize>,
               TilePattern<ShiftOp, lowerShift>,
               TilePattern<LoadParametersOp, lowerLoadParameters>>(
      converter, patterns.getContext());
}
