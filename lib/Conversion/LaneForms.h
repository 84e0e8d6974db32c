//===- LaneForms.h - Values of the tile form, as a lane has them *- C++ -*-===//
//
// What stands for rows, parameters and weights while a unit is lowered.
// Neighbours: LaneForms.cpp, UnitLowering.cpp (who keeps them).  Private to
// lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_LANEFORMS_H
#define PMKVQ_LIB_CONVERSION_LANEFORMS_H

#include "LaneBuilder.h"

namespace mlir::pmkvq {

/// Elements as product * factor + bias; null factors are 1, null biases 0.
struct Affine {
  LaneBuilder::Values products, factors, bias;

  /// Each element times a factor of its own.
  void multiply(LaneBuilder &b, function_ref<Value(size_t)> factor);
  void addBias(LaneBuilder &b, function_ref<Value(size_t)> more);
  /// Factors and biases times `by`, each distinct one once; none is null then.
  void scaleFactors(LaneBuilder &b, Value by);
};

/// The lane form of a value of the tile form.
struct Lanes {
  enum Form {
    /// Queries as a B operand: words of two f16, or of two bf16.
    Queries,
    /// Elements of scores or outputs.
    Elements,
    /// Weights after the softmax, maybe with the ranges that scale them.
    Weights,
    /// Parameters in the queries' order, words of two f16.
    PerChannel,
    /// Parameters of tokens g and g + 8, one word a block of 16.
    PerToken,
    /// A number a query.
    Scalars,
    /// Codes that stay where they lie in shared memory.
    Codes,
    /// A constant, the same for all elements.
    Constant
  } form;
  explicit Lanes(Form form = Constant) : form(form) {}

  /// Queries: an operand a set in f16, one for each part in bf16.
  SmallVector<LaneBuilder::Values> words;
  /// [query of the lane]
  SmallVector<Affine> elements;
  LaneBuilder::Values scalars;
  /// Parameters, or what scales weights (empty: nothing).
  LaneBuilder::Values parameters;
  double constant = 0.0;
  /// Queries once they are split, scaled weights once they are repacked: B
  /// operands, [query] what turns sums back and, of weights, sums.
  LaneBuilder::Values columns, scales, sums;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_LANEFORMS_H
