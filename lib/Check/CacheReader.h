//===- CacheReader.h - A cache's codes as values ----------------*- C++ -*-===//
//
// Decodes pages and fixed areas of a running session in double precision.
// Neighbours: lib/Conversion/CodeLayout.h (where a code is), lib/Reference
// (what it means), AttentionCheck.cpp (who asks).  Private to lib/Check.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CHECK_CACHEREADER_H
#define PMKVQ_LIB_CHECK_CACHEREADER_H

#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Reference/Quantize.h"
#include "pmkvq_rt/Abi.h"
#include "llvm/Support/Error.h"

#include <array>
#include <optional>
#include <vector>

namespace pmkvq::check {

class CacheReader {
public:
  /// Errors: a format that lib/Reference does not know.
  static llvm::Expected<CacheReader> create(mlir::pmkvq::CacheType cache);

  /// All that a row of `sequence` sees, in the basis that it is stored in:
  /// pages 0 .. pages-1, then fixed tokens 0 .. fixedTokens-1.
  ///
  /// Shapes: result [128 pages + fixedTokens][headDim].
  std::vector<double> decode(const rt::CacheView &view, int32_t sequence,
                             int32_t head, rt::Part part, int32_t pages,
                             int64_t fixedTokens) const;

private:
  /// How codes and parameters of a part become values.
  struct PartFormat {
    reference::Axis axis;
    /// None: the paper's, which has codes at level 16 too; scale * code - zero
    /// with bf16 parameters.
    std::optional<reference::UniformFormat> uniform;
    int64_t parameterBytes;
    /// [ladderIndex][token][headDim]: bit of a code within the part's blocks;
    /// empty at level 16, where elements are rows of 16 bits.
    std::array<std::vector<uint32_t>, rt::kValueLadder.size()> bits;
  };

  static llvm::Expected<PartFormat> makeFormat(mlir::pmkvq::CacheType cache,
                                               rt::Part part);
  uint32_t code(const rt::CacheView &view, const rt::PageEntry &entry,
                rt::Part part, int64_t element) const;
  void decodePage(const rt::CacheView &view, const rt::PageEntry &entry,
                  rt::Part part, double *values) const;

  int64_t headDim = 0;
  int64_t kvHeads = 0;
  int64_t sink = 0;
  std::array<PartFormat, rt::kParts> formats;
};

} // namespace pmkvq::check

#endif // PMKVQ_LIB_CHECK_CACHEREADER_H
