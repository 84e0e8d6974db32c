//===- DequantizeTiles.cpp - Codes to f16 tiles ---------------------------===//
//
// Lowers load_fragments, load_groups, dequantize_fragments and decode_operands.
// Neighbours:
// FragmentLayout.h (masks and exponents), WarpgroupLayout.h (where elements go,
// and which codes a warp has), Format.h (offset and step).
//
//===----------------------------------------------------------------------===//

#include "CodeConstants.h"
#include "LanePass.h"
#include "WarpgroupBuilder.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/WarpgroupLayout.h"
#include "pmkvq_rt/DeviceAbi.h"
#include <cmath>
#include <optional>

namespace mlir::pmkvq {
#define GEN_PASS_DEF_DEQUANTIZETILES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FoldedUnits;
using ::pmkvq::Fragment;
using ::pmkvq::FragmentLayout;
using ::pmkvq::FragmentRegister;
using ::pmkvq::HalfTile;
using ::pmkvq::OperandShare;
using ::pmkvq::ParameterLayout;
using ::pmkvq::WarpShare;

static WarpShare shareOf(Part part, int64_t level) {
  return WarpShare(part == Part::Key ? rt::kKey : rt::kValue,
                   static_cast<int32_t>(level));
}

/// w / 2 * high + w % 2 * low, of a warp's number.
static Value ofWarp(LaneBuilder &b, Value warp, int64_t low, int64_t high) {
  if (high == 2 * low)
    return b.mul(warp, low);
  Value sum;
  if (low)
    sum = b.mul(b.andBits(warp, 1), low);
  if (high) {
    Value part = b.mul(b.shr(warp, 1), high);
    sum = sum ? b.add(sum, part) : part;
  }
  return sum ? sum : b.i32(0);
}

//===----------------------------------------------------------------------===//
// Loads
//===----------------------------------------------------------------------===//

static SmallVector<Value> loadFragments(LaneBuilder &lanes,
                                        LoadFragmentsOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  WarpShare share = shareOf(op.getPart(), op.getLevel());
  Value base =
      ofWarp(b, op.getWarp(), share.inBlock(1, 0), share.inBlock(2, 0));
  Value mine = b.mul(base, FragmentLayout::kVectorBytes);
  mine = b.add(mine, b.shl(op.getLane(), 4));
  SmallVector<Value> starts(share.blocks());
  Values words;
  auto first = static_cast<int32_t>(op.getFirst());
  for (int32_t i = first; i < first + static_cast<int32_t>(op.getCount());
       ++i) {
    Value &start = starts[share.blockOf(i)];
    if (!start)
      start = b.at(b.farAt(op.getCodes(), op.getBlocks()[share.blockOf(i)],
                           rt::kDeviceGrainBytes),
                   mine);
    int64_t place = int64_t{share.inBlock(0, i)} * FragmentLayout::kVectorBytes;
    llvm::append_range(words, b.loadConstantWords(b.at(start, place), 4));
  }
  return {b.pack(words)};
}

/// Pairs (e0 e2), (e1 e3) from two words in other orders.
static std::pair<Value, Value> pairs(LaneBuilder &b, Value first,
                                     Value second) {
  return {b.permute(first, second, 0x5410), b.permute(first, second, 0x7632)};
}

static SmallVector<Value> loadGroups(LaneBuilder &lanes, LoadGroupsOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  WarpShare share = shareOf(op.getPart(), op.getLevel());
  constexpr int64_t headDim = HalfTile::kColumns;
  Value t = b.andBits(op.getLane(), 3);
  Value block = op.getBlock() ? b.i32(static_cast<int64_t>(*op.getBlock()))
                              : ofWarp(b, op.getWarp(), share.columnBase(1),
                                       share.columnBase(2));
  const int64_t blocks = op.getBlock() ? 1 : share.columnBlocks();
  // Of shared memory others write, elsewhere nobody does meanwhile.
  const bool isShared =
      cast<LLVM::LLVMPointerType>(op.getParameters().getType())
          .getAddressSpace() == kSharedSpace;
  auto load = [&](Value address) {
    return isShared ? b.loadWords(address, 4) : b.loadConstantWords(address, 4);
  };
  Values all;
  if (share.isKey()) {
    // Channels of lane t lie together: (e0 e1), (e2 e3) of both halves.
    auto place = [&](int64_t dim, int32_t which) {
      return ParameterLayout::perChannel(dim, which, headDim) * 2;
    };
    Value mine = b.mul(t, place(4, 1));
    mine = b.add(mine, b.mul(block, place(32, 1)));
    mine = b.at(op.getParameters(), mine);
    for (int64_t c = 0; c < blocks; ++c)
      for (int32_t which : {1, 0}) {
        Values words = load(b.at(mine, place(32 * c, which)));
        for (size_t h : {0, 2}) {
          auto [even, odd] = pairs(b, words[h], words[h + 1]);
          all.push_back(even);
          all.push_back(odd);
        }
      }
  } else {
    // Tokens 2 t and 2 t + 1 (e0 and e2) have neighbouring 16 bytes, in which
    // tokens 8 further (e1 and e3) share their words.
    auto place = [&](int64_t token, int32_t which) {
      return ParameterLayout::perToken(token, which) * 2;
    };
    Value mine = b.mul(t, place(2, 1));
    mine = b.add(mine, b.mul(block, place(32, 1)));
    mine = b.at(op.getParameters(), mine);
    Values first = load(b.at(mine, place(0, 1)));
    Values second = load(b.at(mine, place(1, 1)));
    for (int32_t which : {1, 0})
      for (int64_t h : {0, 1}) {
        auto word = static_cast<size_t>(place(16 * h, which) / 4);
        auto [even, odd] = pairs(b, first[word], second[word]);
        all.push_back(even);
        all.push_back(odd);
      }
  }
  return {b.pack(all)};
}

//===----------------------------------------------------------------------===//
// Elements
//===----------------------------------------------------------------------===//

std::pair<uint16_t, double> mlir::pmkvq::nearestHalf(double value) {
  APFloat half(value);
  bool losesInfo;
  half.convert(APFloat::IEEEhalf(), APFloat::rmNearestTiesToEven, &losesInfo);
  auto bits = static_cast<uint16_t>(half.bitcastToAPInt().getZExtValue());
  half.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven, &losesInfo);
  return {bits, half.convertToDouble()};
}

/// Both halves of `word` times a constant, rounded once.  A constant that is no
/// f16 is taken in two parts: its own rounding would be the same error in all
/// elements, which a softmax does not average out.
static Value timesConstant(LaneBuilder &b, Value word, double constant) {
  auto [high, rounded] = nearestHalf(constant);
  double rest = constant - rounded;
  if (std::abs(rest) < std::abs(constant) * 0x1p-20)
    return b.mulHalves(word, b.splatHalf(high));
  Value low = b.mulHalves(word, b.splatHalf(nearestHalf(rest).first));
  return b.fmaHalves(word, b.splatHalf(high), low);
}

/// Offsets of a pair of groups, in f16, in units of HalfTile::kUnit.
static Value offsetOf(WarpgroupBuilder &b, const AffineForm &form, Value range,
                      Value minimum) {
  constexpr double unit = HalfTile::kUnit;
  Value offset = timesConstant(b, minimum, form.offset[0] * unit);
  if (form.offset[1] == 0)
    return offset;
  Value by = b.splatHalf(nearestHalf(form.offset[1] * unit).first);
  return b.fmaHalves(range, by, offset);
}

Values mlir::pmkvq::codeConstants(WarpgroupBuilder &b, const AffineForm &form,
                                  const FragmentLayout &layout,
                                  ArrayRef<Value> groups, bool wide) {
  const double step = std::ldexp(form.step * HalfTile::kCodeUnit,
                                 -layout.exponent(0, /*upperRows=*/false) -
                                     (wide ? HalfTile::kWideExponent : 0));
  Values steps, offsets;
  for (size_t i = 0; i < 4; ++i) {
    Value range = groups[i], minimum = groups[4 + i];
    offsets.push_back(offsetOf(b, form, range, minimum));
    steps.push_back(timesConstant(b, range, step));
  }
  llvm::append_range(steps, offsets);
  return steps;
}

namespace {
/// offset and step of 8 columns, in pairs, for a field at each exponent.
struct Constants {
  Values offsets;
  std::map<int32_t, Values> steps;
};

/// Codes of a part at a level to elements.
class CodeDecoder {
public:
  CodeDecoder(WarpgroupBuilder &b, const FragmentLayout &layout, bool wide)
      : b(b), layout(layout), wide(wide) {}

  /// Of codeConstants.
  Constants constantsOf(ArrayRef<Value> words) {
    Constants block;
    block.offsets.assign(words.begin() + 4, words.end());
    for (size_t i = 0; i < 4; ++i) {
      block.steps[exponent(false)].push_back(words[i]);
      if (int32_t upper = exponent(true); upper != exponent(false))
        block.steps[upper].push_back(b.mulHalves(
            words[i],
            b.splatHalf(
                nearestHalf(std::ldexp(1.0, exponent(false) - upper)).first)));
    }
    return block;
  }

  /// (e0 e2) and (e1 e3) of half h, of the field `r` of `word`: bytes 0 and 2,
  /// and 1 and 3, under the mask, as denormals.
  std::pair<Value, Value> pairsOf(Value word, const FragmentRegister &r,
                                  const Constants &block, bool upper,
                                  size_t h) {
    int32_t residual = exponent(upper);
    int32_t shift = r.exponent - residual;
    auto mask = static_cast<int64_t>((r.mask >> shift) & 0x00ff00ffu);
    const Values &steps = block.steps.find(residual)->second;
    auto element = [&](size_t odd) {
      int32_t by = shift + (odd ? 8 : 0);
      Value field = b.andBits(by ? b.shr(word, by) : word, mask);
      if (wide)
        field = b.mulHalves(
            field,
            b.splatHalf(
                nearestHalf(std::ldexp(1.0, HalfTile::kWideExponent)).first));
      return b.fmaHalves(field, steps[2 * h + odd], block.offsets[2 * h + odd]);
    };
    Value even = element(0);
    return {even, element(1)};
  }

  /// The same as the field is, in units of FoldedUnits::kCode, times
  /// 2^exponent.
  std::pair<Value, Value> bareFields(Value word, const FragmentRegister &r,
                                     int32_t exponent) const {
    const bool fits = layout.level + exponent <= FoldedUnits::kDenormalBits;
    const int32_t to = fits ? exponent : 0;
    auto mask =
        static_cast<int64_t>((r.mask >> r.exponent << to) & 0x00ff00ffu);
    auto element = [&](bool odd) {
      int32_t by = r.exponent - to + (odd ? 8 : 0);
      Value moved = by > 0 ? b.shr(word, by) : by < 0 ? b.shl(word, -by) : word;
      Value field = b.andBits(moved, mask);
      if (fits)
        return field;
      return b.mulHalves(field, b.splatHalf(nearestHalf(1 << exponent).first));
    };
    Value even = element(false);
    return {even, element(true)};
  }

  /// Which register of row g (0 or 2), and which half of its word, has element
  /// e of lane t's 4 of 16 columns, at level 16; none if another lane has it.
  std::optional<std::pair<size_t, int64_t>> rawElement(int64_t e) const {
    // Lane 1, so that orders that agree for lane 0 alone are told apart.
    constexpr int64_t lane = 1;
    for (int64_t k = 0; k < 16; ++k) {
      HalfTile::Place p = HalfTile::placeOf(layout.part, k);
      if (p.t != lane || p.e != e)
        continue;
      auto at =
          layout.part == rt::kKey ? layout.place(0, k) : layout.place(k, 0);
      if (at.byte / 16 != lane)
        return std::nullopt;
      return std::pair(static_cast<size_t>(at.byte % 16 / 4), at.byte % 4 / 2);
    }
    return std::nullopt;
  }

  /// f16 of element e of the word that rawElement says, times `unit`, as f32.
  Value rawValue(Value word, bool high, double unit = HalfTile::kUnit) {
    Value bits = high ? b.andBits(word, static_cast<int32_t>(0xffff0000))
                      : b.shl(word, 16);
    return b.mulF(b.bitcast(bits, b.getF32Type()), b.f32(unit));
  }

private:
  /// The exponent that is left once the even row block's field is in place: the
  /// other row block of a word is shifted there.
  int32_t exponent(bool upperRows) const {
    return layout.exponent(0, upperRows);
  }

  WarpgroupBuilder &b;
  FragmentLayout layout;
  /// Whether steps are 2^kWideExponent less.
  bool wide;
};

class Dequantize {
public:
  Dequantize(WarpgroupBuilder &b, DequantizeFragmentsOp op)
      : b(b), op(op), share(shareOf(op.getPart(), op.getLevel())),
        decoder(b, share.layout, op.getWide()), words(b.unpack(op.getWords())) {
  }

  LogicalResult run() {
    computePlace();
    return share.level() == 16 ? storeRaw() : storeCodes();
  }

private:
  int32_t first() { return static_cast<int32_t>(op.getFirst()); }
  int32_t count() { return static_cast<int32_t>(op.getCount()); }

  /// Where lane 4 g + t's chunk of the warp's first row and column block lies.
  void computePlace() {
    Value g = b.shr(op.getLane(), 2), t = b.andBits(op.getLane(), 3);
    Value columns =
        ofWarp(b, op.getWarp(), share.columnBase(1), share.columnBase(2));
    Value rows = ofWarp(b, op.getWarp(), share.rowBase(1), share.rowBase(2));
    // Row of lane g, and what it swizzles by.
    rt::Part part = share.layout.part;
    Value laneRow = g;
    if (share.isKey()) {
      laneRow = b.mul(b.shr(g, 1), HalfTile::row(part, 2));
      Value odd = b.mul(b.andBits(g, 1), HalfTile::row(part, 1));
      laneRow = b.add(laneRow, odd);
    }
    Value swizzle = share.isKey() ? b.andBits(g, 1) : g;
    // Row blocks of warps are 4 apart, of which tiles have whole halves.
    Value warpRow = b.mul(b.shr(rows, 2), HalfTile::row(part, 64));
    Value chunk = b.shl(t, 1);
    chunk = b.add(chunk, b.andBits(columns, 1));
    chunk = arith::XOrIOp::create(b, chunk, swizzle);
    Value offset = b.mul(b.shr(columns, 1), HalfTile::kHalfBytes);
    offset = b.add(offset, b.mul(b.add(laneRow, warpRow), HalfTile::kRowBytes));
    offset = b.add(offset, b.mul(chunk, HalfTile::kChunkBytes));
    place = b.add(b.toInteger(op.getTile()), offset);
  }

  /// Stores 8 elements of row g (or g + 8) of a row block.
  void storeChunk(const Values &chunk, int32_t rowBlock, bool upper,
                  int32_t columnBlock) {
    int64_t row =
        HalfTile::row(share.layout.part, 16 * rowBlock + (upper ? 8 : 0));
    int64_t swizzle = (columnBlock & 1) ^ (row % HalfTile::kSwizzleRows);
    Value &start = starts[swizzle];
    if (!start)
      start = b.toShared(b.xorBits(place, swizzle * HalfTile::kChunkBytes));
    int64_t further =
        row * HalfTile::kRowBytes + columnBlock / 2 * HalfTile::kHalfBytes;
    b.storeWords(chunk, b.at(start, further));
  }

  /// One block of columns after the other, so that few constants live at once.
  LogicalResult storeCodes() {
    auto form = affineForm(op, *op.getFormat(), share.level());
    if (failed(form))
      return failure();
    Values groups = b.unpack(op.getGroups());
    for (int32_t c = 0; c < share.columnBlocks(); ++c) {
      Values constants = codeConstants(
          b, *form, share.layout,
          ArrayRef<Value>(groups).slice(size_t(8) * c, 8), op.getWide());
      Constants block = decoder.constantsOf(constants);
      for (int32_t i = first(); i < first() + count(); ++i)
        for (int32_t f = 0; f < share.layout.fragmentsPerVector(); ++f)
          storeFragment(block, i, share.layout.fragment(share.vector(0, i), f),
                        c);
    }
    return success();
  }

  void storeFragment(const Constants &block, int32_t i,
                     const Fragment &fragment, int32_t c) {
    if (fragment.kBlock != c)
      return;
    for (bool upper : {false, true}) {
      Values chunk;
      for (size_t h = 0; h < 2; ++h) {
        const FragmentRegister &r = fragment.registers[2 * h + upper];
        Value word = words[static_cast<size_t>(i - first()) * 4 + r.word];
        auto [even, odd] = decoder.pairsOf(word, r, block, upper, h);
        chunk.push_back(even);
        chunk.push_back(odd);
      }
      storeChunk(chunk, fragment.rowBlock, upper, c);
    }
  }

  LogicalResult storeRaw() {
    std::optional<std::pair<size_t, int64_t>> elements[4];
    for (int64_t e = 0; e < 4; ++e) {
      elements[e] = decoder.rawElement(e);
      if (!elements[e])
        return op.emitOpError("has no form for raw ")
               << (share.isKey() ? "keys" : "values")
               << " whose elements lie in other lanes";
    }
    for (int32_t i = first(); i < first() + count(); i += 2) {
      Fragment fragment = share.layout.fragment(share.vector(0, i), 0);
      for (bool upper : {false, true}) {
        auto element = [&](int32_t h, int64_t e) {
          auto [reg, high] = *elements[e];
          Value word = words[static_cast<size_t>(i + h - first()) * 4 + reg +
                             (upper ? 1 : 0)];
          return decoder.rawValue(word, high);
        };
        Values chunk;
        for (int32_t h = 0; h < 2; ++h)
          for (int64_t odd = 0; odd < 2; ++odd) {
            Value low = element(h, odd);
            chunk.push_back(b.packHalves(low, element(h, odd + 2)));
          }
        storeChunk(chunk, fragment.rowBlock, upper, /*columnBlock=*/0);
      }
    }
    return success();
  }

  WarpgroupBuilder &b;
  DequantizeFragmentsOp op;
  WarpShare share;
  CodeDecoder decoder;
  Values words;
  Value place;
  /// By swizzle.
  std::map<int64_t, Value> starts;
};

/// Left operands in registers: rows g and g + 8 of (e0 e2), then of (e1 e3).
class DecodeOperands {
public:
  DecodeOperands(WarpgroupBuilder &b, DecodeOperandsOp op)
      : b(b), op(op), share(op.getPart() == Part::Key ? rt::kKey : rt::kValue,
                            static_cast<int32_t>(op.getLevel())),
        decoder(b, share.layout, op.getWide()), words(b.unpack(op.getWords())) {
  }

  /// Errors: a diagnostic on the op if raw elements lie in other lanes.
  FailureOr<Value> run() {
    if (share.level() == 16)
      return raw();
    if (op.getExponents())
      return forEach([&](int32_t m, int32_t h, bool upper) {
        FragmentRegister r = field(m, h, upper);
        return decoder.bareFields(words[static_cast<size_t>(r.word)], r,
                                  exponent(m, upper));
      });
    Constants block = decoder.constantsOf(b.unpack(op.getGroups()));
    return forEach([&](int32_t m, int32_t h, bool upper) {
      FragmentRegister r = field(m, h, upper);
      return decoder.pairsOf(words[static_cast<size_t>(r.word)], r, block,
                             upper, static_cast<size_t>(h));
    });
  }

private:
  /// Of rows g, or g + 8, of product m.
  int32_t exponent(int32_t m, bool upper) {
    auto exponents = op.getExponents();
    const size_t row = static_cast<size_t>(m) * 2 + (upper ? 1 : 0);
    return exponents ? (*exponents)[row] : 0;
  }
  FragmentRegister field(int32_t m, int32_t h, bool upper) {
    return share.field(m, static_cast<int32_t>(op.getBlock()), h, upper);
  }

  /// Four registers for each product and half.
  Value forEach(
      function_ref<std::pair<Value, Value>(int32_t m, int32_t h, bool upper)>
          pairs) {
    Values all;
    for (int32_t m = 0; m < OperandShare::kProducts; ++m)
      for (int32_t h = 0; h < 2; ++h) {
        auto low = pairs(m, h, /*upper=*/false);
        auto high = pairs(m, h, /*upper=*/true);
        llvm::append_range(all, ArrayRef<Value>{low.first, high.first,
                                                low.second, high.second});
      }
    return b.pack(all);
  }

  FailureOr<Value> raw() {
    std::pair<size_t, int64_t> elements[4];
    for (int64_t e = 0; e < 4; ++e) {
      auto found = decoder.rawElement(e);
      if (!found)
        return op.emitOpError("has no form for raw ")
               << (share.isKey() ? "keys" : "values")
               << " whose elements lie in other lanes";
      elements[e] = *found;
    }
    return forEach([&](int32_t m, int32_t h, bool upper) {
      auto start = static_cast<size_t>(field(m, h, upper).word);
      const bool own = share.isKey() || op.getExponents().has_value();
      const double unit = std::ldexp(own ? HalfTile::kRawUnit : HalfTile::kUnit,
                                     exponent(m, upper));
      auto element = [&](int64_t e) {
        auto [reg, high] = elements[e];
        return decoder.rawValue(words[start + reg], high != 0, unit);
      };
      auto pair = [&](int64_t odd) {
        Value low = element(odd);
        return b.packHalves(low, element(odd + 2));
      };
      Value even = pair(0);
      return std::pair(even, pair(1));
    });
  }

  WarpgroupBuilder &b;
  DecodeOperandsOp op;
  OperandShare share;
  CodeDecoder decoder;
  Values words;
};

class DequantizeTilesPass
    : public mlir::pmkvq::impl::DequantizeTilesBase<DequantizeTilesPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<LoadFragmentsOp>(getOperation(), loadFragments);
    replaceEach<LoadGroupsOp>(getOperation(), loadGroups);
    SmallVector<DequantizeFragmentsOp> ops;
    getOperation()->walk([&](DequantizeFragmentsOp op) { ops.push_back(op); });
    for (DequantizeFragmentsOp op : ops) {
      OpBuilder at(op);
      WarpgroupBuilder b(op.getLoc(), at);
      if (failed(Dequantize(b, op).run()))
        return signalPassFailure();
      op->erase();
    }
    SmallVector<DecodeOperandsOp> operands;
    getOperation()->walk([&](DecodeOperandsOp op) { operands.push_back(op); });
    for (DecodeOperandsOp op : operands) {
      OpBuilder at(op);
      WarpgroupBuilder b(op.getLoc(), at);
      FailureOr<Value> made = DecodeOperands(b, op).run();
      if (failed(made))
        return signalPassFailure();
      op.replaceAllUsesWith(*made);
      op->erase();
    }
  }
};
} // namespace
