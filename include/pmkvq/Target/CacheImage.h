//===- CacheImage.h - A cache's bytes, code by code -------------*- C++ -*-===//
//
// Reads and writes single codes and parameters of a cache in host memory, in
// the CPU's order and in a GPU's, and converts one to the other.  Neighbours:
// HostLayout.h and FragmentLayout.h (the orders), Geometry.h (blocks),
// DeviceAbi.h (slots).
//
// Mental model.  Levels, block ids and slots are in a page's entry and mean the
// same everywhere; only the order within a block and within a slot differs.
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
  /// Whether a token's values have a range alone, in a byte (E5M3), and minus
  /// half of it as their minimum.
  bool symmetricValues = false;

  bool isSymmetric(rt::Part part) const {
    return part == rt::kValue && symmetricValues;
  }
  /// Bytes of a group's parameters.
  int64_t groupBytes(rt::Part part) const {
    return isSymmetric(part) ? 1 : 2 * sizeof(uint16_t);
  }

  int64_t groups(rt::Part part) const {
    return perToken[part] ? rt::kPageTokens : headDim;
  }
  int64_t groupOf(rt::Part part, int64_t token, int64_t dim) const {
    return perToken[part] ? token : dim;
  }
};

/// Which of a group's two parameters.
enum Parameter : int32_t { kMinimum = 0, kRange = 1 };

/// Whose kernels a cache is for.
enum class Order { Host, Device };

/// A cache in one order.  On a GPU values have parameters per token.
template <Order order> class CacheImage {
public:
  CacheImage(const ImageShape &shape, uint8_t *blocks, uint8_t *parameters)
      : shape_(shape), blocks_(blocks), parameters_(parameters) {}

  const ImageShape &shape() const { return shape_; }
  int64_t slotBytes() const;

  /// A code, or at level 16 a bf16 pattern.
  uint32_t code(const rt::PageEntry &page, rt::Part part, int64_t token,
                int64_t dim) const;
  void setCode(const rt::PageEntry &page, rt::Part part, int64_t token,
               int64_t dim, uint32_t code);

  /// fp16 patterns of the group that an element belongs to.  A minimum that
  /// follows from the range is not set.
  uint16_t parameter(const rt::PageEntry &page, rt::Part part, int64_t token,
                     int64_t dim, Parameter which) const;
  void setParameter(const rt::PageEntry &page, rt::Part part, int64_t token,
                    int64_t dim, Parameter which, uint16_t half);

  /// A bf16 pattern in one part of a fixed area: rows, on a GPU units of 16
  /// tokens.
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

using HostImage = CacheImage<Order::Host>;
using DeviceImage = CacheImage<Order::Device>;
extern template class CacheImage<Order::Host>;
extern template class CacheImage<Order::Device>;

/// Copies a page from one order to the other; block ids and slots may differ.
///
/// Errors: InvalidArgument if levels or shapes differ; Unimplemented for values
/// with parameters per channel.
template <Order source, Order target>
rt::Status convertPage(const CacheImage<source> &from,
                       const rt::PageEntry &page, CacheImage<target> &to,
                       const rt::PageEntry &copy);

/// The same for the first `tokens` of one part of a fixed area.
///
/// Shapes: the CPU's [tokens][headDim] bf16, at any alignment; a GPU's whole
/// units of 16 tokens.
template <Order source, Order target>
void convertFixed(rt::Part part, int64_t headDim, int64_t tokens,
                  const uint8_t *from, uint8_t *to);

} // namespace pmkvq

#endif // PMKVQ_TARGET_CACHEIMAGE_H
