//===- CacheStore.cpp - Caches in the CPU's memory ------------------------===//
//
// Neighbours: CacheStore.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/CacheStore.h"

#include <cstring>

using namespace pmkvq::rt;

CacheStore::~CacheStore() = default;

LaunchResult pmkvq::rt::launchPages(ThreadPool &threads,
                                    const PageLaunch &launch) {
  void *operands[] = {launch.caches, const_cast<PageTask *>(launch.tasks)};
  return rt::launch(threads, launch.kernel, operands, launch.count);
}

Status CacheStore::attach(const CacheGeometry &geometry, CacheView *caches,
                          ThreadPool &threads) {
  if (threads_)
    return {StatusCode::FailedPrecondition,
            "a session has this store already; make one for each session"};
  geometry_ = geometry;
  caches_ = caches;
  threads_ = &threads;
  return {};
}

//===----------------------------------------------------------------------===//
// Launches
//===----------------------------------------------------------------------===//

Status CacheStore::preparePages(int64_t) { return {}; }

Result<LaunchResult> CacheStore::writePages(const PageLaunch &launch) {
  return launchPages(*threads_, launch);
}

Status CacheStore::prepareStep(const StepArgs &, const std::vector<RowRun> &) {
  return {};
}

int32_t CacheStore::launch(const LaunchRecord &record) {
  return rt::launch(*threads_, record.kernel, record.operands, record.tasks)
      .status;
}

Status CacheStore::failure() const { return {}; }

//===----------------------------------------------------------------------===//
// Bytes
//===----------------------------------------------------------------------===//

uint8_t *CacheStore::fixedPart(const FixedPart &place) const {
  int64_t partBytes =
      fixedAreaBytes(geometry_.headDim, geometry_.sinkTokens) / kParts;
  int64_t area = int64_t{place.sequence} * geometry_.kvHeads + place.head;
  return reinterpret_cast<uint8_t *>(caches_[place.layer].fixed) +
         (area * kParts + place.part) * partBytes;
}

Status CacheStore::copyFixed(int32_t parent, int32_t child) {
  int64_t bytes = geometry_.kvHeads *
                  fixedAreaBytes(geometry_.headDim, geometry_.sinkTokens);
  for (int32_t layer = 0; layer < geometry_.layers; ++layer)
    std::memcpy(fixedPart({layer, child, 0, kKey}),
                fixedPart({layer, parent, 0, kKey}),
                static_cast<size_t>(bytes));
  return {};
}

Status CacheStore::readPage(const PageEntry &page, uint8_t *parameters,
                            uint8_t *const (&codes)[kParts]) {
  // Pools are shared by all layers.
  const CacheView &view = caches_[0];
  auto slotBytes = static_cast<size_t>(geometry_.slotBytes());
  if (slotBytes)
    std::memcpy(parameters, view.parameters + page.slot * slotBytes, slotBytes);
  auto bytes = static_cast<size_t>(blockBytes(geometry_.headDim));
  for (int32_t part = 0; part < kParts; ++part) {
    if (page.level[part] < kLadder.back()) {
      std::memcpy(codes[part], sharedHalf(page), bytes / 2);
      std::memset(codes[part] + bytes / 2, 0, bytes / 2);
      continue;
    }
    for (int32_t b = 0; b < blocksAtLevel(page.level[part]); ++b)
      std::memcpy(codes[part] + b * bytes,
                  view.blocks + page.blocks[part][b] * bytes, bytes);
  }
  return {};
}

uint8_t *CacheStore::sharedHalf(const PageEntry &page) const {
  int64_t bytes = blockBytes(geometry_.headDim);
  return caches_[0].blocks + page.blocks[kValue][0] * bytes +
         page.blocks[kValue][1] * bytes / 2;
}

Status CacheStore::moveValues(const PageEntry &from, const PageEntry &to) {
  std::memcpy(sharedHalf(to), sharedHalf(from),
              static_cast<size_t>(blockBytes(geometry_.headDim) / 2));
  return {};
}

Status CacheStore::writePage(const PageEntry &page, const uint8_t *parameters,
                             const uint8_t *const (&codes)[kParts]) {
  const CacheView &view = caches_[0];
  auto slotBytes = static_cast<size_t>(geometry_.slotBytes());
  if (slotBytes)
    std::memcpy(view.parameters + page.slot * slotBytes, parameters, slotBytes);
  auto bytes = static_cast<size_t>(blockBytes(geometry_.headDim));
  for (int32_t part = 0; part < kParts; ++part) {
    if (page.level[part] < kLadder.back()) {
      std::memcpy(sharedHalf(page), codes[part], bytes / 2);
      continue;
    }
    for (int32_t b = 0; b < blocksAtLevel(page.level[part]); ++b)
      std::memcpy(view.blocks + page.blocks[part][b] * bytes,
                  codes[part] + b * bytes, bytes);
  }
  return {};
}

Status CacheStore::readFixed(const FixedPart &place, int64_t tokens, void *to) {
  if (tokens)
    std::memcpy(to, fixedPart(place),
                static_cast<size_t>(tokens * geometry_.headDim * 2));
  return {};
}

Status CacheStore::writeFixed(const FixedPart &place, int64_t tokens,
                              const void *from) {
  if (tokens)
    std::memcpy(fixedPart(place), from,
                static_cast<size_t>(tokens * geometry_.headDim * 2));
  return {};
}
