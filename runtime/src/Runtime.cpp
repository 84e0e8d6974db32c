//===- Runtime.cpp - The runtime in C -------------------------------------===//
//
// Checks pointers and counts, turns C structs into those of Session.h, and
// keeps the message of the last error.  Neighbours: Runtime.h, Session.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Runtime.h"

#include "Guard.h"
#include "pmkvq_rt/Session.h"

#include <algorithm>
#include <cstring>

using namespace pmkvq::rt;

struct pmkvq_program {
  Program program;
};

struct pmkvq_session {
  std::unique_ptr<Session> session;
};

/// A fixed buffer: reporting that memory is short must not need memory.
static thread_local char lastError[1024] = "";

static pmkvq_status report(const Status &status) {
  if (!status.ok()) {
    size_t length = std::min(status.message().size(), sizeof(lastError) - 1);
    std::memcpy(lastError, status.message().data(), length);
    lastError[length] = 0;
  }
  return static_cast<pmkvq_status>(status.code());
}

static Status invalid(const char *message) {
  return Status(StatusCode::InvalidArgument, message);
}

/// Runs a call's body, reports its status, and lets no exception through.
template <typename Body> static pmkvq_status call(Body &&body) {
  try {
    return report(guarded([&]() -> Status { return body(); }));
  } catch (...) {
    // Not even a short message could be made.
    std::strcpy(lastError, "the machine's memory is exhausted");
    return PMKVQ_OUT_OF_MEMORY;
  }
}

/// Is [pointer, pointer + count) an array that can be read?
static bool isArray(const void *pointer, int64_t count) {
  return count == 0 || (count > 0 && pointer);
}

static SessionOptions optionsFrom(const pmkvq_session_options *options) {
  SessionOptions result;
  if (!options)
    return result;
  result.maxSequences = options->max_sequences;
  result.maxTokens = options->max_tokens;
  result.budgetBytes = options->budget_bytes;
  result.threads = options->threads;
  return result;
}

static std::vector<SequencePlan> plansFrom(const pmkvq_sequence_plan *plans,
                                           int64_t count) {
  std::vector<SequencePlan> result;
  for (int64_t i = 0; i < count; ++i)
    result.push_back(
        {plans[i].sequence, plans[i].prompt_tokens, plans[i].max_new_tokens});
  return result;
}

extern "C" {

const char *pmkvq_last_error(void) { return lastError; }

//===----------------------------------------------------------------------===//
// Programs
//===----------------------------------------------------------------------===//

pmkvq_status pmkvq_program_open(const void *entries, const void *const *weights,
                                int64_t weightCount, pmkvq_program **program) {
  return call([&]() -> Status {
    if (!entries || !isArray(weights, weightCount) || !program)
      return invalid("pmkvq_program_open: a pointer is null");
    Result<Program> opened =
        openProgram(*static_cast<const ProgramEntries *>(entries),
                    std::vector<const void *>(weights, weights + weightCount));
    if (opened.ok())
      *program = new pmkvq_program{std::move(*opened)};
    return opened.status();
  });
}

int64_t pmkvq_program_vocab_size(const pmkvq_program *program) {
  return program ? program->program.info.vocabSize : 0;
}

void pmkvq_program_close(pmkvq_program *program) { delete program; }

//===----------------------------------------------------------------------===//
// Sessions
//===----------------------------------------------------------------------===//

pmkvq_status pmkvq_session_open(const pmkvq_program *program,
                                const pmkvq_session_options *options,
                                pmkvq_session **session) {
  return call([&]() -> Status {
    if (!program || !session)
      return invalid("pmkvq_session_open: a pointer is null");
    Result<std::unique_ptr<Session>> opened =
        Session::open(program->program, optionsFrom(options));
    if (opened.ok())
      *session = new pmkvq_session{std::move(*opened)};
    return opened.status();
  });
}

void pmkvq_session_close(pmkvq_session *session) { delete session; }

pmkvq_status pmkvq_session_admit(const pmkvq_session *session,
                                 const pmkvq_sequence_plan *plans,
                                 int64_t count) {
  return call([&]() -> Status {
    if (!session || !isArray(plans, count))
      return invalid("pmkvq_session_admit: a pointer is null");
    return session->session->admit(plansFrom(plans, count));
  });
}

pmkvq_status pmkvq_minimum_bytes(const pmkvq_program *program,
                                 const pmkvq_session_options *options,
                                 const pmkvq_sequence_plan *plans,
                                 int64_t count, int64_t *bytes) {
  return call([&]() -> Status {
    if (!program || !isArray(plans, count) || !bytes)
      return invalid("pmkvq_minimum_bytes: a pointer is null");
    Result<int64_t> result = minimumBytes(
        program->program, optionsFrom(options), plansFrom(plans, count));
    if (result.ok())
      *bytes = *result;
    return result.status();
  });
}

pmkvq_status pmkvq_session_prefill(pmkvq_session *session,
                                   const pmkvq_prompt *prompts, int64_t count,
                                   pmkvq_progress_fn progress, void *user) {
  return call([&]() -> Status {
    if (!session || !isArray(prompts, count))
      return invalid("pmkvq_session_prefill: a pointer is null");
    std::vector<Prompt> list;
    for (int64_t i = 0; i < count; ++i) {
      if (!isArray(prompts[i].tokens, prompts[i].token_count))
        return invalid("pmkvq_session_prefill: a prompt's tokens are null");
      list.push_back(
          {prompts[i].sequence,
           std::vector<int32_t>(prompts[i].tokens,
                                prompts[i].tokens + prompts[i].token_count)});
    }
    PrefillProgress onProgress;
    if (progress)
      onProgress = [=](int64_t done, int64_t total) {
        progress(user, done, total);
      };
    return session->session->prefill(list, onProgress);
  });
}

pmkvq_status pmkvq_session_decode(pmkvq_session *session,
                                  pmkvq_decode_request *requests, int64_t count,
                                  const int32_t *stopTokens,
                                  int64_t stopTokenCount,
                                  pmkvq_token_fn onToken, void *user) {
  return call([&]() -> Status {
    if (!session || !isArray(requests, count) ||
        !isArray(stopTokens, stopTokenCount))
      return invalid("pmkvq_session_decode: a pointer is null");
    std::vector<DecodeRequest> list;
    for (int64_t i = 0; i < count; ++i) {
      if (!requests[i].tokens)
        return invalid("pmkvq_session_decode: a request's tokens are null");
      list.push_back({requests[i].sequence, requests[i].max_new_tokens});
    }
    DecodeOptions options;
    options.stopTokens.assign(stopTokens, stopTokens + stopTokenCount);
    if (onToken)
      options.onToken = [=](const TokenEvent &event) {
        return onToken(user, event.sequence, event.token, event.index);
      };
    Result<std::vector<Generated>> results =
        session->session->decode(list, options);
    if (!results.ok())
      return results.status();
    for (int64_t i = 0; i < count; ++i) {
      const Generated &result = (*results)[i];
      std::copy(result.tokens.begin(), result.tokens.end(), requests[i].tokens);
      requests[i].token_count = static_cast<int64_t>(result.tokens.size());
      requests[i].reason = static_cast<pmkvq_finish_reason>(result.reason);
    }
    return Status();
  });
}

int32_t pmkvq_session_room(const pmkvq_session *session, int32_t sequence) {
  return session ? session->session->room(sequence) : 0;
}

pmkvq_status pmkvq_session_step(pmkvq_session *session,
                                const pmkvq_step_run *runs, int64_t count,
                                float *logits, int64_t capacity) {
  return call([&]() -> Status {
    if (!session || !isArray(runs, count))
      return invalid("pmkvq_session_step: a pointer is null");
    int64_t vocab = session->session->program().info.vocabSize;
    std::vector<StepRun> list;
    int64_t floats = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (runs[i].outputs < PMKVQ_OUTPUTS_NONE ||
          runs[i].outputs > PMKVQ_OUTPUTS_ALL)
        return invalid("pmkvq_session_step: outputs is none of its values");
      list.push_back({runs[i].sequence, runs[i].tokens, runs[i].count,
                      static_cast<Outputs>(runs[i].outputs)});
      if (runs[i].outputs == PMKVQ_OUTPUTS_LAST)
        floats += vocab;
      else if (runs[i].outputs == PMKVQ_OUTPUTS_ALL)
        floats += vocab * std::max<int64_t>(0, runs[i].count);
    }
    if (floats > 0 && (!logits || capacity < floats))
      return Status(StatusCode::InvalidArgument,
                    "the logits take " + std::to_string(floats) + " floats");
    Result<StepLogits> result = session->session->step(list);
    if (result.ok() && floats > 0)
      std::memcpy(logits, result->logits, floats * sizeof(float));
    return result.status();
  });
}

pmkvq_status pmkvq_session_reset(pmkvq_session *session, int32_t sequence) {
  return call([&]() -> Status {
    if (!session)
      return invalid("pmkvq_session_reset: the session is null");
    return session->session->reset(sequence);
  });
}

//===----------------------------------------------------------------------===//
// Queries
//===----------------------------------------------------------------------===//

pmkvq_status pmkvq_session_bytes(const pmkvq_session *session,
                                 pmkvq_cache_bytes *bytes) {
  return call([&]() -> Status {
    if (!session || !bytes)
      return invalid("pmkvq_session_bytes: a pointer is null");
    CacheBytes now = session->session->bytes();
    *bytes = {now.fixedAreas, now.pageTables,    now.parameterSlots,
              now.blocks,     now.inUse,         now.peak,
              now.budget,     now.bf16Equivalent};
    return Status();
  });
}

pmkvq_status pmkvq_session_levels(const pmkvq_session *session, int32_t layer,
                                  int32_t part, int64_t *counts) {
  return call([&]() -> Status {
    if (!session || !counts)
      return invalid("pmkvq_session_levels: a pointer is null");
    if (layer < 0 || layer >= session->session->program().info.layers ||
        part < 0 || part >= kParts)
      return invalid("pmkvq_session_levels: no such layer or part");
    LevelCounts levels =
        session->session->levels(layer, static_cast<Part>(part));
    std::copy(levels.begin(), levels.end(), counts);
    return Status();
  });
}

pmkvq_status pmkvq_session_tokens(const pmkvq_session *session,
                                  int32_t sequence, int64_t *tokens) {
  return call([&]() -> Status {
    if (!session || !tokens)
      return invalid("pmkvq_session_tokens: a pointer is null");
    if (sequence < 0 || sequence >= session->session->maxSequences())
      return invalid("pmkvq_session_tokens: no such sequence");
    *tokens = session->session->tokens(sequence);
    return Status();
  });
}

} // extern "C"
