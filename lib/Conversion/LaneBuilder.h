//===- LaneBuilder.h - Code of one lane of a warp ---------------*- C++ -*-===//
//
// A builder with the idioms that all lowerings to lanes share: words of two
// f16, matrix instructions, shuffles, addresses.  Neighbours: TileToLanes.cpp
// and the steps after it.  The one file of the lowerings that includes the
// NVVM dialect, whose header is slow to compile, is LaneBuilder.cpp.
//
// A *word* is an i32 that holds two f16 or bf16 values, or four bytes.  Values
// that lanes hold many of are lists of scalars here, and vectors where ops pass
// them on (`pack`, `unpack`), which canonicalization removes.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_LANEBUILDER_H
#define PMKVQ_LIB_CONVERSION_LANEBUILDER_H

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"

namespace mlir::pmkvq {

/// Address spaces of NVPTX.
inline constexpr unsigned kGlobalSpace = 1;
inline constexpr unsigned kSharedSpace = 3;

/// Dialects that the GPU's lowerings create ops of.
void registerLaneDialects(DialectRegistry &registry);

/// The gpu.module that the kernels of `module` go to, made if there is none.
Block *getLaneModule(ModuleOp module);

class LaneBuilder : public ImplicitLocOpBuilder {
public:
  using Values = SmallVector<Value>;
  LaneBuilder(Location loc, OpBuilder &builder)
      : ImplicitLocOpBuilder(loc, builder) {}

  //===--------------------------------------------------------------------===//
  // Functions
  //===--------------------------------------------------------------------===//

  /// A kernel whose only argument is a struct of `bytes`, by value; leaves the
  /// builder in it and gives the struct's address.  `threads` a block, or 0:
  /// any number; registers are such that a multiprocessor holds `blocks`.
  Value startFunction(StringRef name, int64_t bytes, int32_t threads,
                      int32_t blocks = 1);
  /// A pointer into global memory of the struct.
  Value pointerArgument(Value arguments, size_t offset);

  //===--------------------------------------------------------------------===//
  // Scalars
  //===--------------------------------------------------------------------===//

  Value i32(int64_t value);
  Value i64(int64_t value);
  Value f32(double value);
  Value add(Value a, Value b);
  Value add(Value a, int64_t b) { return b ? add(a, i32(b)) : a; }
  Value sub(Value a, Value b);
  Value mul(Value a, Value b);
  Value mul(Value a, int64_t b) { return b == 1 ? a : mul(a, i32(b)); }
  Value andBits(Value a, int64_t mask);
  Value shl(Value a, int64_t bits);
  Value shr(Value a, int64_t bits);
  Value shrSigned(Value a, int64_t bits);
  Value compare(arith::CmpIPredicate predicate, Value a, Value b);
  Value compare(arith::CmpIPredicate predicate, Value a, int64_t b) {
    return compare(predicate, a, i32(b));
  }
  Value select(Value condition, Value a, Value b);
  Value bitcast(Value value, Type type);

  /// One instruction of PTX, for what has neither an op nor an intrinsic: `$0`
  /// and up are the results, then the operands.
  LLVM::InlineAsmOp instruction(TypeRange results, ValueRange operands,
                                StringRef text, StringRef constraints,
                                bool sideEffects);

  /// f32 arithmetic that may be contracted.
  Value addF(Value a, Value b);
  Value subF(Value a, Value b);
  Value mulF(Value a, Value b);
  Value minF(Value a, Value b);
  Value maxF(Value a, Value b);
  Value fma(Value a, Value b, Value c);
  Value toF32(Value integer);
  /// 2^x, log2 x, 1 / x, as the special function unit gives them.
  Value exp2(Value x);
  Value log2(Value x);
  Value reciprocal(Value x);

  //===--------------------------------------------------------------------===//
  // Words
  //===--------------------------------------------------------------------===//

  /// The word of f16(low) and f16(high), from f32.
  Value packHalves(Value low, Value high);
  /// The same in bf16.
  Value packBrainFloats(Value low, Value high);
  /// One f16 of a word, as f32.
  Value half(Value word, int64_t index);
  Value mulHalves(Value a, Value b);
  Value maxHalves(Value a, Value b);
  Value fmaHalves(Value a, Value b, Value c);
  /// max(|a|, |b|) of each half, the sign undefined.
  Value maxAbsHalves(Value a, Value b);
  /// The smaller and the larger of each bf16; NaN if one is.
  Value minimumBrainFloats(Value a, Value b);
  Value maximumBrainFloats(Value a, Value b);
  /// One bf16 of a word, as f32.
  Value brainFloat(Value word, int64_t index);
  /// Both halves `bits`.
  Value splatHalf(uint16_t bits);
  /// Bytes of {a, b} by the selector's nibbles.
  Value permute(Value a, Value b, int64_t selector);

  //===--------------------------------------------------------------------===//
  // Lists
  //===--------------------------------------------------------------------===//

  Value pack(ArrayRef<Value> values);
  Values unpack(Value vector);
  VectorType words(int64_t size) {
    return VectorType::get({size}, getI32Type());
  }
  VectorType floats(int64_t size) {
    return VectorType::get({size}, getF32Type());
  }

  //===--------------------------------------------------------------------===//
  // The warp
  //===--------------------------------------------------------------------===//

  Value threadId();
  Value blockId();
  /// Threads of a block, blocks of the grid.
  Value blockThreads();
  Value gridBlocks();
  void barrier();
  /// A barrier; whether `bit` is set in all threads.
  Value barrierAnd(Value bit);
  void syncWarp();
  Value shuffleXor(Value value, int64_t mask);
  Value shuffle(Value value, Value lane);
  /// Largest unsigned integer of the warp.
  Value maxOverWarp(Value value);
  /// `x` of the lane whose number differs in the bit `mask`.
  Value fromLane(Value x, int64_t mask);
  /// `x`, negated in lanes whose number has the bit `mask`; if `lower`, in the
  /// others.
  Value negateByLane(Value x, Value lane, int64_t mask, bool lower);
  /// The normalized Walsh-Hadamard transform of a row, `x` in each lane, in
  /// blocks of the largest power of two.  Each lane in turn has `run`
  /// neighbouring dims, a power of two, until the row ends: after lane 31 lane
  /// 0 goes on.  No product is contracted into a sum: rounded as on the CPU.
  Values hadamard(Values x, Value lane, int64_t headDim, int64_t run);
  /// The 8x8 matrix of 16-bit elements that a word of each lane makes,
  /// transposed.
  Value transpose(Value word);

  /// c + a * b, four accumulators: u8 codes times bytes, signed or not.  Two
  /// registers of `a` and one of `b` are half as deep as four and two.
  Values mmaBytes(ArrayRef<Value> a, ArrayRef<Value> b, ArrayRef<Value> c,
                  bool isSigned);
  Values mmaHalves(ArrayRef<Value> a, ArrayRef<Value> b, ArrayRef<Value> c);
  Values mmaBrainFloats(ArrayRef<Value> a, ArrayRef<Value> b,
                        ArrayRef<Value> c);

  //===--------------------------------------------------------------------===//
  // Memory
  //===--------------------------------------------------------------------===//

  Type pointer(unsigned space);
  /// base + bytes.
  Value at(Value base, Value bytes);
  Value at(Value base, int64_t bytes) {
    return bytes ? at(base, i32(bytes)) : base;
  }
  Value load(Type type, Value address, unsigned alignment);
  void store(Value value, Value address, unsigned alignment);
  /// base + number * bytes in 64 bits, of an unsigned i32.
  Value atRecord(Value base, Value number, int64_t bytes);
  /// `count` words (1, 2 or 4) at once.
  Values loadWords(Value address, int64_t count);
  void storeWords(const Values &words, Value address);
  /// Stores four words to global memory with a policy of the GPU's cache.
  void storeWithPolicy(const Values &words, Value address, Value policy);

  //===--------------------------------------------------------------------===//
  // The ring and launches
  //===--------------------------------------------------------------------===//

  void initBarrier(Value barrier);
  void fenceBarrierInit();
  void expectBytes(Value barrier, Value bytes);
  void waitBarrier(Value barrier, Value parity);
  void bulkCopy(Value to, Value from, Value barrier, Value bytes, Value policy);
  /// 16 bytes of this lane from global to shared memory; groups of copies end,
  /// and all of them are waited for.
  void copyAsync(Value to, Value from);
  void endCopies();
  void waitCopies();
  Value evictFirstPolicy();
  void waitForDependency();
  void launchDependents();
  /// Four words at once, as one access that other thread blocks see whole.
  void storeWhole(const Values &words, Value address);
  Values loadWhole(Value address);
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_LANEBUILDER_H
