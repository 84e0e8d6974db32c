//===- LowerCodes.cpp - Quantize, shift and parameters --------------------===//
//
// Lowers the tile ops that make codes.  The arithmetic is the format's; this
// file finds the extremes of groups and puts codes where the layout has them.
// Neighbours: Format.h, CodeLayout.h, TileLowering.h.
//
//===----------------------------------------------------------------------===//

#include "LowerFeedback.h"
#include "ParameterMemory.h"
#include "TileLowering.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "pmkvq_rt/Geometry.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {

/// Places the codes of a whole part, at level 16 or 8, into fresh memory.
class PartWriter {
public:
  PartWriter(TileBuilder &b, TileType type)
      : b(b), type(type), headDim(type.getHeadDim()),
        codes(b.scratch(rt::blocksAtLevel(type.getLevel()) *
                        rt::blockBytes(headDim))) {}

  /// Codes of 8 head dims from `dim` on, of one token: an i32 vector.
  using CodesOf = llvm::function_ref<Value(Value token, Value dim)>;

  /// Writes every element, 4 tokens after the other, each after `begin`; gives
  /// the memory.
  Value write(CodesOf codesOf,
              llvm::function_ref<void(Value quad)> begin = {}) {
    b.forEach(rt::kPageTokens / CodeLayout::kQuad, [&](Value tokenQuad) {
      if (begin)
        begin(tokenQuad);
      b.forEach(
          headDim, [&](Value dim) { writeQuad(tokenQuad, dim, codesOf); },
          kLanes);
    });
    return codes;
  }

private:
  /// 4 tokens x 8 head dims.
  void writeQuad(Value tokenQuad, Value dim, CodesOf codesOf) {
    SmallVector<Value> quad;
    for (int64_t i = 0; i < CodeLayout::kQuad; ++i) {
      Value token = b.add(b.mul(tokenQuad, CodeLayout::kQuad), i);
      quad.push_back(codesOf(token, dim));
      if (type.getLevel() == 16)
        storeRow(token, dim, quad.back());
      else if (type.getPart() == Part::Key)
        storeKeys(token, dim, quad.back());
    }
    if (type.getLevel() == 8 && type.getPart() == Part::Value)
      storeValues(tokenQuad, dim, quad);
  }

  /// Level 16: rows of 16-bit codes.
  void storeRow(Value token, Value dim, Value code) {
    auto i16 = VectorType::get({kLanes}, b.getI16Type());
    Value narrow = arith::TruncIOp::create(b, i16, code);
    b.store(narrow, b.at(codes, b.add(b.mul(token, headDim), dim), 2), 2);
  }

  /// Address of the vector of level 8 that holds outputs `output` .. + 7 and
  /// quad `quad`.
  Value vectorAddress(Value output, Value quad) {
    CodeLayout layout(type);
    Value run = b.divide(output, layout.runOutputs());
    Value group = b.divide(b.remainder(output, layout.runOutputs()), kLanes);
    Value step = b.divide(quad, layout.stepQuads());
    group = b.add(
        group, b.mul(b.remainder(quad, layout.stepQuads()), layout.runGroups));
    Value first = b.mul(run, layout.runStride);
    Value bundle = b.add(first, b.mul(step, layout.stepStride));
    Value index = b.add(b.mul(bundle, layout.bundleGroups), group);
    return b.at(codes, index, CodeLayout::kVectorBytes);
  }

  /// Keys at level 8: a token is a lane, 8 head dims are two quads.
  void storeKeys(Value token, Value dim, Value code) {
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
      b.store(word, b.at(vectorAddress(token, quad), lane));
    }
  }

  /// Values at level 8: 8 head dims are lanes, 4 tokens are one quad.
  void storeValues(Value tokenQuad, Value dim, ArrayRef<Value> quad) {
    Value word = quad[0];
    for (int64_t i = 1; i < CodeLayout::kQuad; ++i) {
      Value bits = b.splatInt(b.i32Vector(), 8 * CodeLayout::kByteOf[i]);
      Value shifted = arith::ShLIOp::create(b, quad[i], bits);
      word = arith::OrIOp::create(b, word, shifted);
    }
    b.store(word, vectorAddress(dim, tokenQuad), 4);
  }

  TileBuilder &b;
  TileType type;
  int64_t headDim;
  Value codes;
};

/// Quantizes one whole part to its format's first level.
class Quantizer {
public:
  /// `ahead`: a raw tile that comes next, if one does.
  Quantizer(TileBuilder &b, TileType type, const TileFields &raw,
            std::optional<TileFields> ahead)
      : b(b), type(type), raw(raw), ahead(ahead), format(type.getFormat()),
        model(format.getModel()), headDim(type.getHeadDim()),
        perHeadDim(model.getGroupAxis() == GroupAxis::HeadDim) {}

  Lowered run() {
    ParameterMemory stored(b, type, Value());
    Value ok = makeParameters(findExtremes(), stored);
    Value codes = PartWriter(b, type).write(
        [&](Value token, Value dim) {
          Value x = loadElements(token, dim);
          return model.emitCode(b, format, x, parametersOf(token, dim));
        },
        [&](Value tokenQuad) { fetchNext(tokenQuad); });
    return {b.packTile({codes, b.identityIds(), stored.address(),
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

  /// Elements whose extremes are found together: a multiple of 16 in every head
  /// dim, and no more running values than registers hold.
  int64_t extremeLanes() const {
    constexpr int64_t most = 64, least = 16;
    int64_t lanes = most;
    while (lanes > least && headDim % lanes)
      lanes /= 2;
    return lanes;
  }

  /// bf16 bits as signed integers of the same order, and back: the bits of a
  /// negative number but for its sign are turned.  A NaN is beyond the infinity
  /// of its sign, so an extreme that it takes part in is a NaN, which a format
  /// sees; a negative zero is below zero.
  Value inOrder(Value bits) {
    Type type = bits.getType();
    Value sign = arith::ShRSIOp::create(b, bits, b.splatInt(type, 15));
    Value turned = arith::AndIOp::create(b, sign, b.splatInt(type, 0x7fff));
    return arith::XOrIOp::create(b, bits, turned);
  }

  SmallVector<Value> takeIn(ValueRange running, Value token, Value dim) {
    auto bits = cast<VectorType>(running[0].getType());
    fetchAhead(token, dim, bits.getNumElements() * 2);
    Value x = b.load(bits, b.at(b.rawRow(raw, token, headDim), dim, 2), 2);
    x = inOrder(x);
    return {arith::MinSIOp::create(b, running[0], x),
            arith::MaxSIOp::create(b, running[1], x)};
  }

  /// Asks for 4 tokens of what comes next.
  void fetchNext(Value tokenQuad) {
    if (!ahead)
      return;
    Value token = b.mul(tokenQuad, CodeLayout::kQuad);
    Value rows = b.rawRow(*ahead, token, headDim);
    for (int64_t line = 0; line < CodeLayout::kQuad * headDim * 2;
         line += kCacheLineBytes)
      b.prefetch(b.offset(rows, line));
  }

  /// The part is read here for the first time: asks for what a later token has.
  void fetchAhead(Value token, Value dim, int64_t bytes) {
    constexpr int64_t tokensAhead = 16;
    Value last = b.constI64(rt::kPageTokens - 1);
    Value later = arith::MinUIOp::create(b, b.add(token, tokensAhead), last);
    Value row = b.at(b.rawRow(raw, later, headDim), dim, 2);
    for (int64_t line = 0; line < bytes; line += kCacheLineBytes)
      b.prefetch(b.offset(row, line));
  }

  /// Extremes in order as f32.
  Value toFloat(Value ordered) {
    auto type = cast<VectorType>(ordered.getType());
    auto i32 = type.clone(b.getI32Type());
    Value wide = arith::ExtUIOp::create(b, i32, inOrder(ordered));
    Value upper = arith::ShLIOp::create(b, wide, b.splatInt(i32, 16));
    return arith::BitcastOp::create(b, type.clone(b.getF32Type()), upper);
  }

  Extremes findExtremes() {
    Extremes extremes{b.scratchFloats(type.getGroups()),
                      b.scratchFloats(type.getGroups())};
    int64_t lanes = extremeLanes();
    auto bits = VectorType::get({lanes}, b.getI16Type());
    SmallVector<Value> init = {
        b.splatInt(bits, std::numeric_limits<int16_t>::max()),
        b.splatInt(bits, std::numeric_limits<int16_t>::min())};
    if (perHeadDim) {
      b.forEach(
          headDim,
          [&](Value dim) {
            auto found = b.loop(rt::kPageTokens, 1, init,
                                [&](Value token, ValueRange running) {
                                  return takeIn(running, token, dim);
                                });
            b.store(toFloat(found[0]), b.at(extremes.min, dim), 4);
            b.store(toFloat(found[1]), b.at(extremes.max, dim), 4);
          },
          lanes);
      return extremes;
    }
    b.forEach(rt::kPageTokens, [&](Value token) {
      auto found =
          b.loop(headDim, lanes, init, [&](Value dim, ValueRange running) {
            return takeIn(running, token, dim);
          });
      storeExtreme(vector::CombiningKind::MINSI, found[0], extremes.min, token);
      storeExtreme(vector::CombiningKind::MAXSI, found[1], extremes.max, token);
    });
    return extremes;
  }

  /// One number of all lanes.
  void storeExtreme(vector::CombiningKind kind, Value lanes, Value memory,
                    Value group) {
    Value ordered = vector::ReductionOp::create(b, kind, lanes);
    auto one = VectorType::get({1}, b.getI16Type());
    Value found = toFloat(b.broadcast(ordered, one));
    b.store(found, b.at(memory, group), 4);
  }

  /// Leaves parameters in memory, as they are stored and in f32 for the codes;
  /// gives whether all can be represented.
  Value makeParameters(const Extremes &extremes, ParameterMemory &stored) {
    auto vector = b.f32Vector(type.getGroups());
    Value min = b.load(vector, extremes.min, 4);
    auto [values, representable] =
        model.emitParameters(b, format, min, b.load(vector, extremes.max, 4));
    stored.store(values);
    for (Value value : stored.load())
      parameters.push_back(b.spill(value));
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

  TileBuilder &b;
  TileType type;
  TileFields raw;
  std::optional<TileFields> ahead;
  FormatAttr format;
  const FormatModel &model;
  int64_t headDim;
  bool perHeadDim;
  SmallVector<Value> parameters;
};
} // namespace

/// A tile that may not be there.
static std::optional<TileFields> unpackOptional(TileBuilder &b, Value tile) {
  return tile ? std::optional(b.unpackTile(tile)) : std::nullopt;
}

static Lowered lowerQuantize(TileBuilder &b, QuantizeOp op,
                             QuantizeOp::Adaptor values) {
  return Quantizer(b, op.getResult().getType(),
                   b.unpackTile(values.getSource()),
                   unpackOptional(b, values.getAhead()))
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

/// Codes at half of level 8 or 4: two neighbouring vectors become one, in the
/// memory of the source, whose first half of blocks the result has: no vector
/// is written before it was read.  While a block is worked on, that of the tile
/// ahead is fetched.
static void shiftPacked(TileBuilder &b, TileType from, const TileFields &source,
                        const std::optional<TileFields> &ahead) {
  int64_t headDim = from.getHeadDim();
  int64_t blocks = rt::blocksAtLevel(from.getLevel());
  int64_t vectorsABlock = rt::blockBytes(headDim) / CodeLayout::kVectorBytes;
  auto i8 = VectorType::get({CodeLayout::kVectorBytes}, b.getI8Type());
  b.forEach(blocks, [&](Value block) {
    Value to = b.blockAt(source, b.divide(block, 2), headDim);
    to = b.at(to, b.remainder(block, 2), rt::blockBytes(headDim) / 2);
    Value at = b.blockAt(source, block, headDim);
    Value later = ahead ? b.blockAt(*ahead, block, headDim) : Value();
    b.forEach(vectorsABlock / 2, [&](Value i) {
      Value pair = b.mul(i, 2);
      if (later)
        b.prefetch(b.at(later, pair, CodeLayout::kVectorBytes));
      SmallVector<Value> halves;
      for (int64_t half : {0, 1})
        halves.push_back(b.load(
            i8, b.at(at, b.add(pair, half), CodeLayout::kVectorBytes), 4));
      b.store(shiftVectors(b, from.getFormat(), from.getLevel(), halves),
              b.at(to, i, CodeLayout::kVectorBytes), 4);
    });
  });
}

/// Codes at level 8 from rows of 16-bit codes.
static Value shiftRows(TileBuilder &b, TileType from,
                       const TileFields &source) {
  FormatAttr format = from.getFormat();
  return PartWriter(b, from.withLevel(8)).write([&](Value token, Value dim) {
    Value address = b.at(b.rawRow(source, token, from.getHeadDim()), dim, 2);
    return format.getModel().emitShift(b, format, b.loadU16Lanes(address), 16);
  });
}

/// The parameters of the shifted tile: the source's, or rewritten ones.
static Value shiftParameters(TileBuilder &b, TileType from,
                             const TileFields &source) {
  FormatAttr format = from.getFormat();
  if (!format.getModel().rewritesParameters())
    return source.parameters;
  ParameterMemory result(b, from, Value());
  result.store(format.getModel().emitShiftedParameters(
      b, format, ParameterMemory(b, from, source.parameters).load(),
      from.getLevel()));
  return result.address();
}

/// A tile at half the level of `from`; below level 16 in the memory of
/// `source`.
static TileFields shiftOnce(TileBuilder &b, TileType from,
                            const TileFields &source,
                            const std::optional<TileFields> &ahead,
                            Value feedback) {
  if (feedback) {
    shiftWithFeedback(b, from, source, feedback);
    return source;
  }
  Value parameters = shiftParameters(b, from, source);
  if (from.getLevel() == 16)
    return {shiftRows(b, from, source), b.identityIds(), parameters,
            source.count};
  shiftPacked(b, from, source, ahead);
  return {source.base, source.ids, parameters, source.count};
}

static Lowered lowerShift(TileBuilder &b, ShiftOp op, ShiftOp::Adaptor values) {
  TileType from = op.getSource().getType();
  TileFields tile = b.unpackTile(values.getSource());
  std::optional<TileFields> ahead = unpackOptional(b, values.getAhead());
  for (int64_t to = op.getResult().getType().getLevel(); from.getLevel() > to;
       from = from.withLevel(from.getLevel() / 2)) {
    tile = shiftOnce(b, from, tile, ahead, values.getFeedback());
    ahead.reset();
  }
  return {b.packTile(tile)};
}

static Lowered lowerLoadParameters(TileBuilder &b, LoadParametersOp op,
                                   LoadParametersOp::Adaptor values) {
  TileFields tile = b.unpackTile(values.getTile());
  if (Value ahead = values.getAhead()) {
    ParameterMemory next(b, op.getTile().getType(),
                         b.unpackTile(ahead).parameters);
    for (int64_t line = 0; line < next.bytes(); line += kCacheLineBytes)
      b.prefetch(b.offset(next.address(), line));
  }
  return ParameterMemory(b, op.getTile().getType(), tile.parameters).load();
}

void mlir::pmkvq::populateCodeLowerings(RewritePatternSet &patterns,
                                        const TypeConverter &converter) {
  patterns.add<TilePattern<QuantizeOp, lowerQuantize>,
               TilePattern<ShiftOp, lowerShift>,
               TilePattern<LoadParametersOp, lowerLoadParameters>>(
      converter, patterns.getContext());
}
