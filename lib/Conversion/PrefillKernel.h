//===- PrefillKernel.h - A prefill kernel under construction ----*- C++ -*-===//
//
// What the roles of a prefill kernel's warpgroups share: arguments, the task,
// rings of tiles; and what other kernels on warpgroups have of it, too.
// Neighbours: TileToWarpgroups.cpp (who makes it), ProduceTiles.cpp and
// ConsumeTiles.cpp (the roles), SegmentsToWarpgroups.cpp (kernels without).
// Private to lib/Conversion.
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

inline Part irPart(::pmkvq::rt::Part part) {
  return part == ::pmkvq::rt::kKey ? Part::Key : Part::Value;
}

/// The shared memory of kernels on warpgroups.
inline constexpr llvm::StringLiteral kWarpgroupMemoryName = "prefill_tiles";

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
  /// Whether ranges may be above rt::kNarrowRange, or a score far above those
  /// of the pages before.
  bool wideRanges = false;
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

/// Entries of a list of pages, of which each lane has a word: a shuffle gives
/// it to the others.
struct PageEntries {
  using Part = ::pmkvq::rt::Part;

  WarpgroupBuilder &b;
  /// The first of them, and who we are.
  Value entries, lane, warp;

  /// This lane's word of a page's entry.
  Value load(Value index);
  /// The word at `offset` of an entry, in all lanes.
  Value field(Value entry, size_t offset) {
    return b.shuffle(entry, b.i32(static_cast<int64_t>(offset / 4)));
  }
  /// A part's block, of whose number `low` is added in odd warps and `high` in
  /// the last two.
  Value block(Value entry, Part part, int64_t first, int64_t low, int64_t high);
  Value info(Value entry);
  /// What `body` makes for the level that the part is at, of `levels`.
  SmallVector<Value> byLevel(Part part, Value info, ArrayRef<int64_t> levels,
                             TypeRange types,
                             function_ref<SmallVector<Value>(size_t)> body,
                             size_t i = 0);
};

/// What kernels are lowered for.
struct WarpgroupOptions {
  SmallVector<int64_t> levels[::pmkvq::rt::kParts];
  ::pmkvq::PrefillLayout layout;
  /// Of kernels over segments: 0 is as many as there are registers for.
  int64_t warpgroups = 0;
  bool dependentLaunch = false;
  /// Whether ranges may be above rt::kNarrowRange.
  bool wideRanges = false;
};

/// The levels that a part can be at, `wanted` or all of the ladder, and its
/// format below 16.
/// Errors: a diagnostic on the kernel if warpgroups cannot decode it.
LogicalResult findLevels(KernelOp kernel, ByLevelOp op,
                         ArrayRef<int64_t> wanted,
                         SmallVectorImpl<int64_t> &levels, FormatAttr &format);

/// Makes a function at `at` of a kernel over segments of pages.
LogicalResult lowerSegments(KernelOp kernel, OpBuilder &at,
                            const WarpgroupOptions &options);

/// Code of a dequantizing warpgroup, of number `warpgroup`.
void produceTiles(const PrefillKernel &kernel, Value warpgroup);

/// Code of a multiplying warpgroup: `consumer` is 0 or 1.
void consumeTiles(const PrefillKernel &kernel, Value consumer);

} // namespace mlir::pmkvq

#endif // PMKVQ_LIB_CONVERSION_PREFILLKERNEL_H
