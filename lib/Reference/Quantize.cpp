//===- Quantize.cpp - The uniform format, and lowering by shifts ----------===//
//
// Codes in single precision exactly as specified, decoding in double.  This
// file must be compiled without contraction (see CMakeLists.txt); neighbours:
// Quantize.h (the specification), Bits.cpp (roundings).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Quantize.h"
#include "pmkvq/Reference/Bits.h"

#include <cassert>
#include <cmath>
#include <limits>

namespace pmkvq::reference {

using rt::kPageTokens;
using rt::Status;
using rt::StatusCode;

//===----------------------------------------------------------------------===//
// Shifts
//===----------------------------------------------------------------------===//

uint64_t equivalentShiftIntermediate(uint32_t code, int32_t fromBits) {
  assert((fromBits == 16 || fromBits == 8 || fromBits == 4) && "no such step");
  assert(code < (uint64_t(1) << fromBits) && "code exceeds its bits");
  int32_t b = fromBits / 2;
  uint64_t factor = (uint64_t(1) << (2 * b)) - (uint64_t(1) << b) + 1;
  return factor * (code + (uint64_t(1) << (b - 1)));
}

uint32_t equivalentShift(uint32_t code, int32_t fromBits) {
  int32_t b = fromBits / 2;
  // Unsigned 32 bits suffice; the narrowing is part of the specification.
  auto product =
      static_cast<uint32_t>(equivalentShiftIntermediate(code, fromBits));
  return product >> (3 * b);
}

uint32_t clippedShift(uint32_t code) {
  assert(code < 16 && "code exceeds its bits");
  return code >> 2;
}

//===----------------------------------------------------------------------===//
// The format
//===----------------------------------------------------------------------===//

Status validateFormat(const UniformFormat &format) {
  if (format.clip == 1.0 || (format.clip > 0.7 && format.clip < 0.9))
    return {};
  return Status(StatusCode::InvalidArgument,
                "clip is " + std::to_string(format.clip) +
                    ", expected 1 or a value in (0.7, 0.9)");
}

static int64_t axisSize(const UniformFormat &format, int64_t headDim) {
  return format.axis == Axis::PerChannel ? kPageTokens : headDim;
}

static int64_t groupSize(const UniformFormat &format, int64_t headDim) {
  return format.group ? format.group : axisSize(format, headDim);
}

Status validateGroup(const UniformFormat &format, int64_t headDim) {
  int64_t axis = axisSize(format, headDim);
  int64_t size = groupSize(format, headDim);
  if (size > 0 && axis % size == 0)
    return {};
  return Status(StatusCode::InvalidArgument,
                "a group is " + std::to_string(size) +
                    " elements, expected a divisor of " + std::to_string(axis));
}

int64_t groupCount(const UniformFormat &format, int64_t headDim) {
  return kPageTokens * headDim / groupSize(format, headDim);
}

int64_t parameterBytes(const UniformFormat &format, int64_t headDim) {
  return (format.symmetric ? 1 : 4) * groupCount(format, headDim);
}

int64_t groupOf(const UniformFormat &format, int64_t headDim, int64_t token,
                int64_t channel) {
  int64_t size = groupSize(format, headDim);
  return format.axis == Axis::PerChannel
             ? token / size * headDim + channel
             : token * (headDim / size) + channel / size;
}

uint32_t lowerCode(const UniformFormat &format, uint32_t code,
                   int32_t fromBits) {
  assert((fromBits == 8 || fromBits == 4 || fromBits == 2) && "no such step");
  if (fromBits == 2)
    return code >> 1;
  if (fromBits == 4 && format.clip != 1.0)
    return clippedShift(code);
  return equivalentShift(code, fromBits);
}

uint8_t rangeByte(uint16_t range) { return static_cast<uint8_t>(range >> 7); }

uint16_t rangeFromByte(uint8_t byte) {
  return static_cast<uint16_t>(byte << 7);
}

/// How far the two values at 1 bit lie apart, as a part of the range.
static constexpr double kSpreadAtLevel1 = 0.32;

double decodeCode(const UniformFormat &format, double minimum, double range,
                  uint32_t code, int32_t bits) {
  assert((bits == 8 || bits == 4 || bits == 2 || bits == 1) &&
         "no codes at this level");
  if (bits == 1)
    return minimum + range * (0.5 + kSpreadAtLevel1 * (code - 0.5));
  if (bits == 2)
    return minimum +
           range * ((1.0 - format.clip) / 2.0 + format.clip * code / 3.0);
  return minimum + range * code / ((1 << bits) - 1);
}

//===----------------------------------------------------------------------===//
// Parts of pages
//===----------------------------------------------------------------------===//

namespace {

struct Extremes {
  float minimum = std::numeric_limits<float>::infinity();
  float maximum = -std::numeric_limits<float>::infinity();
};

/// False if a value is not finite.
bool findExtremes(const UniformFormat &format, int64_t headDim,
                  const uint16_t *values, std::vector<Extremes> &extremes) {
  extremes.assign(groupCount(format, headDim), {});
  for (int64_t token = 0; token < kPageTokens; ++token)
    for (int64_t channel = 0; channel < headDim; ++channel) {
      float x = bf16ToFloat(values[token * headDim + channel]);
      if (!std::isfinite(x))
        return false;
      Extremes &group = extremes[groupOf(format, headDim, token, channel)];
      group.minimum = std::fmin(group.minimum, x);
      group.maximum = std::fmax(group.maximum, x);
    }
  return true;
}

/// fp16 rounded up to 3 bits of mantissa, if that is finite.
uint16_t roundUpToE5M3(uint16_t half) {
  return static_cast<uint16_t>((half + 127) / 128 * 128);
}

/// False if a parameter does not fit E5M3.
bool findSymmetricParameters(const std::vector<Extremes> &extremes,
                             PagePart &part) {
  for (const Extremes &group : extremes) {
    float largest = std::fmax(group.maximum, -group.minimum) + 0.0f;
    uint16_t range = roundUpToE5M3(floatToHalfUp(2.0f * largest));
    if (!isFiniteHalf(range))
      return false;
    part.minimum.push_back(floatToHalfDown(0.0f - 0.5f * halfToFloat(range)));
    part.range.push_back(range);
  }
  return true;
}

/// False if a parameter does not fit fp16.
bool findParameters(const std::vector<Extremes> &extremes, PagePart &part) {
  for (const Extremes &group : extremes) {
    // Adding +0 makes a negative zero positive and changes nothing else.
    uint16_t minimum = floatToHalfDown(group.minimum + 0.0f);
    if (!isFiniteHalf(minimum))
      return false;
    uint16_t range = floatToHalfUp(group.maximum - halfToFloat(minimum));
    if (!isFiniteHalf(range))
      return false;
    part.minimum.push_back(minimum);
    part.range.push_back(range);
  }
  return true;
}

uint8_t encode(float x, float minimum, float range) {
  if (range == 0.0f)
    return 0;
  float offset = x - minimum;
  float scaled = offset * 255.0f;
  float code = std::nearbyintf(scaled / range);
  return static_cast<uint8_t>(std::fmin(std::fmax(code, 0.0f), 255.0f));
}

/// Where a level's values lie within a group's range, as parts of it.
struct Grid {
  float lowest, step;
};

Grid gridOf(const UniformFormat &format, int32_t level) {
  if (level == 2)
    return {static_cast<float>((1.0 - format.clip) / 2),
            static_cast<float>(format.clip / 3)};
  return {0.0f, static_cast<float>(1.0 / ((1 << level) - 1))};
}

/// Codes of one token at 8 or 4 bits to those at half of it, with feedback.
void feedBack(const UniformFormat &format, int64_t headDim, int64_t token,
              const KeyFeedback &feedback, PagePart &part) {
  const int32_t from = part.level, to = from / 2;
  const Grid before = gridOf(format, 8), after = gridOf(format, to);
  const auto highest = static_cast<float>((1 << to) - 1);
  uint8_t *codes = part.codes.data() + token * headDim;
  auto rangeOf = [&](int64_t dim) {
    return halfToFloat(part.range[groupOf(format, headDim, token, dim)]);
  };
  std::vector<float> targets(headDim);
  for (int64_t dim = 0; dim < headDim; ++dim) {
    float step = rangeOf(dim) * before.step;
    targets[dim] = step * static_cast<float>(codes[dim] * (from == 4 ? 17 : 1));
  }
  for (int64_t dim = 0; dim < headDim; ++dim) {
    float range = rangeOf(dim);
    float lowest = range * after.lowest, step = range * after.step;
    float inverse = range == 0.0f ? 0.0f : 1.0f / step;
    float code = std::nearbyintf((targets[dim] - lowest) * inverse);
    code = std::fmin(std::fmax(code, 0.0f), highest);
    float error = targets[dim] - std::fma(step, code, lowest);
    codes[dim] = static_cast<uint8_t>(code);
    for (int64_t later = dim + 1; later < headDim; ++later)
      targets[later] = std::fma(-feedback.factor[later * headDim + dim], error,
                                targets[later]);
  }
}

} // namespace

Status quantizePart(const UniformFormat &format, int64_t headDim,
                    const uint16_t *values, PagePart &part) {
  if (Status status = validateGroup(format, headDim); !status.ok())
    return status;
  std::vector<Extremes> extremes;
  if (!findExtremes(format, headDim, values, extremes))
    return Status(StatusCode::NotRepresentable, "a value is not finite");
  PagePart result;
  result.level = 8;
  if (!(format.symmetric ? findSymmetricParameters(extremes, result)
                         : findParameters(extremes, result)))
    return Status(StatusCode::NotRepresentable,
                  "a minimum or range lies outside fp16");
  result.codes.resize(kPageTokens * headDim);
  for (int64_t token = 0; token < kPageTokens; ++token)
    for (int64_t channel = 0; channel < headDim; ++channel) {
      int64_t group = groupOf(format, headDim, token, channel);
      int64_t element = token * headDim + channel;
      result.codes[element] = encode(bf16ToFloat(values[element]),
                                     halfToFloat(result.minimum[group]),
                                     halfToFloat(result.range[group]));
    }
  part = std::move(result);
  return {};
}

Status lowerPart(const UniformFormat &format, int64_t headDim, int32_t level,
                 PagePart &part, const KeyFeedback *feedback) {
  if (!rt::isLevelOf(rt::kValue, level) || level > part.level)
    return Status(StatusCode::InvalidArgument,
                  "cannot lower a part from level " +
                      std::to_string(part.level) + " to " +
                      std::to_string(level));
  if (level == part.level)
    return {};
  if (part.level == 16) {
    PagePart quantized;
    Status status =
        quantizePart(format, headDim, part.values.data(), quantized);
    if (!status.ok())
      return status;
    part = std::move(quantized);
  }
  for (; part.level > level; part.level /= 2)
    if (feedback)
      for (int64_t token = 0; token < kPageTokens; ++token)
        feedBack(format, headDim, token, *feedback, part);
    else
      for (uint8_t &code : part.codes)
        code = static_cast<uint8_t>(lowerCode(format, code, part.level));
  return {};
}

std::vector<double> decodePart(const UniformFormat &format, int64_t headDim,
                               const PagePart &part) {
  std::vector<double> result(kPageTokens * headDim);
  for (int64_t token = 0; token < kPageTokens; ++token)
    for (int64_t channel = 0; channel < headDim; ++channel) {
      int64_t element = token * headDim + channel;
      if (part.level == 16) {
        result[element] = bf16ToFloat(part.values[element]);
        continue;
      }
      int64_t group = groupOf(format, headDim, token, channel);
      result[element] = decodeCode(format, halfToFloat(part.minimum[group]),
                                   halfToFloat(part.range[group]),
                                   part.codes[element], part.level);
    }
  return result;
}

} // namespace pmkvq::reference
