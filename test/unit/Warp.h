//===- Warp.h - A warp in plain C++, by the PTX manual ----------*- C++ -*-===//
//
// Matrix instructions, the transposition and the permutation as PTX defines
// them, on words of 32 lanes.  Neighbours: CompilerFragmentLayoutTest.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_WARP_H
#define PMKVQ_TEST_UNIT_WARP_H

#include <array>
#include <cstdint>
#include <cstring>

namespace pmkvq::test {

inline constexpr int kWarpLanes = 32;

using Word = std::array<uint32_t, kWarpLanes>;
using Operand = std::array<Word, 4>;
using Columns = std::array<Word, 2>;
/// Four accumulators of each lane.
template <typename T> using Sums = std::array<std::array<T, 4>, kWarpLanes>;

inline uint8_t byteOf(uint32_t word, int i) { return uint8_t(word >> (8 * i)); }
inline uint16_t halfOf(uint32_t word, int i) {
  return uint16_t(word >> (16 * i));
}

inline float fromBrain(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
/// Exact for integers of up to 8 bits.
inline uint16_t toBrain(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return uint16_t(bits >> 16);
}

/// What matrix instructions of one type have in common.  Registers a0, a2 are
/// of rows g, a1, a3 of rows g + 8; a2, a3 and b1 of the second half of k.
/// `perWord` elements lie in a register.
template <typename T, typename ReadA, typename ReadB>
void mma(Sums<T> &sums, const Operand &a, const Columns &b, int perWord,
         ReadA readA, ReadB readB) {
  constexpr int kMaxDepth = 32;
  T matrixA[16][kMaxDepth] = {}, matrixB[kMaxDepth][8] = {};
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < perWord; ++i) {
      for (int r = 0; r < 4; ++r)
        matrixA[g + 8 * (r % 2)][perWord * (t + 4 * (r / 2)) + i] =
            readA(a[r][lane], i);
      for (int r = 0; r < 2; ++r)
        matrixB[perWord * (t + 4 * r) + i][g] = readB(b[r][lane], i);
    }
  }
  // c0, c1: row g, columns 2 t, 2 t + 1; c2, c3: row g + 8.
  for (int lane = 0; lane < kWarpLanes; ++lane)
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 8 * perWord; ++k)
        sums[lane][i] += matrixA[lane / 4 + 8 * (i / 2)][k] *
                         matrixB[k][2 * (lane % 4) + i % 2];
}

/// mma.m16n8k32 of unsigned codes with bytes.
inline void mmaBytes(Sums<int64_t> &sums, const Operand &a, const Columns &b,
                     bool isSigned) {
  mma(sums, a, b, 4, byteOf, [&](uint32_t word, int i) -> int64_t {
    return isSigned ? int8_t(byteOf(word, i)) : byteOf(word, i);
  });
}

inline void mmaSigned(Sums<int64_t> &sums, const Operand &a, const Columns &b) {
  mmaBytes(sums, a, b, /*isSigned=*/true);
}
inline void mmaUnsigned(Sums<int64_t> &sums, const Operand &a,
                        const Columns &b) {
  mmaBytes(sums, a, b, /*isSigned=*/false);
}

/// mma.m16n8k16 of bf16.
inline void mmaBrains(Sums<float> &sums, const Operand &a, const Columns &b) {
  auto read = [](uint32_t word, int i) { return fromBrain(halfOf(word, i)); };
  mma(sums, a, b, 2, read, read);
}

/// movmatrix.m8n8.trans.b16: lane 4 r + c holds elements 2 c, 2 c + 1 of row r.
inline Word transpose(const Word &in) {
  Word out = {};
  for (int lane = 0; lane < kWarpLanes; ++lane)
    for (int i = 0; i < 2; ++i) {
      int row = lane / 4, column = 2 * (lane % 4) + i;
      uint32_t element = halfOf(in[column * 4 + row / 2], row % 2);
      out[lane] |= element << (16 * i);
    }
  return out;
}

/// prmt: byte i of the result is byte (selector's nibble i) of {a, b}.
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint64_t both = a | uint64_t(b) << 32;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i)
    result |= uint32_t(uint8_t(both >> (8 * ((selector >> (4 * i)) & 7))))
              << (8 * i);
  return result;
}

inline Word permute(const Word &a, const Word &b, uint32_t selector) {
  Word result;
  for (int lane = 0; lane < kWarpLanes; ++lane)
    result[lane] = permute(a[lane], b[lane], selector);
  return result;
}

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_WARP_H
