//===- DeviceAbi.h - What GPU kernels and the host pass each other *- C++ -*-=//
//
// Arguments and work lists of kernels on a GPU.  The compiler includes this
// header to address fields by `offsetof`, the host to fill them.  Neighbours:
// Units.h (units), Abi.h (the same for the CPU).
//
// Mental model.  Decode attention is one launch of as many thread blocks as the
// device runs at once.  The host cuts the work beforehand: a thread block owns
// one *row* of the work list, with *segments* (a run of units of one sequence
// and kv head, a *pair*) and the units themselves.  A row has everything at
// fixed places, so one load leads to all of it:
//
//   [WorkHeader][WorkSegment x segmentsPerRow][UnitTask x unitsPerRow]
//
// Warps take a segment's units in turns.  Of a pair whose units are shared
// among `shares` thread blocks each leaves a partial result, and the block of
// the last share merges them in the order of shares, so the same work list
// gives the same bits.  It waits for blocks of lower number only, which a
// device starts before it.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_DEVICEABI_H
#define PMKVQ_RT_DEVICEABI_H

#include "pmkvq_rt/Units.h"

#include <cstddef>
#include <cstdint>

namespace pmkvq::rt {

/// Offsets in the cache's memory are in these units, so 32 bits reach 2 TiB.
inline constexpr int64_t kDeviceGrainBytes = 512;

/// One unit of a work list.
struct UnitTask {
  /// Codes: (address - DecodeArgs::codes) / kDeviceGrainBytes.
  uint32_t key;
  uint32_t value;
  /// The page's slot in the parameter pool; 0 if neither side has parameters.
  uint32_t slot;
  /// kind | tokens << 8 | grain << 16 | fixed << 24 | second << 25:
  /// UnitKind::index(), tokens that count (fewer than the kind's only at the
  /// end of a fixed area), the number of the unit's first 32 tokens in its page
  /// (where its parameters per token are), whether the unit lies in a fixed
  /// area, and whether its tokens are the second half of a grain.
  ///
  /// What is copied beside the tokens that count must be finite: its weights
  /// are zero.  A pool is zero at first; who begins a unit of a fixed area in a
  /// block that was used before clears the unit.
  uint32_t info;

  static constexpr uint32_t kFixedArea = 1u << 24;
  static constexpr uint32_t kSecondHalf = 1u << 25;

  static constexpr uint32_t makeInfo(UnitKind kind, int32_t tokens,
                                     int32_t grain) {
    return static_cast<uint32_t>(kind.index() | tokens << 8 | grain << 16);
  }
};
static_assert(sizeof(UnitTask) == 16);

/// Units of one pair in one row.
struct WorkSegment {
  /// sequence * kvHeads + head: whose queries and results.
  uint32_t pair;
  /// Units in this row, at least 1.
  uint32_t units;
  /// This row's number among the rows that share the pair, and how many share.
  uint16_t share;
  uint16_t shares;
  /// First of the pair's `shares` partial results.
  uint32_t partial;
};
static_assert(sizeof(WorkSegment) == 16);

struct WorkHeader {
  uint32_t segments;
  /// Units of all segments.
  uint32_t units;
  /// Units from the first on that the launch before does not write: pages, but
  /// not the fixed area that it may append to.  With dependent launch their
  /// copies start before it has ended.
  uint32_t earlyUnits;
  uint32_t reserved;
};
static_assert(sizeof(WorkHeader) == 16);

/// Warps of a decode kernel's thread block: unit n of a row is warp n %
/// kDecodeWarps's.
inline constexpr int32_t kDecodeWarps = 8;

/// Rows are padded with zeros: kernels read this many UnitTasks past the last.
inline constexpr int32_t kUnitTaskPadding = 64;

/// Two neighbouring outputs of a share's queries, divided by their sum of
/// weights, and log2 of that sum plus the maximum.  Written at once, so the tag
/// says that the rest is there.
struct PartialRecord {
  float outputs[2];
  float logSum;
  /// kPartialTag, or 0.
  float tag;
};
static_assert(sizeof(PartialRecord) == 16);
inline constexpr float kPartialTag = 1.0f;

/// Bytes of one partial result: records [queries][headDim / 2], queries rounded
/// up to what one matrix instruction takes.
constexpr int64_t devicePartialBytes(int64_t group, int64_t headDim) {
  return (group + 3) / 4 * 4 * (headDim / 2) *
         static_cast<int64_t>(sizeof(PartialRecord));
}

/// Arguments of a decode attention kernel, passed by value as one struct.
struct DecodeArgs {
  /// What UnitTask::key and ::value count from.
  const uint8_t *codes;
  /// Slots of kDeviceSlotBytes(headDim); the key's parameters come first.
  const uint8_t *parameters;
  /// [pairs][group][headDim] f32, in the keys' basis (rotated if they are).
  const float *queries;
  /// [pairs][group][headDim] f32, in the values' basis.
  float *results;
  /// [partials] of devicePartialBytes(group, headDim): zero before the first
  /// launch, tags zero again after each.
  uint8_t *partials;
  const uint8_t *work;
  /// Bytes from row to row, and WorkSegments of each.
  uint32_t rowBytes;
  uint32_t segmentsPerRow;
};
static_assert(sizeof(DecodeArgs) == 56);

/// Arguments of the read kernel: the ceiling that attention is compared with.
struct ReadArgs {
  const uint8_t *data;
  /// A multiple of 16.
  uint64_t bytes;
  /// Written only if the data is what it never is: keeps the loads alive.
  uint32_t *sink;
};

/// Bytes of a page's parameter slot on a GPU: both parts', for 128 tokens.
constexpr int64_t deviceSlotBytes(int64_t headDim, bool keysPerToken) {
  return ((keysPerToken ? kPageTokens : headDim) + kPageTokens) * kGroupBytes;
}

/// Where the value parameters begin in a slot.
constexpr int64_t deviceValueParameters(int64_t headDim, bool keysPerToken) {
  return (keysPerToken ? kPageTokens : headDim) * kGroupBytes;
}

/// Tokens of a fixed area on a GPU: whole units of 16.
constexpr int64_t deviceFixedTokens(int64_t sinkTokens) {
  return (sinkTokens + kPageTokens + 15) / 16 * 16;
}

} // namespace pmkvq::rt

#endif // PMKVQ_RT_DEVICEABI_H
