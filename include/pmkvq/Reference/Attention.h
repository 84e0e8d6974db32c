//===- Attention.h - Attention in double precision --------------*- C++ -*-===//
//
// The result that every attention kernel is measured against: exact softmax
// over decoded keys and values.  Neighbours: Cache.h (what is decoded),
// Hadamard.h (rotations).
//
// Rotations.  If keys are stored rotated, the query is rotated too, and every
// score stays what it was.  If values are stored rotated, so is the weighted
// sum, and it is rotated back.  Both are exact up to rounding.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_REFERENCE_ATTENTION_H
#define PMKVQ_REFERENCE_ATTENTION_H

#include "pmkvq/Reference/Cache.h"

#include <cstdint>
#include <vector>

namespace pmkvq::reference {

/// Which of the stored arrays are rotated.
struct Rotations {
  bool keys = false;
  bool values = false;
};

/// Attention of one query over the first `visible` tokens of decoded arrays:
/// output = sum_t softmax_t(scale * query . key_t) value_t.
///
/// Shapes: query [headDim], keys and values [>= visible][headDim], output
///         [headDim] (may not overlap the others).
/// Units:  query and output are never rotated; scale multiplies the scores,
///         usually 1 / sqrt(headDim).  visible 0 gives zeros.
void attend(const double *query, const double *keys, const double *values,
            int64_t visible, int64_t headDim, double scale, Rotations rotations,
            double *output);

/// Causal attention of the newest `rows` tokens of a sequence over its cache,
/// which holds these tokens already: row r sees all tokens up to its own, the
/// first `tokens - rows + r + 1`.
///
/// Shapes: queries and result [rows][queriesPerRow][headDim].
/// Errors: none; rows must be at most the sequence's tokens.
std::vector<double> attend(const Cache &cache, int32_t layer, int32_t sequence,
                           int32_t head, const std::vector<double> &queries,
                           int64_t rows, int64_t queriesPerRow, double scale);

} // namespace pmkvq::reference

#endif // PMKVQ_REFERENCE_ATTENTION_H
