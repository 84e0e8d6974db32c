//===- Logits.h - Logits of given tokens, as a file -------------*- C++ -*-===//
//
// What --logits writes.  Neighbours: pmkvq_rt/Session.h (forced decoding).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_LOGITS_H
#define PMKVQ_TOOLS_RUN_RUN_LOGITS_H

#include "pmkvq_rt/Session.h"
#include <cstdint>
#include <vector>

namespace pmkvq::run {

/// Feeds the prompts, one token at a time after the first chunk, and writes
/// what the program expects after each token.  The sequences can be decoded
/// afterwards.  `progress` is told of every token.
///
/// Shapes: safetensors with a tensor `logits.I` for prompt I, f32 [tokens,
///         vocab].
/// Errors: those of the session; a file that cannot be written.  The file is
///         there whole or not at all.
rt::Status writeLogits(rt::Session &session,
                       const std::vector<std::vector<int32_t>> &prompts,
                       int64_t vocab, const std::string &file,
                       const rt::PrefillProgress &progress);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_LOGITS_H
