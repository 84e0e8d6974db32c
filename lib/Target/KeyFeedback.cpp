//===- KeyFeedback.cpp - What keys of a layer fall with -------------------===//
//
// See KeyFeedback.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/KeyFeedback.h"
#include "pmkvq_rt/Abi.h"

#include <algorithm>
#include <numeric>

using namespace pmkvq;

namespace {
/// A symmetric matrix in double precision.
class Matrix {
public:
  explicit Matrix(int64_t size) : size(size), elements(size * size) {}
  double &at(int64_t row, int64_t column) {
    return elements[row * size + column];
  }

private:
  int64_t size;
  std::vector<double> elements;
};
} // namespace

/// 1 where the bits that both numbers have are even in number, else -1.
static double walsh(uint64_t a, uint64_t b) {
  uint64_t both = a & b;
  bool odd = false;
  for (; both; both &= both - 1)
    odd = !odd;
  return odd ? -1.0 : 1.0;
}

/// R diag(weights) R, R the normalized Walsh-Hadamard transform of blocks: the
/// element at (i, j) of a block depends on i xor j alone.
static Matrix rotateDiagonal(const std::vector<double> &weights) {
  const auto size = static_cast<int64_t>(weights.size());
  const int64_t block = size & -size;
  Matrix result(size);
  for (int64_t first = 0; first < size; first += block)
    for (int64_t bits = 0; bits < block; ++bits) {
      double sum = 0;
      for (int64_t k = 0; k < block; ++k)
        sum += walsh(bits, k) * weights[first + k];
      for (int64_t i = 0; i < block; ++i)
        result.at(first + i, first + (i ^ bits)) =
            sum / static_cast<double>(block);
    }
  return result;
}

std::vector<float> pmkvq::keyFeedbackFactor(const float *squares,
                                            int64_t headDim) {
  double mean = std::accumulate(squares, squares + headDim, 0.0) /
                static_cast<double>(headDim);
  std::vector<double> weights;
  for (int64_t i = 0; i < headDim; ++i)
    weights.push_back(mean > 0 ? mean / (squares[i] + kFeedbackDamping * mean)
                               : 1.0);
  Matrix rest = rotateDiagonal(weights);
  std::vector<float> factor(headDim * headDim);
  // Gaussian elimination: a column of L, then what it leaves of the matrix.
  for (int64_t i = 0; i < headDim; ++i) {
    factor[i * headDim + i] = 1.0f;
    for (int64_t j = i + 1; j < headDim; ++j) {
      double ratio = rest.at(j, i) / rest.at(i, i);
      factor[j * headDim + i] = static_cast<float>(ratio);
      for (int64_t k = i + 1; k < headDim; ++k)
        rest.at(j, k) -= ratio * rest.at(i, k);
    }
  }
  return factor;
}

std::vector<float> pmkvq::keyFeedbackOfLayer(const float *squares,
                                             int64_t kvHeads, int64_t headDim,
                                             double offset, double step) {
  std::vector<float> layer(kvHeads * rt::keyFeedbackFloats(headDim));
  auto place = layer.begin();
  for (int64_t head = 0; head < kvHeads; ++head) {
    place[rt::kKeyFeedbackOffset] = static_cast<float>(offset);
    place[rt::kKeyFeedbackStep] = static_cast<float>(step);
    std::vector<float> factor =
        keyFeedbackFactor(squares + head * headDim, headDim);
    std::copy(factor.begin(), factor.end(), place + rt::kKeyFeedbackFactor);
    place += rt::keyFeedbackFloats(headDim);
  }
  return layer;
}
