//===- Snapshot.cpp - A sequence as bytes ---------------------------------===//
//
// Sizes, hash and checks of a snapshot.  Neighbours: Snapshot.h has the layout,
// SessionSnapshot.cpp copies.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Snapshot.h"

#include "Bytes.h"
#include "pmkvq_rt/Session.h"

#include <cmath>
#include <cstring>

using namespace pmkvq::rt;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "snapshots are stored little-endian, by copying structs");

SnapshotSections pmkvq::rt::snapshotSections(const SnapshotHeader &header) {
  const SnapshotGeometry &g = header.geometry;
  SnapshotSections s;
  int64_t heads = saturatingProduct({g.layers, g.kvHeads});
  s.pages = pagesForTokens(header.tokens, g.sinkTokens);
  s.pageHeads = saturatingProduct({heads, s.pages});
  s.fixedTokens = header.tokens - s.pages * kPageTokens;
  s.fixed = sizeof(SnapshotHeader);
  s.logits = saturatingSum(
      {s.fixed, saturatingProduct({heads, kParts, s.fixedTokens, g.headDim,
                                   int64_t(sizeof(uint16_t))})});
  bool hasLogits = header.flags & kSnapshotLogits;
  s.levels = saturatingSum(
      {s.logits, hasLogits ? g.vocabSize * int64_t(sizeof(float)) : 0});
  s.parameters =
      saturatingSum({s.levels, saturatingProduct({s.pageHeads, kParts})});
  int64_t slotBytes =
      int64_t(g.parameterBytes[kKey]) + g.parameterBytes[kValue];
  s.blocks = saturatingSum(
      {s.parameters, saturatingProduct({s.pageHeads, slotBytes})});
  return s;
}

int64_t SnapshotSections::end(int64_t blockCount, int64_t headDim) const {
  return saturatingSum(
      {blocks, saturatingProduct({blockCount, blockBytes(headDim)})});
}

uint64_t pmkvq::rt::snapshotHash(const uint8_t *data, size_t size) {
  constexpr size_t kHash = offsetof(SnapshotHeader, hash);
  uint64_t hash = 0xcbf29ce484222325;
  for (size_t i = 0; i < size; ++i) {
    bool own = i >= kHash && i < kHash + sizeof(uint64_t);
    hash = (hash ^ (own ? 0 : data[i])) * 0x100000001b3;
  }
  return hash;
}

static Status damaged(const std::string &what) {
  return Status(StatusCode::DataLoss,
                "the snapshot is damaged: " + what + "; take it again");
}

/// Magic, version, size and hash.
static Status checkFrame(const SnapshotHeader &header, const uint8_t *data,
                         size_t size) {
  if (std::memcmp(header.magic, kSnapshotMagic, sizeof(kSnapshotMagic)) != 0)
    return damaged("it does not begin as one");
  if (header.version != kSnapshotVersion ||
      header.headerBytes != sizeof(SnapshotHeader))
    return Status(StatusCode::DataLoss,
                  "the snapshot has version " + std::to_string(header.version) +
                      ", this runtime reads version " +
                      std::to_string(kSnapshotVersion) + "; take it again");
  if (header.bytes != size)
    return damaged("it has " + std::to_string(size) + " bytes of " +
                   std::to_string(header.bytes));
  if (header.hash != snapshotHash(data, size))
    return damaged("its hash is not that of its bytes");
  return Status();
}

namespace {
struct Pair {
  const char *name;
  int64_t there;
  int64_t here;
};
} // namespace

static Status checkGeometry(const SnapshotGeometry &there,
                            const SnapshotGeometry &here) {
  const Pair pairs[] = {
      {"layers", there.layers, here.layers},
      {"kv heads", there.kvHeads, here.kvHeads},
      {"head dim", there.headDim, here.headDim},
      {"sink tokens", there.sinkTokens, here.sinkTokens},
      {"key parameter bytes", there.parameterBytes[kKey],
       here.parameterBytes[kKey]},
      {"value parameter bytes", there.parameterBytes[kValue],
       here.parameterBytes[kValue]},
      {"vocabulary", there.vocabSize, here.vocabSize},
      {"key floor", there.floor[kKey], here.floor[kKey]},
      {"value floor", there.floor[kValue], here.floor[kValue]},
      {"layout", there.layout, here.layout},
  };
  for (const Pair &pair : pairs)
    if (pair.there != pair.here)
      return Status(StatusCode::InvalidArgument,
                    std::string("the snapshot is of another program: ") +
                        pair.name + " " + std::to_string(pair.there) +
                        ", here " + std::to_string(pair.here));
  if (there.formatHash != here.formatHash)
    return Status(StatusCode::InvalidArgument,
                  "the snapshot is of a program with other formats");
  return Status();
}

/// Counts, levels and ids; after this every section lies within the bytes.
static Status checkContents(const SnapshotView &view, size_t size) {
  const SnapshotHeader &header = view.header;
  const SnapshotSections &s = view.sections;
  int64_t bytes = static_cast<int64_t>(size);
  if (header.next < -1 || header.next >= header.geometry.vocabSize ||
      header.flags > (kSnapshotEmitted | kSnapshotLogits) ||
      (header.flags && header.next < 0))
    return damaged("its next token is " + std::to_string(header.next));
  if (s.blocks > bytes)
    return damaged(std::to_string(header.tokens) + " tokens do not fit " +
                   std::to_string(size) + " bytes");
  int64_t blocks = 0;
  for (int64_t i = 0; i < s.pageHeads; ++i)
    for (int32_t part = 0; part < kParts; ++part) {
      int32_t level = view.level(i, part);
      if (!isLevelOf(static_cast<Part>(part), level) ||
          level < header.geometry.floor[part])
        return damaged("a level of " + std::to_string(level) + " bits");
      blocks += blocksAtLevel(level);
      // Partners are at level 1 together: they share a block.
      int64_t heads = i / s.pages;
      int64_t partner = isSecondOfPair(static_cast<int32_t>(heads))
                            ? i - s.pages
                            : i + s.pages;
      if (level == 1 &&
          (partner >= s.pageHeads || view.level(partner, part) != 1))
        return damaged("values of one of two partners at 1 bit");
    }
  if (s.end(blocks, header.geometry.headDim) != bytes)
    return damaged("its pages do not fit " + std::to_string(size) + " bytes");
  for (int64_t at = s.logits; at < s.levels; at += sizeof(float)) {
    float logit;
    std::memcpy(&logit, view.data + at, sizeof(float));
    if (!std::isfinite(logit))
      return damaged("a logit is not finite");
  }
  return Status();
}

Result<SnapshotView>
pmkvq::rt::parseSnapshot(const uint8_t *data, size_t size,
                         const SnapshotGeometry &expected) {
  SnapshotView view;
  if (!data || size < sizeof(SnapshotHeader))
    return damaged("it has " + std::to_string(data ? size : 0) + " bytes");
  std::memcpy(&view.header, data, sizeof(SnapshotHeader));
  view.data = data;
  if (Status s = checkFrame(view.header, data, size); !s.ok())
    return s;
  if (Status s = checkGeometry(view.header.geometry, expected); !s.ok())
    return s;
  // Positions have 31 bits; more than this no size below is made for.
  if (view.header.tokens < 0 || view.header.tokens > INT32_MAX)
    return damaged(std::to_string(view.header.tokens) + " tokens");
  view.sections = snapshotSections(view.header);
  if (Status s = checkContents(view, size); !s.ok())
    return s;
  return view;
}

Result<SnapshotStage> SnapshotStage::create(const SnapshotView &view) {
  const SnapshotGeometry &g = view.header.geometry;
  const SnapshotSections &s = view.sections;
  int64_t blockTotal = static_cast<int64_t>(view.header.bytes) - s.blocks;
  SnapshotStage stage;
  stage.blockBytes_ = blockBytes(g.headDim);
  stage.slotBytes_ = int64_t(g.parameterBytes[kKey]) + g.parameterBytes[kValue];
  if (blockTotal / stage.blockBytes_ > UINT32_MAX)
    return damaged("more blocks than ids");
  Result<Arena> blocks = Arena::reserve(blockTotal);
  Result<Arena> parameters = Arena::reserve(s.blocks - s.parameters);
  if (!blocks.ok() || !parameters.ok())
    return blocks.ok() ? parameters.status() : blocks.status();
  stage.blocks_ = std::move(*blocks);
  stage.parameters_ = std::move(*parameters);
  std::memcpy(stage.blocks_.data(), view.data + s.blocks, blockTotal);
  std::memcpy(stage.parameters_.data(), view.data + s.parameters,
              s.blocks - s.parameters);
  stage.entries_.resize(s.pageHeads);
  uint32_t next = 0;
  for (int64_t i = 0; i < s.pageHeads; ++i) {
    PageEntry &entry = stage.entries_[i];
    entry.slot = static_cast<uint32_t>(i);
    for (int32_t part = 0; part < kParts; ++part) {
      entry.level[part] = static_cast<uint8_t>(view.level(i, part));
      for (int32_t b = 0; b < blocksAtLevel(entry.level[part]); ++b)
        entry.blocks[part][b] = next++;
    }
  }
  for (int32_t layer = 0; layer < g.layers; ++layer)
    stage.caches_.push_back(
        {stage.blocks_.data(), stage.parameters_.data(),
         stage.entries_.data() + int64_t{layer} * g.kvHeads * s.pages, nullptr,
         s.pages});
  return stage;
}
