//===- Attention.cpp - Attention in double precision ----------------------===//
//
// Scores, softmax, weighted sum, each in one plain loop.  Neighbours:
// Attention.h (shapes), Hadamard.cpp (rotations).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/Attention.h"
#include "pmkvq/Reference/Hadamard.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace pmkvq::reference {
namespace {

/// Replaces scores by weights that sum to one.
void softmax(std::vector<double> &scores) {
  double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double &score : scores)
    sum += score = std::exp(score - maximum);
  for (double &score : scores)
    score /= sum;
}

double dot(const double *a, const double *b, int64_t size) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i)
    sum += a[i] * b[i];
  return sum;
}

} // namespace

void attend(const double *query, const double *keys, const double *values,
            int64_t visible, int64_t headDim, double scale, Rotations rotations,
            double *output) {
  std::fill(output, output + headDim, 0.0);
  if (visible == 0)
    return;
  std::vector<double> q(query, query + headDim);
  if (rotations.keys)
    rotate(q.data(), headDim);
  std::vector<double> weights(visible);
  for (int64_t token = 0; token < visible; ++token)
    weights[token] = scale * dot(q.data(), keys + token * headDim, headDim);
  softmax(weights);
  for (int64_t token = 0; token < visible; ++token)
    for (int64_t channel = 0; channel < headDim; ++channel)
      output[channel] += weights[token] * values[token * headDim + channel];
  if (rotations.values)
    rotate(output, headDim);
}

std::vector<double> attend(const Cache &cache, int32_t layer, int32_t sequence,
                           int32_t head, const std::vector<double> &queries,
                           int64_t rows, int64_t queriesPerRow, double scale) {
  int64_t headDim = cache.shape().headDim;
  int64_t tokens = cache.tokens(sequence);
  assert(rows <= tokens && "rows that are not in the cache");
  assert(static_cast<int64_t>(queries.size()) ==
         rows * queriesPerRow * headDim);
  std::vector<double> keys = cache.decode(layer, sequence, head, rt::kKey);
  std::vector<double> values = cache.decode(layer, sequence, head, rt::kValue);
  Rotations rotations{cache.format(rt::kKey).hadamard,
                      cache.format(rt::kValue).hadamard};
  std::vector<double> result(queries.size());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t query = 0; query < queriesPerRow; ++query) {
      int64_t offset = (row * queriesPerRow + query) * headDim;
      attend(queries.data() + offset, keys.data(), values.data(),
             tokens - rows + row + 1, headDim, scale, rotations,
             result.data() + offset);
    }
  return result;
}

} // namespace pmkvq::reference
