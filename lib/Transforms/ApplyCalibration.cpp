//===- ApplyCalibration.cpp - A layer's clips become its type's -----------===//
//
// Changes the cache types of single layers, and lets keys of all fall with
// feedback.  Neighbours: SetFormats.cpp (which chooses the formats of all),
// lib/Conversion/VerifyProgram.cpp (which lets layers differ in clips).
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_APPLYCALIBRATION
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

/// The type of a create's cache with the clips that calibration found and, if
/// `feedback`, keys that fall with it where there is what it takes.
static CacheType calibratedType(CreateOp create, bool feedback) {
  CacheType type = create.getCache().getType();
  CalibrationAttr calibration = create.getCalibrationAttr();
  auto calibrated = [&](Part part) {
    FormatAttr format = type.getFormat(part);
    FloatAttr clip = calibration.getClip(part);
    return clip ? format.withClip(clip.getValueAsDouble()) : format;
  };
  FormatAttr key = calibrated(Part::Key);
  if (feedback && calibration.getQuerySquares() && key.canFeedBack())
    key = key.withFeedback(true);
  return type.withFormats(key, calibrated(Part::Value));
}

/// Gives a cache, and every cache that appends make of it, another type.
static LogicalResult retype(Value cache, CacheType type) {
  cache.setType(type);
  for (OpOperand &use : cache.getUses()) {
    Operation *user = use.getOwner();
    if (auto append = dyn_cast<AppendOp>(user)) {
      if (failed(retype(append.getResult(), type)))
        return failure();
    } else if (!isa<AttendOp, func::ReturnOp>(user)) {
      return user->emitOpError("takes a calibrated cache; expected only "
                               "append, attend and return to");
    }
  }
  return success();
}

/// Makes a function's type what its body says.
static void updateType(func::FuncOp function) {
  for (Block &block : function.getBody())
    if (auto end = dyn_cast<func::ReturnOp>(block.getTerminator()))
      function.setType(FunctionType::get(function.getContext(),
                                         function.getBody().getArgumentTypes(),
                                         end.getOperandTypes()));
}

namespace {
class ApplyCalibrationPass
    : public mlir::pmkvq::impl::ApplyCalibrationBase<ApplyCalibrationPass> {
public:
  using ApplyCalibrationBase::ApplyCalibrationBase;

  void runOnOperation() override {
    SmallVector<CreateOp> creates;
    getOperation().walk([&](CreateOp create) { creates.push_back(create); });
    auto step = getOperation().lookupSymbol<func::FuncOp>("step");
    SmallVector<Value> arguments;
    if (step && !step.isDeclaration())
      for (BlockArgument argument : step.getArguments())
        if (isa<CacheType>(argument.getType()))
          arguments.push_back(argument);
    // Kernels are those of all layers.
    fallsBelow8 = llvm::any_of(creates, [](CreateOp create) {
      return create.getSchedule() && create.getSchedule()->getKeyFloor() < 8;
    });
    for (auto [i, create] : llvm::enumerate(creates))
      if (create.getCalibration() && failed(apply(create, i, arguments, step)))
        return signalPassFailure();
  }

private:
  LogicalResult apply(CreateOp create, size_t index, ArrayRef<Value> arguments,
                      func::FuncOp step) {
    if (!create.getCache().getType().isPlanned())
      return create.emitOpError("expected a cache with formats; run "
                                "pmkvq-set-formats first");
    CacheType type = calibratedType(create, feedback && fallsBelow8);
    if (type == create.getCache().getType())
      return success();
    if (step && index >= arguments.size())
      return step.emitOpError("expected one cache a create, got ")
             << arguments.size();
    if (failed(retype(create.getCache(), type)) ||
        (step && failed(retype(arguments[index], type))))
      return failure();
    if (auto function = create->getParentOfType<func::FuncOp>())
      updateType(function);
    if (step)
      updateType(step);
    ++numLayers;
    return success();
  }

  bool fallsBelow8 = false;
};
} // namespace
