//===- PMKVQUnitOps.cpp - Units of a GPU ----------------------------------===//
//
// Verification of segments and units.  Neighbours: PMKVQUnitOps.td (the
// constraints cited here).
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/Builders.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Units.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

LogicalResult ForSegmentOp::verify() {
  auto index = IndexType::get(getContext());
  Type segment = SegmentType::get(getContext());
  SmallVector<Type> expected = {segment, index, index};
  if (getBody().getArgumentTypes() != ArrayRef<Type>(expected))
    return emitOpError("(C1) expected a region that takes a segment and two "
                       "indices");
  return success();
}

/// Whether `tile` is the `part` of a unit of `kind`.
static bool isSide(Type type, Part part, rt::UnitKind kind) {
  auto tile = dyn_cast<TileType>(type);
  return tile && tile.getPart() == part &&
         tile.getLevel() ==
             kind.level(part == Part::Key ? rt::kKey : rt::kValue) &&
         tile.getTokens() == kind.tokens();
}

LogicalResult ForUnitOp::verify() {
  ArrayRef<int64_t> kinds = getKinds();
  if (kinds.empty() || kinds.size() != 2 * getBodies().size())
    return emitOpError("(C1) expected a pair of levels for each of ")
           << getBodies().size() << " regions, got " << kinds.size()
           << " levels";
  for (auto [i, body] : llvm::enumerate(getBodies())) {
    rt::UnitKind kind = {static_cast<int32_t>(kinds[2 * i]),
                         static_cast<int32_t>(kinds[2 * i + 1])};
    if (!rt::isLevel(kind.key) || !rt::isLevel(kind.value))
      return emitOpError("(C1) expected levels of 16, 8, 4 or 2, got ")
             << kind.key << " and " << kind.value;
    if ((kind.key == 16) != (kind.value == 16))
      return emitOpError("(C3) expected both sides of a unit at level 16 or "
                         "neither, got keys at ")
             << kind.key << " and values at " << kind.value;
    TypeRange types = body.getArgumentTypes();
    if (types.size() != 4 || types[0] != getInit().getType() ||
        !types[1].isIndex() || !isSide(types[2], Part::Key, kind) ||
        !isSide(types[3], Part::Value, kind))
      return emitOpError("(C2) expected region ")
             << i << " to take a state, an index, and tiles of "
             << kind.tokens() << " tokens at levels " << kind.key << " and "
             << kind.value;
    auto yield = cast<YieldOp>(body.front().getTerminator());
    if (yield.getResults().getTypes() != TypeRange(getInit().getType()))
      return yield.emitOpError("(C2) expected to yield the next state");
  }
  return success();
}
