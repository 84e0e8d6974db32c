//===- RuntimeSnapshotTest.cpp - Tests of snapshot and restore ------------===//
//
// A restored sequence goes on as the first would have; whatever is damaged or
// does not fit is refused, and nothing has happened then.
//
//===----------------------------------------------------------------------===//

#include "RuntimeSessionFixture.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

namespace {
class SnapshotTest : public SessionTest {
protected:
  /// Changes a snapshot and makes its hash right again.
  template <typename Change>
  static std::vector<uint8_t> changed(std::vector<uint8_t> bytes,
                                      Change change) {
    SnapshotHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    change(header, bytes);
    std::memcpy(bytes.data(), &header, sizeof(header));
    header.hash = snapshotHash(bytes.data(), bytes.size());
    std::memcpy(bytes.data(), &header, sizeof(header));
    return bytes;
  }

  StatusCode restoreCode(const std::vector<uint8_t> &bytes) {
    CacheBytes before = session->bytes();
    Status status = session->restore(1, bytes.data(), bytes.size());
    EXPECT_TRUE(session->usable().ok());
    EXPECT_EQ(session->bytes().inUse, before.inUse);
    EXPECT_EQ(session->tokens(1), 0);
    return status.code();
  }
};
} // namespace

TEST_F(SnapshotTest, DecodingGoesOnInAnotherSession) {
  SessionOptions options;
  options.maxSequences = 2;
  options.maxTokens = 1000;
  options.budgetBytes =
      *minimumBytes(program(), options, {{0, 700, 1}, {1, 300, 1}}) + 50000;
  for (int64_t tokens : {1, 129, 130, 400}) {
    for (int64_t decoded : {0, 1, 40}) {
      open(options);
      feed(0, tokens);
      DecodeOptions sampling;
      sampling.temperature = 2;
      sampling.seed = 11;
      if (decoded) {
        ASSERT_TRUE(session->decode({{0, decoded, 4}}, sampling).ok());
      }
      Saved saved = save(0);
      auto expected = session->decode({{0, 200, 4}}, sampling);
      ASSERT_TRUE(expected.ok());
      open(options);
      Status status = restore(1, saved);
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(session->tokens(1), tokens + std::max<int64_t>(0, decoded - 1));
      checkAll();
      auto actual = session->decode({{1, 200, 4}}, sampling);
      ASSERT_TRUE(actual.ok());
      EXPECT_EQ((*actual)[0].tokens, (*expected)[0].tokens);
    }
  }
}

// Codes, parameters and fixed tokens come back bit for bit: a snapshot of what
// was restored is the snapshot itself.
TEST_F(SnapshotTest, ASnapshotOfARestoredSequenceIsTheSame) {
  SessionOptions options;
  options.maxSequences = 2;
  open(options);
  feed(0, 500);
  Saved saved = save(0);
  ASSERT_TRUE(restore(1, saved).ok());
  EXPECT_EQ(save(1).bytes, saved.bytes);
  release(0);
  EXPECT_EQ(save(1).bytes, saved.bytes);
}

TEST_F(SnapshotTest, SharedPagesComeWithIt) {
  SessionOptions options;
  options.maxSequences = 3;
  open(options);
  feed(0, 300);
  fork(0, 1);
  int64_t shared = session->bytes().blocks;
  Saved saved = save(1);
  ASSERT_TRUE(restore(2, saved).ok());
  EXPECT_EQ(session->sharedPages(2), 0);
  EXPECT_EQ(session->bytes().blocks, 2 * shared);
  checkAll();
}

// A cache that is full at 16 bits takes in pages at 16 bits: both sides fall,
// and never is a byte more in use than the budget (the fake's kernels check).
TEST_F(SnapshotTest, RestoringLowersBothSidesWithinTheBudget) {
  SessionOptions options;
  options.maxSequences = 2;
  options.maxTokens = 700;
  options.budgetBytes = -1;
  open(options);
  feed(0, 600);
  Saved saved = save(0);
  ASSERT_EQ(session->levels(0, kKey), (LevelCounts{8, 0, 0, 0}));
  for (ScheduleKind kind : {kSchedulePage, kScheduleLayer}) {
    state.info.schedule = kind;
    options.budgetBytes =
        *minimumBytes(program(), options, {{0, 600, 1}, {1, 600, 1}}) +
        3 * blockBytes(state.info.headDim);
    open(options);
    feed(0, 600);
    EXPECT_EQ(session->levels(0, kKey)[0] + session->levels(0, kKey)[3], 0);
    Status status = restore(1, saved);
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_LE(session->bytes().peak, options.budgetBytes);
    EXPECT_EQ(session->levels(1, 0, kKey)[0], 0);
    checkAll();
    feed(1, 30);
  }
}

TEST_F(SnapshotTest, WhatDoesNotFitIsRefused) {
  SessionOptions options;
  options.maxSequences = 2;
  options.maxTokens = 700;
  open(options);
  feed(0, 600);
  Saved saved = save(0);
  EXPECT_EQ(session->restore(0, saved.bytes.data(), saved.bytes.size()).code(),
            StatusCode::FailedPrecondition);
  EXPECT_EQ(session->restore(2, saved.bytes.data(), saved.bytes.size()).code(),
            StatusCode::InvalidArgument);
  EXPECT_EQ(session->restore(1, nullptr, 4).code(), StatusCode::DataLoss);
  options.maxTokens = 599;
  open(options);
  EXPECT_EQ(restoreCode(saved.bytes), StatusCode::InvalidArgument);
  options.maxTokens = 700;
  options.budgetBytes = *minimumBytes(program(), options, {{0, 600, 1}});
  open(options);
  // The promise to sequence 0 takes the room.
  ASSERT_TRUE(session->admit({{0, 300, 1}}).ok());
  EXPECT_EQ(restoreCode(saved.bytes), StatusCode::OutOfMemory);
  release(0);
  EXPECT_TRUE(restore(1, saved).ok());
  checkAll();
}

TEST_F(SnapshotTest, AnotherGeometryIsNamed) {
  SessionOptions options;
  options.maxSequences = 2;
  open(options);
  feed(0, 300);
  std::vector<uint8_t> bytes = save(0).bytes;
  auto refused = [&](void (*change)(ProgramInfo &), const char *name) {
    state.info = plainInfo();
    change(state.info);
    open(options);
    EXPECT_EQ(restoreCode(bytes), StatusCode::InvalidArgument) << name;
    Status status = session->restore(1, bytes.data(), bytes.size());
    EXPECT_NE(status.message().find(name), std::string::npos)
        << status.message();
  };
  refused([](ProgramInfo &i) { i.layers = 3; }, "layers 2, here 3");
  refused([](ProgramInfo &i) { i.kvHeads = 1; }, "kv heads");
  refused([](ProgramInfo &i) { i.headDim = 32; }, "head dim");
  refused([](ProgramInfo &i) { i.sinkTokens = 0; }, "sink tokens");
  refused([](ProgramInfo &i) { i.parameterBytes[kKey] = 8; }, "key parameter");
  refused([](ProgramInfo &i) { i.vocabSize = 98; }, "vocabulary");
  refused([](ProgramInfo &i) { i.floor[kValue] = 4; }, "value floor");
  refused([](ProgramInfo &i) { i.layout = 1; }, "layout");
  refused([](ProgramInfo &i) { i.formatHash = 1; }, "other formats");
  // A program of one level has no code for the others.
  refused([](ProgramInfo &i) { i.schedule = kScheduleNone; }, "16 bits");
}

// Every byte of header, levels and ends, and random ones between: a flipped bit
// is found, whichever it is.
TEST_F(SnapshotTest, AnyFlippedBitAndAnyLengthIsFound) {
  SessionOptions options;
  options.maxSequences = 2;
  open(options);
  feed(0, 140);
  std::vector<uint8_t> bytes = save(0).bytes;
  for (int i = 0; i < 3000; ++i) {
    size_t at = i < 1000 ? i % sizeof(SnapshotHeader) : random() % bytes.size();
    std::vector<uint8_t> bad = bytes;
    bad[at] ^= uint8_t(1 << random() % 8);
    ASSERT_EQ(restoreCode(bad), StatusCode::DataLoss) << "byte " << at;
  }
  for (size_t size : {size_t(0), size_t(1), sizeof(SnapshotHeader) - 1,
                      sizeof(SnapshotHeader), bytes.size() - 1})
    EXPECT_EQ(restoreCode({bytes.begin(), bytes.begin() + size}),
              StatusCode::DataLoss);
  bytes.push_back(0);
  EXPECT_EQ(restoreCode(bytes), StatusCode::DataLoss);
}

// With a hash that is right: sizes, levels and ids are checked by themselves.
TEST_F(SnapshotTest, LiesWithARightHashAreFound) {
  using Bytes = std::vector<uint8_t>;
  SessionOptions options;
  options.maxSequences = 2;
  open(options);
  feed(0, 300);
  Bytes bytes = save(0).bytes;
  auto tokens = [&](int64_t count) {
    return restoreCode(changed(bytes, [=](SnapshotHeader &header, Bytes &) {
      header.tokens = count;
    }));
  };
  for (int64_t count :
       {int64_t(-1), int64_t(299), int64_t(301), int64_t(1) << 40,
        std::numeric_limits<int64_t>::max(),
        std::numeric_limits<int64_t>::min(), int64_t(INT32_MAX)})
    EXPECT_EQ(tokens(count), StatusCode::DataLoss) << count;
  auto next = [&](int32_t id, uint32_t flags) {
    return restoreCode(changed(bytes, [=](SnapshotHeader &header, Bytes &) {
      header.next = id;
      header.flags = flags;
    }));
  };
  EXPECT_EQ(next(97, 2), StatusCode::DataLoss);
  EXPECT_EQ(next(-2, 2), StatusCode::DataLoss);
  EXPECT_EQ(next(-1, 2), StatusCode::DataLoss);
  EXPECT_EQ(next(3, 0), StatusCode::DataLoss);
  EXPECT_EQ(next(3, 7), StatusCode::DataLoss);
  SnapshotHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  SnapshotSections sections = snapshotSections(header);
  for (uint8_t level : {0, 1, 3, 8, 255}) // 8 has fewer blocks than 16.
    EXPECT_EQ(restoreCode(changed(bytes,
                                  [=](SnapshotHeader &, Bytes &all) {
                                    all[sections.levels + 1] = level;
                                  })),
              StatusCode::DataLoss);
  EXPECT_EQ(restoreCode(changed(bytes,
                                [=](SnapshotHeader &, Bytes &all) {
                                  float nan = NAN;
                                  std::memcpy(&all[sections.logits + 8], &nan,
                                              4);
                                })),
            StatusCode::DataLoss);
  EXPECT_EQ(restoreCode(changed(
                bytes, [](SnapshotHeader &h, Bytes &) { h.headerBytes = 95; })),
            StatusCode::DataLoss);
}

// Values at one bit come and go in pairs; half a pair is none.
TEST_F(SnapshotTest, PartnersComeTogether) {
  state.info.floor[kValue] = 1;
  SessionOptions options;
  options.maxSequences = 2;
  options.maxTokens = 700;
  options.budgetBytes = *minimumBytes(program(), options, {{0, 600, 1}});
  open(options);
  feed(0, 600);
  // All of four pages but the newest; two kv heads a layer.
  EXPECT_EQ(session->levels(1, kValue), (LevelCounts{0, 0, 0, 2, 6}));
  Saved saved = save(0);
  release(0);
  Status status = restore(1, saved);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(session->levels(1, 1, kValue), (LevelCounts{0, 0, 0, 2, 6}));
  checkAll();
  EXPECT_TRUE(save(1).bytes == saved.bytes);
  release(1);

  SnapshotHeader header;
  std::memcpy(&header, saved.bytes.data(), sizeof(header));
  SnapshotSections sections = snapshotSections(header);
  // Page 0 of kv head 1 is the partner of that of kv head 0.
  for (int64_t pageHead : {int64_t(0), sections.pages}) {
    ASSERT_EQ(saved.bytes[sections.levels + 2 * pageHead + 1], 1);
    EXPECT_EQ(
        restoreCode(changed(saved.bytes,
                            [=](SnapshotHeader &, std::vector<uint8_t> &all) {
                              all[sections.levels + 2 * pageHead + 1] = 2;
                            })),
        StatusCode::DataLoss);
  }
}

TEST_F(SnapshotTest, AnEmptySequenceIsLegal) {
  SessionOptions options;
  options.maxSequences = 2;
  open(options);
  Saved saved = save(0);
  EXPECT_EQ(saved.bytes.size(), sizeof(SnapshotHeader));
  ASSERT_TRUE(restore(1, saved).ok());
  feed(1, 200);
}
