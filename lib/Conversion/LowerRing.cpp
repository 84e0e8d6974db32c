//===- LowerRing.cpp - Staged units as copies -----------------------------===//
//
// Lowers ring_issue and ring_wait, to bulk copies and barriers or, for chips
// without these, to cp.async of each lane and groups of them.  Neighbours:
// pmkvq_rt/Units.h (the pieces of a unit), DeviceAbi.h (what a UnitTask says).
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

/// (slot, barrier) of a unit.
template <typename OpTy>
static std::pair<Value, Value> slotOf(LaneBuilder &b, OpTy op) {
  if (op.getSlots() == 1)
    return {op.getRing(), op.getBarriers()};
  Value slot = b.andBits(op.getNumber(), op.getSlots() - 1);
  return {b.at(op.getRing(), b.mul(slot, op.getSlotBytes())),
          b.at(op.getBarriers(), b.mul(slot, sizeof(uint64_t)))};
}

/// base + index * bytes, with 64 bits.
static Value farAt(LaneBuilder &b, Value base, Value index, int64_t bytes) {
  Value wide = arith::ExtUIOp::create(b, b.getI64Type(), index);
  return b.at(base, arith::MulIOp::create(b, wide, b.i64(bytes)));
}

/// Copies a piece with all lanes of the warp, 16 bytes each at a time.
static void copyByLanes(LaneBuilder &b, Value to, Value from, int64_t bytes) {
  constexpr int64_t kLaneBytes = 16, kWarpBytes = 32 * kLaneBytes;
  Value lane = b.andBits(b.threadId(), 31);
  Value mine = b.shl(lane, 4);
  Value toMine = b.at(to, mine), fromMine = b.at(from, mine);
  for (int64_t at = 0; at < bytes; at += kWarpBytes) {
    OpBuilder::InsertionGuard guard(b);
    if (bytes - at < kWarpBytes) {
      Value has =
          b.compare(arith::CmpIPredicate::ult, lane, (bytes - at) / kLaneBytes);
      auto branch = scf::IfOp::create(b, has, /*withElseRegion=*/false);
      b.setInsertionPointToStart(branch.thenBlock());
    }
    Value place = b.at(toMine, at);
    b.copyAsync(place, b.at(fromMine, at));
  }
}

static void issueKind(LaneBuilder &b, RingIssueOp op, rt::UnitKind kind,
                      bool bulkCopies) {
  int64_t headDim = op.getHeadDim();
  bool keysPerToken = op.getKeysPerToken();
  const auto perValue =
      static_cast<int64_t>(op.getValueBytes().value_or(::pmkvq::kGroupBytes));
  ::pmkvq::UnitSlot places =
      ::pmkvq::unitSlot(kind, headDim, keysPerToken, perValue);
  auto [slot, barrier] = slotOf(b, op);
  if (bulkCopies)
    b.expectBytes(barrier, b.i32(places.copied()));
  auto copy = [&, slot = slot, barrier = barrier](int64_t to, Value from,
                                                  int64_t bytes) {
    if (!bytes)
      return;
    if (bulkCopies)
      b.bulkCopy(b.at(slot, to), from, barrier, b.i32(bytes), op.getPolicy());
    else
      copyByLanes(b, b.at(slot, to), from, bytes);
  };
  Value parameters =
      farAt(b, op.getParameters(), op.getSlot(),
            ::pmkvq::deviceSlotBytes(headDim, keysPerToken, perValue));
  Value number = b.andBits(b.shr(op.getInfo(), 16), 0xff);
  Value valueGrain = b.mul(number, rt::kUnitGrain * perValue);
  Value keyGrain = b.mul(number, rt::kUnitGrain * ::pmkvq::kGroupBytes);
  int64_t keyBytes = places.valueParameters;
  int64_t valueBytes = places.parametersEnd - places.valueParameters;
  int64_t valueStart = ::pmkvq::deviceValueParameters(headDim, keysPerToken);
  if (keyBytes == valueStart && kind.tokens() == rt::kPageTokens) {
    copy(0, parameters, keyBytes + valueBytes);
  } else {
    copy(0, keysPerToken ? b.at(parameters, keyGrain) : parameters, keyBytes);
    copy(places.valueParameters, b.at(b.at(parameters, valueStart), valueGrain),
         valueBytes);
  }
  copy(places.keyCodes,
       farAt(b, op.getCodes(), op.getKey(), rt::kDeviceGrainBytes),
       kind.codeBytes(rt::kKey, headDim));
  copy(places.valueCodes,
       farAt(b, op.getCodes(), op.getValue(), rt::kDeviceGrainBytes),
       kind.codeBytes(rt::kValue, headDim));
}

static void issueKinds(LaneBuilder &b, RingIssueOp op, bool bulkCopies) {
  OpBuilder::InsertionGuard guard(b);
  ArrayRef<int64_t> levels = op.getKinds();
  auto kindAt = [&](size_t i) {
    return rt::UnitKind{static_cast<int32_t>(levels[2 * i]),
                        static_cast<int32_t>(levels[2 * i + 1])};
  };
  size_t count = levels.size() / 2;
  Value number = b.andBits(op.getInfo(), 0xff);
  for (size_t i = 0; i < count; ++i) {
    rt::UnitKind kind = kindAt(i);
    if (i + 1 == count) {
      issueKind(b, op, kind, bulkCopies);
      break;
    }
    Value isKind = b.compare(arith::CmpIPredicate::eq, number, kind.index());
    auto pick = scf::IfOp::create(b, isKind, /*withElseRegion=*/true);
    b.setInsertionPointToStart(pick.thenBlock());
    issueKind(b, op, kind, bulkCopies);
    b.setInsertionPointToStart(pick.elseBlock());
  }
}

static void issue(LaneBuilder &b, RingIssueOp op, bool bulkCopies) {
  Value exists = op.getExists();
  if (bulkCopies)
    exists = arith::AndIOp::create(
        b, exists,
        b.compare(arith::CmpIPredicate::eq, b.andBits(b.threadId(), 31), 0));
  auto branch = scf::IfOp::create(b, exists, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  issueKinds(b, op, bulkCopies);
  if (!bulkCopies)
    b.endCopies();
}

/// A phase of a barrier takes as many units as there are slots.  Of copies in
/// groups none but the unit's are on their way: those of the next are issued
/// after this.
static Value wait(LaneBuilder &b, RingWaitOp op, bool bulkCopies) {
  auto [slot, barrier] = slotOf(b, op);
  if (bulkCopies) {
    b.waitBarrier(barrier,
                  b.andBits(b.shr(op.getNumber(), op.getSlots() - 1), 1));
    return slot;
  }
  b.waitCopies();
  b.syncWarp();
  return slot;
}

namespace {
class LowerRingPass : public mlir::pmkvq::impl::LowerRingBase<LowerRingPass> {
public:
  using LowerRingBase::LowerRingBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }
  void runOnOperation() override {
    replaceEach<RingIssueOp>(getOperation(),
                             [&](LaneBuilder &b, RingIssueOp op) {
                               issue(b, op, bulkCopies);
                               return SmallVector<Value>();
                             });
    replaceEach<RingWaitOp>(getOperation(), [&](LaneBuilder &b, RingWaitOp op) {
      return SmallVector<Value>{wait(b, op, bulkCopies)};
    });
  }
};
} // namespace
