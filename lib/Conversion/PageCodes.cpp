//===- PageCodes.cpp - A page's codes to lanes and back -------------------===//
//
// See PageCodes.h.
//
//===----------------------------------------------------------------------===//

#include "PageCodes.h"

using namespace mlir;
using namespace mlir::pmkvq;
using Values = LaneBuilder::Values;
namespace rt = ::pmkvq::rt;

/// Address of words of a lane that begin at the quad's, in this warp's slice.
/// Their block's number may depend on the slice, as may how far lanes lie
/// apart.
Value PageCodes::vectorAddress(const PageOrder &order, QuadPlace quad) {
  auto find = [&](int64_t s) { return order.find(shape.inSlice(quad, s)); };
  PageOrder::Word first = find(0);
  std::vector<int64_t> numbers;
  for (int64_t s = 0; s < shape.slices(); ++s)
    numbers.push_back(find(s).block);
  Value &base = blocks[numbers];
  if (!base) {
    Value number =
        b.add(bySlice([&](int64_t s) { return numbers[s]; }), numbers.front());
    Value id = b.load(b.getI32Type(), b.at(task, b.shl(number, 2)), 4);
    base = b.atRecord(codes, id, rt::blockBytes(shape.headDim));
  }
  Value byte =
      b.add(bySlice([&](int64_t s) { return find(s).byte; }), first.byte);
  std::vector<int64_t> strides;
  for (int64_t s = 0; s < shape.slices(); ++s)
    strides.push_back(find(s).laneBytes);
  Value &ofLane = lanePlaces[strides];
  if (!ofLane && llvm::all_equal(strides))
    ofLane = b.shl(lane, llvm::Log2_64(strides.front()));
  if (!ofLane)
    ofLane = b.mul(lane, b.add(bySlice([&](int64_t s) { return strides[s]; }),
                               strides.front()));
  return b.at(base, b.add(byte, ofLane));
}

/// Groups the words of the first slice's quads into runs of neighbours that one
/// access moves.
std::vector<PageCodes::Run> PageCodes::findRuns(const PageOrder &order) {
  std::map<std::pair<int64_t, int64_t>, Run> words;
  for (const QuadPlace &quad : shape.quads())
    for (int64_t half = 0; half < (order.layout.level == 16 ? 2 : 1); ++half) {
      PageOrder::Word word = order.find(quad, half);
      words[{word.block, word.byte}].push_back({word, quad, half});
    }
  std::vector<Run> runs;
  int64_t block = -1, next = -1, first = 0;
  for (auto &[place, fields] : words) {
    // A run stays within 16 bytes, and is 4, 8 or 16 long.
    if (place.first != block || place.second != next ||
        place.second / 16 != first / 16) {
      runs.emplace_back();
      first = place.second;
    }
    block = place.first;
    next = place.second + 4;
    llvm::append_range(runs.back(), fields);
  }
  return runs;
}

int64_t PageCodes::wordsOf(const Run &run) {
  return (run.back().word.byte - run.front().word.byte) / 4 + 1;
}

LaneTile PageCodes::load(const PageOrder &order) {
  LaneTile tile;
  tile.level = order.layout.level;
  tile.raw = tile.level == 16;
  for (const Run &run : findRuns(order)) {
    Value address = vectorAddress(order, run.front().quad);
    Values words = b.loadWords(address, wordsOf(run));
    for (const RunWord &field : run) {
      Value word = words[(field.word.byte - run.front().word.byte) / 4];
      Values &quad = tile.quads[field.quad];
      quad.resize(tile.raw ? 2 : 1);
      if (tile.level < 8)
        word = b.andBits(field.word.bit ? b.shr(word, field.word.bit) : word,
                         ((int64_t{1} << tile.level) - 1) * 0x01010101);
      quad[field.half] = word;
    }
  }
  return tile;
}

void PageCodes::store(const PageOrder &order, const LaneTile &tile) {
  for (const Run &run : findRuns(order)) {
    Values words(wordsOf(run));
    for (const RunWord &field : run) {
      Value part = tile.quads.at(field.quad)[field.half];
      if (field.word.bit)
        part = b.shl(part, field.word.bit);
      Value &word = words[(field.word.byte - run.front().word.byte) / 4];
      word = word ? Value(arith::OrIOp::create(b, word, part)) : part;
    }
    b.storeWords(words, vectorAddress(order, run.front().quad));
  }
}
