//===- TileKernels.cpp - Kernels in tile form -----------------------------===//
//
// The bodies of append, attend, merge, flush and requantize, in tile ops.
// Neighbours: TileKernels.h, FoldParameters.cpp (the next stage).
//
//===----------------------------------------------------------------------===//

#include "TileKernels.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq_rt/Abi.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

//===----------------------------------------------------------------------===//
// Common pieces
//===----------------------------------------------------------------------===//

MemRefType mlir::pmkvq::headsType(MLIRContext *context, int64_t heads,
                                  int64_t headDim) {
  return MemRefType::get({ShapedType::kDynamic, heads, headDim},
                         Float32Type::get(context));
}

/// An empty kernel whose arguments are `operands` and the task's index; the
/// builder is left at its start.
static KernelOp startKernel(ImplicitLocOpBuilder &b, StringRef name,
                            ArrayRef<Type> operands) {
  SmallVector<Type> inputs(operands);
  inputs.push_back(b.getIndexType());
  auto kernel =
      KernelOp::create(b, name, b.getFunctionType(inputs, {b.getI1Type()}),
                       ArrayAttr(), ArrayAttr());
  Block *entry = b.createBlock(&kernel.getBody());
  for (Type type : inputs)
    entry->addArgument(type, b.getLoc());
  return kernel;
}

static Value constantIndex(ImplicitLocOpBuilder &b, int64_t value) {
  return arith::ConstantIndexOp::create(b, value);
}

static void finishKernel(ImplicitLocOpBuilder &b) {
  Value ok = arith::ConstantOp::create(b, b.getBoolAttr(true));
  ReturnOp::create(b, ok);
}

/// The part of a page of `cache` at `level`.
static TileType pageTile(CacheType cache, Part part, int64_t level) {
  return TileType::get(cache.getContext(), part, level, rt::kPageTokens,
                       cache.getHeadDim(), cache.getFormat(part));
}

static Value rotateIf(ImplicitLocOpBuilder &b, bool rotate, Value rows) {
  return rotate ? HadamardOp::create(b, rows).getResult() : rows;
}

//===----------------------------------------------------------------------===//
// Append
//===----------------------------------------------------------------------===//

KernelOp mlir::pmkvq::buildAppendKernel(ImplicitLocOpBuilder &b, StringRef name,
                                        const AppendShape &shape) {
  OpBuilder::InsertionGuard guard(b);
  CacheType cache = shape.cache;
  auto heads =
      headsType(b.getContext(), cache.getKvHeads(), cache.getHeadDim());
  auto batch = BatchType::get(b.getContext());
  SmallVector<Type> operands = {cache, batch, heads, heads};
  if (shape.embedsPositions)
    operands.append(
        2, MemRefType::get({ShapedType::kDynamic, cache.getHeadDim() / 2},
                           Float32Type::get(b.getContext())));
  KernelOp kernel = startKernel(b, name, operands);
  Block &entry = kernel.getBody().front();
  Value cacheArg = entry.getArgument(0), row = entry.getArguments().back();
  auto place = RowPlaceOp::create(b, b.getIndexType(), b.getIndexType(),
                                  entry.getArgument(1), row);
  Value zero = constantIndex(b, 0), one = constantIndex(b, 1);
  auto loop =
      scf::ForOp::create(b, zero, constantIndex(b, cache.getKvHeads()), one);
  {
    OpBuilder::InsertionGuard inner(b);
    b.setInsertionPointToStart(loop.getBody());
    Value head = loop.getInductionVar();
    auto rowType = RowsType::get(b.getContext(), 1, cache.getHeadDim());
    for (Part part : {Part::Key, Part::Value}) {
      bool rotate = cache.getFormat(part).getHadamard() &&
                    !(part == Part::Value && shape.valuesRotated);
      Value source = entry.getArgument(part == Part::Key ? 2 : 3);
      Value rows = LoadRowsOp::create(b, rowType, source, row, head, one, 1);
      if (shape.embedsPositions && part == Part::Key)
        rows = RotaryOp::create(b, rows, entry.getArgument(4),
                                entry.getArgument(5), row);
      rows = rotateIf(b, rotate, rows);
      StoreFixedOp::create(b, part, rows, cacheArg, place.getSequence(), head,
                           place.getToken());
    }
  }
  finishKernel(b);
  return kernel;
}

//===----------------------------------------------------------------------===//
// Attend
//===----------------------------------------------------------------------===//

namespace {
/// Builds attention of one task for a fixed number of rows a task.
class AttendBody {
public:
  AttendBody(ImplicitLocOpBuilder &b, const AttentionShape &shape,
             AttendTaskOp task, Value cache, Value batch, Value query,
             int64_t rows)
      : b(b), shape(shape), task(task), cache(cache), batch(batch),
        query(query), queries(rows * shape.group()),
        headDim(shape.cache.getHeadDim()) {}

  void build() {
    Value q = loadQueries();
    Value state = SoftmaxInitOp::create(
        b, SoftmaxType::get(b.getContext(), queries, headDim));
    state = attendPages(q, state);
    state = attendFixed(q, state);
    StorePartialOp::create(b, state, batch, task.getPartial());
  }

private:
  /// Queries in the keys' basis, scaled so that scores are in units of log2.
  Value loadQueries() {
    auto type = RowsType::get(b.getContext(), queries, headDim);
    Value q = LoadRowsOp::create(b, type, query, task.getRow(), task.getHead(),
                                 task.getRows(), shape.group());
    q = rotateIf(b, shape.cache.getKey().getHadamard() && !shape.queriesRotated,
                 q);
    auto vector = VectorType::get({headDim}, b.getF32Type());
    auto factor =
        b.getF32FloatAttr(static_cast<float>(shape.scale / std::log(2.0)));
    Value by = arith::ConstantOp::create(
        b, DenseElementsAttr::get(vector, static_cast<Attribute>(factor)));
    return ScaleOp::create(b, q, by);
  }

  /// `%r = by_level part %page`, each region filled by `body` from its tile.
  Value byLevel(Part part, Value page, Type result,
                function_ref<Value(Value)> body) {
    ArrayRef<int64_t> ladder = shape.cache.getLevels(part);
    auto op = ByLevelOp::create(b, result, part, page, ladder.size());
    for (auto [level, region] : llvm::zip(ladder, op.getLevels())) {
      OpBuilder::InsertionGuard guard(b);
      Block *block = b.createBlock(
          &region, {}, {pageTile(shape.cache, part, level)}, {b.getLoc()});
      YieldOp::create(b, body(block->getArgument(0)));
    }
    return op.getResult(0);
  }

  Value attendPages(Value q, Value state) {
    auto loop = scf::ForOp::create(b, task.getPageBegin(), task.getPageEnd(),
                                   constantIndex(b, 1), ValueRange{state});
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value page = FetchOp::create(b, PageType::get(b.getContext(), shape.cache),
                                 cache, task.getSequence(), task.getHead(),
                                 loop.getInductionVar());
    auto scoresType = RowsType::get(b.getContext(), queries, rt::kPageTokens);
    Value scores = byLevel(Part::Key, page, scoresType, [&](Value tile) {
      return ScoresOp::create(b, scoresType, q, tile);
    });
    auto update = SoftmaxUpdateOp::create(b, loop.getRegionIterArg(0), scores);
    Value next = byLevel(Part::Value, page, state.getType(), [&](Value tile) {
      return AccumulateOp::create(b, update.getNext(), update.getWeights(),
                                  tile);
    });
    scf::YieldOp::create(b, next);
    return loop.getResult(0);
  }

  /// Sink and window: the last row of the task sees rows - 1 tokens more than
  /// the first.
  Value attendFixed(Value q, Value state) {
    Value zero = constantIndex(b, 0), one = constantIndex(b, 1);
    Value has = arith::CmpIOp::create(b, arith::CmpIPredicate::ne,
                                      task.getFixedCount(), zero);
    auto branch = scf::IfOp::create(b, TypeRange{state.getType()}, has,
                                    /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, state);
    b.setInsertionPointToStart(branch.thenBlock());
    Value count = arith::AddIOp::create(
        b, task.getFixedCount(), arith::SubIOp::create(b, task.getRows(), one));
    int64_t tokens = shape.cache.getSink() + rt::kPageTokens;
    auto fetch = [&](Part part) -> Value {
      auto type = TileType::get(b.getContext(), part, 16, tokens, headDim,
                                FormatAttr());
      return FetchFixedOp::create(b, type, cache, task.getSequence(),
                                  task.getHead(), zero, count);
    };
    auto scoresType = RowsType::get(b.getContext(), queries, tokens);
    Value scores = ScoresOp::create(b, scoresType, q, fetch(Part::Key));
    scores =
        CausalMaskOp::create(b, scores, task.getFixedCount(), shape.group());
    auto update = SoftmaxUpdateOp::create(b, state, scores);
    Value next = AccumulateOp::create(b, update.getNext(), update.getWeights(),
                                      fetch(Part::Value));
    scf::YieldOp::create(b, next);
    return branch.getResult(0);
  }

  ImplicitLocOpBuilder &b;
  const AttentionShape &shape;
  AttendTaskOp task;
  Value cache, batch, query;
  int64_t queries, headDim;
};
} // namespace

/// Builds `body` twice: for one row a task, and for as many as prefill has.
static void bySingleRows(ImplicitLocOpBuilder &b, Value batch,
                         function_ref<void(int64_t rows)> body) {
  Value single = SingleRowsOp::create(b, b.getI1Type(), batch);
  auto branch = scf::IfOp::create(b, single, /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  body(1);
  b.setInsertionPointToStart(branch.elseBlock());
  body(rt::kRowsPerPrefillTask);
}

KernelOp mlir::pmkvq::buildAttendKernel(ImplicitLocOpBuilder &b, StringRef name,
                                        const AttentionShape &shape) {
  OpBuilder::InsertionGuard guard(b);
  auto batch = BatchType::get(b.getContext());
  auto heads =
      headsType(b.getContext(), shape.queryHeads, shape.cache.getHeadDim());
  KernelOp kernel = startKernel(b, name, {shape.cache, batch, heads});
  Block &entry = kernel.getBody().front();
  SmallVector<Type> indices(8, b.getIndexType());
  auto task = AttendTaskOp::create(b, indices, entry.getArgument(1),
                                   entry.getArgument(3));
  bySingleRows(b, entry.getArgument(1), [&](int64_t rows) {
    AttendBody(b, shape, task, entry.getArgument(0), entry.getArgument(1),
               entry.getArgument(2), rows)
        .build();
  });
  finishKernel(b);
  return kernel;
}

//===----------------------------------------------------------------------===//
// Merge
//===----------------------------------------------------------------------===//

KernelOp mlir::pmkvq::buildMergeKernel(ImplicitLocOpBuilder &b, StringRef name,
                                       const AttentionShape &shape) {
  OpBuilder::InsertionGuard guard(b);
  int64_t headDim = shape.cache.getHeadDim();
  auto batchType = BatchType::get(b.getContext());
  auto heads = headsType(b.getContext(), shape.queryHeads, headDim);
  KernelOp kernel = startKernel(b, name, {batchType, heads});
  Block &entry = kernel.getBody().front();
  Value batch = entry.getArgument(0);
  SmallVector<Type> indices(5, b.getIndexType());
  auto task = MergeTaskOp::create(b, indices, batch, entry.getArgument(2));
  bySingleRows(b, batch, [&](int64_t rows) {
    int64_t queries = rows * shape.group();
    Value state = SoftmaxInitOp::create(
        b, SoftmaxType::get(b.getContext(), queries, headDim));
    Value end = arith::AddIOp::create(b, task.getFirst(), task.getCount());
    auto loop = scf::ForOp::create(b, task.getFirst(), end, constantIndex(b, 1),
                                   ValueRange{state});
    {
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(loop.getBody());
      Value next = MergePartialOp::create(b, loop.getRegionIterArg(0), batch,
                                          loop.getInductionVar());
      scf::YieldOp::create(b, next);
    }
    Value out = SoftmaxFinishOp::create(
        b, RowsType::get(b.getContext(), queries, headDim), loop.getResult(0));
    bool rotate = shape.cache.getValue().getHadamard() && !shape.resultRotated;
    out = rotateIf(b, rotate, out);
    StoreRowsOp::create(b, out, entry.getArgument(1), task.getRow(),
                        task.getHead(), task.getRows(), shape.group());
  });
  finishKernel(b);
  return kernel;
}

//===----------------------------------------------------------------------===//
// Flush and requantize
//===----------------------------------------------------------------------===//

/// Kernel over a page list; gives the task and the page it names.
static std::pair<PageTaskOp, Value>
startPageKernel(ImplicitLocOpBuilder &b, StringRef name, CacheType cache) {
  auto pages = PagesType::get(b.getContext());
  KernelOp kernel = startKernel(b, name, {cache, pages});
  Block &entry = kernel.getBody().front();
  auto task = PageTaskOp::create(b, cache, b.getIndexType(), b.getIndexType(),
                                 b.getIndexType(), entry.getArgument(1),
                                 entry.getArgument(2), entry.getArgument(0));
  Value page =
      FetchOp::create(b, PageType::get(b.getContext(), cache), task.getCache(),
                      task.getSequence(), task.getHead(), task.getPage());
  return {task, page};
}

/// What the tiles of a task's page that fall to `target` fall with, if they do.
static Value fetchFeedback(ImplicitLocOpBuilder &b, PageTaskOp task,
                           TileType target) {
  if (target.getPart() != Part::Key || !target.getFormat().getFeedback() ||
      target.getLevel() >= 8)
    return {};
  return FetchFeedbackOp::create(b, task.getCache(), task.getHead());
}

/// Quantizes a raw tile, shifts it down to `to`, and stores codes and
/// parameters if all could be represented.
static void quantizeAndStore(ImplicitLocOpBuilder &b, PageTaskOp task,
                             Value raw, Value page, TileType target) {
  FormatAttr format = target.getFormat();
  int64_t level = format.getModel().getFirstLevel();
  auto quantize =
      QuantizeOp::create(b, target.withLevel(level), b.getI1Type(), raw);
  Value tile = quantize.getResult();
  Value feedback = fetchFeedback(b, task, target);
  for (level /= 2; level >= target.getLevel(); level /= 2)
    tile = ShiftOp::create(b, target.withLevel(level), tile, /*ahead=*/Value(),
                           feedback);
  auto branch = scf::IfOp::create(b, quantize.getOk(),
                                  /*withElseRegion=*/false);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    StoreOp::create(b, tile, page, /*with_parameters=*/true);
  }
  ReturnOp::create(b, quantize.getOk());
}

KernelOp mlir::pmkvq::buildFlushKernel(ImplicitLocOpBuilder &b, StringRef name,
                                       CacheType cache, Part part, int64_t to) {
  OpBuilder::InsertionGuard guard(b);
  auto [task, page] = startPageKernel(b, name, cache);
  TileType target = pageTile(cache, part, to);
  Value window = FetchFixedOp::create(
      b, target.raw(), task.getCache(), task.getSequence(), task.getHead(),
      constantIndex(b, cache.getSink()), constantIndex(b, rt::kPageTokens));
  if (target.isRaw()) {
    StoreOp::create(b, window, page, /*with_parameters=*/false);
    finishKernel(b);
  } else {
    quantizeAndStore(b, task, window, page, target);
  }
  return task->getParentOfType<KernelOp>();
}

KernelOp mlir::pmkvq::buildRequantizeKernel(ImplicitLocOpBuilder &b,
                                            StringRef name, CacheType cache,
                                            Part part, int64_t from) {
  OpBuilder::InsertionGuard guard(b);
  auto [task, page] = startPageKernel(b, name, cache);
  TileType source = pageTile(cache, part, from);
  TileType target = source.withLevel(from / 2);
  Value tile = TakeOp::create(b, source, page);
  if (source.isRaw()) {
    quantizeAndStore(b, task, tile, page, target);
  } else {
    Value shifted = ShiftOp::create(b, target, tile, /*ahead=*/Value(),
                                    fetchFeedback(b, task, target));
    bool rewrites = source.getFormat().getModel().rewritesParameters();
    StoreOp::create(b, shifted, page, /*with_parameters=*/rewrites);
    finishKernel(b);
  }
  return task->getParentOfType<KernelOp>();
}
