//===- Quantize.h - The uniform format, and lowering by shifts --*- C++ -*-===//
//
// What a page part's codes and parameters are, bit for bit, and what they
// decode to.  Neighbours: Bits.h (conversions), Cache.h (who lowers what and
// when), Paper.h (the paper's own form).
//
// Mental model.  A part is 128 tokens of one layer and kv head, key or value.
// At level 16 it is raw bf16.  Lowered to 8 bits, each group of values gets two
// fp16 parameters, minimum and range, and each value a code 0..255 that counts
// 255ths of the range.  Every lower level rewrites the codes alone, by a shift;
// the parameters never change, the level says what divides them.  Keys may be
// lowered with feedback instead: what rounding a head dim misses is made good
// by the dims after it, as far as queries are large there (KeyFeedback).
//
// Example, one group with minimum -1 and range 3: the value 0.5 is in the
// middle, code8 = rint(1.5 * 255 / 3) = rint(127.5) = 128 (ties to even),
// code4 = (241 * (128 + 8)) >> 12 = 8 = round(128 / 17), decoded as
// -1 + 3 * 8 / 15 = 0.6, and code2 = 8 >> 2 = 2, decoded with clip 0.8 as
// -1 + 3 * (0.1 + 0.8 * 2 / 3) = 0.9.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_REFERENCE_QUANTIZE_H
#define PMKVQ_REFERENCE_QUANTIZE_H

#include "pmkvq_rt/Geometry.h"
#include "pmkvq_rt/Status.h"

#include <cstdint>
#include <vector>

namespace pmkvq::reference {

//===----------------------------------------------------------------------===//
// Shifts of single codes
//===----------------------------------------------------------------------===//

/// Lowers one code from `fromBits` = 2b to b bits: code -> round(code / (2^b +
/// 1)), computed as ((2^2b - 2^b + 1) * (code + 2^(b-1))) >> 3b.
///
/// Units:  fromBits is 16, 8 or 4; code < 2^fromBits.
/// Source: PM-KVQ (arXiv 2505.18610), equation 3.
uint32_t equivalentShift(uint32_t code, int32_t fromBits);

/// The product before the shift of `equivalentShift`; it fits `2 * fromBits`
/// unsigned bits.
uint64_t equivalentShiftIntermediate(uint32_t code, int32_t fromBits);

/// The last step 4 -> 2 of a clipped format: code >> 2, the nearest level of
/// the clipped decoder for every clip in (0.7, 0.9).
uint32_t clippedShift(uint32_t code);

//===----------------------------------------------------------------------===//
// The format
//===----------------------------------------------------------------------===//

/// What shares one minimum and range.
enum class Axis {
  /// The 128 tokens of a page, for each channel.
  PerChannel,
  /// The channels of a token.
  PerToken,
};

/// A uniform format.
struct UniformFormat {
  Axis axis = Axis::PerToken;
  /// Head vectors are rotated before they are stored.  The functions of this
  /// header work on stored values and ignore it; Cache and Attention heed it.
  bool hadamard = false;
  /// The middle part of the range that the 2-bit levels span.  In (0.7, 0.9)
  /// the last step is `clippedShift`; exactly 1 is the paper's: the equivalent
  /// shift, and levels that reach both ends.
  double clip = 0.8;
  /// Elements along the axis that share minimum and range; 0: the whole axis,
  /// the tokens of a page per channel, the channels of a token per token.
  int64_t group = 0;
  /// The range lies evenly around 0 and is stored in a byte (E5M3); the minimum
  /// is half of it below 0, and not stored.
  bool symmetric = false;
};

/// Errors: InvalidArgument unless the clip is 1 or in (0.7, 0.9).
rt::Status validateFormat(const UniformFormat &format);

/// Errors: InvalidArgument unless the format's group divides its axis.
rt::Status validateGroup(const UniformFormat &format, int64_t headDim);

/// Groups of a part; of whole axes: headDim per channel, 128 per token.
int64_t groupCount(const UniformFormat &format, int64_t headDim);

/// Bytes of a part's parameters: an fp16 minimum and range a group, or a byte.
int64_t parameterBytes(const UniformFormat &format, int64_t headDim);

/// Group of the element at (token, channel).  Groups are ordered as their first
/// elements are in [128][headDim].
int64_t groupOf(const UniformFormat &format, int64_t headDim, int64_t token,
                int64_t channel);

/// Lowers one code of this format from `fromBits` to `fromBits / 2`; from 2 it
/// is the upper bit.
/// Units: fromBits is 8, 4 or 2.
uint32_t lowerCode(const UniformFormat &format, uint32_t code,
                   int32_t fromBits);

/// The byte that a symmetric format's range, one that E5M3 holds, is stored as:
/// the upper one of its fp16 without the sign.
uint8_t rangeByte(uint16_t range);
uint16_t rangeFromByte(uint8_t byte);

/// Decodes one code: minimum + range * code / (2^bits - 1), at 2 bits minimum +
/// range * ((1 - clip) / 2 + clip * code / 3), and at 1 bit minimum + range *
/// (0.5 - 0.16 + 0.32 * code).
/// Units: bits is 8, 4, 2 or 1.
double decodeCode(const UniformFormat &format, double minimum, double range,
                  uint32_t code, int32_t bits);

//===----------------------------------------------------------------------===//
// Parts of pages
//===----------------------------------------------------------------------===//

/// One part of one page, at any level.
struct PagePart {
  int32_t level = 16;
  /// bf16, [128][headDim]; at level 16 only.
  std::vector<uint16_t> values;
  /// [128][headDim], not packed; below level 16 only.
  std::vector<uint8_t> codes;
  /// fp16, [groups]; below level 16 only, the same at every level.
  std::vector<uint16_t> minimum;
  std::vector<uint16_t> range;
};

/// Quantizes a part to 8 bits.
///
/// In IEEE single precision, each operation rounded by itself, ties to even:
/// minimum = the group's minimum rounded down to fp16 (a zero is +0), range =
/// (maximum - minimum) rounded up to fp16, code = rint(((x - minimum) * 255) /
/// range) clamped to 0..255; range 0 gives codes 0.  Symmetric: range = twice
/// the largest magnitude, rounded up to E5M3, minimum = -range / 2.
///
/// Shapes: values [128][headDim], bf16 patterns.
/// Errors: as validateGroup;
///         NotRepresentable if a value is not finite or a parameter, after its
///         rounding, is not a finite fp16; `part` is then untouched.
/// Source: the design of pmkvq; the axes are KIVI's and the paper's.
rt::Status quantizePart(const UniformFormat &format, int64_t headDim,
                        const uint16_t *values, PagePart &part);

/// How the keys of one layer and kv head are rounded to where queries are
/// small.
///
/// `factor` is the strictly lower part of L, the unit lower triangular factor
/// of the inverse of queries' second moments, L D L^T: an error e of head dim i
/// is made good, as far as it can be, by -e L[j][i] in every dim j > i.
///
/// Shapes: factor [headDim][headDim], f32; what is not below the diagonal is
///         not read.
/// Source: GPTQ (arXiv 2210.17323), with tokens in place of a weight's rows
///         and queries in place of inputs.
struct KeyFeedback {
  std::vector<float> factor;
};

/// Lowers a part to `level`, always by way of 8 bits and every level between.
///
/// With `feedback`, steps to 4 and 2 bits go token by token through the head
/// dims.  In IEEE single precision, each operation rounded by itself: a dim's
/// target is its range * (1 / 255) * code, of codes at 4 bits times 17; the
/// code is rint((target - lowest) * (1 / step)) within its bits, where lowest
/// and step are parts of the range, as `decodeCode` has them (range 0: the code
/// is 0); and each dim after it, in the order of dims, gets
/// fma(-factor, target - fma(step, code, lowest), its target).
///
/// Units:  level in bits, at most the part's level; equal: nothing happens.
/// Errors: InvalidArgument for any other level, NotRepresentable as for
///         `quantizePart`; `part` is then untouched.
rt::Status lowerPart(const UniformFormat &format, int64_t headDim,
                     int32_t level, PagePart &part,
                     const KeyFeedback *feedback = nullptr);

/// Decodes a part in double precision; level 16 is exact.
/// Shapes: result [128][headDim].
std::vector<double> decodePart(const UniformFormat &format, int64_t headDim,
                               const PagePart &part);

} // namespace pmkvq::reference

#endif // PMKVQ_REFERENCE_QUANTIZE_H
