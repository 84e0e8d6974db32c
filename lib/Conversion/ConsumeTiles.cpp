//===- ConsumeTiles.cpp - The multiplying warpgroups ----------------------===//
//
// Queries to shared memory, then scores, weights and outputs, page by page.
// Neighbours: PrefillKernel.h, LowerTileProducts.cpp and LowerTileSoftmax.cpp
// (lower what is left here).
//
// A warpgroup starts the product of the next page's keys before it has weighed
// this one's scores, and the two take turns in doing so: while one of them
// weighs, the other multiplies.
//
//===----------------------------------------------------------------------===//

#include "PrefillKernel.h"
#include "pmkvq_rt/DeviceAbi.h"
#include <limits>

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;

namespace {
/// Names of the barriers that warpgroups meet at; 0 is the whole block's.
enum NamedBarrier { kFirstTurn = 1, kQueriesStaged = 3 };

class TileConsumer : PrefillKernel {
public:
  explicit TileConsumer(const PrefillKernel &kernel) : PrefillKernel(kernel) {}

  void consume(Value consumer) {
    OpBuilder::InsertionGuard guard(b);
    stageQueries(consumer);
    b.fenceShared();
    b.syncThreads(b.add(consumer, kQueriesStaged), PrefillLayout::kWarpgroup);
    prepareLane(consumer);
    // The first warpgroup's turn comes first.
    Value second = b.compare(arith::CmpIPredicate::eq, consumer, 1);
    auto branch = scf::IfOp::create(b, second, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(branch.thenBlock());
      b.arriveThreads(b.i32(kFirstTurn), kTurnThreads);
    }
    State state = attendFirst();
    SmallVector<Value> init = {b.i32(0), b.i32(0)};
    state.append(init);
    auto loop = scf::ForOp::create(b, b.i32(1), pageCount, b.i32(1), init);
    {
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(loop.getBody());
      attendPage(loop, consumer);
    }
    ValueRange after = loop.getResults();
    Turn turn = {after[0], after[1]};
    after = after.drop_front(2);
    state = State::take(after);
    b.waitBarrier(barrierOf(PrefillLayout::kFullValues, turn.stage),
                  turn.parity);
    state.outputs = await(valueProduct(state, turn.stage), 0);
    finish(state);
  }

private:
  //===--------------------------------------------------------------------===//
  // Queries
  //===--------------------------------------------------------------------===//

  /// Address of row `row` (an i32, of 128) of queries or results.
  Value rowAt(Value start, Value token, Value head) {
    Value row = b.add(b.mul(b.add(taskRow, token), heads), head);
    return b.farAt(start, row, HalfTile::kColumns * 4);
  }

  std::pair<Value, Value> tokenAndHead(Value row) {
    Value token = arith::DivUIOp::create(b, row, b.i32(group));
    Value first = b.mul(taskHead, group);
    Value head = b.add(first, b.sub(row, b.mul(token, group)));
    return {token, head};
  }

  /// The warpgroup's 64 rows to shared memory in f16, dims in the order of
  /// keys' tiles, each row normalized by a power of two.  16 lanes take a row.
  void stageQueries(Value consumer) {
    Value thread = b.andBits(b.threadId(), PrefillLayout::kWarpgroup - 1);
    constexpr int64_t chunks = HalfTile::kColumns / HalfTile::kChunkColumns;
    constexpr int64_t rowsAtOnce = PrefillLayout::kWarpgroup / chunks;
    Value chunk = b.andBits(thread, chunks - 1);
    auto loop = scf::ForOp::create(
        b, b.i32(0), b.i32(PrefillLayout::kConsumerRows / rowsAtOnce),
        b.i32(1));
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value first = b.mul(consumer, PrefillLayout::kConsumerRows);
    Value inRound = b.mul(loop.getInductionVar(), rowsAtOnce);
    inRound = b.add(inRound, b.shr(thread, llvm::Log2_64(chunks)));
    Value row = b.add(first, inRound);
    Values elements = loadChunk(row, chunk);
    Value factor = normalize(elements);
    Value leads = b.compare(arith::CmpIPredicate::eq, chunk, 0);
    auto branch = scf::IfOp::create(b, leads, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard inner(b);
      b.setInsertionPointToStart(branch.thenBlock());
      Value factors = b.at(base, shared.factors());
      b.store(factor, b.at(factors, b.shl(row, 2)), 4);
    }
    Values words;
    for (size_t i : {0, 4})
      for (size_t e : {0, 1})
        words.push_back(b.packHalves(elements[i + e], elements[i + e + 2]));
    // The half that the chunk is in, and its place there.
    Value place =
        b.andBits(chunk, HalfTile::kHalfColumns / HalfTile::kChunkColumns - 1);
    place = arith::XOrIOp::create(b, place,
                                  b.andBits(row, HalfTile::kSwizzleRows - 1));
    Value offset = b.mul(b.shr(chunk, 3), HalfTile::kHalfBytes);
    offset = b.add(offset, b.mul(row, HalfTile::kRowBytes));
    offset = b.add(offset, b.mul(place, HalfTile::kChunkBytes));
    b.storeWords(words, b.at(b.at(base, shared.queries()), offset));
  }

  /// Dims 32 c + 4 t .. + 3 and those 16 further, of chunk 8 (c / 2) + 2 t + c
  /// % 2; zeros beyond the task's rows.
  Values loadChunk(Value row, Value chunk) {
    auto [token, head] = tokenAndHead(row);
    Value c = b.shl(b.shr(chunk, 3), 1);
    c = b.add(c, b.andBits(chunk, 1));
    Value t = b.andBits(b.shr(chunk, 1), 3);
    Value dim = b.mul(c, 32);
    dim = b.add(dim, b.mul(t, 4));
    Value exists = b.compare(arith::CmpIPredicate::ult, token, taskRows);
    SmallVector<Type> types(8, b.getF32Type());
    auto branch = scf::IfOp::create(b, types, exists, /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, Values(8, b.f32(0.0)));
    b.setInsertionPointToStart(branch.thenBlock());
    Value place = rowAt(queries, token, head);
    place = b.at(place, b.shl(dim, 2));
    Values loaded;
    for (int64_t h : {0, 1})
      for (Value word : b.loadConstantWords(b.at(place, h * 16 * 4), 4))
        loaded.push_back(b.bitcast(word, b.getF32Type()));
    scf::YieldOp::create(b, loaded);
    return Values(branch.getResults());
  }

  /// Scales a row's elements so that the largest lands in [1/4, 1/2), and gives
  /// what turns its scores into units of log2.
  Value normalize(Values &elements) {
    Value largest;
    for (Value value : elements) {
      Value bits = b.andBits(b.bitcast(value, b.getI32Type()), 0x7fffffff);
      largest =
          largest ? Value(arith::MaxUIOp::create(b, largest, bits)) : bits;
    }
    for (int64_t mask : {1, 2, 4, 8})
      largest = arith::MaxUIOp::create(b, largest, b.shuffleXor(largest, mask));
    constexpr int64_t kNotFinite = 255;
    Value exponent = b.shr(largest, 23);
    Value isFinite = b.compare(arith::CmpIPredicate::ult, exponent, kNotFinite);
    exponent = arith::MaxUIOp::create(b, exponent, b.i32(1));
    exponent = arith::MinUIOp::create(b, exponent, b.i32(251));
    auto power = [&](Value biased) {
      return b.bitcast(b.shl(biased, 23), b.getF32Type());
    };
    Value by = power(b.sub(b.i32(252), exponent));
    for (Value &value : elements)
      value = b.mulF(value, by);
    Value restore = b.select(isFinite, power(b.add(exponent, 2)),
                             b.f32(std::numeric_limits<float>::quiet_NaN()));
    return b.mulF(restore, b.f32(scale / HalfTile::kUnit));
  }

  //===--------------------------------------------------------------------===//
  // The multiplying warpgroups
  //===--------------------------------------------------------------------===//

  /// What a lane carries from page to page.
  struct State {
    Value maximum[2], sum[2];
    /// Weights of the page before, whose registers its scores had.
    Values scores;
    Values weights, outputs;

    void append(SmallVectorImpl<Value> &to) const {
      llvm::append_range(to, maximum);
      llvm::append_range(to, sum);
      for (const Values *values : {&scores, &weights, &outputs})
        llvm::append_range(to, *values);
    }
    static State take(ValueRange &from) {
      State state;
      auto next = [&](auto &values) {
        for (Value &value : values) {
          value = from.front();
          from = from.drop_front();
        }
      };
      state.scores.resize(64);
      state.weights.resize(32);
      state.outputs.resize(64);
      next(state.maximum);
      next(state.sum);
      next(state.scores);
      next(state.weights);
      next(state.outputs);
      return state;
    }
  };

  /// The first of a thread's two rows, of the task's 128.
  Value rowOf(Value thread) {
    Value consumer = b.sub(b.shr(thread, 7), b.i32(PrefillLayout::kProducers));
    Value inWarpgroup = b.shl(b.andBits(b.shr(thread, 5), 3), 4);
    inWarpgroup = b.add(inWarpgroup, b.andBits(b.shr(thread, 2), 7));
    return b.add(b.mul(consumer, PrefillLayout::kConsumerRows), inWarpgroup);
  }

  /// Hides what the rows must not see, where there is any.
  Values mask(const Values &scores, const Values &limits) {
    auto visible = [&](Value rowToken) -> Value {
      return arith::MinSIOp::create(b, b.add(limits[0], rowToken), limits[1]);
    };
    Value hides = b.compare(arith::CmpIPredicate::slt,
                            arith::MinSIOp::create(b, limits[0], limits[1]),
                            rt::kPageTokens);
    auto branch =
        scf::IfOp::create(b, ValueRange(scores).getTypes(), hides,
                          /*addThenBlock=*/true, /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    // Seldom run: what it needs is not kept for it.
    Value thread = b.forget(b.threadId());
    Value row = rowOf(thread);
    Value packed = b.pack(scores), quad = b.andBits(thread, 3);
    Value first = visible(tokenAndHead(row).first);
    Value second = visible(tokenAndHead(b.add(row, 8)).first);
    Value masked = MaskScoresOp::create(b, packed, quad, first, second);
    scf::YieldOp::create(b, b.unpack(masked));
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, scores);
    return Values(branch.getResults());
  }

  TileSoftmaxOp weigh(State &state, const Values &scores, bool first) {
    auto op = TileSoftmaxOp::create(
        b, b.floats(64), b.getF32Type(), b.getF32Type(), b.getF32Type(),
        b.getF32Type(), b.getI1Type(), b.getF32Type(), b.getF32Type(),
        b.pack(scores), state.maximum[0], state.maximum[1], state.sum[0],
        state.sum[1], factors[0], factors[1], first, /*far=*/wideRanges);
    state.scores = b.unpack(op.getWeights());
    state.maximum[0] = op.getNextMax0();
    state.maximum[1] = op.getNextMax1();
    state.sum[0] = op.getNextSum0();
    state.sum[1] = op.getNextSum1();
    return op;
  }

  void packWeights(State &state) {
    state.weights =
        b.unpack(PackWeightsOp::create(b, b.words(32), b.pack(state.scores)));
  }

  Values await(const Values &registers, int64_t pending) {
    return b.unpack(AwaitProductsOp::create(b, b.pack(registers), pending));
  }

  Values scoreProduct(const State &state, Value stage) {
    Value keys = tileAt(rt::kKey, stage);
    return b.unpack(ScoreProductOp::create(b, b.floats(64), myQueries, keys,
                                           b.pack(state.scores)));
  }

  Values valueProduct(const State &state, Value stage) {
    Value outputs = b.pack(state.outputs), weights = b.pack(state.weights);
    return b.unpack(ValueProductOp::create(b, b.floats(64), outputs, weights,
                                           tileAt(rt::kValue, stage)));
  }

  /// The lane's two rows, their tokens and factors.
  void prepareLane(Value consumer) {
    Value first = b.mul(consumer, PrefillLayout::kConsumerRows);
    myQueries = b.at(base, shared.queries());
    myQueries = b.at(myQueries, b.mul(first, HalfTile::kRowBytes));
    Value row = rowOf(b.threadId());
    for (int64_t i : {0, 1}) {
      rows[i] = b.add(row, 8 * i);
      Value all = b.at(base, shared.factors());
      factors[i] = b.load(b.getF32Type(), b.at(all, b.shl(rows[i], 2)), 4);
    }
  }

  State attendFirst() {
    State state;
    Value zero = b.f32(0.0);
    state.outputs = state.scores = Values(64, zero);
    for (int64_t i : {0, 1})
      state.maximum[i] = state.sum[i] = zero;
    Value stage = b.i32(0);
    b.waitBarrier(barrierOf(PrefillLayout::kFullKeys, stage), b.i32(0));
    Values scores = await(scoreProduct(state, stage), 0);
    Values limits = b.loadWords(limitsAt(stage), 2);
    arrive(PrefillLayout::kEmptyKeys, stage);
    weigh(state, mask(scores, limits), /*first=*/true);
    packWeights(state);
    return state;
  }

  /// Scores of page p, and outputs of page p - 1.
  void attendPage(scf::ForOp loop, Value consumer) {
    ValueRange carried = loop.getRegionIterArgs();
    Turn before = {carried[0], carried[1]};
    carried = carried.drop_front(2);
    State state = State::take(carried);
    Turn turn = nextTurn(before);

    b.waitBarrier(barrierOf(PrefillLayout::kFullKeys, turn.stage), turn.parity);
    b.syncThreads(b.add(consumer, kFirstTurn), kTurnThreads);
    Values scores = scoreProduct(state, turn.stage);
    b.waitBarrier(barrierOf(PrefillLayout::kFullValues, before.stage),
                  before.parity);
    Values outputs = valueProduct(state, before.stage);
    b.arriveThreads(b.add(b.xorBits(consumer, 1), kFirstTurn), kTurnThreads);
    scores = await(scores, 1);
    Values limits = b.loadWords(limitsAt(turn.stage), 2);
    arrive(PrefillLayout::kEmptyKeys, turn.stage);
    TileSoftmaxOp softmax = weigh(state, mask(scores, limits), /*first=*/false);
    outputs = await(outputs, 0);
    arrive(PrefillLayout::kEmptyValues, before.stage);
    packWeights(state);
    state.outputs = rescale(outputs, softmax);

    SmallVector<Value> yielded = {turn.stage, turn.parity};
    state.append(yielded);
    scf::YieldOp::create(b, yielded);
  }

  Values rescale(const Values &outputs, TileSoftmaxOp softmax) {
    auto branch = scf::IfOp::create(
        b, ValueRange(outputs).getTypes(), softmax.getRescaled(),
        /*addThenBlock=*/true, /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(branch.thenBlock());
    Values scaled;
    for (size_t i = 0; i < outputs.size(); ++i)
      scaled.push_back(b.mulF(outputs[i], i / 2 % 2 ? softmax.getRescale1()
                                                    : softmax.getRescale0()));
    scf::YieldOp::create(b, scaled);
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, outputs);
    return Values(branch.getResults());
  }

  /// Outputs divided by sums, to memory.
  void finish(const State &state) {
    for (int64_t i : {0, 1}) {
      Value sum = state.sum[i];
      for (int64_t mask : {1, 2})
        sum = b.addF(sum, b.shuffleXor(sum, mask));
      Value inverse = b.reciprocal(b.mulF(sum, b.f32(HalfTile::kUnit)));
      auto [token, head] = tokenAndHead(rows[i]);
      Value exists = b.compare(arith::CmpIPredicate::ult, token, taskRows);
      auto branch = scf::IfOp::create(b, exists, /*withElseRegion=*/false);
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      Value place = rowAt(results, token, head);
      place = b.at(place, b.shl(b.andBits(lane, 3), 3));
      for (size_t block = 0; block < 16; ++block) {
        Values words;
        for (size_t j : {0, 1})
          words.push_back(
              b.bitcast(b.mulF(state.outputs[4 * block + 2 * i + j], inverse),
                        b.getI32Type()));
        b.storeWords(words, b.at(place, static_cast<int64_t>(block) * 32));
      }
    }
  }

  static constexpr int64_t kTurnThreads =
      PrefillLayout::kConsumers * PrefillLayout::kWarpgroup;

  Value myQueries, rows[2], factors[2];
};
} // namespace

void mlir::pmkvq::consumeTiles(const PrefillKernel &kernel, Value consumer) {
  TileConsumer(kernel).consume(consumer);
}
