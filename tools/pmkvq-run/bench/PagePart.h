//===- PagePart.h - Parts of pages, as the reference has them ---*- C++ -*-===//
//
// Neighbours: CacheImage.h (where a code lies), pmkvq/Reference (what it
// means), WriteBench.cpp (who compares).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_PAGEPART_H
#define PMKVQ_TOOLS_RUN_BENCH_PAGEPART_H

#include "Case.h"
#include "pmkvq/Target/CacheImage.h"

namespace pmkvq::bench {

/// One part of `page`, read from a cache's bytes.  `Image` is an image of
/// CacheImage.h, in the order of a CPU or of a GPU.
/// Shapes: codes or, at level 16, values [kPageTokens][headDim]; minimum and
/// range [groups of the part].
template <typename Image>
reference::PagePart
readPart(const Image &image, const rt::PageEntry &page, rt::Part part,
         const reference::UniformFormat &format, int64_t headDim) {
  reference::PagePart read;
  read.level = page.level[part];
  for (int64_t token = 0; token < rt::kPageTokens; ++token)
    for (int64_t dim = 0; dim < headDim; ++dim) {
      uint32_t code = image.code(page, part, token, dim);
      if (read.level == 16)
        read.values.push_back(static_cast<uint16_t>(code));
      else
        read.codes.push_back(static_cast<uint8_t>(code));
    }
  if (read.level == 16)
    return read;
  auto groups = static_cast<size_t>(reference::groupCount(format, headDim));
  read.minimum.resize(groups);
  read.range.resize(groups);
  for (int64_t token = 0; token < rt::kPageTokens; ++token)
    for (int64_t dim = 0; dim < headDim; ++dim) {
      auto group =
          static_cast<size_t>(reference::groupOf(format, headDim, token, dim));
      read.minimum[group] = image.parameter(page, part, token, dim, kMinimum);
      read.range[group] = image.parameter(page, part, token, dim, kRange);
    }
  return read;
}

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_PAGEPART_H
