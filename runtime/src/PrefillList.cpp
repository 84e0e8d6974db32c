//===- PrefillList.cpp - Prefill attention as tasks of a GPU --------------===//
//
// See PrefillList.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/PrefillList.h"

#include <algorithm>
#include <limits>
#include <string>
#include <tuple>

using namespace pmkvq::rt;

/// Tokens of a run of raw tokens.
static constexpr int64_t kRunTokens = 16;

static Status toGrains(int64_t offset, uint32_t &grains) {
  if (offset < 0 || offset % kDeviceGrainBytes ||
      offset / kDeviceGrainBytes > std::numeric_limits<uint32_t>::max())
    return {StatusCode::InvalidArgument,
            "expected codes at a multiple of " +
                std::to_string(kDeviceGrainBytes) +
                " bytes, below 2 TiB, got offset " + std::to_string(offset)};
  grains = static_cast<uint32_t>(offset / kDeviceGrainBytes);
  return {};
}

void PrefillList::startPair(uint32_t head) {
  head_ = head;
  first_ = pages_.size();
  seenByAll_ = 0;
  chunkTokens_ = 0;
}

Status PrefillList::addPage(const PageEntry &page, int64_t codesOffset) {
  UnitKind kind{page.level[kKey], page.level[kValue]};
  if (!isLevel(kind.key) || !isLevel(kind.value))
    return {StatusCode::InvalidArgument,
            "expected levels of 16, 8, 4 or 2 bits, got " +
                std::to_string(kind.key) + " and " +
                std::to_string(kind.value)};
  PrefillPage entry = {};
  for (Part part : {kKey, kValue})
    for (int32_t i = 0; i < blocksAtLevel(kind.level(part)); ++i) {
      int64_t offset =
          codesOffset + int64_t{page.blocks[part][i]} * blockBytes(headDim_);
      if (Status status = toGrains(offset, entry.blocks[part][i]); !status.ok())
        return status;
    }
  entry.first = PrefillPage::kSeenByAll;
  entry.info = PrefillPage::makeInfo(kind, kPageTokens);
  entry.slot = kind == UnitKind{16, 16} ? 0 : page.slot;
  pages_.push_back(entry);
  ++seenByAll_;
  return {};
}

Status PrefillList::addRaw(int64_t keyOffset, int64_t valueOffset,
                           int64_t tokens) {
  return addTokens(keyOffset, valueOffset, tokens, /*isChunk=*/false);
}

Status PrefillList::addChunk(int64_t keyOffset, int64_t valueOffset,
                             int64_t tokens) {
  chunkTokens_ = tokens;
  return addTokens(keyOffset, valueOffset, tokens, /*isChunk=*/true);
}

Status PrefillList::addTokens(int64_t keyOffset, int64_t valueOffset,
                              int64_t tokens, bool isChunk) {
  const int64_t runBytes = kRunTokens * headDim_ * 2;
  for (int64_t token = 0; token < tokens; token += kPageTokens) {
    int64_t count = std::min<int64_t>(kPageTokens, tokens - token);
    PrefillPage entry = {};
    for (Part part : {kKey, kValue})
      for (int64_t i = 0; i < kMaxBlocksPerPart; ++i) {
        // Runs beyond the last are the last again: their tokens count nothing,
        // but are read.
        int64_t run =
            token / kRunTokens + std::min(i, (count - 1) / kRunTokens);
        int64_t start = part == kKey ? keyOffset : valueOffset;
        if (Status status =
                toGrains(start + run * runBytes, entry.blocks[part][i]);
            !status.ok())
          return status;
      }
    entry.first =
        isChunk ? static_cast<int32_t>(token) : PrefillPage::kSeenByAll;
    entry.info = PrefillPage::makeInfo({16, 16}, static_cast<int32_t>(count));
    pages_.push_back(entry);
    seenByAll_ += !isChunk;
  }
  return {};
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
