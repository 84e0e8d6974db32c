//===- Bits.cpp - bf16 and fp16 as bit patterns ---------------------------===//
//
// Conversions by integer arithmetic on the patterns, independent of the
// machine's rounding mode.  Neighbours: Bits.h says what each one promises.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Bits.h"

#include <cstring>

namespace pmkvq::reference {
namespace {

constexpr uint32_t kFloatInfinity = 0x7f800000;
constexpr uint16_t kHalfInfinity = 0x7c00;
constexpr uint16_t kHalfMax = 0x7bff;

uint32_t patternOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float valueOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// An fp16 magnitude rounded toward zero, and whether anything was cut off.
struct Truncated {
  uint16_t magnitude;
  bool inexact;
};

Truncated truncateToHalf(uint32_t magnitude) {
  if (magnitude > kFloatInfinity)
    return {0x7e00, false}; // NaN
  if (magnitude == kFloatInfinity)
    return {kHalfInfinity, false};
  if (magnitude >= 0x47800000) // 65536
    return {kHalfMax, true};
  if (magnitude >= 0x38800000) // 2^-14, the smallest normal fp16
    return {static_cast<uint16_t>((magnitude - 0x38000000) >> 13),
            (magnitude & 0x1fff) != 0};
  // fp16 denormals count in units of 2^-24.
  uint32_t exponent = magnitude >> 23;
  uint32_t mantissa = magnitude & 0x7fffff;
  if (exponent == 0)
    exponent = 1;
  else
    mantissa |= 0x800000;
  uint32_t shift = 126 - exponent;
  if (shift > 31)
    return {0, mantissa != 0};
  uint32_t units = mantissa >> shift;
  return {static_cast<uint16_t>(units), (units << shift) != mantissa};
}

/// Rounds away from zero if `away` and the value is not exact.
uint16_t roundHalf(float value, bool away) {
  uint32_t bits = patternOf(value);
  Truncated truncated = truncateToHalf(bits & 0x7fffffff);
  // Patterns of one sign are ordered like their values, so the next magnitude
  // is the next pattern; after the largest comes infinity.
  uint16_t magnitude = truncated.magnitude;
  if (away && truncated.inexact)
    ++magnitude;
  return static_cast<uint16_t>((bits >> 31) << 15 | magnitude);
}

bool isNegative(float value) { return patternOf(value) >> 31; }

} // namespace

float bf16ToFloat(uint16_t bits) {
  return valueOf(static_cast<uint32_t>(bits) << 16);
}

uint16_t floatToBf16(float value) {
  uint32_t bits = patternOf(value);
  if ((bits & 0x7fffffff) > kFloatInfinity)
    return static_cast<uint16_t>(bits >> 16 | 0x40); // quiet, never infinity
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float roundToBf16(float value) { return bf16ToFloat(floatToBf16(value)); }

float halfToFloat(uint16_t bits) {
  uint32_t sign = static_cast<uint32_t>(bits >> 15) << 31;
  uint32_t magnitude = bits & 0x7fff;
  if (magnitude >= kHalfInfinity)
    return valueOf(sign | kFloatInfinity | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x400)
    return valueOf(sign | ((magnitude << 13) + 0x38000000));
  float denormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign ? -denormal : denormal;
}

uint16_t floatToHalfDown(float value) {
  return roundHalf(value, isNegative(value));
}

uint16_t floatToHalfUp(float value) {
  return roundHalf(value, !isNegative(value));
}

bool isFiniteHalf(uint16_t bits) { return (bits & 0x7fff) < kHalfInfinity; }

} // namespace pmkvq::reference
