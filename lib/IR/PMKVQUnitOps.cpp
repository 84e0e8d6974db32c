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
  SmallVector<Type> expected = {segment, index, index, index};
  if (getBody().getArgumentTypes() != ArrayRef<Type>(expected))
    return emitOpError("(C1) expected a region that takes a segment and three "
                       "indices");
  if (static_cast<int64_t>(getKvHeads()) <= 0)
    return emitOpError("(C2) expected a positive number of kv heads");
  return success();
}

/// Whether `type` is the `part` of a unit of `kind`.
static bool isSide(Type type, Part part, rt::UnitKind kind, int64_t headDim) {
  auto tile = dyn_cast<TileType>(type);
  return tile && tile.getPart() == part &&
         tile.getLevel() ==
             kind.level(part == Part::Key ? rt::kKey : rt::kValue) &&
         tile.getTokens() == kind.tokens() && tile.getHeadDim() == headDim;
}

LogicalResult ForUnitOp::verify() {
  ArrayRef<int64_t> kinds = getKinds();
  if (kinds.empty() || kinds.size() != 2 * getBodies().size())
    return emitOpError("(C1) expected a pair of levels for each of ")
           << getBodies().size() << " regions, got " << kinds.size()
           << " levels";
  int64_t headDim = getInit().getType().getHeadDim();
  for (auto [i, body] : llvm::enumerate(getBodies())) {
    int64_t key = kinds[2 * i], value = kinds[2 * i + 1];
    if (!rt::isLevel(key) || !rt::isLevel(value))
      return emitOpError("(C1) expected levels of 16, 8, 4 or 2, got ")
             << key << " and " << value;
    rt::UnitKind kind = {static_cast<int32_t>(key),
                         static_cast<int32_t>(value)};
    TypeRange types = body.getArgumentTypes();
    if (types.size() != 4 || types[0] != getInit().getType() ||
        !types[1].isIndex() || !isSide(types[2], Part::Key, kind, headDim) ||
        !isSide(types[3], Part::Value, kind, headDim))
      return emitOpError("(C2) expected region ")
             << i << " to take a state, an index, and tiles of "
             << kind.tokens() << " tokens and " << headDim << " dims at levels "
             << kind.key << " and " << kind.value;
    auto yield = cast<YieldOp>(body.front().getTerminator());
    if (yield.getResults().getTypes() != TypeRange(getInit().getType()))
      return yield.emitOpError("(C2) expected to yield the next state");
  }
  return success();
}

LogicalResult StoreLoweredOp::verify() {
  TileType tile = getTile().getType();
  // What ForUnitOp verifies of its regions may not hold yet.
  TypeRange types = getOperation()->getBlock()->getArgumentTypes();
  auto isSource = [&](Type type) {
    auto source = dyn_cast<TileType>(type);
    return source && !source.isRaw() &&
           source.getLevel() == 2 * tile.getLevel() &&
           tile.withLevel(source.getLevel()) == source;
  };
  if (!llvm::any_of(types, isSource))
    return emitOpError("(C1) expected a tile of the region at half its level, "
                       "got ")
           << tile;
  if (tile.getFormat().getModel().rewritesParameters())
    return emitOpError("(C2) expected a format whose parameters are written "
                       "once, got ")
           << tile.getFormat();
  return success();
}

LogicalResult StoreMergedOp::verify() {
  SoftmaxType state = getState().getType();
  auto heads = dyn_cast<MemRefType>(getOut().getType());
  if (!heads || !heads.getLayout().isIdentity() || heads.getRank() != 3 ||
      heads.isDynamicDim(1) || heads.getDimSize(2) != state.getHeadDim() ||
      !heads.getElementType().isF32())
    return emitOpError("(C1) expected a contiguous memref [rows, heads, ")
           << state.getHeadDim() << "] in f32, its heads known, got "
           << getOut().getType();
  if (auto group = static_cast<int64_t>(getGroup());
      group < 1 || state.getQueries() % group)
    return emitOpError("(C1) expected a group that divides ")
           << state.getQueries() << " queries, got " << group;
  return success();
}
