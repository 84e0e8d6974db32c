//===- CodeConstants.h - What decodes codes to f16 --------------*- C++ -*-===//
//
// Steps and offsets of a block of 32 columns.  Neighbours: DequantizeTiles.cpp
// (defines and uses it), SegmentConstants.cpp (makes them once for all
// lanes), AffineForm.h.  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_CODECONSTANTS_H
#define PMKVQ_LIB_CONVERSION_CODECONSTANTS_H

#include "AffineForm.h"
#include "WarpgroupBuilder.h"
#include "pmkvq/Target/FragmentLayout.h"

namespace mlir::pmkvq {

/// The bits of the f16 nearest to `value`, and that number.
std::pair<uint16_t, double> nearestHalf(double value);

/// Of the eight words that `load_groups` gives: steps of pairs (e0 e2), (e1 e3)
/// of both halves, for fields at the lowest exponent, then offsets, all in
/// units of HalfTile::kUnit.  For `wide` ranges steps are 2^kWideExponent less.
LaneBuilder::Values codeConstants(WarpgroupBuilder &b, const AffineForm &form,
                                  const ::pmkvq::FragmentLayout &layout,
                                  ArrayRef<Value> groups, bool wide);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_CODECONSTANTS_H
