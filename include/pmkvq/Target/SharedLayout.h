//===- SharedLayout.h - Shared memory of a decode kernel --------*- C++ -*-===//
//
// Where a thread block keeps what.  The lowering addresses by it, the host asks
// for the size.  Neighbours: FragmentLayout.h (the order of codes in a slot),
// pmkvq_rt/Units.h (the pieces of a slot).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_SHAREDLAYOUT_H
#define PMKVQ_TARGET_SHAREDLAYOUT_H

#include "pmkvq/Target/SlotLayout.h"
#include "pmkvq_rt/DeviceAbi.h"

#include <cstdint>

namespace pmkvq {

struct SharedLayout {
  /// Warps of a thread block; each has a ring of its own.  Fewer do not hide
  /// latency, more cost a longer merge.
  static constexpr int64_t kWarps = rt::kDecodeWarps;
  /// Slots of a ring: one is worked on while the next arrives.
  static constexpr int64_t kMaxSlots = 2;
  /// Lanes along the columns of accumulators, two columns each.
  static constexpr int64_t kColumnLanes = 4;
  /// Bytes of one column of a query operand in 32 dims: 4 lanes of 16.
  static constexpr int64_t kColumnBytes = 64;
  /// Columns of an operand.  More queries have *sets* of operands, 8 each.
  static constexpr int64_t kColumns = 8;
  /// Queries of a segment that lanes have registers for.
  static constexpr int64_t kMaxQueries = rt::kMaxSegmentQueries;
  /// Dims that a warp stages at once, 4 a lane.
  static constexpr int64_t kStagedDims = 128;

  int64_t headDim = 128;
  /// Query heads of a kv head.
  int64_t group = 4;
  /// Rows of queries that a segment may have.
  int64_t rows = 1;
  /// Bytes of the largest unit, whole lines.
  int64_t slotBytes = 0;
  /// Where two do not fit, one: copies then begin when a unit is worked on, and
  /// memory is busy with those of other warps.
  int64_t slots = kMaxSlots;
  /// Whether warps leave their states in a slot of their ring that no copy is
  /// on its way to: of two the other, of one that of a segment's last unit.
  bool recordsInRing = false;

  /// Queries that a lane has scores, weights and outputs of: t; 2 t and 2 t +
  /// 1; or these of each of two sets.  A query's two bytes (two bf16 at level
  /// 16) are two columns of one B operand in the first case, a column of each
  /// of two of its set in the others.
  constexpr int64_t queriesPerLane() const {
    return usedQueries() <= kColumnLanes ? 1 : 2 * sets();
  }
  /// Query `row * group + i` is head i of a row.
  constexpr int64_t usedQueries() const { return rows * group; }
  constexpr int64_t sets() const {
    return (usedQueries() + kColumns - 1) / kColumns;
  }
  /// B operands of columns with both bytes.
  constexpr int64_t operands() const { return queriesPerLane(); }
  constexpr int64_t queries() const { return kColumnLanes * queriesPerLane(); }
  /// Query `i` of lanes t is number t * laneStride() + toQuery(i).
  constexpr int64_t laneStride() const { return queriesPerLane() == 1 ? 1 : 2; }
  static constexpr int64_t toQuery(int64_t i) {
    return i / 2 * kColumns + i % 2;
  }

  /// Makes slots large enough for units of `kind`.
  constexpr void fit(rt::UnitKind kind, bool keysPerToken,
                     int64_t valueBytes = kGroupBytes) {
    int64_t bytes = unitSlot(kind, headDim, keysPerToken, valueBytes).end;
    int64_t aligned = wholeLines(bytes);
    slotBytes = slotBytes < aligned ? aligned : slotBytes;
  }

  /// Takes the best form of at most `limit` bytes; false if there is none.
  /// `mayShare`: states may lie in the ring, which copies that bypass the order
  /// of a thread's own accesses would not respect.
  constexpr bool fitInto(int64_t limit, bool mayShare) {
    const int64_t unitBytes = slotBytes;
    for (slots = kMaxSlots; slots > 0; --slots)
      for (int share = 0; share <= (mayShare ? 1 : 0); ++share) {
        recordsInRing = share == 1;
        slotBytes = recordsInRing && recordBytes() > unitBytes
                        ? wholeLines(recordBytes())
                        : unitBytes;
        if (bytes() <= limit)
          return true;
      }
    slots = 1;
    return false;
  }

  // Byte offsets, in order.
  constexpr int64_t ring() const { return 0; }
  constexpr int64_t ringBytes() const { return slots * slotBytes; }
  /// States of warps, [warp][query][recordFloats] f32.
  constexpr int64_t records() const { return ring() + kWarps * ringBytes(); }
  /// Padded so that what the lanes of a warp store falls on different banks:
  /// query t's dim g on bank 8 t + g.
  constexpr int64_t recordFloats() const { return headDim + 8 / laneStride(); }
  /// Bytes of a warp's states.
  constexpr int64_t recordBytes() const {
    return queries() * recordFloats() * 4;
  }
  /// Queries in f16, for codes: a B operand a set, before it is split.
  constexpr int64_t halfQueries() const {
    return records() + (recordsInRing ? 0 : kWarps * recordBytes());
  }
  /// Of whole blocks of 32 dims.
  constexpr int64_t operandBytes() const { return (headDim + 31) / 32 * 512; }
  /// Queries in bf16, for raw units, per operand.
  constexpr int64_t rawQueries() const {
    return halfQueries() + sets() * operandBytes();
  }
  /// Maxima and sums of warps, [query][warp] f32 each.
  constexpr int64_t maxima() const {
    return rawQueries() + operands() * operandBytes();
  }
  constexpr int64_t sums() const { return maxima() + queries() * kWarps * 4; }
  /// What turns a normalized query's scores into units of log2, [query] f32.
  constexpr int64_t factors() const { return sums() + queries() * kWarps * 4; }
  /// Where states lie that are in the ring, [warp] offset.
  constexpr int64_t places() const { return factors() + queries() * 4; }
  constexpr int64_t barriers() const {
    return places() + (recordsInRing ? kWarps * 4 : 0);
  }
  constexpr int64_t bytes() const { return barriers() + kWarps * slots * 8; }
};

} // namespace pmkvq

#endif // PMKVQ_TARGET_SHAREDLAYOUT_H
