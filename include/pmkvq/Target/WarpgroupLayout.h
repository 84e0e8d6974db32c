//===- WarpgroupLayout.h - f16 tiles that warpgroups multiply ---*- C++ -*-===//
//
// Where the elements of a page are in the tiles of a prefill kernel, which of
// its codes each producer warp turns into them, which ones a warp multiplies as
// they are, and what lies where in shared memory.  Neighbours: FragmentLayout.h
// (the order of codes), DeviceAbi.h (the work list),
// lib/Conversion/TileToWarpgroups.cpp (who lowers by it).
//
// Mental model.  A page of 128 tokens becomes two tiles of 128 x 128 f16, keys
// [token][dim] and values [dim][token]: the summed axis is along columns, as
// `wgmma` wants it, and nothing is transposed.  The order of dims in q . k is
// free if queries have the same, and so is the order of tokens if rows of keys
// and columns of values agree.  With that freedom the codes that one lane holds
// in the order of FragmentLayout are whole pieces of rows:
//
//   lane 4 g + t has of 32 columns 16 h + 4 t + e (h < 2, e < 4), of rows g and
//   g + 8: eight elements a row, one 16-byte *chunk*, (e0 e2 e1 e3) of h = 0,
//   then of h = 1.  A pair (e0 e2) or (e1 e3) is what a mask leaves of a word.
//
// A row is cut in two halves of 64 columns, 128 bytes; chunk c of row r lies at
// c ^ (r % 8), the swizzle of 128 bytes that `wgmma` undoes.  Block c of 32
// columns and lane t are chunk 2 t + c % 2 of half c / 2: with that order no
// two lanes of a store meet on a bank.
//
// A tile holds x * kUnit.  A code under its mask, read as f16, is the denormal
// code * 2^(exponent - 24): the multiply-add that decodes it takes step * kUnit
// * 2^24 = step * 3840, which is range * 256 at 4 bits and range * 1024 at 2
// (with a clip of 0.8): powers of two, exact.  That is an f16 for ranges up to
// rt::kNarrowRange.  Kernels for wider ones multiply fields by 2^kWideExponent
// first, which is exact too, and take steps that are so much less.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TARGET_WARPGROUPLAYOUT_H
#define PMKVQ_TARGET_WARPGROUPLAYOUT_H

#include "pmkvq/Target/FragmentLayout.h"
#include "pmkvq_rt/DeviceAbi.h"

#include <array>
#include <cmath>
#include <cstdint>

namespace pmkvq {

/// A tile of f16 in shared memory.
struct HalfTile {
  static constexpr int64_t kRows = 128, kColumns = 128;
  static constexpr int64_t kHalfColumns = 64, kChunkColumns = 8;
  static constexpr int64_t kRowBytes = 128, kChunkBytes = 16;
  static constexpr int64_t kHalfBytes = kRows * kRowBytes;
  static constexpr int64_t kBytes = 2 * kHalfBytes;
  /// Rows after which the swizzle repeats.
  static constexpr int64_t kSwizzleRows = 8;

  /// What an element of 1 is in a tile, and 2^24 times that.
  static constexpr double kUnit = 3840.0 / (1 << 24);
  static constexpr double kCodeUnit = 3840.0;
  /// The same of raw elements of left operands whose products are not added to
  /// those of codes in kUnit: a power of two, so that bf16 far from 0 are f16.
  static constexpr double kRawUnit = 1.0 / (1 << 12);
  /// Of the largest range, 65,504, and the widest step of a format, a third of
  /// it, range * step * kCodeUnit / 2^kWideExponent is an f16.
  static constexpr int kWideExponent = 11;

  /// A column's 32 (c), 16 of these (h), and place in it: lane t, element e.
  struct Place {
    int64_t c, h, t, e;
  };
  static constexpr Place placeOf(rt::Part part, int64_t k) {
    auto in = static_cast<int32_t>(k % FragmentLayout::kQuads);
    int64_t e =
        FragmentLayout{part, 8, rt::kPageTokens, kColumns}.quadElement(in);
    return {k / 32, k % 32 / 16, part == rt::kKey ? in / 4 : in % 8 / 2, e};
  }
  /// Number of element e of half h in its chunk.
  static constexpr int64_t inChunk(int64_t h, int64_t e) {
    return h * 4 + e % 2 * 2 + e / 2;
  }
  /// Column of element k of the summed axis: a dim of keys, a token of values.
  static constexpr int64_t column(rt::Part part, int64_t k) {
    Place p = placeOf(part, k);
    return p.c / 2 * kHalfColumns + (2 * p.t + p.c % 2) * kChunkColumns +
           inChunk(p.h, p.e);
  }
  /// Row of a token of keys, a dim of values.
  static constexpr int64_t row(rt::Part part, int64_t r) {
    return part == rt::kKey ? column(rt::kValue, r) : r;
  }
  /// Byte offset of an element.
  static constexpr int64_t offset(int64_t row, int64_t column) {
    int64_t chunk = column % kHalfColumns / kChunkColumns;
    return column / kHalfColumns * kHalfBytes + row * kRowBytes +
           (chunk ^ row % kSwizzleRows) * kChunkBytes +
           column % kChunkColumns * 2;
  }
  /// Token of the i-th score (of 64) of lane t: columns of scores are rows of
  /// keys, and lanes with one g have neighbouring pairs of them.
  static constexpr int64_t scoreToken(int64_t i) {
    int64_t block = i / 4, v = i % 2;
    return 32 * (block / 8 * 2 + block % 2) + block / 2 % 4 * 2 + v;
  }
  /// How far lane t's tokens are from lane 0's.
  static constexpr int64_t kScoreLaneTokens = 8;
};

/// What numbers are in where steps and offsets are folded into right operands:
/// codes, as denormals of f16, are multiplied as they are.  Ranges are narrow.
struct FoldedUnits {
  /// Rows 8 u + g of product m, at 2 m + u, are times these powers of two what
  /// codes are, and so are their scores and outputs.
  using Exponents = std::array<int32_t, 4>;
  /// Those of fields where they are, so that few are shifted; of keys, whose
  /// scores a page's own factors follow.
  static constexpr Exponents exponentsOf(const FragmentLayout &layout) {
    return {layout.exponent(0, false), layout.exponent(0, true),
            layout.exponent(1, false), layout.exponent(1, true)};
  }
  /// Those of values at several levels, whose products are added: of 4 bits.
  static constexpr Exponents kCommon = {0, 4, 0, 4};
  /// Bits of a masked field that are a denormal.
  static constexpr int32_t kDenormalBits = 10;
  /// A unit of a code under its mask.
  static constexpr double kCode = 1.0 / (1 << 24);
  /// What queries are multiplied by besides a range, so that both together are
  /// no larger than queries.
  static constexpr double kRange = 1.0 / 64;
  static_assert(rt::kNarrowRange * kRange <= 1);
  /// The power of two that weights are multiplied by besides a step, so that
  /// small ones are f16, too: the most with which weights up to 2 are, for a
  /// format whose step is `largestStep` of a range.  An output of 1 is that
  /// times kCode.
  static int32_t weightExponent(double largestStep) {
    constexpr double kLargestHalf = 65504;
    return std::ilogb(kLargestHalf / (2 * rt::kNarrowRange * largestStep));
  }
};

/// The vectors (FragmentLayout.h) of a page's part that one of four warps
/// turns into elements: those of few k blocks, since parameters belong to
/// these.
struct WarpShare {
  FragmentLayout layout;

  static constexpr int32_t kWarps = 4;
  /// Of head_dim 128: 4,096 bytes.
  static constexpr int32_t kBlockVectors = 8;

  constexpr WarpShare(rt::Part part, int32_t level)
      : layout{part, level, rt::kPageTokens, HalfTile::kColumns} {}

  constexpr bool isKey() const { return layout.part == rt::kKey; }
  constexpr int32_t level() const { return layout.level; }
  constexpr int32_t vectors() const { return layout.vectors() / kWarps; }
  /// Different blocks of 32 columns among a warp's vectors.
  constexpr int32_t columnBlocks() const {
    return isKey() && level() < 8 ? 2 : 1;
  }

  /// Vector i of warp w; of raw pages vectors 2 i and 2 i + 1 are the two
  /// halves of 32 columns.
  constexpr int32_t vector(int32_t w, int32_t i) const {
    if (isKey())
      switch (level()) {
      case 16:
        return 8 * (i / 2) + 2 * w + i % 2;
      case 8:
        return 4 * i + w;
      default:
        return w / 2 * (2 * vectors()) + w % 2 + 2 * i;
      }
    return level() == 16 ? 16 * w + 8 * (i % 2) + i / 2 : vectors() * w + i;
  }
  /// What a warp's numbers of blocks of 16 rows and 32 columns are beside those
  /// of warp 0.
  constexpr int32_t rowBase(int32_t w) const {
    return isKey() && level() < 8 ? w / 2 * 4 : 0;
  }
  constexpr int32_t columnBase(int32_t w) const {
    return isKey() && level() < 8 ? w % 2 * 2 : w;
  }
  /// Blocks (of the cache) that a warp reads, and the i-th.
  constexpr int32_t blocks() const {
    int32_t all = level() / 2;
    if (isKey())
      return level() >= 8 ? all : 1;
    return level() == 16 ? 2 : 1;
  }
  constexpr int32_t block(int32_t w, int32_t i) const {
    return vector(w, 0) / kBlockVectors + i;
  }
  /// Which of `blocks()` vector i lies in, and where in it.
  constexpr int32_t blockOf(int32_t i) const {
    return vector(0, i) / kBlockVectors;
  }
  constexpr int32_t inBlock(int32_t w, int32_t i) const {
    return vector(w, i) % kBlockVectors;
  }
};

/// The codes of a page's part that a warp of a warpgroup makes left operands of
/// `wgmma` of, 64 rows and 16 columns each: rows are tokens of keys and dims of
/// values, columns the other axis.  Warp w has the row blocks (of 16) 2 w and
/// 2 w + 1, one of each of the two products of 64 rows, at every level.  A lane
/// loads its codes in *pieces* of some of the 4 blocks of 32 columns, 8 words
/// at 2 bits and 16 above.
struct OperandShare {
  FragmentLayout layout;

  static constexpr int32_t kWarps = 4, kColumnBlocks = 4, kProducts = 2;
  static constexpr int32_t kBlockBytes =
      WarpShare::kBlockVectors * FragmentLayout::kVectorBytes;

  constexpr OperandShare(rt::Part part, int32_t level)
      : layout{part, level, rt::kPageTokens, HalfTile::kColumns} {}

  constexpr bool isKey() const { return layout.part == rt::kKey; }
  constexpr int32_t level() const { return layout.level; }
  constexpr int32_t pieceBlocks() const {
    return level() == 16 ? 1 : level() == 8 ? 2 : kColumnBlocks;
  }
  constexpr int32_t pieces() const { return kColumnBlocks / pieceBlocks(); }
  constexpr int32_t words() const { return level() == 2 ? 8 : 16; }
  /// Words of one load: of values at 2 bits two warps share a vector.
  constexpr int32_t loadWords() const {
    return level() == 2 && !isKey() ? 2 : 4;
  }
  constexpr int32_t loads() const { return words() / loadWords(); }

  /// Vector of the part that load `i` of a piece takes words of.
  constexpr int32_t vector(int32_t w, int32_t piece, int32_t i) const {
    switch (level()) {
    case 16:
    case 8:
      return find(2 * w + i / 2, 2 * piece + i % 2).vector;
    case 4:
      return isKey() ? find(2 * w + i / 2, i % 2 * 2).vector
                     : find(2 * w, i).vector;
    default:
      return find(2 * w, isKey() ? 2 * i : i).vector;
    }
  }
  /// The first of the words that it takes.
  constexpr int32_t firstWord(int32_t w) const {
    return loadWords() == 2 ? w % 2 * 2 : 0;
  }

  /// A piece of a page is copied in `copies()` runs of vectors: whole blocks,
  /// or of keys above 4 bits two vectors of each row block.  Its vectors follow
  /// each other there.
  constexpr int32_t pieceBytes() const { return words() * 4 * 128; }
  constexpr bool byRowBlock() const { return isKey() && level() > 4; }
  constexpr int32_t copies() const {
    return byRowBlock() ? 8 : pieceBytes() / kBlockBytes;
  }
  constexpr int32_t copyBytes() const { return pieceBytes() / copies(); }
  /// Bytes from the part's begin to those of copy `i`, blocks after each other.
  constexpr int32_t copyStart(int32_t piece, int32_t i) const {
    return byRowBlock() ? (i * layout.kBlocks() + 2 * piece) *
                              FragmentLayout::kVectorBytes
                        : piece * pieceBytes() + i * kBlockBytes;
  }
  /// Number in its piece of the vector of load `i`.
  constexpr int32_t inPiece(int32_t w, int32_t i) const {
    return isKey() ? w * loads() + i : vector(w, 0, i);
  }

  /// Where 4 columns (half h of block c, those of lane t) of row g, or g + 8,
  /// of product m are: a word of the piece, and the field of it.
  constexpr FragmentRegister field(int32_t m, int32_t c, int32_t h,
                                   bool upper) const {
    Found found = find(m, level() == 16 ? 2 * c + h : c);
    FragmentRegister r =
        layout.fragment(found.vector, found.index)
            .registers[(level() == 16 ? 0 : 2 * h) + (upper ? 1 : 0)];
    for (int32_t i = 0; i < loads(); ++i)
      if (vector(0, c / pieceBlocks(), i) == found.vector)
        r.word += i * loadWords();
    return r;
  }

private:
  struct Found {
    int32_t vector, index;
  };
  constexpr Found find(int32_t rowBlock, int32_t kBlock) const {
    Found found = {0, 0};
    layout.locate(rowBlock, kBlock, found.vector, found.index);
    return found;
  }
};

/// Shared memory of a kernel whose warpgroups take pages in turns for the same
/// query rows.  Queries and weights are right operands of `wgmma`: a row of 128
/// columns for each query, in two halves, swizzled as in HalfTile.
struct SharedRowsLayout {
  static constexpr int64_t kWarpgroup = 128;
  /// Each warpgroup has a ring of slots for a piece of a page's part, its
  /// parameters, and the first two words after an entry's blocks.
  static constexpr int64_t kSlots = 4;
  static constexpr int64_t kSlotParameters = 8192, kSlotEntry = 8704,
                           kSlotBytes = 8832;
  enum Barrier { kFull, kEmpty };
  /// Right operands have a multiple of 8 rows.
  static constexpr int64_t kRowStep = 8, kMaxRows = rt::kMaxWarpgroupQueries;
  static constexpr int64_t kMostWarpgroups = 4;
  /// What 1 is in queries times the scale of scores (as f16, so that 4,094
  /// fits, and what f16 loses below changes scores by less than 1e-3 whatever
  /// fp16 keys are).
  static constexpr double kQueryUnit = 16;

  int64_t warpgroups = 3;
  /// Queries, a multiple of kRowStep.
  int64_t rows = 16;

  /// Whether steps and offsets are folded: a step of a token is one operation
  /// for each query then, not one for each two elements.
  static constexpr int64_t kMostFoldedRows = 16;
  constexpr bool folds(bool wideRanges) const {
    return !wideRanges && rows <= kMostFoldedRows;
  }

  /// More queries leave registers and memory for fewer warpgroups.
  static constexpr SharedRowsLayout of(int64_t queries) {
    int64_t rows = (queries + kRowStep - 1) / kRowStep * kRowStep;
    return {rows > 32 ? 2 : 3, rows};
  }

  /// Threads that attend; behind them is one warpgroup more, a warp of which
  /// copies for each of the others.
  constexpr int64_t threads() const { return warpgroups * kWarpgroup; }
  constexpr int64_t allThreads() const { return threads() + kWarpgroup; }
  /// Registers of a thread of each, multiples of 8: what all have at first,
  /// handed over.
  static constexpr int64_t kCopyRegisters = 32, kMostRegisters = 240;
  constexpr int64_t registers() const {
    int64_t first = 65536 / allThreads() / 8 * 8;
    int64_t all = first * (warpgroups + 1) - kCopyRegisters;
    int64_t each = all / warpgroups / 8 * 8;
    return each < kMostRegisters ? each : kMostRegisters;
  }

  constexpr int64_t halfBytes() const { return rows * HalfTile::kRowBytes; }
  constexpr int64_t operandBytes() const { return 2 * halfBytes(); }
  /// Bytes from a query's outputs to the next one's: what a warp's lanes store
  /// falls on different banks.
  static constexpr int64_t kRecordFloats = HalfTile::kColumns + 4;

  // Byte offsets, in order.
  constexpr int64_t queries() const { return 0; }
  /// Two tiles of weights for each warpgroup, in turns; where steps are folded
  /// one, and one of queries times ranges of a page.
  constexpr int64_t weights(int64_t warpgroup) const {
    return operandBytes() * (1 + 2 * warpgroup);
  }
  constexpr int64_t ring() const { return weights(warpgroups); }
  /// Outputs, [warpgroup][query][kRecordFloats] f32.
  constexpr int64_t records() const {
    return ring() + warpgroups * kSlots * kSlotBytes;
  }
  constexpr int64_t recordBytes() const { return rows * kRecordFloats * 4; }
  /// [warpgroup][warp][query] f32: largest scores where a maximum rises, then
  /// sums.
  constexpr int64_t perWarp() const {
    return records() + warpgroups * recordBytes();
  }
  /// Where offsets may be folded, [warpgroup][query][warp] f32: of scores, each
  /// warp's channels; in the end of outputs, each warp's tokens.
  constexpr int64_t warpOffsets() const {
    return perWarp() + warpgroups * 4 * rows * 4;
  }
  /// [warpgroup][query] f32
  constexpr int64_t maxima() const {
    return warpOffsets() +
           (rows <= kMostFoldedRows ? warpgroups * 4 * rows * 4 : 0);
  }
  /// What codes of a part are multiplied by and added to, of each warp, where
  /// steps are not folded:
  /// [block of columns][half][lane t] four words.
  static constexpr int64_t kConstantBytes = int64_t{4} * 2 * 4 * 16;
  constexpr int64_t constants() const {
    return maxima() + warpgroups * rows * 4;
  }
  /// [warpgroup][slot]
  constexpr int64_t barriers(Barrier which) const {
    return constants() + warpgroups * (4 * kConstantBytes + which * kSlots * 8);
  }
  constexpr int64_t bytes() const {
    return barriers(kEmpty) + warpgroups * kSlots * 8;
  }
};

/// Roles, registers and shared memory of a prefill kernel's thread block.
struct PrefillLayout {
  static constexpr int64_t kWarpgroup = 128;
  /// Warpgroups that dequantize, one keys and one values: one alone would be
  /// slower than the others multiply.
  static constexpr int64_t kProducers = 2;
  /// Warpgroups that multiply 64 rows each.
  static constexpr int64_t kConsumers = 2;
  static constexpr int64_t kConsumerRows = 64;
  static constexpr int64_t kThreads = (kProducers + kConsumers) * kWarpgroup;
  /// Registers of a thread of each: 65,536 in all.
  static constexpr int64_t kProducerRegisters = 64, kConsumerRegisters = 192;

  /// Tiles of keys and of values that may be under way.
  int64_t stages = 2;

  enum Barrier { kFullKeys, kFullValues, kEmptyKeys, kEmptyValues, kBarriers };

  constexpr int64_t queries() const { return 0; }
  constexpr int64_t tiles(rt::Part part) const {
    return HalfTile::kBytes * (1 + (part == rt::kKey ? 0 : stages));
  }
  /// [row] f32: what turns a row's scores into units of log2.
  constexpr int64_t factors() const {
    return HalfTile::kBytes * (1 + 2 * stages);
  }
  constexpr int64_t barriers(Barrier which) const {
    return factors() + HalfTile::kRows * 4 + which * stages * 8;
  }
  /// [stage] two i32: how many of the page's tokens the task's first row sees,
  /// and how many count.
  constexpr int64_t limits() const { return barriers(kBarriers); }
  constexpr int64_t bytes() const { return limits() + stages * 8; }
};

} // namespace pmkvq

#endif // PMKVQ_TARGET_WARPGROUPLAYOUT_H
