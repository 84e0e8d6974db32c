//===- CacheImage.cpp - A cache's bytes, code by code ---------------------===//
//
// Neighbours: CacheImage.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Target/CacheImage.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq/Target/HostLayout.h"

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

static Field hostField(const rt::PageEntry &page, rt::Part part,
                       int64_t headDim, int64_t token, int64_t dim) {
  int32_t level = page.level[part];
  if (level == 16)
    return {inPool(page, part, headDim, (token * headDim + dim) * 2), 0};
  HostLayout::Place place =
      HostLayout::ofPart(part, headDim).place(level, token, dim);
  return {inPool(page, part, headDim, place.byte), place.bit};
}

static Field deviceField(const rt::PageEntry &page, rt::Part part,
                         int64_t headDim, int64_t token, int64_t dim) {
  int32_t level = page.level[part];
  int32_t tokens = rt::tokensPerBlock(level);
  FragmentLayout::Place place =
      FragmentLayout{part, level, tokens, headDim}.place(token % tokens, dim);
  return {inPool(page, part, headDim,
                 token / tokens * rt::blockBytes(headDim) + place.byte),
          place.bit};
}

//===----------------------------------------------------------------------===//
// The CPU's order
//===----------------------------------------------------------------------===//

int64_t HostImage::slotBytes() const {
  return (shape_.groups(rt::kKey) + shape_.groups(rt::kValue)) *
         rt::kGroupBytes;
}

uint32_t HostImage::code(const rt::PageEntry &page, rt::Part part,
                         int64_t token, int64_t dim) const {
  Field field = hostField(page, part, shape_.headDim, token, dim);
  return readField(blocks_ + field.byte, field.bit, page.level[part]);
}

void HostImage::setCode(const rt::PageEntry &page, rt::Part part, int64_t token,
                        int64_t dim, uint32_t code) {
  Field field = hostField(page, part, shape_.headDim, token, dim);
  writeField(blocks_ + field.byte, field.bit, page.level[part], code);
}

uint8_t *HostImage::parameterAt(const rt::PageEntry &page, rt::Part part,
                                int64_t token, int64_t dim,
                                Parameter which) const {
  // All minima, then all ranges; the key's first.
  int64_t before =
      part == rt::kKey ? 0 : shape_.groups(rt::kKey) * rt::kGroupBytes;
  int64_t index =
      which * shape_.groups(part) + shape_.groupOf(part, token, dim);
  return parameters_ + page.slot * slotBytes() + before + index * 2;
}

uint16_t HostImage::parameter(const rt::PageEntry &page, rt::Part part,
                              int64_t token, int64_t dim,
                              Parameter which) const {
  return read16(parameterAt(page, part, token, dim, which));
}

void HostImage::setParameter(const rt::PageEntry &page, rt::Part part,
                             int64_t token, int64_t dim, Parameter which,
                             uint16_t half) {
  write16(parameterAt(page, part, token, dim, which), half);
}

//===----------------------------------------------------------------------===//
// A GPU's order
//===----------------------------------------------------------------------===//

int64_t DeviceImage::slotBytes() const {
  return rt::deviceSlotBytes(shape_.headDim, shape_.perToken[rt::kKey]);
}

uint32_t DeviceImage::code(const rt::PageEntry &page, rt::Part part,
                           int64_t token, int64_t dim) const {
  Field field = deviceField(page, part, shape_.headDim, token, dim);
  return readField(blocks_ + field.byte, field.bit, page.level[part]);
}

void DeviceImage::setCode(const rt::PageEntry &page, rt::Part part,
                          int64_t token, int64_t dim, uint32_t code) {
  Field field = deviceField(page, part, shape_.headDim, token, dim);
  writeField(blocks_ + field.byte, field.bit, page.level[part], code);
}

uint8_t *DeviceImage::parameterAt(const rt::PageEntry &page, rt::Part part,
                                  int64_t token, int64_t dim,
                                  Parameter which) const {
  bool perToken = shape_.perToken[part];
  int64_t before = part == rt::kKey
                       ? 0
                       : rt::deviceValueParameters(shape_.headDim,
                                                   shape_.perToken[rt::kKey]);
  int64_t index = perToken
                      ? ParameterLayout::perToken(token, which)
                      : ParameterLayout::perChannel(dim, which, shape_.headDim);
  return parameters_ + page.slot * slotBytes() + before + index * 2;
}

uint16_t DeviceImage::parameter(const rt::PageEntry &page, rt::Part part,
                                int64_t token, int64_t dim,
                                Parameter which) const {
  return read16(parameterAt(page, part, token, dim, which));
}

void DeviceImage::setParameter(const rt::PageEntry &page, rt::Part part,
                               int64_t token, int64_t dim, Parameter which,
                               uint16_t half) {
  write16(parameterAt(page, part, token, dim, which), half);
}

/// Byte of a value in one part of a fixed area.
static int64_t fixedByte(rt::Part part, int64_t headDim, int64_t token,
                         int64_t dim) {
  int32_t tokens = rt::tokensPerBlock(16);
  return token / tokens * rt::blockBytes(headDim) +
         FragmentLayout{part, 16, tokens, headDim}
             .place(token % tokens, dim)
             .byte;
}

uint16_t DeviceImage::fixedValue(const uint8_t *area, rt::Part part,
                                 int64_t headDim, int64_t token, int64_t dim) {
  return read16(area + fixedByte(part, headDim, token, dim));
}

void DeviceImage::setFixedValue(uint8_t *area, rt::Part part, int64_t headDim,
                                int64_t token, int64_t dim, uint16_t value) {
  write16(area + fixedByte(part, headDim, token, dim), value);
}

//===----------------------------------------------------------------------===//
// From one to the other
//===----------------------------------------------------------------------===//

static rt::Status checkPages(const HostImage &from, const rt::PageEntry &source,
                             const DeviceImage &to,
                             const rt::PageEntry &target) {
  const ImageShape &host = from.shape(), &device = to.shape();
  if (!device.perToken[rt::kValue])
    return {rt::StatusCode::Unimplemented,
            "values with parameters per channel: on a GPU they are per token"};
  bool sameShape = host.headDim == device.headDim;
  bool sameLevels = true;
  for (rt::Part part : {rt::kKey, rt::kValue}) {
    sameShape &= host.perToken[part] == device.perToken[part];
    sameLevels &= source.level[part] == target.level[part] &&
                  rt::isLevel(source.level[part]);
  }
  if (sameShape && sameLevels)
    return {};
  return {rt::StatusCode::InvalidArgument,
          std::string("expected two pages of equal ") +
              (sameShape ? "levels" : "shapes")};
}

rt::Status pmkvq::convertPage(const HostImage &from,
                              const rt::PageEntry &source, DeviceImage &to,
                              const rt::PageEntry &target) {
  if (rt::Status status = checkPages(from, source, to, target); !status.ok())
    return status;
  const ImageShape &shape = from.shape();
  for (rt::Part part : {rt::kKey, rt::kValue}) {
    for (int64_t token = 0; token < rt::kPageTokens; ++token)
      for (int64_t dim = 0; dim < shape.headDim; ++dim)
        to.setCode(target, part, token, dim,
                   from.code(source, part, token, dim));
    if (source.level[part] == 16)
      continue;
    for (int64_t group = 0; group < shape.groups(part); ++group)
      for (Parameter which : {kMinimum, kRange}) {
        int64_t token = shape.perToken[part] ? group : 0;
        int64_t dim = shape.perToken[part] ? 0 : group;
        to.setParameter(target, part, token, dim, which,
                        from.parameter(source, part, token, dim, which));
      }
  }
  return {};
}

void pmkvq::convertFixed(const uint16_t *from, rt::Part part, int64_t headDim,
                         int64_t tokens, uint8_t *to) {
  for (int64_t token = 0; token < tokens; ++token)
    for (int64_t dim = 0; dim < headDim; ++dim)
      DeviceImage::setFixedValue(to, part, headDim, token, dim,
                                 from[token * headDim + dim]);
}
