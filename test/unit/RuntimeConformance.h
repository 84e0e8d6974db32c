//===- RuntimeConformance.h - What every back end must do -------*- C++ -*-===//
//
// One suite for all back ends, typed over a factory.  A back end instantiates
// it in a file of its own:
//
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, RuntimeConformance, CpuBackend);
//
// The factory gives a program that marks and checks the memory that it is
// handed (on the CPU that of RuntimeFakeProgram.h), and a way to read the
// cache's memory from the host.  Neighbours: RuntimeConformanceTest.cpp.
//
// struct Backend {
//   /// Why the back end cannot run here; empty: it can.
//   static std::string unavailable();
//   /// Entry points whose kernels keep the marks of RuntimeFakeProgram.h.
//   static ProgramEntries entries();
//   /// Copies bytes of the cache's memory to the host.
//   static void read(void *to, const void *from, size_t bytes);
// };
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_RUNTIMECONFORMANCE_H
#define PMKVQ_TEST_UNIT_RUNTIMECONFORMANCE_H

#include "RequireGpu.h"
#include "RuntimeSessionFixture.h"

#include <string>
#include <vector>

namespace pmkvq::rt::test {

template <typename Backend> class RuntimeConformance : public SessionTest {
protected:
  void SetUp() override {
    SessionTest::SetUp();
    entries = Backend::entries();
    PMKVQ_SKIP_UNLESS_EMPTY(Backend::unavailable());
  }

  /// A session of two sequences with room for `pageBlocks` blocks.
  void openWith(int64_t pageBlocks, int32_t pageSlots) {
    SessionOptions options;
    options.maxSequences = 2;
    options.maxTokens = 700;
    options.threads = 2;
    Result<int64_t> fixed = minimumBytes(this->program(), options, {});
    ASSERT_TRUE(fixed.ok());
    options.budgetBytes = *fixed +
                          pageBlocks * blockBytes(this->state.info.headDim) +
                          pageSlots * this->program().slotBytes();
    this->open(options);
  }

  /// The mark at the start of a block of a page.
  Mark readMark(const PageTask &place, int32_t part, int32_t block) {
    const PageEntry *page = this->session->pageEntry(
        place.layer, place.sequence, place.head, place.page);
    Mark mark = {};
    Backend::read(
        &mark,
        markOf(this->session->caches()[place.layer], page->blocks[part][block]),
        sizeof(mark));
    return mark;
  }

  /// Every page of a sequence is marked as one of its level.
  void expectMarks(int32_t sequence) {
    const ProgramInfo &info = this->state.info;
    for (int32_t layer = 0; layer < info.layers; ++layer)
      for (int32_t head = 0; head < info.kvHeads; ++head)
        for (int32_t page = 0; page < this->session->pages(sequence); ++page)
          for (int32_t part = 0; part < kParts; ++part) {
            PageTask place{layer, sequence, head, page};
            int32_t level =
                this->session->pageEntry(layer, sequence, head, page)
                    ->level[part];
            for (int32_t block = 0; block < blocksAtLevel(level); ++block)
              EXPECT_TRUE(readMark(place, part, block) ==
                          expectedMark(place, part, level, block));
          }
  }
};

TYPED_TEST_SUITE_P(RuntimeConformance);

// Pool: what is released is there again, to the last block.
TYPED_TEST_P(RuntimeConformance, PoolGivesEveryBlockAgain) {
  this->openWith(4 * 16, 4);
  for (int round = 0; round < 3; ++round) {
    this->feed(0, 130);
    EXPECT_EQ(this->session->bytes().inUse, this->session->bytes().budget);
    this->expectMarks(0);
    this->release(0);
    EXPECT_EQ(this->session->bytes().blocks, 0);
  }
}

// Flush: at 16 bits where there is room, else at once at the level that fits.
TYPED_TEST_P(RuntimeConformance, FlushWritesAtThePlannedLevel) {
  for (int32_t level : kLadder) {
    this->openWith(4 * level, 4);
    this->feed(0, 130);
    EXPECT_EQ(this->session->levels(1, kKey)[ladderIndex(level)], 2);
    EXPECT_EQ(this->session->levels(1, kValue)[ladderIndex(level)], 2);
    this->expectMarks(0);
  }
  // Under `none` at the floor, K and V apart.
  this->state.info.schedule = kScheduleNone;
  this->state.info.floor[kKey] = 4;
  this->openWith(4 * 3, 4);
  this->feed(0, 130);
  EXPECT_EQ(this->session->levels(0, kKey), (LevelCounts{0, 0, 2}));
  EXPECT_EQ(this->session->levels(0, kValue), (LevelCounts{0, 0, 0, 2}));
  this->expectMarks(0);
}

// Requantize: in place, the second half of the blocks freed, level by level.
TYPED_TEST_P(RuntimeConformance, RequantizeLowersInPlace) {
  this->openWith(4 * 16, 5 * 4);
  std::vector<uint32_t> kept;
  for (int32_t page = 0; page < 4; ++page) {
    this->feed(0, page ? 128 : 130);
    this->expectMarks(0);
    const PageEntry *first = this->session->pageEntry(1, 0, 1, 0);
    if (page == 0)
      kept.assign(first->blocks[kKey], first->blocks[kKey] + 8);
    for (int32_t block = 0; block < blocksAtLevel(first->level[kKey]); ++block)
      EXPECT_EQ(first->blocks[kKey][block], kept[block]);
  }
  EXPECT_LE(this->session->pageEntry(1, 0, 1, 0)->level[kKey], 4);
  EXPECT_LE(this->session->bytes().peak, this->session->bytes().budget);
}

// Append: each row's key and value lie in the fixed area, sink first.
TYPED_TEST_P(RuntimeConformance, AppendFillsTheFixedArea) {
  this->openWith(4 * 16, 8);
  this->feed(1, 200);
  const std::vector<int32_t> &tokens = this->state.history[1];
  for (int32_t index = 0; index < 1 + 200 - 129; ++index) {
    uint16_t stored = 0;
    TypeParam::read(&stored,
                    fixedToken(this->session->caches()[1], 1, 1, kValue, index),
                    sizeof(stored));
    // The sink's token, then those after the page.
    EXPECT_EQ(stored, tokens[index ? index + 128 : 0]);
  }
}

// Step: a ragged batch gives each sequence what it would get alone.
TYPED_TEST_P(RuntimeConformance, StepServesARaggedBatch) {
  this->openWith(100 * 16, 100);
  std::vector<Prompt> prompts = {{0, this->randomTokens(300)},
                                 {1, this->randomTokens(7)}};
  auto results = this->session->generate(prompts, {30, 200});
  ASSERT_TRUE(results.ok()) << results.status().message();
  EXPECT_EQ((*results)[0].tokens, this->expectedTokens(prompts[0], 30));
  EXPECT_EQ((*results)[1].tokens, this->expectedTokens(prompts[1], 200));
}

// Fork: one copy of a page for both, lowered once.
TYPED_TEST_P(RuntimeConformance, ForkSharesAndLowersOnce) {
  this->openWith(4 * 24, 8);
  this->feed(0, 130);
  this->fork(0, 1);
  this->feed(1, 128);
  // A page-head of four falls by both its parts, each once for both holders.
  EXPECT_EQ(this->state.requantized.load(), 2 * 4);
  this->expectMarks(0);
  this->expectMarks(1);
  this->checkAll();
  this->release(0);
  this->expectMarks(1);
  this->checkAll();
}

// Snapshot: bytes out and in again, lowered on the way where room is short.
TYPED_TEST_P(RuntimeConformance, SnapshotComesBackAlsoLowered) {
  this->openWith(100 * 16, 100);
  this->feed(0, 300);
  SessionTest::Saved saved = this->save(0);
  this->release(0);
  ASSERT_TRUE(this->restore(1, saved).ok());
  EXPECT_EQ(this->save(1).bytes, saved.bytes);
  this->expectMarks(1);
  this->openWith(2 * 4 * 4, 8);
  Status status = this->restore(0, saved);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(this->session->levels(0, kKey), (LevelCounts{0, 0, 4, 0}));
  this->expectMarks(0);
  this->checkAll();
}

REGISTER_TYPED_TEST_SUITE_P(RuntimeConformance, PoolGivesEveryBlockAgain,
                            FlushWritesAtThePlannedLevel,
                            RequantizeLowersInPlace, AppendFillsTheFixedArea,
                            StepServesARaggedBatch, ForkSharesAndLowersOnce,
                            SnapshotComesBackAlsoLowered);

} // namespace pmkvq::rt::test

#endif // PMKVQ_TEST_UNIT_RUNTIMECONFORMANCE_H
