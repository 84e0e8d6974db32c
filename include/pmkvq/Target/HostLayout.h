//===- HostLayout.h - The order of codes on the CPU -------------*- C++ -*-===//
//
// Says which field of which byte of a part's blocks is which element.  The only
// owner of that fact on the compiler's side.  Neighbours:
// lib/Conversion/CodeLayout.h (the same for tile types), LowerCodes.cpp (which
// writes codes), LowerProducts.cpp (which reads them), FragmentLayout.h (the
// order on a GPU).
//
// Mental model.  A product with a tile sums over one axis (keys: head dims,
// values: tokens) and has outputs along the other.  A *vector* is 32 bytes: 8
// lanes of 32 bits; a lane is an output, its 4 bytes are 4 neighbouring
// elements of the summed axis, a *quad*, in the order 0, 2, 1, 3.  At level 8 a
// byte is one code.  Lowering packs two neighbouring vectors into one, so at
// level 4 a byte holds the codes of 2 outputs, at level 2 of 4; 4 neighbouring
// vectors of level 8, outputs apart by 8, are one *bundle*, and a bundle is one
// vector at level 2:
//
//   level 8: vectors g = 0, 1, 2, 3          bits 0-7 of each byte
//   level 4: vector 0: g = 0 in bits 0-3, 1 in bits 4-7; vector 1: g = 2, 3
//   level 2: g = 0 in bits 0-1, 1 in 4-5, 2 in 2-3, 3 in 6-7
//
// Values at level 1 have bundles twice as large, two neighbours of above, of 64
// outputs: g = 0 to 3 are in the lower bit of a field of level 2, 4 to 7 in the
// upper one.
//
// A part is a row of bundles, each 32 outputs x one quad.  Keys: for each 32
// tokens, all quads of head dims; values: for each quad of tokens, all runs of
// 32 head dims.  Where outputs are no multiple of 32, as with values of 80 head
// dims, a bundle is 16 outputs x two quads: g = 0 and 1 are of the first.  At
// level 16 a part is rows of bf16, one token after the other.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_HOSTLAYOUT_H
#define PMKVQ_TARGET_HOSTLAYOUT_H

#include "pmkvq_rt/Geometry.h"

#include <cstdint>

namespace pmkvq {

struct HostLayout {
  static constexpr int64_t kLanes = 8;
  static constexpr int64_t kVectorBytes = 32;
  static constexpr int64_t kQuad = 4;
  /// Byte of a lane that element i of a quad is in; its own inverse.
  static constexpr int64_t kByteOf[kQuad] = {0, 2, 1, 3};

  /// Shapes: `reduction` elements are summed, `width` are outputs.
  /// The order differs at level 1 alone.
  constexpr HostLayout(rt::Part part, int64_t reduction, int64_t width,
                       int64_t level)
      : part(part), bundleGroups(level == 1 ? 8 : 4),
        runGroups(width % (kLanes * bundleGroups) ? bundleGroups / 2
                                                  : bundleGroups),
        steps(reduction / (kQuad * stepQuads())), runs(width / runOutputs()),
        runStride(part == rt::kKey ? steps : 1),
        stepStride(part == rt::kKey ? 1 : runs) {}

  /// The layout of a whole part.
  static constexpr HostLayout ofPart(rt::Part part, int64_t headDim,
                                     int64_t level) {
    return part == rt::kKey ? HostLayout(part, headDim, rt::kPageTokens, level)
                            : HostLayout(part, rt::kPageTokens, headDim, level);
  }

  rt::Part part;
  /// Groups of 8 lanes in a bundle: 4, or 8 at level 1.
  int64_t bundleGroups;
  /// Groups of 8 outputs of a bundle: all, or half of them with two quads.
  int64_t runGroups;
  /// Bundles along the summed axis, and along the outputs.
  int64_t steps;
  int64_t runs;
  /// Bundle of (run, step) is run * runStride + step * stepStride.
  int64_t runStride;
  int64_t stepStride;

  /// Outputs of a bundle, and its quads.
  constexpr int64_t runOutputs() const { return runGroups * kLanes; }
  constexpr int64_t stepQuads() const { return bundleGroups / runGroups; }
  /// Of a group of a bundle: which of the outputs, and which quad.
  constexpr int64_t outputOf(int64_t group) const {
    return group % runGroups * kLanes;
  }
  constexpr int64_t quadOf(int64_t group) const { return group / runGroups; }

  /// Vectors of a bundle at a level.
  static constexpr int64_t vectorsPerBundle(int64_t level) {
    return level == 1 ? 1 : level / 2;
  }

  /// Fields of a byte at a level, and the group and first bit of each.
  static constexpr int64_t fields(int64_t level) { return 8 / level; }
  static constexpr int64_t groupOf(int64_t level, int64_t vector,
                                   int64_t field) {
    return vector * fields(level) + field;
  }
  static constexpr int64_t bitOf(int64_t level, int64_t field) {
    // At level 2 the second half of a bundle fills the gaps of the first, at
    // level 1 that of a larger bundle does.
    constexpr int64_t level2[] = {0, 4, 2, 6};
    return level > 2 ? field * 4 : level2[field % 4] + field / 4;
  }

  /// Where the codes of `field` of source vector `half` (0 or 1) go when two
  /// neighbouring vectors at `from` become one.
  static constexpr int64_t loweredBitOf(int64_t from, int64_t half,
                                        int64_t field) {
    return bitOf(from / 2, half * fields(from) + field);
  }

  /// A code's place: byte offset in the part, and first bit.
  struct Place {
    int64_t byte;
    int32_t bit;
  };

  /// Of a code below level 16.
  constexpr Place place(int32_t level, int64_t token, int64_t dim) const {
    int64_t output = part == rt::kKey ? token : dim;
    int64_t summed = part == rt::kKey ? dim : token;
    int64_t quad = summed / kQuad;
    int64_t bundle =
        output / runOutputs() * runStride + quad / stepQuads() * stepStride;
    int64_t group =
        quad % stepQuads() * runGroups + output % runOutputs() / kLanes;
    int64_t vector = bundle * vectorsPerBundle(level) + group / fields(level);
    return {vector * kVectorBytes + output % kLanes * 4 +
                kByteOf[summed % kQuad],
            static_cast<int32_t>(bitOf(level, group % fields(level)))};
  }
};

} // namespace pmkvq

#endif // PMKVQ_TARGET_HOSTLAYOUT_H
