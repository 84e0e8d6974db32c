//===- LaneBuilder.cpp - Code of one lane of a warp -----------------------===//
//
// See LaneBuilder.h.
//
//===----------------------------------------------------------------------===//

#include "LaneBuilder.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "llvm/Support/MathExtras.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;

void mlir::pmkvq::registerLaneDialects(DialectRegistry &registry) {
  registry.insert<LLVM::LLVMDialect, NVVM::NVVMDialect, arith::ArithDialect,
                  gpu::GPUDialect, scf::SCFDialect, vector::VectorDialect>();
}

Block *mlir::pmkvq::getLaneModule(ModuleOp module) {
  auto existing = module.getOps<gpu::GPUModuleOp>();
  if (!existing.empty())
    return (*existing.begin()).getBody();
  OpBuilder builder = OpBuilder::atBlockEnd(module.getBody());
  return gpu::GPUModuleOp::create(builder, module.getLoc(), "kernels")
      .getBody();
}

//===----------------------------------------------------------------------===//
// Functions
//===----------------------------------------------------------------------===//

Value LaneBuilder::startFunction(StringRef name, int64_t bytes, int32_t threads,
                                 int32_t blocks) {
  MLIRContext *context = getContext();
  auto function = LLVM::LLVMFuncOp::create(
      *this, name,
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context),
                                  {pointer(0)}));
  function.setArgAttr(
      0, LLVM::LLVMDialect::getByValAttrName(),
      TypeAttr::get(LLVM::LLVMArrayType::get(getI64Type(), bytes / 8)));
  function.setArgAttr(0, LLVM::LLVMDialect::getAlignAttrName(),
                      getI64IntegerAttr(8));
  function->setAttr("nvvm.kernel", getUnitAttr());
  if (threads) {
    function->setAttr("nvvm.reqntid", getDenseI32ArrayAttr({threads}));
    function->setAttr("nvvm.minctasm", getI32IntegerAttr(blocks));
  }
  Block *entry = function.addEntryBlock(*this);
  setInsertionPointToStart(entry);
  LLVM::ReturnOp::create(*this, ValueRange());
  setInsertionPoint(entry->getTerminator());
  return entry->getArgument(0);
}

Value LaneBuilder::pointerArgument(Value arguments, size_t offset) {
  Value address =
      load(pointer(0), at(arguments, static_cast<int64_t>(offset)), 8);
  return LLVM::AddrSpaceCastOp::create(*this, pointer(kGlobalSpace), address);
}

//===----------------------------------------------------------------------===//
// Scalars
//===----------------------------------------------------------------------===//

static constexpr auto kContract = arith::FastMathFlags::contract;

Value LaneBuilder::i32(int64_t value) {
  return arith::ConstantOp::create(
      *this, IntegerAttr::get(getI32Type(), APInt(32, value, false, true)));
}
Value LaneBuilder::i64(int64_t value) {
  return arith::ConstantOp::create(*this, getI64IntegerAttr(value));
}
Value LaneBuilder::f32(double value) {
  return arith::ConstantOp::create(*this,
                                   getF32FloatAttr(static_cast<float>(value)));
}
Value LaneBuilder::add(Value a, Value b) {
  return arith::AddIOp::create(*this, a, b);
}
Value LaneBuilder::sub(Value a, Value b) {
  return arith::SubIOp::create(*this, a, b);
}
Value LaneBuilder::mul(Value a, Value b) {
  return arith::MulIOp::create(*this, a, b);
}
Value LaneBuilder::andBits(Value a, int64_t mask) {
  return arith::AndIOp::create(*this, a, i32(mask));
}
Value LaneBuilder::shl(Value a, int64_t bits) {
  return arith::ShLIOp::create(*this, a, i32(bits));
}
Value LaneBuilder::shr(Value a, int64_t bits) {
  return arith::ShRUIOp::create(*this, a, i32(bits));
}
Value LaneBuilder::shrSigned(Value a, int64_t bits) {
  return arith::ShRSIOp::create(*this, a, i32(bits));
}
Value LaneBuilder::compare(arith::CmpIPredicate predicate, Value a, Value b) {
  return arith::CmpIOp::create(*this, predicate, a, b);
}
Value LaneBuilder::select(Value condition, Value a, Value b) {
  return arith::SelectOp::create(*this, condition, a, b);
}
Value LaneBuilder::bitcast(Value value, Type type) {
  return value.getType() == type ? value
                                 : LLVM::BitcastOp::create(*this, type, value);
}

Value LaneBuilder::addF(Value a, Value b) {
  return arith::AddFOp::create(*this, a, b, kContract);
}
Value LaneBuilder::subF(Value a, Value b) {
  return arith::SubFOp::create(*this, a, b, kContract);
}
Value LaneBuilder::mulF(Value a, Value b) {
  return arith::MulFOp::create(*this, a, b, kContract);
}
Value LaneBuilder::minF(Value a, Value b) {
  return LLVM::MinNumOp::create(*this, a, b);
}
Value LaneBuilder::maxF(Value a, Value b) {
  // The intrinsic: arith.maxnumf would call libdevice.
  return LLVM::MaxNumOp::create(*this, a, b);
}
Value LaneBuilder::fma(Value a, Value b, Value c) {
  return LLVM::FMAOp::create(*this, a, b, c);
}
Value LaneBuilder::toF32(Value integer) {
  return arith::SIToFPOp::create(*this, getF32Type(), integer);
}

static Value callIntrinsic(LaneBuilder &b, StringRef name, Type type,
                           ValueRange operands) {
  return LLVM::CallIntrinsicOp::create(b, type, b.getStringAttr(name), operands)
      ->getResult(0);
}

Value LaneBuilder::exp2(Value x) {
  return callIntrinsic(*this, "llvm.nvvm.ex2.approx.ftz.f32", getF32Type(), x);
}
Value LaneBuilder::log2(Value x) {
  return callIntrinsic(*this, "llvm.nvvm.lg2.approx.ftz.f", getF32Type(), x);
}
Value LaneBuilder::reciprocal(Value x) {
  return callIntrinsic(*this, "llvm.nvvm.rcp.approx.ftz.f", getF32Type(), x);
}

//===----------------------------------------------------------------------===//
// Words
//===----------------------------------------------------------------------===//

static VectorType halves(LaneBuilder &b) {
  return VectorType::get({2}, b.getF16Type());
}

Value LaneBuilder::packHalves(Value low, Value high) {
  Value pair =
      callIntrinsic(*this, "llvm.nvvm.ff2f16x2.rn", halves(*this), {high, low});
  return bitcast(pair, getI32Type());
}
Value LaneBuilder::packBrainFloats(Value low, Value high) {
  Value pair = callIntrinsic(*this, "llvm.nvvm.ff2bf16x2.rn",
                             VectorType::get({2}, getBF16Type()), {high, low});
  return bitcast(pair, getI32Type());
}
Value LaneBuilder::half(Value word, int64_t index) {
  Value element = LLVM::ExtractElementOp::create(
      *this, bitcast(word, halves(*this)), i32(index));
  return arith::ExtFOp::create(*this, getF32Type(), element);
}
/// Operands in the order that they are named in: compilers differ in which
/// argument of a call they evaluate, and so emit, first.
template <typename OpTy, typename... Words>
static Value onHalves(LaneBuilder &b, Words... words) {
  Values operands = {b.bitcast(words, halves(b))...};
  Value r = OpTy::create(b, halves(b), operands);
  return b.bitcast(r, b.getI32Type());
}
Value LaneBuilder::mulHalves(Value x, Value y) {
  return onHalves<LLVM::FMulOp>(*this, x, y);
}
Value LaneBuilder::maxHalves(Value x, Value y) {
  return onHalves<LLVM::MaxNumOp>(*this, x, y);
}
Value LaneBuilder::fmaHalves(Value x, Value y, Value z) {
  return onHalves<LLVM::FMAOp>(*this, x, y, z);
}
Value LaneBuilder::maxAbsHalves(Value a, Value b) {
  Value r =
      callIntrinsic(*this, "llvm.nvvm.fmax.xorsign.abs.f16x2", halves(*this),
                    {bitcast(a, halves(*this)), bitcast(b, halves(*this))});
  return bitcast(r, getI32Type());
}
template <typename OpTy>
static Value onBrainFloats(LaneBuilder &b, Value x, Value y) {
  auto type = VectorType::get({2}, b.getBF16Type());
  Value left = b.bitcast(x, type), right = b.bitcast(y, type);
  Value r = OpTy::create(b, left, right);
  return b.bitcast(r, b.getI32Type());
}
Value LaneBuilder::minimumBrainFloats(Value a, Value b) {
  return onBrainFloats<LLVM::MinimumOp>(*this, a, b);
}
Value LaneBuilder::maximumBrainFloats(Value a, Value b) {
  return onBrainFloats<LLVM::MaximumOp>(*this, a, b);
}
Value LaneBuilder::brainFloat(Value word, int64_t index) {
  Value bits =
      index ? andBits(word, static_cast<int32_t>(0xffff0000)) : shl(word, 16);
  return bitcast(bits, getF32Type());
}
Value LaneBuilder::splatHalf(uint16_t bits) {
  return i32(static_cast<int32_t>(bits | uint32_t(bits) << 16));
}
Value LaneBuilder::permute(Value a, Value b, int64_t selector) {
  return NVVM::PermuteOp::create(*this, getI32Type(), a, b, i32(selector),
                                 NVVM::PermuteMode::DEFAULT);
}

//===----------------------------------------------------------------------===//
// Lists
//===----------------------------------------------------------------------===//

Value LaneBuilder::pack(ArrayRef<Value> values) {
  auto type = VectorType::get({static_cast<int64_t>(values.size())},
                              values.front().getType());
  return vector::FromElementsOp::create(*this, type, values);
}

Values LaneBuilder::unpack(Value vector) {
  if (auto from = vector.getDefiningOp<vector::FromElementsOp>())
    return Values(from.getElements());
  Values values;
  int64_t size = cast<VectorType>(vector.getType()).getNumElements();
  for (int64_t i = 0; i < size; ++i)
    values.push_back(vector::ExtractOp::create(*this, vector, i));
  return values;
}

//===----------------------------------------------------------------------===//
// The warp
//===----------------------------------------------------------------------===//

Value LaneBuilder::threadId() {
  return NVVM::ThreadIdXOp::create(*this, getI32Type());
}
Value LaneBuilder::blockId() {
  return NVVM::BlockIdXOp::create(*this, getI32Type());
}
Value LaneBuilder::blockThreads() {
  return NVVM::BlockDimXOp::create(*this, getI32Type());
}
Value LaneBuilder::gridBlocks() {
  return NVVM::GridDimXOp::create(*this, getI32Type());
}
void LaneBuilder::barrier() { NVVM::Barrier0Op::create(*this); }
Value LaneBuilder::barrierAnd(Value bit) {
  return callIntrinsic(*this, "llvm.nvvm.barrier.cta.red.and.aligned.all",
                       getI1Type(), {i32(0), bit});
}
void LaneBuilder::syncWarp() { NVVM::SyncWarpOp::create(*this, i32(-1)); }
Value LaneBuilder::fromLane(Value x, int64_t mask) {
  return bitcast(shuffleXor(bitcast(x, getI32Type()), mask), getF32Type());
}

Value LaneBuilder::negateByLane(Value x, Value lane, int64_t mask, bool lower) {
  Value bit = shl(andBits(lane, mask), 31 - llvm::Log2_64(mask));
  if (lower)
    bit = arith::XOrIOp::create(*this, bit, i32(int64_t{1} << 31));
  Value bits = arith::XOrIOp::create(*this, bitcast(x, getI32Type()), bit);
  return bitcast(bits, getF32Type());
}

Values LaneBuilder::hadamard(Values x, Value lane, int64_t headDim,
                             int64_t run) {
  const int64_t lanes = std::min<int64_t>(32, headDim / run);
  const int64_t block = headDim & -headDim;
  for (int64_t half = 1; half < block; half *= 2) {
    const bool isMine = half < run || half >= run * lanes;
    // The bit of an element's number among the lane's, or of the lane's.
    int64_t mask = half < run ? half : (isMine ? half / lanes : half / run);
    Values next;
    for (int64_t i = 0; i < static_cast<int64_t>(x.size()); ++i)
      if (isMine) {
        next.push_back(
            i & mask ? Value(arith::SubFOp::create(*this, x[i ^ mask], x[i]))
                     : Value(arith::AddFOp::create(*this, x[i], x[i ^ mask])));
      } else {
        Value other = fromLane(x[i], mask);
        Value mine = negateByLane(x[i], lane, mask, /*lower=*/false);
        next.push_back(arith::AddFOp::create(*this, other, mine));
      }
    x = next;
  }
  Value norm = f32(1.0 / std::sqrt(static_cast<double>(block)));
  for (Value &value : x)
    value = arith::MulFOp::create(*this, value, norm);
  return x;
}

Value LaneBuilder::shuffleXor(Value value, int64_t mask) {
  return NVVM::ShflOp::create(*this, value.getType(), i32(-1), value, i32(mask),
                              i32(31), NVVM::ShflKind::bfly, UnitAttr());
}
Value LaneBuilder::shuffle(Value value, Value lane) {
  return NVVM::ShflOp::create(*this, value.getType(), i32(-1), value, lane,
                              i32(31), NVVM::ShflKind::idx, UnitAttr());
}
Value LaneBuilder::maxOverWarp(Value value) {
  return NVVM::ReduxOp::create(*this, value.getType(), value,
                               NVVM::ReduxKind::UMAX, i32(-1));
}
Value LaneBuilder::transpose(Value word) {
  return instruction(getI32Type(), word,
                     "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r",
                     /*sideEffects=*/false)
      .getResult(0);
}

static Values mma(LaneBuilder &b, ValueRange a, ValueRange operandB,
                  ValueRange c, ArrayRef<int64_t> shape,
                  std::optional<NVVM::MMAIntOverflow> overflow,
                  NVVM::MMATypes typeA, NVVM::MMATypes typeB) {
  Type element = c[0].getType();
  auto type = LLVM::LLVMStructType::getLiteral(
      b.getContext(), {element, element, element, element});
  Value result = NVVM::MmaOp::create(
      b, type, a, operandB, c, shape, std::nullopt, overflow,
      std::array{typeA, typeB},
      std::array{NVVM::MMALayout::row, NVVM::MMALayout::col});
  Values values;
  for (int64_t i = 0; i < 4; ++i)
    values.push_back(LLVM::ExtractValueOp::create(b, result, i));
  return values;
}

Values LaneBuilder::mmaBytes(ArrayRef<Value> a, ArrayRef<Value> b,
                             ArrayRef<Value> c, bool isSigned) {
  return mma(*this, a, b, c, {16, 8, static_cast<int64_t>(a.size()) * 8},
             NVVM::MMAIntOverflow::wrapped, NVVM::MMATypes::u8,
             isSigned ? NVVM::MMATypes::s8 : NVVM::MMATypes::u8);
}

Values LaneBuilder::mmaHalves(ArrayRef<Value> a, ArrayRef<Value> b,
                              ArrayRef<Value> c) {
  Values halvesA, halvesB;
  for (Value value : a)
    halvesA.push_back(bitcast(value, halves(*this)));
  for (Value value : b)
    halvesB.push_back(bitcast(value, halves(*this)));
  return mma(*this, halvesA, halvesB, c, {16, 8, 16}, std::nullopt,
             NVVM::MMATypes::f16, NVVM::MMATypes::f16);
}

Values LaneBuilder::mmaBrainFloats(ArrayRef<Value> a, ArrayRef<Value> b,
                                   ArrayRef<Value> c) {
  return mma(*this, a, b, c, {16, 8, 16}, std::nullopt, NVVM::MMATypes::bf16,
             NVVM::MMATypes::bf16);
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Type LaneBuilder::pointer(unsigned space) {
  return LLVM::LLVMPointerType::get(getContext(), space);
}
Value LaneBuilder::at(Value base, Value bytes) {
  return LLVM::GEPOp::create(*this, base.getType(), getI8Type(), base,
                             ArrayRef<LLVM::GEPArg>{bytes});
}
Value LaneBuilder::load(Type type, Value address, unsigned alignment) {
  return LLVM::LoadOp::create(*this, type, address, alignment);
}
void LaneBuilder::store(Value value, Value address, unsigned alignment) {
  LLVM::StoreOp::create(*this, value, address, alignment);
}
Value LaneBuilder::atRecord(Value base, Value number, int64_t bytes) {
  Value wide = arith::ExtUIOp::create(*this, getI64Type(), number);
  return at(base, arith::MulIOp::create(*this, wide, i64(bytes)));
}
Values LaneBuilder::loadWords(Value address, int64_t count) {
  if (count == 1)
    return {load(getI32Type(), address, 4)};
  Value vector = load(words(count), address, count * 4);
  Values values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(LLVM::ExtractElementOp::create(*this, vector, i32(i)));
  return values;
}
void LaneBuilder::storeWords(const Values &words, Value address) {
  auto count = static_cast<int64_t>(words.size());
  if (count == 1)
    return store(words[0], address, 4);
  Value vector = LLVM::UndefOp::create(*this, this->words(count));
  for (auto [i, word] : llvm::enumerate(words))
    vector = LLVM::InsertElementOp::create(*this, vector, word,
                                           i32(static_cast<int64_t>(i)));
  store(vector, address, static_cast<unsigned>(count * 4));
}

void LaneBuilder::storeWithPolicy(const Values &words, Value address,
                                  Value policy) {
  assert(words.size() == 4 && "a vector of 16 bytes");
  Values operands = {address};
  llvm::append_range(operands, words);
  operands.push_back(policy);
  instruction({}, operands,
              "st.global.L2::cache_hint.v4.b32 [$0], {$1, $2, $3, $4}, $5;",
              "l,r,r,r,r,l", /*sideEffects=*/true);
}

//===----------------------------------------------------------------------===//
// The ring and launches
//===----------------------------------------------------------------------===//

void LaneBuilder::initBarrier(Value barrier) {
  NVVM::MBarrierInitOp::create(*this, barrier, i32(1), Value());
}
void LaneBuilder::fenceBarrierInit() {
  NVVM::FenceMbarrierInitOp::create(*this);
}
void LaneBuilder::expectBytes(Value barrier, Value bytes) {
  NVVM::MBarrierArriveExpectTxOp::create(*this, TypeRange(), barrier, bytes,
                                         NVVM::MemScopeKind::CTA, false,
                                         Value());
}
void LaneBuilder::waitBarrier(Value barrier, Value parity) {
  NVVM::MBarrierTryWaitParityOp::create(*this, barrier, parity, i32(10000000));
}
void LaneBuilder::bulkCopy(Value to, Value from, Value barrier, Value bytes,
                           Value policy) {
  NVVM::CpAsyncBulkGlobalToSharedClusterOp::create(*this, to, from, barrier,
                                                   bytes, Value(), policy);
}

void LaneBuilder::copyAsync(Value to, Value from) {
  NVVM::CpAsyncOp::create(*this, to, from, 16, NVVM::LoadCacheModifierKind::CG,
                          Value());
}
void LaneBuilder::endCopies() { NVVM::CpAsyncCommitGroupOp::create(*this); }
void LaneBuilder::waitCopies() { NVVM::CpAsyncWaitGroupOp::create(*this, 0); }

LLVM::InlineAsmOp LaneBuilder::instruction(TypeRange results,
                                           ValueRange operands, StringRef text,
                                           StringRef constraints,
                                           bool sideEffects) {
  return LLVM::InlineAsmOp::create(
      *this, results, operands, text, constraints, sideEffects,
      /*is_align_stack=*/false, LLVM::TailCallKind::None,
      LLVM::AsmDialectAttr::get(getContext(), LLVM::AsmDialect::AD_ATT),
      /*operand_attrs=*/ArrayAttr());
}

Value LaneBuilder::evictFirstPolicy() {
  return instruction(getI64Type(), {},
                     "createpolicy.fractional.L2::evict_first.b64 $0, 1.0;",
                     "=l", /*sideEffects=*/false)
      .getResult(0);
}
void LaneBuilder::waitForDependency() {
  NVVM::GriddepcontrolOp::create(*this, NVVM::GridDepActionKind::wait);
}
void LaneBuilder::launchDependents() {
  NVVM::GriddepcontrolOp::create(*this,
                                 NVVM::GridDepActionKind::launch_dependents);
}

// No op and no intrinsic has 128-bit relaxed accesses.

void LaneBuilder::storeWhole(const Values &words, Value address) {
  auto wide = [&](Value low, Value high) -> Value {
    Value pair = LLVM::UndefOp::create(*this, this->words(2));
    pair = LLVM::InsertElementOp::create(*this, pair, low, i32(0));
    pair = LLVM::InsertElementOp::create(*this, pair, high, i32(1));
    return bitcast(pair, getI64Type());
  };
  instruction(
      TypeRange(),
      ValueRange{address, wide(words[0], words[1]), wide(words[2], words[3])},
      "{ .reg .b128 v; mov.b128 v, {$1, $2}; "
      "st.relaxed.gpu.global.b128 [$0], v; }",
      "l,l,l", /*sideEffects=*/true);
}

Values LaneBuilder::loadWhole(Value address) {
  auto type = LLVM::LLVMStructType::getLiteral(getContext(),
                                               {getI64Type(), getI64Type()});
  Value pair = instruction(type, address,
                           "{ .reg .b128 v; "
                           "ld.relaxed.gpu.global.b128 v, [$2]; "
                           "mov.b128 {$0, $1}, v; }",
                           "=l,=l,l", /*sideEffects=*/true)
                   .getResult(0);
  Values loaded;
  for (int64_t i = 0; i < 2; ++i) {
    Value wide = LLVM::ExtractValueOp::create(*this, pair, i);
    Value both = bitcast(wide, words(2));
    for (int64_t j = 0; j < 2; ++j)
      loaded.push_back(LLVM::ExtractElementOp::create(*this, both, i32(j)));
  }
  return loaded;
}
