//===- FragmentLayout.h - The order of codes on a GPU -----------*- C++ -*-===//
//
// Which bits of a unit hold which code, and which registers a lane makes of
// them.  The one owner of this order: the lowering takes masks and exponents
// from here, hosts convert and read codes by it.  Neighbours: Units.h (what a
// unit is), lib/Conversion/CodeLayout.h (the CPU's order).
//
// Mental model.  Codes are the A operand of a matrix instruction of 16 rows:
// m16n8k32 on bytes below 16 bits, m16n8k16 on bf16 at 16.  Lane 4 g + t of a
// warp holds four registers of an operand:
//
//   a0 = rows g,     k 4 t .. 4 t + 3        a2 = the same rows, k + 16
//   a1 = rows g + 8, the same k              a3 = rows g + 8, k + 16
//
// (bf16: k 2 t, 2 t + 1 and k + 8).  Rows are tokens for keys and head dims for
// values, k is the other axis.  Which element is which k is free if B agrees,
// and chosen such that a lane holds the same elements at every level: of each
// 16 along k four, *a quad*, of rows g and g + 8.  So a GPU lowers and
// quantizes where codes lie.  One 16-byte load a lane, a *vector*, gives whole
// operands by AND alone.  A field that is not at bit 0 of its byte reads as
// code * 2^exponent; exponents depend on the row only, so the factor is a
// constant after the accumulator:
//
//   8 bits: a vector is one operand, words = a0..a3, nothing to do
//   4 bits: two; words 2 j, 2 j + 1 hold operand j: a0, a1 in the low and high
//           nibbles of the first, a2, a3 of the second
//   2 bits: four; words 2 j, 2 j + 1 hold operands (j, 0) in bits 0..3 of each
//           byte and (j, 1), the next 16 rows, in bits 4..7
//
// Codes of 32 tokens, a *grain*, lie together.  Head dims beyond a multiple of
// 64, which are 16 of 80 and 32 of 96, follow the others of their grain in the
// same order, in vectors of as few words as they have: of one or two, lanes lie
// 4 or 8 bytes apart.  16 dims are half a block of k of keys: an operand of two
// registers.  Of values they are one block of rows, without the next 16 to
// share a word with at 2 bits: bits 4..7 hold k + 16, to be shifted.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_FRAGMENTLAYOUT_H
#define PMKVQ_TARGET_FRAGMENTLAYOUT_H

#include "pmkvq_rt/Units.h"

#include <cstdint>

namespace pmkvq {

/// One register of an operand: a word of the vector under a mask.
struct FragmentRegister {
  int32_t word;
  uint32_t mask;
  /// The field reads as code * 2^exponent.
  int32_t exponent;
};

/// One operand of 16 rows.
struct Fragment {
  FragmentRegister registers[4];
  /// Which 16 rows, and which k of 32 (16 at level 16), within the unit.
  int32_t rowBlock;
  int32_t kBlock;
};

/// The order of one side of a unit.
struct FragmentLayout {
  rt::Part part;
  int32_t level;
  int32_t tokens;
  int64_t headDim;

  /// What the high byte of a query or a weight is worth in units of the low
  /// one.  254 = 2 * 127 keeps what rounding a query leaves, at most half a
  /// unit of the high byte, within a signed byte.
  static constexpr int32_t kQueryUnits = 254, kWeightUnits = 256;
  /// Largest sum of bytes times codes that has room below f32's 24 bits.
  static constexpr int64_t kLargestSum = (1 << 23) - 1;

  static constexpr int32_t kRows = 16;
  static constexpr int32_t kLanes = 32;
  static constexpr int32_t kVectorBytes = 16 * kLanes;

  /// Elements along k of one operand.
  constexpr int32_t depth() const { return level == 16 ? 16 : 32; }
  constexpr int32_t rowBlocks() const {
    return static_cast<int32_t>((part == rt::kKey ? tokens : headDim) / kRows);
  }
  /// Elements along k, and blocks of depth() of them, the last perhaps a half.
  constexpr int64_t kSize() const {
    return part == rt::kKey ? headDim : tokens;
  }
  constexpr int32_t kBlocks() const {
    return static_cast<int32_t>((kSize() + depth() - 1) / depth());
  }
  constexpr int32_t fragmentsPerVector() const {
    return level >= 8 ? 1 : 8 / level;
  }

  /// Head dims whose codes of a grain are whole vectors at every level; those
  /// beyond are fewer, and fill no vector of three words.
  static constexpr int64_t kWholeDims = 64;
  static constexpr bool isHeadDim(int64_t headDim) {
    int64_t rest = headDim % kWholeDims;
    return headDim > 0 && (rest == 0 || rest == 16 || rest == 32);
  }
  constexpr int64_t wholeDims() const { return headDim - headDim % kWholeDims; }

  /// Exponent of a row's fields: the same for all k.
  constexpr int32_t exponent(int32_t rowBlock, bool upperRows) const {
    if (level >= 8)
      return 0;
    return (level == 2 ? (rowBlock & 1) * 4 : 0) + (upperRows ? level : 0);
  }

  /// Bound of a row's sums, doubled where bytes are signed: fields times the
  /// largest byte, over one part of k.
  constexpr int64_t largestSum() const { return largestSumOf(sumParts()); }
  /// Parts of k whose sums are taken apart, so that each has room.
  constexpr int32_t sumParts() const {
    int32_t parts = 1;
    while (level < 16 && largestSumOf(parts) > kLargestSum)
      parts *= 2;
    return parts;
  }
  constexpr int64_t largestSumOf(int32_t parts) const {
    int64_t code = (1 << level) - 1;
    int64_t field = code << exponent(1, /*upperRows=*/true);
    return field * (part == rt::kKey ? 2 * 127 : 255) * kSize() / parts;
  }

  /// Elements along k that hold a quad of each of four lanes.
  static constexpr int32_t kQuads = 16;

  /// Which byte of its quad, below level 16, is element `in` of kQuads.  Tokens
  /// of values are in the order in which weights come out of a transposition.
  constexpr int32_t quadElement(int32_t in) const {
    return part == rt::kKey ? in % 4 : in % 2 * 2 + in / 8;
  }
  /// The reverse: element `e` of the quad of lanes t.
  constexpr int32_t quadPlace(int32_t t, int32_t e) const {
    return part == rt::kKey ? t * 4 + e : t * 2 + e / 2 + e % 2 * 8;
  }

  /// Words of a lane that one load moves: of lane l from `byte` + l *
  /// laneBytes() of the unit's codes on.
  struct Vector {
    int64_t byte;
    int32_t words;
    constexpr int32_t laneBytes() const { return words * 4; }
  };

  /// Where a register of an operand comes from.
  struct Source {
    Vector vector;
    FragmentRegister field;
  };

  /// Of the operand of rows 16 rowBlock .. and block kBlock of k; a half block
  /// has registers 0 and 1 alone.
  constexpr int32_t registers(int32_t kBlock) const {
    return (kBlock + 1) * int64_t{depth()} <= kSize() ? 4 : 2;
  }
  constexpr Source source(int32_t rowBlock, int32_t kBlock,
                          int32_t number) const {
    if (level == 16) {
      int64_t vector = part == rt::kKey ? rowBlock * kBlocks() + kBlock
                                        : kBlock * rowBlocks() + rowBlock;
      return {{vector * kVectorBytes, 4}, {number, 0xffffffffu, 0}};
    }
    return quad(rowBlock, number % 2, kBlock * 2 + number / 2);
  }

  /// A code's place: byte offset in the unit's codes, and first bit; and how
  /// far the lanes' words around it lie apart.
  struct Place {
    int64_t byte;
    int32_t bit;
    int32_t laneBytes;
  };

  /// Shapes: `token` counts within the unit.
  constexpr Place place(int64_t token, int64_t dim) const {
    int64_t row = part == rt::kKey ? token : dim;
    int64_t k = part == rt::kKey ? dim : token;
    auto rowBlock = static_cast<int32_t>(row / kRows);
    auto kBlock = static_cast<int32_t>(k / depth());
    auto r = static_cast<int32_t>(row % kRows);
    auto d = static_cast<int32_t>(k % depth());
    // The lane and the element of its quad.
    int32_t in = d % kQuads;
    int32_t t = part == rt::kKey ? in / 4 : in % 8 / 2;
    int32_t e = quadElement(in);
    int32_t half = d / kQuads;
    if (level == 16) {
      // Halves of the operand are halves of the quad.
      half = part == rt::kKey ? e / 2 : e % 2;
      e = part == rt::kKey ? e % 2 : e / 2;
    }
    Source from = source(rowBlock, kBlock, half * 2 + r / 8);
    int32_t lane = (r % 8) * 4 + t;
    int64_t inLane =
        int64_t{from.field.word} * 4 + int64_t{e} * (level == 16 ? 2 : 1);
    int64_t byte = from.vector.byte + int64_t{lane} * from.vector.laneBytes();
    return {byte + inLane, from.field.exponent, from.vector.laneBytes()};
  }

  // Head dims that are multiples of kWholeDims: operands are of one vector
  // each, several in one.

  constexpr int32_t vectors() const {
    return rowBlocks() * kBlocks() / fragmentsPerVector();
  }

  constexpr Fragment fragment(int32_t vector, int32_t index) const {
    Fragment f = {};
    place(vector, index, f.rowBlock, f.kBlock);
    for (int32_t r = 0; r < 4; ++r)
      f.registers[r] = source(f.rowBlock, f.kBlock, r).field;
    return f;
  }

  /// Which operand a vector's `index`-th is.
  constexpr void place(int32_t vector, int32_t index, int32_t &rowBlock,
                       int32_t &kBlock) const {
    // At 2 bits pairs of row blocks share words.
    int32_t together = level == 2 ? 2 : 1;
    int32_t linear = (vector * fragmentsPerVector() + index) / together;
    int32_t inner = part == rt::kKey ? kBlocks() : rowBlocks() / together;
    int32_t outer = linear / inner;
    inner = linear % inner;
    rowBlock = (part == rt::kKey ? outer : inner) * together + index % together;
    kBlock = part == rt::kKey ? inner : outer;
  }

  /// The reverse of place.
  constexpr void locate(int32_t rowBlock, int32_t kBlock, int32_t &vector,
                        int32_t &index) const {
    Source first = source(rowBlock, kBlock, 0);
    vector = static_cast<int32_t>(first.vector.byte / kVectorBytes);
    index = level >= 8 ? 0 : first.field.word / 2;
    if (level == 2)
      index = index * 2 + rowBlock % 2;
  }

private:
  /// The quads of 16 rows and 16 of k, below level 16.  Words of a grain's
  /// whole dims, then of its rest, are dealt out four at a time.
  constexpr Source quad(int32_t rowBlock, bool upper, int32_t kQuad) const {
    const bool isKey = part == rt::kKey;
    int32_t tokenBlock = isKey ? rowBlock : kQuad;
    int32_t dimBlock = isKey ? kQuad : rowBlock;
    const int64_t grain = tokenBlock / 2;
    auto first = int32_t{0}, count = static_cast<int32_t>(wholeDims() / kRows);
    if (dimBlock >= count) {
      first = count;
      count = static_cast<int32_t>(headDim / kRows) - first;
    }
    tokenBlock %= 2;
    dimBlock -= first;
    const int32_t row = isKey ? tokenBlock : dimBlock;
    const int32_t k = isKey ? dimBlock : tokenBlock, depth = isKey ? count : 2;
    int32_t word = row * depth + k, bit = upper ? level : 0;
    if (level == 8) {
      word = word * 2 + (upper ? 1 : 0);
      bit = 0;
    } else if (level == 2 && (isKey ? 2 : count) == 1) {
      word = 0;
      bit += k * 4;
    } else if (level == 2) {
      word = row / 2 * depth + k;
      bit += row % 2 * 4;
    }
    const int32_t rest = count * level / 2 - word / 4 * 4;
    const uint32_t field = ((1u << level) - 1u) << bit;
    return {{grain * 4 * headDim * level + int64_t{first} * 64 * level +
                 int64_t{word / 4} * kVectorBytes,
             rest < 4 ? rest : 4},
            {word % 4, field * 0x01010101u, bit}};
  }
};

/// Where a parameter lies among those of one part of a unit, as an index of
/// fp16 values.  `which`: 0 the minimum, 1 the range.
struct ParameterLayout {
  /// Per channel, head_dim groups: all ranges, then all minima, so that lane t
  /// finds the channels of its operands, 32 kb + 16 h + 4 t + e, together.
  static constexpr int64_t perChannel(int64_t dim, int32_t which,
                                      int64_t headDim) {
    int64_t kb = dim / 32, h = dim % 32 / 16, t = dim % 16 / 4, e = dim % 4;
    return (which == 0 ? headDim : 0) + t * (headDim / 4) + kb * 8 + h * 4 + e;
  }
  /// Per token, in runs of 32 tokens: lane g finds the words {token g, g + 8}
  /// of ranges of its two blocks of 16 tokens, then of minima, in 16 bytes.
  static constexpr int64_t perToken(int64_t token, int32_t which) {
    int64_t run = token / 32, block = token % 32 / 16, r = token % 16;
    return run * 64 + (r % 8) * 8 + (which == 0 ? 4 : 0) + block * 2 + r / 8;
  }
  /// The byte of a range alone, of as many tokens: lane g finds those of tokens
  /// g and g + 8 of both blocks in a word.
  static constexpr int64_t perTokenByte(int64_t token) {
    int64_t run = token / 32, block = token % 32 / 16, r = token % 16;
    return run * 32 + (r % 8) * 4 + block * 2 + r / 8;
  }
};

} // namespace pmkvq

#endif // PMKVQ_TARGET_FRAGMENTLAYOUT_H
