//===- SegmentConstants.cpp - Steps and offsets of a segment's pages ------===//
//
// Where steps are not folded, a warp makes what its codes are multiplied by and
// added to once for all of its lanes, in shared memory.  Neighbours:
// SegmentKernel.h, SegmentsToWarpgroups.cpp, CodeConstants.h, WarpgroupLayout.h
// (SharedRowsLayout::constants).
//
//===----------------------------------------------------------------------===//

#include "CodeConstants.h"
#include "SegmentKernel.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::HalfTile;
using ::pmkvq::ParameterLayout;
using ::pmkvq::SharedRowsLayout;

/// Where the warp's constants of a block's half are, for lanes with t of
/// `lane`.
static Value constantsAt(SegmentKernel &kernel, Value block, Value lane,
                         int64_t half) {
  WarpgroupBuilder &b = kernel.b;
  Value mine = b.add(b.shl(kernel.warpgroup, 2), kernel.warp);
  Value all = b.at(b.at(kernel.base, kernel.shared.constants()),
                   b.mul(mine, SharedRowsLayout::kConstantBytes));
  Value t = b.shl(b.andBits(lane, 3), 4);
  return b.at(all, b.add(b.add(t, b.shl(block, 7)), half * 64));
}

/// All lanes with the same t need the same: lanes g make those of block g % 4.
void mlir::pmkvq::storeConstants(SegmentKernel &kernel, rt::Part part,
                                 int64_t level, Value slot) {
  WarpgroupBuilder &b = kernel.b;
  auto layout = SegmentKernel::operandShare(part, level).layout;
  const int64_t bytes =
      2 * (part == rt::kKey
               ? ParameterLayout::perChannel(32, 1, HalfTile::kColumns)
               : ParameterLayout::perToken(32, 1));
  Value self = b.andBits(b.threadId(), 31);
  Value block = b.andBits(b.shr(self, 2), 3);
  Value from = b.at(slot, SharedRowsLayout::kSlotParameters);
  Value groups = LoadGroupsOp::create(b, b.words(8), irPart(part), level,
                                      b.getI64IntegerAttr(0), kernel.warp, self,
                                      b.at(from, b.mul(block, bytes)));
  Values made = codeConstants(b, kernel.forms[part][level], layout,
                              b.unpack(groups), kernel.wideRanges);
  auto branch =
      scf::IfOp::create(b, b.compare(arith::CmpIPredicate::ult, self, 16),
                        /*withElseRegion=*/false);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    for (size_t h : {0, 1})
      b.storeWords(
          {made[2 * h], made[2 * h + 1], made[4 + 2 * h], made[5 + 2 * h]},
          constantsAt(kernel, block, self, static_cast<int64_t>(h)));
  }
  b.syncWarp();
}

Value mlir::pmkvq::loadConstants(SegmentKernel &kernel, int64_t block) {
  WarpgroupBuilder &b = kernel.b;
  Values steps, offsets;
  for (int64_t h : {0, 1}) {
    Values words =
        b.loadWords(constantsAt(kernel, b.i32(block), kernel.lane, h), 4);
    steps.append(words.begin(), words.begin() + 2);
    offsets.append(words.begin() + 2, words.end());
  }
  llvm::append_range(steps, offsets);
  return b.pack(steps);
}
