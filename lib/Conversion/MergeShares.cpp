//===- MergeShares.cpp - Thread blocks' results of a pair become one ------===//
//
// Code of merge_shares.  Neighbours: Merging.h, LowerMerges.cpp (who stores
// partial results), DeviceAbi.h (PartialRecord).
//
// The thread block with a pair's last share waits for the others' records, each
// of which says by its tag that it is there.
//
//===----------------------------------------------------------------------===//

#include "Merging.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq_rt/DeviceAbi.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;

namespace {
/// Merges partial results: of a thread's `batch` records, two outputs each,
/// `count` thread blocks' at a time.
class ShareMerging {
public:
  ShareMerging(LaneBuilder &b, MergeSharesOp op, const MergeShape &shared,
               ArrayRef<Share> batch)
      : b(b), op(op), shared(shared), batch(batch) {
    const auto count = static_cast<int64_t>(batch.size());
    if (!op.getMoreRows() && shared.group == shared.queries() &&
        shared.elements() % (shared.threads * batch[0].width * count) == 0)
      return;
    for (const Share &share : batch)
      exists.push_back(existsOf(b, share, shared, op.getMoreRows()));
  }

  void run() {
    SmallVector<Type> types(kState * batch.size(), b.getF32Type());
    Values none;
    for (size_t i = 0; i < batch.size(); ++i)
      none.append({b.f32(-1e30), b.f32(0.0), b.f32(0.0), b.f32(0.0)});
    // Two or three thread blocks a pair are as common as sixteen.
    constexpr int64_t kFew = 4;
    Value few = b.compare(arith::CmpIPredicate::ule, op.getShares(), kFew);
    auto pick = scf::IfOp::create(b, types, few, /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
    {
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(pick.thenBlock());
      scf::YieldOp::create(b, addBlocks(b.i32(0), none, kFew));
      b.setInsertionPointToStart(pick.elseBlock());
      // Threads of warpgroups hold 16 records, others 32.
      const int64_t recordsAtOnce = shared.rows > 1 ? 16 : 32;
      const int64_t atOnce = std::min<int64_t>(
          16, recordsAtOnce / static_cast<int64_t>(batch.size()));
      auto loop =
          scf::ForOp::create(b, b.i32(0), op.getShares(), b.i32(atOnce), none);
      scf::YieldOp::create(b, loop.getResults());
      b.setInsertionPointToStart(loop.getBody());
      scf::YieldOp::create(b,
                           addBlocks(loop.getInductionVar(),
                                     Values(loop.getRegionIterArgs()), atOnce));
    }
    const ResultPlace place = {
        op.getOut(), op.getPair(),
        static_cast<int64_t>(op.getStride().value_or(0))};
    for (size_t i = 0; i < batch.size(); ++i) {
      Values state(pick.getResults().slice(kState * i, kState));
      OpBuilder::InsertionGuard guard(b);
      // All of this is where the first exists.
      if (i > 0 && !exists.empty()) {
        auto branch = scf::IfOp::create(b, exists[i], /*withElseRegion=*/false);
        b.setInsertionPointToStart(branch.thenBlock());
      }
      storeResults(b, {state[0], state[1], {state[2], state[3]}}, batch[i],
                   shared, place);
    }
  }

private:
  /// Maximum, sum, two outputs.
  static constexpr size_t kState = 4;
  static constexpr size_t kWords = 4, kLogSumWord = 2, kTagWord = 3;

  /// Addresses of `count` thread blocks' records from `first` on, [block][share
  /// of the batch].  Past the end, the last block is read again, and for a
  /// query that does not exist the batch's first record, which is the thread's
  /// own.
  Values addressesOf(Value first, int64_t count) {
    Value last = b.sub(op.getShares(), b.i32(1));
    Values addresses;
    for (int64_t block = 0; block < count; ++block) {
      Value index = arith::MinUIOp::create(b, b.add(first, block), last);
      Value partial = b.add(op.getPartial(), index);
      Value start =
          recordAt(b, op.getPartials(), partial, batch.front(), shared);
      for (size_t i = 0; i < batch.size(); ++i) {
        // One register of an address for all of a batch.
        Value address = b.at(start, static_cast<int64_t>(i) * shared.threads *
                                        int64_t{sizeof(rt::PartialRecord)});
        if (i > 0 && !exists.empty())
          address = b.select(exists[i], address, start);
        addresses.push_back(address);
      }
    }
    return addresses;
  }

  /// Words of all records.  All loads are in flight before the first is looked
  /// at, and they are made again until every record has its tag.
  SmallVector<Values> awaitRecords(const Values &addresses) {
    SmallVector<Type> types(addresses.size() * kWords, b.getI32Type());
    auto loop = scf::WhileOp::create(b, types, ValueRange());
    {
      OpBuilder::InsertionGuard guard(b);
      Block *before = b.createBlock(&loop.getBefore());
      Values words;
      for (Value address : addresses)
        llvm::append_range(words, b.loadWhole(address));
      Value tag = b.bitcast(b.f32(rt::kPartialTag), b.getI32Type());
      Value missing;
      for (size_t i = kTagWord; i < words.size(); i += kWords) {
        Value differs = b.compare(arith::CmpIPredicate::ne, words[i], tag);
        missing = missing ? Value(arith::OrIOp::create(b, missing, differs))
                          : differs;
      }
      b.setInsertionPointToEnd(before);
      scf::ConditionOp::create(b, missing, words);
      b.createBlock(&loop.getAfter(), {}, types,
                    SmallVector<Location>(types.size(), b.getLoc()));
      scf::YieldOp::create(b, ValueRange());
    }
    // The tags are zero again for the next launch.
    SmallVector<Values> records;
    for (size_t i = 0; i < addresses.size(); ++i) {
      b.store(b.i32(0), b.at(addresses[i], kTagWord * 4), 4);
      records.push_back(Values(loop.getResults().slice(i * kWords, kWords)));
    }
    return records;
  }

  /// Adds `count` thread blocks from `first` on; those past the last have no
  /// weight.
  Values addBlocks(Value first, const Values &before, int64_t count) {
    SmallVector<Values> records = awaitRecords(addressesOf(first, count));
    Values isThere;
    for (int64_t block = 0; block < count; ++block)
      isThere.push_back(b.compare(arith::CmpIPredicate::ult,
                                  b.add(first, block), op.getShares()));
    Values after;
    for (size_t i = 0; i < batch.size(); ++i) {
      auto number = [&](int64_t block, size_t word) {
        const size_t record = static_cast<size_t>(block) * batch.size() + i;
        return b.bitcast(records[record][word], b.getF32Type());
      };
      Values state(ArrayRef<Value>(before).slice(kState * i, kState)), logSums;
      Value maximum = state[0];
      for (auto [block, there] : llvm::enumerate(isThere)) {
        logSums.push_back(
            b.select(there, number(static_cast<int64_t>(block), kLogSumWord),
                     b.f32(-1e30)));
        maximum = b.maxF(maximum, logSums.back());
      }
      Value rescale = b.exp2(b.subF(state[0], maximum));
      state[0] = maximum;
      for (Value &sum : MutableArrayRef<Value>(state).drop_front())
        sum = b.mulF(sum, rescale);
      for (int64_t block = 0; block < count; ++block) {
        Value weight =
            b.exp2(b.subF(logSums[static_cast<size_t>(block)], maximum));
        state[1] = b.addF(state[1], weight);
        for (size_t output : {0, 1})
          state[2 + output] =
              b.fma(weight, number(block, output), state[2 + output]);
      }
      llvm::append_range(after, state);
    }
    return after;
  }

  LaneBuilder &b;
  MergeSharesOp op;
  const MergeShape &shared;
  ArrayRef<Share> batch;
  /// Whether shares of the batch exist; empty if all do.
  Values exists;
};
} // namespace

/// Records are two outputs, and neighbouring threads read neighbouring ones: a
/// thread's several are as many accesses in flight.
SmallVector<Value> mlir::pmkvq::mergeShares(LaneBuilder &b, MergeSharesOp op) {
  MergeShape shared = queriesOf(op);
  shared.threads = op.getThreads().value_or(shared.threads);
  constexpr int64_t kWidth = 2, kMostAtOnce = 4;
  const auto needed = static_cast<int64_t>(
      llvm::divideCeil(shared.elements(), shared.threads * kWidth));
  const int64_t batch = std::min(kMostAtOnce, needed);
  forShares(b, shared, kWidth, batch, [&](ArrayRef<Share> shares) {
    ifQuery(b, shares.front(), shared, op.getMoreRows(),
            [&] { ShareMerging(b, op, shared, shares).run(); });
  });
  return {};
}
