//===- PMKVQOperandOps.cpp - Decoding many tokens on a GPU ----------------===//
//
// Verification of ops on operands of warpgroups.  Neighbours:
// PMKVQOperandOps.td (the constraints cited here), WarpgroupLayout.h (where the
// sizes come from).
//
//===----------------------------------------------------------------------===//

#include "VectorSize.h"
#include "mlir/IR/Builders.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/WarpgroupLayout.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
using ::pmkvq::OperandShare;
using ::pmkvq::SharedRowsLayout;

/// Words of a block of 32 columns: two products, two halves, four registers.
static constexpr int64_t kOperandWords = 16;
/// A lane's rows, 2 m + u, and factors and offsets of as many tokens.
static constexpr int64_t kRows = 4, kFolding = 2 * kRows;
/// Words of a block's groups.
static constexpr int64_t kBlockGroupWords = 8;

static LogicalResult verifyBlock(Operation *op, uint64_t block) {
  if (block < static_cast<uint64_t>(OperandShare::kColumnBlocks))
    return success();
  return op->emitOpError("(C1) expected a block below ")
         << OperandShare::kColumnBlocks << ", got " << block;
}

/// What a lane has of n columns of queries.
static LogicalResult verifyColumns(Operation *op, int64_t n,
                                   StringRef constraint) {
  if (n > 0 && n <= SharedRowsLayout::kMaxRows &&
      n % SharedRowsLayout::kRowStep == 0)
    return success();
  return op->emitOpError(constraint)
         << " expected a multiple of " << SharedRowsLayout::kRowStep
         << " queries up to " << SharedRowsLayout::kMaxRows << ", got " << n;
}

/// That `vector` has `expected` elements.
static LogicalResult verifySize(Operation *op, Value vector, int64_t expected,
                                StringRef what) {
  if (sizeOf(vector) == expected)
    return success();
  return op->emitOpError("(C1) expected ")
         << expected << " " << what << ", got " << sizeOf(vector);
}

/// Exponents of a lane's four rows, if there are any.
static LogicalResult verifyExponents(Operation *op,
                                     std::optional<ArrayRef<int32_t>> exponents,
                                     int32_t most, StringRef constraint) {
  if (!exponents ||
      (exponents->size() == kRows && llvm::all_of(*exponents, [&](int32_t x) {
         return x >= 0 && x <= most;
       })))
    return success();
  return op->emitOpError(constraint)
         << " expected " << kRows << " exponents of 0 to " << most;
}

LogicalResult DecodeOperandsOp::verify() {
  if (!rt::isLevel(getLevel()))
    return emitOpError("(C1) expected a level of 16, 8, 4 or 2, got ")
           << getLevel();
  if (failed(verifyBlock(*this, getBlock())))
    return failure();
  OperandShare share(getPart() == Part::Key ? rt::kKey : rt::kValue,
                     static_cast<int32_t>(getLevel()));
  if (failed(verifySize(*this, getWords(), share.words(), "words of codes")))
    return failure();
  const bool bare = getLevel() == 16 || getExponents();
  if (bare == getFormat().has_value() || bare == static_cast<bool>(getGroups()))
    return emitOpError("(C2) expected a format and groups below level 16 "
                       "without exponents, and none elsewhere");
  if (bare && getWide())
    return emitOpError("(C2) expected no wide ranges at level 16 or with "
                       "exponents");
  if (getGroups() && sizeOf(getGroups()) != kBlockGroupWords)
    return emitOpError("(C2) expected ")
           << kBlockGroupWords << " words of groups, got "
           << sizeOf(getGroups());
  if (sizeOf(getLeft()) != kOperandWords)
    return emitOpError("(C3) expected ")
           << kOperandWords << " words of operands, got " << sizeOf(getLeft());
  return verifyExponents(*this, getExponents(), /*most=*/6, "(C4)");
}

LogicalResult MultiplyOperandsOp::verify() {
  if (failed(
          verifySize(*this, getLeft(), kOperandWords, "words of operands")) ||
      failed(verifyBlock(*this, getBlock())))
    return failure();
  if (Value added = getAccumulators();
      added && added.getType() != getNext().getType())
    return emitOpError("(C2) expected as many accumulators as results, got ")
           << sizeOf(added) << " and " << sizeOf(getNext());
  return verifyColumns(*this, sizeOf(getNext()), "(C2)");
}

LogicalResult MaskColumnsOp::verify() {
  if (failed(verifyColumns(*this, sizeOf(getScores()), "(C1)")))
    return failure();
  return verifySize(*this, getVisible(), sizeOf(getScores()) / 4,
                    "numbers of tokens");
}

LogicalResult LargestOfColumnsOp::verify() {
  if (failed(verifyColumns(*this, sizeOf(getScores()), "(C1)")))
    return failure();
  return verifySize(*this, getLargest(), sizeOf(getScores()) / 4, "maxima");
}

LogicalResult WeighColumnsOp::verify() {
  const int64_t n = sizeOf(getScores());
  if (failed(verifyColumns(*this, n, "(C1)")) ||
      failed(verifySize(*this, getMaxima(), n / 4, "maxima")))
    return failure();
  if (failed(verifySize(*this, getWords(), n / 2, "words of weights")))
    return failure();
  if (static_cast<int64_t>(getFactors().size()) != kRows)
    return emitOpError("(C1) expected ")
           << kRows << " factors, got " << getFactors().size();
  const int64_t folding = getFolding() ? sizeOf(getFolding()) : 0;
  const int64_t sums = getOffsetSums() ? sizeOf(getOffsetSums()) : 0;
  if (folding == (sums ? kFolding : 0) && sums == (folding ? n / 4 : 0))
    return success();
  return emitOpError("(C2) expected ")
         << kFolding << " of folding and " << n / 4
         << " offset sums, or none of either, got " << folding << " and "
         << sums;
}

LogicalResult StoreWeightsOp::verify() {
  return verifyColumns(*this, 2 * sizeOf(getWords()), "(C1)");
}

LogicalResult MergeWarpgroupsOp::verify() {
  const auto queries = static_cast<int64_t>(getGroup() * getRows());
  if (queries < 1 || queries > SharedRowsLayout::kMaxRows)
    return emitOpError("(C1) expected 1 to ")
           << SharedRowsLayout::kMaxRows << " queries, got " << queries;
  const int64_t n = SharedRowsLayout::of(queries).rows;
  if (failed(verifySize(*this, getMaxima(), n / 4, "maxima")) ||
      failed(verifySize(*this, getOutputs(), n, "outputs")))
    return failure();
  if (getOffsets() && failed(verifySize(*this, getOffsets(), n / 4, "offsets")))
    return failure();
  if (static_cast<bool>(getOffsets()) != getExponents().has_value())
    return emitOpError("(C3) expected exponents with offsets, and no others");
  if (failed(verifyExponents(*this, getExponents(), /*most=*/30, "(C3)")))
    return failure();
  if (getOffsets() && n > SharedRowsLayout::kMostFoldedRows)
    return emitOpError("(C3) expected offsets of up to ")
           << SharedRowsLayout::kMostFoldedRows << " queries, got " << n;
  if (getWarpgroups() < 1 ||
      getWarpgroups() >
          static_cast<uint64_t>(SharedRowsLayout::kMostWarpgroups))
    return emitOpError("(C2) expected 1 to ")
           << SharedRowsLayout::kMostWarpgroups << " warpgroups, got "
           << getWarpgroups();
  return success();
}
