//===- UniformFormat.h - Asymmetric uniform quantization --------*- C++ -*-===//
//
// The algebra that per_channel and per_token share: minimum and range in fp16,
// 8-bit codes, shifts, clip at 2 bits.  Neighbours: Format.h (the interface),
// lib/Reference/Quantize.cpp (the same arithmetic as a specification).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_FORMATS_UNIFORMFORMAT_H
#define PMKVQ_FORMATS_UNIFORMFORMAT_H

#include "pmkvq/Formats/Format.h"

namespace mlir::pmkvq {

/// code8 = rint(((x - min) * 255) / range), in IEEE single precision.
/// Parameters: min, rounded down to fp16; range = max - min, rounded up.
/// Shifts: 8 -> 4 is round(code / 17) as (241 * (code + 8)) >> 12 (PM-KVQ,
/// arXiv 2505.18610, equation 3); 4 -> 2 is code >> 2, the nearest level of the
/// clipped grid min + range * ((1 - clip) / 2 + clip * code / 3).  2 -> 1 is
/// code >> 1; its two values lie kSpreadAtLevel1 of the range apart, around the
/// middle: best for a normal distribution (Max 1960) whose range is that of 64
/// to 128 samples.
class UniformFormat : public FormatModel {
public:
  static constexpr double kSpreadAtLevel1 = 0.32;

  unsigned getNumParameters() const override { return 2; }
  Parameters emitParameters(ImplicitLocOpBuilder &b, FormatAttr format,
                            Value min, Value max) const override;
  Value emitCode(ImplicitLocOpBuilder &b, FormatAttr format, Value x,
                 ValueRange parameters) const override;
  Value emitShift(ImplicitLocOpBuilder &b, FormatAttr format, Value codes,
                  int64_t from) const override;
  bool hasRanges() const override { return true; }
  PartsOfRange getPartsOfRange(FormatAttr format, int64_t level) const override;
  Affine emitAffine(ImplicitLocOpBuilder &b, FormatAttr format,
                    ValueRange parameters, int64_t level) const override;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_FORMATS_UNIFORMFORMAT_H
