//===- KeyFeedback.h - What keys of a layer fall with -----------*- C++ -*-===//
//
// Makes what kernels read when keys fall with feedback, of what calibration
// found of queries.  Neighbours: pmkvq_rt/Abi.h (where it lies),
// Reference/Quantize.h (what is done with it).
//
// Mental model.  A score's error is that of a key times a query.  Of rotated
// keys and queries whose channels have mean squares s before rotation by R, its
// mean square is e^T (R diag(s) R) e, and what the later elements of e are best
// at, given the first ones, the inverse's triangular factor says:
//
//   L D L^T = R diag(1 / (s + damping)) R,   e_j = -sum L[j][i] e_i over i < j
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_KEYFEEDBACK_H
#define PMKVQ_TARGET_KEYFEEDBACK_H

#include <cstdint>
#include <vector>

namespace pmkvq {

/// Damping, as a part of the mean of squares: queries that are hardly there in
/// a calibration may be in use.
inline constexpr double kFeedbackDamping = 0.1;

/// L of one kv head, whose strictly lower part is used.
///
/// Shapes: squares [headDim]; the result [headDim][headDim].
/// Units:  any: the factor is that of all multiples of the squares.  Squares
///         that are all 0 count as equal.
/// Source: GPTQ (arXiv 2210.17323).
std::vector<float> keyFeedbackFactor(const float *squares, int64_t headDim);

/// What Abi.h calls a layer's key feedback.
///
/// Shapes: squares [kvHeads][headDim]; the result
///         [kvHeads][rt::keyFeedbackFloats(headDim)].
/// Units:  offset and step as parts of a range, at 2 bits.
std::vector<float> keyFeedbackOfLayer(const float *squares, int64_t kvHeads,
                                      int64_t headDim, double offset,
                                      double step);

} // namespace pmkvq

#endif // PMKVQ_TARGET_KEYFEEDBACK_H
