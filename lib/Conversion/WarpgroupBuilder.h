//===- WarpgroupBuilder.h - Code of warpgroups ------------------*- C++ -*-===//
//
// What prefill needs beyond LaneBuilder.h: matrix instructions of warpgroups,
// barriers between them, registers that they hand over.  Neighbours:
// TileToWarpgroups.cpp and the steps after it.  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_WARPGROUPBUILDER_H
#define PMKVQ_LIB_CONVERSION_WARPGROUPBUILDER_H

#include "LaneBuilder.h"

namespace mlir::pmkvq {

class WarpgroupBuilder : public LaneBuilder {
public:
  using LaneBuilder::LaneBuilder;

  //===--------------------------------------------------------------------===//
  // Roles and barriers
  //===--------------------------------------------------------------------===//

  /// Gives registers back, or takes them; all threads of the warpgroup.
  void setRegisters(int64_t count, bool increase);
  /// Named barriers, 1 .. 15: waits for `threads` to have arrived, or arrives.
  void syncThreads(Value barrier, int64_t threads);
  void arriveThreads(Value barrier, int64_t threads);
  void initBarrierFor(Value barrier, int64_t arrivals);
  void arriveBarrier(Value barrier);
  /// Makes this thread's stores to shared memory visible to `wgmma`.
  void fenceShared();
  /// Whether any lane of the warp has it.
  Value any(Value condition);
  /// As syncThreads; whether any of the threads has it.
  Value syncAny(Value barrier, int64_t threads, Value condition);

  //===--------------------------------------------------------------------===//
  // Products
  //===--------------------------------------------------------------------===//

  /// Orders registers before products that use them.
  void fenceProducts();
  void commitProducts();
  /// Waits for products but `pending`, so that registers of left operands are
  /// free.
  void limitProducts(int64_t pending);
  /// Waits for products but `pending`; `registers` are what they leave.
  Values awaitProducts(const Values &registers, int64_t pending);
  /// The low 32 bits of what `wgmma` reads a K-major tile of 128-byte swizzle
  /// by; they count 16 bytes.  Operands below are such.
  Value descriptor(Value address);
  /// The same value, but not what is known of it: what follows from it is
  /// computed where it stands, not kept in registers from before a loop.
  Value forget(Value integer);
  /// The same words, computed before what follows.
  Values hold(const Values &words);
  /// 64 x n += 64 x 16 * 16 x n in f16, the left operand from shared memory or
  /// registers; `accumulators` are n / 2 f32, which `fresh` says to overwrite,
  /// n of the former 128.
  Values multiplyShared(const Values &accumulators, Value descriptorA,
                        Value descriptorB, bool fresh);
  Values multiplyRegisters(const Values &accumulators, ArrayRef<Value> a,
                           Value descriptorB);
  /// The same where there are no accumulators yet: `count` come to be.
  Values multiplyRegisters(size_t count, ArrayRef<Value> a, Value descriptorB);

  //===--------------------------------------------------------------------===//
  // Memory
  //===--------------------------------------------------------------------===//

  /// `count` words (1, 2 or 4) of memory that no kernel writes meanwhile.
  Values loadConstantWords(Value address, int64_t count);
  void storeWords(ArrayRef<Value> words, Value address);
  /// `count` (1, 2 or 4) matrices of 8 rows of 16 bytes in shared memory, whose
  /// addresses lanes 8 i + row have.
  Values loadMatrices(Value address, int64_t count);
  /// 8 x 8 matrices of f16, one of 2 or 4 words each, transposed; lane 8 i + r
  /// says where row r of the i-th goes.
  void storeTransposed(ArrayRef<Value> words, Value address);
  /// base + index * bytes, with 64 bits.
  Value farAt(Value base, Value index, int64_t bytes);
  /// An address in shared memory as an i32, and back.
  Value toInteger(Value address);
  Value toShared(Value integer);
  Value xorBits(Value a, int64_t bits);
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_WARPGROUPBUILDER_H
