//===- LaneParameters.h - Parameters of formats in lanes --------*- C++ -*-===//
//
// Which parameters kernels on a GPU know, and what turns stored ones into
// numbers on either target.  Neighbours: Format.h (how formats store them),
// SlotLayout.h (where), LowerCodes.cpp, PagesToLanes.cpp and UnitLowering.cpp
// (who widens them).  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_LANEPARAMETERS_H
#define PMKVQ_LIB_CONVERSION_LANEPARAMETERS_H

#include "LaneBuilder.h"
#include "pmkvq/Formats/Format.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/SlotLayout.h"

namespace mlir::pmkvq {

/// Bytes of a group's parameters; where a tile has none, those of two fp16.
inline int64_t groupBytes(TileType tile) {
  return tile.isRaw() ? ::pmkvq::kGroupBytes
                      : tile.getFormat().getModel().getGroupBytes();
}

/// Whether lanes have a place for them: two fp16 numbers, or one byte of
/// values.
inline bool hasLaneParameters(Part part, const FormatModel &model) {
  if (model.getNumParameters() == 2)
    return model.getParameterType() == ParameterType::F16;
  return part == Part::Value && model.getNumParameters() == 1 &&
         model.getParameterType() == ParameterType::E5M3;
}

/// Parameters as they are stored (Format.h) to f32, both vectors.
inline Value widenParameters(ImplicitLocOpBuilder &b, Value stored,
                             ParameterType type) {
  auto narrow = cast<VectorType>(stored.getType());
  auto f32 = narrow.clone(b.getF32Type());
  auto upperBits = [&](Type element, int64_t zeros) {
    auto bits = narrow.clone(element);
    Value wide = arith::ExtUIOp::create(b, bits, stored);
    auto by = DenseElementsAttr::get(bits, b.getIntegerAttr(element, zeros));
    return arith::ShLIOp::create(b, wide, arith::ConstantOp::create(b, by));
  };
  switch (type) {
  case ParameterType::F16:
    return arith::ExtFOp::create(b, f32, stored);
  case ParameterType::BF16:
    return arith::BitcastOp::create(b, f32, upperBits(b.getI32Type(), 16));
  case ParameterType::E5M3: {
    Value half = arith::BitcastOp::create(
        b, narrow.clone(b.getF16Type()),
        upperBits(b.getI16Type(), ::pmkvq::kE5M3Shift));
    return arith::ExtFOp::create(b, f32, half);
  }
  }
  llvm_unreachable("a type of parameters that has no name");
}

/// Adds zeros to words of two f16 of a lane's dims up to a whole block of 32.
inline void fillBlock(LaneBuilder &b, LaneBuilder::Values &words) {
  while (words.size() % 4)
    words.push_back(b.i32(0));
}

/// Words of a parameter per channel from `mine` on.  Lanes lie head_dim / 2
/// bytes apart: not always 16.
inline LaneBuilder::Values loadChannels(LaneBuilder &b, Value mine,
                                        int64_t headDim) {
  const int64_t all = headDim / 8, count = all % 4 ? 2 : 4;
  LaneBuilder::Values words;
  for (int64_t i = 0; i < all; i += count)
    llvm::append_range(words, b.loadWords(b.at(mine, i * 4), count));
  fillBlock(b, words);
  return words;
}

/// Ranges of `tokens` tokens that are a byte each, of lanes g, as words of two
/// f16: those of both blocks of 16, for each 32.
inline SmallVector<std::pair<Value, Value>>
loadByteRanges(LaneBuilder &b, Value ranges, Value g, int64_t tokens) {
  SmallVector<std::pair<Value, Value>> blocks;
  Value mine = b.at(ranges, b.shl(g, 2));
  for (int64_t run = 0; run < tokens; run += 32) {
    Value word = b.load(b.getI32Type(), b.at(mine, run), 4);
    auto block = [&](int64_t selector) {
      return b.shl(b.permute(word, b.i32(0), selector), ::pmkvq::kE5M3Shift);
    };
    Value first = block(0x4140);
    blocks.push_back({first, block(0x4342)});
  }
  return blocks;
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_LANEPARAMETERS_H
