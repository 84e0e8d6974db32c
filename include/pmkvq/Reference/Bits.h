//===- Bits.h - bf16 and fp16 as bit patterns -------------------*- C++ -*-===//
//
// Exact conversions between f32 and the two 16-bit formats of the cache: bf16
// for values, fp16 for parameters.  Neighbours: Quantize.h, which rounds
// parameters in a direction, and Paper.h, which rounds every step to bf16.
//
// 16-bit floats are carried as uint16_t bit patterns, so that no conversion can
// happen unseen.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_REFERENCE_BITS_H
#define PMKVQ_REFERENCE_BITS_H

#include <cstdint>

namespace pmkvq::reference {

/// The value of a bf16 pattern; exact.
float bf16ToFloat(uint16_t bits);

/// The nearest bf16, ties to even; overflow gives infinity, NaN stays NaN.
uint16_t floatToBf16(float value);

/// `value` rounded to bf16 and back: one step of bf16 arithmetic.
float roundToBf16(float value);

/// The value of an fp16 pattern; exact.
float halfToFloat(uint16_t bits);

/// The largest fp16 that is not above `value`: below -65504 it is -infinity,
/// above 65504 it is 65504.  Infinities and NaN stay.
uint16_t floatToHalfDown(float value);

/// The smallest fp16 that is not below `value`: above 65504 it is infinity,
/// below -65504 it is -65504.  Infinities and NaN stay.
uint16_t floatToHalfUp(float value);

/// True unless the fp16 pattern is an infinity or NaN.
bool isFiniteHalf(uint16_t bits);

} // namespace pmkvq::reference

#endif // PMKVQ_REFERENCE_BITS_H
