//===- LowerWork.cpp - Work lists, pages and fixed areas ------------------===//
//
// Lowers the tile ops that find memory: entries of work lists, page entries,
// blocks, fixed areas, rows of a step.  Neighbours: pmkvq_rt/Abi.h (the structs
// addressed here), TileLowering.h.
//
//===----------------------------------------------------------------------===//

#include "TileLowering.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq_rt/Abi.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

//===----------------------------------------------------------------------===//
// Work lists
//===----------------------------------------------------------------------===//

/// int32 fields of the entry at `entry`, as indices.
static Lowered loadIndices(TileBuilder &b, Value entry,
                           ArrayRef<size_t> offsets) {
  Lowered values;
  for (size_t offset : offsets)
    values.push_back(b.toIndex(b.loadI64Field(entry, offset, 32)));
  return values;
}

static Lowered lowerRowPlace(TileBuilder &b, RowPlaceOp,
                             RowPlaceOp::Adaptor op) {
  Value rows = b.loadPtrField(op.getBatch(), offsetof(rt::StepArgs, rows));
  Value entry = b.at(rows, b.toI64(op.getRow()), sizeof(rt::Row));
  return loadIndices(
      b, entry, {offsetof(rt::Row, sequence), offsetof(rt::Row, fixedIndex)});
}

static Lowered lowerSingleRows(TileBuilder &b, SingleRowsOp,
                               SingleRowsOp::Adaptor op) {
  Value rows =
      b.loadI64Field(op.getBatch(), offsetof(rt::StepArgs, rowsPerTask), 64);
  return {
      arith::CmpIOp::create(b, arith::CmpIPredicate::eq, rows, b.constI64(1))};
}

static Lowered lowerAttendTask(TileBuilder &b, AttendTaskOp,
                               AttendTaskOp::Adaptor op) {
  Value tasks =
      b.loadPtrField(op.getBatch(), offsetof(rt::StepArgs, attendTasks));
  Value entry = b.at(tasks, b.toI64(op.getTask()), sizeof(rt::AttendTask));
  if (op.getAhead())
    entry =
        b.at(entry, b.loadI64Field(entry, offsetof(rt::AttendTask, ahead), 32),
             sizeof(rt::AttendTask));
  Lowered values = loadIndices(
      b, entry,
      {offsetof(rt::AttendTask, sequence), offsetof(rt::AttendTask, head),
       offsetof(rt::AttendTask, row), offsetof(rt::AttendTask, rows),
       offsetof(rt::AttendTask, pageBegin), offsetof(rt::AttendTask, pageEnd),
       offsetof(rt::AttendTask, fixedIndex), offsetof(rt::AttendTask, part)});
  // A row at fixed index i sees i + 1 tokens; -1 becomes 0, nothing.
  Value one = arith::ConstantIndexOp::create(b, 1);
  values[6] = arith::AddIOp::create(b, values[6], one);
  return values;
}

static Lowered lowerMergeTask(TileBuilder &b, MergeTaskOp,
                              MergeTaskOp::Adaptor op) {
  Value tasks =
      b.loadPtrField(op.getBatch(), offsetof(rt::StepArgs, mergeTasks));
  Value entry = b.at(tasks, b.toI64(op.getTask()), sizeof(rt::MergeTask));
  return loadIndices(
      b, entry,
      {offsetof(rt::MergeTask, head), offsetof(rt::MergeTask, row),
       offsetof(rt::MergeTask, rows), offsetof(rt::MergeTask, firstPart),
       offsetof(rt::MergeTask, parts)});
}

static Lowered lowerPageTask(TileBuilder &b, PageTaskOp,
                             PageTaskOp::Adaptor op) {
  Value entry =
      b.at(op.getPages(), b.toI64(op.getTask()), sizeof(rt::PageTask));
  if (op.getAhead())
    entry =
        b.at(entry, b.loadI64Field(entry, offsetof(rt::PageTask, ahead), 32),
             sizeof(rt::PageTask));
  Value layer = b.loadI64Field(entry, offsetof(rt::PageTask, layer), 32);
  Lowered values = {b.at(op.getCaches(), layer, sizeof(rt::CacheView))};
  values.append(loadIndices(b, entry,
                            {offsetof(rt::PageTask, sequence),
                             offsetof(rt::PageTask, head),
                             offsetof(rt::PageTask, page)}));
  return values;
}

//===----------------------------------------------------------------------===//
// Pages and tiles
//===----------------------------------------------------------------------===//

/// sequence * kvHeads + head.
static Value pairIndex(TileBuilder &b, CacheType cache, Value sequence,
                       Value head) {
  Value first = b.mul(b.toI64(sequence), cache.getKvHeads());
  return b.add(first, b.toI64(head));
}

static Lowered lowerFetch(TileBuilder &b, FetchOp op, FetchOp::Adaptor values) {
  Value cache = values.getCache();
  Value pair = pairIndex(b, op.getCache().getType(), values.getSequence(),
                         values.getHead());
  Value perPair = b.loadI64Field(cache, offsetof(rt::CacheView, maxPages), 64);
  Value firstPage = b.mul(pair, perPair);
  Value index = b.add(firstPage, b.toI64(values.getPage()));
  Value table = b.loadPtrField(cache, offsetof(rt::CacheView, pages));
  return {b.packPage(b.at(table, index, sizeof(rt::PageEntry)), cache)};
}

/// Address of the parameters of one part in the page's slot.
static Value parameterAddress(TileBuilder &b, CacheType type, Part part,
                              Value entry, Value cache) {
  int64_t keyBytes = type.getParameterBytes(Part::Key);
  int64_t slotBytes = keyBytes + type.getParameterBytes(Part::Value);
  Value slot = b.loadI64Field(entry, offsetof(rt::PageEntry, slot), 32);
  Value pool = b.loadPtrField(cache, offsetof(rt::CacheView, parameters));
  return b.offset(b.at(pool, slot, slotBytes),
                  part == Part::Key ? 0 : keyBytes);
}

static Value blockIds(TileBuilder &b, Part part, Value entry) {
  constexpr size_t partBytes = sizeof(rt::PageEntry::blocks) / rt::kParts;
  return b.offset(entry, offsetof(rt::PageEntry, blocks) +
                             static_cast<size_t>(part) * partBytes);
}

static Value takePart(TileBuilder &b, CacheType type, Part part, Value page) {
  auto [entry, cache] = b.unpackPage(page);
  return b.packTile({b.loadPtrField(cache, offsetof(rt::CacheView, blocks)),
                     blockIds(b, part, entry),
                     parameterAddress(b, type, part, entry, cache),
                     b.constI64(rt::kPageTokens)});
}

/// Address of what keys of the head fall with.
static Lowered lowerFetchFeedback(TileBuilder &b, FetchFeedbackOp op,
                                  FetchFeedbackOp::Adaptor values) {
  int64_t headDim = op.getCache().getType().getHeadDim();
  Value layer =
      b.loadPtrField(values.getCache(), offsetof(rt::CacheView, keyFeedback));
  return {b.at(layer, b.toI64(values.getHead()),
               rt::keyFeedbackFloats(headDim) * sizeof(float))};
}

/// Values at level 1: the half of their block that the entry says.
static Value sharedHalf(TileBuilder &b, CacheType type, Value part) {
  TileFields tile = b.unpackTile(part);
  Value half = b.loadI64Field(tile.ids, sizeof(uint32_t), 32);
  tile.base = b.at(tile.base, half, rt::blockBytes(type.getHeadDim()) / 2);
  return b.packTile(tile);
}

static Lowered lowerTake(TileBuilder &b, TakeOp op, TakeOp::Adaptor values) {
  CacheType type = op.getPage().getType().getCache();
  TileType tile = op.getTile().getType();
  Value part = takePart(b, type, tile.getPart(), values.getPage());
  return {tile.getLevel() == 1 ? sharedHalf(b, type, part) : part};
}

static Lowered lowerFetchFixed(TileBuilder &b, FetchFixedOp op,
                               FetchFixedOp::Adaptor values) {
  CacheType cache = op.getCache().getType();
  TileType tile = op.getTile().getType();
  int64_t tokens = cache.getSink() + rt::kPageTokens;
  Value pair = pairIndex(b, cache, values.getSequence(), values.getHead());
  Value area =
      b.add(b.mul(pair, rt::kParts), static_cast<int64_t>(tile.getPart()));
  Value areaRow = b.mul(area, tokens);
  Value row = b.add(areaRow, b.toI64(values.getFirst()));
  Value fixed =
      b.loadPtrField(values.getCache(), offsetof(rt::CacheView, fixed));
  Value null = LLVM::ZeroOp::create(b, b.ptrType());
  return {b.packTile({b.at(fixed, row, cache.getHeadDim() * 2), b.identityIds(),
                      null, b.toI64(values.getCount())})};
}

/// f32 to bf16, to nearest, ties to even; NaN stays NaN.  In integers: a
/// truncation to bf16 is a call of the compiler's library on CPUs without an
/// instruction for it, and few systems have that function.
static Value toBf16Bits(TileBuilder &b, Value x) {
  auto f32 = cast<VectorType>(x.getType());
  auto i32 = f32.clone(b.getI32Type());
  auto constant = [&](int64_t value) { return b.splatInt(i32, value); };
  auto isNaN = arith::CmpFOp::create(b, arith::CmpFPredicate::UNO, x, x);
  Value bits = arith::BitcastOp::create(b, i32, x);
  Value high = arith::ShRUIOp::create(b, bits, constant(16));
  Value odd = arith::AndIOp::create(b, high, constant(1));
  Value below = arith::AddIOp::create(b, odd, constant(0x7fff));
  Value sum = arith::AddIOp::create(b, bits, below);
  Value rounded = arith::ShRUIOp::create(b, sum, constant(16));
  Value quiet = arith::OrIOp::create(b, high, constant(0x40));
  Value result = arith::SelectOp::create(b, isNaN, quiet, rounded);
  return arith::TruncIOp::create(b, f32.clone(b.getI16Type()), result);
}

static Lowered lowerStoreFixed(TileBuilder &b, StoreFixedOp op,
                               StoreFixedOp::Adaptor values) {
  CacheType cache = op.getCache().getType();
  int64_t headDim = cache.getHeadDim();
  int64_t tokens = cache.getSink() + rt::kPageTokens;
  Value pair = pairIndex(b, cache, values.getSequence(), values.getHead());
  Value area =
      b.add(b.mul(pair, rt::kParts), static_cast<int64_t>(op.getPart()));
  Value areaRow = b.mul(area, tokens);
  Value row = b.add(areaRow, b.toI64(values.getToken()));
  Value fixed =
      b.loadPtrField(values.getCache(), offsetof(rt::CacheView, fixed));
  Value address = b.at(fixed, row, headDim * 2);
  b.forEach(
      headDim,
      [&](Value d) {
        Value x = b.loadLanes(b.at(values.getRows(), d));
        Value bits = toBf16Bits(b, x);
        b.store(bits, b.at(address, d, 2), 2);
      },
      CodeLayout::kLanes);
  return {};
}

static Lowered lowerStore(TileBuilder &b, StoreOp op, StoreOp::Adaptor values) {
  TileType tile = op.getTile().getType();
  CacheType type = op.getPage().getType().getCache();
  auto [entry, cache] = b.unpackPage(values.getPage());
  TileFields source = b.unpackTile(values.getTile());
  Value ids = blockIds(b, tile.getPart(), entry);
  Value pool = b.loadPtrField(cache, offsetof(rt::CacheView, blocks));
  int64_t blockBytes = rt::blockBytes(type.getHeadDim());
  b.forEach(rt::blocksAtLevel(tile.getLevel()), [&](Value i) {
    Value to = b.loadI64Field(b.at(ids, i), 0, 32);
    Value from = b.loadI64Field(b.at(source.ids, i), 0, 32);
    Value target = b.at(pool, to, blockBytes);
    Value codes = b.at(source.base, from, blockBytes);
    // What was lowered in place is there already.
    Value elsewhere =
        LLVM::ICmpOp::create(b, LLVM::ICmpPredicate::ne, target, codes);
    auto copies = scf::IfOp::create(b, elsewhere, /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(copies.thenBlock());
    b.copy(target, codes, blockBytes);
  });
  if (op.getWithParameters())
    b.copy(parameterAddress(b, type, tile.getPart(), entry, cache),
           source.parameters, type.getParameterBytes(tile.getPart()));
  return {};
}

namespace {
/// A switch over the level in the page's entry; the last level is the default.
class ByLevelPattern : public OpConversionPattern<ByLevelOp> {
public:
  using OpConversionPattern::OpConversionPattern;

  LogicalResult
  matchAndRewrite(ByLevelOp op, OpAdaptor adaptor,
                  ConversionPatternRewriter &rewriter) const override {
    TileBuilder b(op.getLoc(), rewriter);
    CacheType cache = op.getPage().getType().getCache();
    SmallVector<Type> types;
    if (failed(getTypeConverter()->convertTypes(op.getResultTypes(), types)))
      return failure();
    Value tile = takePart(b, cache, op.getPart(), adaptor.getPage());
    Value entry = b.unpackPage(adaptor.getPage()).first;
    Value level = b.toIndex(b.loadI64Field(
        entry,
        offsetof(rt::PageEntry, level) + static_cast<size_t>(op.getPart()), 8));
    ArrayRef<int64_t> ladder = cache.getLevels(op.getPart());
    auto branch = scf::IndexSwitchOp::create(
        b, types, level, ladder.drop_back(), ladder.size() - 1);
    for (auto [i, region] : llvm::enumerate(op.getLevels())) {
      Region &to = i + 1 == ladder.size() ? branch.getDefaultRegion()
                                          : branch.getCaseRegions()[i];
      Block *source = &region.front();
      Block *block = rewriter.createBlock(&to);
      b.setInsertionPointToStart(block);
      Value mine = ladder[i] == 1 ? sharedHalf(b, cache, tile) : tile;
      rewriter.inlineBlockBefore(source, block, block->end(), {mine});
      auto yield = cast<YieldOp>(block->getTerminator());
      rewriter.setInsertionPoint(yield);
      rewriter.replaceOpWithNewOp<scf::YieldOp>(yield, yield.getOperands());
    }
    rewriter.replaceOp(op, branch.getResults());
    return success();
  }
};
} // namespace

//===----------------------------------------------------------------------===//
// Rows in memory
//===----------------------------------------------------------------------===//

/// Address of `memory`[row, head, 0] for memory of [rows, heads, width] floats.
static Value headAddress(TileBuilder &b, Type type, Value memory, Value row,
                         Value head) {
  auto shape = cast<ShapedType>(type);
  int64_t heads = shape.getDimSize(1), width = shape.getDimSize(2);
  return b.at(memory, b.mul(b.add(b.mul(row, heads), head), width));
}

static void copyFloats(TileBuilder &b, Value to, Value from, int64_t count) {
  b.forEach(
      count,
      [&](Value i) {
        Value lanes = b.loadLanes(b.at(from, i));
        b.store(lanes, b.at(to, i), 4);
      },
      CodeLayout::kLanes);
}

static Lowered lowerLoadRows(TileBuilder &b, LoadRowsOp op,
                             LoadRowsOp::Adaptor values) {
  RowsType type = op.getResult().getType();
  int64_t group = op.getGroup(), width = type.getWidth();
  int64_t bytes = type.getQueries() * width * 4;
  Value rows = b.scratch(bytes);
  LLVM::MemsetOp::create(b, rows, b.splatInt(b.getI8Type(), 0),
                         b.constI64(bytes), /*isVolatile=*/false);
  Value row = b.toI64(values.getRow());
  Value head = b.mul(b.toI64(values.getHead()), group);
  b.forEach(b.toI64(values.getCount()), [&](Value r) {
    Value from = headAddress(b, op.getSource().getType(), values.getSource(),
                             b.add(row, r), head);
    copyFloats(b, b.at(rows, b.mul(r, group * width)), from, group * width);
  });
  return {rows};
}

static Lowered lowerStoreRows(TileBuilder &b, StoreRowsOp op,
                              StoreRowsOp::Adaptor values) {
  RowsType type = op.getRows().getType();
  int64_t group = op.getGroup(), width = type.getWidth();
  Value row = b.toI64(values.getRow());
  Value head = b.mul(b.toI64(values.getHead()), group);
  b.forEach(b.toI64(values.getCount()), [&](Value r) {
    Value to = headAddress(b, op.getDest().getType(), values.getDest(),
                           b.add(row, r), head);
    copyFloats(b, to, b.at(values.getRows(), b.mul(r, group * width)),
               group * width);
  });
  return {};
}

void mlir::pmkvq::populateWorkLowerings(RewritePatternSet &patterns,
                                        const TypeConverter &converter) {
  patterns.add<ByLevelPattern, TilePattern<RowPlaceOp, lowerRowPlace>,
               TilePattern<SingleRowsOp, lowerSingleRows>,
               TilePattern<AttendTaskOp, lowerAttendTask>,
               TilePattern<MergeTaskOp, lowerMergeTask>,
               TilePattern<PageTaskOp, lowerPageTask>,
               TilePattern<FetchOp, lowerFetch>, TilePattern<TakeOp, lowerTake>,
               TilePattern<FetchFeedbackOp, lowerFetchFeedback>,
               TilePattern<FetchFixedOp, lowerFetchFixed>,
               TilePattern<StoreFixedOp, lowerStoreFixed>,
               TilePattern<StoreOp, lowerStore>,
               TilePattern<LoadRowsOp, lowerLoadRows>,
               TilePattern<StoreRowsOp, lowerStoreRows>>(converter,
                                                         patterns.getContext());
}
