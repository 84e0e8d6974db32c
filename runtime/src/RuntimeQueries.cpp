//===- RuntimeQueries.cpp - The runtime in C: sequences and queries -------===//
//
// Release, fork, snapshots; tokens, bytes and levels.  Neighbours: Runtime.h,
// Runtime.cpp (programs, sessions, steps), CApi.h.
//
//===----------------------------------------------------------------------===//

#include "CApi.h"

#include <algorithm>

using namespace pmkvq::rt;
using namespace pmkvq::rt::capi;

/// Errors: InvalidArgument for a null session or a sequence that it lacks.
static Status checkSequence(const pmkvq_session *session, int32_t sequence) {
  if (!session)
    return invalid("the session is null");
  if (sequence < 0 || sequence >= session->session->maxSequences())
    return Status(StatusCode::InvalidArgument,
                  "sequence " + std::to_string(sequence) + "; there are " +
                      std::to_string(session->session->maxSequences()));
  return Status();
}

/// Errors: InvalidArgument unless the program has this layer and part.
static Status checkPlace(const pmkvq_session *session, int32_t layer,
                         int32_t part) {
  if (layer < 0 || layer >= session->session->program().info.layers ||
      part < 0 || part >= kParts)
    return invalid("no such layer or part");
  return Status();
}

extern "C" {

//===----------------------------------------------------------------------===//
// Sequences
//===----------------------------------------------------------------------===//

pmkvq_status pmkvq_session_release(pmkvq_session *session, int32_t sequence) {
  return call([&]() -> Status {
    if (Status s = checkSequence(session, sequence); !s.ok())
      return s;
    return session->session->release(sequence);
  });
}

pmkvq_status pmkvq_session_fork(pmkvq_session *session, int32_t parent,
                                int32_t child) {
  return call([&]() -> Status {
    if (Status s = checkSequence(session, parent); !s.ok())
      return s;
    return session->session->fork(parent, child);
  });
}

int32_t pmkvq_session_free_sequence(const pmkvq_session *session) {
  return session ? session->session->freeSequence() : -1;
}

pmkvq_status pmkvq_session_snapshot(const pmkvq_session *session,
                                    int32_t sequence,
                                    pmkvq_snapshot **snapshot) {
  return call([&]() -> Status {
    if (Status s = checkSequence(session, sequence); !s.ok())
      return s;
    if (!snapshot)
      return invalid("pmkvq_session_snapshot: a pointer is null");
    Result<std::vector<uint8_t>> bytes = session->session->snapshot(sequence);
    if (bytes.ok())
      *snapshot = new pmkvq_snapshot{std::move(*bytes)};
    return bytes.status();
  });
}

const void *pmkvq_snapshot_data(const pmkvq_snapshot *snapshot) {
  return snapshot ? snapshot->bytes.data() : nullptr;
}

int64_t pmkvq_snapshot_size(const pmkvq_snapshot *snapshot) {
  return snapshot ? static_cast<int64_t>(snapshot->bytes.size()) : 0;
}

void pmkvq_snapshot_close(pmkvq_snapshot *snapshot) { delete snapshot; }

pmkvq_status pmkvq_session_restore(pmkvq_session *session, int32_t sequence,
                                   const void *data, int64_t size) {
  return call([&]() -> Status {
    if (Status s = checkSequence(session, sequence); !s.ok())
      return s;
    if (!isArray(data, size))
      return invalid("pmkvq_session_restore: a pointer is null");
    return session->session->restore(sequence,
                                     static_cast<const uint8_t *>(data),
                                     static_cast<size_t>(size));
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
    *bytes = {now.fixedAreas, now.pageTables,     now.parameterSlots,
              now.blocks,     now.inUse,          now.peak,
              now.budget,     now.bf16Equivalent, now.peakParameterSlots,
              now.peakBlocks};
    return Status();
  });
}

pmkvq_status pmkvq_session_levels(const pmkvq_session *session, int32_t layer,
                                  int32_t part, int64_t *counts) {
  return call([&]() -> Status {
    if (!session || !counts)
      return invalid("pmkvq_session_levels: a pointer is null");
    if (Status s = checkPlace(session, layer, part); !s.ok())
      return s;
    LevelCounts levels =
        session->session->levels(layer, static_cast<Part>(part));
    static_assert(std::tuple_size_v<LevelCounts> == PMKVQ_LEVELS);
    std::copy(levels.begin(), levels.end(), counts);
    return Status();
  });
}

pmkvq_status pmkvq_session_sequence_levels(const pmkvq_session *session,
                                           int32_t sequence, int32_t layer,
                                           int32_t part, int64_t *counts) {
  return call([&]() -> Status {
    if (Status s = checkSequence(session, sequence); !s.ok())
      return s;
    if (!counts)
      return invalid("pmkvq_session_sequence_levels: a pointer is null");
    if (Status s = checkPlace(session, layer, part); !s.ok())
      return s;
    LevelCounts levels =
        session->session->levels(sequence, layer, static_cast<Part>(part));
    std::copy(levels.begin(), levels.end(), counts);
    return Status();
  });
}

pmkvq_status pmkvq_session_tokens(const pmkvq_session *session,
                                  int32_t sequence, int64_t *tokens) {
  return call([&]() -> Status {
    if (Status s = checkSequence(session, sequence); !s.ok())
      return s;
    if (!tokens)
      return invalid("pmkvq_session_tokens: a pointer is null");
    *tokens = session->session->tokens(sequence);
    return Status();
  });
}

pmkvq_status pmkvq_session_pages(const pmkvq_session *session, int32_t sequence,
                                 int64_t *pages, int64_t *shared) {
  return call([&]() -> Status {
    if (Status s = checkSequence(session, sequence); !s.ok())
      return s;
    if (!pages || !shared)
      return invalid("pmkvq_session_pages: a pointer is null");
    *pages = session->session->pages(sequence);
    *shared = session->session->sharedPages(sequence);
    return Status();
  });
}

} // extern "C"
