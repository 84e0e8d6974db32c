//===- AffineForm.cpp - A format's algebra as numbers ---------------------===//
//
// See AffineForm.h.
//
//===----------------------------------------------------------------------===//

#include "AffineForm.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Matchers.h"
#include "pmkvq/Formats/Format.h"
#include <array>
#include <optional>

using namespace mlir;
using namespace mlir::pmkvq;

namespace {
/// Coefficients of the two parameters, then a constant.
using Form = std::array<double, 3>;

class Reader {
public:
  explicit Reader(ValueRange parameters) : parameters(parameters) {}

  std::optional<Form> read(Value value) {
    for (auto [i, parameter] : llvm::enumerate(parameters))
      if (value == parameter) {
        Form form = {};
        form[i] = 1.0;
        return form;
      }
    DenseFPElementsAttr constant;
    if (matchPattern(value, m_Constant(&constant)) && constant.isSplat())
      return Form{0, 0, constant.getSplatValue<APFloat>().convertToFloat()};
    if (auto op = value.getDefiningOp<arith::AddFOp>())
      return combine(op.getLhs(), op.getRhs(), 1.0);
    if (auto op = value.getDefiningOp<arith::SubFOp>())
      return combine(op.getLhs(), op.getRhs(), -1.0);
    if (auto op = value.getDefiningOp<arith::MulFOp>())
      return multiply(op.getLhs(), op.getRhs());
    return std::nullopt;
  }

private:
  static bool isConstant(const Form &form) {
    return form[0] == 0 && form[1] == 0;
  }

  std::optional<Form> combine(Value left, Value right, double sign) {
    auto a = read(left), b = read(right);
    if (!a || !b)
      return std::nullopt;
    for (size_t i = 0; i < a->size(); ++i)
      (*a)[i] += sign * (*b)[i];
    return a;
  }

  std::optional<Form> multiply(Value left, Value right) {
    auto a = read(left), b = read(right);
    if (!a || !b || (!isConstant(*a) && !isConstant(*b)))
      return std::nullopt;
    if (isConstant(*a))
      std::swap(a, b);
    for (double &coefficient : *a)
      coefficient *= (*b)[2];
    return a;
  }

  ValueRange parameters;
};
} // namespace

FailureOr<AffineForm> mlir::pmkvq::affineForm(Operation *op, FormatAttr format,
                                              int64_t level) {
  auto refuse = [&]() -> FailureOr<AffineForm> {
    op->emitOpError("has a format whose elements are no minimum plus a range "
                    "times the code: ")
        << format;
    return failure();
  };
  const FormatModel &model = format.getModel();
  if (model.getNumParameters() != 2 || !model.hasLinearGrid(level) ||
      model.getParameterType() != ParameterType::F16)
    return refuse();
  OwningOpRef<ModuleOp> scratch = ModuleOp::create(op->getLoc());
  OpBuilder at = OpBuilder::atBlockBegin(scratch->getBody());
  ImplicitLocOpBuilder b(op->getLoc(), at);
  auto type = VectorType::get({1}, b.getF32Type());
  Block block;
  block.addArguments({type, type}, {b.getLoc(), b.getLoc()});
  FormatModel::Affine affine =
      model.emitAffine(b, format, block.getArguments(), level);
  Reader reader(block.getArguments());
  std::optional<Form> offset = reader.read(affine.offset);
  std::optional<Form> step = reader.read(affine.step);
  // Ops of the scratch module use the block's arguments.
  scratch->erase();
  scratch.release();
  if (!offset || !step || (*offset)[2] != 0 || (*step)[0] != 0 ||
      (*step)[2] != 0)
    return refuse();
  return AffineForm{{(*offset)[0], (*offset)[1]}, (*step)[1]};
}
