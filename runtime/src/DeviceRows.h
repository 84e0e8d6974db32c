//===- DeviceRows.h - Units of all pairs cut into rows ----------*- C++ -*-===//
//
// Which thread block takes what.  Neighbours: DeviceWorkList.h (the mental
// model, costs), DeviceWorkList.cpp (writes the rows).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RUNTIME_DEVICEROWS_H
#define PMKVQ_RUNTIME_DEVICEROWS_H

#include "pmkvq_rt/DeviceWorkList.h"

namespace pmkvq::rt {

/// Units [begin, end) of a pair.
struct Run {
  uint32_t pair;
  size_t begin, end;
};

/// What one row takes, in order; each run is a segment.
using RowCut = std::vector<Run>;

/// At most `blocks` rows, none empty, in the order of pairs and units.
std::vector<RowCut> cutRows(const std::vector<std::vector<UnitTask>> &pairs,
                            size_t blocks, const UnitCosts &costs);

/// The order in which a run's units are listed, as their numbers in it.  Warps
/// take them in turns, and should have as much work; among warps that take one
/// unit less, the dearer.  What falls comes first in each.  Units of fixed
/// areas, which are last, stay.
std::vector<size_t> dealToWarps(const UnitTask *units, size_t count,
                                const UnitCosts &costs);

} // namespace pmkvq::rt

#endif // PMKVQ_RUNTIME_DEVICEROWS_H
