//===- CopySegments.cpp - Who copies pages for warpgroups -----------------===//
//
// A warp of the last warpgroup copies codes and parameters of pages to the ring
// of each warpgroup that attends.  Neighbours: SegmentKernel.h,
// SegmentsToWarpgroups.cpp (who attends), WarpgroupLayout.h (slots).
//
//===----------------------------------------------------------------------===//

#include "SegmentKernel.h"
#include "pmkvq/Target/SlotLayout.h"
#include "pmkvq_rt/DeviceAbi.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
using ::pmkvq::HalfTile;

namespace {
class SegmentCopy : SegmentKernel {
public:
  explicit SegmentCopy(const SegmentKernel &kernel) : SegmentKernel(kernel) {}

  void run() {
    ring = warp;
    auto branch = scf::IfOp::create(
        b, b.compare(arith::CmpIPredicate::ult, warp, shared.warpgroups),
        /*withElseRegion=*/false);
    b.setInsertionPointToStart(branch.thenBlock());
    Value count = b.loadWords(row, 4)[0];
    // Pages so far, and the next slot.
    SmallVector<Value> init(3, b.i32(0));
    auto loop = scf::ForOp::create(b, b.i32(0), count, b.i32(1), init);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    ValueRange carried = loop.getRegionIterArgs();
    PageSegment segment = loadSegment(loop.getInductionVar());
    RingTurn turn = copySegment(segment, carried[0], {carried[1], carried[2]});
    scf::YieldOp::create(b, ValueRange{b.add(carried[0], segment.pages),
                                       turn.stage, turn.parity});
  }

private:
  /// A page's entry is loaded while the one before it is copied.
  RingTurn copySegment(const PageSegment &segment, Value before,
                       const RingTurn &turn) {
    entries = b.farAt(rowPages, before, sizeof(rt::PrefillPage));
    Value last = b.sub(segment.pages, b.i32(1));
    auto load = [&](Value number) {
      return pages().load(arith::MinUIOp::create(b, number, last));
    };
    SmallVector<Value> init = {turn.stage, turn.parity, load(warp)};
    auto loop = scf::ForOp::create(b, warp, segment.pages,
                                   b.i32(shared.warpgroups), init);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      ValueRange carried = loop.getRegionIterArgs();
      Value entry = carried[2];
      Value next = load(b.add(loop.getInductionVar(), shared.warpgroups));
      RingTurn now = {carried[0], carried[1]};
      for (rt::Part part : {rt::kKey, rt::kValue}) {
        SmallVector<Type> types(2, b.getI32Type());
        SmallVector<Value> results = pages().byLevel(
            part, pages().info(entry), levels[part], types, [&](size_t i) {
              RingTurn mine = now;
              OperandShare share = operandShare(part, levels[part][i]);
              for (int32_t piece = 0; piece < share.pieces(); ++piece) {
                copyPiece(part, share, piece, entry, mine);
                mine = after(mine);
              }
              return SmallVector<Value>{mine.stage, mine.parity};
            });
        now = {results[0], results[1]};
      }
      scf::YieldOp::create(b, ValueRange{now.stage, now.parity, next});
    }
    return {loop.getResult(0), loop.getResult(1)};
  }

  /// Each lane makes one of the copies.
  void copyPiece(rt::Part part, const OperandShare &share, int32_t piece,
                 Value entry, const RingTurn &turn) {
    constexpr int64_t blockBytes = OperandShare::kBlockBytes;
    constexpr int64_t parameterBytes =
        SharedRowsLayout::kSlotEntry - SharedRowsLayout::kSlotParameters;
    static_assert(parameterBytes == HalfTile::kColumns * ::pmkvq::kGroupBytes);
    const bool raw = share.level() == 16;
    // Bytes from the part's begin, and the block that they are in.
    Value start =
        b.add(b.mul(lane, share.copyStart(0, 1)), share.copyStart(piece, 0));
    constexpr int64_t firstBlock = offsetof(rt::PrefillPage, blocks) / 4;
    Value block = b.add(b.shr(start, llvm::Log2_64(blockBytes)),
                        firstBlock + part * int64_t{rt::kMaxBlocksPerPart});
    Value id = b.shuffle(entry, block);
    Value number = pages().field(entry, offsetof(rt::PrefillPage, slot));
    Value first = pages().field(entry, offsetof(rt::PrefillPage, first));
    Value info = pages().info(entry);
    Value full = slotBarrier(SharedRowsLayout::kFull, turn.stage);
    Value slot = slotAt(turn.stage);
    b.waitBarrier(slotBarrier(SharedRowsLayout::kEmpty, turn.stage),
                  b.xorBits(turn.parity, 1));
    Value leads = b.compare(arith::CmpIPredicate::eq, lane, 0);
    auto leading = scf::IfOp::create(b, leads, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(leading.thenBlock());
      // What masks and levels need, beside the codes.
      static_assert(offsetof(rt::PrefillPage, info) ==
                    offsetof(rt::PrefillPage, first) + 4);
      b.storeWords({first, info}, b.at(slot, SharedRowsLayout::kSlotEntry));
      b.expectBytes(full,
                    b.i32(share.pieceBytes() + (raw ? 0 : parameterBytes)));
      if (!raw)
        copyParameters(part, number, slot, full);
    }
    auto copying = scf::IfOp::create(
        b, b.compare(arith::CmpIPredicate::ult, lane, share.copies()),
        /*withElseRegion=*/false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(copying.thenBlock());
    Value from = b.farAt(codes, id, rt::kDeviceGrainBytes);
    from = b.at(from, b.andBits(start, blockBytes - 1));
    b.bulkCopy(b.at(slot, b.mul(lane, share.copyBytes())), from, full,
               b.i32(share.copyBytes()), policy);
  }

  /// Those of a part of a page.
  void copyParameters(rt::Part part, Value number, Value slot, Value full) {
    constexpr int64_t headDim = HalfTile::kColumns;
    Value from =
        b.farAt(parameters, number,
                ::pmkvq::deviceSlotBytes(headDim, /*keysPerToken=*/false));
    if (part == rt::kValue)
      from = b.at(from, ::pmkvq::deviceValueParameters(headDim,
                                                       /*keysPerToken=*/false));
    b.bulkCopy(b.at(slot, SharedRowsLayout::kSlotParameters), from, full,
               b.i32(headDim * ::pmkvq::kGroupBytes), policy);
  }
};
} // namespace

void mlir::pmkvq::copySegments(SegmentKernel &kernel) {
  SegmentCopy(kernel).run();
}
