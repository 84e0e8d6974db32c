//===- OutlineLoops.cpp - One function for equal linalg ops ---------------===//
//
// A step repeats its layers; as one function its loops cost LLVM more than
// linear time.  Outlined, equal ops of all layers become one small function.
// Neighbours: lib/Pipelines/Stages.cpp (before linalg becomes loops).
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/Transforms/RegionUtils.h"
#include "pmkvq/Passes.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/Support/raw_ostream.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_OUTLINELOOPS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;

/// Operands of `op` and what its region takes from outside, each once.
static llvm::SetVector<Value> captures(Operation *op) {
  llvm::SetVector<Value> values(op->operand_begin(), op->operand_end());
  getUsedValuesDefinedAbove(op->getRegions(), values);
  return values;
}

namespace {
class OutlineLoopsPass
    : public mlir::pmkvq::impl::OutlineLoopsBase<OutlineLoopsPass> {
public:
  void runOnOperation() override {
    SmallVector<linalg::LinalgOp> ops;
    for (auto function : getOperation().getOps<func::FuncOp>())
      function.walk([&](linalg::LinalgOp op) {
        if (op.hasPureBufferSemantics())
          ops.push_back(op);
      });
    for (linalg::LinalgOp op : ops)
      outline(op);
  }

private:
  void outline(Operation *op) {
    llvm::SetVector<Value> arguments = captures(op);
    func::FuncOp function = functionFor(op, arguments);
    OpBuilder b(op);
    func::CallOp::create(b, op->getLoc(), function, arguments.getArrayRef());
    op->erase();
  }

  /// The function that does what `op` does.  Candidates are built in full;
  /// their text, without the name, tells whether there is one already.
  func::FuncOp functionFor(Operation *op,
                           const llvm::SetVector<Value> &arguments) {
    ImplicitLocOpBuilder b(UnknownLoc::get(&getContext()), &getContext());
    b.setInsertionPointToEnd(getOperation().getBody());
    SmallVector<Type> types;
    for (Value value : arguments)
      types.push_back(value.getType());
    auto function =
        func::FuncOp::create(b, "candidate", b.getFunctionType(types, {}));
    function.setPrivate();
    // Calls are for sharing: LLVM must not undo them.
    function->setAttr("passthrough", b.getStrArrayAttr({"noinline"}));
    function->setAttr(
        "llvm.linkage",
        LLVM::LinkageAttr::get(&getContext(), LLVM::Linkage::Internal));
    Block *entry = function.addEntryBlock();
    b.setInsertionPointToStart(entry);
    IRMapping mapping;
    for (auto [value, argument] : llvm::zip(arguments, entry->getArguments()))
      mapping.map(value, argument);
    b.clone(*op, mapping);
    func::ReturnOp::create(b);

    std::string text;
    llvm::raw_string_ostream(text) << function;
    auto [it, inserted] = functions.try_emplace(text, function);
    if (!inserted) {
      function.erase();
      return it->second;
    }
    function.setName(("loops_" + Twine(functions.size() - 1)).str());
    ++numFunctions;
    return function;
  }

  llvm::StringMap<func::FuncOp> functions;
};
} // namespace
