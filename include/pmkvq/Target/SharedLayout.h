//===- SharedLayout.h - Shared memory of a decode kernel --------*- C++ -*-===//
//
// Where a thread block keeps what.  The lowering addresses by it, the host asks
// for the size.  Neighbours: FragmentLayout.h (the order of codes in a slot),
// pmkvq_rt/Units.h (the pieces of a slot).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_SHAREDLAYOUT_H
#define PMKVQ_TARGET_SHAREDLAYOUT_H

#include "pmkvq_rt/DeviceAbi.h"

#include <cstdint>

namespace pmkvq {

struct SharedLayout {
  /// Warps of a thread block; each has a ring of its own.  Fewer do not hide
  /// latency, more cost a longer merge.
  static constexpr int64_t kWarps = rt::kDecodeWarps;
  /// Slots of a ring: one is worked on while the next arrives.
  static constexpr int64_t kSlots = 2;
  /// Lanes along the columns of accumulators, two columns each.
  static constexpr int64_t kColumnLanes = 4;
  /// Bytes of one column of a query operand in 32 dims: 4 lanes of 16.
  static constexpr int64_t kColumnBytes = 64;

  int64_t headDim = 128;
  int64_t group = 4;
  /// Bytes of the largest unit, a multiple of 128.
  int64_t slotBytes = 0;

  /// Queries that a lane has scores, weights and outputs of: t, or 2 t and
  /// 2 t + 1.  A query's two bytes (two bf16 at level 16) are two columns of
  /// one B operand in the first case, a column of each of two in the second.
  constexpr int64_t queriesPerLane() const {
    return group <= kColumnLanes ? 1 : 2;
  }
  /// B operands of columns with both bytes.
  constexpr int64_t operands() const { return queriesPerLane(); }
  constexpr int64_t queries() const { return kColumnLanes * queriesPerLane(); }

  /// Makes slots large enough for units of `kind`.
  constexpr void fit(rt::UnitKind kind, bool keysPerToken) {
    int64_t bytes = rt::unitSlot(kind, headDim, keysPerToken).end;
    int64_t aligned = (bytes + 127) / 128 * 128;
    slotBytes = slotBytes < aligned ? aligned : slotBytes;
  }

  // Byte offsets, in order.
  constexpr int64_t ring() const { return 0; }
  constexpr int64_t ringBytes() const { return kSlots * slotBytes; }
  /// States of warps, [warp][query][recordFloats] f32.
  constexpr int64_t records() const { return ring() + kWarps * ringBytes(); }
  /// Padded so that what the lanes of a warp store falls on different banks:
  /// query t's dim g on bank 8 t + g.
  constexpr int64_t recordFloats() const {
    return headDim + 8 / queriesPerLane();
  }
  /// Queries in f16, for codes: a B operand before it is split.
  constexpr int64_t halfQueries() const {
    return records() + kWarps * queries() * recordFloats() * 4;
  }
  constexpr int64_t operandBytes() const { return headDim * 16; }
  /// Queries in bf16, for raw units, per operand.
  constexpr int64_t rawQueries() const {
    return halfQueries() + operandBytes();
  }
  /// Maxima and sums of warps, [query][warp] f32 each.
  constexpr int64_t maxima() const {
    return rawQueries() + operands() * operandBytes();
  }
  constexpr int64_t sums() const { return maxima() + queries() * kWarps * 4; }
  /// What turns a normalized query's scores into units of log2, [query] f32.
  constexpr int64_t factors() const { return sums() + queries() * kWarps * 4; }
  constexpr int64_t barriers() const { return factors() + queries() * 4; }
  constexpr int64_t bytes() const { return barriers() + kWarps * kSlots * 8; }
};

} // namespace pmkvq

#endif // PMKVQ_TARGET_SHAREDLAYOUT_H
