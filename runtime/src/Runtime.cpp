//===- Runtime.cpp - The runtime in C -------------------------------------===//
//
// Checks pointers and counts, turns C structs into those of Session.h, and
// keeps the message of the last error.  Neighbours: Runtime.h, Session.h,
// RuntimeQueries.cpp (sequences and queries).
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Runtime.h"

#include "CApi.h"
#include "pmkvq_rt/Artifact.h"

#include <algorithm>
#include <cstring>

using namespace pmkvq::rt;
using namespace pmkvq::rt::capi;

/// A fixed buffer: reporting that memory is short must not need memory.
static thread_local char lastError[1024] = "";

pmkvq_status capi::report(const Status &status) {
  if (!status.ok()) {
    size_t length = std::min(status.message().size(), sizeof(lastError) - 1);
    std::memcpy(lastError, status.message().data(), length);
    lastError[length] = 0;
  }
  return static_cast<pmkvq_status>(status.code());
}

pmkvq_status capi::reportExhausted() {
  std::strcpy(lastError, "the machine's memory is exhausted");
  return PMKVQ_OUT_OF_MEMORY;
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

static Result<std::vector<Prompt>> promptsFrom(const pmkvq_prompt *prompts,
                                               int64_t count) {
  std::vector<Prompt> result;
  for (int64_t i = 0; i < count; ++i) {
    if (!isArray(prompts[i].tokens, prompts[i].token_count))
      return invalid("a prompt's tokens are null");
    result.push_back(
        {prompts[i].sequence,
         std::vector<int32_t>(prompts[i].tokens,
                              prompts[i].tokens + prompts[i].token_count)});
  }
  return result;
}

static DecodeOptions decodeOptionsFrom(const pmkvq_decode_options *options) {
  DecodeOptions result;
  if (!options)
    return result;
  result.temperature = options->temperature;
  result.topP = options->top_p;
  result.seed = options->seed;
  result.stopTokens.assign(options->stop_tokens,
                           options->stop_tokens + options->stop_token_count);
  if (options->on_token)
    result.onToken = [=](const TokenEvent &event) {
      return options->on_token(options->user, event.sequence, event.token,
                               event.index);
    };
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

pmkvq_status pmkvq_program_load(const char *path, pmkvq_program **program) {
  return call([&]() -> Status {
    if (!path || !program)
      return invalid("pmkvq_program_load: a pointer is null");
    Result<std::shared_ptr<const Artifact>> artifact = Artifact::open(path);
    if (!artifact.ok())
      return artifact.status();
    Result<Program> loaded = loadProgram(std::move(*artifact));
    if (loaded.ok())
      *program = new pmkvq_program{std::move(*loaded)};
    return loaded.status();
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

pmkvq_status pmkvq_session_admit(pmkvq_session *session,
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
    Result<std::vector<Prompt>> list = promptsFrom(prompts, count);
    if (!list.ok())
      return list.status();
    PrefillProgress onProgress;
    if (progress)
      onProgress = [=](int64_t done, int64_t total) {
        progress(user, done, total);
      };
    return session->session->prefill(*list, onProgress);
  });
}

void pmkvq_decode_options_init(pmkvq_decode_options *options) {
  if (options)
    *options = {nullptr, 0, nullptr, nullptr, 0, 1, 0};
}

pmkvq_status pmkvq_session_decode(pmkvq_session *session,
                                  pmkvq_decode_request *requests, int64_t count,
                                  const pmkvq_decode_options *options) {
  return call([&]() -> Status {
    if (!session || !isArray(requests, count) ||
        (options && !isArray(options->stop_tokens, options->stop_token_count)))
      return invalid("pmkvq_session_decode: a pointer is null");
    std::vector<DecodeRequest> list;
    for (int64_t i = 0; i < count; ++i) {
      if (!requests[i].tokens)
        return invalid("pmkvq_session_decode: a request's tokens are null");
      list.push_back({requests[i].sequence, requests[i].max_new_tokens,
                      requests[i].stream});
    }
    Result<std::vector<Generated>> results =
        session->session->decode(list, decodeOptionsFrom(options));
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

pmkvq_status pmkvq_session_force(pmkvq_session *session,
                                 const pmkvq_prompt *given, int64_t count,
                                 int64_t firstChunk, pmkvq_logits_fn onLogits,
                                 void *user) {
  return call([&]() -> Status {
    if (!session || !isArray(given, count) || !onLogits)
      return invalid("pmkvq_session_force: a pointer is null");
    Result<std::vector<Prompt>> list = promptsFrom(given, count);
    if (!list.ok())
      return list.status();
    return session->session->force(
        *list,
        [=](const PositionLogits &at) {
          return onLogits(user, at.sequence, at.position, at.token, at.logits);
        },
        firstChunk);
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

} // extern "C"
