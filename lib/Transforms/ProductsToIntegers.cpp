//===- ProductsToIntegers.cpp - Products with codes, of integers ----------===//
//
// Rounds rows before products with codes, and takes the algebra around a
// product into it.  For CPUs: a GPU splits its queries in another way
// (lib/Conversion/SplitQueries.cpp).  Neighbours: FoldParameters.cpp (the pass
// before), lib/Conversion/LowerIntegerProducts.cpp.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_PRODUCTSTOINTEGERS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

static bool multipliesCodes(ContractOp op) {
  TileType tile = op.getTile().getType();
  return tile.getLevel() < 16 &&
         tile.getFormat().getModel().hasLinearGrid(tile.getLevel());
}

/// The op that adds one number a row to `product` and is its only use, or null.
static AddOuterOp addedPerRow(Value product) {
  if (!product.hasOneUse())
    return {};
  auto add = dyn_cast<AddOuterOp>(*product.user_begin());
  DenseFPElementsAttr right;
  if (!add || add.getRows() != product ||
      !matchPattern(add.getRight(), m_Constant(&right)) || !right.isSplat() ||
      !right.getSplatValue<APFloat>().isExactlyValue(1.0))
    return {};
  return add;
}

/// What to add to each row: `added`, if anything, and what rounding lost times
/// the middle of the codes.
static Value biasOf(ImplicitLocOpBuilder &b, Value lost, int64_t level,
                    Value added) {
  auto type = cast<VectorType>(lost.getType());
  auto middle = b.getF32FloatAttr(static_cast<float>((1 << level) - 1) / 2);
  Value codes = arith::ConstantOp::create(
      b, DenseElementsAttr::get(type, static_cast<Attribute>(middle)));
  Value bias = arith::MulFOp::create(b, lost, codes);
  return added ? arith::AddFOp::create(b, added, bias).getResult() : bias;
}

static void takeOfIntegers(ContractOp op) {
  ImplicitLocOpBuilder b(op.getLoc(), op);
  Value rows = op.getRows(), by;
  auto scale = rows.getDefiningOp<ScaleOp>();
  if (scale) {
    rows = scale.getRows();
    by = scale.getBy();
  }
  RowsType type = op.getRows().getType();
  TileType tile = op.getTile().getType();
  auto perRow = VectorType::get({type.getQueries()}, b.getF32Type());
  auto integers =
      IntegerRowsType::get(b.getContext(), type.getQueries(), type.getWidth());
  auto rounded = RoundRowsOp::create(b, integers, perRow, perRow, rows, by);
  AddOuterOp add = addedPerRow(op.getResult());
  if (add)
    b.setInsertionPoint(add);
  Value bias = biasOf(b, rounded.getLost(), tile.getLevel(),
                      add ? add.getLeft() : Value());
  Value product = ContractIntegersOp::create(
      b, op.getType(), rounded.getIntegers(), op.getTile(), rounded.getUnit(),
      bias, op.getAhead());
  if (add) {
    add.replaceAllUsesWith(product);
    add->erase();
  } else {
    op.replaceAllUsesWith(product);
  }
  op->erase();
  if (scale && scale->use_empty())
    scale->erase();
}

namespace {
class ProductsToIntegersPass
    : public mlir::pmkvq::impl::ProductsToIntegersBase<ProductsToIntegersPass> {
public:
  void runOnOperation() override {
    SmallVector<ContractOp> products;
    getOperation()->walk([&](ContractOp op) {
      if (multipliesCodes(op))
        products.push_back(op);
    });
    for (ContractOp op : products)
      takeOfIntegers(op);
    numProducts += products.size();
  }
};
} // namespace
