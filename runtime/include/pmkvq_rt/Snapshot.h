//===- Snapshot.h - A sequence as bytes -------------------------*- C++ -*-===//
//
// The layout of a snapshot, its writer and its checked reader.  Neighbours:
// SessionSnapshot.cpp, which moves the bytes into and out of a session.
//
// Mental model.  A snapshot holds all that decoding needs to go on: tokens that
// are still bf16, codes, parameters and levels of every page, and the next
// token.  It belongs to one program, or to one of equal geometry, formats and
// weights (weights are not checked).  Logical codes would be portable; what is
// stored is the program's own order of them, named by `layout`, so that taking
// and restoring are copies.  All numbers are little-endian; no padding:
//
//   SnapshotHeader
//   fixed areas  [layer][kvHead][part][fixedTokens][headDim], bf16; fixedTokens
//                = tokens - 128 pages, sink first
//   logits       [vocab], f32, only with kSnapshotLogits
//   levels       [layer][kvHead][page][part], one byte of bits a code
//   parameters   [layer][kvHead][page][keyBytes + valueBytes]
//   blocks       [layer][kvHead][page][part][level / 2][32 headDim]
//
// pages follows from tokens (see Session.h).  The hash is FNV-1a with 64 bits
// over all bytes, its own eight taken as zero: it finds damage, not malice, and
// so every size, level and token id is checked as well.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SNAPSHOT_H
#define PMKVQ_RT_SNAPSHOT_H

#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/Arena.h"
#include "pmkvq_rt/Status.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pmkvq::rt {

inline constexpr char kSnapshotMagic[8] = {'P', 'M', 'K', 'V',
                                           'Q', 'S', 'E', 'Q'};
inline constexpr uint32_t kSnapshotVersion = 1;

enum SnapshotFlags : uint32_t {
  /// The next token was already part of a result.
  kSnapshotEmitted = 1,
  /// The next token is not chosen yet; the logits for it follow.
  kSnapshotLogits = 2,
};

/// What program and snapshot must agree in.
struct SnapshotGeometry {
  int32_t layers;
  int32_t kvHeads;
  int32_t headDim;
  int32_t sinkTokens;
  int32_t parameterBytes[kParts];
  int32_t vocabSize;
  int32_t floor[kParts];
  int32_t layout; // LayoutKind
  uint64_t formatHash;
};

struct SnapshotHeader {
  char magic[8];
  uint32_t version;
  uint32_t headerBytes;
  /// Of the whole snapshot.
  uint64_t bytes;
  uint64_t hash;
  SnapshotGeometry geometry;
  int64_t tokens;
  /// Chosen, not cached; -1: none.
  int32_t next;
  uint32_t flags; // SnapshotFlags
};
static_assert(sizeof(SnapshotHeader) == 96, "stored as it is: no padding");
static_assert(offsetof(SnapshotHeader, hash) == 24);

/// Where the sections start, in bytes, and where the last one ends.  A size
/// that does not fit an int64 is the largest one.
struct SnapshotSections {
  int64_t pages;
  /// One a layer, kv head and page.
  int64_t pageHeads;
  int64_t fixedTokens;
  int64_t fixed;
  int64_t logits;
  int64_t levels;
  int64_t parameters;
  int64_t blocks;

  int64_t end(int64_t blockCount, int64_t headDim) const;
};
SnapshotSections snapshotSections(const SnapshotHeader &header);

/// A snapshot that was checked.  Points into the caller's bytes.
struct SnapshotView {
  SnapshotHeader header;
  SnapshotSections sections;
  const uint8_t *data;

  int32_t level(int64_t pageHead, int32_t part) const {
    return data[sections.levels + pageHead * kParts + part];
  }
};

/// FNV-1a over a snapshot, the bytes of its hash taken as zero.
/// Requires size >= sizeof(SnapshotHeader).
uint64_t snapshotHash(const uint8_t *data, size_t size);

/// Checks all of a snapshot before anything of it is used.
///
/// Shapes: data [size].
/// Errors: DataLoss if it is cut off, damaged or of another version;
/// InvalidArgument if its geometry is not `expected`.
Result<SnapshotView> parseSnapshot(const uint8_t *data, size_t size,
                                   const SnapshotGeometry &expected);

/// The pages of a snapshot in memory of their own, laid out as kernels see a
/// cache of one sequence.  They are lowered here, where they do not count
/// against a budget, before they come into a session.
class SnapshotStage {
public:
  /// Errors: OutOfMemory.
  static Result<SnapshotStage> create(const SnapshotView &view);

  /// [layers]
  std::vector<CacheView> &caches() { return caches_; }
  /// Index as in the snapshot: [layer][kvHead][page].
  PageEntry &entry(int64_t pageHead) { return entries_[pageHead]; }
  const PageEntry &entry(int64_t pageHead) const { return entries_[pageHead]; }
  const uint8_t *block(uint32_t id) const {
    return blocks_.data() + id * blockBytes_;
  }
  const uint8_t *parameters(int64_t pageHead) const {
    return parameters_.data() + pageHead * slotBytes_;
  }

private:
  Arena blocks_;
  Arena parameters_;
  std::vector<PageEntry> entries_;
  std::vector<CacheView> caches_;
  int64_t blockBytes_ = 0;
  int64_t slotBytes_ = 0;
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_SNAPSHOT_H
