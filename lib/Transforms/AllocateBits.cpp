//===- AllocateBits.cpp - Floors of layers under the budget ---------------===//
//
// Asks the integer program which levels lose least and makes them the floors.
// Neighbours: pmkvq/Allocation/Levels.h (the program), SetSchedule.cpp (floors
// that the user gives), ApplyCalibration.cpp (what else calibration decides).
//
//===----------------------------------------------------------------------===//

#include "CacheTypes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "pmkvq/Allocation/Levels.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_ALLOCATEBITS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
namespace allocation = ::pmkvq::allocation;

/// The sizes that a budget is made of.
static rt::ProgramInfo sizesOf(ArrayRef<CreateOp> creates) {
  CreateOp create = creates.front();
  CacheType type = create.getCache().getType();
  auto cut = [](int64_t value) { return static_cast<int32_t>(value); };
  rt::ProgramInfo info = {};
  info.layers = cut(static_cast<int64_t>(creates.size()));
  info.kvHeads = cut(type.getKvHeads());
  info.headDim = cut(type.getHeadDim());
  info.sinkTokens = cut(type.getSink());
  info.maxPositions = cut(static_cast<int64_t>(create.getMaxTokens()));
  for (Part part : {Part::Key, Part::Value}) {
    info.parameterBytes[static_cast<int>(part)] =
        cut(type.getParameterBytes(part));
    info.floor[static_cast<int>(part)] = rt::kLadder.back();
  }
  return info;
}

/// A plan for sequences that have so many tokens cached at their end.
static allocation::Workload makeWorkload(ArrayRef<CreateOp> creates,
                                         ArrayRef<int64_t> tokens) {
  allocation::Workload workload;
  workload.info = sizesOf(creates);
  workload.session.budgetBytes =
      static_cast<int64_t>(*CreateOp(creates.front()).getBudget());
  workload.session.maxSequences = static_cast<int32_t>(tokens.size());
  for (auto [i, count] : llvm::enumerate(tokens)) {
    workload.session.plans.push_back({static_cast<int32_t>(i), count, 1});
    workload.session.maxTokens = std::max(workload.session.maxTokens, count);
  }
  return workload;
}

/// The levels that a part of a layer may be at, and their losses.
static allocation::PartChoice choiceOf(CreateOp create, Part part, bool kept) {
  FormatAttr format = create.getCache().getType().getFormat(part);
  auto floor = static_cast<int32_t>(create.getScheduleAttr().getFloor(part));
  allocation::PartChoice choice;
  choice.lowest =
      static_cast<int32_t>(format.getLastLevel(rt::kLadder.front(), floor));
  choice.highest = kept ? choice.lowest : rt::kLadder.front();
  CalibrationAttr calibration = create.getCalibrationAttr();
  if (DenseF64ArrayAttr loss =
          calibration ? calibration.getLoss(part) : DenseF64ArrayAttr())
    llvm::copy(loss.asArrayRef(), choice.loss.begin() + 1);
  return choice;
}

namespace {
class AllocateBitsPass
    : public mlir::pmkvq::impl::AllocateBitsBase<AllocateBitsPass> {
public:
  using AllocateBitsBase::AllocateBitsBase;

  void runOnOperation() override {
    SmallVector<CreateOp> creates;
    getOperation().walk([&](CreateOp create) { creates.push_back(create); });
    if (creates.empty())
      return;
    for (auto [layer, create] : llvm::enumerate(creates))
      if (failed(verifyCreate(create, creates.front(), layer)))
        return signalPassFailure();
    SmallVector<int64_t> lengths(tokens.begin(), tokens.end());
    if (lengths.empty())
      lengths.push_back(static_cast<int64_t>(creates.front().getMaxTokens()));
    allocation::Workload workload = makeWorkload(creates, lengths);
    if (allocation::countPageHeads(workload) == 0)
      return; // Windows hold all: no floor matters.
    if (failed(allocate(creates, workload)))
      signalPassFailure();
  }

private:
  bool isKept(CreateOp create) {
    return llvm::is_contained(keep, static_cast<int64_t>(create.getLayer()));
  }

  LogicalResult verifyCreate(CreateOp create, CreateOp first, size_t layer) {
    if (!create.getCache().getType().isPlanned() || !create.getScheduleAttr())
      return create.emitOpError("expected a cache with formats and a schedule; "
                                "run pmkvq-set-schedule and pmkvq-set-formats "
                                "first");
    if (!create.getBudget() || create.getBudgetAttr() != first.getBudgetAttr())
      return create.emitOpError(
          "expected a budget, the same for all layers, to allocate");
    if (create.getLayer() != layer)
      return create.emitOpError("expected layers in order, here ")
             << layer << ", got " << create.getLayer();
    CalibrationAttr calibration = create.getCalibrationAttr();
    for (Part part : {Part::Key, Part::Value})
      if (!isKept(create) && !(calibration && calibration.getLoss(part)))
        return create.emitOpError(
                   "expected a calibration with the loss of the ")
               << stringifyPart(part) << " in layer " << layer
               << ", got none; give one or keep the layer's floors";
    return success();
  }

  LogicalResult allocate(ArrayRef<CreateOp> creates,
                         const allocation::Workload &workload) {
    allocation::Choices choices;
    for (CreateOp create : creates)
      choices.push_back({choiceOf(create, Part::Key, isKept(create)),
                         choiceOf(create, Part::Value, isKept(create))});
    rt::Result<int64_t> blocks = allocation::blocksForPages(workload);
    if (!blocks.ok())
      return getOperation().emitError("tokens: ") << blocks.status().message();
    rt::Result<allocation::Levels> levels =
        allocation::allocateLevels(choices, *blocks);
    if (!levels.ok())
      return CreateOp(creates.front()).emitOpError("the budget is too small: ")
             << levels.status().message();
    SmallVector<ScheduleAttr> schedules;
    for (auto [made, level] : llvm::zip_equal(creates, *levels)) {
      CreateOp create = made;
      ScheduleAttr old = create.getScheduleAttr();
      numRaised += (level[rt::kKey] > old.getKeyFloor()) +
                   (level[rt::kValue] > old.getValueFloor());
      create.setScheduleAttr(ScheduleAttr::get(
          &getContext(), old.getName(), level[rt::kKey], level[rt::kValue]));
      schedules.push_back(create.getScheduleAttr());
    }
    narrowLadders(getOperation(), schedules);
    return success();
  }
};
} // namespace
