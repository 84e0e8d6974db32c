//===- Paper.cpp - The paper's own quantizer ------------------------------===//
//
// bf16 arithmetic is f32 arithmetic rounded after each operation, as PyTorch
// does it.  Neighbours: Paper.h (which steps round), Quantize.cpp (the shift).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Paper.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Quantize.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace pmkvq::reference {

PaperGroup quantizePaperGroup(const float *values, int64_t count,
                              int32_t bits) {
  assert(rt::isLevel(bits) && count > 0 && "no such group");
  auto [low, high] = std::minmax_element(values, values + count);
  float minimum = *low;
  auto maxCode = static_cast<float>((1 << bits) - 1);

  PaperGroup group;
  group.bits = bits;
  group.zero = -minimum;
  float range = roundToBf16(*high - minimum);
  group.scale = std::clamp(roundToBf16(range / maxCode), roundToBf16(1e-5f),
                           roundToBf16(1e5f));
  group.codes.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    float offset = values[i] - minimum;
    float code = bits == 16 ? offset / group.scale
                            : roundToBf16(roundToBf16(offset) / group.scale);
    code = std::clamp(std::nearbyintf(code), 0.0f, maxCode);
    group.codes.push_back(static_cast<uint16_t>(code));
  }
  return group;
}

void lowerPaperGroup(PaperGroup &group) {
  assert(group.bits > 2 && "already at the lowest level");
  for (uint16_t &code : group.codes)
    code = static_cast<uint16_t>(equivalentShift(code, group.bits));
  group.bits /= 2;
  auto factor = static_cast<float>((1 << group.bits) + 1);
  group.scale = roundToBf16(group.scale * factor);
}

std::vector<float> decodePaperGroup(const PaperGroup &group,
                                    PaperDecoding decoding) {
  std::vector<float> result;
  result.reserve(group.codes.size());
  for (uint16_t code : group.codes) {
    if (decoding == PaperDecoding::Float32) {
      float product = static_cast<float>(code) * group.scale;
      result.push_back(roundToBf16(product - group.zero));
      continue;
    }
    // The code itself becomes a bf16 first: at 16 bits this rounds.
    float product = roundToBf16(roundToBf16(code) * group.scale);
    result.push_back(roundToBf16(product - group.zero));
  }
  return result;
}

} // namespace pmkvq::reference
