//===- PrefetchPages.cpp - Fetch the next page ahead of its turn ----------===//
//
// Tells what reads a page, in a loop over pages or as a task of a list, which
// page comes next.
// Neighbours: PMKVQRowsOps.td (`ahead`), lib/Conversion (who prefetches).
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_PREFETCHPAGES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;

/// The page after that of `fetch`; after the loop's last one, the first of the
/// task that the list names or, if the loop is no task's, that page itself.
static Value fetchNext(FetchOp fetch, scf::ForOp loop) {
  ImplicitLocOpBuilder b(loop.getLoc(), loop);
  auto task = fetch.getSequence().getDefiningOp<AttendTaskOp>();
  AttendTaskOp later;
  if (task)
    later = AttendTaskOp::create(b, task->getResultTypes(), task.getBatch(),
                                 task.getTask(), /*ahead=*/true);
  b.setInsertionPoint(fetch);
  Value one = arith::ConstantIndexOp::create(b, 1);
  Value after = arith::AddIOp::create(b, fetch.getPage(), one);
  if (!task) {
    Value last = arith::SubIOp::create(b, loop.getUpperBound(), one);
    Value index = arith::MinSIOp::create(b, after, last);
    return FetchOp::create(b, fetch.getType(), fetch.getCache(),
                           fetch.getSequence(), fetch.getHead(), index);
  }
  Value more = arith::CmpIOp::create(b, arith::CmpIPredicate::slt, after,
                                     loop.getUpperBound());
  auto choose = [&](Value here, Value there) -> Value {
    return arith::SelectOp::create(b, more, here, there);
  };
  Value sequence = choose(fetch.getSequence(), later.getSequence());
  Value head = choose(fetch.getHead(), later.getHead());
  Value index = choose(after, later.getPageBegin());
  return FetchOp::create(b, fetch.getType(), fetch.getCache(), sequence, head,
                         index);
}

/// Tells the readers of `tile`, a level's part of a page, what `next` has
/// there; gives their number.
static int64_t lookAhead(BlockArgument tile, Value next) {
  ImplicitLocOpBuilder b(tile.getLoc(), tile.getContext());
  b.setInsertionPointToStart(tile.getOwner());
  SmallVector<Operation *> readers(tile.getUsers());
  auto ahead = TakeOp::create(b, tile.getType(), next);
  int64_t count = 0;
  for (Operation *reader : readers) {
    if (auto contract = dyn_cast<ContractOp>(reader))
      contract.getAheadMutable().assign(ahead);
    else if (auto integers = dyn_cast<ContractIntegersOp>(reader))
      integers.getAheadMutable().assign(ahead);
    else if (auto parameters = dyn_cast<LoadParametersOp>(reader))
      parameters.getAheadMutable().assign(ahead);
    else
      continue;
    ++count;
  }
  return count;
}

/// What lowers a part of a task's page, `take`, looks ahead to that part of the
/// task which the list names; gives the number of such ops.
static int64_t lookAheadInList(TakeOp take) {
  auto fetch = take.getPage().getDefiningOp<FetchOp>();
  auto task =
      fetch ? fetch.getPage().getDefiningOp<PageTaskOp>() : PageTaskOp();
  if (!task)
    return 0;
  ImplicitLocOpBuilder b(take.getLoc(), take);
  auto later = PageTaskOp::create(b, task->getResultTypes(), task.getPages(),
                                  task.getTask(), task.getCaches(),
                                  /*ahead=*/true);
  Value page =
      FetchOp::create(b, fetch.getType(), later.getCache(), later.getSequence(),
                      later.getHead(), later.getPage());
  Value ahead = TakeOp::create(b, take.getType(), page);
  int64_t count = 0;
  for (Operation *user : take->getUsers()) {
    if (auto quantize = dyn_cast<QuantizeOp>(user))
      quantize.getAheadMutable().assign(ahead);
    else if (auto shift = dyn_cast<ShiftOp>(user))
      shift.getAheadMutable().assign(ahead);
    else
      continue;
    ++count;
  }
  return count;
}

namespace {
class PrefetchPagesPass
    : public mlir::pmkvq::impl::PrefetchPagesBase<PrefetchPagesPass> {
public:
  void runOnOperation() override {
    SmallVector<FetchOp> fetches;
    getOperation()->walk([&](FetchOp fetch) {
      auto loop = dyn_cast<scf::ForOp>(fetch->getParentOp());
      if (loop && fetch.getPage() == loop.getInductionVar())
        fetches.push_back(fetch);
    });
    SmallVector<TakeOp> takes;
    getOperation()->walk([&](TakeOp take) { takes.push_back(take); });
    for (TakeOp take : takes)
      numAhead += lookAheadInList(take);
    for (FetchOp fetch : fetches) {
      SmallVector<ByLevelOp> readers;
      for (Operation *user : fetch->getUsers())
        if (auto reader = dyn_cast<ByLevelOp>(user))
          readers.push_back(reader);
      if (readers.empty())
        continue;
      Value next = fetchNext(fetch, cast<scf::ForOp>(fetch->getParentOp()));
      for (ByLevelOp reader : readers)
        for (Region &level : reader.getLevels())
          numAhead += lookAhead(level.getArgument(0), next);
    }
  }
};
} // namespace
