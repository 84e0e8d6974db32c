//===- Units.h - What a worker of a GPU takes at a time ---------*- C++ -*-===//
//
// Kinds and sizes of units.  Neighbours: Geometry.h (pages and blocks),
// DeviceAbi.h (the work list made of units), pmkvq/Target/SlotLayout.h (their
// places in shared memory), FragmentLayout.h (the order of codes inside).
//
// Mental model.  A GPU kernel works on *units*: the tokens whose codes fill one
// block, of keys and of values alike.  A unit is 128, 64, 32 or 16 tokens at
// 2, 4, 8 or 16 bits, so it is the same bytes at every level, and an even split
// by units is an even split by bytes.  Where keys and values are at different
// levels, the unit is the smaller number of tokens and takes a part of the
// other side's block; codes of 32 tokens, a *grain*, lie together at every
// level below 16, so each side stays one run of bytes:
//
//   key 2, value 2: 128 tokens, one block each      key 4, value 2: 64 tokens,
//   key 8, value 8:  32 tokens, one block each      one block and half a block
//
// A unit with one side at level 16 has 16 tokens, half a grain.  Of its other
// side it copies the whole grain and uses half: the two units of a grain follow
// each other, so the second copy comes from the cache, and such a unit still
// has one address a side.
//
//   key 16, value 4: 16 tokens, one block and a quarter (32 tokens)
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_UNITS_H
#define PMKVQ_RT_UNITS_H

#include "pmkvq_rt/Geometry.h"

namespace pmkvq::rt {

/// Tokens whose codes lie together at every level below 16, and whose value
/// parameters do.
inline constexpr int32_t kUnitGrain = 32;

/// The levels of a unit's two sides.
struct UnitKind {
  int32_t key = 16;
  int32_t value = 16;

  /// 0 .. 15: the kind's number in a work list.
  constexpr int32_t index() const {
    return ladderIndex(key) * 4 + ladderIndex(value);
  }
  static constexpr UnitKind fromIndex(int32_t index) {
    return {kLadder[index / 4], kLadder[index % 4]};
  }
  friend constexpr bool operator==(UnitKind a, UnitKind b) {
    return a.key == b.key && a.value == b.value;
  }

  constexpr int32_t level(Part part) const {
    return part == kKey ? key : value;
  }

  /// Tokens of a unit.
  constexpr int32_t tokens() const {
    return tokensPerBlock(key < value ? value : key);
  }

  /// Tokens of one side that are copied: those of the unit, or their grain.
  constexpr int32_t copiedTokens(Part part) const {
    return level(part) < 16 && tokens() < kUnitGrain ? kUnitGrain : tokens();
  }

  /// Whether a side's tokens are half of those copied.
  constexpr bool isHalfGrain() const { return (key == 16) != (value == 16); }

  /// Units of a page.
  constexpr int32_t unitsPerPage() const { return kPageTokens / tokens(); }

  /// Bytes of codes of one side.
  constexpr int64_t codeBytes(Part part, int64_t headDim) const {
    return copiedTokens(part) * headDim * level(part) / 8;
  }
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_UNITS_H
