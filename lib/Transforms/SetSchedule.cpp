//===- SetSchedule.cpp - Set schedule, floors and budget ------------------===//
//
// What the user decides about lowering becomes attributes of the creating ops,
// and the levels that cannot occur leave the types.  Neighbours:
// SetFormats.cpp.
//
//===----------------------------------------------------------------------===//

#include "CacheTypes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "pmkvq/Allocation/Levels.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_SETSCHEDULE
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
class SetSchedulePass
    : public mlir::pmkvq::impl::SetScheduleBase<SetSchedulePass> {
public:
  using SetScheduleBase::SetScheduleBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (budget < 0) {
      module.emitError("expected a budget of at least 0 bytes, got ")
          << int64_t(budget);
      return signalPassFailure();
    }
    auto error = [&] { return module.emitError(); };
    auto attribute = ScheduleAttr::getChecked(
        error, &getContext(), StringAttr::get(&getContext(), schedule),
        int64_t(keyFloor), int64_t(valueFloor));
    if (!attribute)
      return signalPassFailure();

    SmallVector<CreateOp> creates;
    module.walk([&](CreateOp create) { creates.push_back(create); });
    // The attributes first: verifiers compare floors with ladders.
    for (CreateOp create : creates) {
      create.setScheduleAttr(attribute);
      if (budget > 0)
        create.setBudget(budget);
    }
    for (const std::string &text : layerFloors)
      if (failed(setLayers(text, creates)))
        return signalPassFailure();
    SmallVector<ScheduleAttr> schedules;
    for (CreateOp create : creates)
      schedules.push_back(create.getScheduleAttr());
    if (schedules.empty())
      schedules.push_back(attribute);
    narrowLadders(module, schedules);
  }

private:
  /// Gives the layers of one element of `layer-floors` their floors.
  LogicalResult setLayers(const std::string &text, ArrayRef<CreateOp> creates) {
    auto read = ::pmkvq::allocation::parseLayerFloors(text);
    if (!read.ok())
      return getOperation().emitError("layer-floors: ")
             << read.status().message();
    int32_t found = 0;
    for (CreateOp create : creates) {
      auto layer = static_cast<int64_t>(create.getLayer());
      if (layer < read->first || layer > read->last)
        continue;
      ++found;
      create.setScheduleAttr(
          ScheduleAttr::get(&getContext(), create.getScheduleAttr().getName(),
                            read->floor[rt::kKey], read->floor[rt::kValue]));
    }
    if (found != read->last - read->first + 1)
      return getOperation().emitError("layer-floors: expected layers of the "
                                      "program, got '")
             << text << "'";
    return success();
  }
};
} // namespace
