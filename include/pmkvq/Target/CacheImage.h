//===- CacheImage.h - A cache's bytes, code by code -------------*- C++ -*-===//
//
// Reads and writes single codes and parameters of a cache in host memory, in
// the CPU's order and in a GPU's, and converts one to the other.  Neighbours:
// HostLayout.h and FragmentLayout.h (the orders), Geometry.h (blocks),
// DeviceAbi.h (slots).
//
// Mental model.  Levels, block ids and slots are in a page's entry and mean the
// same everywhere; only the order within a block and within a slot differs.
// Both images have the same members, so what works on one by name works on the
// other.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_CACHEIMAGE_H
#define PMKVQ_TARGET_CACHEIMAGE_H

#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/DeviceAbi.h"
#include "pmkvq_rt/Status.h"

#include <cstdint>

namespace pmkvq {

/// What decides a cache's layout.
struct ImageShape {
  int64_t headDim = 128;
  /// Whether groups of parameters are tokens (else head dims), per part.
  bool perToken[rt::kParts] = {false, true};

  int64_t groups(rt::Part part) const {
    return perToken[part] ? rt::kPageTokens : headDim;
  }
  int64_t groupOf(rt::Part part, int64_t token, int64_t dim) const {
    return perToken[part] ? token : dim;
  }
};

/// Which of a group's two parameters.
enum Parameter : int32_t { kMinimum = 0, kRange = 1 };

/// A cache in the order of the CPU's kernels.
class HostImage {
public:
  HostImage(const ImageShape &shape, uint8_t *blocks, uint8_t *parameters)
      : shape_(shape), blocks_(blocks), parameters_(parameters) {}

  const ImageShape &shape() const { return shape_; }
  int64_t slotBytes() const;

  /// A code, or at level 16 a bf16 pattern.
  uint32_t code(const rt::PageEntry &page, rt::Part part, int64_t token,
                int64_t dim) const;
  void setCode(const rt::PageEntry &page, rt::Part part, int64_t token,
               int64_t dim, uint32_t code);

  /// fp16 patterns of the group that an element belongs to.
  uint16_t parameter(const rt::PageEntry &page, rt::Part part, int64_t token,
                     int64_t dim, Parameter which) const;
  void setParameter(const rt::PageEntry &page, rt::Part part, int64_t token,
                    int64_t dim, Parameter which, uint16_t half);

private:
  uint8_t *parameterAt(const rt::PageEntry &page, rt::Part part, int64_t token,
                       int64_t dim, Parameter which) const;

  ImageShape shape_;
  uint8_t *blocks_;
  uint8_t *parameters_;
};

/// A cache in the order of a GPU's kernels; values have parameters per token.
class DeviceImage {
public:
  DeviceImage(const ImageShape &shape, uint8_t *blocks, uint8_t *parameters)
      : shape_(shape), blocks_(blocks), parameters_(parameters) {}

  const ImageShape &shape() const { return shape_; }
  int64_t slotBytes() const;

  uint32_t code(const rt::PageEntry &page, rt::Part part, int64_t token,
                int64_t dim) const;
  void setCode(const rt::PageEntry &page, rt::Part part, int64_t token,
               int64_t dim, uint32_t code);
  uint16_t parameter(const rt::PageEntry &page, rt::Part part, int64_t token,
                     int64_t dim, Parameter which) const;
  void setParameter(const rt::PageEntry &page, rt::Part part, int64_t token,
                    int64_t dim, Parameter which, uint16_t half);

  /// One part of a fixed area: a bf16 pattern in units of 16 tokens.
  static uint16_t fixedValue(const uint8_t *area, rt::Part part,
                             int64_t headDim, int64_t token, int64_t dim);
  static void setFixedValue(uint8_t *area, rt::Part part, int64_t headDim,
                            int64_t token, int64_t dim, uint16_t value);

private:
  uint8_t *parameterAt(const rt::PageEntry &page, rt::Part part, int64_t token,
                       int64_t dim, Parameter which) const;

  ImageShape shape_;
  uint8_t *blocks_;
  uint8_t *parameters_;
};

/// Copies a page from the CPU's order to a GPU's; block ids and slots may
/// differ.
///
/// Errors: InvalidArgument if levels or shapes differ; Unimplemented for values
/// with parameters per channel.
rt::Status convertPage(const HostImage &from, const rt::PageEntry &source,
                       DeviceImage &to, const rt::PageEntry &target);

/// Copies the first `tokens` of one part of a fixed area.
/// Shapes: from [tokens][headDim] bf16; `to` whole units of 16 tokens.
void convertFixed(const uint16_t *from, rt::Part part, int64_t headDim,
                  int64_t tokens, uint8_t *to);

} // namespace pmkvq

#endif // PMKVQ_TARGET_CACHEIMAGE_H
