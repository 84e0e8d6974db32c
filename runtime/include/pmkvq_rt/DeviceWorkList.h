//===- DeviceWorkList.h - Decode attention as rows of a GPU -----*- C++ -*-===//
//
// From page tables to units, and from units to one row a thread block.
// Neighbours: DeviceAbi.h (what a row is), Units.h (units), WorkList.h (the
// same for the CPU); cuda/Decode.h brings a list to the device.
//
// Mental model.  Each pair (sequence, kv head) has a list of units.  A device
// runs `blocks` thread blocks at once, and everybody waits for the slowest, so
// rows should cost the same; a unit costs its bytes.  But a row that begins in
// one pair and ends in another merges twice, so where that costs at most 5 % of
// balance rows are *aligned*: a whole number of rows for each pair, or whole
// pairs for each row.  Otherwise the units of all pairs, one after the other,
// are cut evenly.
//
// Example: 132 blocks, 8 pairs of 256 equal units: 16 rows a pair of 16 units
// each; 128 blocks work, 4 idle.  3 pairs of 256, 10 and 10 units: even, rows
// of 2 or 3 units, the first pair shared among some 123 rows.
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
  /// Whether rows are aligned with pairs.
  bool aligned = false;
};

/// Adds the units of a page, oldest tokens first.  `codesOffset`: where block 0
/// lies from DecodeArgs::codes, bytes.
///
/// Errors: Unimplemented if one part alone is at level 16, or if a unit's codes
/// do not begin at a multiple of kDeviceGrainBytes; InvalidArgument if an
/// offset leaves what 32 bits of grains reach.
Status addPageUnits(const PageEntry &page, int64_t headDim, int64_t codesOffset,
                    std::vector<UnitTask> &units);

/// Adds the units of a fixed area: the first `tokens` of it, in runs of 16, the
/// last perhaps not full.
///
/// Units:  keyOffset and valueOffset in bytes from DecodeArgs::codes.
/// Errors: as above.
Status addFixedUnits(int64_t keyOffset, int64_t valueOffset, int32_t tokens,
                     int64_t headDim, std::vector<UnitTask> &units);

/// Spreads the kinds of units evenly over a pair's list, each kind in its
/// order. Units at low levels keep a multiprocessor busy where those at high
/// levels keep memory busy: together they cost less than one after the other,
/// and every row should have its part of both.  Fixed areas stay last.
void spreadKinds(std::vector<UnitTask> &units);

/// What a unit costs, in 64ths of the bits that it reads for each head dim.
int64_t unitCost(const UnitTask &unit);

/// Cuts the units of all pairs into at most `blocks` rows.
///
/// Shapes: pairs [sequences * kvHeads], each with at least one unit.
/// Errors: InvalidArgument for a pair without units, for blocks below 1 or
/// above 65,535, or for a list whose sizes leave their fields.
Result<DeviceWorkList>
buildDeviceWorkList(const std::vector<std::vector<UnitTask>> &pairs,
                    int32_t blocks);

} // namespace pmkvq::rt

#endif // PMKVQ_RT_DEVICEWORKLIST_H
