//===- MirroredCache.cpp - A device's cache beside the CPU's --------------===//
//
// See MirroredCache.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Check/MirroredCache.h"

#include <algorithm>
#include <cstring>
#include <string>

using namespace pmkvq;
using namespace pmkvq::check;
using rt::kParts;
using rt::Status;
using rt::StatusCode;

//===----------------------------------------------------------------------===//
// Both
//===----------------------------------------------------------------------===//

Status MirroredCache::attach(const rt::CacheGeometry &geometry,
                             rt::CacheView *caches, rt::ThreadPool &threads) {
  Status status = CacheStore::attach(geometry, caches, threads);
  return status.ok() ? device_->attach(geometry, caches, threads) : status;
}

Status MirroredCache::preparePages(int64_t tasks) {
  return device_->preparePages(tasks);
}

rt::Result<rt::LaunchResult>
MirroredCache::writePages(const rt::PageLaunch &launch) {
  rt::Result<rt::LaunchResult> here = CacheStore::writePages(launch);
  rt::Result<rt::LaunchResult> there = device_->writePages(launch);
  if (!here.ok() || !there.ok())
    return here.ok() ? there : here;
  if (here->status != there->status || here->task != there->task)
    return Status(StatusCode::Internal,
                  "the CPU's kernel returned " + std::to_string(here->status) +
                      " at page " + std::to_string(here->task) +
                      ", the device's " + std::to_string(there->status) +
                      " at page " + std::to_string(there->task));
  written_.insert(written_.end(), launch.tasks, launch.tasks + launch.count);
  return here;
}

Status MirroredCache::prepareStep(const rt::StepArgs &args,
                                  const std::vector<rt::RowRun> &runs) {
  Status status = device_->prepareStep(args, runs);
  if (status.ok())
    runs_ = runs;
  return status;
}

int32_t MirroredCache::launch(const rt::LaunchRecord &record) {
  auto is = [&](const std::vector<rt::KernelFn> &kernels) {
    return std::find(kernels.begin(), kernels.end(), record.kernel) !=
           kernels.end();
  };
  if (is(attend_))
    return device_->launch(record);
  int32_t status = CacheStore::launch(record);
  return is(append_) ? std::max(status, device_->launch(record)) : status;
}

Status MirroredCache::copyFixed(int32_t parent, int32_t child) {
  Status status = CacheStore::copyFixed(parent, child);
  return status.ok() ? device_->copyFixed(parent, child) : status;
}

Status MirroredCache::writePage(const rt::PageEntry &page,
                                const uint8_t *parameters,
                                const uint8_t *const (&codes)[kParts]) {
  Status status = CacheStore::writePage(page, parameters, codes);
  return status.ok() ? device_->writePage(page, parameters, codes) : status;
}

Status MirroredCache::writeFixed(const rt::FixedPart &place, int64_t tokens,
                                 const void *from) {
  Status status = CacheStore::writeFixed(place, tokens, from);
  return status.ok() ? device_->writeFixed(place, tokens, from) : status;
}

//===----------------------------------------------------------------------===//
// Comparison
//===----------------------------------------------------------------------===//

namespace {
/// A page in the order of the CPU's kernels.
struct PageContent {
  explicit PageContent(const rt::CacheGeometry &geometry)
      : parameters(static_cast<size_t>(geometry.slotBytes())) {
    for (std::vector<uint8_t> &part : codes)
      part.resize(static_cast<size_t>(rt::kMaxBlocksPerPart *
                                      rt::blockBytes(geometry.headDim)));
  }
  Status read(rt::CacheStore &store, const rt::PageEntry &page) {
    uint8_t *const parts[kParts] = {codes[0].data(), codes[1].data()};
    return store.readPage(page, parameters.data(), parts);
  }

  std::vector<uint8_t> parameters;
  std::vector<uint8_t> codes[kParts];
};
} // namespace

static Status differs(const std::string &what, const rt::PageTask &place) {
  return {StatusCode::Internal,
          what + " of layer " + std::to_string(place.layer) + ", sequence " +
              std::to_string(place.sequence) + ", kv head " +
              std::to_string(place.head) + ", page " +
              std::to_string(place.page) + " differ on CPU and device"};
}

Status MirroredCache::comparePage(const rt::PageTask &place) {
  const rt::CacheView &view = caches()[place.layer];
  int64_t table = int64_t{place.sequence} * geometry().kvHeads + place.head;
  const rt::PageEntry &page = view.pages[table * view.maxPages + place.page];
  PageContent here(geometry()), there(geometry());
  if (Status status = here.read(*this, page); !status.ok())
    return status;
  if (Status status = there.read(*device_, page); !status.ok())
    return status;
  ++comparedPages_;
  size_t offset = 0;
  for (int32_t part = 0; part < kParts; ++part) {
    auto bytes = static_cast<size_t>(geometry().parameterBytes[part]);
    // At level 16 there are none, and a slot holds what was there before.
    if (page.level[part] != 16 &&
        std::memcmp(here.parameters.data() + offset,
                    there.parameters.data() + offset, bytes) != 0)
      return differs("parameters", place);
    if (here.codes[part] != there.codes[part])
      return differs("codes", place);
    offset += bytes;
  }
  return {};
}

Status MirroredCache::compareFixed(const rt::RowRun &run) {
  const int64_t tokens = run.fixedIndex + run.rows;
  std::vector<uint16_t> here(static_cast<size_t>(tokens * geometry().headDim));
  std::vector<uint16_t> there(here.size());
  for (int32_t layer = 0; layer < geometry().layers; ++layer)
    for (int32_t head = 0; head < geometry().kvHeads; ++head)
      for (int32_t part = 0; part < kParts; ++part) {
        rt::FixedPart place = {layer, run.sequence, head, part};
        if (Status status = readFixed(place, tokens, here.data()); !status.ok())
          return status;
        if (Status status = device_->readFixed(place, tokens, there.data());
            !status.ok())
          return status;
        if (here != there)
          return differs("sink and window before",
                         {layer, run.sequence, head, run.pages});
      }
  return {};
}

Status MirroredCache::compareWritten() {
  for (const rt::PageTask &place : written_)
    if (Status status = comparePage(place); !status.ok())
      return status;
  written_.clear();
  for (const rt::RowRun &run : runs_)
    if (Status status = compareFixed(run); !status.ok())
      return status;
  return {};
}

Status MirroredCache::compareAll() {
  for (const rt::RowRun &run : runs_)
    for (int32_t layer = 0; layer < geometry().layers; ++layer)
      for (int32_t head = 0; head < geometry().kvHeads; ++head)
        for (int32_t page = 0; page < run.pages; ++page) {
          Status status = comparePage({layer, run.sequence, head, page});
          if (!status.ok())
            return status;
        }
  return compareWritten();
}
