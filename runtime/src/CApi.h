//===- CApi.h - What the C calls have in common -----------------*- C++ -*-===//
//
// The handles, and the way from a Status to a pmkvq_status.  Neighbours:
// Runtime.cpp and RuntimeQueries.cpp, which implement Runtime.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SRC_CAPI_H
#define PMKVQ_RT_SRC_CAPI_H

#include "Guard.h"
#include "pmkvq_rt/Runtime.h"
#include "pmkvq_rt/Session.h"

#include <memory>

struct pmkvq_program {
  pmkvq::rt::Program program;
};

struct pmkvq_session {
  std::unique_ptr<pmkvq::rt::Session> session;
};

struct pmkvq_snapshot {
  std::vector<uint8_t> bytes;
};

namespace pmkvq::rt::capi {

/// Keeps the message for pmkvq_last_error.
pmkvq_status report(const Status &status);

/// For when not even a short message can be made.
pmkvq_status reportExhausted();

inline Status invalid(const char *message) {
  return Status(StatusCode::InvalidArgument, message);
}

/// Runs a call's body, reports its status, and lets no exception through.
template <typename Body> pmkvq_status call(Body &&body) {
  try {
    return report(guarded([&]() -> Status { return body(); }));
  } catch (...) {
    return reportExhausted();
  }
}

/// Is [pointer, pointer + count) an array that can be read?
inline bool isArray(const void *pointer, int64_t count) {
  return count == 0 || (count > 0 && pointer);
}

} // namespace pmkvq::rt::capi

#endif // PMKVQ_RT_SRC_CAPI_H
