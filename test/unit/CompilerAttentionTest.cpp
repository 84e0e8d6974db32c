//===- CompilerAttentionTest.cpp - Attention kernels against the reference ===//
//
// Compiled append, attend and merge against double precision, over mixed
// levels, sink and window.  Neighbours: KernelHarness.h,
// ReferenceAttentionTest.
//
//===----------------------------------------------------------------------===//

#include "KernelHarness.h"
#include "pmkvq/Reference/Attention.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Hadamard.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <random>

using namespace pmkvq;
using namespace pmkvq::test;

namespace {
/// Unit roundoff of f32.
constexpr double kUnit = 0x1p-24;
/// Error of an integer, in the mean, over the largest of its row.
const double kInteger = 1 / (32767 * std::sqrt(12.0));
/// The harness compiles attention with this scale.
constexpr double kScale = 0.125;

/// Tolerance of the root mean square of output - exact, over the head dims of
/// one query.
///
/// Rounding errors are taken as independent (Higham and Mary, 2019), so n of
/// them grow as sqrt(n).  A score, in units of log2, is a sum of head_dim
/// products, after up to 32 roundings of query, offset and step; |offset| +
/// step * code stays near the channel's largest |key|.  Its error is about
///   e = sqrt(head_dim + 32) u * norm_d(q_d max_t |k_td|) * scale * log2(e),
/// a weight's relative error ln(2) e in numerator and in denominator, and the
/// weighted sum of n values adds sqrt(n + 64) u, both relative to the largest
/// value.  A rotation back keeps the root mean square.
///
/// Beside codes a row is integers up to 32767, each off by 1 / sqrt(12) in the
/// mean.  That adds sqrt(head_dim) such errors to a score, of the largest
/// product of a query's element with its group's range, and sqrt(128) to a
/// page's weighted sum, of the largest weight times its value's range.
double outputTolerance(const std::vector<double> &query,
                       const std::vector<double> &keys,
                       const std::vector<double> &values, int64_t visible,
                       int64_t headDim) {
  double norm = 0, largest = 0, term = 0;
  for (int64_t d = 0; d < headDim; ++d) {
    double low = 0, high = 0;
    for (int64_t t = 0; t < visible; ++t) {
      low = std::min(low, keys[t * headDim + d]);
      high = std::max(high, keys[t * headDim + d]);
    }
    double key = std::max(-low, high);
    norm += query[d] * query[d] * key * key;
    term = std::max(term, std::abs(query[d]) * (high - low));
  }
  for (int64_t i = 0; i < visible * headDim; ++i)
    largest = std::max(largest, std::abs(values[i]));
  double score = std::sqrt((headDim + 32) * norm) * kUnit +
                 std::sqrt(headDim) * kInteger * term;
  score *= kScale / std::log(2.0);
  return largest *
         (2 * std::log(2.0) * score + std::sqrt(visible + 64.0) * kUnit +
          2 * std::sqrt(rt::kPageTokens) * kInteger);
}

/// Tolerances use the basis that keys are stored in.
std::vector<double> rotated(std::vector<double> vector, bool rotate) {
  if (rotate)
    reference::rotate(vector.data(), static_cast<int64_t>(vector.size()));
  return vector;
}

/// Caches of several sequences of different lengths, at random levels.
class Attention {
public:
  Attention(const KernelShape &shape, uint32_t seed)
      : shape(shape), kernels(Kernels::compile(shape)), random(seed),
        format{referenceFormat(shape.key, shape.keyClip),
               referenceFormat(shape.value, shape.valueClip)},
        cache(shape, reference::parameterBytes(format[0], shape.headDim),
              reference::parameterBytes(format[1], shape.headDim), 3, 40) {}

  /// Pages at random levels, made by the program's own kernels; key channels
  /// have offsets of their own.
  void fill(int32_t sequence, int32_t pageCount) {
    pages[sequence] = pageCount;
    for (int32_t head = 0; head < shape.kvHeads; ++head)
      for (int32_t page = 0; page < pageCount; ++page) {
        fillFixed(sequence, head);
        cache.makePage(sequence, head, page, 16, 16);
        for (int32_t part : {rt::kKey, rt::kValue})
          writePage(sequence, head, page, part);
      }
    for (int32_t head = 0; head < shape.kvHeads; ++head)
      fillFixed(sequence, head);
  }

  /// Rows that see fixed tokens 0 .. fixedIndex + i; compared with the
  /// reference, in parts of `pagesPerTask` pages.
  void check(int32_t sequence, int32_t rows, int32_t fixedIndex,
             int64_t rowsPerTask, int32_t pagesPerTask) {
    std::normal_distribution<float> normal;
    std::vector<float> queries(rows * shape.queryHeads * shape.headDim);
    for (float &q : queries)
      q = normal(random);
    std::vector<float> out(queries.size(), NAN);
    run(sequence, rows, fixedIndex, rowsPerTask, pagesPerTask, queries, out);
    for (int32_t row = 0; row < rows; ++row)
      for (int64_t head = 0; head < shape.queryHeads; ++head)
        compare(sequence, head, fixedIndex + row + 1,
                queries.data() +
                    (row * shape.queryHeads + head) * shape.headDim,
                out.data() + (row * shape.queryHeads + head) * shape.headDim);
  }

  /// Output of one row over a fixed area with a NaN among its keys.
  std::vector<float> withNaN() {
    cache.fixed(0, 0, rt::kKey, 3)[5] = 0x7fc0;
    std::vector<float> queries(shape.queryHeads * shape.headDim, 1.0f);
    std::vector<float> out(queries.size());
    run(0, 1, 9, 1, rt::kPagesPerTask, queries, out);
    return out;
  }

  const KernelShape shape;
  std::unique_ptr<Kernels> kernels;

private:
  int64_t group() const { return shape.queryHeads / shape.kvHeads; }

  void fillFixed(int32_t sequence, int32_t head) {
    std::normal_distribution<float> normal;
    for (int32_t part : {rt::kKey, rt::kValue})
      for (int64_t d = 0; d < shape.headDim; ++d) {
        float offset = part == rt::kKey && d % 16 == 3 ? 20.0f : 0.0f;
        for (int64_t t = 0; t < shape.sink + rt::kPageTokens; ++t)
          cache.fixed(sequence, head, part, t)[d] =
              reference::floatToBf16(offset + normal(random));
      }
  }

  void writePage(int32_t sequence, int32_t head, int32_t page, int32_t part) {
    size_t levels = rt::kLadder.size();
    if (part == rt::kValue && shape.valueFloor == 1)
      levels = rt::kValueLadder.size();
    int32_t level = rt::kValueLadder[random() % levels];
    rt::PageTask task = {0, sequence, head, page};
    void *operands[] = {cache.view(), &task};
    rt::PageEntry &entry = cache.entry(sequence, head, page);
    // Nothing is flushed to level 1.
    entry.level[part] = static_cast<uint8_t>(std::max(level, 2));
    ASSERT_EQ(kernels->flush(part, entry.level[part])(operands, 0),
              rt::kKernelOk);
    if (level > 1)
      return;
    ASSERT_EQ(kernels->requantize(part, 2)(operands, 0), rt::kKernelOk);
    entry.level[part] = 1;
    entry.blocks[part][1] = random() % 2;
    int64_t size = rt::blockBytes(shape.headDim);
    uint8_t *block = cache.blocks.data() + entry.blocks[part][0] * size;
    std::copy_n(block, size / 2, block + entry.blocks[part][1] * size / 2);
  }

  void run(int32_t sequence, int32_t rows, int32_t fixedIndex,
           int64_t rowsPerTask, int32_t pagesPerTask,
           std::vector<float> &queries, std::vector<float> &out) {
    std::vector<rt::AttendTask> attend;
    std::vector<rt::MergeTask> merge;
    int32_t parts =
        std::max(1, (pages[sequence] + pagesPerTask - 1) / pagesPerTask);
    for (int32_t row = 0; row < rows; row += rowsPerTask)
      for (int32_t head = 0; head < shape.kvHeads; ++head) {
        int32_t count = std::min<int32_t>(rows - row, rowsPerTask);
        merge.push_back(
            {head, row, count, static_cast<int32_t>(attend.size()), parts});
        for (int32_t part = 0; part < parts; ++part)
          attend.push_back(
              {sequence, head, row, count, part * pagesPerTask,
               std::min((part + 1) * pagesPerTask, pages[sequence]),
               part + 1 == parts ? fixedIndex + row : -1,
               static_cast<int32_t>(attend.size())});
      }
    std::vector<float> partials(
        attend.size() *
        rt::partialFloats(group() * rowsPerTask, shape.headDim));
    rt::StepArgs step = {};
    step.attendTasks = attend.data();
    step.mergeTasks = merge.data();
    step.rowsPerTask = rowsPerTask;
    step.partials = partials.data();
    void *worker[] = {cache.view(), &step, queries.data()};
    for (size_t i = 0; i < attend.size(); ++i)
      ASSERT_EQ(kernels->find("attend_0")(worker, i), rt::kKernelOk);
    void *combine[] = {&step, out.data()};
    for (size_t i = 0; i < merge.size(); ++i)
      ASSERT_EQ(kernels->find("merge_0")(combine, i), rt::kKernelOk);
  }

  /// Value of an element of a page, decoded by the reference.
  double decode(const rt::PageEntry &entry, int32_t part, int64_t token,
                int64_t dim) {
    if (entry.level[part] == 16)
      return reference::bf16ToFloat(cache.raw(entry, part, token, dim));
    auto [minimum, range] = cache.parameters(
        entry, part, format[part],
        reference::groupOf(format[part], shape.headDim, token, dim));
    return reference::decodeCode(format[part], reference::halfToFloat(minimum),
                                 reference::halfToFloat(range),
                                 cache.code(entry, part, token, dim),
                                 entry.level[part]);
  }

  /// Everything a row sees, in the basis it is stored in.
  std::vector<double> decodeAll(int32_t sequence, int32_t head, int32_t part,
                                int64_t fixedTokens) {
    std::vector<double> all;
    for (int32_t page = 0; page < pages[sequence]; ++page)
      for (int64_t t = 0; t < rt::kPageTokens; ++t)
        for (int64_t d = 0; d < shape.headDim; ++d)
          all.push_back(decode(cache.entry(sequence, head, page), part, t, d));
    for (int64_t t = 0; t < fixedTokens; ++t)
      for (int64_t d = 0; d < shape.headDim; ++d)
        all.push_back(
            reference::bf16ToFloat(cache.fixed(sequence, head, part, t)[d]));
    return all;
  }

  void compare(int32_t sequence, int64_t queryHead, int64_t fixedTokens,
               const float *query, const float *out) {
    auto head = static_cast<int32_t>(queryHead / group());
    std::vector<double> keys = decodeAll(sequence, head, rt::kKey, fixedTokens);
    std::vector<double> values =
        decodeAll(sequence, head, rt::kValue, fixedTokens);
    int64_t visible = pages[sequence] * rt::kPageTokens + fixedTokens;
    std::vector<double> q(query, query + shape.headDim);
    std::vector<double> expected(shape.headDim);
    reference::attend(
        q.data(), keys.data(), values.data(), visible, shape.headDim, kScale,
        {format[0].hadamard, format[1].hadamard}, expected.data());
    double tolerance = outputTolerance(rotated(q, format[0].hadamard), keys,
                                       values, visible, shape.headDim);
    double squares = 0;
    for (int64_t d = 0; d < shape.headDim; ++d)
      squares += (out[d] - expected[d]) * (out[d] - expected[d]);
    double error = std::sqrt(squares / static_cast<double>(shape.headDim));
    ASSERT_LE(error, tolerance) << "sequence " << sequence << " query head "
                                << queryHead << " visible " << visible;
  }

  std::mt19937 random;
  reference::UniformFormat format[rt::kParts];
  TestCache cache;
  int32_t pages[3] = {};
};

KernelShape makeShape(int64_t kvHeads, int64_t group, int64_t headDim,
                      const char *key, const char *value, int64_t sink = 1) {
  KernelShape shape;
  shape.kvHeads = kvHeads;
  shape.queryHeads = kvHeads * group;
  shape.headDim = headDim;
  shape.key = key;
  shape.value = value;
  shape.sink = sink;
  return shape;
}

/// Values may be at one bit.
KernelShape withOneBit(KernelShape shape) {
  shape.valueFloor = 1;
  return shape;
}

/// A layer whose clips come from calibration.
KernelShape calibratedShape() {
  KernelShape shape =
      makeShape(1, 2, 64, "<per_channel>", "<per_token, clip = 0.75>");
  shape.keyClip = 0.72;
  shape.valueClip = 0.88;
  return shape;
}

class AttentionTest : public testing::TestWithParam<KernelShape> {};

TEST_P(AttentionTest, MatchesDoublePrecisionOverMixedLevels) {
  Attention attention(GetParam(), 5);
  ASSERT_NE(attention.kernels, nullptr);
  attention.fill(0, 20);
  attention.fill(1, 3);
  attention.fill(2, 0);
  int32_t last = static_cast<int32_t>(GetParam().sink) + rt::kPageTokens - 1;
  // One row: a full window, a part of it, one token without any page.
  attention.check(0, 1, last, 1, rt::kPagesPerTask);
  attention.check(1, 1, 17, 1, rt::kPagesPerTask);
  attention.check(2, 1, 0, 1, rt::kPagesPerTask);
  // Several rows, the last task not full; pages split in other ways.
  attention.check(0, 21, 40, rt::kRowsPerPrefillTask, 7);
  attention.check(1, 8, 0, rt::kRowsPerPrefillTask, 1);
  attention.check(2, last + 1, 0, rt::kRowsPerPrefillTask, 16);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionTest,
    testing::Values(
        makeShape(2, 3, 128, "<per_channel, hadamard>",
                  "<per_token, hadamard>"),
        makeShape(3, 3, 64, "<per_channel, hadamard>", "<per_token, hadamard>"),
        makeShape(1, 4, 128, "<per_token, hadamard>", "<per_token, hadamard>"),
        withOneBit(makeShape(2, 2, 128, "<per_token_symmetric, hadamard>",
                             "<per_token_symmetric, hadamard>")),
        withOneBit(makeShape(1, 3, 64, "<per_channel>", "<per_token>")),
        withOneBit(makeShape(1, 5, 256, "<per_channel>", "<per_channel>")),
        makeShape(1, 1, 64, "<per_token>", "<per_channel, clip = 0.85>", 4),
        makeShape(1, 8, 128, "<per_channel, clip = 0.75>", "<per_channel>", 0),
        makeShape(1, 7, 64, "<per_channel>", "<per_token>"),
        calibratedShape()));

TEST(AttentionNaNTest, IsSeenInTheOutput) {
  Attention attention(makeShape(1, 1, 64, "<per_channel>", "<per_token>"), 9);
  ASSERT_NE(attention.kernels, nullptr);
  attention.fill(0, 1);
  for (float value : attention.withNaN())
    ASSERT_TRUE(std::isnan(value));
}

TEST(AppendTest, RotatesAndRounds) {
  KernelShape shape =
      makeShape(2, 1, 128, "<per_channel, hadamard>", "<per_token>", 1);
  auto kernels = Kernels::compile(shape);
  ASSERT_NE(kernels, nullptr);
  TestCache cache(shape, 512, 512, 2, 1);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const int64_t headFloats = shape.kvHeads * shape.headDim;
  std::vector<float> keys(2 * headFloats), values(2 * headFloats);
  for (float &x : keys)
    x = normal(random);
  for (float &x : values)
    x = normal(random);
  // Ties to even both ways, infinity by rounding and as it is, less than the
  // smallest normal number, no number.
  const float special[] = {1 + 0x1p-8f,
                           1 + 0x3p-8f,
                           std::numeric_limits<float>::max(),
                           -std::numeric_limits<float>::infinity(),
                           -0.0f,
                           0x1.8p-130f,
                           std::numeric_limits<float>::quiet_NaN()};
  std::copy(std::begin(special), std::end(special), values.begin() + 3);
  rt::Row rows[] = {{1, 0}, {0, 77}};
  rt::StepArgs step = {};
  step.rows = rows;
  void *operands[] = {cache.view(), &step, keys.data(), values.data()};
  for (int64_t row : {0, 1})
    ASSERT_EQ(kernels->find("append_0")(operands, row), rt::kKernelOk);
  for (int64_t row : {0, 1})
    for (int32_t head : {0, 1}) {
      const float *key = keys.data() + row * headFloats + head * shape.headDim;
      const float *value =
          values.data() + row * headFloats + head * shape.headDim;
      std::vector<double> exact =
          rotated({key, key + shape.headDim}, /*rotate=*/true);
      const uint16_t *storedKey =
          cache.fixed(rows[row].sequence, head, rt::kKey, rows[row].fixedIndex);
      const uint16_t *storedValue = cache.fixed(
          rows[row].sequence, head, rt::kValue, rows[row].fixedIndex);
      for (int64_t d = 0; d < shape.headDim; ++d) {
        // Half a unit in the last place of bf16, and 8 roundings of sums whose
        // terms are at most the vector's norm, below 4 * sqrt(head_dim).
        double bound =
            std::abs(exact[d]) * 0x1p-8 + 8 * kUnit * 4 * std::sqrt(128.0);
        ASSERT_NEAR(reference::bf16ToFloat(storedKey[d]), exact[d], bound);
        ASSERT_EQ(storedValue[d], reference::floatToBf16(value[d]));
      }
    }
}
} // namespace
