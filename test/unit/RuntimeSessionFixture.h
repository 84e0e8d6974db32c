//===- RuntimeSessionFixture.h - Sessions of the fake program ---*- C++ -*-===//
//
// What tests of sessions start from.  Neighbours: RuntimeFakeProgram.h, whose
// invariants hold at every kernel and step.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_RUNTIMESESSIONFIXTURE_H
#define PMKVQ_TEST_UNIT_RUNTIMESESSIONFIXTURE_H

#include "RuntimeFakeProgram.h"

#include <memory>
#include <random>
#include <vector>

namespace pmkvq::rt::test {

class SessionTest : public ::testing::Test {
protected:
  void SetUp() override {
    fake = &state;
    state.info = plainInfo();
  }
  void TearDown() override {
    EXPECT_EQ(state.errors.load(), 0);
    fake = nullptr;
  }

  Program program() {
    Result<Program> result = openProgram(entries, {});
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? *result : Program();
  }

  /// Now and then a floor of 1 bit for values, where they have partners.
  void maybeLowerValuesToOneBit() {
    bool byPage = state.info.schedule == kSchedulePage ||
                  state.info.schedule == kScheduleKeysLast;
    if (!byPage || state.info.layers * state.info.kvHeads % 2 || random() % 2)
      return;
    state.info.floor[kValue] = kValueLadder.back();
    ++paired;
  }

  void open(const SessionOptions &options) {
    Result<std::unique_ptr<Session>> result = Session::open(program(), options);
    ASSERT_TRUE(result.ok()) << result.status().message();
    session = std::move(*result);
    state.session = session.get();
    state.start(options.maxSequences);
  }

  std::vector<int32_t> randomTokens(int64_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t &token : tokens)
      token = random() % state.info.vocabSize;
    return tokens;
  }

  /// What the fake's model says after `prompt`.
  std::vector<int32_t> expectedTokens(const Prompt &prompt, int64_t count) {
    std::vector<int32_t> tokens;
    int32_t token = prompt.tokens.back();
    int32_t position = static_cast<int32_t>(prompt.tokens.size()) - 1;
    for (; count > 0; --count, ++position)
      tokens.push_back(token = successor(prompt.sequence, token, position));
    return tokens;
  }

  /// Appends random tokens, as many steps as that takes.
  void feed(int32_t sequence, int64_t count) {
    Status status = session->prefill({{sequence, randomTokens(count)}});
    ASSERT_TRUE(status.ok()) << status.message();
  }

  void release(int32_t sequence) {
    Status status = session->release(sequence);
    ASSERT_TRUE(status.ok()) << status.message();
    state.forget(sequence);
  }

  void fork(int32_t parent, int32_t child) {
    Status status = session->fork(parent, child);
    ASSERT_TRUE(status.ok()) << status.message();
    state.forkTo(parent, child, session->pages(parent));
  }

  /// A snapshot and what the fake must know of the sequence in it.
  struct Saved {
    std::vector<uint8_t> bytes;
    std::vector<int32_t> history;
    std::vector<PageName> names;
    int32_t salt;
  };

  Saved save(int32_t sequence) {
    Result<std::vector<uint8_t>> bytes = session->snapshot(sequence);
    EXPECT_TRUE(bytes.ok()) << bytes.status().message();
    Saved saved{*bytes, state.history[sequence], {}, state.salts[sequence]};
    for (int32_t page = 0; page < session->pages(sequence); ++page)
      saved.names.push_back(state.nameOf(sequence, page));
    return saved;
  }

  /// The names of pages are known before the first of them is lowered.
  Status restore(int32_t sequence, const Saved &saved) {
    state.forget(sequence);
    state.history[sequence] = saved.history;
    state.salts[sequence] = saved.salt;
    for (PageName name : saved.names)
      state.inherited[sequence].push_back({name.writer, state.lives[sequence]});
    state.restoring = sequence;
    Status status =
        session->restore(sequence, saved.bytes.data(), saved.bytes.size());
    if (!status.ok())
      state.forget(sequence);
    return status;
  }

  /// All invariants of pages between steps.
  void checkAll() { checkPages(session->caches().data()); }

  /// The CPU's fake; a test of another back end puts its own here.
  ProgramEntries entries = fakeEntries();
  Fake state;
  /// How often maybeLowerValuesToOneBit did.
  int paired = 0;
  std::mt19937 random{3};
  std::unique_ptr<Session> session;
};

} // namespace pmkvq::rt::test

#endif // PMKVQ_TEST_UNIT_RUNTIMESESSIONFIXTURE_H
