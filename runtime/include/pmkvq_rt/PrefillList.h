//===- PrefillList.h - Prefill attention as tasks of a GPU ------*- C++ -*-===//
//
// From page tables to the page lists and tasks of a prefill kernel.
// Neighbours: DeviceAbi.h (entries and tasks), DeviceWorkList.h (the same for
// decode).
//
// Mental model.  A *chunk* is new tokens of one sequence; their queries attend
// over the sequence's pages, over its fixed area, and causally over the chunk
// itself, whose keys and values lie in runs of 16 tokens in the order of pages
// at level 16.  Each kv head has one list of entries, pages first, the chunk
// last:
//
//   PrefillList list;
//   list.startPair(head);
//   for (page of the head) list.addPage(page, ...);
//   list.addRaw(fixed area, ...);  list.addChunk(chunk, ...);
//   list.addTasks(rows of the chunk ...);
//   ... other heads, other sequences ...
//   list.sortTasks();
//
// A task takes the entries up to the last that its rows see.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_PREFILLLIST_H
#define PMKVQ_RT_PREFILLLIST_H

#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/DeviceAbi.h"
#include "pmkvq_rt/Status.h"

#include <cstdint>
#include <vector>

namespace pmkvq::rt {

class PrefillList {
public:
  explicit PrefillList(int64_t headDim) : headDim_(headDim) {}

  /// Entries that follow are of another sequence or kv head.
  void startPair(uint32_t head);

  /// `codesOffset`: where block 0 lies from PrefillArgs::codes, bytes.
  ///
  /// Errors: InvalidArgument for a level that is none, or an offset that is no
  /// multiple of kDeviceGrainBytes or leaves what 32 bits of them reach.
  Status addPage(const PageEntry &page, int64_t codesOffset);

  /// Tokens that all rows see, in runs of 16, the last perhaps not full.
  ///
  /// Units:  offsets in bytes from PrefillArgs::codes.
  /// Errors: as above.
  Status addRaw(int64_t keyOffset, int64_t valueOffset, int64_t tokens);

  /// The chunk's own tokens: row r sees the first r + 1.
  Status addChunk(int64_t keyOffset, int64_t valueOffset, int64_t tokens);

  /// Tasks of the chunk's `rows` rows, whose first is row `row` of queries and
  /// results.
  ///
  /// Errors: FailedPrecondition if the pair has no entries; InvalidArgument for
  /// a group that is not 1 to 128, or more rows than the chunk has tokens,
  /// where it has any.
  Status addTasks(int64_t row, int64_t rows, int64_t group);

  /// Longest first, so that thread blocks end together.
  void sortTasks();

  const std::vector<PrefillPage> &pages() const { return pages_; }
  const std::vector<PrefillTask> &tasks() const { return tasks_; }

private:
  int64_t headDim_;
  std::vector<PrefillPage> pages_;
  std::vector<PrefillTask> tasks_;
  uint32_t head_ = 0;
  /// Of the pair: its first entry, those before the chunk's, the chunk's
  /// tokens.
  size_t first_ = 0, seenByAll_ = 0;
  int64_t chunkTokens_ = 0;
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_PREFILLLIST_H
