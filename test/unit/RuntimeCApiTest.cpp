//===- RuntimeCApiTest.cpp - Tests of the runtime in C --------------------===//
//
// The C calls do what the C++ ones do, and bad arguments become a status.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Runtime.h"

#include "RuntimeFakeProgram.h"

#include <memory>
#include <string>

using namespace pmkvq::rt;
using namespace pmkvq::rt::test;

/// The fake's invariants need the C++ session, which the C handle hides; this
/// program only decodes.
static int32_t plainStep(StepArgs *args) {
  for (int64_t i = 0; i < args->outputCount; ++i) {
    int32_t row = args->outputs[i];
    float *logits = args->logits + i * fake->info.vocabSize;
    std::fill(logits, logits + fake->info.vocabSize, 0.0f);
    logits[successor(args->rows[row].sequence, args->tokens[row],
                     args->positions[row])] = 1.0f;
  }
  return kKernelOk;
}

namespace {
class CApiTest : public ::testing::Test {
protected:
  void SetUp() override {
    fake = &state;
    state.info = plainInfo();
    ProgramEntries entries = fakeEntries();
    entries.step = plainStep;
    ASSERT_EQ(pmkvq_program_open(&entries, nullptr, 0, &program), PMKVQ_OK);
    pmkvq_session_options options = {2, 120, 0, 2};
    ASSERT_EQ(pmkvq_session_open(program, &options, &session), PMKVQ_OK);
  }
  void TearDown() override {
    pmkvq_session_close(session);
    pmkvq_program_close(program);
    fake = nullptr;
  }

  Fake state;
  pmkvq_program *program = nullptr;
  pmkvq_session *session = nullptr;
};
} // namespace

TEST_F(CApiTest, PrefillsDecodesAndCounts) {
  const int32_t tokens[] = {5, 6, 7};
  pmkvq_prompt prompt = {1, tokens, 3};
  int64_t seen = 0;
  auto progress = [](void *user, int64_t done, int64_t) {
    *static_cast<int64_t *>(user) = done;
  };
  ASSERT_EQ(pmkvq_session_prefill(session, &prompt, 1, progress, &seen),
            PMKVQ_OK);
  EXPECT_EQ(seen, 3);
  int32_t out[8];
  pmkvq_decode_request request = {1, 8, out, 0, PMKVQ_FINISH_STOP, 0};
  auto count = [](void *user, int32_t, int32_t, int64_t) {
    ++*static_cast<int64_t *>(user);
    return true;
  };
  pmkvq_decode_options decode;
  pmkvq_decode_options_init(&decode);
  decode.on_token = count;
  decode.user = &seen;
  ASSERT_EQ(pmkvq_session_decode(session, &request, 1, &decode), PMKVQ_OK);
  EXPECT_EQ(seen, 3 + 8);
  EXPECT_EQ(request.token_count, 8);
  EXPECT_EQ(request.reason, PMKVQ_FINISH_LENGTH);
  EXPECT_EQ(out[0], successor(1, 7, 2));
  EXPECT_EQ(out[1], successor(1, out[0], 3));
  int64_t cached = 0;
  ASSERT_EQ(pmkvq_session_tokens(session, 1, &cached), PMKVQ_OK);
  EXPECT_EQ(cached, 10);
  pmkvq_cache_bytes bytes;
  ASSERT_EQ(pmkvq_session_bytes(session, &bytes), PMKVQ_OK);
  EXPECT_EQ(bytes.bf16_equivalent, 10 * 2 * 2 * 16 * 2 * 2);
  EXPECT_EQ(bytes.in_use, bytes.fixed_areas);
  int64_t levels[PMKVQ_LEVELS] = {9, 9, 9, 9};
  ASSERT_EQ(pmkvq_session_levels(session, 0, 1, levels), PMKVQ_OK);
  EXPECT_EQ(levels[3], 0);
}

TEST_F(CApiTest, StepCopiesLogits) {
  const int32_t tokens[] = {5, 6};
  pmkvq_step_run run = {0, tokens, 2, PMKVQ_OUTPUTS_ALL};
  std::vector<float> logits(2 * pmkvq_program_vocab_size(program));
  EXPECT_EQ(pmkvq_session_step(session, &run, 1, logits.data(), 100),
            PMKVQ_INVALID_ARGUMENT);
  EXPECT_NE(std::string(pmkvq_last_error()).find("194 floats"),
            std::string::npos);
  ASSERT_EQ(pmkvq_session_step(session, &run, 1, logits.data(), 194), PMKVQ_OK);
  EXPECT_EQ(argmax(logits.data() + 97, 97), successor(0, 6, 1));
  EXPECT_EQ(pmkvq_session_room(session, 0), 118);
  EXPECT_EQ(pmkvq_session_release(session, 0), PMKVQ_OK);
  EXPECT_EQ(pmkvq_session_room(session, 0), 120);
}

TEST_F(CApiTest, SamplesAndRefusesBadValues) {
  const int32_t tokens[] = {5, 6, 7};
  pmkvq_prompt prompts[] = {{0, tokens, 3}, {1, tokens, 3}};
  ASSERT_EQ(pmkvq_session_prefill(session, prompts, 2, nullptr, nullptr),
            PMKVQ_OK);
  int32_t out[2][8];
  pmkvq_decode_request requests[] = {{0, 8, out[0], 0, PMKVQ_FINISH_STOP, 0},
                                     {1, 8, out[1], 0, PMKVQ_FINISH_STOP, 0}};
  pmkvq_decode_options decode;
  pmkvq_decode_options_init(&decode);
  decode.temperature = -1;
  EXPECT_EQ(pmkvq_session_decode(session, requests, 2, &decode),
            PMKVQ_INVALID_ARGUMENT);
  EXPECT_NE(std::string(pmkvq_last_error()).find("temperature is -1"),
            std::string::npos);
  decode.temperature = 3;
  decode.top_p = 1.01;
  EXPECT_EQ(pmkvq_session_decode(session, requests, 2, &decode),
            PMKVQ_INVALID_ARGUMENT);
  decode.top_p = 1;
  decode.seed = 77;
  ASSERT_EQ(pmkvq_session_decode(session, requests, 2, &decode), PMKVQ_OK);
  EXPECT_FALSE(std::equal(out[0], out[0] + 8, out[1]));
}

TEST_F(CApiTest, ForcesForksSnapshotsAndReleases) {
  const int32_t tokens[] = {5, 6, 7, 8};
  pmkvq_prompt given = {0, tokens, 4};
  std::vector<int64_t> seen;
  auto onLogits = [](void *user, int32_t, int64_t position, int32_t token,
                     const float *logits) {
    static_cast<std::vector<int64_t> *>(user)->push_back(position);
    return argmax(logits, 97) ==
           successor(0, token, static_cast<int32_t>(position));
  };
  ASSERT_EQ(pmkvq_session_force(session, &given, 1, 2, onLogits, &seen),
            PMKVQ_OK);
  EXPECT_EQ(seen, (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(pmkvq_session_free_sequence(session), 1);
  ASSERT_EQ(pmkvq_session_fork(session, 0, 1), PMKVQ_OK);
  EXPECT_EQ(pmkvq_session_free_sequence(session), -1);
  EXPECT_EQ(pmkvq_session_fork(session, 0, 1), PMKVQ_FAILED_PRECONDITION);
  int64_t pages = 9, shared = 9, cached = 0, counts[PMKVQ_LEVELS];
  ASSERT_EQ(pmkvq_session_pages(session, 1, &pages, &shared), PMKVQ_OK);
  EXPECT_EQ(pages + shared, 0);
  ASSERT_EQ(pmkvq_session_sequence_levels(session, 1, 1, 1, counts), PMKVQ_OK);
  pmkvq_snapshot *snapshot = nullptr;
  ASSERT_EQ(pmkvq_session_snapshot(session, 1, &snapshot), PMKVQ_OK);
  EXPECT_EQ(pmkvq_session_release(session, 1), PMKVQ_OK);
  const void *data = pmkvq_snapshot_data(snapshot);
  int64_t size = pmkvq_snapshot_size(snapshot);
  EXPECT_EQ(pmkvq_session_restore(session, 1, data, size - 1), PMKVQ_DATA_LOSS);
  ASSERT_EQ(pmkvq_session_restore(session, 1, data, size), PMKVQ_OK);
  pmkvq_snapshot_close(snapshot);
  ASSERT_EQ(pmkvq_session_tokens(session, 1, &cached), PMKVQ_OK);
  EXPECT_EQ(cached, 4);
}

TEST_F(CApiTest, MinimumBytesAgreeWithAdmit) {
  pmkvq_sequence_plan plan = {0, 3000, 900};
  int64_t bytes = 0;
  pmkvq_session_options options = {1, 4000, 0, 1};
  ASSERT_EQ(pmkvq_minimum_bytes(program, &options, &plan, 1, &bytes), PMKVQ_OK);
  for (int64_t missing : {0, 1}) {
    options.budget_bytes = bytes - missing;
    pmkvq_session *tight = nullptr;
    ASSERT_EQ(pmkvq_session_open(program, &options, &tight), PMKVQ_OK);
    EXPECT_EQ(pmkvq_session_admit(tight, &plan, 1),
              missing ? PMKVQ_OUT_OF_MEMORY : PMKVQ_OK);
    pmkvq_session_close(tight);
  }
}

TEST_F(CApiTest, NullAndNonsenseAreRefused) {
  const pmkvq_status bad = PMKVQ_INVALID_ARGUMENT;
  pmkvq_program *p = nullptr;
  pmkvq_session *s = nullptr;
  ProgramEntries empty = {};
  EXPECT_EQ(pmkvq_program_open(nullptr, nullptr, 0, &p), bad);
  EXPECT_EQ(pmkvq_program_open(&empty, nullptr, 0, &p), bad);
  EXPECT_EQ(pmkvq_program_open(&empty, nullptr, -1, &p), bad);
  EXPECT_EQ(pmkvq_session_open(nullptr, nullptr, &s), bad);
  EXPECT_EQ(pmkvq_session_open(program, nullptr, nullptr), bad);
  EXPECT_EQ(pmkvq_session_prefill(nullptr, nullptr, 0, nullptr, nullptr), bad);
  EXPECT_EQ(pmkvq_session_prefill(session, nullptr, 1, nullptr, nullptr), bad);
  pmkvq_prompt prompt = {0, nullptr, 4};
  EXPECT_EQ(pmkvq_session_prefill(session, &prompt, 1, nullptr, nullptr), bad);
  pmkvq_decode_request request = {0, 4, nullptr, 0, PMKVQ_FINISH_STOP, 0};
  EXPECT_EQ(pmkvq_session_decode(session, &request, 1, nullptr), bad);
  EXPECT_EQ(pmkvq_session_step(session, nullptr, 1, nullptr, 0), bad);
  EXPECT_EQ(pmkvq_session_bytes(session, nullptr), bad);
  int64_t counts[PMKVQ_LEVELS];
  EXPECT_EQ(pmkvq_session_levels(session, 9, 0, counts), bad);
  EXPECT_EQ(pmkvq_session_levels(session, 0, 2, counts), bad);
  EXPECT_EQ(pmkvq_session_tokens(session, 2, counts), bad);
  EXPECT_EQ(pmkvq_session_admit(session, nullptr, 1), bad);
  EXPECT_EQ(pmkvq_session_release(nullptr, 0), bad);
  EXPECT_EQ(pmkvq_session_fork(session, 0, 7), bad);
  EXPECT_EQ(pmkvq_session_snapshot(session, 0, nullptr), bad);
  EXPECT_EQ(pmkvq_session_restore(session, 0, nullptr, 5), bad);
  EXPECT_EQ(pmkvq_session_restore(session, 0, "abc", -1), bad);
  EXPECT_EQ(pmkvq_session_restore(session, 0, "abc", 3), PMKVQ_DATA_LOSS);
  EXPECT_EQ(pmkvq_session_force(session, &prompt, 1, 0, nullptr, nullptr), bad);
  EXPECT_EQ(pmkvq_session_pages(session, 0, nullptr, counts), bad);
  EXPECT_EQ(pmkvq_session_sequence_levels(session, 5, 0, 0, counts), bad);
  EXPECT_EQ(pmkvq_session_free_sequence(nullptr), -1);
  EXPECT_EQ(pmkvq_snapshot_size(nullptr), 0);
  EXPECT_EQ(pmkvq_snapshot_data(nullptr), nullptr);
  pmkvq_snapshot_close(nullptr);
  pmkvq_decode_options_init(nullptr);
  EXPECT_EQ(pmkvq_session_room(nullptr, 0), 0);
  EXPECT_NE(std::string(pmkvq_last_error()), "");
  pmkvq_session_close(nullptr);
  pmkvq_program_close(nullptr);
}
