//===- Geometry.h - Pages, blocks and levels --------------------*- C++ -*-===//
//
// Sizes that compiler and runtime share; each is written here and nowhere else.
// Neighbours: Abi.h (structs laid out with these sizes).
//
// Mental model. A *page* is 128 tokens of one layer and one kv head. It has two
// *parts*, key and value; each part is at a *level*: 16, 8, 4 or 2 bits a code.
// Codes live in *blocks* of one fixed size, 32 * head_dim bytes, so a part at b
// bits owns b / 2 blocks and a block holds 256 / b tokens:
//
//   level 16: 8 blocks of  16 tokens      level 4: 2 blocks of  64 tokens
//   level  8: 4 blocks of  32 tokens      level 2: 1 block  of 128 tokens
//
// Lowering a part by one level packs it into the first half of its blocks and
// frees the others.  head_dim 128: a block is 4,096 bytes, a page at level 16
// owns 16 blocks (64 KiB), at level 2 it owns 2 (8 KiB).
//
// Values may fall once more, to level 1, which is half a block.  Of the kv
// heads of all layers, counted through, 2 i and 2 i + 1 are *partners*: the
// values of a page of both fall to level 1 together and share the block of the
// first, in this order.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_GEOMETRY_H
#define PMKVQ_RT_GEOMETRY_H

#include <array>
#include <cstdint>

namespace pmkvq::rt {

/// Tokens of a page, and the most tokens a window holds.
inline constexpr int32_t kPageTokens = 128;

/// Bits a code, from the highest level to the lowest that both parts may have.
inline constexpr std::array<int32_t, 4> kLadder = {16, 8, 4, 2};

/// The same with the level that values alone may have.
inline constexpr std::array<int32_t, 5> kValueLadder = {16, 8, 4, 2, 1};

/// Blocks that a part owns at the highest level.
inline constexpr int32_t kMaxBlocksPerPart = 8;

/// The two parts of a page; also the index of a part in every array of two.
enum Part : int32_t { kKey = 0, kValue = 1 };
inline constexpr int32_t kParts = 2;

/// 64 bits: a level read from a module or a file must not be cut before it is
/// checked.
constexpr bool isLevel(int64_t bits) {
  return bits == 16 || bits == 8 || bits == 4 || bits == 2;
}

constexpr bool isLevelOf(Part part, int64_t bits) {
  return isLevel(bits) || (part == kValue && bits == kValueLadder.back());
}

/// Position of `bits` in `kValueLadder`: 0 for 16, 4 for 1.  Requires
/// isLevelOf(kValue, bits).
constexpr int32_t ladderIndex(int32_t bits) {
  return bits == 16 ? 0 : bits == 8 ? 1 : bits == 4 ? 2 : bits == 2 ? 3 : 4;
}

/// Bytes of one block.
constexpr int64_t blockBytes(int64_t headDim) { return 32 * headDim; }

/// Blocks that a part lies in at `bits` bits.
constexpr int32_t blocksAtLevel(int64_t bits) {
  return bits > 2 ? static_cast<int32_t>(bits / 2) : 1;
}

/// Bytes of a part's codes at `bits` bits.
constexpr int64_t codeBytes(int64_t headDim, int64_t bits) {
  return blockBytes(headDim) * bits / 2;
}

/// A kv head's number among those of all layers, and whether it is the second
/// of two partners.
constexpr int32_t headOfAll(int32_t layer, int32_t head, int32_t kvHeads) {
  return layer * kvHeads + head;
}
constexpr bool isSecondOfPair(int32_t headOfAll) { return headOfAll % 2 == 1; }

/// Tokens that one block holds at `bits` bits.
constexpr int32_t tokensPerBlock(int32_t bits) { return 256 / bits; }

/// Bytes of the fixed bf16 area (sink tokens, then the window) of one
/// sequence, layer and kv head, both parts.
constexpr int64_t fixedAreaBytes(int64_t headDim, int64_t sinkTokens) {
  return kParts * (sinkTokens + kPageTokens) * headDim * 2;
}

/// Bytes of one page of one kv head: its parameters and its blocks.
constexpr int64_t pageBytes(int64_t headDim, int64_t slotBytes, int32_t keyBits,
                            int32_t valueBits) {
  return slotBytes + codeBytes(headDim, keyBits) +
         codeBytes(headDim, valueBits);
}

} // namespace pmkvq::rt

#endif // PMKVQ_RT_GEOMETRY_H
