//===- PMKVQOps.cpp - Ops on whole caches ---------------------------------===//
//
// Verification of the upper floor.
// Neighbours: PMKVQOps.td (the constraints cited here), PMKVQTileOps.cpp.
//
//===----------------------------------------------------------------------===//

#include "VerifyShifts.h"
#include "mlir/IR/Builders.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Abi.h"
#include <algorithm>
#include <limits>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

LogicalResult WeightOp::verify() {
  auto type = dyn_cast<RankedTensorType>(getType());
  if (!type || !type.hasStaticShape() || !type.getElementType().isBF16())
    return emitOpError("(C1) expected a static bf16 tensor, got ") << getType();
  std::optional<int64_t> row = getFirstRow();
  if (row && type.getRank() == 0)
    return emitOpError("(C3) expected a weight with rows, got ") << type;
  if (row && *row < 0)
    return emitOpError("(C3) expected a first row of at least 0, got ") << *row;
  if (std::optional<ArrayRef<int8_t>> exponents = getScaleRows()) {
    int64_t rows = type.getRank() ? type.getDimSize(0) : 0;
    if (static_cast<int64_t>(exponents->size()) != rows)
      return emitOpError("(C4) expected an exponent for each of ")
             << rows << " rows, got " << exponents->size();
  }
  if (!getRotations())
    return success();
  for (auto rotation : getRotations()->getAsRange<RotationAttr>()) {
    if (rotation.getDim() >= type.getRank())
      return emitOpError("(C2) rotation of dimension ")
             << rotation.getDim() << ", but the weight has rank "
             << type.getRank();
    int64_t size = type.getDimSize(rotation.getDim());
    if (size % rotation.getBlock())
      return emitOpError("(C2) expected a rotation block that divides ")
             << size << ", got " << rotation.getBlock();
  }
  return success();
}

LogicalResult GetWeightOp::verifySymbolUses(SymbolTableCollection &symbols) {
  auto weight =
      symbols.lookupNearestSymbolFrom<WeightOp>(*this, getWeightAttr());
  if (!weight)
    return emitOpError("(C1) expected a pmkvq.weight named '")
           << getWeight() << "', there is none";
  auto declared = cast<ShapedType>(weight.getType());
  auto used = cast<ShapedType>(getResult().getType());
  if (declared.getShape() != used.getShape() ||
      declared.getElementType() != used.getElementType())
    return emitOpError("(C1) expected the weight's type ")
           << declared << ", got " << used;
  return success();
}

//===----------------------------------------------------------------------===//
// Caches
//===----------------------------------------------------------------------===//

/// What the layers up to this one say of themselves, as far as it is known.
static rt::ProgramInfo describe(CreateOp create) {
  CacheType type = create.getCache().getType();
  std::optional<ScheduleAttr> schedule = create.getSchedule();
  rt::ProgramInfo info = {};
  // The verifiers of types and ops keep all of these small.
  auto cut = [](int64_t value) { return static_cast<int32_t>(value); };
  info.layers =
      cut(std::min<int64_t>(create.getLayer(), rt::kMaxLayers - 1) + 1);
  info.kvHeads = cut(type.getKvHeads());
  info.headDim = cut(type.getHeadDim());
  info.sinkTokens = cut(type.getSink());
  info.maxPositions = cut(create.getMaxTokens());
  for (Part part : {Part::Key, Part::Value}) {
    auto i = static_cast<int32_t>(part);
    // Floors of other layers are not known here; the ladder's end is below all.
    info.floor[i] = cut(type.getLevels(part).back());
    if (schedule)
      info.layerFloor[info.layers - 1][i] =
          static_cast<uint8_t>(schedule->getFloor(part));
    if (type.isPlanned())
      info.parameterBytes[i] = cut(type.getParameterBytes(part));
  }
  return info;
}

static LogicalResult verifyBudget(CreateOp create) {
  int64_t least = rt::firstPageBytes(describe(create));
  auto budget = static_cast<int64_t>(*create.getBudget());
  if (budget >= least)
    return success();
  return create.emitOpError("(C6) the budget of ")
         << budget << " bytes lacks " << least - budget
         << ": one sequence up to its first page takes " << least
         << " in layers 0 to " << create.getLayer();
}

static LogicalResult verifySquares(CreateOp create) {
  CacheType type = create.getCache().getType();
  CalibrationAttr calibration = create.getCalibrationAttr();
  DenseF32ArrayAttr squares =
      calibration ? calibration.getQuerySquares() : DenseF32ArrayAttr();
  int64_t expected = type.getKvHeads() * type.getHeadDim();
  if (squares && squares.size() != expected)
    return create.emitOpError("(C7) expected ")
           << expected << " query_squares, got " << squares.size();
  if (!squares && type.isPlanned() && type.getKey().getFeedback())
    return create.emitOpError("(C7) expected a calibration with query_squares "
                              "for keys that fall with feedback");
  return success();
}

static LogicalResult verifyShares(CreateOp create) {
  CalibrationAttr calibration = create.getCalibrationAttr();
  if (!calibration || !calibration.getPageShares())
    return success();
  int64_t kvHeads = create.getCache().getType().getKvHeads();
  int64_t shares = calibration.getPageShares().size();
  if (shares > 0 && shares % kvHeads == 0 && shares / kvHeads <= rt::kLossAges)
    return success();
  return create.emitOpError("(C8) expected page_shares of 1 to ")
         << rt::kLossAges << " pages for each of " << kvHeads
         << " kv heads, got " << shares;
}

static LogicalResult verifyLosses(CreateOp create) {
  auto schedule = create.getSchedule();
  if (!schedule || !schedule->getModel().needsLosses ||
      !create.getCache().getType().isPlanned())
    return success();
  CalibrationAttr calibration = create.getCalibrationAttr();
  for (Part part : {Part::Key, Part::Value})
    if (!calibration || !calibration.getLoss(part))
      return create.emitOpError("(C9) expected a calibration with the losses "
                                "of ")
             << stringifyPart(part) << "s for the schedule "
             << schedule->getName().getValue();
  if (schedule->getValueFloor() == 1 &&
      calibration.getValueLoss().size() < rt::kLossLevels)
    return create.emitOpError("(C9) expected a calibration with the losses of "
                              "values at 1 bit for the floor of 1");
  return success();
}

LogicalResult CreateOp::verify() {
  if (static_cast<int64_t>(getLayer()) < 0)
    return emitOpError("(C1) expected a layer of at least 0, got ")
           << static_cast<int64_t>(getLayer());
  constexpr int64_t maxTokens = std::numeric_limits<int32_t>::max();
  if (getMaxTokens() == 0 || getMaxTokens() > maxTokens)
    return emitOpError("(C1) expected max_tokens of 1 to ")
           << maxTokens << ", got " << static_cast<int64_t>(getMaxTokens());
  if (getBudget() && static_cast<int64_t>(*getBudget()) <= 0)
    return emitOpError("(C2) expected a budget of at least 1 byte, got ")
           << static_cast<int64_t>(*getBudget());
  if (auto schedule = getSchedule())
    for (Part part : {Part::Key, Part::Value})
      if (!getCache().getType().hasLevel(part, schedule->getFloor(part)))
        return emitOpError("(C3) the ladder does not hold the ")
               << stringifyPart(part) << " floor " << schedule->getFloor(part);
  if (getCache().getType().isPlanned() && !getSchedule())
    return emitOpError("(C4) expected a schedule for a planned cache");
  if (getCache().getType().isPlanned())
    for (Part part : {Part::Key, Part::Value})
      if (failed(verifyShifts(*this, "(C5)",
                              getCache().getType().getFormat(part), 16,
                              getSchedule()->getFloor(part))))
        return failure();
  if (failed(verifySquares(*this)) || failed(verifyShares(*this)) ||
      failed(verifyLosses(*this)))
    return failure();
  return getBudget() ? verifyBudget(*this) : success();
}

/// Whether `type` is [?, heads, head_dim] in f32.  Kernels are shared by steps
/// of any number of rows.
static bool isHeads(ShapedType type, int64_t headDim) {
  return type.getRank() == 3 && type.getElementType().isF32() &&
         type.isDynamicDim(0) && type.getDimSize(2) == headDim;
}

LogicalResult AppendOp::verify() {
  CacheType cache = getCache().getType();
  auto key = cast<ShapedType>(getKey().getType());
  if (!isHeads(key, cache.getHeadDim()) ||
      key.getDimSize(1) != cache.getKvHeads())
    return emitOpError("(C1) expected keys and values of [?, ")
           << cache.getKvHeads() << ", " << cache.getHeadDim()
           << "] in f32, got " << key;
  return success();
}

LogicalResult AttendOp::verify() {
  CacheType cache = getCache().getType();
  auto query = cast<ShapedType>(getQuery().getType());
  if (!isHeads(query, cache.getHeadDim()))
    return emitOpError("(C1) expected queries of [?, query_heads, ")
           << cache.getHeadDim() << "] in f32, got " << query;
  int64_t heads = query.getDimSize(1);
  constexpr int64_t maxGroup = 16;
  if (heads <= 0 || heads % cache.getKvHeads() ||
      heads / cache.getKvHeads() > maxGroup)
    return emitOpError("(C2) expected 1 to ")
           << maxGroup << " query heads for each of " << cache.getKvHeads()
           << " kv heads, got " << heads << " query heads";
  return success();
}

LogicalResult FlushOp::verify() {
  CacheType cache = getCaches().getType();
  if (!cache.hasLevel(getPart(), getTo()))
    return emitOpError("(C1) the ladder does not hold level ")
           << static_cast<int64_t>(getTo());
  if (!cache.isPlanned())
    return emitOpError("(C2) expected a cache with formats");
  return verifyShifts(*this, "(C3)", cache.getFormat(getPart()), 16, getTo());
}

LogicalResult RequantizeOp::verify() {
  CacheType cache = getCaches().getType();
  int64_t from = getFrom(), to = getTo();
  if (to * 2 != from)
    return emitOpError("(C1) expected a level of half of ")
           << from << ", got " << to;
  for (int64_t level : {from, to})
    if (!cache.hasLevel(getPart(), level))
      return emitOpError("(C2) the ladder does not hold level ") << level;
  if (!cache.isPlanned())
    return emitOpError("(C3) expected a cache with formats");
  return verifyShifts(*this, "(C4)", cache.getFormat(getPart()), from, to);
}
