//===- SplitRows.cpp - Attention over pages to 128 rows a task ------------===//
//
// Rewrites a kernel that attends over pages into one whose workers take many
// query rows over a list of pages, as prefill on a GPU does, or as decoding
// many tokens does, where several workers share the pages of a row. Neighbours:
// PMKVQWarpgroupOps.td, SplitUnits.cpp (the same for decode),
// lib/Conversion/TileToWarpgroups.cpp (comes next).
//
//===----------------------------------------------------------------------===//

#include "WorkKernels.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "pmkvq/Passes.h"
#include "pmkvq_rt/DeviceAbi.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_SPLITROWS
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

namespace {
/// What the attention of a task looks like in a kernel over pages.
struct PagedAttention {
  LoadRowsOp load;
  /// Null if queries come in the keys' basis.
  HadamardOp rotate;
  ScaleOp scale;
  CacheType cache;
};

class SplitRowsPass : public mlir::pmkvq::impl::SplitRowsBase<SplitRowsPass> {
public:
  using SplitRowsBase::SplitRowsBase;

  void runOnOperation() override {
    if (rows < 0 || rows > rt::kMaxSegmentRows) {
      getOperation().emitError("expected 0 to ")
          << rt::kMaxSegmentRows << " rows of queries, got " << rows.getValue();
      return signalPassFailure();
    }
    for (KernelOp kernel : attentionKernels(getOperation()))
      if (failed(split(kernel)))
        return signalPassFailure();
  }

private:
  LogicalResult split(KernelOp kernel) {
    PagedAttention paged;
    if (failed(match(kernel, paged)))
      return failure();
    replaceByWorkKernel(kernel, paged.load.getSource().getType(),
                        [&](ImplicitLocOpBuilder &b, Block &entry) {
                          if (rows > 0)
                            buildSegments(b, &entry, paged);
                          else
                            buildTask(b, &entry, paged);
                        });
    return success();
  }

  LogicalResult match(KernelOp kernel, PagedAttention &paged) {
    kernel.walk([&](LoadRowsOp load) { paged.load = load; });
    kernel.walk(
        [&](FetchOp fetch) { paged.cache = fetch.getCache().getType(); });
    if (!paged.load || !paged.cache)
      return kernel.emitOpError("does not attend over pages");
    Value loaded = paged.load.getResult();
    if (rows > 0 && loaded.hasOneUse())
      paged.rotate = dyn_cast<HadamardOp>(*loaded.user_begin());
    if (paged.rotate)
      loaded = paged.rotate.getResult();
    if (loaded.hasOneUse())
      paged.scale = dyn_cast<ScaleOp>(*loaded.user_begin());
    if (!paged.scale || !paged.scale.getBy().getDefiningOp<arith::ConstantOp>())
      return kernel.emitOpError("expected queries in the keys' basis, times a "
                                "constant: on a GPU they are rotated where "
                                "they are made");
    auto group = static_cast<int64_t>(paged.load.getGroup());
    if (rows > 0 && group * rows > rt::kMaxWarpgroupQueries)
      return kernel.emitOpError("has ")
             << group << " queries a kv head and " << rows.getValue()
             << " rows; a segment takes " << rt::kMaxWarpgroupQueries;
    if (rows == 0 && rt::prefillRowsPerTask(paged.load.getGroup()) < 1)
      return kernel.emitOpError("has ")
             << paged.load.getGroup() << " queries a kv head; a task takes 128";
    return success();
  }

  void buildTask(ImplicitLocOpBuilder &b, Block *entry, PagedAttention &paged) {
    MLIRContext *context = b.getContext();
    auto index = b.getIndexType();
    auto task =
        PrefillTaskOp::create(b, SegmentType::get(context), index, index, index,
                              entry->getArgument(0), entry->getArgument(3));
    auto group = static_cast<int64_t>(paged.load.getGroup());
    int64_t queries = rt::prefillRowsPerTask(group) * group;
    int64_t headDim = paged.cache.getHeadDim();
    Value q = LoadRowsOp::create(b, RowsType::get(context, queries, headDim),
                                 entry->getArgument(1), task.getRow(),
                                 task.getHead(), task.getRows(), group);
    Value by = b.clone(*paged.scale.getBy().getDefiningOp())->getResult(0);
    q = ScaleOp::create(b, q, by);
    auto stateType = SoftmaxType::get(context, queries, headDim);
    Value init = SoftmaxInitOp::create(b, stateType);
    auto pages = ForPageOp::create(b, stateType, task.getSegment(), init);
    {
      OpBuilder::InsertionGuard guard(b);
      buildPage(b, pages, paged, q, group);
    }
    Value out = SoftmaxFinishOp::create(
        b, RowsType::get(context, queries, headDim), pages.getResult());
    StoreRowsOp::create(b, out, entry->getArgument(2), task.getRow(),
                        task.getHead(), task.getRows(), group);
  }

  /// The same for rows of a work list's segments.
  void buildSegments(ImplicitLocOpBuilder &b, Block *entry,
                     PagedAttention &paged) {
    MLIRContext *context = b.getContext();
    auto segments =
        ForSegmentOp::create(b, entry->getArgument(0), entry->getArgument(3),
                             paged.cache.getKvHeads());
    OpBuilder::InsertionGuard guard(b);
    Block *body = b.createBlock(&segments.getBody(), {},
                                {SegmentType::get(context), b.getIndexType(),
                                 b.getIndexType(), b.getIndexType()},
                                SmallVector<Location>(4, b.getLoc()));
    Value segment = body->getArgument(0), row = body->getArgument(1),
          count = body->getArgument(2), head = body->getArgument(3);
    auto group = static_cast<int64_t>(paged.load.getGroup());
    const int64_t queries = group * rows, headDim = paged.cache.getHeadDim();
    Value q =
        LoadRowsOp::create(b, RowsType::get(context, queries, headDim),
                           entry->getArgument(1), row, head, count, group);
    Value by = b.clone(*paged.scale.getBy().getDefiningOp())->getResult(0);
    if (paged.rotate)
      q = HadamardOp::create(b, q);
    q = ScaleOp::create(b, q, by);
    auto stateType = SoftmaxType::get(context, queries, headDim);
    Value init = SoftmaxInitOp::create(b, stateType);
    auto pages = ForPageOp::create(b, stateType, segment, init);
    {
      OpBuilder::InsertionGuard inner(b);
      buildPage(b, pages, paged, q, group);
    }
    StoreMergedOp::create(b, pages.getResult(), segment, entry->getArgument(2),
                          row, head, count, group);
    YieldOp::create(b);
  }

  void buildPage(ImplicitLocOpBuilder &b, ForPageOp pages,
                 PagedAttention &paged, Value q, int64_t group) {
    MLIRContext *context = b.getContext();
    Type stateType = pages.getInit().getType();
    Block *body = b.createBlock(
        &pages.getBody(), {},
        {stateType, PageType::get(context, paged.cache), b.getIndexType()},
        SmallVector<Location>(3, b.getLoc()));
    int64_t queries = pages.getInit().getType().getQueries();
    auto scoresType = RowsType::get(context, queries, rt::kPageTokens);
    Value keys = dequantized(b, Part::Key, body->getArgument(1), paged.cache);
    Value scores = ScoresOp::create(b, scoresType, q, keys);
    scores = CausalMaskOp::create(b, scores, body->getArgument(2), group);
    auto update = SoftmaxUpdateOp::create(b, body->getArgument(0), scores);
    Value values =
        dequantized(b, Part::Value, body->getArgument(1), paged.cache);
    Value next =
        AccumulateOp::create(b, update.getNext(), update.getWeights(), values);
    YieldOp::create(b, next);
  }

  /// A part of a page as elements, whatever its level.
  Value dequantized(ImplicitLocOpBuilder &b, Part part, Value page,
                    CacheType cache) {
    auto tileAt = [&](int64_t level) {
      return TileType::get(b.getContext(), part, level, rt::kPageTokens,
                           cache.getHeadDim(), cache.getFormat(part));
    };
    ArrayRef<int64_t> levels = cache.getLevels(part);
    TileType raw = tileAt(levels.front()).raw();
    auto op = ByLevelOp::create(b, raw, part, page, levels.size());
    for (auto [level, region] : llvm::zip(levels, op.getLevels())) {
      OpBuilder::InsertionGuard guard(b);
      Block *block = b.createBlock(&region, {}, {tileAt(level)}, {b.getLoc()});
      Value elements = DequantizeOp::create(b, raw, block->getArgument(0));
      YieldOp::create(b, elements);
    }
    return op.getResult(0);
  }
};
} // namespace
