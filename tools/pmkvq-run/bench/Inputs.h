//===- Inputs.h - Numbers that attention is tried on ------------*- C++ -*-===//
//
// Named kinds of content, from what models have to what breaks kernels.
// Neighbours: Shape.h (who names them), Case.h (who makes them).
//
// Normal content has queries and raw values of about 1, minima of -2.5 .. -1
// and ranges of 3 .. 5.  Others differ in:
//
//   outliers   four channels of 128 of the keys lie at 300 and -300.  A product
//              with them is hundreds of times the differences that decide the
//              softmax
//   tiny       keys and values of 1e-6: minima and ranges are fp16 denormals.
//              Weights times such numbers leave fp16
//   huge       keys and values of 12,000, so that ranges reach 60,000 where
//              fp16 ends at 65,504; queries make up for it.  Sums of a few
//              weighted values leave fp16.  Where nothing is quantized, values
//              of 1e30: below 3e38 / tokens, which sums of weights may reach
//   hundreds, thousands, myriads
//              ranges of keys and values are of that size (225 to 375, and ten
//              times as much); queries make up for it.  A step of a code in a
//              fixed unit leaves f16 somewhere between
//   sharp      keys of 10, queries of 50: scores are hundreds apart, so that
//              weights of one page leave f32 under the maximum of those before
//   constant   every other group has range 0
//   nan        a query, a raw key and a raw value are no numbers: their results
//              must be none, all others right
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_INPUTS_H
#define PMKVQ_TOOLS_RUN_BENCH_INPUTS_H

#include <cstdint>
#include <string>

namespace pmkvq::bench {

struct Inputs {
  const char *name = "normal";
  /// Factors of normal content; the last of values where nothing is quantized.
  double queries = 1, keys = 1, values = 1, rawValues = 1;
  /// Added to channels of keys, see keyOffset.
  double outlier = 0;
  bool constantGroups = false;
  bool notNumbers = false;
  /// Few scores are near the largest, and rounding decides between them.
  bool sharpScores = false;

  /// Of groups of keys and values at most; Case.cpp draws up to 5.
  double largestRange() const { return 5 * (keys > values ? keys : values); }
  /// What is added to channel `dim` of keys, quantized or raw.
  double keyOffset(int64_t dim) const {
    constexpr int64_t every = 32, first = 5;
    if (dim % every != first)
      return 0;
    return dim / every % 2 ? -outlier : outlier;
  }
};

/// Null if there is none of that name.
inline const Inputs *findInputs(const std::string &name) {
  static constexpr Inputs all[] = {
      {},
      {"outliers", 1, 1, 1, 1, 300},
      {"tiny", 1, 1e-6, 1e-6, 1e-6},
      {"huge", 1 / 1.2e4, 1.2e4, 1.2e4, 1e30},
      {"hundreds", 1 / 75.0, 75, 75, 75},
      {"thousands", 1 / 750.0, 750, 750, 750},
      {"myriads", 1 / 7500.0, 7500, 7500, 7500},
      {"sharp", 50, 9, 1, 1, 0, false, false, /*sharpScores=*/true},
      {"constant", 1, 1, 1, 1, 0, /*constantGroups=*/true},
      {"nan", 1, 1, 1, 1, 0, false, /*notNumbers=*/true}};
  for (const Inputs &inputs : all)
    if (name == inputs.name)
      return &inputs;
  return nullptr;
}

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_INPUTS_H
