//===- PaperCache.h - The paper's own progressive cache ---------*- C++ -*-===//
//
// One layer's cache as the public code of PM-KVQ keeps it, update by update,
// including where it runs out of memory.  Neighbours: Paper.h (its quantizer),
// Cache.h (ours), test/data/golden/README.md (what it is compared with).
//
// Mental model.  The first `sinkTokens` tokens are the sink, then come the body
// and the window.  All are codes: sink and window at 16 bits, the body at one
// level for all its tokens.  A token enters sink or window; at the moment the
// window holds `windowTokens` it is emptied into the body, shifted down from 16
// bits to the body's level.  So the window is a staging buffer that is never
// seen full.  After each update, and once only, the bytes of codes are compared
// with the budget; if they exceed it, the body is halved.
//
// Example: sink 1, window 32, one head of 128 (a 16-bit token is 512 bytes, key
// and value), budget 31,457 bytes.  Tokens 33 and 65 move 32 tokens each into
// the body.  Token 62 made 62 x 512 = 31,744 bytes, so the body, 32 tokens
// then, dropped to 8 bits: (1 + 29) x 512 + 32 x 256 = 23,552.
//
// What attention reads in that code, for who compares logits: an update's own
// tokens exactly as they came, all earlier ones decoded before the update.
//
// Differences to our cache: sink and window are quantized; parameters and
// tables are not counted; one halving an update, even if it does not suffice;
// one level a layer; and a failed update stays half done (see `update`).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_REFERENCE_PAPERCACHE_H
#define PMKVQ_REFERENCE_PAPERCACHE_H

#include "pmkvq/Reference/Paper.h"
#include "pmkvq_rt/Geometry.h"
#include "pmkvq_rt/Status.h"

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace pmkvq::reference {

/// Values that share one scale: along head_dim.
inline constexpr int64_t kPaperGroupValues = 128;

struct PaperCacheOptions {
  /// Of all sequences of a batch: in that code they have one length, one level
  /// and one budget.
  int32_t kvHeads = 1;
  /// A multiple of kPaperGroupValues.
  int32_t headDim = 128;
  int32_t sinkTokens = 1;
  /// Tokens at which the window is emptied.
  int32_t windowTokens = 128;
  /// Level of the body before the first halving.
  int32_t initialBits = 16;
  /// Bytes that the codes of this layer, keys and values, may take.
  int64_t budgetBytes = 0;
};

/// The two ways in which that code runs out of memory.
enum class PaperMemoryError {
  None,
  /// "The kv cache is full": over the budget while the body is empty, so that
  /// there is nothing to halve.
  CacheFull,
  /// "The kv bits is too small": over the budget with the body at 2 bits.
  BitsTooSmall,
};

/// The sizes of a cache after an update.
struct PaperCacheState {
  int64_t tokens = 0;
  int64_t sinkTokens = 0;
  int64_t bodyTokens = 0;
  int64_t windowTokens = 0;
  /// Level of the body, also while it is empty.
  int32_t bits = 16;
};

class PaperCache {
public:
  /// Makes an empty cache.
  /// Errors: InvalidArgument for impossible options; a window of 0 tokens is
  ///         one: that code then never lowers new tokens to the body's level.
  static rt::Status create(const PaperCacheOptions &options,
                           std::unique_ptr<PaperCache> &cache);

  /// Appends tokens, empties the window as often as it fills, and halves the
  /// body once if the whole exceeds the budget.
  ///
  /// Shapes: keys and values [kvHeads][tokens][headDim].
  /// Units:  finite bf16 values.
  /// Errors: InvalidArgument for less than one token, or for tokens that would
  ///         fill a window that was begun and begin another: that code stores
  ///         some of them twice then.  NotRepresentable unless all values are
  ///         finite bf16 values.  These leave the cache as it was.
  ///         OutOfMemory as `memoryError` says: the tokens are then stored, but
  ///         the budget is exceeded.  FailedPrecondition after that.
  rt::Status update(int64_t tokens, const float *keys, const float *values);

  /// Why the last update failed for want of memory.
  PaperMemoryError memoryError() const { return memoryError_; }

  PaperCacheState state() const;

  /// Bytes that count against the budget: the codes of keys and values.
  int64_t bytes() const;

  /// The body's tokens of one head and part.
  /// Shapes: result [body tokens][headDim / kPaperGroupValues].
  const std::vector<PaperGroup> &body(int32_t head, int32_t part) const {
    return stream(head, part).body;
  }

  /// Decodes all tokens in order, to bf16 values.
  /// Shapes: result [tokens][headDim].
  std::vector<float> decode(int32_t head, int32_t part) const;

private:
  /// One head and part; groups in the order of tokens and channels.
  struct Stream {
    std::vector<PaperGroup> sink, body, window;
  };

  explicit PaperCache(const PaperCacheOptions &options);

  const Stream &stream(int32_t head, int32_t part) const {
    return streams_[head * rt::kParts + part];
  }

  /// Groups of a token of one head and part.
  int64_t groupsPerToken() const {
    return options_.headDim / kPaperGroupValues;
  }

  rt::Status checkUpdate(int64_t tokens, const float *keys,
                         const float *values) const;
  void append(Stream &to, const float *token);
  void flush(Stream &of) const;
  rt::Status enforceBudget();

  PaperCacheOptions options_;
  int32_t bits_;
  PaperMemoryError memoryError_ = PaperMemoryError::None;
  /// [head][part]
  std::vector<Stream> streams_;
};

} // namespace pmkvq::reference

#endif // PMKVQ_REFERENCE_PAPERCACHE_H
