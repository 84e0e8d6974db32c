//===- RuntimeFakeProgram.h - A program that checks the runtime -*- C++ -*-===//
//
// A program whose kernels, instead of computing, leave marks in the memory that
// they own and check the marks of others: a block that is owned twice, lowered
// too late or lost shows as a wrong mark.  Neighbours: the tests of sessions
// and of the C API.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_RUNTIMEFAKEPROGRAM_H
#define PMKVQ_TEST_UNIT_RUNTIMEFAKEPROGRAM_H

#include "pmkvq_rt/Session.h"

#include "gtest/gtest.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <set>
#include <tuple>
#include <vector>

namespace pmkvq::rt::test {

/// What a page kernel writes at the start of each block that it owns.
struct Mark {
  int32_t layer, writer, head, page, part, level, block;
  /// Of the 128 tokens of the page.
  uint32_t hash;
  bool operator==(const Mark &other) const {
    return std::memcmp(this, &other, sizeof(Mark)) == 0;
  }
};

/// Who wrote a page, and whose copy of it this is: lives, see Fake::lives.  Two
/// sequences share a page exactly if both are equal.
struct PageName {
  int32_t writer, copy;
};

/// What the fake knows; entry points are plain functions, so it is global.
struct Fake {
  ProgramInfo info = {};
  Session *session = nullptr;
  /// Tokens that the session was given, per sequence.
  std::vector<std::vector<int32_t>> history;
  /// The life of each sequence, a number of its own from one release to the
  /// next; and the names of pages that it did not write itself.
  std::vector<int32_t> lives;
  std::vector<std::vector<PageName>> inherited;
  /// What the fake's model is a function of, beside tokens: a fork goes on as
  /// its parent would.
  std::vector<int32_t> salts;
  int32_t nextLife = 0;
  /// The sequence that a restore is under way for.
  int32_t restoring = -1;
  std::atomic<int64_t> errors{0};
  int64_t steps = 0;
  int64_t mostRows = 0;
  std::atomic<int64_t> requantized{0};
  /// Faults to inject.
  int32_t stepStatus = kKernelOk;
  int32_t flushStatus = kKernelOk;
  float poison = 0;
  int64_t scratchFactor = 1;

  /// For a new session of so many sequences.
  void start(int32_t sequences) {
    history.assign(sequences, {});
    lives.assign(sequences, 0);
    salts.assign(sequences, 0);
    inherited.assign(sequences, {});
    for (int32_t i = 0; i < sequences; ++i)
      forget(i);
  }

  void forget(int32_t sequence) {
    history[sequence].clear();
    inherited[sequence].clear();
    lives[sequence] = nextLife++;
    salts[sequence] = sequence;
  }

  PageName nameOf(int32_t sequence, int32_t page) const {
    const std::vector<PageName> &names = inherited[sequence];
    if (page < static_cast<int32_t>(names.size()))
      return names[page];
    return {lives[sequence], lives[sequence]};
  }

  void forkTo(int32_t parent, int32_t child, int32_t pages) {
    forget(child);
    history[child] = history[parent];
    salts[child] = salts[parent];
    for (int32_t page = 0; page < pages; ++page)
      inherited[child].push_back(nameOf(parent, page));
  }
};

inline Fake *fake = nullptr;

inline void check(bool condition, const char *what) {
  // The first few tell enough; kernels run on several threads.
  if (!condition && fake->errors++ < 5)
    ADD_FAILURE() << what;
}
#define CHECK_THAT(condition) check(condition, #condition)

inline uint32_t hashTokens(const int32_t *tokens, int64_t count) {
  uint32_t hash = 17;
  for (int64_t i = 0; i < count; ++i)
    hash = hash * 31 + static_cast<uint32_t>(tokens[i]);
  return hash;
}

/// The first element of fixed token `index` of a part holds its token id.
inline uint16_t *fixedToken(const CacheView &cache, int32_t sequence,
                            int32_t head, int32_t part, int32_t index) {
  const ProgramInfo &info = fake->info;
  int64_t tokens = info.sinkTokens + kPageTokens;
  int64_t area = (int64_t(sequence) * info.kvHeads + head) * kParts + part;
  return cache.fixed + (area * tokens + index) * info.headDim;
}

inline PageEntry &entryOf(const CacheView &cache, const PageTask &task) {
  return cache.pages[(int64_t(task.sequence) * fake->info.kvHeads + task.head) *
                         cache.maxPages +
                     task.page];
}

inline Mark *markOf(const CacheView &cache, uint32_t block) {
  return reinterpret_cast<Mark *>(cache.blocks +
                                  block * blockBytes(fake->info.headDim));
}

/// The mark of a block of a part; at level 1 in its half of a block.
inline Mark *markOf(const CacheView &cache, const PageEntry &page, int32_t part,
                    int32_t block) {
  Mark *mark = markOf(cache, page.blocks[part][block]);
  int64_t half = page.level[part] == 1 ? page.blocks[part][1] : 0;
  return mark + half * blockBytes(fake->info.headDim) / 2 /
                    static_cast<int64_t>(sizeof(Mark));
}

inline Mark expectedMark(const PageTask &task, int32_t part, int32_t level,
                         int32_t block) {
  const std::vector<int32_t> &tokens = fake->history[task.sequence];
  size_t first = fake->info.sinkTokens + size_t(task.page) * kPageTokens;
  CHECK_THAT(first + kPageTokens <= tokens.size());
  int32_t writer = fake->nameOf(task.sequence, task.page).writer;
  return {task.layer, writer, task.head, task.page,
          part,       level,  block,     hashTokens(&tokens[first], 128)};
}

inline bool withinBudget() {
  CacheBytes bytes = fake->session->bytes();
  return (bytes.budget == 0 || bytes.peak <= bytes.budget) &&
         bytes.inUse <= bytes.peak &&
         bytes.inUse == bytes.fixedAreas + bytes.pageTables +
                            bytes.parameterSlots + bytes.blocks;
}

template <int32_t part, int32_t level>
inline int32_t flushKernel(void *const *operands, int64_t index) {
  const CacheView *caches = static_cast<const CacheView *>(operands[0]);
  const PageTask &task = static_cast<const PageTask *>(operands[1])[index];
  const CacheView &cache = caches[task.layer];
  CHECK_THAT(withinBudget());
  if (fake->flushStatus)
    return fake->flushStatus;
  int32_t tokens[kPageTokens];
  for (int32_t i = 0; i < kPageTokens; ++i)
    tokens[i] = *fixedToken(cache, task.sequence, task.head, part,
                            fake->info.sinkTokens + i);
  Mark mark = expectedMark(task, part, level, 0);
  CHECK_THAT(mark.hash == hashTokens(tokens, kPageTokens));
  const PageEntry &page = entryOf(cache, task);
  for (mark.block = 0; mark.block < blocksAtLevel(level); ++mark.block)
    *markOf(cache, page.blocks[part][mark.block]) = mark;
  int32_t slotBytes =
      fake->info.parameterBytes[0] + fake->info.parameterBytes[1];
  std::memset(cache.parameters + int64_t(page.slot) * slotBytes +
                  (part ? fake->info.parameterBytes[0] : 0),
              task.page % 100 + part, fake->info.parameterBytes[part]);
  return kKernelOk;
}

template <int32_t part, int32_t from>
inline int32_t requantizeKernel(void *const *operands, int64_t index) {
  const CacheView *caches = static_cast<const CacheView *>(operands[0]);
  PageTask task = static_cast<const PageTask *>(operands[1])[index];
  const CacheView &cache = caches[task.layer];
  ++fake->requantized;
  CHECK_THAT(withinBudget());
  const PageEntry &page = entryOf(cache, task);
  // A restore lowers pages outside the session first.
  if (caches != fake->session->caches().data())
    task.sequence = fake->restoring;
  CHECK_THAT(page.level[part] == from);
  for (int32_t block = 0; block < blocksAtLevel(from); ++block) {
    Mark *mark = markOf(cache, page.blocks[part][block]);
    CHECK_THAT(*mark == expectedMark(task, part, from, block));
    if (block < blocksAtLevel(from / 2))
      *mark = expectedMark(task, part, from / 2, block);
  }
  return kKernelOk;
}

/// Every page of every sequence: marks, levels, ownership of blocks and slots.
inline void checkPages(const CacheView *caches) {
  /// Ids, and whether no page before has the same slot; second halves apart.
  std::vector<std::pair<uint32_t, bool>> owned, seconds;
  std::map<uint32_t, std::tuple<int32_t, int32_t, int32_t, int32_t>> slots;
  for (int32_t layer = 0; layer < fake->info.layers; ++layer)
    for (int32_t seq = 0; seq < fake->session->maxSequences(); ++seq)
      for (int32_t head = 0; head < fake->info.kvHeads; ++head)
        for (int32_t i = 0; i < fake->session->pages(seq); ++i) {
          PageTask task{layer, seq, head, i};
          const CacheView &cache = caches[layer];
          const PageEntry &page = entryOf(cache, task);
          CHECK_THAT(&page == fake->session->pageEntry(layer, seq, head, i));
          // A slot is of one page; who holds the same page, holds the slot.
          auto owner =
              std::make_tuple(fake->nameOf(seq, i).copy, i, layer, head);
          auto [found, first] = slots.emplace(page.slot, owner);
          CHECK_THAT(found->second == owner);
          int64_t offset = int64_t(page.slot) * (fake->info.parameterBytes[0] +
                                                 fake->info.parameterBytes[1]);
          for (int32_t part = 0; part < kParts; ++part) {
            int32_t level = page.level[part];
            CHECK_THAT(isLevelOf(static_cast<Part>(part), level) &&
                       level >= fake->info.floor[part]);
            bool isSecond =
                level == 1 &&
                isSecondOfPair(headOfAll(layer, head, fake->info.kvHeads));
            CHECK_THAT(level > 1 || page.blocks[part][1] == isSecond);
            for (int32_t block = 0; block < blocksAtLevel(level); ++block) {
              uint32_t id = page.blocks[part][block];
              (isSecond ? seconds : owned).emplace_back(id, first);
              CHECK_THAT(*markOf(cache, page, part, block) ==
                         expectedMark(task, part, level, block));
            }
            if (fake->info.parameterBytes[part])
              CHECK_THAT(cache.parameters[offset] == i % 100 + part);
            offset += fake->info.parameterBytes[part];
          }
        }
  std::set<uint32_t> blocks, halves;
  for (auto [id, first] : owned)
    CHECK_THAT(blocks.insert(id).second == first);
  // A second half is in a block of somebody's, once.
  for (auto [id, first] : seconds)
    CHECK_THAT(blocks.count(id) && halves.insert(id).second == first);
  CacheBytes bytes = fake->session->bytes();
  CHECK_THAT(bytes.blocks == static_cast<int64_t>(blocks.size()) *
                                 blockBytes(fake->info.headDim));
  CHECK_THAT(bytes.parameterSlots ==
             static_cast<int64_t>(slots.size()) *
                 (fake->info.parameterBytes[0] + fake->info.parameterBytes[1]));
  std::set<std::tuple<int32_t, int32_t, int32_t, int32_t>> pages;
  for (const auto &slot : slots)
    CHECK_THAT(pages.insert(slot.second).second);
  CHECK_THAT(withinBudget());
}

/// Every row sees every page and every fixed token up to its own exactly once,
/// and every partial result is written once and merged once, in page order.
inline void checkWork(const StepArgs &args) {
  std::map<int32_t, const AttendTask *> parts;
  for (int64_t i = 0; i < args.attendTaskCount; ++i) {
    const AttendTask &task = args.attendTasks[i];
    CHECK_THAT(parts.emplace(task.part, &task).second);
    CHECK_THAT(task.rows >= 1 && task.rows <= args.rowsPerTask);
    CHECK_THAT(task.pageEnd - task.pageBegin <= kPagesPerTask);
  }
  std::set<std::pair<int32_t, int32_t>> merged;
  int64_t used = 0;
  for (int64_t i = 0; i < args.mergeTaskCount; ++i) {
    const MergeTask &merge = args.mergeTasks[i];
    const Row &first = args.rows[merge.row];
    int32_t page = 0;
    for (int32_t p = 0; p < merge.parts; ++p, ++used) {
      auto found = parts.find(merge.firstPart + p);
      if (found == parts.end())
        return CHECK_THAT(false && "a part that no task writes");
      const AttendTask &task = *found->second;
      CHECK_THAT(task.sequence == first.sequence && task.head == merge.head);
      CHECK_THAT(task.row == merge.row && task.rows == merge.rows);
      CHECK_THAT(task.pageBegin == page && task.pageEnd >= page);
      page = task.pageEnd;
      bool last = p == merge.parts - 1;
      CHECK_THAT(task.fixedIndex == (last ? first.fixedIndex : -1));
      // The space that the kernel writes is there.
      int64_t floats = partialFloats(args.rowsPerTask * fake->info.queryHeads /
                                         fake->info.kvHeads,
                                     fake->info.headDim);
      args.partials[(task.part + 1) * floats - 1] = 1;
    }
    CHECK_THAT(page == fake->session->pages(first.sequence));
    for (int32_t row = merge.row; row < merge.row + merge.rows; ++row) {
      CHECK_THAT(args.rows[row].sequence == first.sequence);
      CHECK_THAT(args.rows[row].fixedIndex ==
                 first.fixedIndex + row - merge.row);
      CHECK_THAT(merged.insert({row, merge.head}).second);
    }
  }
  CHECK_THAT(used == args.attendTaskCount);
  CHECK_THAT(static_cast<int64_t>(merged.size()) ==
             args.rowCount * fake->info.kvHeads);
}

/// The token that the fake's model chooses after `token` at `position`, in a
/// sequence of this salt.
inline int32_t successor(int32_t salt, int32_t token, int32_t position) {
  return (token * 5 + position * 3 + salt + 1) % fake->info.vocabSize;
}

inline void appendRows(const StepArgs &args) {
  int32_t sink = fake->info.sinkTokens;
  for (int64_t i = 0; i < args.rowCount; ++i) {
    const Row &row = args.rows[i];
    std::vector<int32_t> &tokens = fake->history[row.sequence];
    CHECK_THAT(args.positions[i] == static_cast<int32_t>(tokens.size()));
    tokens.push_back(args.tokens[i]);
    CHECK_THAT(row.fixedIndex ==
               args.positions[i] -
                   fake->session->pages(row.sequence) * kPageTokens);
    CHECK_THAT(row.fixedIndex < sink + kPageTokens);
    for (int32_t layer = 0; layer < fake->info.layers; ++layer)
      for (int32_t head = 0; head < fake->info.kvHeads; ++head)
        for (int32_t part = 0; part < kParts; ++part)
          *fixedToken(args.caches[layer], row.sequence, head, part,
                      row.fixedIndex) = static_cast<uint16_t>(args.tokens[i]);
  }
}

inline int64_t fakeScratch(int64_t rows, int64_t outputs) {
  return fake->scratchFactor * (64 + 48 * rows + 16 * outputs);
}

/// All of a step's memory is there, and nobody else's.
inline void useScratch(const StepArgs &args) {
  CHECK_THAT(reinterpret_cast<uintptr_t>(args.scratch) % 64 == 0);
  std::memset(args.scratch, 0xa5, fakeScratch(args.rowCount, args.outputCount));
}

inline int32_t fakeStep(StepArgs *args) {
  ++fake->steps;
  useScratch(*args);
  fake->mostRows = std::max(fake->mostRows, args->rowCount);
  bool single = true;
  for (int64_t i = 1; i < args->rowCount; ++i)
    single &= args->rows[i].sequence != args->rows[i - 1].sequence;
  CHECK_THAT(args->rowsPerTask == (single ? 1 : kRowsPerPrefillTask));
  checkPages(args->caches);
  checkWork(*args);
  appendRows(*args);
  for (int64_t i = 0; i < args->outputCount; ++i) {
    int32_t row = args->outputs[i];
    float *logits = args->logits + i * fake->info.vocabSize;
    std::fill(logits, logits + fake->info.vocabSize, 0.0f);
    logits[successor(fake->salts[args->rows[row].sequence], args->tokens[row],
                     args->positions[row])] = 1.0f;
    logits[0] += fake->poison;
  }
  return fake->stepStatus;
}

inline void fakeDescribe(ProgramInfo *info) { *info = fake->info; }

inline ProgramEntries fakeEntries() {
  ProgramEntries entries = {};
  entries.describe = fakeDescribe;
  entries.step = fakeStep;
  entries.scratchBytes = fakeScratch;
  KernelFn flush[kParts][4] = {{flushKernel<0, 16>, flushKernel<0, 8>,
                                flushKernel<0, 4>, flushKernel<0, 2>},
                               {flushKernel<1, 16>, flushKernel<1, 8>,
                                flushKernel<1, 4>, flushKernel<1, 2>}};
  KernelFn requantize[kParts][4] = {
      {requantizeKernel<0, 16>, requantizeKernel<0, 8>, requantizeKernel<0, 4>},
      {requantizeKernel<1, 16>, requantizeKernel<1, 8>, requantizeKernel<1, 4>,
       requantizeKernel<1, 2>}};
  std::memcpy(entries.flush, flush, sizeof(flush));
  std::memcpy(entries.requantize, requantize, sizeof(requantize));
  return entries;
}

inline ProgramInfo plainInfo() {
  ProgramInfo info = {};
  info.abiVersion = kAbiVersion;
  info.layers = 2;
  info.kvHeads = 2;
  info.queryHeads = 4;
  info.headDim = 16;
  info.sinkTokens = 1;
  info.parameterBytes[kKey] = 64;
  info.parameterBytes[kValue] = 512;
  info.vocabSize = 97;
  info.maxPositions = 4000;
  info.schedule = kSchedulePage;
  info.floor[kKey] = info.floor[kValue] = 2;
  return info;
}

} // namespace pmkvq::rt::test

#endif // PMKVQ_TEST_UNIT_RUNTIMEFAKEPROGRAM_H
