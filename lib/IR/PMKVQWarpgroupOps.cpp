//===- PMKVQWarpgroupOps.cpp - Prefill on a GPU ---------------------------===//
//
// Verification of ops on tiles of warpgroups.  Neighbours: PMKVQWarpgroupOps.td
// (the constraints cited here), WarpgroupLayout.h (where the sizes come from).
//
//===----------------------------------------------------------------------===//

#include "VectorSize.h"
#include "mlir/IR/Builders.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/WarpgroupLayout.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
using ::pmkvq::WarpShare;

/// Rows of a lane times its columns.
static constexpr int64_t kAccumulators = 64;

//===----------------------------------------------------------------------===//
// Tile form
//===----------------------------------------------------------------------===//

LogicalResult ForPageOp::verify() {
  TypeRange types = getBody().getArgumentTypes();
  Type state = getInit().getType();
  if (types.size() != 3 || types[0] != state || !isa<PageType>(types[1]) ||
      !types[2].isIndex())
    return emitOpError("(C1) expected a region that takes a state, a page and "
                       "an index");
  auto yield = cast<YieldOp>(getBody().front().getTerminator());
  if (yield.getResults().getTypes() != TypeRange(state))
    return yield.emitOpError("(C2) expected to yield the next state");
  return success();
}

LogicalResult DequantizeOp::verify() {
  if (getResult().getType() != getSource().getType().raw())
    return emitOpError("(C1) expected a result of type ")
           << getSource().getType().raw() << ", got " << getResult().getType();
  return success();
}

//===----------------------------------------------------------------------===//
// The dequantizing warpgroup
//===----------------------------------------------------------------------===//

static WarpShare shareOf(Part part, int64_t level) {
  return WarpShare(part == Part::Key ? rt::kKey : rt::kValue,
                   static_cast<int32_t>(level));
}

/// Vectors `first` .. `first` + `count` of a share, four words each.
static LogicalResult verifyVectors(Operation *op, Part part, int64_t level,
                                   int64_t first, int64_t count, Value words,
                                   StringRef wordsConstraint) {
  if (!rt::isLevel(level))
    return op->emitOpError("(C1) expected a level of 16, 8, 4 or 2, got ")
           << level;
  int64_t all = shareOf(part, level).vectors();
  if (first < 0 || count <= 0 || first + count > all)
    return op->emitOpError("(C1) expected vectors of ")
           << all << ", got " << first << " to " << first + count;
  if (sizeOf(words) != 4 * count)
    return op->emitOpError(wordsConstraint)
           << " expected " << 4 * count << " words, got " << sizeOf(words);
  return success();
}

LogicalResult LoadFragmentsOp::verify() {
  if (failed(verifyVectors(*this, getPart(), getLevel(), getFirst(), getCount(),
                           getWords(), "(C2)")))
    return failure();
  int64_t blocks = shareOf(getPart(), getLevel()).blocks();
  if (static_cast<int64_t>(getBlocks().size()) != blocks)
    return emitOpError("(C2) expected ")
           << blocks << " blocks, got " << getBlocks().size();
  return success();
}

static int64_t groupWords(Part part, int64_t level) {
  return int64_t{8} * shareOf(part, level).columnBlocks();
}

LogicalResult LoadGroupsOp::verify() {
  if (!rt::isLevel(getLevel()) || getLevel() == 16)
    return emitOpError("(C1) expected a level of 8, 4 or 2, got ")
           << getLevel();
  if (getBlock().value_or(0) >= 4)
    return emitOpError("(C1) expected a block below 4, got ") << *getBlock();
  int64_t expected = getBlock() ? 8 : groupWords(getPart(), getLevel());
  if (sizeOf(getWords()) != expected)
    return emitOpError("(C2) expected ")
           << expected << " words, got " << sizeOf(getWords());
  return success();
}

LogicalResult DequantizeFragmentsOp::verify() {
  if (failed(verifyVectors(*this, getPart(), getLevel(), getFirst(), getCount(),
                           getWords(), "(C1)")))
    return failure();
  bool raw = getLevel() == 16;
  if (raw == getFormat().has_value() || raw == static_cast<bool>(getGroups()))
    return emitOpError("(C2) expected a format and groups below level 16, and "
                       "none at it");
  if (raw && getWide())
    return emitOpError("(C2) expected no wide ranges at level 16");
  if (getGroups() && sizeOf(getGroups()) != groupWords(getPart(), getLevel()))
    return emitOpError("(C2) expected ")
           << groupWords(getPart(), getLevel()) << " words of groups, got "
           << sizeOf(getGroups());
  if (raw && (getFirst() % 2 || getCount() % 2))
    return emitOpError("(C3) expected pairs of vectors, got ")
           << getFirst() << " to " << getFirst() + getCount();
  return success();
}

//===----------------------------------------------------------------------===//
// The multiplying warpgroups
//===----------------------------------------------------------------------===//

static LogicalResult verifyAccumulators(Operation *op, Value vector) {
  if (sizeOf(vector) != kAccumulators)
    return op->emitOpError("(C1) expected ")
           << kAccumulators << " accumulators, got " << sizeOf(vector);
  return success();
}

LogicalResult ScoreProductOp::verify() {
  return verifyAccumulators(*this, getRegisters());
}

LogicalResult ValueProductOp::verify() {
  if (sizeOf(getWeights()) * 2 != kAccumulators)
    return emitOpError("(C1) expected ")
           << kAccumulators / 2 << " words of weights, got "
           << sizeOf(getWeights());
  return verifyAccumulators(*this, getOutputs());
}

LogicalResult MaskScoresOp::verify() {
  return verifyAccumulators(*this, getScores());
}

LogicalResult TileSoftmaxOp::verify() {
  return verifyAccumulators(*this, getScores());
}

LogicalResult PackWeightsOp::verify() {
  if (sizeOf(getWeights()) != 2 * sizeOf(getWords()))
    return emitOpError("(C1) expected a word for two of ")
           << sizeOf(getWeights()) << " weights, got " << sizeOf(getWords());
  return success();
}
