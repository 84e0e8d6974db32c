//===- Paper.h - The paper's own quantizer ----------------------*- C++ -*-===//
//
// What the public code of PM-KVQ computes for one group, including where it
// rounds to bf16, so that the product's form of it can be compared.
// Neighbours: Quantize.h (our formats, and the shift that both share),
// PaperCache.h (its cache).
//
// The differences to `UniformFormat`: integer codes from 16 bits on, a scale
// instead of a range, bf16 parameters, a floor of 1e-5 under the scale (and a
// ceiling of 1e5), and a scale that is multiplied (and rounded) whenever codes
// are lowered.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_REFERENCE_PAPER_H
#define PMKVQ_REFERENCE_PAPER_H

#include <cstdint>
#include <vector>

namespace pmkvq::reference {

/// One quantized group.
struct PaperGroup {
  int32_t bits = 16;
  /// One a value, < 2^bits.
  std::vector<uint16_t> codes;
  /// A bf16 value: key/value units a code step.
  float scale = 0;
  /// A bf16 value: minus the group's minimum.
  float zero = 0;
};

/// Where the code that decodes rounds.
enum class PaperDecoding {
  /// code * scale rounded to bf16, minus zero, rounded to bf16: everywhere in
  /// the paper's cache, and its fake quantizer below 16 bits.
  Bf16Steps,
  /// In f32, rounded once to bf16: its fake quantizer at 16 bits.
  Float32,
};

/// Quantizes one group.
///
/// scale = bf16(bf16(max - min) / (2^bits - 1)), clamped to bf16(1e-5) ..
/// bf16(1e5); code = rint(quotient) clamped, where the quotient is (x - min) /
/// scale in f32 at 16 bits, and with both steps rounded to bf16 below.
///
/// Shapes: values [count], each a finite bf16 value; the paper's group is 128.
/// Units:  bits is 16, 8, 4 or 2.
/// Source: github.com/thu-nics/PM-KVQ at c8a2bff; equations 1 and 2.
PaperGroup quantizePaperGroup(const float *values, int64_t count, int32_t bits);

/// Lowers a group's codes to half their bits by the equivalent shift, and
/// multiplies the scale by 2^b + 1, rounded to bf16.
/// Source: equation 3.
void lowerPaperGroup(PaperGroup &group);

/// Decodes a group to bf16 values.
/// Shapes: result [count].
std::vector<float> decodePaperGroup(const PaperGroup &group,
                                    PaperDecoding decoding);

} // namespace pmkvq::reference

#endif // PMKVQ_REFERENCE_PAPER_H
