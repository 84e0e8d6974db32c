//===- SetSchedule.cpp - Set schedule, floors and budget ------------------===//
//
// What the user decides about lowering becomes attributes of the creating ops,
// and the levels that cannot occur leave the types.  Neighbours:
// SetFormats.cpp.
//
//===----------------------------------------------------------------------===//

#include "CacheTypes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "pmkvq/Passes.h"
#include "pmkvq_rt/Geometry.h"

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

    SmallVector<int64_t> ladder = levelsUnder(attribute.getModel());
    // The attributes first: verifiers compare floors with ladders.
    module.walk([&](CreateOp create) {
      create.setScheduleAttr(attribute);
      if (budget > 0)
        create.setBudget(budget);
    });
    replaceCacheTypes(module, [&](CacheType type) {
      return CacheType::get(type.getContext(), type.getKvHeads(),
                            type.getHeadDim(), type.getKey(), type.getValue(),
                            ladder, type.getSink());
    });
  }

private:
  /// Levels between the highest that a page is written at and the lower floor.
  SmallVector<int64_t> levelsUnder(const ScheduleModel &model) {
    int64_t high = model.lowers ? int64_t{rt::kLadder.front()}
                                : std::max<int64_t>(keyFloor, valueFloor);
    int64_t low = std::min(keyFloor, valueFloor);
    SmallVector<int64_t> ladder;
    for (int64_t level : rt::kLadder)
      if (level <= high && level >= low)
        ladder.push_back(level);
    return ladder;
  }
};
} // namespace
