//===- LowerRing.cpp - Staged units as bulk copies and barriers -----------===//
//
// Lowers ring_issue and ring_wait.  Neighbours: pmkvq_rt/Units.h (the pieces of
// a unit), DeviceAbi.h (what a UnitTask says).
//
// Each warp has a ring of its own, so nothing but the copies' own barriers is
// needed: a slot is free once the warp has worked on it, and the copy of the
// next unit is issued when the current one has arrived.  Deeper rings make
// every other load wait behind the copies.
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/SharedLayout.h"
#include "pmkvq_rt/DeviceAbi.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_LOWERRING
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;
using ::pmkvq::SharedLayout;

/// (slot, barrier) of a unit.
static std::pair<Value, Value> slotOf(LaneBuilder &b, Value ring,
                                      Value barriers, Value number,
                                      int64_t slotBytes) {
  Value slot = b.andBits(number, SharedLayout::kSlots - 1);
  return {b.at(ring, b.mul(slot, slotBytes)),
          b.at(barriers, b.mul(slot, sizeof(uint64_t)))};
}

/// base + index * bytes, with 64 bits.
static Value farAt(LaneBuilder &b, Value base, Value index, int64_t bytes) {
  Value wide = arith::ExtUIOp::create(b, b.getI64Type(), index);
  return b.at(base, arith::MulIOp::create(b, wide, b.i64(bytes)));
}

static void issueKind(LaneBuilder &b, RingIssueOp op, rt::UnitKind kind) {
  int64_t headDim = op.getHeadDim();
  bool keysPerToken = op.getKeysPerToken();
  rt::UnitSlot places = rt::unitSlot(kind, headDim, keysPerToken);
  auto [slot, barrier] = slotOf(b, op.getRing(), op.getBarriers(),
                                op.getNumber(), op.getSlotBytes());
  b.expectBytes(barrier, b.i32(places.end));
  auto copy = [&, slot = slot, barrier = barrier](int64_t to, Value from,
                                                  int64_t bytes) {
    if (bytes)
      b.bulkCopy(b.at(slot, to), from, barrier, b.i32(bytes), op.getPolicy());
  };
  Value parameters = farAt(b, op.getParameters(), op.getSlot(),
                           rt::deviceSlotBytes(headDim, keysPerToken));
  Value grain = b.mul(b.andBits(b.shr(op.getInfo(), 16), 0xff),
                      rt::kUnitGrain * rt::kGroupBytes);
  int64_t keyBytes = places.valueParameters;
  int64_t valueBytes = places.keyCodes - places.valueParameters;
  int64_t valueStart = rt::deviceValueParameters(headDim, keysPerToken);
  if (keyBytes == valueStart && kind.tokens() == rt::kPageTokens) {
    copy(0, parameters, keyBytes + valueBytes);
  } else {
    copy(0, keysPerToken ? b.at(parameters, grain) : parameters, keyBytes);
    copy(places.valueParameters, b.at(b.at(parameters, valueStart), grain),
         valueBytes);
  }
  copy(places.keyCodes,
       farAt(b, op.getCodes(), op.getKey(), rt::kDeviceGrainBytes),
       kind.codeBytes(rt::kKey, headDim));
  copy(places.valueCodes,
       farAt(b, op.getCodes(), op.getValue(), rt::kDeviceGrainBytes),
       kind.codeBytes(rt::kValue, headDim));
}

static SmallVector<Value> issue(LaneBuilder &b, RingIssueOp op) {
  ArrayRef<int64_t> levels = op.getKinds();
  auto branch = scf::IfOp::create(b, op.getLeader(), /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  auto kindAt = [&](size_t i) {
    return rt::UnitKind{static_cast<int32_t>(levels[2 * i]),
                        static_cast<int32_t>(levels[2 * i + 1])};
  };
  size_t count = levels.size() / 2;
  Value number = b.andBits(op.getInfo(), 0xff);
  for (size_t i = 0; i < count; ++i) {
    rt::UnitKind kind = kindAt(i);
    if (i + 1 == count) {
      issueKind(b, op, kind);
      break;
    }
    Value isKind = b.compare(arith::CmpIPredicate::eq, number, kind.index());
    auto pick = scf::IfOp::create(b, isKind, /*withElseRegion=*/true);
    b.setInsertionPointToStart(pick.thenBlock());
    issueKind(b, op, kind);
    b.setInsertionPointToStart(pick.elseBlock());
  }
  return {};
}

static SmallVector<Value> wait(LaneBuilder &b, RingWaitOp op) {
  auto [slot, barrier] = slotOf(b, op.getRing(), op.getBarriers(),
                                op.getNumber(), op.getSlotBytes());
  static_assert(SharedLayout::kSlots == 2, "a phase takes two units");
  b.waitBarrier(barrier, b.andBits(b.shr(op.getNumber(), 1), 1));
  return {slot};
}

namespace {
class LowerRingPass : public mlir::pmkvq::impl::LowerRingBase<LowerRingPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<RingIssueOp>(getOperation(), issue);
    replaceEach<RingWaitOp>(getOperation(), wait);
  }
};
} // namespace
