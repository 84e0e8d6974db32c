//===- PMKVQLaneOps.cpp - What a lane of a warp does ----------------------===//
//
// Verification of ops on lanes: sizes of vectors that must agree.  Neighbours:
// PMKVQLaneOps.td (the constraints cited here), FragmentLayout.h and
// SharedLayout.h (where the sizes come from).
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/Builders.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq/Target/SharedLayout.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
using ::pmkvq::FragmentLayout;
using ::pmkvq::SharedLayout;

static int64_t sizeOf(Type type) {
  return cast<VectorType>(type).getNumElements();
}
static int64_t sizeOf(Value vector) { return sizeOf(vector.getType()); }

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

LogicalResult SplitRowsOp::verify() {
  if (failed(verifyMultiple(*this, getRows(), 4)))
    return failure();
  if (sizeOf(getBytes()) * 2 != sizeOf(getRows()))
    return emitOpError("(C1) expected ")
           << sizeOf(getRows()) / 2 << " words of bytes, got "
           << sizeOf(getBytes());
  return success();
}

LogicalResult WeighRowsOp::verify() {
  return verifyMultiple(*this, getRows(), 4);
}

LogicalResult SumBytesOp::verify() {
  return verifyMultiple(*this, getBytes(), 2);
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

/// Whether codes of this shape fill whole vectors.
static bool isWhole(rt::Part part, int64_t level, int64_t tokens,
                    int64_t headDim) {
  if (!rt::isLevel(level) || tokens <= 0 || tokens > rt::kPageTokens ||
      headDim <= 0)
    return false;
  FragmentLayout layout = {part, static_cast<int32_t>(level),
                           static_cast<int32_t>(tokens), headDim};
  int64_t rows = part == rt::kKey ? tokens : headDim;
  int64_t k = part == rt::kKey ? headDim : tokens;
  // At 2 bits pairs of row blocks share words.
  int64_t rowsTogether = int64_t{FragmentLayout::kRows} * (level == 2 ? 2 : 1);
  return rows % rowsTogether == 0 && k % layout.depth() == 0 &&
         layout.rowBlocks() * layout.kBlocks() % layout.fragmentsPerVector() ==
             0;
}

LogicalResult MultiplyCodesOp::verify() {
  rt::Part part = getPart() == Part::Key ? rt::kKey : rt::kValue;
  if (!isWhole(part, getLevel(), getTokens(), getHeadDim()))
    return emitOpError("(C1) expected codes that fill whole vectors, got ")
           << getTokens() << " tokens of " << getHeadDim() << " dims at level "
           << getLevel();
  FragmentLayout layout = {part, static_cast<int32_t>(getLevel()),
                           static_cast<int32_t>(getTokens()),
                           static_cast<int64_t>(getHeadDim())};
  if (getColumns().empty())
    return emitOpError("(C2) expected at least one operand of columns");
  for (Value column : getColumns())
    if (sizeOf(column) != int64_t{layout.kBlocks()} * 2)
      return emitOpError("(C2) expected columns of ")
             << layout.kBlocks() * 2 << " words, got " << sizeOf(column);
  Builder b(getContext());
  auto sum = VectorType::get({int64_t{layout.rowBlocks()} * 4},
                             getLevel() == 16 ? Type(b.getF32Type())
                                              : Type(b.getI32Type()));
  if (getSums().size() != getColumns().size() ||
      !llvm::all_of(getSums().getTypes(), [&](Type t) { return t == sum; }))
    return emitOpError("(C3) expected ")
           << getColumns().size() << " results of type " << sum << ", got "
           << getSums().getTypes();
  return success();
}

//===----------------------------------------------------------------------===//
// Softmax
//===----------------------------------------------------------------------===//

/// Two weights of a lane share a word.
static LogicalResult verifyPairs(Operation *op, StringRef constraint,
                                 Value weights, Value words) {
  if (sizeOf(words) * 2 != sizeOf(weights))
    return op->emitOpError(constraint)
           << " expected a word for two of " << sizeOf(weights)
           << " weights, got " << sizeOf(words);
  return success();
}

LogicalResult LazySoftmaxOp::verify() {
  int64_t count = sizeOf(getProducts());
  if (count % 2 || sizeOf(getFactors()) != count ||
      sizeOf(getBias()) != count || sizeOf(getWeights()) != count)
    return emitOpError("(C1) expected as many products, factors, biases and "
                       "weights, an even number, got ")
           << count << ", " << sizeOf(getFactors()) << ", " << sizeOf(getBias())
           << " and " << sizeOf(getWeights());
  if (failed(verifyPairs(*this, "(C2)", getWeights(), getPacked())))
    return failure();
  if (getSums().size() != getNextSums().size())
    return emitOpError("(C3) expected ")
           << getSums().size() << " next sums, got " << getNextSums().size();
  if (sizeOf(getOutputs()) != sizeOf(getNextOutputs()))
    return emitOpError("(C3) expected ")
           << sizeOf(getOutputs()) << " next outputs, got "
           << sizeOf(getNextOutputs());
  return success();
}

LogicalResult RepackWeightsOp::verify() {
  if (failed(verifyPairs(*this, "(C1)", getWeights(), getRanges())))
    return failure();
  return verifyPairs(*this, "(C1)", getWeights(), getOperand());
}

LogicalResult RepackRawWeightsOp::verify() {
  if (sizeOf(getOperand()) != sizeOf(getWeights()))
    return emitOpError("(C1) expected a word for each of ")
           << sizeOf(getWeights()) << " weights, got " << sizeOf(getOperand());
  return success();
}

//===----------------------------------------------------------------------===//
// The ring
//===----------------------------------------------------------------------===//

LogicalResult RingIssueOp::verify() {
  ArrayRef<int64_t> levels = getKinds();
  if (levels.empty() || levels.size() % 2 ||
      !llvm::all_of(levels, [](int64_t level) { return rt::isLevel(level); }))
    return emitOpError("(C1) expected pairs of levels of 16, 8, 4 or 2, got [")
           << levels << "]";
  if (getSlotBytes() % 128)
    return emitOpError("(C2) expected a multiple of 128 bytes a slot, got ")
           << getSlotBytes();
  for (size_t i = 0; i < levels.size(); i += 2) {
    rt::UnitKind kind = {static_cast<int32_t>(levels[i]),
                         static_cast<int32_t>(levels[i + 1])};
    int64_t end = rt::unitSlot(kind, getHeadDim(), getKeysPerToken()).end;
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

/// The warp of a query's number stages it, so there are no more than warps.
static LogicalResult verifyMerge(Operation *op, int64_t group,
                                 int64_t headDim) {
  if (headDim % 128)
    return op->emitOpError("(C2) expected a head_dim that 128 divides, got ")
           << headDim;
  if (group < 1 || group > SharedLayout::kWarps)
    return op->emitOpError("(C1) expected a group of 1 to ")
           << SharedLayout::kWarps << ", got " << group;
  return success();
}

LogicalResult MergeWarpsOp::verify() {
  if (failed(verifyMerge(*this, getGroup(), getHeadDim())))
    return failure();
  SharedLayout shared;
  shared.group = getGroup();
  int64_t count = shared.operands() * (3 + getHeadDim() / 8);
  if (static_cast<int64_t>(getStates().size()) != count)
    return emitOpError("(C1) expected ")
           << count << " values of states, got " << getStates().size();
  return success();
}

LogicalResult MergeSharesOp::verify() {
  return verifyMerge(*this, getGroup(), getHeadDim());
}
