//===- PMKVQLaneOps.cpp - What a lane of a warp does ----------------------===//
//
// Verification of ops on lanes: sizes of vectors that must agree.  Neighbours:
// PMKVQLaneOps.td (the constraints cited here), FragmentLayout.h and
// SharedLayout.h (where the sizes come from).
//
//===----------------------------------------------------------------------===//

#include "VectorSize.h"
#include "VerifyShifts.h"
#include "mlir/IR/Builders.h"
#include "pmkvq/IR/HeadDims.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq/Target/SharedLayout.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FragmentLayout;
using ::pmkvq::SharedLayout;

//===----------------------------------------------------------------------===//
// The query operand
//===----------------------------------------------------------------------===//

/// Matrix instructions take words in fours, or bytes in twos.
static LogicalResult verifyMultiple(Operation *op, Value words,
                                    int64_t multiple) {
  if (sizeOf(words) % multiple)
    return op->emitOpError("(C1) expected a multiple of ")
           << multiple << " words, got " << sizeOf(words);
  return success();
}

/// A lane has one, two or four queries.
static LogicalResult verifyAllQueries(Operation *op, StringRef constraint,
                                      int64_t queries) {
  if (queries != 1 && queries != 2 && queries != 4)
    return op->emitOpError(constraint)
           << " expected one, two or four queries a lane, got " << queries;
  return success();
}

/// One or two of them are in one set of operands.
static LogicalResult verifyQueries(Operation *op, StringRef constraint,
                                   int64_t queries) {
  if (queries < 1 || queries > 2)
    return op->emitOpError(constraint)
           << " expected one or two queries a lane, got " << queries;
  return success();
}

static LogicalResult verifySameQueries(Operation *op, size_t queries,
                                       size_t results) {
  if (queries != results)
    return op->emitOpError("(C2) expected a result for each of ")
           << queries << " operands, got " << results;
  return success();
}

LogicalResult SplitRowsOp::verify() {
  if (getNumResults() % 2)
    return emitOpError(
               "(C2) expected as many scales as operands of bytes, got ")
           << getNumResults() << " results";
  if (failed(verifyMultiple(*this, getRows(), 4)))
    return failure();
  for (Value bytes : getBytes())
    if (sizeOf(bytes) * 2 != sizeOf(getRows()))
      return emitOpError("(C1) expected ")
             << sizeOf(getRows()) / 2 << " words of bytes, got "
             << sizeOf(bytes);
  return verifyQueries(*this, "(C2)", getBytes().size());
}

LogicalResult WeighRowsOp::verify() {
  if (failed(verifyMultiple(*this, getRows(), 4)))
    return failure();
  return verifyQueries(*this, "(C2)", getSums().size());
}

LogicalResult SumBytesOp::verify() {
  for (Value bytes : getBytes()) {
    if (failed(verifyMultiple(*this, bytes, 2)))
      return failure();
    if (bytes.getType() != getBytes()[0].getType())
      return emitOpError("(C1) expected operands of as many words, got ")
             << sizeOf(getBytes()[0]) << " and " << sizeOf(bytes);
  }
  if (failed(verifyQueries(*this, "(C2)", getBytes().size())))
    return failure();
  return verifySameQueries(*this, getBytes().size(), getSums().size());
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

static_assert([] {
  for (int64_t headDim : kHeadDims)
    if (!FragmentLayout::isHeadDim(headDim))
      return false;
  return true;
}());

/// Whether codes of this shape are whole operands.
static bool isWhole(rt::Part part, int64_t level, int64_t tokens,
                    int64_t headDim) {
  if (!rt::isLevel(level) || tokens <= 0 || tokens > rt::kPageTokens)
    return false;
  // At 2 bits pairs of row blocks share words; 32 tokens are k of values.
  const int64_t rows = FragmentLayout::kRows;
  const bool isHalf = level == 16 || (part == rt::kKey && level > 2);
  return tokens % (isHalf ? rows : 2 * rows) == 0 &&
         FragmentLayout::isHeadDim(headDim);
}

LogicalResult MultiplyCodesOp::verify() {
  rt::Part part = getPart() == Part::Key ? rt::kKey : rt::kValue;
  if (!isWhole(part, getLevel(), getTokens(), getHeadDim()))
    return emitOpError("(C1) expected codes of whole operands, got ")
           << getTokens() << " tokens of " << getHeadDim() << " dims at level "
           << getLevel();
  FragmentLayout layout = {part, static_cast<int32_t>(getLevel()),
                           static_cast<int32_t>(getTokens()),
                           static_cast<int64_t>(getHeadDim())};
  if (failed(verifyAllQueries(*this, "(C2)", getColumns().size())))
    return failure();
  for (Value column : getColumns())
    if (sizeOf(column) != int64_t{layout.kBlocks()} * 2)
      return emitOpError("(C2) expected columns of ")
             << layout.kBlocks() * 2 << " words, got " << sizeOf(column);
  Builder b(getContext());
  auto sum = VectorType::get({int64_t{layout.rowBlocks()} * 2}, b.getF32Type());
  if (getSums().size() != getColumns().size() ||
      !llvm::all_of(getSums().getTypes(), [&](Type t) { return t == sum; }))
    return emitOpError("(C3) expected ")
           << getColumns().size() << " results of type " << sum << ", got "
           << getSums().getTypes();
  if (layout.kBlocks() % layout.sumParts())
    return emitOpError("(C4) expected sums of up to ")
           << FragmentLayout::kLargestSum << ", got " << layout.largestSumOf(1)
           << " over " << layout.kBlocks() << " blocks of k that "
           << layout.sumParts() << " do not divide";
  return success();
}

LogicalResult ShiftCodesOp::verify() {
  rt::Part part = getPart() == Part::Key ? rt::kKey : rt::kValue;
  auto level = static_cast<int64_t>(getLevel());
  if ((level != 8 && level != 4) || getHeadDim() % FragmentLayout::kWholeDims ||
      !isWhole(part, level, getTokens(), getHeadDim()) ||
      !isWhole(part, level / 2, getTokens(), getHeadDim()))
    return emitOpError("(C1) expected codes at level 8 or 4 that fill whole "
                       "vectors there and at half of it, got ")
           << getTokens() << " tokens of " << getHeadDim() << " dims at level "
           << level;
  if (getFormat().getModel().rewritesParameters())
    return emitOpError("(C2) expected a format whose parameters are written "
                       "once, got ")
           << getFormat();
  return verifyShifts(*this, "(C2)", getFormat(), level, level / 2);
}

//===----------------------------------------------------------------------===//
// Softmax
//===----------------------------------------------------------------------===//

LogicalResult OnlineSoftmaxOp::verify() {
  constexpr size_t kOperands = 7, kResults = 5;
  size_t queries = getNumResults() / kResults;
  if (failed(verifyAllQueries(*this, "(C1)", queries)))
    return failure();
  if (getNumOperands() != queries * kOperands ||
      getNumResults() != queries * kResults)
    return emitOpError("(C1) expected ")
           << kOperands << " operands and " << kResults
           << " results a query, got " << getNumOperands() << " and "
           << getNumResults();
  for (size_t i = 0; i < queries; ++i) {
    int64_t count = sizeOf(getProducts()[i]);
    if (sizeOf(getFactors()[i]) != count || sizeOf(getBiases()[i]) != count ||
        sizeOf(getWeights()[i]) != count)
      return emitOpError("(C2) expected as many products, factors, biases and "
                         "weights, got ")
             << count << ", " << sizeOf(getFactors()[i]) << ", "
             << sizeOf(getBiases()[i]) << " and " << sizeOf(getWeights()[i]);
    if (sizeOf(getOutputs()[i]) != sizeOf(getNextOutputs()[i]))
      return emitOpError("(C3) expected ")
             << sizeOf(getOutputs()[i]) << " next outputs, got "
             << sizeOf(getNextOutputs()[i]);
  }
  return success();
}

/// Each operand has `words` words.
static LogicalResult verifyOperands(Operation *op, ValueRange operands,
                                    int64_t words) {
  for (Value operand : operands)
    if (sizeOf(operand) != words)
      return op->emitOpError("(C1) expected operands of ")
             << words << " words, got " << sizeOf(operand);
  return success();
}

LogicalResult RepackWeightsOp::verify() {
  if (getNumResults() % 2 == 0)
    return emitOpError("(C2) expected as many sums as operands, and one "
                       "unscale, got ")
           << getNumResults() << " results";
  for (Value weights : getWeights())
    if (sizeOf(getRanges()) * 2 != sizeOf(weights))
      return emitOpError("(C1) expected a word of ranges for two of ")
             << sizeOf(weights) << " weights, got " << sizeOf(getRanges());
  if (failed(verifyOperands(*this, getColumns(), sizeOf(getRanges()))))
    return failure();
  if (failed(verifyAllQueries(*this, "(C2)", getWeights().size())))
    return failure();
  return verifySameQueries(*this, getWeights().size(), getColumns().size());
}

LogicalResult RepackRawWeightsOp::verify() {
  for (Value weights : getWeights())
    if (failed(verifyOperands(*this, getColumns(), sizeOf(weights))))
      return failure();
  if (failed(verifyAllQueries(*this, "(C2)", getWeights().size())))
    return failure();
  return verifySameQueries(*this, getWeights().size(), getColumns().size());
}

//===----------------------------------------------------------------------===//
// The ring
//===----------------------------------------------------------------------===//

static LogicalResult verifySlots(Operation *op, StringRef constraint,
                                 int64_t slots) {
  if (slots == 1 || slots == SharedLayout::kMaxSlots)
    return success();
  return op->emitOpError(constraint)
         << " expected one or two slots, got " << slots;
}

LogicalResult RingWaitOp::verify() {
  return verifySlots(*this, "(C1)", getSlots());
}

LogicalResult RingIssueOp::verify() {
  if (failed(verifySlots(*this, "(C3)", getSlots())))
    return failure();
  ArrayRef<int64_t> levels = getKinds();
  if (levels.empty() || levels.size() % 2 ||
      !llvm::all_of(levels, [](int64_t level) { return rt::isLevel(level); }))
    return emitOpError("(C1) expected pairs of levels of 16, 8, 4 or 2, got [")
           << levels << "]";
  if (getSlotBytes() % 128)
    return emitOpError("(C2) expected a multiple of 128 bytes a slot, got ")
           << getSlotBytes();
  const auto valueBytes =
      static_cast<int64_t>(getValueBytes().value_or(::pmkvq::kGroupBytes));
  if (valueBytes != ::pmkvq::kGroupBytes && valueBytes != 1)
    return emitOpError("(C4) expected parameters of ")
           << ::pmkvq::kGroupBytes << " bytes or 1 a token, got " << valueBytes;
  for (size_t i = 0; i < levels.size(); i += 2) {
    rt::UnitKind kind = {static_cast<int32_t>(levels[i]),
                         static_cast<int32_t>(levels[i + 1])};
    int64_t end =
        ::pmkvq::unitSlot(kind, getHeadDim(), getKeysPerToken(), valueBytes)
            .end;
    if (end > static_cast<int64_t>(getSlotBytes()))
      return emitOpError("(C2) expected a slot of at least ")
             << end << " bytes for units of levels " << kind.key << " and "
             << kind.value << ", got " << getSlotBytes();
  }
  return success();
}

//===----------------------------------------------------------------------===//
// Merges
//===----------------------------------------------------------------------===//

template <typename OpTy>
static LogicalResult verifyMerge(OpTy op, int64_t most) {
  if (op.getHeadDim() % 16)
    return op.emitOpError("(C2) expected a head_dim that 16 divides, got ")
           << op.getHeadDim();
  auto queries = static_cast<int64_t>(op.getGroup() * op.getRows().value_or(1));
  if (queries < 1 || queries > most)
    return op.emitOpError("(C1) expected 1 to ")
           << most << " queries, got " << queries;
  bool hasRows = op.getRows().has_value();
  if (hasRows != static_cast<bool>(op.getMoreRows()) ||
      hasRows != op.getStride().has_value())
    return op.emitOpError(
        "(C3) expected all of rows, more and stride, or none");
  return success();
}

LogicalResult MergeWarpsOp::verify() {
  if (failed(verifyMerge(*this, SharedLayout::kMaxQueries)))
    return failure();
  SharedLayout shared;
  shared.group = getGroup();
  shared.rows = getRows().value_or(1);
  int64_t count = shared.queriesPerLane() * (3 + getHeadDim() / 8);
  if (static_cast<int64_t>(getStates().size()) != count)
    return emitOpError("(C1) expected ")
           << count << " values of states, got " << getStates().size();
  return success();
}

LogicalResult MergeSharesOp::verify() {
  if (failed(verifyMerge(*this, rt::kMaxWarpgroupQueries)))
    return failure();
  if (int64_t threads = getThreads().value_or(128);
      threads < 128 || threads % 128)
    return emitOpError("(C1) expected a multiple of 128 threads, got ")
           << threads;
  return success();
}
