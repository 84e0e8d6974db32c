//===- TileLowering.h - Patterns from tile ops to vector code ---*- C++ -*-===//
//
// One function an op, wrapped into a conversion pattern.  Neighbours:
// TileBuilder.h (the idioms), Lower*.cpp (the functions).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_TILELOWERING_H
#define PMKVQ_LIB_CONVERSION_TILELOWERING_H

#include "TileBuilder.h"
#include "mlir/Transforms/DialectConversion.h"

namespace mlir::pmkvq {

/// Values that replace an op's results.
using Lowered = SmallVector<Value>;

/// Replaces an op by what `Emit` builds from its converted operands.
template <typename OpTy,
          Lowered (*Emit)(TileBuilder &, OpTy, typename OpTy::Adaptor)>
class TilePattern : public OpConversionPattern<OpTy> {
public:
  TilePattern(const TypeConverter &converter, MLIRContext *context,
              int64_t registerBytes = CodeLayout::kVectorBytes)
      : OpConversionPattern<OpTy>(converter, context),
        registerBytes(registerBytes) {}

  LogicalResult
  matchAndRewrite(OpTy op, typename OpTy::Adaptor adaptor,
                  ConversionPatternRewriter &rewriter) const override {
    TileBuilder b(op.getLoc(), rewriter, registerBytes);
    rewriter.replaceOp(op, Emit(b, op, adaptor));
    return success();
  }

private:
  int64_t registerBytes;
};

/// Work lists, pages, fixed areas, rows in memory.
void populateWorkLowerings(RewritePatternSet &patterns,
                           const TypeConverter &converter);
/// Quantize, shift, store, parameters.
void populateCodeLowerings(RewritePatternSet &patterns,
                           const TypeConverter &converter);
/// Products of rows with tiles and vectors.
void populateProductLowerings(RewritePatternSet &patterns,
                              const TypeConverter &converter,
                              int64_t registerBytes);
/// Rows of integers, and products of integers.
void populateIntegerLowerings(RewritePatternSet &patterns,
                              const TypeConverter &converter,
                              int64_t registerBytes);
/// Softmax states.
void populateSoftmaxLowerings(RewritePatternSet &patterns,
                              const TypeConverter &converter,
                              int64_t registerBytes);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_TILELOWERING_H
