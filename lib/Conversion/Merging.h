//===- Merging.h - States of a segment's queries become one -----*- C++ -*-===//
//
// What merges over warps, warpgroups and thread blocks share.  Neighbours:
// LowerMerges.cpp and MergeShares.cpp (who merges), SharedLayout.h (sizes),
// DeviceAbi.h (partial results).  Private to lib/Conversion.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_MERGING_H
#define PMKVQ_LIB_CONVERSION_MERGING_H

#include "LaneBuilder.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/SharedLayout.h"

namespace mlir::pmkvq {

/// The queries of a segment, and the threads that merge them.
struct MergeShape : ::pmkvq::SharedLayout {
  int64_t threads = SharedLayout::kWarps * 32;
  int64_t elements() const { return queries() * headDim; }
};

/// The elements of a pair's results that one thread merges together: `width`
/// neighbours of one query.
struct Share {
  int64_t width;
  /// Query, first head dim, and their common index; its number among shares.
  Value query, dim, element, number;
};

/// A running merge of `width` outputs: maximum, sum of weights, outputs.
struct Merged {
  Value maximum, sum;
  LaneBuilder::Values outputs;
};

/// Where a pair's results go, and what lies between its rows.
struct ResultPlace {
  Value out, pair;
  /// Query heads of all kv heads.
  int64_t stride = 0;
};

/// `count` neighbouring f32, 1, 2 or 4, by one access.
LaneBuilder::Values loadFloats(LaneBuilder &b, Value address, int64_t count);

/// The sum, above 0: of the first rows of a segment, a thread block may have no
/// token that they see.
Value positiveSum(LaneBuilder &b, const Merged &merged,
                  const MergeShape &shared);

/// Stores outputs / sum.
void storeResults(LaneBuilder &b, const Merged &merged, const Share &share,
                  const MergeShape &shared, const ResultPlace &place);

/// Runs `body` for all elements of a pair: for `batch` shares of a thread, in
/// as many rounds as that takes.  Neighbouring threads have neighbouring
/// shares.
void forShares(LaneBuilder &b, const MergeShape &shared, int64_t width,
               int64_t batch, function_ref<void(ArrayRef<Share>)> body);

/// Whether the share's query exists; `moreRows` is null of one row.
Value existsOf(LaneBuilder &b, const Share &share, const MergeShape &shared,
               Value moreRows);

/// Runs `body` in threads whose query exists.
void ifQuery(LaneBuilder &b, const Share &share, const MergeShape &shared,
             Value moreRows, function_ref<void()> body);

/// This thread's first record of partial result `index`; it has one for each
/// two outputs.
Value recordAt(LaneBuilder &b, Value partials, Value index, const Share &share,
               const MergeShape &shared);

/// Code of merge_shares.
SmallVector<Value> mergeShares(LaneBuilder &b, MergeSharesOp op);

/// What an op says of its queries.
template <typename OpTy> MergeShape queriesOf(OpTy op) {
  MergeShape shared;
  shared.group = op.getGroup();
  shared.rows = op.getRows().value_or(1);
  shared.headDim = op.getHeadDim();
  return shared;
}

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_MERGING_H
