//===- TileBuilder.cpp - Memory and vectors of lowered tiles --------------===//
//
// See TileBuilder.h.
//
//===----------------------------------------------------------------------===//

#include "TileBuilder.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "pmkvq_rt/Geometry.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

LLVM::LLVMStructType TileBuilder::tileStruct(MLIRContext *context) {
  Type pointer = LLVM::LLVMPointerType::get(context);
  return LLVM::LLVMStructType::getLiteral(
      context, {pointer, pointer, pointer, IntegerType::get(context, 64)});
}

LLVM::LLVMStructType TileBuilder::pageStruct(MLIRContext *context) {
  Type pointer = LLVM::LLVMPointerType::get(context);
  return LLVM::LLVMStructType::getLiteral(context, {pointer, pointer});
}

//===----------------------------------------------------------------------===//
// Constants and arithmetic
//===----------------------------------------------------------------------===//

Value TileBuilder::constI64(int64_t value) {
  return arith::ConstantOp::create(*this, getI64IntegerAttr(value));
}

Value TileBuilder::constF32(double value) {
  return arith::ConstantOp::create(*this,
                                   getF32FloatAttr(static_cast<float>(value)));
}

Value TileBuilder::splat(Type type, double value) {
  Type element = getElementTypeOrSelf(type);
  TypedAttr attr = getFloatAttr(cast<FloatType>(element), value);
  if (auto vector = dyn_cast<VectorType>(type))
    attr = DenseElementsAttr::get(vector, static_cast<Attribute>(attr));
  return arith::ConstantOp::create(*this, attr);
}

Value TileBuilder::splatInt(Type type, int64_t value) {
  TypedAttr attr = getIntegerAttr(getElementTypeOrSelf(type), value);
  if (auto vector = dyn_cast<VectorType>(type))
    attr = DenseElementsAttr::get(vector, static_cast<Attribute>(attr));
  return arith::ConstantOp::create(*this, attr);
}

Value TileBuilder::toI64(Value index) {
  return arith::IndexCastOp::create(*this, getI64Type(), index);
}

Value TileBuilder::toIndex(Value value) {
  return arith::IndexCastOp::create(*this, getIndexType(), value);
}

Value TileBuilder::add(Value a, Value b) {
  return arith::AddIOp::create(*this, a, b);
}

Value TileBuilder::mul(Value a, Value b) {
  return arith::MulIOp::create(*this, a, b);
}

Value TileBuilder::divide(Value a, int64_t b) {
  return b == 1 ? a : arith::DivUIOp::create(*this, a, constI64(b)).getResult();
}

Value TileBuilder::remainder(Value a, int64_t b) {
  return arith::RemUIOp::create(*this, a, constI64(b));
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Value TileBuilder::scratch(int64_t bytes) {
  auto function =
      getInsertionBlock()->getParentOp()->getParentOfType<func::FuncOp>();
  if (!function)
    function = cast<func::FuncOp>(getInsertionBlock()->getParentOp());
  InsertionGuard guard(*this);
  setInsertionPointToStart(&function.getBody().front());
  return LLVM::AllocaOp::create(*this, ptrType(), getI8Type(), constI64(bytes),
                                kCacheLineBytes);
}

Value TileBuilder::offset(Value base, Value bytes) {
  return LLVM::GEPOp::create(*this, ptrType(), getI8Type(), base,
                             ArrayRef<LLVM::GEPArg>{bytes});
}

Value TileBuilder::offset(Value base, int64_t bytes) {
  if (bytes == 0)
    return base;
  return LLVM::GEPOp::create(
      *this, ptrType(), getI8Type(), base,
      ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(bytes)});
}

Value TileBuilder::load(Type type, Value address, unsigned alignment) {
  return LLVM::LoadOp::create(*this, type, address, alignment);
}

void TileBuilder::store(Value value, Value address, unsigned alignment) {
  LLVM::StoreOp::create(*this, value, address, alignment);
}

Value TileBuilder::loadBf16Lanes(Value address, int64_t count) {
  // bf16 is the upper half of f32.  Named: compilers differ in which argument
  // of a call they evaluate, and so emit, first.
  Value lanes = loadU16Lanes(address, count);
  Value shifted =
      arith::ShLIOp::create(*this, lanes, splatInt(i32Vector(count), 16));
  return arith::BitcastOp::create(*this, f32Vector(count), shifted);
}

Value TileBuilder::loadU16Lanes(Value address, int64_t count) {
  auto i16 = VectorType::get({count}, getI16Type());
  return arith::ExtUIOp::create(*this, i32Vector(count), load(i16, address, 2));
}

void TileBuilder::copy(Value to, Value from, int64_t bytes) {
  LLVM::MemcpyOp::create(*this, to, from, constI64(bytes),
                         /*isVolatile=*/false);
}

void TileBuilder::prefetch(Value address) {
  constexpr unsigned read = 0, secondLevel = 2, data = 1;
  LLVM::Prefetch::create(*this, address, read, secondLevel, data);
}

Value TileBuilder::loadPtrField(Value base, int64_t byteOffset) {
  return load(ptrType(), offset(base, byteOffset));
}

Value TileBuilder::loadI64Field(Value base, int64_t byteOffset,
                                unsigned width) {
  Value value = load(getIntegerType(width), offset(base, byteOffset));
  if (width == 64)
    return value;
  // Ids and levels are unsigned, indices that may be -1 are 32 bits wide.
  if (width == 32)
    return arith::ExtSIOp::create(*this, getI64Type(), value);
  return arith::ExtUIOp::create(*this, getI64Type(), value);
}

Value TileBuilder::spill(Value vector) {
  auto type = cast<VectorType>(vector.getType());
  Value memory =
      scratch(type.getNumElements() * type.getElementTypeBitWidth() / 8);
  store(vector, memory, 4);
  return memory;
}

Value TileBuilder::identityIds() {
  constexpr StringLiteral name = "pmkvq_identity_ids";
  auto module = getInsertionBlock()->getParentOp()->getParentOfType<ModuleOp>();
  if (!module.lookupSymbol(name)) {
    InsertionGuard guard(*this);
    setInsertionPointToStart(module.getBody());
    SmallVector<int32_t> ids(32);
    for (auto [i, id] : llvm::enumerate(ids))
      id = static_cast<int32_t>(i);
    auto type = LLVM::LLVMArrayType::get(getI32Type(), ids.size());
    LLVM::GlobalOp::create(*this, type, /*isConstant=*/true,
                           LLVM::Linkage::Internal, name,
                           getI32TensorAttr(ids));
  }
  return LLVM::AddressOfOp::create(*this, ptrType(), name);
}

//===----------------------------------------------------------------------===//
// Loops and vectors
//===----------------------------------------------------------------------===//

SmallVector<Value> TileBuilder::loop(Value end, int64_t step, ValueRange init,
                                     LoopBody body) {
  auto op = scf::ForOp::create(*this, constI64(0), end, constI64(step), init);
  {
    InsertionGuard guard(*this);
    setInsertionPointToStart(op.getBody());
    SmallVector<Value> next =
        body(op.getInductionVar(), op.getRegionIterArgs());
    if (!init.empty())
      scf::YieldOp::create(*this, next);
  }
  return SmallVector<Value>(op.getResults());
}

void TileBuilder::forEach(Value end, llvm::function_ref<void(Value)> body,
                          int64_t step) {
  loop(end, step, {}, [&](Value iv, ValueRange) -> SmallVector<Value> {
    body(iv);
    return {};
  });
}

void TileBuilder::forEachRowBlock(
    int64_t count, llvm::function_ref<void(Value, int64_t)> body) {
  int64_t whole = count / kRowBlock * kRowBlock;
  if (whole)
    forEach(whole, [&](Value first) { body(first, kRowBlock); }, kRowBlock);
  if (whole < count)
    body(constI64(whole), count - whole);
}

void TileBuilder::when(Value condition, llvm::function_ref<void()> body) {
  auto op = scf::IfOp::create(*this, condition, /*withElseRegion=*/false);
  InsertionGuard guard(*this);
  setInsertionPointToStart(op.thenBlock());
  body();
}

Value TileBuilder::broadcast(Value scalar, VectorType type) {
  return vector::BroadcastOp::create(*this, type, scalar);
}

Value TileBuilder::fma(Value a, Value b, Value c) {
  return LLVM::FMulAddOp::create(*this, a, b, c);
}

Value TileBuilder::larger(Value a, Value b) {
  Value first = arith::CmpFOp::create(*this, arith::CmpFPredicate::OGT, a, b);
  return arith::SelectOp::create(*this, first, a, b);
}

Value TileBuilder::join(Value first, Value second) {
  auto type = cast<VectorType>(first.getType());
  auto lanes = llvm::to_vector(llvm::seq(2 * type.getNumElements()));
  return vector::ShuffleOp::create(*this, first, second, lanes);
}

Value TileBuilder::slice(Value vector, int64_t first, int64_t count) {
  return vector::ExtractStridedSliceOp::create(
      *this, vector, ArrayRef<int64_t>{first}, ArrayRef<int64_t>{count},
      ArrayRef<int64_t>{1});
}

/// From each four lanes, the lower or upper ones of `a` and `b` in turns, in
/// runs of `run`.
static Value interleave(TileBuilder &b, Value left, Value right, int64_t run,
                        bool upper) {
  auto type = cast<VectorType>(left.getType());
  constexpr int64_t lanesInTurn = 4;
  SmallVector<int64_t> lanes;
  for (int64_t four = 0; four < type.getNumElements(); four += lanesInTurn)
    for (int64_t i = 0; i < lanesInTurn; ++i) {
      int64_t source = i / run % 2, element = i / (2 * run) * run + i % run;
      lanes.push_back(source * type.getNumElements() + four +
                      (upper ? lanesInTurn / 2 : 0) + element);
    }
  return vector::ShuffleOp::create(b, left, right, lanes);
}

Value TileBuilder::reduceLanes(ArrayRef<Value> vectors, Combine combine) {
  // Vectors are joined in pairs, which combines half of each, until the lanes
  // of one hold a part of every result; these parts are apart by as many lanes
  // as there are results.  All shuffles but the last stay within 128 bits.
  SmallVector<Value> parts(vectors);
  if (parts.size() == 3)
    parts.push_back(parts.back());
  const auto count = static_cast<int64_t>(parts.size());
  for (int64_t run = 1; parts.size() > 1; run *= 2) {
    SmallVector<Value> joined;
    for (size_t i = 0; i < parts.size(); i += 2) {
      Value lower = interleave(*this, parts[i], parts[i + 1], run, false);
      Value upper = interleave(*this, parts[i], parts[i + 1], run, true);
      joined.push_back(combine(lower, upper));
    }
    parts = std::move(joined);
  }
  Value results = parts.front();
  for (int64_t half = cast<VectorType>(results.getType()).getNumElements() / 2;
       half >= count; half /= 2) {
    Value lower = slice(results, 0, half);
    results = combine(lower, slice(results, half, half));
  }
  return results;
}

Value TileBuilder::sumLanes(ArrayRef<Value> vectors) {
  return reduceLanes(vectors, [&](Value a, Value b) -> Value {
    if (isa<FloatType>(getElementTypeOrSelf(a)))
      return arith::AddFOp::create(*this, a, b);
    return arith::AddIOp::create(*this, a, b);
  });
}

Value TileBuilder::exp2(Value x) {
  // 2^x = 2^n * 2^f with n the nearest integer, |f| <= 1/2.  2^f is the
  // polynomial of degree 6 with the least relative error there, 1.9e-9.
  Type f32 = x.getType();
  Type i32 = cast<VectorType>(f32).clone(getI32Type());
  // In this order a NaN stays one: whoever reads the logits must see it.
  Value clamped = larger(splat(f32, -126.0), x);
  // 1.5 * 2^23 leaves n in the low bits.
  Value toInteger = splat(f32, 12582912.0);
  Value shifted = arith::AddFOp::create(*this, clamped, toInteger);
  Value n = arith::SubFOp::create(*this, shifted, toInteger);
  Value f = arith::SubFOp::create(*this, clamped, n);
  constexpr double coefficients[] = {
      1.0,           0.693147206,   0.240226469,   0.0555032878,
      0.00961848896, 0.00133999312, 0.000153458119};
  constexpr size_t degree = std::size(coefficients) - 1;
  Value result = splat(f32, coefficients[degree]);
  for (size_t i = degree; i-- > 0;)
    result = fma(result, f, splat(f32, coefficients[i]));
  Value exponent = arith::BitcastOp::create(*this, i32, shifted);
  exponent = arith::ShLIOp::create(*this, exponent, splatInt(i32, 23));
  exponent = arith::AddIOp::create(*this, exponent, splatInt(i32, 0x3f800000));
  Value power = arith::BitcastOp::create(*this, f32, exponent);
  return arith::MulFOp::create(*this, result, power);
}

//===----------------------------------------------------------------------===//
// Tiles and states
//===----------------------------------------------------------------------===//

Value TileBuilder::packTile(const TileFields &fields) {
  Value tile = LLVM::PoisonOp::create(*this, tileStruct(getContext()));
  int64_t position = 0;
  for (Value field : {fields.base, fields.ids, fields.parameters, fields.count})
    tile = LLVM::InsertValueOp::create(*this, tile, field,
                                       ArrayRef<int64_t>{position++});
  return tile;
}

TileFields TileBuilder::unpackTile(Value tile) {
  auto field = [&](int64_t position) -> Value {
    return LLVM::ExtractValueOp::create(*this, tile,
                                        ArrayRef<int64_t>{position});
  };
  return {field(0), field(1), field(2), field(3)};
}

Value TileBuilder::packPage(Value entry, Value cache) {
  Value page = LLVM::PoisonOp::create(*this, pageStruct(getContext()));
  page = LLVM::InsertValueOp::create(*this, page, entry, ArrayRef<int64_t>{0});
  return LLVM::InsertValueOp::create(*this, page, cache, ArrayRef<int64_t>{1});
}

std::pair<Value, Value> TileBuilder::unpackPage(Value page) {
  Value entry = LLVM::ExtractValueOp::create(*this, page, ArrayRef<int64_t>{0});
  Value cache = LLVM::ExtractValueOp::create(*this, page, ArrayRef<int64_t>{1});
  return {entry, cache};
}

Value TileBuilder::blockAt(const TileFields &tile, Value index,
                           int64_t headDim) {
  Value id = loadI64Field(at(tile.ids, index), 0, 32);
  return at(tile.base, id, rt::blockBytes(headDim));
}

Value TileBuilder::codeVector(const TileFields &tile, Value index,
                              int64_t headDim) {
  int64_t perBlock = rt::blockBytes(headDim) / CodeLayout::kVectorBytes;
  Value block = blockAt(tile, divide(index, perBlock), headDim);
  return at(block, remainder(index, perBlock), CodeLayout::kVectorBytes);
}

Value TileBuilder::rawRow(const TileFields &tile, Value token,
                          int64_t headDim) {
  int64_t perBlock = rt::tokensPerBlock(16);
  Value block = blockAt(tile, divide(token, perBlock), headDim);
  return at(block, remainder(token, perBlock), headDim * 2);
}

StateMemory TileBuilder::state(Value memory, SoftmaxType type) {
  int64_t queryBytes = type.getQueries() * 4;
  return {memory, offset(memory, queryBytes), offset(memory, 2 * queryBytes)};
}
