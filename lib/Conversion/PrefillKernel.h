//===- PrefillKernel.h - A prefill kernel under construction ----*- C++ -*-===//
//
// What the roles of a prefill kernel's warpgroups share: arguments, the task,
// rings of tiles.  Neighbours: TileToWarpgroups.cpp (who makes it),
// ProduceTiles.cpp and ConsumeTiles.cpp (the roles).  Private to
// lib/Conversion.
//
// Two rings of tiles, of keys and of values, each with a barrier that says full
// and one that says empty.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LIB_CONVERSION_PREFILLKERNEL_H
#define PMKVQ_LIB_CONVERSION_PREFILLKERNEL_H

#include "WarpgroupBuilder.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Target/WarpgroupLayout.h"

namespace mlir::pmkvq {

/// A place in a ring: stage, and the parity of its round.
struct RingTurn {
  Value stage, parity;
};

struct PrefillKernel {
  using HalfTile = ::pmkvq::HalfTile;
  using PrefillLayout = ::pmkvq::PrefillLayout;
  using Part = ::pmkvq::rt::Part;
  using Turn = RingTurn;

  WarpgroupBuilder &b;
  PrefillLayout shared;
  /// Levels that each part can be at, and its format below 16.
  SmallVector<int64_t> levels[::pmkvq::rt::kParts];
  FormatAttr formats[::pmkvq::rt::kParts];
  /// What turns scores into units of log2.
  double scale = 1.0;
  /// Query heads a kv head, and in all.
  int64_t group = 1, heads = 1;

  // Arguments, the task, and who we are.
  Value codes, parameters, queries, results, entries;
  Value taskRow, taskRows, taskHead, pageCount, position;
  Value base, lane, warp;

  explicit PrefillKernel(WarpgroupBuilder &b) : b(b) {}

  Value barrierOf(PrefillLayout::Barrier which, Value stage) {
    Value first = b.at(base, shared.barriers(which));
    return b.at(first, b.mul(stage, sizeof(uint64_t)));
  }

  Value tileAt(Part part, Value stage) {
    Value first = b.at(base, shared.tiles(part));
    return b.at(first, b.mul(stage, HalfTile::kBytes));
  }

  Value limitsAt(Value stage) {
    Value first = b.at(base, shared.limits());
    return b.at(first, b.shl(stage, 3));
  }

  /// One lane of each warp arrives, once all have read and written.
  void arrive(PrefillLayout::Barrier which, Value stage) {
    b.syncWarp();
    Value leads = b.compare(arith::CmpIPredicate::eq, lane, 0);
    auto branch = scf::IfOp::create(b, leads, /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    b.arriveBarrier(barrierOf(which, stage));
  }

  Turn nextTurn(const Turn &turn) {
    Value next = b.add(turn.stage, 1);
    Value wraps = b.compare(arith::CmpIPredicate::eq, next, shared.stages);
    Value flipped = b.xorBits(turn.parity, 1);
    return {b.select(wraps, b.i32(0), next),
            b.select(wraps, flipped, turn.parity)};
  }
};

/// Code of a dequantizing warpgroup, of number `warpgroup`.
void produceTiles(const PrefillKernel &kernel, Value warpgroup);

/// Code of a multiplying warpgroup: `consumer` is 0 or 1.
void consumeTiles(const PrefillKernel &kernel, Value consumer);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_PREFILLKERNEL_H
