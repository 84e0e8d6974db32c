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

/* C has no namespaces: names are pmkvq_this_way.
 * NOLINTBEGIN(readability-identifier-naming) */

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

/* Loads an artifact, which `pmkvq-run --emit=artifact` has written
 * (Artifact.h); all of it is checked before anything of it is used.
 *
 * Errors: INVALID_ARGUMENT for a file that cannot be read or is no artifact;
 *         DATA_LOSS if it is damaged or of another version;
 *         FAILED_PRECONDITION if it was made for another machine. */
pmkvq_status pmkvq_program_load(const char *path, pmkvq_program **program);

/* Ids that a token may have: 0 .. size - 1, and the length of a row of logits;
 * 0 for null. */
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

/* Null is allowed.  Snapshots taken from it stay valid. */
void pmkvq_session_close(pmkvq_session *session);

/* Promises, before the first token, that sequences can reach their end beside
 * what others have cached and were promised; the promise holds until release.
 *
 * Shapes: plans [count], each sequence at most once.
 * Units:  tokens.
 * Errors: INVALID_ARGUMENT; OUT_OF_MEMORY, naming the bytes missing; nothing
 *         is promised then. */
pmkvq_status pmkvq_session_admit(pmkvq_session *session,
                                 const pmkvq_sequence_plan *plans,
                                 int64_t count);

/* Fewest bytes for `plans` in a session with `options`: see admit.
 *
 * Shapes: plans [count].
 * Units:  bytes.
 * Errors: INVALID_ARGUMENT for sizes out of range. */
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
  /* Stream of random numbers, so that a sequence draws the same tokens at
   * whatever place it runs, alone or in a batch; 0: sequence + 1. */
  uint64_t stream;
} pmkvq_decode_request;

/* Called for every new token; index 0 is the sequence's first of this call.
 * Returning false ends all sequences. */
typedef bool (*pmkvq_token_fn)(void *user, int32_t sequence, int32_t token,
                               int64_t index);

typedef struct pmkvq_decode_options {
  /* [stop_token_count]: a sequence ends with the first of these. */
  const int32_t *stop_tokens;
  int64_t stop_token_count;
  /* May be null; user is handed back to it. */
  pmkvq_token_fn on_token;
  void *user;
  /* Logits are divided by it; 0: greedy, ties to the smallest id. */
  double temperature;
  /* Draw among the most probable tokens that together reach this; 1: all. */
  double top_p;
  uint64_t seed;
} pmkvq_decode_options;

/* Greedy, no stop tokens, no callback.  Null is allowed. */
void pmkvq_decode_options_init(pmkvq_decode_options *options);

/* Decodes until every request is done.  With a temperature, a token depends on
 * seed, stream, position and logits alone: it repeats bit for bit.
 *
 * Shapes: requests [count]; options may be null: the defaults of init.
 * Errors: INVALID_ARGUMENT, also for a temperature below 0 or not finite, or a
 *         top_p outside (0, 1]; FAILED_PRECONDITION for a sequence without a
 *         prefill; else as prefill. */
pmkvq_status pmkvq_session_decode(pmkvq_session *session,
                                  pmkvq_decode_request *requests, int64_t count,
                                  const pmkvq_decode_options *options);

/* Called for every given token: its sequence, its position there, its id, and
 * the logits for what follows it.  Returning false ends the call.
 *
 * Shapes: logits [vocab], f32; valid during the call. */
typedef bool (*pmkvq_logits_fn)(void *user, int32_t sequence, int64_t position,
                                int32_t token, const float *logits);

/* Feeds given tokens, whatever the program would choose: the first of each
 * sequence in one step, the others one by one, and hands out the logits at
 * every position.  Decoding may go on afterwards.
 *
 * Shapes: given [count].
 * Units:  first_chunk in tokens, cut to pmkvq_session_room; 0: as many as there
 *         is room for.
 * Errors: as prefill. */
pmkvq_status pmkvq_session_force(pmkvq_session *session,
                                 const pmkvq_prompt *given, int64_t count,
                                 int64_t first_chunk, pmkvq_logits_fn on_logits,
                                 void *user);

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

/* Tokens that the next step may append to a sequence, a full window counting
 * as flushed; 0 for a bad argument. */
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

/*===-- Sequences
 * ----------------------------------------------------------===*/

/* Forgets a sequence and its plan; gives back the pages that no other holds.
 *
 * Errors: INVALID_ARGUMENT for a bad sequence. */
pmkvq_status pmkvq_session_release(pmkvq_session *session, int32_t sequence);

/* The lowest sequence without tokens and plan; -1 if there is none, and for
 * null. */
int32_t pmkvq_session_free_sequence(const pmkvq_session *session);

/* Makes `child` what `parent` is; they share the pages that exist by now, which
 * takes no bytes of the budget, and go on apart.
 *
 * Errors: INVALID_ARGUMENT for a bad sequence or parent == child;
 *         FAILED_PRECONDITION if the child has tokens. */
pmkvq_status pmkvq_session_fork(pmkvq_session *session, int32_t parent,
                                int32_t child);

/* A sequence as bytes, to be stored and restored; Snapshot.h has the layout. */
typedef struct pmkvq_snapshot pmkvq_snapshot;

/* Takes a snapshot; close it after use.
 *
 * Errors: INVALID_ARGUMENT for a bad sequence; OUT_OF_MEMORY. */
pmkvq_status pmkvq_session_snapshot(const pmkvq_session *session,
                                    int32_t sequence,
                                    pmkvq_snapshot **snapshot);

/* Shapes: [pmkvq_snapshot_size] bytes; valid until close.  Null for null. */
const void *pmkvq_snapshot_data(const pmkvq_snapshot *snapshot);

/* Units: bytes; 0 for null. */
int64_t pmkvq_snapshot_size(const pmkvq_snapshot *snapshot);

/* Null is allowed. */
void pmkvq_snapshot_close(pmkvq_snapshot *snapshot);

/* Makes a sequence without tokens what a snapshot of the same program holds.
 *
 * Shapes: data [size].
 * Units:  size in bytes.
 * Errors: DATA_LOSS if the bytes are damaged or of another version;
 *         INVALID_ARGUMENT if they are of another geometry or too long for the
 *         session; FAILED_PRECONDITION if the sequence has tokens;
 *         OUT_OF_MEMORY, naming the bytes missing.  Nothing has happened then.
 */
pmkvq_status pmkvq_session_restore(pmkvq_session *session, int32_t sequence,
                                   const void *data, int64_t size);

/*===-- Queries
 * ------------------------------------------------------------===*/

/* Bytes of the caches by kind. */
typedef struct pmkvq_cache_bytes {
  /* Sinks and windows, page tables: of all sequences, from open on. */
  int64_t fixed_areas;
  int64_t page_tables;
  /* Shared pages count once. */
  int64_t parameter_slots;
  int64_t blocks;
  /* The four together, now and at most. */
  int64_t in_use;
  int64_t peak;
  /* 0: no limit. */
  int64_t budget;
  /* What the cached tokens of every sequence would take as bf16. */
  int64_t bf16_equivalent;
  /* Most ever of each kind that changes. */
  int64_t peak_parameter_slots;
  int64_t peak_blocks;
} pmkvq_cache_bytes;

/* Units:  bytes.
 * Errors: INVALID_ARGUMENT for null. */
pmkvq_status pmkvq_session_bytes(const pmkvq_session *session,
                                 pmkvq_cache_bytes *bytes);

/* Levels that pages may be at: 16, 8, 4, 2 and 1 bits. */
enum { PMKVQ_LEVELS = 5 };

/* Pages of one layer, all sequences and kv heads, at each level; a shared page
 * counts once.  Part 0 is key, 1 is value.
 *
 * Shapes: counts [PMKVQ_LEVELS].
 * Units:  pages of one kv head.
 * Errors: INVALID_ARGUMENT for a layer or part that does not exist. */
pmkvq_status pmkvq_session_levels(const pmkvq_session *session, int32_t layer,
                                  int32_t part, int64_t *counts);

/* The same for one sequence, shared pages included. */
pmkvq_status pmkvq_session_sequence_levels(const pmkvq_session *session,
                                           int32_t sequence, int32_t layer,
                                           int32_t part, int64_t *counts);

/* Tokens cached of a sequence.
 *
 * Errors: INVALID_ARGUMENT for a bad sequence. */
pmkvq_status pmkvq_session_tokens(const pmkvq_session *session,
                                  int32_t sequence, int64_t *tokens);

/* Pages of a sequence, and how many of them others hold too.
 *
 * Units:  pages of 128 tokens, each of all layers and kv heads.
 * Errors: INVALID_ARGUMENT for a bad sequence. */
pmkvq_status pmkvq_session_pages(const pmkvq_session *session, int32_t sequence,
                                 int64_t *pages, int64_t *shared);

#ifdef __cplusplus
}
#endif

/* NOLINTEND(readability-identifier-naming) */

#endif /* PMKVQ_RT_RUNTIME_H */
