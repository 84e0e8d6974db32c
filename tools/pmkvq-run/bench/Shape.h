//===- Shape.h - What a benchmark of attention measures ---------*- C++ -*-===//
//
// One shape of attention as the user writes it, and what that means.
// Neighbours: Case.h (memory of that shape), Sweep.cpp (lists of shapes).
//
// Syntax.  A context is a number of tokens, 32768, the same for every sequence,
// or `ragged:100-32768`, lengths drawn from that range, its ends among them.
// `32768+4` is 4 tokens decoded at once after 32,768 that are in the cache.
// Levels are one level for keys and values, 16, 8, 4 or 2; `k4v2`, keys at 4
// and values at 2 bits; or `mixed:2=192/4=48/k8v4=16`, which cuts the pages of
// a sequence in these proportions, oldest first, each level once.
//
// A sequence of whole pages has nothing else.  Any other, every ragged one, and
// one with several query tokens, has a sink of one token, then pages, then a
// window of 1 to 128 tokens, as a session would hold it; those of a ragged one
// with several query tokens are shorter by a few where these would leave it.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_SHAPE_H
#define PMKVQ_TOOLS_RUN_BENCH_SHAPE_H

#include "DrawnFeedback.h"
#include "Inputs.h"
#include "pmkvq/Reference/Quantize.h"
#include "pmkvq/Target/CacheImage.h"
#include "pmkvq_rt/Units.h"

#include <string>
#include <utility>
#include <vector>

namespace pmkvq::bench {

/// Tokens that stay at the front of a sequence.
inline constexpr int64_t kSinkTokens = 1;

/// As the user writes it; empty: the default of the device.
struct Shape {
  int64_t kvHeads = 8;
  int64_t queryHeads = 32;
  int64_t headDim = 128;
  int64_t batch = 1;
  std::string context;
  std::string levels = "4";
  /// Attribute text, "<per_channel, hadamard>".
  std::string keyFormat = "<per_channel, hadamard>";
  std::string valueFormat = "<per_token, hadamard>";
  /// A name of Inputs.h.
  std::string inputs = "normal";
};

/// Tokens of one sequence, by where they are.
struct Length {
  int64_t pages = 0;
  int64_t fixedTokens = 0;

  int64_t tokens() const { return pages * rt::kPageTokens + fixedTokens; }
};

/// Pages by kind, in proportions.
using LevelMix = std::vector<std::pair<rt::UnitKind, int64_t>>;

/// What pages take of a pool.
struct PoolCounts {
  int64_t blocks = 0;
  int64_t slots = 0;
};

/// A shape, understood.
struct Problem {
  Shape shape;
  std::vector<Length> lengths;
  /// Query tokens of each sequence, its last; each sees those before it.
  int64_t rows = 1;
  LevelMix mix;
  reference::UniformFormat format[rt::kParts];
  DrawnFeedback feedback;
  Inputs inputs;

  int64_t pairs() const { return shape.batch * shape.kvHeads; }
  int64_t group() const { return shape.queryHeads / shape.kvHeads; }
  /// Elements of queries and of results.
  int64_t outputs() const {
    return shape.batch * rows * shape.queryHeads * shape.headDim;
  }
  /// The (query row, kv head) that is row `row` of a cache's pair.
  int64_t queryPair(int64_t pair, int64_t row) const {
    return (pair / shape.kvHeads * rows + row) * shape.kvHeads +
           pair % shape.kvHeads;
  }
  /// Factor of scores: 1 / sqrt(head_dim).
  double scale() const;
  /// Of a sequence of `pages` pages, the first that is of mix[part];
  /// `pages` for the part after the last.
  int64_t firstPage(size_t part, int64_t pages) const;
  /// The kind of a page of a sequence that has `pages` pages.
  rt::UnitKind kindOf(int64_t page, int64_t pages) const;
  /// Kinds that occur, each once; fixed areas are {16, 16}.
  std::vector<rt::UnitKind> kinds() const;
  /// Of all sequences' pages.
  PoolCounts counts() const;
  /// Whether nothing is quantized.
  bool isRaw() const;
  ImageShape image() const;
};

/// Errors: InvalidArgument with the expected and the actual text, or if ids of
/// blocks leave 32 bits; Unimplemented for formats that the benchmark does not
/// know.
rt::Result<Problem> understand(const Shape &shape);

/// One level, "4" or "k4v2".
/// Errors: InvalidArgument with the expected and the actual text.
rt::Result<rt::UnitKind> parseLevel(const std::string &text);

/// The one level, at least `lowest`, of all keys and values.
///
/// Errors: InvalidArgument if there are several.
rt::Result<int32_t> oneLevel(const Problem &problem, int32_t lowest);

/// Pages of all sequences and kv heads.
///
/// Errors: InvalidArgument if there is none.
rt::Result<int64_t> countPages(const Problem &problem);

/// Errors: InvalidArgument if an older page has more bits than a newer one.  No
/// schedule of the runtime leaves a cache so (Schedule.h), so figures would be
/// of what does not occur; kernels take any order, and tests try it.
rt::Status checkOrder(const Problem &problem);

/// "<per_channel, hadamard, clip = 0.8>" as "per_channel+hadamard+clip=0.8".
std::string plainFormat(const std::string &attribute);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_SHAPE_H
