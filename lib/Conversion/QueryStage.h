//===- QueryStage.h - Queries of decode in shared memory --------*- C++ -*-===//
//
// Loads the queries of a pair and writes them as B operands, where all warps
// read them.  Neighbours: TileToLanes.cpp (its user), SharedLayout.h (where),
// UnitLowering.cpp (what multiplies them).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_QUERYSTAGE_H
#define PMKVQ_LIB_CONVERSION_QUERYSTAGE_H

#include "LaneBuilder.h"
#include "pmkvq/Target/SharedLayout.h"
#include "pmkvq_rt/Units.h"

namespace mlir::pmkvq {

struct QueryStage {
  using Values = LaneBuilder::Values;

  /// Of `pair` and, in as many rows, of `moreRows` pairs behind it: warp w
  /// takes queries w and w + 8, perQuery() dims of each a lane.
  Values load(Value pair, Value moreRows);

  /// Writes queries w and w + 8 as B operands to shared memory: in f16,
  /// normalized by a power of two so that its product with any f16 range stays
  /// in f16, and in bf16 with the rest of the rounding beside it.
  void store(const Values &q);

  LaneBuilder &b;
  const ::pmkvq::SharedLayout &shared;
  ArrayRef<::pmkvq::rt::UnitKind> kinds;
  /// Whether queries still have to be rotated into the keys' basis.
  bool rotates;
  /// Factor of the scores.
  double scale;
  /// [rows][kvHeads][group][headDim] f32.
  Value queries;
  int64_t kvHeads;
  /// Shared memory.
  Value base;
  /// Numbers of the warp and of the lane in it; whether that is 0.
  Value warp, lane, isLeader;

private:
  /// Elements of one query that a lane stages: 4 of each kStagedDims.
  int64_t perQuery();
  /// Whether this lane has dims to stage; null: all have.
  Value lanesWithDims();
  /// Runs `action` in lanes that have dims.
  void ifDims(function_ref<void()> action);
  Values loadQuery(Value pair, Value moreRows, Value number);
  /// Columns between those of neighbouring queries.
  int64_t columnsPerQuery();
  /// Where query `warp`'s first column begins in the operand at `start`.
  Value columnPlace(int64_t start);
  /// Leaves in `q` what f16 left.  Raw keys must be weighed by the same: with a
  /// channel of keys at 300, q rounded to 11 bits moves scores by some 0.01,
  /// which cancels in the softmax only if it moves all of them.
  void storeHalves(Values &q, int64_t set);
  void storeBrainFloats(const Values &q, int64_t set);
};

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_QUERYSTAGE_H
