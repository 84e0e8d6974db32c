//===- AppendToLanes.cpp - Kernels that append as code of lanes -----------===//
//
// Turns the kernel in tile form that rotates and stores new tokens into a
// function of a gpu.module.  Neighbours: TileKernels.cpp (the tile form),
// FragmentLayout.h (where a token's elements lie), DeviceAbi.h (arguments).
//
// Mental model.  A warp takes one row and kv head, keys and then values; a lane
// holds head_dim / 32 neighbouring dims or, where that is no power of two, 4,
// so that the last lanes have none: they do what the last one with dims does,
// and store nothing.  Rotations pair dims of one lane, of lanes whose numbers
// differ in one bit, or of the first half of lanes and the second.
//
//===----------------------------------------------------------------------===//

#include "LanePass.h"
#include "LinearMap.h"
#include "mlir/Dialect/GPU/IR/GPUDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Passes.h"
#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq_rt/DeviceAbi.h"
#include "llvm/ADT/TypeSwitch.h"

namespace mlir::pmkvq {
#define GEN_PASS_DEF_CONVERTAPPENDTOLANES
#include "pmkvq/Passes.h.inc"
} // namespace mlir::pmkvq

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
using ::pmkvq::FragmentLayout;
namespace rt = ::pmkvq::rt;

namespace {
constexpr int64_t kWarpLanes = FragmentLayout::kLanes;

class AppendLowering {
public:
  AppendLowering(KernelOp kernel, OpBuilder &at)
      : kernel(kernel), b(kernel.getLoc(), at) {}

  LogicalResult run() {
    if (failed(match()))
      return failure();
    startLanes();
    for (Operation &op : *loop.getBody()) {
      LogicalResult lowered =
          llvm::TypeSwitch<Operation *, LogicalResult>(&op)
              .Case<LoadRowsOp, RotaryOp, HadamardOp, StoreFixedOp>(
                  [&](auto op) { return lower(op); })
              .Case<arith::ConstantOp, scf::YieldOp>(
                  [](auto) { return success(); })
              .Default([](Operation *op) {
                return op->emitOpError("has no form in lanes of a GPU");
              });
      if (failed(lowered))
        return failure();
    }
    return success();
  }

private:
  LogicalResult match() {
    auto loops = kernel.getBody().front().getOps<scf::ForOp>();
    auto places = kernel.getBody().front().getOps<RowPlaceOp>();
    if (!llvm::hasSingleElement(loops) || !llvm::hasSingleElement(places))
      return kernel.emitOpError("expected one loop over the heads of a row");
    loop = *loops.begin();
    cache = dyn_cast<CacheType>(kernel.getFunctionType().getInput(0));
    if (!cache)
      return kernel.emitOpError("expected a cache as its first argument");
    headDim = cache.getHeadDim();
    return success();
  }

  int64_t perLane() const { return lanes() < kWarpLanes ? 4 : headDim / 32; }
  /// Lanes that have dims.
  int64_t lanes() const {
    return headDim % (2 * kWarpLanes) ? headDim / 4 : kWarpLanes;
  }

  void startLanes() {
    Value arguments = b.startFunction(kernel.getSymName(),
                                      sizeof(rt::AppendArgs), kWarpLanes);
    auto pointer = [&](size_t offset) {
      return b.pointerArgument(arguments, offset);
    };
    ValueRange inputs = kernel.getBody().front().getArguments();
    sources[inputs[2]] = pointer(offsetof(rt::AppendArgs, keys));
    sources[inputs[3]] = pointer(offsetof(rt::AppendArgs, values));
    if (inputs.size() > 5) {
      sources[inputs[4]] = pointer(offsetof(rt::AppendArgs, cosines));
      sources[inputs[5]] = pointer(offsetof(rt::AppendArgs, sines));
    }
    Value codes = pointer(offsetof(rt::AppendArgs, codes));
    Value tasks = pointer(offsetof(rt::AppendArgs, tasks));
    Value heads = b.i32(cache.getKvHeads());
    Value block = b.blockId();
    row = arith::DivUIOp::create(b, block, heads);
    Value head = b.sub(block, b.mul(row, heads));
    pair = block;
    lane = b.threadId();
    mine = lanes() == kWarpLanes
               ? lane
               : Value(arith::MinUIOp::create(b, lane, b.i32(lanes() - 1)));
    isLower = b.compare(arith::CmpIPredicate::ult, mine, lanes() / 2);
    Values task =
        b.loadWords(b.at(tasks, b.mul(row, sizeof(rt::AppendTask))), 2);
    token = task[1];
    area = b.atRecord(codes, task[0], rt::kDeviceGrainBytes);
    area = b.at(area, b.mul(head, rt::kParts * partBytes()));
    // Of a unit that begins, the rest must be finite (DeviceAbi.h).
    Value begins = b.compare(arith::CmpIPredicate::eq,
                             b.andBits(token, kUnitTokens - 1), 0);
    auto branch = scf::IfOp::create(b, begins, /*withElseRegion=*/false);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(branch.thenBlock());
      for (rt::Part part : {rt::kKey, rt::kValue})
        clearUnit(part);
    }
    b.syncWarp();
  }

  static constexpr int64_t kUnitTokens = rt::tokensPerBlock(16);

  int64_t partBytes() const {
    return rt::deviceFixedTokens(cache.getSink()) * headDim * 2;
  }

  /// Where tokens 0 .. 15 of this token's unit begin.
  Value unit(rt::Part part) {
    Value bytes = b.mul(b.shr(token, llvm::Log2_64(kUnitTokens)),
                        rt::blockBytes(headDim));
    return b.at(b.at(area, part * partBytes()), bytes);
  }

  void clearUnit(rt::Part part) {
    Value zero = b.i32(0);
    Value address = unit(part);
    address = b.at(address, b.shl(lane, 4));
    for (int64_t byte = 0; byte < rt::blockBytes(headDim);
         byte += FragmentLayout::kVectorBytes)
      b.storeWords({zero, zero, zero, zero}, b.at(address, byte));
  }

  /// The lane's dims of row `index` of rows of `width` floats, every lane from
  /// its `first`.
  Values loadFloats(Value source, Value index, int64_t width, Value first) {
    Value at = b.atRecord(source, index, width * 4);
    at = b.at(at, b.shl(first, 2));
    Values loaded;
    for (int64_t i = 0; i < perLane();) {
      int64_t count = perLane() - i >= 4 ? 4 : 2;
      for (Value word : b.loadWords(b.at(at, i * 4), count))
        loaded.push_back(b.bitcast(word, b.getF32Type()));
      i += count;
    }
    return loaded;
  }

  LogicalResult lower(LoadRowsOp op) {
    Value source = sources.lookup(op.getSource());
    if (!source || op.getType().getQueries() != 1)
      return op.emitOpError("expected one row of a kernel's argument");
    rows[op.getResult()] =
        loadFloats(source, pair, headDim, b.mul(mine, perLane()));
    return success();
  }

  /// Rounded as on the CPU: no product is contracted into a sum.
  LogicalResult lower(RotaryOp op) {
    Value cosines = sources.lookup(op.getCosines());
    Value sines = sources.lookup(op.getSines());
    if (!cosines || !sines)
      return op.emitOpError("expected angles that are arguments of the kernel");
    // The lower half of the dims is in the lower half of the lanes.
    const int64_t half = lanes() / 2;
    Value below = b.sub(mine, b.i32(half));
    Value first = b.mul(b.select(isLower, mine, below), perLane());
    Value other = b.select(isLower, b.add(mine, half), below);
    Values cos = loadFloats(cosines, row, headDim / 2, first);
    Values sin = loadFloats(sines, row, headDim / 2, first);
    Values rotated;
    for (auto [x, c, s] : llvm::zip(rows.at(op.getSource()), cos, sin)) {
      Value along = arith::MulFOp::create(b, x, c);
      Value theirs = b.bitcast(b.shuffle(b.bitcast(x, b.getI32Type()), other),
                               b.getF32Type());
      Value across = arith::MulFOp::create(b, theirs, s);
      Value negative = arith::NegFOp::create(b, across);
      rotated.push_back(
          arith::AddFOp::create(b, along, b.select(isLower, negative, across)));
    }
    rows[op.getResult()] = rotated;
    return success();
  }

  LogicalResult lower(HadamardOp op) {
    rows[op.getResult()] =
        b.hadamard(rows.at(op.getSource()), lane, headDim, perLane());
    return success();
  }

  LogicalResult lower(StoreFixedOp op) {
    const Values &x = rows.at(op.getRows());
    auto part = static_cast<rt::Part>(op.getPart());
    FragmentLayout layout{part, 16, static_cast<int32_t>(kUnitTokens), headDim};
    auto byteOf = [&](int64_t token, int64_t dim) {
      return layout.place(token, dim).byte;
    };
    Value place = emitLinear(b, b.andBits(token, kUnitTokens - 1), kUnitTokens,
                             [&](int64_t i) { return byteOf(i, 0); });
    place = b.add(place, emitLinear(b, mine, lanes(), [&](int64_t i) {
                    return byteOf(0, i * perLane());
                  }));
    Value address = b.at(unit(part), place);
    OpBuilder::InsertionGuard guard(b);
    if (lanes() < kWarpLanes) {
      Value has = b.compare(arith::CmpIPredicate::ult, lane, lanes());
      auto branch = scf::IfOp::create(b, has, /*withElseRegion=*/false);
      b.setInsertionPointToStart(branch.thenBlock());
    }
    for (int64_t i = 0; i < perLane(); i += 2) {
      Value word = b.packBrainFloats(x[i], x[i + 1]);
      // Neighbouring dims share a word of keys, but not of values.
      if (part == rt::kKey) {
        b.store(word, b.at(address, byteOf(0, i)), 4);
        continue;
      }
      for (int64_t j : {0, 1}) {
        Value bits = arith::TruncIOp::create(b, b.getI16Type(),
                                             j ? b.shr(word, 16) : word);
        b.store(bits, b.at(address, byteOf(0, i + j)), 2);
      }
    }
    return success();
  }

  KernelOp kernel;
  LaneBuilder b;
  CacheType cache;
  scf::ForOp loop;
  int64_t headDim = 0;
  /// Addresses of arguments that are rows of floats.
  DenseMap<Value, Value> sources;
  DenseMap<Value, Values> rows;
  /// The warp's lane; whose dims it has, and whether they are of the lower
  /// half.
  Value lane, mine, isLower;
  Value row, pair, token, area;
};

class ConvertAppendToLanesPass
    : public mlir::pmkvq::impl::ConvertAppendToLanesBase<
          ConvertAppendToLanesPass> {
public:
  void getDependentDialects(DialectRegistry &registry) const override {
    registerLaneDialects(registry);
  }

  void runOnOperation() override {
    if (failed(lowerKernels<RowPlaceOp, AppendLowering>(getOperation())))
      signalPassFailure();
  }
};
} // namespace
