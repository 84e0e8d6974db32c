//===- FeedbackInLanes.cpp - Shifts with feedback on a GPU ----------------===//
//
// See FeedbackInLanes.h.
//
//===----------------------------------------------------------------------===//

#include "FeedbackInLanes.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "pmkvq_rt/Abi.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;

/// Head dims that a thread rounds between two visits of those before.
static constexpr int64_t kBlock = 8;
/// Tokens of a row of words; more than there are, so that the four lanes of a
/// token are in different banks.
static constexpr int64_t kRowTokens = rt::kPageTokens + 8;
static constexpr int64_t kGridBytes = 16;

FeedbackInLanes::FeedbackInLanes(LaneBuilder &b, StringRef kernel,
                                 const PageShape &shape, FormatAttr format,
                                 int32_t threads, Value slice, Value lane)
    : b(b), shape(shape), format(format), threads(threads), slice(slice),
      lane(lane),
      perHeadDim(format.getModel().getGroupAxis() == GroupAxis::HeadDim) {
  const int64_t wordBytes = shape.headDim / kQuad * kRowTokens * 4;
  const int64_t bytes = wordBytes + groups() * (4 + kGridBytes);
  auto type = LLVM::LLVMArrayType::get(b.getI8Type(), bytes);
  std::string name = (kernel + "_feedback").str();
  {
    OpBuilder::InsertionGuard guard(b);
    auto function =
        b.getInsertionBlock()->getParent()->getParentOfType<LLVM::LLVMFuncOp>();
    b.setInsertionPoint(function);
    LLVM::GlobalOp::create(b, type, /*isConstant=*/false,
                           LLVM::Linkage::Internal, name, Attribute(),
                           /*alignment=*/kGridBytes, kSharedSpace);
  }
  words = LLVM::AddressOfOp::create(b, b.pointer(kSharedSpace), name);
  grids = b.at(words, wordBytes);
  ranges = b.at(grids, groups() * kGridBytes);
  excess = LLVM::AllocaOp::create(b, b.pointer(0), b.getF32Type(),
                                  b.i32(shape.headDim), /*alignment=*/16);
}

int64_t FeedbackInLanes::groups() const {
  return perHeadDim ? shape.headDim : rt::kPageTokens;
}

void FeedbackInLanes::forEachGroup(function_ref<void(Value)> body) {
  auto loop =
      scf::ForOp::create(b, b.threadId(), b.i32(groups()), b.i32(threads));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  body(loop.getInductionVar());
}

void FeedbackInLanes::setRange(Value group, Value range) {
  b.store(range, b.at(ranges, b.shl(group, 2)), 4);
}

Value FeedbackInLanes::wordAddress(Value row, Value token) {
  return b.at(words, b.shl(b.add(b.mul(row, kRowTokens), token), 2));
}

/// Where the lane's word of a quad of the first slice is, in its own.
Value FeedbackInLanes::laneWord(QuadPlace quad) {
  Value token = b.add(b.shr(lane, 2), kRows * quad.row + 8 * quad.upper);
  Value row = b.add(b.andBits(lane, 3), quad.k * kQuad);
  Value blocks = b.mul(slice, shape.sliceBlocks());
  if (shape.sliceRows)
    token = b.add(token, b.mul(blocks, kRows));
  else
    row = b.add(row, b.mul(blocks, kQuad));
  return wordAddress(row, token);
}

void FeedbackInLanes::makeGrids(FeedbackRounding &rounding) {
  forEachGroup([&](Value group) {
    Value range = b.load(b.getF32Type(), b.at(ranges, b.shl(group, 2)), 4);
    FeedbackGrid grid = rounding.gridOf(b.pack({range}));
    Values parts;
    for (Value part : {grid.before, grid.offset, grid.step, grid.inverse})
      parts.push_back(b.unpack(part).front());
    Value place = b.at(grids, b.mul(group, kGridBytes));
    b.store(b.pack(parts), place, kGridBytes);
  });
}

/// The grid of head dim `dim` + `ahead`, or of the token.
FeedbackGrid FeedbackInLanes::gridAt(Value dim, int64_t ahead, Value token) {
  Value place = b.at(grids, b.mul(perHeadDim ? dim : token, kGridBytes));
  if (perHeadDim)
    place = b.at(place, ahead * kGridBytes);
  Values parts = b.unpack(b.load(b.floats(4), place, kGridBytes));
  for (Value &part : parts)
    part = b.pack({part});
  return {parts[0], parts[1], parts[2], parts[3]};
}

/// Four floats of a row of the factor.
static Values loadFour(LaneBuilder &b, Value address) {
  return b.unpack(b.load(b.floats(4), address, 16));
}

/// Adds to the targets of a block of head dims what all before it have more.
/// `rows`: of the factor; `first`: the block's first dim.
void FeedbackInLanes::takeIn(Value rows, Value first, Values &targets) {
  auto loop = scf::ForOp::create(b, b.i32(0), first, b.i32(kQuad), targets);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  Value byte = b.shl(loop.getInductionVar(), 2);
  Values left = loadFour(b, b.at(excess, byte));
  Value columns = b.at(rows, byte);
  Values next(loop.getRegionIterArgs());
  for (int64_t i = 0; i < kBlock; ++i) {
    Values row = loadFour(b, b.at(columns, i * shape.headDim * 4));
    for (int64_t k = 0; k < kQuad; ++k)
      next[i] = b.fma(row[k], left[k], next[i]);
  }
  scf::YieldOp::create(b, next);
  targets.assign(loop.getResults().begin(), loop.getResults().end());
}

/// Rounds four head dims of a block, one after the other, from `begin` on, and
/// adds what they have more to the block's later targets; gives their codes.
Value FeedbackInLanes::roundQuad(FeedbackRounding &rounding, Value rows,
                                 Value first, int64_t begin,
                                 ArrayRef<FeedbackGrid> gridOf,
                                 Values &targets) {
  Value columns = b.at(rows, b.shl(b.add(first, begin), 2));
  std::vector<Values> factors(kBlock);
  for (int64_t row = begin; row < kBlock; ++row)
    factors[row] = loadFour(b, b.at(columns, row * shape.headDim * 4));
  Value word;
  Values left;
  for (int64_t k = 0; k < kQuad; ++k) {
    const int64_t dim = begin + k;
    auto [code, more] = rounding.choose(b.pack({targets[dim]}), gridOf[dim]);
    left.push_back(b.unpack(more).front());
    for (int64_t later = dim + 1; later < kBlock; ++later)
      targets[later] = b.fma(factors[later][k], left.back(), targets[later]);
    Value byte = b.shl(b.unpack(code).front(), k * 8);
    word = word ? Value(arith::OrIOp::create(b, word, byte)) : byte;
  }
  Value place = b.at(excess, b.shl(b.add(first, begin), 2));
  b.store(b.pack(left), place, 16);
  return word;
}

/// A block of head dims of a token.
void FeedbackInLanes::shiftBlock(FeedbackRounding &rounding, Value factor,
                                 Value token, Value block) {
  Value first = b.mul(block, kBlock);
  Value rows = b.at(factor, b.mul(first, shape.headDim * 4));
  auto wordOf = [&](int64_t quad) {
    return wordAddress(b.add(b.mul(block, kBlock / kQuad), quad), token);
  };
  Values targets;
  SmallVector<FeedbackGrid> gridOf;
  for (int64_t quad = 0; quad < kBlock / kQuad; ++quad) {
    Value word = b.load(b.getI32Type(), wordOf(quad), 4);
    for (int64_t k = 0; k < kQuad; ++k) {
      gridOf.push_back(gridAt(first, quad * kQuad + k, token));
      Value code = b.andBits(b.shr(word, k * 8), 255);
      Value target = rounding.targetsOf(b.pack({code}), gridOf.back().before);
      targets.push_back(b.unpack(target).front());
    }
  }
  takeIn(rows, first, targets);
  for (int64_t quad = 0; quad < kBlock / kQuad; ++quad) {
    Value word =
        roundQuad(rounding, rows, first, quad * kQuad, gridOf, targets);
    b.store(word, wordOf(quad), 4);
  }
}

void FeedbackInLanes::shiftToken(FeedbackRounding &rounding, Value factor,
                                 Value token) {
  auto loop =
      scf::ForOp::create(b, b.i32(0), b.i32(shape.headDim / kBlock), b.i32(1));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  shiftBlock(rounding, factor, token, loop.getInductionVar());
}

void FeedbackInLanes::shift(LaneTile &tile, Value feedback) {
  auto part = [&](int64_t index) {
    return b.load(b.getF32Type(), b.at(feedback, index * 4), 4);
  };
  Value offset = part(rt::kKeyFeedbackOffset);
  Value step = part(rt::kKeyFeedbackStep);
  FeedbackRounding rounding(b, format, tile.level, offset, step);
  Value factor = b.at(feedback, rt::kKeyFeedbackFactor * 4);
  for (auto &[quad, codes] : tile.quads)
    b.store(codes.front(), laneWord(quad), 4);
  b.barrier();
  makeGrids(rounding);
  b.barrier();
  auto loop = scf::ForOp::create(b, b.threadId(), b.i32(rt::kPageTokens),
                                 b.i32(threads));
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    shiftToken(rounding, factor, loop.getInductionVar());
  }
  b.barrier();
  for (auto &[quad, codes] : tile.quads)
    codes = {b.load(b.getI32Type(), laneWord(quad), 4)};
  tile.level /= 2;
}
