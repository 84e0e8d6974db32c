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
#include "pmkvq_rt/DeviceAbi.h"

namespace mlir::pmkvq {

/// A UnitTask's words; of a LoweringTask, also where its parts go.
struct UnitWork {
  using Values = LaneBuilder::Values;
  Value key, value, slot, info;
  /// [part], or none.
  Values lowered;

  static UnitWork load(LaneBuilder &b, Value address, bool lowers) {
    Values words = b.loadWords(address, 4);
    UnitWork work = {words[0], words[1], words[2], words[3], {}};
    if (lowers)
      work.lowered = b.loadWords(
          b.at(address, offsetof(::pmkvq::rt::LoweringTask, lowered)),
          ::pmkvq::rt::kParts);
    return work;
  }
  void append(SmallVectorImpl<Value> &to) const {
    llvm::append_range(to, ArrayRef<Value>{key, value, slot, info});
    llvm::append_range(to, lowered);
  }
  static UnitWork take(ValueRange &from, bool lowers) {
    UnitWork work = {from[0], from[1], from[2], from[3], {}};
    from = from.drop_front(4);
    work.lowered = takeLowered(from, lowers);
    return work;
  }
  static Values takeLowered(ValueRange &from, bool lowers) {
    const size_t count = lowers ? ::pmkvq::rt::kParts : 0;
    Values lowered(from.take_front(count));
    from = from.drop_front(count);
    return lowered;
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
