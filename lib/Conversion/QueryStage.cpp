//===- QueryStage.cpp - Queries of decode in shared memory ----------------===//
//
// See QueryStage.h.
//
//===----------------------------------------------------------------------===//

#include "QueryStage.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include <limits>

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;
using ::pmkvq::SharedLayout;

/// Bytes of a set's factors, and of kStagedDims in a query operand.
static constexpr int64_t kSetBytes = SharedLayout::kColumns * 4;
static constexpr int64_t kStagedBytes = SharedLayout::kStagedDims * 16;

int64_t QueryStage::perQuery() {
  constexpr int64_t dims = SharedLayout::kStagedDims;
  return 4 * ((shared.headDim + dims - 1) / dims);
}

Value QueryStage::lanesWithDims() {
  return shared.headDim < SharedLayout::kStagedDims
             ? b.compare(arith::CmpIPredicate::ult, lane, shared.headDim / 4)
             : Value();
}

Values QueryStage::load(Value pair, Value moreRows) {
  Values all;
  for (int64_t set = 0; set < shared.sets(); ++set)
    llvm::append_range(
        all,
        loadQuery(pair, moreRows, b.add(warp, set * SharedLayout::kColumns)));
  return all;
}

Values QueryStage::loadQuery(Value pair, Value moreRows, Value number) {
  SmallVector<Type> types(perQuery(), b.getF32Type());
  Value count = b.i32(shared.group);
  if (shared.rows > 1)
    count = b.mul(b.add(moreRows, 1), shared.group);
  Value exists = b.compare(arith::CmpIPredicate::ult, number, count);
  if (Value hasDims = lanesWithDims())
    exists = arith::AndIOp::create(b, exists, hasDims);
  auto branch = scf::IfOp::create(b, types, exists, /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.elseBlock());
  scf::YieldOp::create(b, Values(perQuery(), b.f32(0.0)));
  b.setInsertionPointToStart(branch.thenBlock());
  Value query = b.add(b.mul(pair, shared.group), number);
  if (shared.rows > 1) {
    // From row to row, queries of the other kv heads lie between.
    Value row = arith::DivUIOp::create(b, number, b.i32(shared.group));
    query = b.add(query, b.mul(row, (kvHeads - 1) * shared.group));
  }
  Value place = b.mul(query, shared.headDim * 4);
  place = b.add(place, b.shl(lane, 4));
  Value mine = b.at(queries, place);
  Values loaded;
  for (int64_t i = 0; i < perQuery(); i += 4)
    for (Value word : b.loadWords(b.at(mine, i * SharedLayout::kStagedDims), 4))
      loaded.push_back(b.bitcast(word, b.getF32Type()));
  scf::YieldOp::create(b, loaded);
  return Values(branch.getResults());
}

void QueryStage::store(const Values &q) {
  Value exists = b.compare(arith::CmpIPredicate::ult, warp, shared.queries());
  auto branch = scf::IfOp::create(b, exists, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  for (int64_t set = 0; set < shared.sets(); ++set) {
    Values mine(ArrayRef<Value>(q).slice(set * perQuery(), perQuery()));
    // Not where they are loaded: that is long before, and would wait for
    // them.
    if (rotates)
      mine = b.hadamard(mine, lane, shared.headDim, /*run=*/4);
    if (llvm::any_of(kinds, [](rt::UnitKind k) { return k.key < 16; }))
      storeHalves(mine, set);
    if (llvm::any_of(kinds, [](rt::UnitKind k) { return k.key == 16; }))
      storeBrainFloats(mine, set);
  }
}

void QueryStage::ifDims(function_ref<void()> action) {
  Value hasDims = lanesWithDims();
  if (!hasDims)
    return action();
  auto branch = scf::IfOp::create(b, hasDims, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(branch.thenBlock());
  action();
}

int64_t QueryStage::columnsPerQuery() { return 2 / shared.laneStride(); }

Value QueryStage::columnPlace(int64_t start) {
  int64_t bytes = columnsPerQuery() * SharedLayout::kColumnBytes;
  Value columns = b.at(base, start);
  return b.at(columns, b.mul(warp, bytes));
}

void QueryStage::storeHalves(Values &q, int64_t set) {
  Value largest;
  for (Value value : q) {
    Value bits = b.andBits(b.bitcast(value, b.getI32Type()), 0x7fffffff);
    largest = largest ? Value(arith::MaxUIOp::create(b, largest, bits)) : bits;
  }
  Value exponent = b.shr(b.maxOverWarp(largest), 23);
  constexpr int64_t kNotFinite = 255;
  Value isFinite = b.compare(arith::CmpIPredicate::ult, exponent, kNotFinite);
  exponent = arith::MaxUIOp::create(b, exponent, b.i32(1));
  exponent = arith::MinUIOp::create(b, exponent, b.i32(251));
  // The largest lands in [1/4, 1/2): times the largest f16 it is below 2^15.
  auto power = [&](Value biased) {
    return b.bitcast(b.shl(biased, 23), b.getF32Type());
  };
  Value normalize = power(b.sub(b.i32(252), exponent));
  // Bytes cannot say that a query is no number; the factor of its scores can.
  Value restore = b.select(isFinite, power(b.add(exponent, 2)),
                           b.f32(std::numeric_limits<float>::quiet_NaN()));
  auto write = scf::IfOp::create(b, isLeader, /*withElseRegion=*/false);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(write.thenBlock());
    Value factor = b.mulF(restore, b.f32(scale));
    Value factors = b.at(base, shared.factors() + set * kSetBytes);
    b.store(factor, b.at(factors, b.shl(warp, 2)), 4);
  }
  Values scaled;
  for (Value value : q)
    scaled.push_back(b.mulF(value, normalize));
  Values words;
  for (size_t i = 0; i < q.size(); i += 2)
    words.push_back(b.packHalves(scaled[i], scaled[i + 1]));
  for (size_t i = 0; i < q.size(); ++i)
    q[i] = b.mulF(b.half(words[i / 2], static_cast<int64_t>(i % 2)), restore);
  // Dims 4 lane .. + 3 = 32 kb + 16 h + 4 t .. + 3: words 2 h, 2 h + 1 of
  // lane (g, t), vector kb; the next kStagedDims four vectors on.
  Value kb = b.shr(lane, 3), h = b.andBits(b.shr(lane, 2), 1),
        t = b.andBits(lane, 3);
  Value place = b.shl(kb, 9);
  place = b.add(place, b.shl(t, 4));
  place = b.add(place, b.shl(h, 3));
  Value address = b.at(
      columnPlace(shared.halfQueries() + set * shared.operandBytes()), place);
  ifDims([&] {
    for (int64_t i = 0; i < perQuery() / 4; ++i)
      for (int64_t column = 0; column < columnsPerQuery(); ++column)
        b.storeWords({words[2 * i], words[2 * i + 1]},
                     b.at(address, i * kStagedBytes +
                                       column * SharedLayout::kColumnBytes));
  });
}

void QueryStage::storeBrainFloats(const Values &q, int64_t set) {
  // Dims 4 lane .. + 3, a quad of lanes t of block lane / 4: words
  // (block % 2) * 2, + 1 of lane (g, t), vector block / 2; the next
  // kStagedDims four vectors on.
  Value block = b.shr(lane, 2), t = b.andBits(lane, 3);
  Value place = b.shl(b.shr(block, 1), 9);
  place = b.add(place, b.shl(t, 4));
  place = b.add(place, b.shl(b.andBits(block, 1), 3));
  Value address =
      b.at(columnPlace(shared.rawQueries() + set * 2 * shared.operandBytes()),
           place);
  int64_t toRest = shared.operands() == 1 ? SharedLayout::kColumnBytes
                                          : shared.operandBytes();
  Values rounded, rest;
  for (size_t i = 0; i < q.size() / 2; ++i) {
    Value low = q[2 * i], high = q[2 * i + 1];
    rounded.push_back(b.packBrainFloats(low, high));
    Value lowBack = b.bitcast(b.shl(rounded[i], 16), b.getF32Type());
    Value highBack =
        b.bitcast(b.andBits(rounded[i], static_cast<int32_t>(0xffff0000)),
                  b.getF32Type());
    Value lowRest = b.subF(low, lowBack);
    rest.push_back(b.packBrainFloats(lowRest, b.subF(high, highBack)));
  }
  ifDims([&] {
    for (int64_t i = 0; i < perQuery() / 4; ++i)
      for (auto [words, offset] :
           {std::pair(&rounded, int64_t{0}), {&rest, toRest}})
        b.storeWords({(*words)[2 * i], (*words)[2 * i + 1]},
                     b.at(address, i * kStagedBytes + offset));
  });
}
