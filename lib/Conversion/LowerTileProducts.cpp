//===- LowerTileProducts.cpp - Products of tiles as wgmma -----------------===//
//
// Lowers score_product, value_product, multiply_operands and await_products.
// Neighbours: PMKVQWarpgroupOps.td, PMKVQOperandOps.td, WarpgroupLayout.h
// (tiles).
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "WarpgroupBuilder.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/WarpgroupLayout.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERTILEPRODUCTS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
using ::pmkvq::HalfTile;

/// Elements of the summed axis that one instruction takes, and instructions.
static constexpr int64_t kDepth = 16, kSteps = HalfTile::kColumns / kDepth;

/// A tile's descriptor at step `step`; descriptors count 16 bytes.
static Value stepOf(WarpgroupBuilder &b, Value descriptor, int64_t step) {
  constexpr int64_t kStepsPerHalf = HalfTile::kHalfColumns / kDepth;
  int64_t bytes = step / kStepsPerHalf * HalfTile::kHalfBytes +
                  step % kStepsPerHalf * kDepth * 2;
  return b.add(descriptor, bytes / 16);
}

static SmallVector<Value> scoreProduct(LaneBuilder &lanes, ScoreProductOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  // Eight descriptors that do not change would take as many registers.
  Value queries = b.forget(b.descriptor(op.getQueries()));
  Value keys = b.descriptor(op.getKeys());
  Values sums = b.unpack(op.getRegisters());
  b.fenceProducts();
  for (int64_t step = 0; step < kSteps; ++step) {
    Value rows = stepOf(b, queries, step);
    sums = b.multiplyShared(sums, rows, stepOf(b, keys, step),
                            /*fresh=*/step == 0);
  }
  b.commitProducts();
  return {b.pack(sums)};
}

static SmallVector<Value> valueProduct(LaneBuilder &lanes, ValueProductOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  Value values = b.descriptor(op.getValues());
  Values sums = b.unpack(op.getOutputs());
  Values weights = b.unpack(op.getWeights());
  b.fenceProducts();
  for (int64_t step = 0; step < kSteps; ++step)
    sums = b.multiplyRegisters(
        sums, ArrayRef<Value>(weights).slice(static_cast<size_t>(step) * 4, 4),
        stepOf(b, values, step));
  b.commitProducts();
  return {b.pack(sums)};
}

/// Both products of 64 rows with two steps of columns.
static SmallVector<Value> multiplyOperands(LaneBuilder &lanes,
                                           MultiplyOperandsOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  constexpr int64_t kStepsPerBlock = 2, kRegisters = 4;
  auto n = cast<VectorType>(op.getNext().getType()).getNumElements();
  const auto count = static_cast<size_t>(n / 2);
  // A row of the right operand is as long as one of a tile; there are fewer.
  // What is added to it is computed here, where both are uniform.
  Value rows = b.forget(b.descriptor(op.getRows()));
  const int64_t halfBytes = n * HalfTile::kRowBytes;
  const auto block = static_cast<int64_t>(op.getBlock());
  Values operands = b.hold(b.unpack(op.getLeft()));
  Values before;
  if (Value accumulators = op.getAccumulators())
    before = b.unpack(accumulators);
  Values sums[] = {{}, {}};
  for (size_t m = 0; m < 2 && !before.empty(); ++m)
    sums[m] = Values(ArrayRef<Value>(before).slice(m * count, count));
  b.fenceProducts();
  for (int64_t step = 0; step < kStepsPerBlock; ++step) {
    int64_t bytes = block / 2 * halfBytes +
                    (block % 2 * kStepsPerBlock + step) * kDepth * 2;
    Value right = b.add(rows, bytes / 16);
    for (size_t m = 0; m < 2; ++m) {
      auto left = ArrayRef<Value>(operands).slice(
          (m * kStepsPerBlock + static_cast<size_t>(step)) * kRegisters,
          kRegisters);
      sums[m] = sums[m].empty() ? b.multiplyRegisters(count, left, right)
                                : b.multiplyRegisters(sums[m], left, right);
    }
  }
  b.commitProducts();
  // Operands of two blocks have room in registers.
  b.limitProducts(1);
  llvm::append_range(sums[0], sums[1]);
  return {b.pack(sums[0])};
}

static SmallVector<Value> awaitProducts(LaneBuilder &lanes,
                                        AwaitProductsOp op) {
  WarpgroupBuilder b(op.getLoc(), lanes);
  return {b.pack(b.awaitProducts(b.unpack(op.getRegisters()),
                                 static_cast<int64_t>(op.getPending())))};
}

namespace {
class LowerTileProductsPass
    : public mlir::pmkvq::impl::LowerTileProductsBase<LowerTileProductsPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<ScoreProductOp>(getOperation(), scoreProduct);
    replaceEach<ValueProductOp>(getOperation(), valueProduct);
    replaceEach<MultiplyOperandsOp>(getOperation(), multiplyOperands);
    replaceEach<AwaitProductsOp>(getOperation(), awaitProducts);
  }
};
} // namespace
