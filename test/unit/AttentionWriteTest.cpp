//===- AttentionWriteTest.cpp - What a GPU's kernels write ----------------===//
//
// Append, flush and requantize on a GPU against lib/Reference, bit for bit.
// Neighbours: CudaReader.h (the device), AttentionReadConformanceTest.cpp (the
// kernels that read), CompilerCodesTest.cpp (the same on the CPU).
//
//===----------------------------------------------------------------------===//

#include "CudaReader.h"
#include "RequireGpu.h"
#include "pmkvq/Reference/Bits.h"
#include "pmkvq/Reference/Quantize.h"
#include "pmkvq/Target/CacheImage.h"
#include "pmkvq/Target/KeyFeedback.h"
#include "pmkvq_rt/cuda/Write.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

using namespace pmkvq;
using namespace pmkvq::test;
using rt::kKey;
using rt::kValue;
using rt::Part;

namespace {
constexpr int64_t kSink = bench::kSinkTokens;

/// How the elements of a part are drawn.
enum class Content { Normal, Offsets, Tiny, Huge, Constant };

struct Geometry {
  const char *keyFormat;
  int64_t headDim;
  const char *valueFormat = "<per_token, hadamard>";
};

/// A cache of `pages` pages and as many fixed areas, on the host and on a GPU.
class WriteTest : public ::testing::TestWithParam<Geometry> {
protected:
  static constexpr int64_t kPages = 6, kHeads = 2;

  void SetUp() override {
    PMKVQ_SKIP_UNLESS_EMPTY(CudaReader::unavailable());
    bench::Shape shape;
    shape.kvHeads = kHeads;
    shape.queryHeads = kHeads;
    shape.headDim = GetParam().headDim;
    shape.context = "128";
    shape.keyFormat = GetParam().keyFormat;
    shape.valueFormat = GetParam().valueFormat;
    auto understood = bench::understand(shape);
    ASSERT_TRUE(understood.ok()) << understood.status().message();
    problem = *understood;
    auto opened = CudaReader::open();
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    device = *opened;
    auto made = rt::cuda::Stream::create(device);
    ASSERT_TRUE(made.ok()) << made.status().message();
    stream = std::move(*made);
    makePool();
    if (std::string(GetParam().keyFormat).find("feedback") != std::string::npos)
      makeFeedback();
  }

  /// Squares of queries that lie a few powers of ten apart, of each head.
  void makeFeedback() {
    std::normal_distribution<float> normal;
    std::vector<float> squares(kHeads * headDim());
    for (float &square : squares)
      square = std::exp(2 * normal(random));
    const double clip = problem.format[kKey].clip;
    table = keyFeedbackOfLayer(squares.data(), kHeads, headDim(),
                               (1 - clip) / 2, clip / 3);
    for (int64_t head = 0; head < kHeads; ++head)
      feedback.push_back(
          {keyFeedbackFactor(squares.data() + head * headDim(), headDim())});
  }

  /// What the part of a page falls with; null: nothing.
  const reference::KeyFeedback *feedbackOf(Part part, int64_t page) const {
    return part == kKey && !feedback.empty()
               ? &feedback[static_cast<size_t>(page % kHeads)]
               : nullptr;
  }

  void load(bool positions = false) {
    auto compiler = CudaReader::compiler().forDevices();
    auto code = compiler.writers(problem, positions, device->chip());
    ASSERT_TRUE(code.ok()) << code.status().message();
    auto loaded = rt::cuda::CacheWriters::load(device, *code);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    writers.emplace(std::move(*loaded));
  }

  int64_t headDim() const { return problem.shape.headDim; }

  void makePool() {
    layout.headDim = headDim();
    layout.sinkTokens = kSink;
    layout.slotBytes = image().slotBytes();
    layout.blocks = kPages * rt::kParts * rt::kMaxBlocksPerPart;
    layout.fixedAreas = kPages;
    layout.slots = kPages;
    auto made = rt::cuda::CachePool::create(device, layout);
    ASSERT_TRUE(made.ok()) << made.status().message();
    pool.emplace(std::move(*made));
    memory.assign(static_cast<size_t>(layout.bytes()), 0);
    std::vector<uint32_t> ids(static_cast<size_t>(layout.blocks));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random);
    pages.resize(kPages);
    for (int64_t i = 0; i < kPages; ++i) {
      pages[i].slot = static_cast<uint32_t>((i * 5 + 3) % kPages);
      for (Part part : {kKey, kValue})
        for (uint32_t &block : pages[i].blocks[part]) {
          block = ids.back();
          ids.pop_back();
        }
    }
  }

  void setLevels(Part part, int32_t level) {
    for (rt::PageEntry &page : pages)
      page.level[part] = static_cast<uint8_t>(level);
  }

  DeviceImage image() {
    return {problem.image(), memory.data(),
            memory.data() + layout.slotOffset(0)};
  }

  void upload() {
    auto bytes = static_cast<int64_t>(memory.size());
    rt::Status status = pool->memory().upload(memory.data(), bytes);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  void download() {
    ASSERT_TRUE(stream.synchronize().ok());
    auto bytes = static_cast<int64_t>(memory.size());
    rt::Status status = pool->memory().download(memory.data(), bytes);
    ASSERT_TRUE(status.ok()) << status.message();
  }

  template <typename T> T *toDevice(const std::vector<T> &from) {
    auto bytes = static_cast<int64_t>(from.size() * sizeof(T));
    auto made = rt::cuda::DeviceMemory::allocate(device, bytes);
    EXPECT_TRUE(made.ok());
    EXPECT_TRUE(made->upload(from.data(), bytes).ok());
    buffers.push_back(std::move(*made));
    return buffers.back().pointer<T>();
  }

  rt::PagesArgs pagesArgs(Part part) {
    std::vector<rt::PagePartTask> tasks(kPages);
    for (int64_t i = 0; i < kPages; ++i) {
      std::copy(std::begin(pages[i].blocks[part]),
                std::end(pages[i].blocks[part]), tasks[i].blocks);
      tasks[i].slot = pages[i].slot;
      tasks[i].window = static_cast<uint32_t>(
          layout.fixedOffset(kPages - 1 - i, part) / rt::kDeviceGrainBytes);
      tasks[i].feedback = static_cast<uint32_t>(i % kHeads);
    }
    rt::PagesArgs args = {};
    if (!table.empty())
      args.keyFeedback = toDevice(table);
    args.codes = pool->memory().pointer();
    args.parameters = pool->memory().pointer(layout.slotOffset(0));
    args.tasks = toDevice(tasks);
    args.outcomes = toDevice(std::vector<uint32_t>(kPages, 0));
    return args;
  }
  /// A PageOutcome of each task.
  std::vector<uint32_t> outcomes() {
    std::vector<uint32_t> words(kPages);
    EXPECT_TRUE(
        buffers.back().download(words.data(), kPages * sizeof(uint32_t)).ok());
    return words;
  }
  /// What kernels that quantize say of pages; others say nothing.
  static std::vector<uint32_t>
  outcomesOf(const std::vector<reference::PagePart> &parts, bool quantizes) {
    std::vector<uint32_t> words;
    for (const reference::PagePart &part : parts) {
      const bool isWide =
          std::any_of(part.range.begin(), part.range.end(), [](uint16_t range) {
            return range > rt::kNarrowRangeBits;
          });
      words.push_back(quantizes && isWide ? rt::kPageHasWideRange
                                          : rt::kPageWritten);
    }
    return words;
  }

  /// A part of bf16 values, [128][headDim].
  std::vector<uint16_t> draw(Content content) {
    std::normal_distribution<float> normal;
    std::vector<uint16_t> values;
    for (int64_t token = 0; token < rt::kPageTokens; ++token)
      for (int64_t dim = 0; dim < headDim(); ++dim) {
        float x = normal(random);
        if (content == Content::Offsets && dim % 32 == 5)
          x += 300;
        if (content == Content::Tiny)
          x *= 1e-7f;
        if (content == Content::Huge)
          x *= 5000;
        if (content == Content::Constant && (dim + token) % 3)
          x = 0.75f;
        if (content == Content::Constant && dim % 2 && token % 5 == 0)
          x = -0.0f;
        values.push_back(reference::floatToBf16(x));
      }
    return values;
  }

  void expectPart(const rt::PageEntry &page, Part part,
                  const reference::PagePart &expected) {
    ASSERT_EQ(page.level[part], expected.level);
    DeviceImage image = this->image();
    const reference::UniformFormat &format = problem.format[part];
    for (int64_t token = 0; token < rt::kPageTokens; ++token)
      for (int64_t dim = 0; dim < headDim(); ++dim) {
        size_t i = static_cast<size_t>(token * headDim() + dim);
        uint32_t code = image.code(page, part, token, dim);
        ASSERT_EQ(code,
                  expected.level == 16 ? expected.values[i] : expected.codes[i])
            << "part " << part << " token " << token << " dim " << dim;
        if (expected.level == 16)
          continue;
        auto group = static_cast<size_t>(
            reference::groupOf(format, headDim(), token, dim));
        ASSERT_EQ(image.parameter(page, part, token, dim, kMinimum),
                  expected.minimum[group])
            << "part " << part << " token " << token << " dim " << dim;
        ASSERT_EQ(image.parameter(page, part, token, dim, kRange),
                  expected.range[group])
            << "part " << part << " token " << token << " dim " << dim;
      }
  }

  std::mt19937 random{7};
  bench::Problem problem;
  rt::cuda::DeviceRef device;
  rt::cuda::Stream stream;
  rt::cuda::PoolLayout layout;
  std::optional<rt::cuda::CachePool> pool;
  std::optional<rt::cuda::CacheWriters> writers;
  std::vector<rt::cuda::DeviceMemory> buffers;
  std::vector<uint8_t> memory;
  std::vector<rt::PageEntry> pages;
  /// [kHeads]; empty: keys fall without.
  std::vector<reference::KeyFeedback> feedback;
  std::vector<float> table;
};

constexpr Content kContents[] = {Content::Normal, Content::Offsets,
                                 Content::Tiny, Content::Huge,
                                 Content::Constant};
} // namespace

TEST_P(WriteTest, FlushedWindowsAreTheReferences) {
  load();
  for (Content content : kContents)
    for (Part part : {kKey, kValue})
      for (int32_t level : rt::kLadder) {
        setLevels(part, level);
        std::fill(memory.begin(), memory.end(), 0xa5);
        std::vector<reference::PagePart> expected(kPages);
        for (int64_t i = 0; i < kPages; ++i) {
          expected[i].values = draw(content);
          uint8_t *area =
              memory.data() + layout.fixedOffset(kPages - 1 - i, part);
          for (int64_t token = 0; token < rt::kPageTokens; ++token)
            for (int64_t dim = 0; dim < headDim(); ++dim)
              DeviceImage::setFixedValue(
                  area, part, headDim(), kSink + token, dim,
                  expected[i].values[token * headDim() + dim]);
          ASSERT_TRUE(reference::lowerPart(problem.format[part], headDim(),
                                           level, expected[i],
                                           feedbackOf(part, i))
                          .ok());
        }
        upload();
        rt::PagesArgs args = pagesArgs(part);
        rt::Status status = writers->flush(stream, args, kPages, part, level);
        ASSERT_TRUE(status.ok()) << status.message();
        download();
        EXPECT_EQ(outcomes(), outcomesOf(expected, level < 16));
        for (int64_t i = 0; i < kPages; ++i)
          ASSERT_NO_FATAL_FAILURE(expectPart(pages[i], part, expected[i]))
              << "level " << level << " content " << int(content);
      }
}

TEST_P(WriteTest, PagesFallInPlaceAsTheReferences) {
  load();
  for (Content content : kContents)
    for (Part part : {kKey, kValue}) {
      setLevels(part, 16);
      std::vector<reference::PagePart> expected(kPages);
      DeviceImage image = this->image();
      for (int64_t i = 0; i < kPages; ++i) {
        expected[i].values = draw(content);
        for (int64_t token = 0; token < rt::kPageTokens; ++token)
          for (int64_t dim = 0; dim < headDim(); ++dim)
            image.setCode(pages[i], part, token, dim,
                          expected[i].values[token * headDim() + dim]);
      }
      upload();
      for (int32_t from : {16, 8, 4}) {
        rt::PagesArgs args = pagesArgs(part);
        rt::Status status =
            writers->requantize(stream, args, kPages, part, from);
        ASSERT_TRUE(status.ok()) << status.message();
        download();
        setLevels(part, from / 2);
        const std::vector<uint32_t> said = outcomes();
        for (int64_t i = 0; i < kPages; ++i) {
          ASSERT_TRUE(reference::lowerPart(problem.format[part], headDim(),
                                           from / 2, expected[i],
                                           feedbackOf(part, i))
                          .ok());
          ASSERT_NO_FATAL_FAILURE(expectPart(pages[i], part, expected[i]))
              << "from " << from << " content " << int(content);
        }
        EXPECT_EQ(said, outcomesOf(expected, from == 16));
      }
    }
}

TEST_P(WriteTest, WhatCannotBeRepresentedStaysAsItWas) {
  load();
  constexpr uint16_t kNotANumber = 0x7fc0;
  for (Part part : {kKey, kValue}) {
    setLevels(part, 16);
    std::vector<reference::PagePart> expected(kPages);
    for (int64_t i = 0; i < kPages; ++i) {
      expected[i].values = draw(Content::Normal);
      if (i == 2)
        expected[i].values[77 * headDim() + 13] = kNotANumber;
      DeviceImage image = this->image();
      for (int64_t token = 0; token < rt::kPageTokens; ++token)
        for (int64_t dim = 0; dim < headDim(); ++dim)
          image.setCode(pages[i], part, token, dim,
                        expected[i].values[token * headDim() + dim]);
    }
    upload();
    std::vector<uint8_t> before = memory;
    rt::PagesArgs args = pagesArgs(part);
    rt::Status status = writers->requantize(stream, args, kPages, part, 16);
    ASSERT_TRUE(status.ok()) << status.message();
    download();
    std::vector<uint32_t> one(kPages, rt::kPageWritten);
    one[2] = rt::kPageNotRepresentable;
    EXPECT_EQ(outcomes(), one);
    for (int64_t i = 0; i < kPages; ++i) {
      if (i != 2) {
        pages[i].level[part] = 8;
        ASSERT_TRUE(reference::lowerPart(problem.format[part], headDim(), 8,
                                         expected[i])
                        .ok());
      }
      ASSERT_NO_FATAL_FAILURE(expectPart(pages[i], part, expected[i]));
    }
  }
}

namespace {
/// Rotations as kernels compute them: f32, each operation rounded.
void embedPosition(std::vector<float> &x, const float *cosines,
                   const float *sines) {
  size_t half = x.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    volatile float a = x[i] * cosines[i], b = x[i + half] * sines[i];
    volatile float c = x[i + half] * cosines[i], d = x[i] * sines[i];
    x[i] = a - b;
    x[i + half] = c + d;
  }
}
void transform(std::vector<float> &x) {
  // Blocks are the largest power of two that divides.
  const size_t block = x.size() & -x.size();
  for (size_t half = 1; half < block; half *= 2)
    for (size_t i = 0; i < x.size(); ++i)
      if (!(i & half)) {
        float a = x[i], b = x[i | half];
        x[i] = a + b;
        x[i | half] = a - b;
      }
  auto norm = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  for (float &value : x)
    value *= norm;
}
} // namespace

TEST_P(WriteTest, AppendedTokensAreRotatedRoundedAndAlone) {
  for (bool positions : {false, true}) {
    load(positions);
    std::normal_distribution<float> normal;
    // Sequences of kHeads areas each, at these tokens of theirs.
    const std::vector<uint32_t> tokens = {0, 16, 129 - 1};
    auto rows = static_cast<int64_t>(tokens.size());
    ASSERT_EQ(rows * kHeads, kPages);
    std::vector<float> inputs[rt::kParts], cosines, sines;
    for (std::vector<float> &input : inputs)
      for (int64_t i = 0; i < rows * kHeads * headDim(); ++i)
        input.push_back(normal(random));
    for (int64_t i = 0; i < rows * headDim() / 2; ++i) {
      cosines.push_back(std::cos(0.37f * float(i)));
      sines.push_back(std::sin(0.37f * float(i)));
    }
    std::vector<rt::AppendTask> tasks;
    for (int64_t row = 0; row < rows; ++row)
      tasks.push_back(
          {static_cast<uint32_t>(layout.fixedOffset(row * kHeads, kKey) /
                                 rt::kDeviceGrainBytes),
           tokens[row]});
    // What was there is not finite.
    std::fill(memory.begin(), memory.end(), 0xff);
    upload();
    rt::AppendArgs args = {};
    args.codes = pool->memory().pointer();
    args.tasks = toDevice(tasks);
    args.keys = toDevice(inputs[kKey]);
    args.values = toDevice(inputs[kValue]);
    args.cosines = toDevice(cosines);
    args.sines = toDevice(sines);
    rt::Status status = writers->append(stream, args, rows, kHeads);
    ASSERT_TRUE(status.ok()) << status.message();
    download();
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t head = 0; head < kHeads; ++head)
        for (Part part : {kKey, kValue}) {
          const float *from = &inputs[part][(row * kHeads + head) * headDim()];
          std::vector<float> x(from, from + headDim());
          if (positions && part == kKey)
            embedPosition(x, &cosines[row * headDim() / 2],
                          &sines[row * headDim() / 2]);
          // Values come in their rotated basis.
          if (part == kKey)
            transform(x);
          const uint8_t *area =
              memory.data() + layout.fixedOffset(row * kHeads + head, part);
          for (int64_t token = 0; token < 144; ++token)
            for (int64_t dim = 0; dim < headDim(); ++dim) {
              uint16_t value =
                  DeviceImage::fixedValue(area, part, headDim(), token, dim);
              uint16_t expected = 0xffff;
              if (token == tokens[row])
                expected = reference::floatToBf16(x[dim]);
              else if (tokens[row] % 16 == 0 && token / 16 == tokens[row] / 16)
                expected = 0;
              ASSERT_EQ(value, expected)
                  << "positions " << positions << " row " << row << " part "
                  << part << " token " << token << " dim " << dim;
            }
        }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cuda, WriteTest,
    ::testing::Values(Geometry{"<per_channel, hadamard>", 128},
                      Geometry{"<per_token, hadamard>", 128},
                      Geometry{"<per_channel, hadamard>", 64},
                      Geometry{"<per_token, hadamard>", 64},
                      Geometry{"<per_channel, hadamard>", 80},
                      Geometry{"<per_token, hadamard>", 80},
                      Geometry{"<per_channel, hadamard>", 96},
                      Geometry{"<per_token, hadamard>", 96},
                      Geometry{"<per_channel, hadamard>", 256},
                      Geometry{"<per_channel, hadamard>", 128,
                               "<per_token_symmetric, hadamard>"},
                      Geometry{"<per_token, hadamard>", 80,
                               "<per_token_symmetric, hadamard>"},
                      Geometry{"<per_channel, hadamard, feedback>", 128},
                      Geometry{"<per_token, hadamard, feedback>", 128},
                      Geometry{"<per_channel, hadamard, feedback>", 64},
                      Geometry{"<per_channel, hadamard, feedback>", 80},
                      Geometry{"<per_token, hadamard, feedback>", 96},
                      Geometry{"<per_channel, hadamard, feedback>", 256}),
    [](const auto &info) {
      auto has = [](const char *text, const char *word) {
        return std::string(text).find(word) != std::string::npos;
      };
      return (has(info.param.keyFormat, "channel") ? "PerChannel"
                                                   : "PerToken") +
             std::to_string(info.param.headDim) +
             (has(info.param.valueFormat, "symmetric") ? "Symmetric" : "") +
             (has(info.param.keyFormat, "feedback") ? "Feedback" : "");
    });
