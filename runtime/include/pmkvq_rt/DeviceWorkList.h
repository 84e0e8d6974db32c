//===- DeviceWorkList.h - Decode attention as rows of a GPU -----*- C++ -*-===//
//
// From page tables to units, and from units to one row a thread block.
// Neighbours: DeviceAbi.h (what a row is), Units.h (units), WorkList.h (the
// same for the CPU); cuda/Decode.h brings a list to the device.
//
// Mental model.  Each pair (sequence, kv head) has a list of units.  A device
// runs `blocks` thread blocks at once, and everybody waits for the slowest, so
// rows should take the same time.  A row's time is that of its units
// (UnitCosts) and, for each *segment*, the part of a pair that it has, that of
// loading queries and merging warps, which is as much as four units.  Rows are
// as even as possible by this time, in one of three ways: whole pairs for each
// row; the same number of rows for each pair; or all pairs one after the other,
// cut where a row is full.  The first of these that is not 5 % slower than a
// later one.
//
// Example: 132 blocks, 8 pairs of 256 equal units: 16 rows a pair of 16 units
// each; 128 blocks work, 4 idle.  8 pairs of 7 units and 56 of about 130: some
// 60 units a row, where those of the short pairs share two rows, for each pair
// costs a segment.
//
// A list depends on its input alone, so the same cache on the same device gives
// the same bits.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_DEVICEWORKLIST_H
#define PMKVQ_RT_DEVICEWORKLIST_H

#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/DeviceAbi.h"
#include "pmkvq_rt/Status.h"

#include <array>
#include <cstdint>
#include <vector>

namespace pmkvq::rt {

/// Rows for a device, as bytes to be copied there.
struct DeviceWorkList {
  /// [rows][rowBytes]
  std::vector<uint8_t> bytes;
  int32_t rows = 0;
  uint32_t rowBytes = 0;
  uint32_t segmentsPerRow = 0;
  /// Partial results of shared pairs.
  int64_t partials = 0;
};

/// Adds the units of a page, oldest tokens first.  `codesOffset`: where block 0
/// lies from DecodeArgs::codes, bytes.
///
/// Errors: Unimplemented if a unit's codes do not begin at a multiple of
/// kDeviceGrainBytes; InvalidArgument if an offset leaves what 32 bits of
/// grains reach.
Status addPageUnits(const PageEntry &page, int64_t headDim, int64_t codesOffset,
                    std::vector<UnitTask> &units);

/// Adds the units of a fixed area: the first `tokens` of it, in runs of 16, the
/// last perhaps not full.
///
/// Units:  keyOffset and valueOffset in bytes from DecodeArgs::codes.
/// Errors: as above.
///
/// With `moreRows`, the tokens are those that the first of several rows sees,
/// and each row after it sees one more.
Status addFixedUnits(int64_t keyOffset, int64_t valueOffset, int32_t tokens,
                     int64_t headDim, std::vector<UnitTask> &units,
                     int32_t moreRows = 0);

/// Adds the units of a page that becomes `lowered` once it has been read: a
/// part whose level there is half of the page's falls, into blocks of `lowered`
/// that no entry of the launch reads; a part whose level is the same stays.
/// Where several segments read a page, one of them lowers it.
///
/// Errors: those of addPageUnits; InvalidArgument for other levels, or blocks
/// that the page has; Unimplemented if a part is to fall and one is at
/// level 16.
Status addLoweringUnits(const PageEntry &page, const PageEntry &lowered,
                        int64_t headDim, int64_t codesOffset,
                        std::vector<LoweringTask> &units);

/// The units of a fixed area in such a list.
Status addFixedUnits(int64_t keyOffset, int64_t valueOffset, int32_t tokens,
                     int64_t headDim, std::vector<LoweringTask> &units,
                     int32_t moreRows = 0);

/// Adds a page as an entry of a list of pages.
///
/// Units:  codesOffset as above.
/// Errors: InvalidArgument for a level that is none, or an offset that is no
/// multiple of kDeviceGrainBytes or leaves what 32 bits of them reach.
Status addPageEntry(const PageEntry &page, int64_t headDim, int64_t codesOffset,
                    std::vector<PrefillPage> &pages);

/// Adds `tokens` raw tokens in runs of 16, the last perhaps not full, whose
/// first has number `first` (PrefillPage::first).
///
/// Errors: as above.
Status addRawEntries(int64_t keyOffset, int64_t valueOffset, int64_t tokens,
                     int64_t headDim, int32_t first,
                     std::vector<PrefillPage> &pages);

/// The same of a fixed area as addFixedUnits adds it, for rows whose first has
/// position 0.
Status addFixedEntries(int64_t keyOffset, int64_t valueOffset, int32_t tokens,
                       int64_t headDim, std::vector<PrefillPage> &pages,
                       int32_t moreRows = 0);

/// Spreads the kinds of units evenly over a pair's list, each kind in its
/// order. Units at low levels keep a multiprocessor busy where those at high
/// levels keep memory busy: together they cost less than one after the other,
/// and every row should have its part of both.  Fixed areas stay last.
void spreadKinds(std::vector<UnitTask> &units);
void spreadKinds(std::vector<LoweringTask> &units);
void spreadKinds(std::vector<PrefillPage> &pages);

/// Time of a row's parts, in picoseconds.  The default is what an H200 takes
/// with up to 4 queries a kv head and a head_dim of 128; only proportions
/// count, and those are much the same wherever memory is what limits.
struct UnitCosts {
  /// A token of one side of a unit, by ladderIndex(level).  From units at one
  /// level, the times of 8 and of 1 sequences of 32,768 tokens apart: 235, 246,
  /// 254 and 264 ns a unit at 16, 8, 4 and 2 bits.  It is the bytes with
  /// parameters, at a multiprocessor's part of the bandwidth.
  std::array<int64_t, 4> token = {7350, 3840, 1980, 1030};
  /// What of it a warp works, the rest is waiting: the same without copies.
  std::array<int64_t, 4> work = {1440, 1600, 1070, 720};
  /// A segment: queries, two barriers, the merge of warps.  Of 1, 1.5, 2 and
  /// 3 us the one with which a ragged batch (8 sequences of 100 to 32,768
  /// tokens) took least time.
  int64_t segment = 1'500'000;
  /// Merging the shares of a pair, after the last of them, and what each share
  /// adds to that.
  int64_t merge = 1'000'000;
  int64_t share = 0;
  /// Tokens of a unit, or 0: as many as its kind has.
  int32_t unitTokens = 0;
  /// Units of a segment that is begun where a pair is cut, at least: one a
  /// worker.
  int32_t workers = kDecodeWarps;
};

/// Costs of tokens of another head_dim, in proportion to their bytes, where as
/// many thread blocks share a multiprocessor's bandwidth.
UnitCosts unitCosts(int64_t headDim, int32_t blocksPerMultiprocessor);

/// Costs of pages with `queries` queries, of a head_dim of 128: the products'
/// time where that is more than the bytes'.
UnitCosts pageCosts(int64_t queries);

/// What a unit costs.
int64_t unitCost(const UnitTask &unit, const UnitCosts &costs = {});

/// Whose queries a pair's units are for.
struct PairQueries {
  /// row * kvHeads + head of the first row.
  uint32_t pair = 0;
  /// Rows beside it, below kMaxSegmentRows.
  int32_t moreRows = 0;
};

/// Cuts the units of all pairs into at most `blocks` rows.  A row's part of a
/// pair is a run of its units, dealt to warps such that each has as much work.
///
/// Shapes: pairs, each with at least one unit; queries [pairs], or none if pair
/// i has the queries of row i / kvHeads alone.
/// Errors: InvalidArgument for a pair without units, for blocks below 1 or
/// above 65,535, or for a list whose sizes leave their fields.
Result<DeviceWorkList>
buildDeviceWorkList(const std::vector<std::vector<UnitTask>> &pairs,
                    int32_t blocks, const UnitCosts &costs = {},
                    const std::vector<PairQueries> &queries = {});

/// The same for kernels that lower.
Result<DeviceWorkList>
buildLoweringWorkList(const std::vector<std::vector<LoweringTask>> &pairs,
                      int32_t blocks, const UnitCosts &costs = {},
                      const std::vector<PairQueries> &queries = {});

/// The same of whole pages, for kernels on warpgroups.
Result<DeviceWorkList>
buildPageWorkList(const std::vector<std::vector<PrefillPage>> &pairs,
                  int32_t blocks, const UnitCosts &costs,
                  const std::vector<PairQueries> &queries);

} // namespace pmkvq::rt

#endif // PMKVQ_RT_DEVICEWORKLIST_H
