//===- Merging.cpp - States of a segment's queries become one -------------===//
//
// Neighbours: Merging.h.
//
//===----------------------------------------------------------------------===//

#include "Merging.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq_rt/DeviceAbi.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;

Values mlir::pmkvq::loadFloats(LaneBuilder &b, Value address, int64_t count) {
  if (count == 1)
    return {b.load(b.getF32Type(), address, 4)};
  Values values;
  for (Value word : b.loadWords(address, count))
    values.push_back(b.bitcast(word, b.getF32Type()));
  return values;
}

static void storeFloats(LaneBuilder &b, const Values &values, Value address) {
  if (values.size() == 1)
    return b.store(values[0], address, 4);
  Value vector = LLVM::UndefOp::create(b, b.floats(values.size()));
  for (auto [i, value] : llvm::enumerate(values))
    vector = LLVM::InsertElementOp::create(b, vector, value, b.i32(i));
  b.store(vector, address, values.size() * 4);
}

Value mlir::pmkvq::positiveSum(LaneBuilder &b, const Merged &merged,
                               const MergeShape &shared) {
  constexpr double kTiny = 0x1p-100;
  return shared.rows > 1 ? b.maxF(merged.sum, b.f32(kTiny)) : merged.sum;
}

void mlir::pmkvq::storeResults(LaneBuilder &b, const Merged &merged,
                               const Share &share, const MergeShape &shared,
                               const ResultPlace &place) {
  Value inverse = b.reciprocal(positiveSum(b, merged, shared));
  Values scaled;
  for (Value output : merged.outputs)
    scaled.push_back(b.mulF(output, inverse));
  Value index =
      b.add(b.mul(place.pair, shared.group * shared.headDim), share.element);
  if (shared.rows > 1) {
    // From row to row, results of the other kv heads lie between.
    Value row = arith::DivUIOp::create(b, share.query, b.i32(shared.group));
    int64_t between = place.stride - shared.group;
    index = b.add(index, b.mul(row, between * shared.headDim));
  }
  storeFloats(b, scaled, b.at(place.out, b.mul(index, 4)));
}

static Share shareOf(LaneBuilder &b, const MergeShape &shared, int64_t width,
                     Value number) {
  Share share;
  share.width = width;
  share.number = number;
  share.element = b.mul(share.number, share.width);
  share.query = arith::DivUIOp::create(b, share.element, b.i32(shared.headDim));
  share.dim = arith::RemUIOp::create(b, share.element, b.i32(shared.headDim));
  return share;
}

void mlir::pmkvq::forShares(LaneBuilder &b, const MergeShape &shared,
                            int64_t width, int64_t batch,
                            function_ref<void(ArrayRef<Share>)> body) {
  const int64_t rounds =
      llvm::divideCeil(shared.elements(), shared.threads * width * batch);
  auto run = [&](Value round) {
    SmallVector<Share> shares;
    for (int64_t i = 0; i < batch; ++i) {
      Value number = b.add(b.threadId(), i * shared.threads);
      if (round)
        number = b.add(number, b.mul(round, batch * shared.threads));
      shares.push_back(shareOf(b, shared, width, number));
    }
    body(shares);
  };
  if (rounds == 1)
    return run(Value());
  auto loop = scf::ForOp::create(b, b.i32(0), b.i32(rounds), b.i32(1));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  run(loop.getInductionVar());
}

Value mlir::pmkvq::existsOf(LaneBuilder &b, const Share &share,
                            const MergeShape &shared, Value moreRows) {
  Value count = b.i32(shared.group);
  if (moreRows)
    count = b.mul(b.add(moreRows, 1), shared.group);
  return b.compare(arith::CmpIPredicate::ult, share.query, count);
}

void mlir::pmkvq::ifQuery(LaneBuilder &b, const Share &share,
                          const MergeShape &shared, Value moreRows,
                          function_ref<void()> body) {
  if (!moreRows && shared.group == shared.queries() &&
      shared.elements() % (shared.threads * share.width) == 0)
    return body();
  auto branch = scf::IfOp::create(b, existsOf(b, share, shared, moreRows),
                                  /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  body();
}

Value mlir::pmkvq::recordAt(LaneBuilder &b, Value partials, Value index,
                            const Share &share, const MergeShape &shared) {
  Value partial = b.mul(
      index, rt::devicePartialBytes(shared.usedQueries(), shared.headDim));
  Value record =
      b.mul(share.number, share.width / 2 * int64_t{sizeof(rt::PartialRecord)});
  return b.at(b.at(partials, partial), record);
}
