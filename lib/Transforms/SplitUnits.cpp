//===- SplitUnits.cpp - Attention over pages to attention over units ------===//
//
// Rewrites a kernel that attends over pages into one whose workers take units
// of constant bytes from a work list, as a GPU does.  Neighbours:
// PMKVQUnitOps.td, pmkvq_rt/Units.h (units), FoldParameters.cpp (comes next).
//
//===----------------------------------------------------------------------===//

#include "WorkKernels.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/SharedLayout.h"
#include "pmkvq_rt/Units.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_SPLITUNITS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
using ::pmkvq::SharedLayout;

namespace {
/// What the attention of one row a task looks like in a kernel over pages.
struct RowAttention {
  LoadRowsOp load;
  /// Null if queries come in the keys' basis.
  HadamardOp rotate;
  ScaleOp scale;
  CacheType cache;

  int64_t group() { return load.getGroup(); }
};

class SplitUnitsPass
    : public mlir::pmkvq::impl::SplitUnitsBase<SplitUnitsPass> {
public:
  using SplitUnitsBase::SplitUnitsBase;

  void runOnOperation() override {
    if (kinds.size() % 2 || !llvm::all_of(kinds, rt::isLevel)) {
      getOperation().emitError("expected kinds to be pairs of levels of 16, 8, "
                               "4 or 2");
      return signalPassFailure();
    }
    if (rows < 1 || rows > rt::kMaxSegmentRows) {
      getOperation().emitError("expected 1 to ")
          << rt::kMaxSegmentRows << " rows of queries, got " << rows.getValue();
      return signalPassFailure();
    }
    for (KernelOp kernel : attentionKernels(getOperation()))
      if (failed(split(kernel)))
        return signalPassFailure();
  }

private:
  LogicalResult split(KernelOp kernel) {
    RowAttention paged;
    if (failed(match(kernel, paged)))
      return failure();
    replaceByWorkKernel(kernel, paged.load.getSource().getType(),
                        [&](ImplicitLocOpBuilder &b, Block &entry) {
                          auto segments = ForSegmentOp::create(
                              b, entry.getArgument(0), entry.getArgument(3),
                              paged.cache.getKvHeads());
                          buildSegment(b, segments, entry.getArgument(1),
                                       entry.getArgument(2), paged);
                        });
    return success();
  }

  /// Finds the branch for one row a task.
  LogicalResult match(KernelOp kernel, RowAttention &paged) {
    kernel.walk([&](SingleRowsOp single) {
      auto branch = single->hasOneUse()
                        ? dyn_cast<scf::IfOp>(*single->user_begin())
                        : scf::IfOp();
      if (!branch)
        return;
      for (Operation &op : *branch.thenBlock()) {
        if (auto load = dyn_cast<LoadRowsOp>(op))
          paged.load = load;
        if (auto rotate = dyn_cast<HadamardOp>(op))
          paged.rotate = rotate;
        if (auto scale = dyn_cast<ScaleOp>(op))
          paged.scale = scale;
      }
    });
    kernel.walk(
        [&](FetchOp fetch) { paged.cache = fetch.getCache().getType(); });
    if (!paged.load || !paged.scale || !paged.cache)
      return kernel.emitOpError("does not attend over pages, one row a task");
    Value loaded = paged.load.getResult();
    if (paged.rotate && paged.rotate.getSource() == loaded)
      loaded = paged.rotate.getResult();
    if (paged.scale.getRows() != loaded)
      return kernel.emitOpError("expected queries as they are loaded, or "
                                "rotated into the keys' basis");
    if (!paged.scale.getBy().getDefiningOp<arith::ConstantOp>())
      return kernel.emitOpError("expected queries times a constant");
    return success();
  }

  void buildSegment(ImplicitLocOpBuilder &b, ForSegmentOp segments,
                    Value queries, Value results, RowAttention &paged) {
    MLIRContext *context = b.getContext();
    Block *body = b.createBlock(&segments.getBody(), {},
                                {SegmentType::get(context), b.getIndexType(),
                                 b.getIndexType(), b.getIndexType()},
                                SmallVector<Location>(4, b.getLoc()));
    Value segment = body->getArgument(0), row = body->getArgument(1),
          count = body->getArgument(2), head = body->getArgument(3);
    const int64_t queryCount = paged.group() * rows;
    auto type =
        RowsType::get(context, queryCount, paged.load.getType().getWidth());
    Value q =
        LoadRowsOp::create(b, type, queries, row, head, count, paged.group());
    Value by = b.clone(*paged.scale.getBy().getDefiningOp())->getResult(0);
    if (paged.rotate)
      q = HadamardOp::create(b, q);
    q = ScaleOp::create(b, q, by);
    int64_t headDim = paged.cache.getHeadDim();
    auto stateType = SoftmaxType::get(context, queryCount, headDim);
    Value init = SoftmaxInitOp::create(b, stateType);
    SmallVector<rt::UnitKind> kinds = kindsOf(paged.cache);
    SmallVector<int64_t> levels;
    for (rt::UnitKind kind : kinds)
      llvm::append_range(levels, ArrayRef<int64_t>{kind.key, kind.value});
    auto units =
        ForUnitOp::create(b, stateType, segment, init,
                          b.getDenseI64ArrayAttr(levels), kinds.size());
    for (auto [kind, region] : llvm::zip(kinds, units.getBodies()))
      buildUnit(b, region, kind, paged.cache, stateType, q, paged.group());
    b.setInsertionPointAfter(units);
    StoreMergedOp::create(b, units.getResult(), segment, results, row, head,
                          count, paged.group());
    YieldOp::create(b);
  }

  void buildUnit(ImplicitLocOpBuilder &b, Region &region, rt::UnitKind kind,
                 CacheType cache, SoftmaxType stateType, Value q,
                 int64_t group) {
    MLIRContext *context = b.getContext();
    OpBuilder::InsertionGuard guard(b);
    auto tile = [&](Part part, int64_t level) {
      auto format = level == 16 ? FormatAttr() : cache.getFormat(part);
      return TileType::get(context, part, level, kind.tokens(),
                           cache.getHeadDim(), format);
    };
    Block *block =
        b.createBlock(&region, {},
                      {stateType, b.getIndexType(), tile(Part::Key, kind.key),
                       tile(Part::Value, kind.value)},
                      SmallVector<Location>(4, b.getLoc()));
    auto scoresType =
        RowsType::get(context, stateType.getQueries(), kind.tokens());
    Value scores = ScoresOp::create(b, scoresType, q, block->getArgument(2));
    // Only fixed areas have tokens that do not count, and these are raw.
    if (kind == rt::UnitKind{16, 16})
      scores = CausalMaskOp::create(b, scores, block->getArgument(1), group);
    auto update = SoftmaxUpdateOp::create(b, block->getArgument(0), scores);
    Value next = AccumulateOp::create(b, update.getNext(), update.getWeights(),
                                      block->getArgument(3));
    if (lowers)
      for (BlockArgument side : block->getArguments().drop_front(2))
        storeLowered(b, side, kind, cache);
    YieldOp::create(b, next);
  }

  /// Stores a side one level lower, if pages with it may fall in this launch.
  static void storeLowered(ImplicitLocOpBuilder &b, Value side,
                           rt::UnitKind kind, CacheType cache) {
    auto tile = cast<TileType>(side.getType());
    int64_t level = tile.getLevel(), to = level / 2;
    if (level == 16 || kind.isHalfGrain() || to < rt::kLadder.back() ||
        !cache.hasLevel(tile.getPart(), to) ||
        tile.getFormat().getModel().rewritesParameters())
      return;
    StoreLoweredOp::create(b, ShiftOp::create(b, tile.withLevel(to), side));
  }

  /// The option, or one kind a level of the ladder.
  SmallVector<rt::UnitKind> kindsOf(CacheType cache) {
    SmallVector<rt::UnitKind> result;
    for (size_t i = 0; i + 1 < kinds.size(); i += 2)
      result.push_back(
          {static_cast<int32_t>(kinds[i]), static_cast<int32_t>(kinds[i + 1])});
    if (result.empty())
      for (int64_t level : cache.getLadder())
        result.push_back(
            {static_cast<int32_t>(level), static_cast<int32_t>(level)});
    return result;
  }
};
} // namespace
