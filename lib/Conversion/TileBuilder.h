//===- TileBuilder.h - Memory and vectors of lowered tiles ------*- C++ -*-===//
//
// A builder with the idioms that all lowerings of tile ops share: scratch
// memory, addresses, vector loads, loops.  Neighbours: TileToVector.cpp
// (types), Lower*.cpp (who uses it).  Private to lib/Conversion.
//
// What tile-level types become:
//   cache, batch, pages   a pointer to the struct of pmkvq_rt/Abi.h
//   page                  {PageEntry *, CacheView *}
//   tile                  {base, block ids, parameters, token count}: block i
//   is
//                         at base + ids[i] * block bytes
//   rows                  f32 memory, one row every rowStride(width) floats
//   softmax               f32 memory: maxima, sums, outputs
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_TILEBUILDER_H
#define PMKVQ_LIB_CONVERSION_TILEBUILDER_H

#include "CodeLayout.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "pmkvq/IR/PMKVQ.h"

namespace mlir::pmkvq {

/// Elements of a vector of codes, and of the narrowest register.
inline constexpr int64_t kLanes = CodeLayout::kLanes;

/// The fields of a lowered tile.
struct TileFields {
  Value base, ids, parameters, count;
};

/// The parts of a softmax state in memory.
struct StateMemory {
  Value maxima, sums, outputs;
};

/// Bytes that one prefetch fetches.
constexpr int64_t kCacheLineBytes = 64;

class TileBuilder : public ImplicitLocOpBuilder {
public:
  /// Registers have `registerBytes` bytes: 32 or 64.
  TileBuilder(Location loc, OpBuilder &builder,
              int64_t registerBytes = CodeLayout::kVectorBytes)
      : ImplicitLocOpBuilder(loc, builder), registerBytes(registerBytes) {}

  /// Whether registers hold two vectors of codes.
  bool isWide() const { return registerBytes > CodeLayout::kVectorBytes; }
  /// 32-bit elements at a time of rows of `width`: a register's, or kLanes
  /// where rows are no multiple of it.
  int64_t lanes(int64_t width) const {
    int64_t most = registerBytes / 4;
    return width % most ? kLanes : most;
  }

  static LLVM::LLVMStructType tileStruct(MLIRContext *context);
  static LLVM::LLVMStructType pageStruct(MLIRContext *context);

  /// Floats from one row to the next: whole vectors.
  static int64_t rowStride(int64_t width) {
    return (width + kLanes - 1) / kLanes * kLanes;
  }

  //===--------------------------------------------------------------------===//
  // Types and constants
  //===--------------------------------------------------------------------===//

  Type ptrType() { return LLVM::LLVMPointerType::get(getContext()); }
  VectorType f32Vector(int64_t size = kLanes) {
    return VectorType::get({size}, getF32Type());
  }
  VectorType i32Vector(int64_t size = kLanes) {
    return VectorType::get({size}, getI32Type());
  }
  Value constI64(int64_t value);
  Value constF32(double value);
  /// A vector or scalar constant of `type`.
  Value splat(Type type, double value);
  Value splatInt(Type type, int64_t value);
  Value toI64(Value index);
  Value toIndex(Value value);

  //===--------------------------------------------------------------------===//
  // i64 arithmetic
  //===--------------------------------------------------------------------===//

  Value add(Value a, Value b);
  Value add(Value a, int64_t b) { return b ? add(a, constI64(b)) : a; }
  Value mul(Value a, Value b);
  Value mul(Value a, int64_t b) { return b == 1 ? a : mul(a, constI64(b)); }
  Value divide(Value a, int64_t b);
  Value remainder(Value a, int64_t b);

  //===--------------------------------------------------------------------===//
  // Memory
  //===--------------------------------------------------------------------===//

  /// `bytes` bytes of the kernel's stack, taken once a kernel.
  Value scratch(int64_t bytes);
  Value scratchFloats(int64_t count) { return scratch(count * 4); }

  /// base + bytes.
  Value offset(Value base, Value bytes);
  Value offset(Value base, int64_t bytes);
  /// base + elements * elementBytes.
  Value at(Value base, Value elements, int64_t elementBytes = 4) {
    return offset(base, mul(elements, elementBytes));
  }

  Value load(Type type, Value address, unsigned alignment = 0);
  void store(Value value, Value address, unsigned alignment = 0);
  Value loadLanes(Value address, int64_t lanes = kLanes) {
    return load(f32Vector(lanes), address, 4);
  }
  /// bf16 values, as f32.
  Value loadBf16Lanes(Value address, int64_t lanes = kLanes);
  /// Unsigned 16-bit values, as i32.
  Value loadU16Lanes(Value address, int64_t lanes = kLanes);
  void copy(Value to, Value from, int64_t bytes);
  /// Asks for the cache line of `address`, into the second level: the first has
  /// too few buffers for lines on their way.
  void prefetch(Value address);

  /// The field of an Abi struct, widened to i64 where it is a narrower integer.
  Value loadPtrField(Value base, int64_t byteOffset);
  Value loadI64Field(Value base, int64_t byteOffset, unsigned width);

  /// Calls `body` with each block of at most kRowBlock of `count` rows, and
  /// its size, 1 to kRowBlock.
  static constexpr int64_t kRowBlock = 4;
  void forEachRowBlock(int64_t count,
                       llvm::function_ref<void(Value, int64_t)> body);

  /// Memory that holds the elements of `vector`.
  Value spill(Value vector);

  /// A constant table of block ids 0, 1, 2, ...
  Value identityIds();

  //===--------------------------------------------------------------------===//
  // Loops and vectors
  //===--------------------------------------------------------------------===//

  using LoopBody = llvm::function_ref<SmallVector<Value>(Value iv, ValueRange)>;
  /// for (i = 0; i < end; i += step), carrying values; gives the last ones.
  SmallVector<Value> loop(Value end, int64_t step, ValueRange init,
                          LoopBody body);
  SmallVector<Value> loop(int64_t end, int64_t step, ValueRange init,
                          LoopBody body) {
    return loop(constI64(end), step, init, body);
  }
  /// The same, carrying nothing.
  void forEach(Value end, llvm::function_ref<void(Value)> body,
               int64_t step = 1);
  void forEach(int64_t end, llvm::function_ref<void(Value)> body,
               int64_t step = 1) {
    forEach(constI64(end), body, step);
  }

  /// if (condition) body().
  void when(Value condition, llvm::function_ref<void()> body);

  Value broadcast(Value scalar, VectorType type);
  /// a * b + c, rounded once where the CPU has an instruction for it.
  Value fma(Value a, Value b, Value c);
  /// The larger element of each pair; b's if one is a NaN.  One instruction
  /// where x86 has it, unlike IEEE 754's maximum.
  Value larger(Value a, Value b);
  using Combine = llvm::function_ref<Value(Value, Value)>;
  /// Element i of the result is all of `vectors[i]`, combined in any order;
  /// there are 1, 2 or 4 elements, as many as vectors or one more.
  Value reduceLanes(ArrayRef<Value> vectors, Combine combine);
  /// The same for sums: rounding only.
  Value sumLanes(ArrayRef<Value> vectors);
  /// The elements of `first`, then those of `second`.
  Value join(Value first, Value second);
  /// `count` elements of `vector` from `first` on.
  Value slice(Value vector, int64_t first, int64_t count);
  /// 2^x for x <= 0, elementwise; 2^-126 below -126; NaN for NaN.
  Value exp2(Value x);

  //===--------------------------------------------------------------------===//
  // Tiles and states
  //===--------------------------------------------------------------------===//

  Value packTile(const TileFields &fields);
  TileFields unpackTile(Value tile);
  Value packPage(Value entry, Value cache);
  std::pair<Value, Value> unpackPage(Value page);

  /// Address of vector `index` of a part's codes.
  Value codeVector(const TileFields &tile, Value index, int64_t headDim);
  /// Address of block `index` of a part.
  Value blockAt(const TileFields &tile, Value index, int64_t headDim);
  /// Address of row `token` of a tile at level 16, raw or codes.
  Value rawRow(const TileFields &tile, Value token, int64_t headDim);

  StateMemory state(Value memory, SoftmaxType type);

private:
  int64_t registerBytes;
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_TILEBUILDER_H
