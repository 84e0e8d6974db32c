//===- ProduceTiles.cpp - The dequantizing warpgroups ---------------------===//
//
// Each of two reads the page list and its part of the pages, and fills its ring
// with tiles.
// Neighbours: PrefillKernel.h, DequantizeTiles.cpp (lowers what is left here).
//
// Entries are loaded a page ahead, and codes before the warp waits for a tile
// to be free: that wait is longer than a load.  An entry takes one register:
// each lane has a word of it, which a shuffle gives to the others.
//
//===----------------------------------------------------------------------===//

#include "PrefillKernel.h"
#include "pmkvq/Target/SlotLayout.h"
#include "pmkvq_rt/DeviceAbi.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::WarpShare;

//===----------------------------------------------------------------------===//
// Entries
//===----------------------------------------------------------------------===//

Value PageEntries::load(Value index) {
  constexpr int64_t last = sizeof(rt::PrefillPage) / 4 - 1;
  static_assert(last < 32);
  Value word = arith::MinUIOp::create(b, lane, b.i32(last));
  Value entry = b.farAt(entries, index, sizeof(rt::PrefillPage));
  return b.loadConstantWords(b.at(entry, b.shl(word, 2)), 1)[0];
}

Value PageEntries::block(Value entry, rt::Part part, int64_t first, int64_t low,
                         int64_t high) {
  int64_t start = static_cast<int64_t>(offsetof(rt::PrefillPage, blocks) / 4) +
                  part * int64_t{rt::kMaxBlocksPerPart} + first;
  if (!low && !high)
    return b.shuffle(entry, b.i32(start));
  Value odd = b.mul(b.andBits(warp, 1), low);
  Value ofWarp = b.add(odd, b.mul(b.shr(warp, 1), high));
  return b.shuffle(entry, b.add(ofWarp, start));
}

Value PageEntries::info(Value entry) {
  return field(entry, offsetof(rt::PrefillPage, info));
}

SmallVector<Value>
PageEntries::byLevel(rt::Part part, Value info, ArrayRef<int64_t> levels,
                     TypeRange types,
                     function_ref<SmallVector<Value>(size_t)> body, size_t i) {
  if (i + 1 == levels.size())
    return body(i);
  Value level = b.andBits(part == rt::kKey ? b.shr(info, 2) : info, 3);
  Value isThis = b.compare(arith::CmpIPredicate::eq, level,
                           rt::ladderIndex(static_cast<int32_t>(levels[i])));
  auto branch = scf::IfOp::create(b, types, isThis, /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
  OpBuilder::InsertionGuard guard(b);
  auto fill = [&](Block *block, function_ref<SmallVector<Value>()> make) {
    b.setInsertionPointToEnd(block);
    SmallVector<Value> made = make();
    scf::YieldOp::create(b, made);
  };
  fill(branch.thenBlock(), [&] { return body(i); });
  fill(branch.elseBlock(),
       [&] { return byLevel(part, info, levels, types, body, i + 1); });
  return SmallVector<Value>(branch.getResults());
}

namespace {
class TileProducer : PrefillKernel {
public:
  explicit TileProducer(const PrefillKernel &kernel) : PrefillKernel(kernel) {}

  /// The first takes keys, the second values.
  void produce(Value warpgroup) {
    OpBuilder::InsertionGuard guard(b);
    Value isFirst = b.compare(arith::CmpIPredicate::eq, warpgroup, 0);
    auto branch = scf::IfOp::create(b, isFirst, /*withElseRegion=*/true);
    b.setInsertionPointToStart(branch.thenBlock());
    TileProducer(*this).producePart(rt::kKey);
    b.setInsertionPointToStart(branch.elseBlock());
    TileProducer(*this).producePart(rt::kValue);
  }

private:
  WarpShare share(rt::Part part, int64_t level) {
    return WarpShare(part, static_cast<int32_t>(level));
  }

  PageEntries pages() { return {b, entries, lane, warp}; }

  /// The word at `offset` of an entry, in all lanes.
  Value fieldOf(Value entry, size_t offset) {
    return pages().field(entry, offset);
  }

  /// The blocks that the warp reads.
  Values blocksOf(Value entry, rt::Part part, int64_t level) {
    WarpShare mine = share(part, level);
    Values blocks;
    for (int32_t i = 0; i < mine.blocks(); ++i)
      blocks.push_back(
          pages().block(entry, part, i, mine.block(1, 0), mine.block(2, 0)));
    return blocks;
  }

  Values loadCodes(rt::Part part, int64_t level, int64_t first, int64_t count,
                   const Values &blocks) {
    return b.unpack(LoadFragmentsOp::create(b, b.words(count * 4), irPart(part),
                                            level, first, count, warp, lane,
                                            codes, blocks));
  }

  Value groupsOf(rt::Part part, Value slot) {
    constexpr int64_t headDim = HalfTile::kColumns;
    Value place =
        b.farAt(parameters, slot,
                ::pmkvq::deviceSlotBytes(headDim, /*keysPerToken=*/false));
    return b.at(place, part == rt::kKey ? 0
                                        : ::pmkvq::deviceValueParameters(
                                              headDim, /*keysPerToken=*/false));
  }

  /// Waits until the tile is free, with loads under way.
  void waitForTile(rt::Part part, const Turn &turn) {
    Value barrier = barrierOf(part == rt::kKey ? PrefillLayout::kEmptyKeys
                                               : PrefillLayout::kEmptyValues,
                              turn.stage);
    b.waitBarrier(barrier, b.xorBits(turn.parity, 1));
  }

  void dequantize(rt::Part part, size_t i, Value entry, const Turn &turn) {
    int64_t level = levels[part][i];
    WarpShare mine = share(part, level);
    int64_t vectors = mine.vectors();
    Values blocks = blocksOf(entry, part, level);
    Value slot = fieldOf(entry, offsetof(rt::PrefillPage, slot));
    // A product's constants leave registers for fewer codes.
    const int64_t count =
        wideRanges ? std::min(vectors, kWideVectors) : vectors;
    Values words = loadCodes(part, level, 0, count, blocks);
    Value groups = LoadGroupsOp::create(
        b, b.words(int64_t{8} * mine.columnBlocks()), irPart(part), level,
        IntegerAttr(), warp, lane, groupsOf(part, slot));
    waitForTile(part, turn);
    for (int64_t first = 0; first < vectors; first += count) {
      if (first)
        words = loadCodes(part, level, first, count, blocks);
      Value packed = b.pack(words);
      DequantizeFragmentsOp::create(b, irPart(part), level, formats[part],
                                    wideRanges, first, count, warp, lane,
                                    packed, groups, tileAt(part, turn.stage));
    }
  }

  /// Raw elements to f16, some at a time: a page of them is more than a lane's
  /// registers.
  void convert(rt::Part part, Value entry, const Turn &turn) {
    Values blocks = blocksOf(entry, part, 16);
    int64_t vectors = share(part, 16).vectors();
    for (int64_t first = 0; first < vectors; first += kRawVectors) {
      Values words = loadCodes(part, 16, first, kRawVectors, blocks);
      if (first == 0)
        waitForTile(part, turn);
      Value packed = b.pack(words);
      DequantizeFragmentsOp::create(b, irPart(part), 16, FormatAttr(),
                                    /*wide=*/false, first, kRawVectors, warp,
                                    lane, packed, Value(),
                                    tileAt(part, turn.stage));
    }
  }

  void producePart(rt::Part part) {
    OpBuilder::InsertionGuard guard(b);
    bool isKey = part == rt::kKey;
    Value last = b.sub(pageCount, b.i32(1));
    SmallVector<Value> init = {b.i32(0), b.i32(0), pages().load(b.i32(0))};
    auto loop = scf::ForOp::create(b, b.i32(0), pageCount, b.i32(1), init);
    b.setInsertionPointToStart(loop.getBody());
    // Places that follow from the lane alone are computed page by page: kept,
    // they would take the registers that codes need.
    Value thread = b.forget(b.threadId());
    lane = b.andBits(thread, 31);
    warp = b.andBits(b.shr(thread, 5), 3);
    Value number = loop.getInductionVar();
    ValueRange carried = loop.getRegionIterArgs();
    Turn turn = {carried[0], carried[1]};
    Value entry = carried[2];
    Value next =
        pages().load(arith::MinUIOp::create(b, b.add(number, 1), last));
    pages().byLevel(part, pages().info(entry), levels[part], TypeRange(),
                    [&](size_t i) {
                      if (levels[part][i] == 16)
                        convert(part, entry, turn);
                      else
                        dequantize(part, i, entry, turn);
                      return SmallVector<Value>();
                    });
    if (isKey)
      leaveLimits(turn.stage, entry);
    b.fenceShared();
    arrive(isKey ? PrefillLayout::kFullKeys : PrefillLayout::kFullValues,
           turn.stage);
    Turn following = nextTurn(turn);
    scf::YieldOp::create(b,
                         ValueRange{following.stage, following.parity, next});
  }

  /// What masks need, beside the keys' tile.
  void leaveLimits(Value stage, Value entry) {
    // Not those that the level was found by: they would be kept until here.
    Value first = fieldOf(entry, offsetof(rt::PrefillPage, first));
    Value info = pages().info(entry);
    Value leads =
        b.compare(arith::CmpIPredicate::eq,
                  b.andBits(b.threadId(), PrefillLayout::kWarpgroup - 1), 0);
    auto branch = scf::IfOp::create(b, leads, /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    Value seen = b.add(b.sub(position, first), 1);
    Values limits = {seen, b.shr(info, 8)};
    b.storeWords(limits, limitsAt(stage));
  }

  /// Vectors that a lane holds at a time, of raw pages and of wide ranges.
  static constexpr int64_t kRawVectors = 4, kWideVectors = 2;
};
} // namespace

void mlir::pmkvq::produceTiles(const PrefillKernel &kernel, Value warpgroup) {
  TileProducer(kernel).produce(warpgroup);
}
