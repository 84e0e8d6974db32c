//===- StageQueries.cpp - Queries of a segment as right operands ----------===//
//
// Queries of all rows of a segment, as f16 in the swizzled rows that products
// of warpgroups take from shared memory.  Neighbours: SegmentKernel.h,
// SegmentsToWarpgroups.cpp, WarpgroupLayout.h (the layout).
//
//===----------------------------------------------------------------------===//

#include "SegmentKernel.h"

using namespace mlir;
using namespace mlir::pmkvq;
using ::pmkvq::HalfTile;

namespace {
class QueryStaging : SegmentKernel {
public:
  explicit QueryStaging(const SegmentKernel &kernel) : SegmentKernel(kernel) {}

  /// A warp stages a query at a time, 4 dims a lane; all loads come first.
  void run(const PageSegment &segment) {
    Value count = b.mul(b.add(segment.moreRows, 1), group);
    const int64_t warps = OperandShare::kWarps * shared.warpgroups;
    Values numbers;
    SmallVector<Values> loaded;
    for (int64_t first = 0; first < shared.rows; first += warps) {
      numbers.push_back(b.add(b.shr(thread, 5), first));
      loaded.push_back(loadQuery(
          segment.pair, numbers.back(),
          b.compare(arith::CmpIPredicate::ult, numbers.back(), count)));
    }
    for (auto [number, q] : llvm::zip(numbers, loaded)) {
      if (rotates)
        q = b.hadamard(q, lane, HalfTile::kColumns, /*run=*/4);
      auto branch = scf::IfOp::create(
          b, b.compare(arith::CmpIPredicate::ult, number, shared.rows),
          /*withElseRegion=*/false);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      storeQuery(number, q);
    }
  }

private:
  void storeQuery(Value number, Values q) {
    for (Value &value : q)
      value = b.mulF(value, b.f32(scale * SharedRowsLayout::kQueryUnit));
    // Dims 4 lane .. + 3 are elements e of lane t's in half h of block c: of
    // the step of 16 columns 2 c + h, columns 2 t (e0 e2) and 8 + 2 t (e1 e3).
    Value step = b.shr(lane, 2), t = b.andBits(lane, 3);
    Value place = b.mul(b.shr(step, 2), shared.halfBytes());
    place = b.add(place, b.mul(number, HalfTile::kRowBytes));
    place = b.add(place, b.shl(t, 2));
    Value swizzle = b.andBits(number, HalfTile::kSwizzleRows - 1);
    Value chunk = b.shl(b.andBits(step, 3), 1);
    Value tile = b.at(base, shared.queries());
    for (size_t odd : {0, 1}) {
      Value at = arith::XOrIOp::create(
          b, b.add(chunk, static_cast<int64_t>(odd)), swizzle);
      Value address =
          b.at(tile, b.add(place, b.mul(at, HalfTile::kChunkBytes)));
      b.store(b.packHalves(q[odd], q[odd + 2]), address, 4);
    }
  }

  /// This lane's dims of a query, or zeros.
  Values loadQuery(Value pair, Value number, Value isThere) {
    SmallVector<Type> types(4, b.getF32Type());
    auto branch = scf::IfOp::create(b, types, isThere, /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, Values(4, b.f32(0.0)));
    b.setInsertionPointToStart(branch.thenBlock());
    // From row to row, queries of the other kv heads lie between.
    Value query = b.add(b.mul(pair, group), number);
    Value inRow = arith::DivUIOp::create(b, number, b.i32(group));
    query = b.add(query, b.mul(inRow, stride() - group));
    Value place = b.farAt(queries, query, HalfTile::kColumns * 4);
    Values loaded;
    for (Value word : b.loadWords(b.at(place, b.shl(lane, 4)), 4))
      loaded.push_back(b.bitcast(word, b.getF32Type()));
    scf::YieldOp::create(b, loaded);
    return Values(branch.getResults());
  }
};
} // namespace

void mlir::pmkvq::stageQueries(SegmentKernel &kernel,
                               const PageSegment &segment) {
  QueryStaging(kernel).run(segment);
}
