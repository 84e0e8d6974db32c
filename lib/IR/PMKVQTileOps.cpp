//===- PMKVQTileOps.cpp - Ops on tiles ------------------------------------===//
//
// Verification, parsing and effects of the lower floor.
// Neighbours: PMKVQTileOps.td (the constraints cited here).
//
//===----------------------------------------------------------------------===//

#include "VerifyShifts.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Interfaces/FunctionImplementation.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Geometry.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

#define GET_OP_CLASSES
#include "pmkvq/IR/PMKVQOps.cpp.inc"

void PMKVQDialect::registerOps() {
  addOperations<
#define GET_OP_LIST
#include "pmkvq/IR/PMKVQOps.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

ParseResult KernelOp::parse(OpAsmParser &parser, OperationState &result) {
  auto buildType = [](Builder &b, ArrayRef<Type> inputs, ArrayRef<Type> results,
                      function_interface_impl::VariadicFlag,
                      std::string &) -> Type {
    return b.getFunctionType(inputs, results);
  };
  return function_interface_impl::parseFunctionOp(
      parser, result, /*allowVariadic=*/false,
      getFunctionTypeAttrName(result.name), buildType,
      getArgAttrsAttrName(result.name), getResAttrsAttrName(result.name));
}

void KernelOp::print(OpAsmPrinter &printer) {
  function_interface_impl::printFunctionOp(
      printer, *this, /*isVariadic=*/false, getFunctionTypeAttrName(),
      getArgAttrsAttrName(), getResAttrsAttrName());
}

LogicalResult KernelOp::verify() {
  FunctionType type = getFunctionType();
  if (type.getNumInputs() == 0 || !type.getInputs().back().isIndex())
    return emitOpError("(C1) expected the task's index as last argument");
  if (type.getNumResults() != 1 || !type.getResult(0).isInteger(1))
    return emitOpError("(C1) expected one result, an i1");
  if (!getBody().hasOneBlock() || getBody().front().empty() ||
      !isa<ReturnOp>(getBody().front().back()))
    return emitOpError("(C2) expected a body of one block that ends in "
                       "pmkvq.return");
  return success();
}

/// The types of a kernel's operands, in its order.
static SmallVector<Type> kernelOperandTypes(LaunchOp launch) {
  SmallVector<Type> types;
  if (launch.getCache())
    types.push_back(launch.getCache().getType());
  types.push_back(launch.getBatch().getType());
  llvm::append_range(types, launch.getInputs().getTypes());
  llvm::append_range(types, launch.getOutputs().getTypes());
  return types;
}

/// Tensors become memrefs in kernels; all else stays what it is.
static bool fits(Type operand, Type argument) {
  auto tensor = dyn_cast<RankedTensorType>(operand);
  auto memref = dyn_cast<MemRefType>(argument);
  if (tensor && memref)
    return tensor.getShape() == memref.getShape() &&
           tensor.getElementType() == memref.getElementType();
  return operand == argument;
}

LogicalResult LaunchOp::verify() {
  SmallVector<Type> types(getInputs().getTypes());
  llvm::append_range(types, getOutputs().getTypes());
  if (!llvm::all_of(types, llvm::IsaPred<RankedTensorType>) &&
      !llvm::all_of(types, llvm::IsaPred<MemRefType>))
    return emitOpError("(C3) expected ranked tensors, or memrefs, alone");
  return success();
}

LogicalResult LaunchOp::verifySymbolUses(SymbolTableCollection &symbols) {
  Operation *symbol = symbols.lookupNearestSymbolFrom(*this, getKernelAttr());
  auto kernel = dyn_cast_or_null<KernelOp>(symbol);
  if (!kernel) {
    // A lowered kernel is a function whose operands lie in memory.
    if (isa_and_nonnull<FunctionOpInterface>(symbol))
      return success();
    return emitOpError("(C1) expected a pmkvq.kernel named '")
           << getKernel() << "', there is none";
  }
  ArrayRef<Type> arguments = kernel.getArgumentTypes().drop_back();
  SmallVector<Type> operands = kernelOperandTypes(*this);
  if (operands.size() != arguments.size())
    return emitOpError("(C1) kernel '")
           << getKernel() << "' takes " << arguments.size() << " operands, got "
           << operands.size();
  for (auto [i, operand, argument] : llvm::enumerate(operands, arguments))
    if (!fits(operand, argument))
      return emitOpError("(C1) operand ")
             << i << " of kernel '" << getKernel() << "' is " << argument
             << ", got " << operand;
  return success();
}

void LaunchOp::getEffects(
    SmallVectorImpl<SideEffects::EffectInstance<MemoryEffects::Effect>>
        &effects) {
  // A kernel reads and writes caches behind their handles, so launches keep
  // their order among themselves.
  effects.emplace_back(MemoryEffects::Read::get());
  effects.emplace_back(MemoryEffects::Write::get());
  for (OpOperand &input : getInputsMutable())
    if (isa<MemRefType>(input.get().getType()))
      effects.emplace_back(MemoryEffects::Read::get(), &input);
  for (OpOperand &output : getOutputsMutable())
    if (isa<MemRefType>(output.get().getType()))
      effects.emplace_back(MemoryEffects::Write::get(), &output);
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

/// The tile that is `part` of a page of `cache` at `level`.
static TileType wholePart(CacheType cache, Part part, int64_t level) {
  return TileType::get(cache.getContext(), part, level, rt::kPageTokens,
                       cache.getHeadDim(), cache.getFormat(part));
}

LogicalResult mlir::pmkvq::verifyShifts(Operation *op, StringRef constraint,
                                        FormatAttr format, int64_t from,
                                        int64_t to) {
  int64_t level = format.getLastLevel(from, to);
  if (level <= to)
    return success();
  return op->emitOpError(constraint)
         << " the codes of format '" << format.getName().getValue() << "' at "
         << level << " bits are no linear grid, which a shift to " << to
         << " bits needs";
}

static LogicalResult verifyWholePart(Operation *op, TileType tile,
                                     PageType page) {
  CacheType cache = page.getCache();
  if (!cache.isPlanned() ||
      tile != wholePart(cache, tile.getPart(), tile.getLevel()))
    return op->emitOpError("(C1) expected a whole part of a page of ")
           << cache << ", got " << tile;
  return success();
}

LogicalResult TakeOp::verify() {
  TileType tile = getTile().getType();
  CacheType cache = getPage().getType().getCache();
  if (failed(verifyWholePart(*this, tile, getPage().getType())))
    return failure();
  if (!cache.hasLevel(tile.getPart(), tile.getLevel()))
    return emitOpError("(C2) the ladder does not hold level ")
           << tile.getLevel();
  return success();
}

LogicalResult ByLevelOp::verify() {
  CacheType cache = getPage().getType().getCache();
  if (!cache.isPlanned())
    return emitOpError("(C2) expected a page of a cache with formats");
  ArrayRef<int64_t> levels = cache.getLevels(getPart());
  if (getLevels().size() != levels.size())
    return emitOpError("(C1) expected ")
           << levels.size() << " regions, one a level, got "
           << getLevels().size();
  for (auto [level, region] : llvm::zip(levels, getLevels())) {
    TileType tile = wholePart(cache, getPart(), level);
    Block &block = region.front();
    if (block.getNumArguments() != 1 || block.getArgument(0).getType() != tile)
      return emitOpError("(C2) expected the region of level ")
             << level << " to take " << tile;
    auto yield = dyn_cast<YieldOp>(block.getTerminator());
    if (!yield || yield.getOperandTypes() != getResultTypes())
      return emitOpError("(C3) expected the region of level ")
             << level << " to yield " << getResultTypes();
  }
  return success();
}

LogicalResult FetchFixedOp::verify() {
  TileType tile = getTile().getType();
  if (tile.getFormat() ||
      tile.getHeadDim() != getCache().getType().getHeadDim())
    return emitOpError("(C1) expected a tile without a format and with the "
                       "cache's head_dim, got ")
           << tile;
  return success();
}

LogicalResult StoreFixedOp::verify() {
  RowsType rows = getRows().getType();
  int64_t headDim = getCache().getType().getHeadDim();
  if (rows.getQueries() != 1 || rows.getWidth() != headDim)
    return emitOpError("(C1) expected one row of ")
           << headDim << " elements, got " << rows;
  return success();
}

LogicalResult QuantizeOp::verify() {
  TileType source = getSource().getType(), result = getResult().getType();
  FormatAttr format = result.getFormat();
  if (!source.isRaw() || !format || result.raw() != source.raw() ||
      result.getLevel() != format.getModel().getFirstLevel())
    return emitOpError("(C1) expected a raw tile to the first level of a "
                       "format, got ")
           << source << " to " << result;
  return success();
}

LogicalResult ShiftOp::verify() {
  TileType source = getSource().getType(), result = getResult().getType();
  if (source.isRaw() || result.getLevel() >= source.getLevel() ||
      result != source.withLevel(result.getLevel()))
    return emitOpError("(C1) expected a tile of codes to a lower level, got ")
           << source << " to " << result;
  if (failed(verifyShifts(*this, "(C2)", source.getFormat(), source.getLevel(),
                          result.getLevel())))
    return failure();
  bool feedsBack =
      source.getPart() == Part::Key && source.getFormat().getFeedback();
  if (feedsBack != static_cast<bool>(getFeedback()))
    return emitOpError("(C4) expected ")
           << (feedsBack ? "feedback for " : "no feedback for ") << source;
  if (feedsBack && (source.getTokens() != rt::kPageTokens ||
                    source.getLevel() > 8 || result.getLevel() < 2))
    return emitOpError("(C4) expected a whole page to fall with feedback, from "
                       "8 bits at most, got ")
           << source << " to " << result;
  return success();
}

LogicalResult FetchFeedbackOp::verify() {
  CacheType cache = getCache().getType();
  if (!cache.isPlanned() || !cache.getKey().getFeedback())
    return emitOpError("(C1) expected keys that fall with feedback, got ")
           << cache;
  return success();
}

/// A shift of a shift is one shift.  One that others use too stays: from its
/// result, theirs is the shorter way.
LogicalResult ShiftOp::canonicalize(ShiftOp op, PatternRewriter &rewriter) {
  auto first = op.getSource().getDefiningOp<ShiftOp>();
  if (!first || !first->hasOneUse() || op.getAhead() ||
      first.getFeedback() != op.getFeedback())
    return failure();
  rewriter.replaceOpWithNewOp<ShiftOp>(op, op.getType(), first.getSource(),
                                       first.getAhead(), op.getFeedback());
  return success();
}

LogicalResult StoreOp::verify() {
  TileType tile = getTile().getType();
  CacheType cache = getPage().getType().getCache();
  // A raw window is a whole part where level 16 is raw.
  if (!tile.getFormat() && cache.isPlanned()) {
    TileType whole = wholePart(cache, tile.getPart(), 16);
    if (whole.isRaw() && tile == whole.raw())
      return success();
  }
  return verifyWholePart(*this, tile, getPage().getType());
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

static LogicalResult verifyGroup(Operation *op, RowsType rows, int64_t group) {
  if (group <= 0 || rows.getQueries() % group)
    return op->emitOpError("(C1) expected a group that divides ")
           << rows.getQueries() << " queries, got " << group;
  return success();
}

static LogicalResult verifyHeads(Operation *op, Type type, RowsType rows,
                                 int64_t group) {
  auto heads = dyn_cast<MemRefType>(type);
  if (!heads || !heads.getLayout().isIdentity() || heads.getRank() != 3 ||
      heads.isDynamicDim(1) || heads.getDimSize(2) != rows.getWidth() ||
      !heads.getElementType().isF32())
    return op->emitOpError("(C1) expected a contiguous memref [rows, heads, ")
           << rows.getWidth() << "] in f32, its heads known, got " << type;
  return verifyGroup(op, rows, group);
}

LogicalResult LoadRowsOp::verify() {
  return verifyHeads(*this, getSource().getType(), getResult().getType(),
                     getGroup());
}

LogicalResult StoreRowsOp::verify() {
  return verifyHeads(*this, getDest().getType(), getRows().getType(),
                     getGroup());
}

LogicalResult RotaryOp::verify() {
  auto angles = dyn_cast<MemRefType>(getCosines().getType());
  int64_t width = getType().getWidth();
  if (!angles || !angles.getLayout().isIdentity() || angles.getRank() != 2 ||
      angles.getDimSize(1) * 2 != width || !angles.getElementType().isF32())
    return emitOpError("(C1) expected cosines and sines as contiguous memrefs "
                       "[rows, ")
           << width / 2 << "] in f32, got " << getCosines().getType();
  return success();
}

LogicalResult LoadParametersOp::verify() {
  TileType tile = getTile().getType();
  if (tile.isRaw())
    return emitOpError("(C2) expected a tile that has parameters, got ")
           << tile;
  unsigned count = tile.getFormat().getModel().getNumParameters();
  auto vector =
      VectorType::get({tile.getGroups()}, Float32Type::get(getContext()));
  if (getParameters().size() != count ||
      llvm::any_of(getParameters().getTypes(),
                   [&](Type type) { return type != vector; }))
    return emitOpError("(C1) expected ") << count << " results of " << vector;
  return success();
}

static LogicalResult verifyLength(Operation *op, Value vector, int64_t length) {
  int64_t actual = cast<VectorType>(vector.getType()).getNumElements();
  if (actual != length)
    return op->emitOpError("(C1) expected a vector of ")
           << length << " elements, got " << actual;
  return success();
}

LogicalResult ScaleOp::verify() {
  return verifyLength(*this, getBy(), getRows().getType().getWidth());
}

LogicalResult ReduceOp::verify() {
  RowsType rows = getRows().getType();
  return success(
      succeeded(verifyLength(*this, getBy(), rows.getWidth())) &&
      succeeded(verifyLength(*this, getResult(), rows.getQueries())));
}

LogicalResult AddOuterOp::verify() {
  RowsType rows = getRows().getType();
  return success(succeeded(verifyLength(*this, getLeft(), rows.getQueries())) &&
                 succeeded(verifyLength(*this, getRight(), rows.getWidth())));
}

/// Shapes: `rows` of either type, [queries, width].
template <typename Rows>
static LogicalResult verifyProduct(Operation *op, Rows rows, TileType tile,
                                   RowsType result) {
  auto expected =
      RowsType::get(op->getContext(), rows.getQueries(), tile.getWidth());
  if (rows.getWidth() != tile.getReduction())
    return op->emitOpError("(C1) expected rows of ")
           << tile.getReduction() << " elements, got " << rows;
  if (result != expected)
    return op->emitOpError("(C1) expected a result of ")
           << expected << ", got " << result;
  return success();
}

LogicalResult ContractOp::verify() {
  return verifyProduct(*this, getRows().getType(), getTile().getType(),
                       getResult().getType());
}

LogicalResult RoundRowsOp::verify() {
  RowsType rows = getRows().getType();
  IntegerRowsType integers = getIntegers().getType();
  if ((getBy() && failed(verifyLength(*this, getBy(), rows.getWidth()))) ||
      failed(verifyLength(*this, getUnit(), rows.getQueries())))
    return failure();
  constexpr int64_t multiple = 16;
  if (integers.getQueries() != rows.getQueries() ||
      integers.getWidth() != rows.getWidth() || rows.getWidth() % multiple)
    return emitOpError("(C2) expected integers of ")
           << rows.getQueries() << " x " << rows.getWidth()
           << ", a multiple of " << multiple << ", got " << integers;
  return success();
}

LogicalResult ContractIntegersOp::verify() {
  TileType tile = getTile().getType();
  IntegerRowsType integers = getIntegers().getType();
  if (failed(verifyProduct(*this, integers, tile, getResult().getType())) ||
      failed(verifyLength(*this, getUnit(), integers.getQueries())))
    return failure();
  FormatAttr format = tile.getFormat();
  if (tile.getLevel() > 8 || !format.getModel().hasLinearGrid(tile.getLevel()))
    return emitOpError("(C2) expected codes of 8 bits or fewer on a linear "
                       "grid, got ")
           << tile;
  constexpr int64_t mostSummed = 256;
  if (tile.getReduction() > mostSummed)
    return emitOpError("(C3) expected at most ")
           << mostSummed << " summed elements, got " << tile.getReduction();
  return success();
}

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

LogicalResult ScoresOp::verify() {
  TileType tile = getKeys().getType();
  if (tile.getPart() != Part::Key)
    return emitOpError("(C1) expected a tile of keys, got ") << tile;
  return verifyProduct(*this, getQueries().getType(), tile,
                       getResult().getType());
}

static LogicalResult verifyQueries(Operation *op, SoftmaxType state,
                                   RowsType rows) {
  if (state.getQueries() != rows.getQueries())
    return op->emitOpError("(C1) expected ")
           << state.getQueries() << " rows, got " << rows;
  return success();
}

/// States are updated in place by targets that keep them in memory, so only one
/// op may take a state: one op, or one in each of an op's exclusive regions.
static LogicalResult verifySingleUse(Operation *op, Value state,
                                     StringRef constraint = "(C2)") {
  llvm::SmallPtrSet<Region *, 4> regions;
  bool single = state.hasOneUse();
  bool exclusive = true;
  for (Operation *user : state.getUsers())
    exclusive &= user->getParentOp() == op->getParentOp() &&
                 regions.insert(user->getParentRegion()).second;
  if (!single && !exclusive)
    return op->emitOpError(constraint)
           << " expected the state to have no other use";
  return success();
}

LogicalResult CausalMaskOp::verify() {
  return verifyGroup(*this, getScores().getType(), getGroup());
}

LogicalResult SoftmaxUpdateOp::verify() {
  if (failed(verifySingleUse(*this, getState())))
    return failure();
  return verifyQueries(*this, getState().getType(), getScores().getType());
}

LogicalResult AccumulateOp::verify() {
  TileType tile = getValues().getType();
  SoftmaxType state = getState().getType();
  if (tile.getPart() != Part::Value)
    return emitOpError("(C1) expected a tile of values, got ") << tile;
  if (failed(verifySingleUse(*this, getState())) ||
      failed(verifyQueries(*this, state, getWeights().getType())))
    return failure();
  return verifyProduct(
      *this, getWeights().getType(), tile,
      RowsType::get(getContext(), state.getQueries(), state.getHeadDim()));
}

static LogicalResult verifyOutputs(Operation *op, SoftmaxType state,
                                   RowsType rows) {
  if (rows.getQueries() != state.getQueries() ||
      rows.getWidth() != state.getHeadDim())
    return op->emitOpError("(C1) expected rows of ")
           << state.getQueries() << " x " << state.getHeadDim() << ", got "
           << rows;
  return success();
}

LogicalResult SoftmaxAddOp::verify() {
  if (failed(verifySingleUse(*this, getState())))
    return failure();
  return verifyOutputs(*this, getState().getType(), getRows().getType());
}

LogicalResult SoftmaxFinishOp::verify() {
  return verifyOutputs(*this, getState().getType(), getResult().getType());
}

LogicalResult MergePartialOp::verify() {
  return verifySingleUse(*this, getState(), "(C1)");
}
