//===- Guard.h - From exceptions to Status ----------------------*- C++ -*-===//
//
// The standard library throws when memory is short; callers of the runtime see
// a Status.  Neighbours: every public call that may allocate goes through here.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_GUARD_H
#define PMKVQ_RT_GUARD_H

#include "pmkvq_rt/Status.h"

#include <exception>
#include <new>
#include <stdexcept>

namespace pmkvq::rt {

/// Returns body(), or the Status of what it threw.
template <typename Body> auto guarded(Body &&body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc &) {
    return Status(StatusCode::OutOfMemory, "the machine's memory is exhausted");
  } catch (const std::length_error &) {
    return Status(StatusCode::OutOfMemory, "the machine's memory is exhausted");
  } catch (const std::exception &error) {
    return Status(StatusCode::Internal, error.what());
  } catch (...) {
    return Status(StatusCode::Internal, "a callback threw");
  }
}

} // namespace pmkvq::rt

#endif // PMKVQ_RT_GUARD_H
