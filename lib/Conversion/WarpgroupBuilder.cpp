//===- WarpgroupBuilder.cpp - Code of warpgroups --------------------------===//
//
// See WarpgroupBuilder.h.
//
//===----------------------------------------------------------------------===//

#include "WarpgroupBuilder.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "pmkvq/Target/WarpgroupLayout.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
using ::pmkvq::HalfTile;

//===----------------------------------------------------------------------===//
// Roles and barriers
//===----------------------------------------------------------------------===//

void WarpgroupBuilder::setRegisters(int64_t count, bool increase) {
  NVVM::SetMaxRegisterOp::create(*this, static_cast<uint32_t>(count),
                                 increase
                                     ? NVVM::SetMaxRegisterAction::increase
                                     : NVVM::SetMaxRegisterAction::decrease);
}
void WarpgroupBuilder::syncThreads(Value barrier, int64_t threads) {
  NVVM::BarrierOp::create(*this, TypeRange(), barrier, i32(threads),
                          NVVM::BarrierReductionAttr(), Value());
}
void WarpgroupBuilder::arriveThreads(Value barrier, int64_t threads) {
  NVVM::BarrierArriveOp::create(*this, barrier, i32(threads));
}
void WarpgroupBuilder::initBarrierFor(Value barrier, int64_t arrivals) {
  NVVM::MBarrierInitOp::create(*this, barrier, i32(arrivals), Value());
}
void WarpgroupBuilder::arriveBarrier(Value barrier) {
  NVVM::MBarrierArriveOp::create(*this, getI64Type(), barrier, Value());
}
void WarpgroupBuilder::fenceShared() {
  NVVM::FenceProxyOp::create(
      *this, NVVM::ProxyKind::async_shared,
      NVVM::SharedSpaceAttr::get(getContext(), NVVM::SharedSpace::shared_cta));
}
Value WarpgroupBuilder::any(Value condition) {
  return NVVM::VoteSyncOp::create(*this, getI1Type(), i32(-1), condition,
                                  NVVM::VoteSyncKind::any);
}

Value WarpgroupBuilder::syncAny(Value barrier, int64_t threads,
                                Value condition) {
  return LLVM::CallIntrinsicOp::create(
             *this, getI1Type(),
             getStringAttr("llvm.nvvm.barrier.cta.red.or.aligned.count"),
             ValueRange{barrier, i32(threads), condition})
      ->getResult(0);
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

void WarpgroupBuilder::fenceProducts() {
  NVVM::WgmmaFenceAlignedOp::create(*this);
}
void WarpgroupBuilder::commitProducts() {
  NVVM::WgmmaGroupSyncAlignedOp::create(*this);
}
void WarpgroupBuilder::limitProducts(int64_t pending) {
  NVVM::WgmmaWaitGroupSyncOp::create(*this, pending);
}

static Type structOf(LaneBuilder &b, size_t count, Type type) {
  return LLVM::LLVMStructType::getLiteral(b.getContext(),
                                          SmallVector<Type>(count, type));
}
static Type structOf(LaneBuilder &b, size_t count) {
  return structOf(b, count, b.getF32Type());
}

static Values elementsOf(LaneBuilder &b, Value aggregate, size_t count) {
  Values values;
  for (size_t i = 0; i < count; ++i)
    values.push_back(LLVM::ExtractValueOp::create(b, aggregate, int64_t(i)));
  return values;
}

/// One instruction on registers that it changes, then on others: `$0` and up
/// are the results, the operands follow.
static Values changeRegisters(LaneBuilder &b, const Values &registers,
                              ArrayRef<Value> others, StringRef text,
                              StringRef constraints) {
  std::string all;
  for (size_t i = 0; i < registers.size(); ++i)
    all += "=f,";
  all += constraints;
  for (size_t i = 0; i < registers.size(); ++i)
    all += (all.back() == ',' ? "" : ",") + std::to_string(i);
  // Operands that are tied to results come last, so that the others' numbers
  // follow the results' at once.
  Values operands(others);
  llvm::append_range(operands, registers);
  Value result = b.instruction(structOf(b, registers.size()), operands, text,
                               all, /*sideEffects=*/true)
                     .getResult(0);
  return elementsOf(b, result, registers.size());
}

Values WarpgroupBuilder::awaitProducts(const Values &registers,
                                       int64_t pending) {
  // The op for it does not say that registers change.
  return changeRegisters(
      *this, registers, {},
      "wgmma.wait_group.sync.aligned " + std::to_string(pending) + ";", "");
}

Value WarpgroupBuilder::descriptor(Value address) {
  // Bits 0..13: address / 16; 16..29: leading offset, not used with a swizzle.
  Value place = shr(andBits(toInteger(address), 0x3ffff), 4);
  return arith::OrIOp::create(*this, place, i32(1 << 16));
}

/// Both halves of a descriptor.
static Value wholeDescriptor(LaneBuilder &b, Value low) {
  // Bits 32..45: bytes between groups of 8 rows / 16; 62..63: 128-byte swizzle.
  constexpr int64_t kGroupBytes = HalfTile::kSwizzleRows * HalfTile::kRowBytes;
  constexpr int64_t high = kGroupBytes / 16 << 32 | int64_t{1} << 62;
  Value wide = arith::ExtUIOp::create(b, b.getI64Type(), low);
  return arith::OrIOp::create(b, wide, b.i64(high));
}

Value WarpgroupBuilder::forget(Value integer) {
  return instruction(integer.getType(), integer, "mov.b32 $0, $1;", "=r,r",
                     /*sideEffects=*/true)
      .getResult(0);
}

Values WarpgroupBuilder::multiplyShared(const Values &accumulators,
                                        Value descriptorA, Value descriptorB,
                                        bool fresh) {
  Type type = structOf(*this, accumulators.size());
  Value aggregate = LLVM::UndefOp::create(*this, type);
  for (auto [i, value] : llvm::enumerate(accumulators))
    aggregate = LLVM::InsertValueOp::create(*this, aggregate, value,
                                            static_cast<int64_t>(i));
  Value wholeA = wholeDescriptor(*this, descriptorA);
  Value wholeB = wholeDescriptor(*this, descriptorB);
  Value result = NVVM::WgmmaMmaAsyncOp::create(
      *this, type, aggregate, wholeA, wholeB,
      NVVM::MMAShapeAttr::get(getContext(), 64, 128, 16), NVVM::WGMMATypes::f16,
      NVVM::WGMMATypes::f16, NVVM::WGMMATypes::f32,
      fresh ? NVVM::WGMMAScaleOut::zero : NVVM::WGMMAScaleOut::one,
      NVVM::WGMMAScaleIn::one, NVVM::WGMMAScaleIn::one, NVVM::MMALayout::row,
      NVVM::MMALayout::col, NVVM::MMAIntOverflowAttr());
  return elementsOf(*this, result, accumulators.size());
}

/// The op for it takes A from shared memory only.
static std::string productText(size_t count, bool fresh) {
  auto list = [](size_t first, size_t last) {
    std::string text = "{";
    for (size_t i = first; i < last; ++i)
      text += (i == first ? "$" : ", $") + std::to_string(i);
    return text + "}";
  };
  return std::string("{ .reg .pred p; setp.ne.b32 p, ") + (fresh ? "0" : "1") +
         ", 0; wgmma.mma_async.sync.aligned.m64n" + std::to_string(2 * count) +
         "k16.f32.f16.f16 " + list(0, count) + ", " + list(count, count + 4) +
         ", $" + std::to_string(count + 4) + ", p, 1, 1, 0; }";
}
static constexpr llvm::StringLiteral kProductOperands = "r,r,r,r,l";

Values WarpgroupBuilder::multiplyRegisters(const Values &accumulators,
                                           ArrayRef<Value> a,
                                           Value descriptorB) {
  Values others(a);
  others.push_back(wholeDescriptor(*this, descriptorB));
  return changeRegisters(*this, accumulators, others,
                         productText(accumulators.size(), /*fresh=*/false),
                         kProductOperands);
}

Values WarpgroupBuilder::multiplyRegisters(size_t count, ArrayRef<Value> a,
                                           Value descriptorB) {
  Values operands(a);
  operands.push_back(wholeDescriptor(*this, descriptorB));
  std::string constraints;
  for (size_t i = 0; i < count; ++i)
    constraints += "=f,";
  Value result = instruction(structOf(*this, count), operands,
                             productText(count, /*fresh=*/true),
                             constraints + kProductOperands.str(),
                             /*sideEffects=*/true)
                     .getResult(0);
  return elementsOf(*this, result, count);
}

Values WarpgroupBuilder::hold(const Values &words) {
  std::string constraints;
  for (size_t i = 0; i < words.size(); ++i)
    constraints += "=r,";
  for (size_t i = 0; i < words.size(); ++i)
    constraints += (i ? "," : "") + std::to_string(i);
  Value result = instruction(structOf(*this, words.size(), getI32Type()), words,
                             "// operands", constraints, /*sideEffects=*/true)
                     .getResult(0);
  return elementsOf(*this, result, words.size());
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Values WarpgroupBuilder::loadConstantWords(Value address, int64_t count) {
  auto load = [&](Type type, unsigned alignment) -> Value {
    return LLVM::LoadOp::create(*this, type, address, alignment,
                                /*isVolatile=*/false, /*isNonTemporal=*/false,
                                /*isInvariant=*/true);
  };
  if (count == 1)
    return {load(getI32Type(), 4)};
  Value vector = load(words(count), static_cast<unsigned>(count * 4));
  Values values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(LLVM::ExtractElementOp::create(*this, vector, i32(i)));
  return values;
}

void WarpgroupBuilder::storeWords(ArrayRef<Value> values, Value address) {
  auto count = static_cast<int64_t>(values.size());
  Value vector = LLVM::UndefOp::create(*this, words(count));
  for (auto [i, value] : llvm::enumerate(values))
    vector = LLVM::InsertElementOp::create(*this, vector, value,
                                           i32(static_cast<int64_t>(i)));
  store(vector, address, static_cast<unsigned>(count * 4));
}

Values WarpgroupBuilder::loadMatrices(Value address, int64_t count) {
  Value words = NVVM::LdMatrixOp::create(
      *this, structOf(*this, static_cast<size_t>(count), getI32Type()), address,
      static_cast<uint32_t>(count), NVVM::MMALayout::row,
      NVVM::LdStMatrixShapeAttr::get(getContext(), 8, 8),
      NVVM::LdStMatrixEltType::B16);
  return elementsOf(*this, words, static_cast<size_t>(count));
}

void WarpgroupBuilder::storeTransposed(ArrayRef<Value> words, Value address) {
  NVVM::StMatrixOp::create(*this, address, words, NVVM::MMALayout::col,
                           NVVM::LdStMatrixShapeAttr::get(getContext(), 8, 8),
                           NVVM::LdStMatrixEltType::B16);
}

Value WarpgroupBuilder::farAt(Value base, Value index, int64_t bytes) {
  Value wide = arith::ExtUIOp::create(*this, getI64Type(), index);
  return at(base, arith::MulIOp::create(*this, wide, i64(bytes)));
}

Value WarpgroupBuilder::toInteger(Value address) {
  return LLVM::PtrToIntOp::create(*this, getI32Type(), address);
}
Value WarpgroupBuilder::toShared(Value integer) {
  return LLVM::IntToPtrOp::create(*this, pointer(kSharedSpace), integer);
}
Value WarpgroupBuilder::xorBits(Value a, int64_t bits) {
  return bits ? arith::XOrIOp::create(*this, a, i32(bits)).getResult() : a;
}
