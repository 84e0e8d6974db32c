//===- SegmentWork.h - Entries of a work list in lanes ----------*- C++ -*-===//
//
// What loops over segments and units carry of the list.  Neighbours:
// TileToLanes.cpp (the loops), DeviceAbi.h (the list).  Private to
// lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_SEGMENTWORK_H
#define PMKVQ_LIB_CONVERSION_SEGMENTWORK_H

#include "LaneBuilder.h"

namespace mlir::pmkvq {

/// A UnitTask's words.
struct UnitWork {
  Value key, value, slot, info;

  static UnitWork load(LaneBuilder &b, Value address) {
    LaneBuilder::Values words = b.loadWords(address, 4);
    return {words[0], words[1], words[2], words[3]};
  }
  void append(SmallVectorImpl<Value> &to) const {
    llvm::append_range(to, ArrayRef<Value>{key, value, slot, info});
  }
  static UnitWork take(ValueRange &from) {
    UnitWork task = {from[0], from[1], from[2], from[3]};
    from = from.drop_front(4);
    return task;
  }
};

/// A WorkSegment's fields.
struct SegmentWork {
  Value pair, units, moreRows, share, shares, partial;

  void append(SmallVectorImpl<Value> &to) const {
    llvm::append_range(
        to, ArrayRef<Value>{pair, units, moreRows, share, shares, partial});
  }
  static SegmentWork take(ValueRange &from) {
    SegmentWork segment = {from[0], from[1], from[2],
                           from[3], from[4], from[5]};
    from = from.drop_front(6);
    return segment;
  }
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_SEGMENTWORK_H
