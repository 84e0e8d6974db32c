//===- QueryOperands.h - Queries on their way to B operands -----*- C++ -*-===//
//
// The queries of a group in shared memory, in plain C++: staged by the lanes of
// one warp each, loaded by all.  Neighbours: TileToLanes.cpp, UnitLowering.cpp
// and SplitQueries.cpp (the code that is played here), SharedLayout.h,
// CompilerFragmentLayoutTest.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_QUERYOPERANDS_H
#define PMKVQ_TEST_UNIT_QUERYOPERANDS_H

#include "Warp.h"
#include "pmkvq/Target/SharedLayout.h"

#include <cstdint>
#include <cstring>
#include <vector>

namespace pmkvq::test {

/// Shared memory of the query operands of a group.
struct QueryOperands {
  SharedLayout shared;
  std::vector<uint8_t> memory;

  QueryOperands(int64_t headDim, int64_t group) {
    shared.headDim = headDim;
    shared.group = group;
    memory.resize(shared.operands() * shared.operandBytes());
  }
  void store(int64_t address, uint32_t word) {
    std::memcpy(&memory.at(address), &word, 4);
  }
  int64_t columnsPerQuery() const { return 2 / shared.laneStride(); }
  /// Where a query's columns begin; `perSet` operands a set of queries.
  int64_t columnsOf(int query, int64_t perSet) const {
    return query / SharedLayout::kColumns * perSet * shared.operandBytes() +
           query % SharedLayout::kColumns * columnsPerQuery() *
               SharedLayout::kColumnBytes;
  }

  /// Query `query` as stageHalfQueries writes it: lane l has dims 4 l .. + 3.
  void stageHalves(int query, const std::vector<uint16_t> &q) {
    for (int lane = 0; lane * 4 < shared.headDim; ++lane) {
      int kb = lane >> 3, h = lane >> 2 & 1, t = lane & 3;
      int64_t place = columnsOf(query, 1) + (kb << 9) + (t << 4) + (h << 3);
      for (int i = 0; i < 2; ++i) {
        uint32_t word = q[4 * lane + 2 * i] | uint32_t(q[4 * lane + 2 * i + 1])
                                                  << 16;
        for (int64_t column = 0; column < columnsPerQuery(); ++column)
          store(place + 4 * i + column * SharedLayout::kColumnBytes, word);
      }
    }
  }

  /// As stageRawQueries does: bf16, and what the rounding left (here given).
  void stageBrains(int query, const std::vector<uint16_t> &q,
                   const std::vector<uint16_t> &rest) {
    int64_t toRest = shared.operands() == 1 ? SharedLayout::kColumnBytes
                                            : shared.operandBytes();
    for (int lane = 0; lane * 4 < shared.headDim; ++lane) {
      int block = lane >> 2, t = lane & 3;
      int64_t place = columnsOf(query, 2) + (block >> 1 << 9) + (t << 4) +
                      ((block & 1) << 3);
      for (int i = 0; i < 2; ++i) {
        int64_t dim = 4 * lane + 2 * i;
        store(place + i * 4, q[dim] | uint32_t(q[dim + 1]) << 16);
        store(place + i * 4 + toRest, rest[dim] | uint32_t(rest[dim + 1])
                                                      << 16);
      }
    }
  }

  /// As loadQueries reads them.
  std::vector<Word> load(int64_t operand = 0) const {
    std::vector<Word> words(shared.headDim / 8);
    int64_t start = operand * shared.operandBytes();
    for (int lane = 0; lane < kWarpLanes; ++lane)
      for (size_t i = 0; i < words.size(); ++i)
        std::memcpy(&words[i][lane],
                    &memory.at(start + lane * 16 + i / 4 * 512 + i % 4 * 4), 4);
    return words;
  }
};

/// The bytes at `shift(lane)` of each half, as splitRows packs what rounding
/// left there.
template <typename Shift>
std::vector<Word> packBytes(const std::vector<Word> &words, Shift shift) {
  std::vector<Word> bytes(words.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i)
    for (int lane = 0; lane < kWarpLanes; ++lane)
      bytes[i][lane] = permute(words[2 * i][lane] >> shift(lane),
                               words[2 * i + 1][lane] >> shift(lane), 0x6420);
  return bytes;
}

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_QUERYOPERANDS_H
