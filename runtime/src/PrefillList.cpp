//===- PrefillList.cpp - Prefill attention as tasks of a GPU --------------===//
//
// See PrefillList.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/PrefillList.h"
#include "pmkvq_rt/DeviceWorkList.h"

#include <algorithm>
#include <string>
#include <tuple>

using namespace pmkvq::rt;

void PrefillList::startPair(uint32_t head) {
  head_ = head;
  first_ = pages_.size();
  seenByAll_ = 0;
  chunkTokens_ = 0;
}

Status PrefillList::addPage(const PageEntry &page, int64_t codesOffset) {
  Status status = addPageEntry(page, headDim_, codesOffset, pages_);
  seenByAll_ += status.ok();
  return status;
}

Status PrefillList::addRaw(int64_t keyOffset, int64_t valueOffset,
                           int64_t tokens) {
  const size_t before = pages_.size();
  Status status = addRawEntries(keyOffset, valueOffset, tokens, headDim_,
                                PrefillPage::kSeenByAll, pages_);
  seenByAll_ += pages_.size() - before;
  return status;
}

Status PrefillList::addChunk(int64_t keyOffset, int64_t valueOffset,
                             int64_t tokens) {
  chunkTokens_ = tokens;
  return addRawEntries(keyOffset, valueOffset, tokens, headDim_, /*first=*/0,
                       pages_);
}

Status PrefillList::addTasks(int64_t row, int64_t rows, int64_t group) {
  if (pages_.size() == first_)
    return {StatusCode::FailedPrecondition,
            "expected pages or tokens to attend over; add them first"};
  if (group < 1 || prefillRowsPerTask(group) < 1)
    return {StatusCode::InvalidArgument,
            "expected 1 to 128 queries a kv head, got " +
                std::to_string(group)};
  if (chunkTokens_ && rows > chunkTokens_)
    return {StatusCode::InvalidArgument,
            "expected at most the chunk's " + std::to_string(chunkTokens_) +
                " rows, got " + std::to_string(rows)};
  for (int64_t at = 0; at < rows; at += prefillRowsPerTask(group)) {
    int64_t count = std::min(prefillRowsPerTask(group), rows - at);
    PrefillTask task = {};
    task.row = static_cast<uint32_t>(row + at);
    task.rows = static_cast<uint32_t>(count);
    task.head = head_;
    task.page = static_cast<uint32_t>(first_);
    int64_t own =
        chunkTokens_ ? (at + count + kPageTokens - 1) / kPageTokens : 0;
    task.pages = static_cast<uint32_t>(seenByAll_ + own);
    task.position = static_cast<int32_t>(at);
    tasks_.push_back(task);
  }
  return {};
}

void PrefillList::sortTasks() {
  auto key = [](const PrefillTask &task) {
    return std::tuple(-int64_t{task.pages}, task.page, task.row);
  };
  std::sort(tasks_.begin(), tasks_.end(),
            [&](const PrefillTask &a, const PrefillTask &b) {
              return key(a) < key(b);
            });
}
