//===- DeviceCacheBytes.cpp - Pages of a GPU in and out -------------------===//
//
// Forks and snapshots: whole pages and fixed areas, in the CPU's order outside.
// Neighbours: DeviceCache.h has the mental model, DeviceCache.cpp the launches.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/cuda/DeviceCache.h"

#include <algorithm>
#include <cstring>

using namespace pmkvq::rt;
using namespace pmkvq::rt::cuda;

Status DeviceCache::copyFixed(int32_t parent, int32_t child) {
  const PoolLayout &layout = pool_->layout();
  int64_t bytes =
      int64_t{geometry().kvHeads} * kParts * layout.fixedPartBytes();
  for (int32_t layer = 0; layer < geometry().layers; ++layer) {
    Status status = pool_->memory().moveAsync(
        stream_, layout.fixedOffset(fixedArea(layer, child, 0), kKey),
        layout.fixedOffset(fixedArea(layer, parent, 0), kKey), bytes);
    if (!status.ok())
      return status;
  }
  return stream_.synchronize();
}

/// The page with blocks 0, 1, ... and slot 0, key first.
PageEntry DeviceCache::stagedEntry(const PageEntry &page) const {
  PageEntry staged = {};
  uint32_t next = 0;
  for (int32_t part = 0; part < kParts; ++part) {
    staged.level[part] = page.level[part];
    for (int32_t b = 0; b < blocksAtLevel(page.level[part]); ++b)
      staged.blocks[part][b] = next++;
  }
  return staged;
}

/// The stage, empty, of which this is the CPU's half.
PageBytes DeviceCache::hostStage() {
  int64_t device = maxCodes() + pool_->layout().slotBytes;
  int64_t host = maxCodes() + geometry().slotBytes();
  // attach() has reserved as much.
  stage_.assign(static_cast<size_t>(device + host), 0);
  return {stage_.data() + device, stage_.data() + device + maxCodes()};
}

Status DeviceCache::readPage(const PageEntry &page, uint8_t *parameters,
                             uint8_t *const (&codes)[kParts]) {
  if (Status status = stream_.synchronize(); !status.ok())
    return status;
  const PoolLayout &layout = pool_->layout();
  const int64_t bytes = blockBytes(layout.headDim);
  const PageEntry staged = stagedEntry(page);
  const PageBytes host = hostStage(), device = deviceStage();
  for (int32_t part = 0; part < kParts; ++part)
    for (int32_t b = 0; b < blocksAtLevel(page.level[part]); ++b) {
      Status status = pool_->memory().download(
          device.blocks + staged.blocks[part][b] * bytes, bytes,
          layout.blockOffset(page.blocks[part][b]));
      if (!status.ok())
        return status;
    }
  Status status = pool_->memory().download(device.parameters, layout.slotBytes,
                                           layout.slotOffset(page.slot));
  if (status.ok())
    status = code_.orders.toHost(staged, device, host);
  if (!status.ok())
    return status;
  for (int32_t part = 0; part < kParts; ++part)
    std::memcpy(codes[part], host.blocks + staged.blocks[part][0] * bytes,
                static_cast<size_t>(blocksAtLevel(page.level[part]) * bytes));
  std::memcpy(parameters, host.parameters,
              static_cast<size_t>(geometry().slotBytes()));
  return {};
}

Status DeviceCache::writePage(const PageEntry &page, const uint8_t *parameters,
                              const uint8_t *const (&codes)[kParts]) {
  // Copies are of another stream: what was in these blocks may still be read.
  if (Status status = stream_.synchronize(); !status.ok())
    return status;
  const PoolLayout &layout = pool_->layout();
  const int64_t bytes = blockBytes(layout.headDim);
  const PageEntry staged = stagedEntry(page);
  const PageBytes host = hostStage(), device = deviceStage();
  for (int32_t part = 0; part < kParts; ++part)
    std::memcpy(host.blocks + staged.blocks[part][0] * bytes, codes[part],
                static_cast<size_t>(blocksAtLevel(page.level[part]) * bytes));
  std::memcpy(host.parameters, parameters,
              static_cast<size_t>(geometry().slotBytes()));
  if (Status status = code_.orders.toDevice(staged, device, host); !status.ok())
    return status;
  hasWideRanges_ |= code_.orders.hasWideRange(staged, host);
  for (int32_t part = 0; part < kParts; ++part)
    for (int32_t b = 0; b < blocksAtLevel(page.level[part]); ++b) {
      Status status = pool_->memory().upload(
          device.blocks + staged.blocks[part][b] * bytes, bytes,
          layout.blockOffset(page.blocks[part][b]));
      if (!status.ok())
        return status;
    }
  return pool_->memory().upload(device.parameters, layout.slotBytes,
                                layout.slotOffset(page.slot));
}

/// Bytes of the units that hold so many tokens of a fixed area's part.
static int64_t unitBytes(int64_t tokens, int64_t headDim) {
  int64_t unit = tokensPerBlock(16);
  return (tokens + unit - 1) / unit * blockBytes(headDim);
}

Status DeviceCache::readFixed(const FixedPart &place, int64_t tokens,
                              void *to) {
  if (Status status = stream_.synchronize(); !status.ok())
    return status;
  const PoolLayout &layout = pool_->layout();
  auto part = static_cast<Part>(place.part);
  stage_.assign(static_cast<size_t>(layout.fixedPartBytes()), 0);
  Status status = pool_->memory().download(
      stage_.data(), unitBytes(tokens, layout.headDim),
      layout.fixedOffset(fixedArea(place.layer, place.sequence, place.head),
                         part));
  if (status.ok())
    code_.orders.fixedToHost(part, tokens, stage_.data(),
                             static_cast<uint8_t *>(to));
  return status;
}

Status DeviceCache::writeFixed(const FixedPart &place, int64_t tokens,
                               const void *from) {
  if (Status status = stream_.synchronize(); !status.ok())
    return status;
  const PoolLayout &layout = pool_->layout();
  auto part = static_cast<Part>(place.part);
  // The tokens of the last unit that do not count must be finite: zero.
  stage_.assign(static_cast<size_t>(layout.fixedPartBytes()), 0);
  code_.orders.fixedToDevice(part, tokens, static_cast<const uint8_t *>(from),
                             stage_.data());
  return pool_->memory().upload(
      stage_.data(), unitBytes(tokens, layout.headDim),
      layout.fixedOffset(fixedArea(place.layer, place.sequence, place.head),
                         part));
}
