//===- FoldValueRotation.cpp - Rotate weights instead of values -----------===//
//
// Moves the Walsh-Hadamard rotation of values into the linear layers before
// `append` and after `attend`.  Neighbours: PMKVQOps.td (`pmkvq.weight`, whose
// rotations are applied when the weight table is made).
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_FOLDVALUEROTATION
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

namespace {
/// A weight and the dimension that a rotation applies to.
struct Target {
  WeightOp weight;
  int64_t dim;
};

class FoldValueRotationPass
    : public mlir::pmkvq::impl::FoldValueRotationBase<FoldValueRotationPass> {
public:
  void runOnOperation() override {
    getOperation().walk([&](AppendOp append) { foldAppend(append); });
    getOperation().walk([&](AttendOp attend) { foldAttend(attend); });
  }

private:
  static bool rotates(CacheType cache) {
    return cache.isPlanned() && cache.getValue().getHadamard();
  }

  /// The weight that `value` reads, if it is the only one who does and nothing
  /// is done to the weight yet.
  WeightOp soleWeight(Value value) {
    auto get = value.getDefiningOp<GetWeightOp>();
    if (!get || !get->hasOneUse())
      return {};
    auto weight = SymbolTable::lookupNearestSymbolFrom<WeightOp>(
        get, get.getWeightAttr());
    auto uses = SymbolTable::getSymbolUses(weight, getOperation());
    bool isSole = uses && llvm::hasSingleElement(*uses) &&
                  !weight.getRotations() && !weight.getScaleRows();
    return isSole ? weight : WeightOp();
  }

  /// Whether `linear` is x times w transposed: outputs are dimension 0 of w.
  static bool isLinear(linalg::MatmulOp linear) {
    AffineExpr m, n, k;
    MLIRContext *context = linear.getContext();
    bindDims(context, m, n, k);
    return linear.getIndexingMapsArray() ==
           SmallVector<AffineMap>{AffineMap::get(3, 0, {m, k}, context),
                                  AffineMap::get(3, 0, {n, k}, context),
                                  AffineMap::get(3, 0, {m, n}, context)};
  }

  /// Whether `op` gives its only input, widened, along its last dimension.
  static bool isBroadcast(linalg::GenericOp op) {
    if (op.getNumDpsInputs() != 1 || op.getNumDpsInits() != 1 ||
        op.getNumReductionLoops() != 0 || op.getNumLoops() == 0)
      return false;
    auto last =
        AffineMap::get(op.getNumLoops(), 0,
                       getAffineDimExpr(op.getNumLoops() - 1, op.getContext()));
    Value result = op.getBody()->getTerminator()->getOperand(0);
    auto widened = result.getDefiningOp<arith::ExtFOp>();
    return widened && widened.getIn() == op.getBody()->getArgument(0) &&
           op.getIndexingMapsArray()[0] == last &&
           op.getIndexingMapsArray()[1].isIdentity();
  }

  /// Whether `init` adds nothing, or a bias whose weight joins `targets`.
  bool traceInit(Value init, SmallVectorImpl<Target> &targets) {
    if (auto fill = init.getDefiningOp<linalg::FillOp>())
      return matchPattern(fill.getInputs()[0], m_AnyZeroFloat());
    auto broadcast = init.getDefiningOp<linalg::GenericOp>();
    if (!broadcast || !isBroadcast(broadcast))
      return false;
    WeightOp bias = soleWeight(broadcast.getDpsInputs()[0]);
    if (!bias || cast<ShapedType>(bias.getType()).getRank() != 1)
      return false;
    targets.push_back({bias, 0});
    return true;
  }

  void rotate(ArrayRef<Target> targets, int64_t headDim) {
    int64_t block = headDim & -headDim; // largest power of two dividing it
    for (Target target : targets) {
      auto rotation = RotationAttr::get(&getContext(), target.dim, block);
      target.weight.setRotationsAttr(ArrayAttr::get(&getContext(), {rotation}));
    }
  }

  void foldAppend(AppendOp append) {
    CacheType cache = append.getCache().getType();
    auto heads = append.getValue().getDefiningOp<tensor::ExpandShapeOp>();
    if (!rotates(cache) || append.getValuesRotated() || !heads ||
        !heads->hasOneUse())
      return;
    auto linear = heads.getSrc().getDefiningOp<linalg::MatmulOp>();
    if (!linear || !linear->hasOneUse() || !isLinear(linear))
      return;
    SmallVector<Target> targets;
    WeightOp weight = soleWeight(linear.getDpsInputs()[1]);
    if (!weight || !traceInit(linear.getDpsInits()[0], targets))
      return;
    targets.push_back({weight, 0});
    rotate(targets, cache.getHeadDim());
    append.setValuesRotated(true);
    ++numAppends;
  }

  void foldAttend(AttendOp attend) {
    CacheType cache = attend.getCache().getType();
    if (!rotates(cache) || attend.getResultRotated() || !attend->hasOneUse())
      return;
    auto flat = dyn_cast<tensor::CollapseShapeOp>(*attend->user_begin());
    if (!flat || !flat->hasOneUse())
      return;
    auto linear = dyn_cast<linalg::MatmulOp>(*flat->user_begin());
    if (!linear || linear.getDpsInputs()[0] != flat.getResult() ||
        !isLinear(linear))
      return;
    WeightOp weight = soleWeight(linear.getDpsInputs()[1]);
    if (!weight)
      return;
    rotate({{weight, 1}}, cache.getHeadDim());
    attend.setResultRotated(true);
    ++numAttends;
  }
};
} // namespace
