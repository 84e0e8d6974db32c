//===- CodeLayout.h - The order of codes of a tile on the CPU ---*- C++ -*-===//
//
// HostLayout for a tile type.  Neighbours: HostLayout.h, which has the mental
// model, LowerCodes.cpp and LowerProducts.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_CODELAYOUT_H
#define PMKVQ_LIB_CONVERSION_CODELAYOUT_H

#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/HostLayout.h"

namespace mlir::pmkvq {

struct CodeLayout : ::pmkvq::HostLayout {
  explicit CodeLayout(TileType tile)
      : HostLayout(tile.getPart() == Part::Key ? ::pmkvq::rt::kKey
                                               : ::pmkvq::rt::kValue,
                   tile.getReduction(), tile.getWidth(), tile.getLevel()) {}
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_CODELAYOUT_H
