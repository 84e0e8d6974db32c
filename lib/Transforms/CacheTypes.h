//===- CacheTypes.h - Cache types of a whole module -------------*- C++ -*-===//
//
// Helpers that planning passes share.  Private to lib/Transforms.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_TRANSFORMS_CACHETYPES_H
#define PMKVQ_LIB_TRANSFORMS_CACHETYPES_H

#include "mlir/IR/AttrTypeSubElements.h"
#include "mlir/IR/BuiltinOps.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Geometry.h"

namespace mlir::pmkvq {

/// Replaces every cache type in `module`, in functions' types as well.
inline void replaceCacheTypes(ModuleOp module,
                              llvm::function_ref<CacheType(CacheType)> with) {
  AttrTypeReplacer replacer;
  replacer.addReplacement(
      [&](CacheType type) -> std::optional<Type> { return with(type); });
  replacer.recursivelyReplaceElementsIn(module, /*replaceAttrs=*/true,
                                        /*replaceLocs=*/false,
                                        /*replaceTypes=*/true);
}

/// Levels that occur anywhere under some schedules: between the highest that a
/// page is written at and the lowest floor.
inline SmallVector<int64_t> ladderUnder(ArrayRef<ScheduleAttr> schedules) {
  int64_t top = ::pmkvq::rt::kLadder.front();
  int64_t high = 0, low = top;
  for (ScheduleAttr schedule : schedules)
    for (Part part : {Part::Key, Part::Value}) {
      int64_t floor = schedule.getFloor(part);
      low = std::min(low, floor);
      high = std::max(high, schedule.getModel().lowers ? top : floor);
    }
  SmallVector<int64_t> ladder;
  for (int64_t level : ::pmkvq::rt::kValueLadder)
    if (level <= high && level >= low)
      ladder.push_back(level);
  return ladder;
}

/// Gives every cache type of `module` the levels that the schedules let occur.
inline void narrowLadders(ModuleOp module, ArrayRef<ScheduleAttr> schedules) {
  SmallVector<int64_t> ladder = ladderUnder(schedules);
  replaceCacheTypes(module, [&](CacheType type) {
    return CacheType::get(type.getContext(), type.getKvHeads(),
                          type.getHeadDim(), type.getKey(), type.getValue(),
                          ladder, type.getSink());
  });
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_TRANSFORMS_CACHETYPES_H
