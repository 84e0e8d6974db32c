//===- StepBuilder.h - The tensor ops of a decoder --------------*- C++ -*-===//
//
// Emits what a decoder computes between its caches, one function an idea.
// Neighbours: ImportModel.cpp (who puts them together).
//
// Shapes are [rows, columns] in f32 unless said otherwise.  The row count is
// one SSA value, so that no op reads a size from a tensor that has one use.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_IMPORT_STEPBUILDER_H
#define PMKVQ_LIB_IMPORT_STEPBUILDER_H

#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace mlir::pmkvq {

class StepBuilder {
public:
  explicit StepBuilder(ImplicitLocOpBuilder &builder) : b(builder) {}

  /// Everything that follows has as many rows as `tensor`.
  void setRows(Value tensor);

  /// Rows `ids` of a bf16 or f32 table, as f32.
  /// Shapes: table [any, columns], ids [rows] i32.
  Value gatherRows(Value table, Value ids);

  /// x / sqrt(mean(x^2) + eps) * weight, the mean over the last dimension.
  /// Shapes: x [rows, columns] or [rows, heads, columns], weight [columns]
  /// bf16.
  Value rmsNorm(Value x, Value weight, double eps);

  /// init + x * weight^T.
  /// Shapes: x [rows, k], weight [n, k] bf16, init [rows, n].
  Value linear(Value x, Value weight, Value init);

  /// Zeros, in a new tensor or in the buffer of `into`.
  Value zeros(int64_t columns);
  Value zeros(Value into);

  /// A bias in every row.
  /// Shapes: bias [n] bf16, result [rows, n].
  Value broadcastBias(Value bias);

  /// x + bias, the bias in every row.
  Value addBias(Value x, Value bias);

  /// silu(gate) * up.
  Value swiGLU(Value gate, Value up);

  struct Angles {
    /// [rows, headDim / 2]
    Value cos;
    Value sin;
  };
  /// Cosine and sine of position * frequencies[i], both times `factor`.
  /// Shapes: positions [rows] i32, frequencies [headDim / 2].
  Angles ropeAngles(Value positions, ArrayRef<float> frequencies, float factor);

  /// Turns element i of each head with element i + headDim / 2.
  /// Shapes: x [rows, heads, headDim].
  Value rope(Value x, const Angles &angles);

  /// [rows, heads * headDim] as [rows, heads, headDim], and back.
  Value splitHeads(Value x, int64_t heads);
  Value joinHeads(Value x);

private:
  using Body = function_ref<Value(OpBuilder &, Location, ValueRange)>;

  Value empty(ArrayRef<int64_t> sizes);
  /// One linalg.generic over `init`'s dims, all parallel; each input is indexed
  /// by the dims listed for it.
  Value elementwise(ValueRange inputs, ArrayRef<SmallVector<int64_t>> dims,
                    Value init, Body body);
  Value sumOfSquares(Value x);
  Value inverseRms(Value x, double eps);
  Value half(Value x, bool upper);
  Value withHalf(Value x, Value half, bool upper);
  Value ropeHalf(Value into, Value a, Value b, const Angles &angles,
                 bool upper);

  ImplicitLocOpBuilder &b;
  Value rows;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_IMPORT_STEPBUILDER_H
