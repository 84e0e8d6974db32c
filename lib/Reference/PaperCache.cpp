//===- PaperCache.cpp - The paper's own progressive cache -----------------===//
//
// An update in that code's order: store, empty full windows, then look at the
// budget once.  Neighbours: PaperCache.h (the model), Paper.cpp (groups).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Reference/PaperCache.h"
#include "pmkvq/Reference/Bits.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace pmkvq::reference {

using rt::kParts;
using rt::Status;
using rt::StatusCode;

namespace {

Status invalid(std::string message) {
  return Status(StatusCode::InvalidArgument, std::move(message));
}

Status checkOptions(const PaperCacheOptions &options) {
  if (options.kvHeads < 1)
    return invalid("a cache needs a head");
  if (options.headDim < 1 || options.headDim % kPaperGroupValues != 0)
    return invalid("head dim is " + std::to_string(options.headDim) +
                   ", expected a multiple of " +
                   std::to_string(kPaperGroupValues));
  if (options.sinkTokens < 0 || options.windowTokens < 1)
    return invalid("expected sink tokens >= 0 and window tokens >= 1");
  if (!rt::isLevel(options.initialBits))
    return invalid("the initial bits are not 16, 8, 4 or 2");
  if (options.budgetBytes < 0)
    return invalid("the budget is negative");
  return {};
}

bool areFiniteBf16(const float *values, int64_t count) {
  return std::all_of(values, values + count, [](float value) {
    return std::isfinite(value) && roundToBf16(value) == value;
  });
}

void decodeInto(const std::vector<PaperGroup> &groups,
                std::vector<float> &result) {
  for (const PaperGroup &group : groups) {
    std::vector<float> decoded =
        decodePaperGroup(group, PaperDecoding::Bf16Steps);
    result.insert(result.end(), decoded.begin(), decoded.end());
  }
}

} // namespace

//===----------------------------------------------------------------------===//
// Creation and queries
//===----------------------------------------------------------------------===//

PaperCache::PaperCache(const PaperCacheOptions &options)
    : options_(options), bits_(options.initialBits),
      streams_(int64_t(options.kvHeads) * kParts) {}

Status PaperCache::create(const PaperCacheOptions &options,
                          std::unique_ptr<PaperCache> &cache) {
  Status status = checkOptions(options);
  if (status.ok())
    cache.reset(new PaperCache(options));
  return status;
}

PaperCacheState PaperCache::state() const {
  // All streams hold the same tokens.
  const Stream &any = streams_.front();
  auto tokensOf = [&](const std::vector<PaperGroup> &groups) {
    return static_cast<int64_t>(groups.size()) / groupsPerToken();
  };
  PaperCacheState state;
  state.sinkTokens = tokensOf(any.sink);
  state.bodyTokens = tokensOf(any.body);
  state.windowTokens = tokensOf(any.window);
  state.tokens = state.sinkTokens + state.bodyTokens + state.windowTokens;
  state.bits = bits_;
  return state;
}

int64_t PaperCache::bytes() const {
  PaperCacheState now = state();
  int64_t bitsPerChannel =
      (now.sinkTokens + now.windowTokens) * 16 + now.bodyTokens * now.bits;
  return bitsPerChannel * options_.headDim / 8 * options_.kvHeads * kParts;
}

std::vector<float> PaperCache::decode(int32_t head, int32_t part) const {
  const Stream &from = stream(head, part);
  std::vector<float> result;
  result.reserve(state().tokens * options_.headDim);
  for (const std::vector<PaperGroup> *groups :
       {&from.sink, &from.body, &from.window})
    decodeInto(*groups, result);
  return result;
}

//===----------------------------------------------------------------------===//
// An update
//===----------------------------------------------------------------------===//

Status PaperCache::update(int64_t tokens, const float *keys,
                          const float *values) {
  Status status = checkUpdate(tokens, keys, values);
  if (!status.ok())
    return status;
  for (int32_t head = 0; head < options_.kvHeads; ++head)
    for (int32_t part = 0; part < kParts; ++part) {
      const float *source = part == rt::kKey ? keys : values;
      for (int64_t token = 0; token < tokens; ++token)
        append(streams_[head * kParts + part],
               source + (head * tokens + token) * options_.headDim);
    }
  return enforceBudget();
}

Status PaperCache::checkUpdate(int64_t tokens, const float *keys,
                               const float *values) const {
  if (memoryError_ != PaperMemoryError::None)
    return Status(StatusCode::FailedPrecondition,
                  "the cache has run out of memory");
  if (tokens < 1)
    return invalid("an update appends no token");
  int64_t begun = state().windowTokens;
  int64_t filled = begun + tokens;
  if (begun > 0 && filled > options_.windowTokens &&
      filled % options_.windowTokens != 0)
    return invalid("an update of " + std::to_string(tokens) +
                   " tokens fills a window of " + std::to_string(begun) +
                   " and begins another");
  int64_t count = tokens * options_.kvHeads * options_.headDim;
  if (!areFiniteBf16(keys, count) || !areFiniteBf16(values, count))
    return Status(StatusCode::NotRepresentable,
                  "a value is not a finite bf16 value");
  return {};
}

void PaperCache::append(Stream &to, const float *token) {
  int64_t groups = groupsPerToken();
  auto holds = [&](const std::vector<PaperGroup> &area, int64_t tokens) {
    return static_cast<int64_t>(area.size()) == tokens * groups;
  };
  std::vector<PaperGroup> &area =
      holds(to.sink, options_.sinkTokens) ? to.window : to.sink;
  for (int64_t group = 0; group < groups; ++group)
    area.push_back(quantizePaperGroup(token + group * kPaperGroupValues,
                                      kPaperGroupValues, 16));
  if (holds(to.window, options_.windowTokens))
    flush(to);
}

void PaperCache::flush(Stream &of) const {
  for (PaperGroup &group : of.window) {
    while (group.bits > bits_)
      lowerPaperGroup(group);
    of.body.push_back(std::move(group));
  }
  of.window.clear();
}

Status PaperCache::enforceBudget() {
  if (bytes() <= options_.budgetBytes)
    return {};
  if (state().bodyTokens == 0) {
    memoryError_ = PaperMemoryError::CacheFull;
    return Status(StatusCode::OutOfMemory,
                  "the cache is full: sink and window exceed the budget");
  }
  if (bits_ == 2) {
    memoryError_ = PaperMemoryError::BitsTooSmall;
    return Status(StatusCode::OutOfMemory,
                  "the bits are too small: the budget is exceeded at 2 bits");
  }
  // Once: whether that suffices is for the next update to see.
  bits_ /= 2;
  for (Stream &stream : streams_)
    for (PaperGroup &group : stream.body)
      lowerPaperGroup(group);
  return {};
}

} // namespace pmkvq::reference
