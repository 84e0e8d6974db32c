//===- FoldParameters.cpp - Fold parameters out of products ---------------===//
//
// Turns products with tiles that need decoding into products with bare codes
// and algebra that the tile's format gives.  Neighbours: Format.h (offset and
// step), lib/Conversion (which lowers `contract`).
//
// With x[i][j] = offset + step * c[i][j] and groups along the summed axis i:
//   sum_i a[q][i] x[i][j] = sum_i (a[q][i] step[i]) c[i][j]
//                           + sum_i a[q][i] offset[i]
// and along the other axis j:
//   sum_i a[q][i] x[i][j] = step[j] sum_i a[q][i] c[i][j]
//                           + offset[j] sum_i a[q][i]
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_FOLDPARAMETERS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

/// A vector of `size` ones.
static Value ones(ImplicitLocOpBuilder &b, int64_t size) {
  auto type = VectorType::get({size}, b.getF32Type());
  return arith::ConstantOp::create(
      b, DenseElementsAttr::get(type, b.getF32FloatAttr(1.0f)));
}

/// rows x decoded tile, by the equations above.
static Value foldProduct(ImplicitLocOpBuilder &b, Value rows, Value tileValue) {
  auto tile = cast<TileType>(tileValue.getType());
  auto rowsType = cast<RowsType>(rows.getType());
  auto result =
      RowsType::get(b.getContext(), rowsType.getQueries(), tile.getWidth());
  if (tile.isRaw())
    return ContractOp::create(b, result, rows, tileValue);

  FormatAttr format = tile.getFormat();
  const FormatModel &model = format.getModel();
  auto group = VectorType::get({tile.getGroups()}, b.getF32Type());
  auto perRow = VectorType::get({rowsType.getQueries()}, b.getF32Type());
  SmallVector<Type> types(model.getNumParameters(), group);
  auto parameters = LoadParametersOp::create(b, types, tileValue);
  auto [offset, step] =
      model.emitAffine(b, format, parameters.getParameters(), tile.getLevel());
  if (tile.groupsAlongReduction()) {
    Value scaled = ScaleOp::create(b, rows, step);
    Value bias = ReduceOp::create(b, perRow, rows, offset);
    Value product = ContractOp::create(b, result, scaled, tileValue);
    return AddOuterOp::create(b, product, bias, ones(b, tile.getWidth()));
  }
  Value product = ContractOp::create(b, result, rows, tileValue);
  Value scaled = ScaleOp::create(b, product, step);
  Value sums = ReduceOp::create(b, perRow, rows, ones(b, rowsType.getWidth()));
  return AddOuterOp::create(b, scaled, sums, offset);
}

namespace {
class FoldParametersPass
    : public mlir::pmkvq::impl::FoldParametersBase<FoldParametersPass> {
public:
  void runOnOperation() override {
    SmallVector<Operation *> products;
    getOperation()->walk([&](Operation *op) {
      if (isa<ScoresOp, AccumulateOp>(op))
        products.push_back(op);
    });
    for (Operation *op : products) {
      for (Type type : op->getOperandTypes())
        if (auto tile = dyn_cast<TileType>(type);
            tile && tile.hasPartialGroups()) {
          op->emitOpError("not lowered yet: groups smaller than the axis in ")
              << tile;
          return signalPassFailure();
        }
      ImplicitLocOpBuilder b(op->getLoc(), op);
      if (auto scores = dyn_cast<ScoresOp>(op)) {
        scores.replaceAllUsesWith(
            foldProduct(b, scores.getQueries(), scores.getKeys()));
      } else {
        auto accumulate = cast<AccumulateOp>(op);
        Value rows =
            foldProduct(b, accumulate.getWeights(), accumulate.getValues());
        Value state = accumulate.getState();
        accumulate.replaceAllUsesWith(
            SoftmaxAddOp::create(b, state.getType(), state, rows).getNext());
      }
      op->erase();
      ++numFolded;
    }
  }
};
} // namespace
