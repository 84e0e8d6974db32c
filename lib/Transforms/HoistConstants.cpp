//===- HoistConstants.cpp - Constants of formats leave the products -------===//
//
// Moves constant factors of steps and offsets behind products with codes, where
// they cost one multiplication a result or nothing at all.  Neighbours:
// FoldParameters.cpp (runs before), lib/Conversion (lowers what is left).
//
// With step = r * c and offset = m + r * d, c and d constants of the format:
//   sum_i (a[i] step[i]) code[i]  =  c * sum_i (a[i] r[i]) code[i]
//   sum_i a[i] offset[i]          =  sum_i a[i] m[i] + d * sum_i (a[i] r[i])
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_HOISTCONSTANTS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

/// The splat constant behind `value`, if it is one.
static std::optional<APFloat> splatOf(Value value) {
  DenseFPElementsAttr attr;
  if (!matchPattern(value, m_Constant(&attr)) || !attr.isSplat())
    return std::nullopt;
  return attr.getSplatValue<APFloat>();
}

/// value = vector * constant.
struct ConstantProduct {
  Value vector;
  APFloat factor;
};

static std::optional<ConstantProduct> matchProduct(Value value) {
  auto mul = value.getDefiningOp<arith::MulFOp>();
  if (!mul)
    return std::nullopt;
  if (auto factor = splatOf(mul.getRhs()))
    return ConstantProduct{mul.getLhs(), *factor};
  if (auto factor = splatOf(mul.getLhs()))
    return ConstantProduct{mul.getRhs(), *factor};
  return std::nullopt;
}

/// vector * factor, or the vector as it is.
struct Term {
  Value vector;
  std::optional<APFloat> factor;
};

static void addTerms(Value value, SmallVectorImpl<Term> &terms) {
  if (auto product = matchProduct(value)) {
    for (Term &term : terms)
      if (term.vector == product->vector && term.factor) {
        *term.factor = *term.factor + product->factor;
        return;
      }
    terms.push_back({product->vector, product->factor});
    return;
  }
  auto sum = value.getDefiningOp<arith::AddFOp>();
  if (!sum || (!matchProduct(sum.getLhs()) && !matchProduct(sum.getRhs()))) {
    terms.push_back({value, std::nullopt});
    return;
  }
  addTerms(sum.getLhs(), terms);
  addTerms(sum.getRhs(), terms);
}

/// The terms of a sum of vectors times constants; none if there is no constant.
static SmallVector<Term> termsOf(Value value) {
  SmallVector<Term> terms;
  addTerms(value, terms);
  if (llvm::none_of(terms, [](const Term &term) { return term.factor; }))
    terms.clear();
  return terms;
}

static Value splat(ImplicitLocOpBuilder &b, int64_t size,
                   const APFloat &value) {
  auto type = VectorType::get({size}, b.getF32Type());
  return arith::ConstantOp::create(b, DenseElementsAttr::get(type, value));
}

namespace {
class HoistConstantsPass
    : public mlir::pmkvq::impl::HoistConstantsBase<HoistConstantsPass> {
public:
  void runOnOperation() override {
    // Each kind is collected before any of it is erased.
    SmallVector<ContractOp> contracts;
    SmallVector<ReduceOp> reductions;
    SmallVector<AddOuterOp> sums;
    getOperation()->walk([&](ContractOp op) { contracts.push_back(op); });
    getOperation()->walk([&](ReduceOp op) { reductions.push_back(op); });
    getOperation()->walk([&](AddOuterOp op) { sums.push_back(op); });
    for (ContractOp op : contracts)
      hoistStep(op);
    for (ReduceOp op : reductions)
      splitOffset(op);
    for (AddOuterOp op : sums)
      splitOuter(op);
    SmallVector<ScaleOp> scales;
    getOperation()->walk([&](ScaleOp op) { scales.push_back(op); });
    for (ScaleOp op : scales)
      splitScale(op);
  }

private:
  /// contract(scale(a, r * c)) = scale(contract(scale(a, r)), c).
  void hoistStep(ContractOp contract) {
    auto scale = contract.getRows().getDefiningOp<ScaleOp>();
    if (!scale)
      return;
    auto product = matchProduct(scale.getBy());
    if (!product)
      return;
    ImplicitLocOpBuilder b(contract.getLoc(), contract);
    Value rows = ScaleOp::create(b, scale.getRows(), product->vector);
    auto type = contract.getType();
    Value bare = ContractOp::create(b, type, rows, contract.getTile());
    Value scaled =
        ScaleOp::create(b, bare, splat(b, type.getWidth(), product->factor));
    contract.replaceAllUsesWith(scaled);
    contract.erase();
    ++numHoisted;
  }

  /// scale(a, r * c) = scale(scale(a, r), c).
  void splitScale(ScaleOp scale) {
    auto product = matchProduct(scale.getBy());
    if (!product)
      return;
    ImplicitLocOpBuilder b(scale.getLoc(), scale);
    Value first = ScaleOp::create(b, scale.getRows(), product->vector);
    Value second = ScaleOp::create(
        b, first, splat(b, scale.getType().getWidth(), product->factor));
    scale.replaceAllUsesWith(second);
    scale.erase();
    ++numHoisted;
  }

  /// x + l (m + r * d)^T = x + l m^T + (l * d) r^T.
  void splitOuter(AddOuterOp add) {
    SmallVector<Term> terms = termsOf(add.getRight());
    if (terms.empty())
      return;
    ImplicitLocOpBuilder b(add.getLoc(), add);
    Value left = add.getLeft(), sum = add.getRows();
    for (const Term &term : terms) {
      Value by = left;
      if (term.factor)
        by = arith::MulFOp::create(
            b, left,
            splat(b, cast<VectorType>(left.getType()).getNumElements(),
                  *term.factor));
      sum = AddOuterOp::create(b, sum, by, term.vector);
      numHoisted += term.factor ? 1 : 0;
    }
    add.replaceAllUsesWith(sum);
    add.erase();
  }

  /// reduce(a, m + r * d) = reduce(a, m) + d * reduce(scale(a, r), ones).
  void splitOffset(ReduceOp reduce) {
    SmallVector<Term> terms = termsOf(reduce.getBy());
    if (terms.empty())
      return;
    ImplicitLocOpBuilder b(reduce.getLoc(), reduce);
    Type type = reduce.getType();
    int64_t width = cast<VectorType>(reduce.getBy().getType()).getNumElements();
    Value sum;
    for (const Term &term : terms) {
      Value part;
      if (term.factor) {
        Value scaled = ScaleOp::create(b, reduce.getRows(), term.vector);
        part =
            ReduceOp::create(b, type, scaled, splat(b, width, APFloat(1.0f)));
        part = arith::MulFOp::create(
            b, part,
            splat(b, cast<VectorType>(type).getNumElements(), *term.factor));
        ++numHoisted;
      } else {
        part = ReduceOp::create(b, type, reduce.getRows(), term.vector);
      }
      sum = sum ? Value(arith::AddFOp::create(b, sum, part)) : part;
    }
    reduce.replaceAllUsesWith(sum);
    reduce.erase();
  }
};
} // namespace
