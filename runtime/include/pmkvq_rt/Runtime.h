/*===- Runtime.h - The runtime in C -------------------------------*- C -*-===*\
|*                                                                            *|
|* Sessions for callers that do not speak C++.  Neighbours: Session.h is the  *|
|* same in C++ and has the mental model; Program.h checks programs.           *|
|*                                                                            *|
|* Every call that can fail returns a pmkvq_status and never aborts; null     *|
|* arguments are PMKVQ_INVALID_ARGUMENT.  Out parameters are written only on  *|
|* PMKVQ_OK.  A session is for one thread at a time.                          *|
|*                                                                            *|
\*===----------------------------------------------------------------------===*/

#ifndef PMKVQ_RT_RUNTIME_H
#define PMKVQ_RT_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One to one with pmkvq::rt::StatusCode; Status.h says what to do on each. */
typedef enum pmkvq_status {
  PMKVQ_OK = 0,
  PMKVQ_INVALID_ARGUMENT = 1,
  PMKVQ_OUT_OF_MEMORY = 2,
  PMKVQ_NOT_REPRESENTABLE = 3,
  PMKVQ_DATA_LOSS = 4,
  PMKVQ_FAILED_PRECONDITION = 5,
  PMKVQ_UNIMPLEMENTED = 6,
  PMKVQ_INTERNAL = 7
} pmkvq_status;

/* Message of the last call on this thread that did not return PMKVQ_OK, never
 * null; valid until the next such call on this thread. */
const char *pmkvq_last_error(void);

/*===-- Programs
 * -----------------------------------------------------------===*/

typedef struct pmkvq_program pmkvq_program;

/* Checks a program whose code is in memory already.
 *
 * Shapes: entries points to a pmkvq::rt::ProgramEntries (Abi.h); weights
 *         [weight_count], in the order of the program's weight table.
 * Errors: INVALID_ARGUMENT; DATA_LOSS if the program is of another ABI version
 *         or describes an impossible geometry; OUT_OF_MEMORY.
 * Code and weights must outlive the program and its sessions. */
pmkvq_status pmkvq_program_open(const void *entries, const void *const *weights,
                                int64_t weight_count, pmkvq_program **program);

/* The size of the vocabulary; 0 for null. */
int64_t pmkvq_program_vocab_size(const pmkvq_program *program);

/* Null is allowed.  Sessions opened from it stay valid. */
void pmkvq_program_close(pmkvq_program *program);

/*===-- Sessions
 * -----------------------------------------------------------===*/

typedef struct pmkvq_session pmkvq_session;

typedef struct pmkvq_session_options {
  int32_t max_sequences;
  /* Tokens that each sequence may have cached; 0: the program's maximum. */
  int64_t max_tokens;
  /* Bytes of all caches together; 0: the program's budget; -1: no limit. */
  int64_t budget_bytes;
  /* Threads, the caller included; 0: one per core. */
  int32_t threads;
} pmkvq_session_options;

/* What a sequence is to do; prompt_tokens + max_new_tokens - 1 are cached. */
typedef struct pmkvq_sequence_plan {
  int32_t sequence;
  int64_t prompt_tokens;
  int64_t max_new_tokens;
} pmkvq_sequence_plan;

/* Opens a session; options null: one sequence, all defaults.
 *
 * Errors: INVALID_ARGUMENT; DATA_LOSS if a page kernel is missing;
 *         OUT_OF_MEMORY, naming the bytes missing, if the budget cannot hold
 *         fixed areas and page tables. */
pmkvq_status pmkvq_session_open(const pmkvq_program *program,
                                const pmkvq_session_options *options,
                                pmkvq_session **session);

/* Null is allowed. */
void pmkvq_session_close(pmkvq_session *session);

/* Checks before the first token that sequences can reach their end.
 *
 * Shapes: plans [count], each sequence at most once.
 * Errors: INVALID_ARGUMENT; OUT_OF_MEMORY, naming the bytes missing. */
pmkvq_status pmkvq_session_admit(const pmkvq_session *session,
                                 const pmkvq_sequence_plan *plans,
                                 int64_t count);

/* Fewest bytes for `plans` in a session with `options`: see admit.
 *
 * Shapes: plans [count].  Units: bytes. */
pmkvq_status pmkvq_minimum_bytes(const pmkvq_program *program,
                                 const pmkvq_session_options *options,
                                 const pmkvq_sequence_plan *plans,
                                 int64_t count, int64_t *bytes);

typedef struct pmkvq_prompt {
  int32_t sequence;
  /* [token_count], ids within the vocabulary. */
  const int32_t *tokens;
  int64_t token_count;
} pmkvq_prompt;

/* Called after every prefill step: prompt tokens done, and in total. */
typedef void (*pmkvq_progress_fn)(void *user, int64_t done, int64_t total);

/* Appends prompts, all sequences side by side.
 *
 * Shapes: prompts [count]; progress may be null.
 * Errors: INVALID_ARGUMENT and OUT_OF_MEMORY before the first token;
 *         NOT_REPRESENTABLE: the session is not usable any more. */
pmkvq_status pmkvq_session_prefill(pmkvq_session *session,
                                   const pmkvq_prompt *prompts, int64_t count,
                                   pmkvq_progress_fn progress, void *user);

typedef enum pmkvq_finish_reason {
  PMKVQ_FINISH_LENGTH = 0,
  PMKVQ_FINISH_STOP = 1,
  PMKVQ_FINISH_CANCELLED = 2
} pmkvq_finish_reason;

typedef struct pmkvq_decode_request {
  int32_t sequence;
  int64_t max_new_tokens;
  /* Out: [max_new_tokens], a stop token included; how many; why it ended. */
  int32_t *tokens;
  int64_t token_count;
  pmkvq_finish_reason reason;
} pmkvq_decode_request;

/* Called for every new token; index 0 is the sequence's first of this call.
 * Returning false ends all sequences. */
typedef bool (*pmkvq_token_fn)(void *user, int32_t sequence, int32_t token,
                               int64_t index);

/* Decodes greedily until every request is done; ties: the smallest id.
 *
 * Shapes: requests [count]; stop_tokens [stop_token_count]; on_token may be
 *         null.
 * Errors: FAILED_PRECONDITION for a sequence without a prefill; else as
 *         prefill. */
pmkvq_status pmkvq_session_decode(pmkvq_session *session,
                                  pmkvq_decode_request *requests, int64_t count,
                                  const int32_t *stop_tokens,
                                  int64_t stop_token_count,
                                  pmkvq_token_fn on_token, void *user);

typedef enum pmkvq_outputs {
  PMKVQ_OUTPUTS_NONE = 0,
  PMKVQ_OUTPUTS_LAST = 1,
  PMKVQ_OUTPUTS_ALL = 2
} pmkvq_outputs;

typedef struct pmkvq_step_run {
  int32_t sequence;
  /* [count], at most pmkvq_session_room(sequence). */
  const int32_t *tokens;
  int32_t count;
  /* Which rows give logits. */
  pmkvq_outputs outputs;
} pmkvq_step_run;

/* Tokens that the next step may append to a sequence; 0 for a bad argument. */
int32_t pmkvq_session_room(const pmkvq_session *session, int32_t sequence);

/* Appends tokens to several sequences and copies the logits asked for.
 *
 * Shapes: runs [count]; logits [rows asked for, in the order of the runs]
 *         [vocab], f32; capacity in floats.  Logits may be null if none are
 *         asked for.
 * Errors: INVALID_ARGUMENT, also if capacity is too small (nothing has
 *         happened then); else as prefill. */
pmkvq_status pmkvq_session_step(pmkvq_session *session,
                                const pmkvq_step_run *runs, int64_t count,
                                float *logits, int64_t capacity);

/* Forgets a sequence and gives back its pages. */
pmkvq_status pmkvq_session_reset(pmkvq_session *session, int32_t sequence);

/*===-- Queries
 * ------------------------------------------------------------===*/

/* Bytes of the caches; budget 0: no limit. */
typedef struct pmkvq_cache_bytes {
  int64_t fixed_areas;
  int64_t page_tables;
  int64_t parameter_slots;
  int64_t blocks;
  int64_t in_use;
  int64_t peak;
  int64_t budget;
  /* What the cached tokens would take as bf16. */
  int64_t bf16_equivalent;
} pmkvq_cache_bytes;

pmkvq_status pmkvq_session_bytes(const pmkvq_session *session,
                                 pmkvq_cache_bytes *bytes);

/* Pages of one layer at 16, 8, 4 and 2 bits; part 0 is key, 1 is value.
 *
 * Shapes: counts [4]. */
pmkvq_status pmkvq_session_levels(const pmkvq_session *session, int32_t layer,
                                  int32_t part, int64_t *counts);

/* Tokens cached of a sequence. */
pmkvq_status pmkvq_session_tokens(const pmkvq_session *session,
                                  int32_t sequence, int64_t *tokens);

#ifdef __cplusplus
}
#endif

#endif /* PMKVQ_RT_RUNTIME_H */
