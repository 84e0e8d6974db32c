//===- CacheImage.cpp - A cache's bytes, code by code ---------------------===//
//
// Neighbours: CacheImage.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/CacheImage.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq/Target/HostLayout.h"
#include "pmkvq/Target/SlotLayout.h"

#include <string>

using namespace pmkvq;
namespace rt = ::pmkvq::rt;

//===----------------------------------------------------------------------===//
// Fields of bytes
//===----------------------------------------------------------------------===//

static uint16_t read16(const uint8_t *at) {
  return static_cast<uint16_t>(at[0] | at[1] << 8);
}

static void write16(uint8_t *at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value);
  at[1] = static_cast<uint8_t>(value >> 8);
}

/// fp16 of minus half of a range, exact: one less in the exponent, or half of
/// what is below the smallest that has one.
static uint16_t minusHalf(uint16_t range) {
  constexpr uint16_t exponent = 0x400, sign = 0x8000;
  if (range == 0)
    return 0;
  int32_t half = range >= 2 * exponent ? range - exponent : range / 2;
  return static_cast<uint16_t>(sign | half);
}

static uint32_t readField(const uint8_t *at, int32_t bit, int32_t level) {
  if (level == 16)
    return read16(at);
  return (static_cast<uint32_t>(*at) >> bit) & ((1u << level) - 1);
}

static void writeField(uint8_t *at, int32_t bit, int32_t level, uint32_t code) {
  if (level == 16)
    return write16(at, code);
  uint32_t mask = ((1u << level) - 1) << bit;
  *at = static_cast<uint8_t>((*at & ~mask) | (code << bit & mask));
}

namespace {
/// A field of a part, by its block.
struct Field {
  int64_t byte;
  int32_t bit;
};
} // namespace

/// Byte `offset` of a part, in the pool.
static int64_t inPool(const rt::PageEntry &page, rt::Part part, int64_t headDim,
                      int64_t offset) {
  int64_t bytes = rt::blockBytes(headDim);
  return page.blocks[part][offset / bytes] * bytes + offset % bytes;
}

//===----------------------------------------------------------------------===//
// The orders
//===----------------------------------------------------------------------===//

template <Order order>
static Field fieldOf(const rt::PageEntry &page, rt::Part part, int64_t headDim,
                     int64_t token, int64_t dim) {
  int32_t level = page.level[part];
  if constexpr (order == Order::Device) {
    int32_t tokens = rt::tokensPerBlock(level);
    FragmentLayout::Place place =
        FragmentLayout{part, level, tokens, headDim}.place(token % tokens, dim);
    return {inPool(page, part, headDim,
                   token / tokens * rt::blockBytes(headDim) + place.byte),
            place.bit};
  }
  if (level == 16)
    return {inPool(page, part, headDim, (token * headDim + dim) * 2), 0};
  HostLayout::Place place =
      HostLayout::ofPart(part, headDim, level).place(level, token, dim);
  return {inPool(page, part, headDim, place.byte), place.bit};
}

/// Byte of a parameter in its page's slot.
template <Order order>
static int64_t parameterByte(const ImageShape &shape, rt::Part part,
                             int64_t token, int64_t dim, Parameter which) {
  if constexpr (order == Order::Device) {
    int64_t before =
        part == rt::kKey
            ? 0
            : deviceValueParameters(shape.headDim, shape.perToken[rt::kKey]);
    if (shape.isSymmetric(part))
      return before + ParameterLayout::perTokenByte(token);
    return before +
           2 * (shape.perToken[part]
                    ? ParameterLayout::perToken(token, which)
                    : ParameterLayout::perChannel(dim, which, shape.headDim));
  }
  // All minima, then all ranges; the key's first.
  int64_t before = part == rt::kKey ? 0 : shape.groups(rt::kKey) * kGroupBytes;
  if (shape.isSymmetric(part))
    return before + token;
  return before +
         2 * (which * shape.groups(part) + shape.groupOf(part, token, dim));
}

/// Byte of a value in one part of a fixed area.
template <Order order>
static int64_t fixedByte(rt::Part part, int64_t headDim, int64_t token,
                         int64_t dim) {
  if constexpr (order == Order::Device) {
    int32_t tokens = rt::tokensPerBlock(16);
    return token / tokens * rt::blockBytes(headDim) +
           FragmentLayout{part, 16, tokens, headDim}
               .place(token % tokens, dim)
               .byte;
  }
  return (token * headDim + dim) * 2;
}

//===----------------------------------------------------------------------===//
// Images
//===----------------------------------------------------------------------===//

template <Order order> int64_t CacheImage<order>::slotBytes() const {
  if constexpr (order == Order::Device)
    return deviceSlotBytes(shape_.headDim, shape_.perToken[rt::kKey],
                           shape_.groupBytes(rt::kValue));
  return shape_.groups(rt::kKey) * kGroupBytes +
         shape_.groups(rt::kValue) * shape_.groupBytes(rt::kValue);
}

template <Order order>
uint32_t CacheImage<order>::code(const rt::PageEntry &page, rt::Part part,
                                 int64_t token, int64_t dim) const {
  Field field = fieldOf<order>(page, part, shape_.headDim, token, dim);
  return readField(blocks_ + field.byte, field.bit, page.level[part]);
}

template <Order order>
void CacheImage<order>::setCode(const rt::PageEntry &page, rt::Part part,
                                int64_t token, int64_t dim, uint32_t code) {
  Field field = fieldOf<order>(page, part, shape_.headDim, token, dim);
  writeField(blocks_ + field.byte, field.bit, page.level[part], code);
}

template <Order order>
uint8_t *CacheImage<order>::parameterAt(const rt::PageEntry &page,
                                        rt::Part part, int64_t token,
                                        int64_t dim, Parameter which) const {
  return parameters_ + page.slot * slotBytes() +
         parameterByte<order>(shape_, part, token, dim, which);
}

template <Order order>
uint16_t CacheImage<order>::parameter(const rt::PageEntry &page, rt::Part part,
                                      int64_t token, int64_t dim,
                                      Parameter which) const {
  const uint8_t *at = parameterAt(page, part, token, dim, which);
  if (!shape_.isSymmetric(part))
    return read16(at);
  auto range = static_cast<uint16_t>(*at << kE5M3Shift);
  return which == kRange ? range : minusHalf(range);
}

template <Order order>
void CacheImage<order>::setParameter(const rt::PageEntry &page, rt::Part part,
                                     int64_t token, int64_t dim,
                                     Parameter which, uint16_t half) {
  uint8_t *at = parameterAt(page, part, token, dim, which);
  if (!shape_.isSymmetric(part))
    return write16(at, half);
  if (which == kRange)
    *at = static_cast<uint8_t>(half >> kE5M3Shift);
}

template <Order order>
uint16_t CacheImage<order>::fixedValue(const uint8_t *area, rt::Part part,
                                       int64_t headDim, int64_t token,
                                       int64_t dim) {
  return read16(area + fixedByte<order>(part, headDim, token, dim));
}

template <Order order>
void CacheImage<order>::setFixedValue(uint8_t *area, rt::Part part,
                                      int64_t headDim, int64_t token,
                                      int64_t dim, uint16_t value) {
  write16(area + fixedByte<order>(part, headDim, token, dim), value);
}

template class pmkvq::CacheImage<Order::Host>;
template class pmkvq::CacheImage<Order::Device>;

//===----------------------------------------------------------------------===//
// From one to the other
//===----------------------------------------------------------------------===//

static rt::Status checkPages(const ImageShape &from,
                             const rt::PageEntry &source, const ImageShape &to,
                             const rt::PageEntry &target) {
  if (!from.perToken[rt::kValue] || !to.perToken[rt::kValue])
    return {rt::StatusCode::Unimplemented,
            "values with parameters per channel: on a GPU they are per token"};
  bool sameShape = from.headDim == to.headDim;
  bool sameLevels = true;
  for (rt::Part part : {rt::kKey, rt::kValue}) {
    sameShape &= from.perToken[part] == to.perToken[part] &&
                 from.isSymmetric(part) == to.isSymmetric(part);
    sameLevels &= source.level[part] == target.level[part] &&
                  rt::isLevel(source.level[part]);
  }
  if (sameShape && sameLevels)
    return {};
  return {rt::StatusCode::InvalidArgument,
          std::string("expected two pages of equal ") +
              (sameShape ? "levels" : "shapes")};
}

template <Order source, Order target>
rt::Status pmkvq::convertPage(const CacheImage<source> &from,
                              const rt::PageEntry &page, CacheImage<target> &to,
                              const rt::PageEntry &copy) {
  if (rt::Status status = checkPages(from.shape(), page, to.shape(), copy);
      !status.ok())
    return status;
  const ImageShape &shape = from.shape();
  for (rt::Part part : {rt::kKey, rt::kValue}) {
    for (int64_t token = 0; token < rt::kPageTokens; ++token)
      for (int64_t dim = 0; dim < shape.headDim; ++dim)
        to.setCode(copy, part, token, dim, from.code(page, part, token, dim));
    if (page.level[part] == 16)
      continue;
    for (int64_t group = 0; group < shape.groups(part); ++group)
      for (Parameter which : {kMinimum, kRange}) {
        int64_t token = shape.perToken[part] ? group : 0;
        int64_t dim = shape.perToken[part] ? 0 : group;
        to.setParameter(copy, part, token, dim, which,
                        from.parameter(page, part, token, dim, which));
      }
  }
  return {};
}

template rt::Status pmkvq::convertPage(const HostImage &, const rt::PageEntry &,
                                       DeviceImage &, const rt::PageEntry &);
template rt::Status pmkvq::convertPage(const DeviceImage &,
                                       const rt::PageEntry &, HostImage &,
                                       const rt::PageEntry &);

template <Order source, Order target>
void pmkvq::convertFixed(rt::Part part, int64_t headDim, int64_t tokens,
                         const uint8_t *from, uint8_t *to) {
  for (int64_t token = 0; token < tokens; ++token)
    for (int64_t dim = 0; dim < headDim; ++dim)
      CacheImage<target>::setFixedValue(
          to, part, headDim, token, dim,
          CacheImage<source>::fixedValue(from, part, headDim, token, dim));
}

template void pmkvq::convertFixed<Order::Host, Order::Device>(rt::Part, int64_t,
                                                              int64_t,
                                                              const uint8_t *,
                                                              uint8_t *);
template void pmkvq::convertFixed<Order::Device, Order::Host>(rt::Part, int64_t,
                                                              int64_t,
                                                              const uint8_t *,
                                                              uint8_t *);
