//===- DeviceAbi.h - What GPU kernels and the host pass each other *- C++ -*-=//
//
// Arguments and work lists of kernels on a GPU.  The compiler includes this
// header to address fields by `offsetof`, the host to fill them.  Neighbours:
// Units.h (units), Abi.h (the same for the CPU).
//
// Mental model.  Decode attention is one launch of as many thread blocks as the
// device runs at once.  The host cuts the work beforehand: a thread block owns
// one *row* of the work list, with *segments* (a run of units of one sequence
// and kv head, a *pair*, for one or several of its query rows) and the units
// themselves.  A row has everything at
// fixed places, so one load leads to all of it:
//
//   [WorkHeader][WorkSegment x segmentsPerRow][UnitTask x unitsPerRow]
//
// Kernels on warpgroups, for many queries of a pair, take whole pages where
// others take units: rows have PrefillPages in place of UnitTasks, and position
// 0 is that of a segment's first row.
//
// Kernels that lower have a LoweringTask for each unit: one whose page falls by
// a level is stored at the lower one, in blocks that nothing else of the launch
// reads or writes, once it has been attended over at the higher.  So units come
// in any order, several thread blocks may read one, and results are those of
// before.  The blocks that it had are free for whatever the stream does next.
//
// Warps take a segment's units in turns, or warpgroups its pages.  Of a pair
// whose units are shared among `shares` thread blocks each leaves a partial
// result, and the block of the last share merges them in the order of shares,
// so the same work list gives the same bits.  It waits for blocks of lower
// number only, which a device starts before it.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_DEVICEABI_H
#define PMKVQ_RT_DEVICEABI_H

#include "pmkvq_rt/Units.h"

#include <cstddef>
#include <cstdint>

namespace pmkvq::rt {

/// Offsets in the cache's memory are in these units, so 32 bits reach 512 GiB.
/// 32 tokens of 80 head dims at 2 bits are five of them.
inline constexpr int64_t kDeviceGrainBytes = 128;

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
  /// Of a segment with several rows, `tokens` are those that the first one
  /// sees, and row r sees r more: at the end of a fixed area there may be 0 or
  /// fewer of them (a signed byte).
  ///
  /// What is copied beside the tokens that count must be finite: its weights
  /// are zero.  A pool is zero at first; who begins a unit of a fixed area in a
  /// block that was used before clears the unit.
  uint32_t info;

  static constexpr uint32_t kFixedArea = 1u << 24;
  static constexpr uint32_t kSecondHalf = 1u << 25;
  /// Of a LoweringTask: whether a part falls.
  static constexpr uint32_t falls(Part part) { return 1u << (26 + part); }

  static constexpr uint32_t makeInfo(UnitKind kind, int32_t tokens,
                                     int32_t grain) {
    return static_cast<uint32_t>(kind.index() | (tokens & 0xff) << 8 |
                                 grain << 16);
  }
};
static_assert(sizeof(UnitTask) == 16);

/// One unit of a work list for a kernel that lowers.
struct LoweringTask {
  UnitTask unit;
  /// Where the codes of a part that falls go, as UnitTask::key counts: as many
  /// tokens as the unit has, at half its level.
  uint32_t lowered[kParts];
  uint32_t reserved[2];
};
static_assert(sizeof(LoweringTask) == 32);

/// Query rows of one sequence that a segment may have: tokens that are decoded
/// at once, each of which sees the ones before it.
inline constexpr int32_t kMaxSegmentRows = 16;
/// Queries of all rows of a segment at most: registers of a lane; of kernels on
/// warpgroups those of four.
inline constexpr int64_t kMaxSegmentQueries = 16;
inline constexpr int64_t kMaxWarpgroupQueries = 64;

/// Rows of a segment that is to have `rows` of `group` queries each: as many as
/// `queries` allow, or all.
constexpr int64_t segmentRows(int64_t group, int64_t rows,
                              int64_t queries = kMaxSegmentQueries) {
  int64_t most = group < queries ? queries / group : 1;
  return rows < most ? rows : most;
}

/// Units of one pair in one row.
struct WorkSegment {
  /// row * kvHeads + head: whose queries and results; of the first row.
  uint32_t pair;
  /// Units in this row of the list, at least 1.
  uint32_t units : 24;
  /// Rows of queries beside the first.
  uint32_t moreRows : 8;
  /// This row's number among the rows that share the pair, and how many share.
  uint16_t share;
  uint16_t shares;
  /// First of the pair's `shares` partial results.
  uint32_t partial;
};
static_assert(sizeof(WorkSegment) == 16);
inline constexpr int64_t kMaxSegmentUnits = (1 << 24) - 1;

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

/// Bytes of one partial result: records [queries][headDim / 2], queries (of all
/// rows that a segment may have) rounded up to what one matrix instruction
/// takes.
constexpr int64_t devicePartialBytes(int64_t queries, int64_t headDim) {
  return (queries + 3) / 4 * 4 * (headDim / 2) *
         static_cast<int64_t>(sizeof(PartialRecord));
}

/// Arguments of a decode attention kernel, passed by value as one struct.
///
/// On warpgroups elements are f16 as in prefill (PrefillArgs), and queries are,
/// times the scale of scores in units of 2^-4: what is above 4,094 then gives
/// no number.  Of up to 16 queries a segment, raw values fit up to 2^24.
struct DecodeArgs {
  /// What UnitTask::key and ::value count from.  Kernels that lower write
  /// there.
  const uint8_t *codes;
  /// Slots of as many bytes as the kernel was compiled for; the key's
  /// parameters come first.
  const uint8_t *parameters;
  /// [rows][kvHeads][group][headDim] f32, in the keys' basis (rotated if they
  /// are) unless the kernel rotates them.
  const float *queries;
  /// [rows][kvHeads][group][headDim] f32, in the values' basis.
  float *results;
  /// [partials] of devicePartialBytes(rows of a segment * group, headDim): zero
  /// before the first launch, tags zero again after each.
  uint8_t *partials;
  const uint8_t *work;
  /// Bytes from row to row, and WorkSegments of each.
  uint32_t rowBytes;
  uint32_t segmentsPerRow;
};
static_assert(sizeof(DecodeArgs) == 56);

/// Pages of a list that a kernel on warpgroups attends over, and raw tokens in
/// the order of pages at level 16: fixed areas, and the chunk itself.
struct PrefillPage {
  /// Codes: (address - PrefillArgs::codes) / kDeviceGrainBytes, as many as the
  /// part's level has blocks.
  uint32_t blocks[kParts][kMaxBlocksPerPart];
  /// A row sees a token whose number, counted from `first`, is at most the
  /// row's own position.  kSeenByAll: all rows see all tokens.
  int32_t first;
  /// kind | tokens << 8: UnitKind::index() of the page's levels, and how many
  /// tokens count.  All 128 must be finite: copied are they all.
  uint32_t info;
  /// The page's slot in the parameter pool.
  uint32_t slot;
  uint32_t reserved;

  static constexpr int32_t kSeenByAll = -(1 << 30);
  static constexpr uint32_t makeInfo(UnitKind kind, int32_t tokens) {
    return static_cast<uint32_t>(kind.index() | tokens << 8);
  }
};
static_assert(sizeof(PrefillPage) == 80);

/// Queries of one thread block of a prefill kernel: rows of one kv head.
struct PrefillTask {
  /// First row of queries and results, and rows: at most
  /// prefillRowsPerTask(group).
  uint32_t row;
  uint32_t rows;
  uint32_t head;
  /// First entry of the page list, and entries, at least 1.  Every row sees a
  /// token of the first.
  uint32_t page;
  uint32_t pages;
  /// The first row's position, as PrefillPage::first counts.
  int32_t position;
  uint32_t reserved[2];
};
static_assert(sizeof(PrefillTask) == 32);

/// Rows of queries that a thread block takes: with all their heads of a group
/// at most 128, two warpgroups of 64.
constexpr int64_t prefillRowsPerTask(int64_t group) { return 128 / group; }

/// Arguments of a prefill attention kernel, passed by value as one struct.
///
/// Elements of keys and values are f16 in between, in units of 3840 * 2^-24:
/// raw values up to 2^28 fit, and what is below 0.3 is off by up to 1.3e-4.
/// Ranges of groups up to kNarrowRange fit, and scores that rise by up to 2^7
/// (log2) from one page to a later one; kernels for wide ranges take all of
/// both.  Outputs of what does not fit are not numbers.
struct PrefillArgs {
  /// What PrefillPage::blocks count from.
  const uint8_t *codes;
  /// Slots of deviceSlotBytes(headDim); the key's parameters come first.
  const uint8_t *parameters;
  /// [rows][queryHeads][headDim] f32, in the keys' basis.
  const float *queries;
  /// [rows][queryHeads][headDim] f32, in the values' basis.
  float *results;
  const PrefillPage *pages;
  /// One a thread block.
  const PrefillTask *tasks;
};
static_assert(sizeof(PrefillArgs) == 48);

/// Where one row of a step is appended.
struct AppendTask {
  /// The first kv head's fixed area; those of the others follow it:
  /// (address - AppendArgs::codes) / kDeviceGrainBytes.
  uint32_t fixed;
  /// Its number in the fixed area, sink tokens first.
  uint32_t token;
};
static_assert(sizeof(AppendTask) == 8);

/// Arguments of the append kernel: a thread block of one warp for each row and
/// kv head.  A row that begins a unit of 16 tokens zeroes the others, and
/// thread blocks run in any order: no launch has such a row and another of its
/// unit.
struct AppendArgs {
  uint8_t *codes;
  /// [rows]
  const AppendTask *tasks;
  /// [rows][kvHeads][headDim] f32
  const float *keys;
  const float *values;
  /// [rows][headDim / 2] f32, where the kernel embeds positions.
  const float *cosines;
  const float *sines;
};
static_assert(sizeof(AppendArgs) == 48);

/// One part of a page that a kernel writes.
struct PagePartTask {
  /// Ids of the part's blocks at the higher of the levels that it has before
  /// and after; at the lower it keeps the first of them.
  uint32_t blocks[kMaxBlocksPerPart];
  /// Where its parameters go.
  uint32_t slot;
  /// The part's fixed area, where a window becomes a page:
  /// (address - PagesArgs::codes) / kDeviceGrainBytes.
  uint32_t window;
  /// What its keys fall with: number of the kv head in PagesArgs::keyFeedback.
  uint32_t feedback;
  uint32_t reserved;
};
static_assert(sizeof(PagePartTask) == 48);

/// What a kernel that writes pages says of a part.
enum PageOutcome : uint32_t {
  kPageWritten = 0,
  /// It could not be represented, and stays as it was.
  kPageNotRepresentable = 1,
  /// It was written, and a group's range is above kNarrowRange.
  kPageHasWideRange = 2,
};

/// The largest range of a group that f16 elements on warpgroups take at every
/// level; kernels for wider ones are slower.  Its bits as fp16, of which those
/// without a sign are ordered as integers are.
inline constexpr double kNarrowRange = 48;
inline constexpr uint16_t kNarrowRangeBits = 0x5200;

/// Arguments of the kernels that write pages, one thread block a task.
struct PagesArgs {
  uint8_t *codes;
  uint8_t *parameters;
  const PagePartTask *tasks;
  /// [tasks], a PageOutcome each: zero before, written if it is another.
  uint32_t *outcomes;
  /// [layers][kvHeads][keyFeedbackFloats(headDim)] (Abi.h); null: keys fall
  /// without.
  const float *keyFeedback;
};
static_assert(sizeof(PagesArgs) == 40);

/// Arguments of the read kernel: the ceiling that attention is compared with.
struct ReadArgs {
  const uint8_t *data;
  /// A multiple of 16.
  uint64_t bytes;
  /// Written only if the data is what it never is: keeps the loads alive.
  uint32_t *sink;
};

/// Tokens of a fixed area on a GPU: whole units of 16.
constexpr int64_t deviceFixedTokens(int64_t sinkTokens) {
  return (sinkTokens + kPageTokens + 15) / 16 * 16;
}

} // namespace pmkvq::rt

#endif // PMKVQ_RT_DEVICEABI_H
