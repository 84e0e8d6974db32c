//===- Cache.h - The executable model of the cache --------------*- C++ -*-===//
//
// Sinks, windows and mixed-level pages of a batch of sequences over some
// layers, as values and codes.  Neighbours: Planner.h (which levels),
// Quantize.h (which codes), Attention.h (reads a cache).
//
// Mental model.  The tokens of a sequence lie in this order: up to `sinkTokens`
// sink tokens, its pages of 128, and the window.  Sink and window are bf16.
// A step appends some tokens to some sequences, for all layers and heads.  When
// a sequence of the step has a full window, its window becomes a page before
// the step's tokens are appended; all such pages of a step are planned
// together.  A step either happens whole or leaves the cache as it was.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_REFERENCE_CACHE_H
#define PMKVQ_REFERENCE_CACHE_H

#include "pmkvq/Reference/Planner.h"
#include "pmkvq/Reference/Quantize.h"
#include "pmkvq_rt/Status.h"

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace pmkvq::reference {

struct CacheOptions {
  /// `parameterBytes` is ignored: the formats decide it.
  CacheShape shape;
  Schedule schedule;
  /// By part.
  std::array<UniformFormat, rt::kParts> formats;
};

/// The tokens that a step appends to one sequence.
///
/// Shapes: keys and values [layers][kvHeads][tokens][headDim].
/// Units:  as the model computes them; if the format says hadamard, the cache
///         rotates them in double precision, and everything is then rounded to
///         f32 and to bf16 (for bf16 values without rotation: exact).
struct SequenceTokens {
  int32_t sequence = 0;
  int64_t tokens = 0;
  const float *keys = nullptr;
  const float *values = nullptr;
};

struct StepResult {
  rt::Status status;
  /// With OutOfMemory: the bytes by which the floor exceeds the budget.
  int64_t missingBytes = 0;
};

/// Both parts of one page of one layer and kv head.
using PageHead = std::array<PagePart, rt::kParts>;

class Cache {
public:
  /// Makes an empty cache.
  /// Errors: InvalidArgument for impossible options, OutOfMemory if sinks,
  ///         windows and page tables alone exceed the budget.
  static StepResult create(const CacheOptions &options,
                           std::unique_ptr<Cache> &cache);

  /// Tokens that one step may append to a sequence.
  int64_t room(int32_t sequence) const;

  /// Runs one step.
  /// Errors: InvalidArgument if a sequence occurs twice or gets no token, more
  ///         than its room, or more than maxTokens in all; OutOfMemory if not
  ///         even the floor fits; NotRepresentable if a page that is lowered
  ///         cannot be quantized.  The cache is then as it was.
  StepResult append(const std::vector<SequenceTokens> &step);

  const CacheShape &shape() const { return options_.shape; }
  const Schedule &schedule() const { return options_.schedule; }
  const UniformFormat &format(int32_t part) const {
    return options_.formats[part];
  }

  int64_t tokens(int32_t sequence) const { return tokens_[sequence]; }
  int64_t pages(int32_t sequence) const { return levels_.pages(sequence); }
  const PageLevels &levels() const { return levels_; }

  /// Bytes taken: fixed areas, page tables, parameter slots and blocks.
  int64_t bytes() const;

  const PageHead &page(int32_t layer, int32_t sequence, int32_t head,
                       int64_t page) const {
    return stream(layer, sequence, head).pages[page];
  }

  /// Decodes all tokens of a sequence in order; still rotated if the format
  /// says hadamard.
  /// Shapes: result [tokens][headDim].
  std::vector<double> decode(int32_t layer, int32_t sequence, int32_t head,
                             int32_t part) const;

private:
  /// One layer, sequence and kv head.
  struct Stream {
    /// bf16, [sink tokens, then window tokens][headDim], by part.
    std::array<std::vector<uint16_t>, rt::kParts> fixed;
    std::vector<PageHead> pages;
  };
  /// A page-head as the step will leave it.
  struct Change {
    int32_t layer, sequence, head;
    int64_t page;
    PageHead content;
  };

  explicit Cache(const CacheOptions &options);

  int64_t streamIndex(int32_t layer, int32_t sequence, int32_t head) const;
  Stream &stream(int32_t layer, int32_t sequence, int32_t head) {
    return streams_[streamIndex(layer, sequence, head)];
  }
  const Stream &stream(int32_t layer, int32_t sequence, int32_t head) const {
    return streams_[streamIndex(layer, sequence, head)];
  }

  bool windowIsFull(int32_t sequence) const;
  rt::Status checkStep(const std::vector<SequenceTokens> &step) const;
  /// The pages whose level `planned` changes, and the new ones, lowered.
  rt::Status makeChanges(const PageLevels &planned,
                         std::vector<Change> &changes) const;
  PageHead windowAsPage(const Stream &from) const;
  void commit(const PageLevels &planned, std::vector<Change> &changes);
  void store(const SequenceTokens &tokens);

  CacheOptions options_;
  /// [layer][sequence][head]
  std::vector<Stream> streams_;
  /// [sequence]
  std::vector<int64_t> tokens_;
  PageLevels levels_;
};

} // namespace pmkvq::reference

#endif // PMKVQ_REFERENCE_CACHE_H
