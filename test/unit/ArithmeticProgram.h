//===- ArithmeticProgram.h - A program that only keeps a cache --*- C++ -*-===//
//
// A program without weights: keys, values and queries follow from token and
// position, and every kernel is lib/Reference's arithmetic, on the CPU over
// Abi.h's structs and on a stand-in GPU over DeviceAbi.h's.  What a session
// makes of one and of the other must be the same.  Neighbours: StandInDecode.h
// (the kernel that attends), RuntimeDeviceCacheTest.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_ARITHMETICPROGRAM_H
#define PMKVQ_TEST_UNIT_ARITHMETICPROGRAM_H

#include "StandInCuda.h"
#include "StandInDecode.h"
#include "bench/PagePart.h"
#include "pmkvq/Reference/Attention.h"
#include "pmkvq/Target/CacheImage.h"
#include "pmkvq_rt/DeviceKernelNames.h"
#include "pmkvq_rt/Session.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace pmkvq::test {

/// Entry points are plain functions, so what they know is global.
struct Arithmetic {
  rt::ProgramInfo info = {};
  bench::Problem problem;
  /// Whether attention is computed; it takes most of the time.
  bool attends = true;
  /// A token whose keys are no numbers, and one whose keys are far from
  /// others'; -1: none.
  int32_t poison = -1, wide = -1;

  /// Attention of the last step, [layers][rows][queryHeads][headDim].
  std::vector<float> outputs;
  /// The layer under way.
  int32_t layer = 0;
  std::vector<float> queries;
};
inline Arithmetic *arithmetic = nullptr;

inline rt::ProgramInfo arithmeticInfo() {
  rt::ProgramInfo info = {};
  info.abiVersion = rt::kAbiVersion;
  info.layers = 2;
  info.kvHeads = 2;
  info.queryHeads = 4;
  info.headDim = 64;
  info.sinkTokens = 1;
  info.parameterBytes[rt::kKey] = 64 * 4;
  info.parameterBytes[rt::kValue] = 128 * 4;
  info.vocabSize = 11;
  info.maxPositions = 1200;
  info.schedule = rt::kSchedulePage;
  info.floor[rt::kKey] = info.floor[rt::kValue] = 2;
  return info;
}

/// A number in -1 .. 1 that depends on all of these.
inline float noise(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  uint32_t x =
      a * 2654435761u ^ b * 2246822519u ^ c * 3266489917u ^ d * 668265263u;
  x = (x ^ x >> 15) * 2246822519u;
  x = (x ^ x >> 13) * 3266489917u;
  return static_cast<float>(x >> 8) / 8388608.0f - 1.0f;
}

//===----------------------------------------------------------------------===//
// Parts of pages in either order
//===----------------------------------------------------------------------===//

template <typename Image>
reference::PagePart readPart(const Image &image, const rt::PageEntry &page,
                             rt::Part part) {
  return bench::readPart(image, page, part, arithmetic->problem.format[part],
                         arithmetic->info.headDim);
}

template <typename Image>
void writePart(Image &image, rt::PageEntry page, rt::Part part,
               const reference::PagePart &content) {
  const reference::UniformFormat &format = arithmetic->problem.format[part];
  const int64_t headDim = arithmetic->info.headDim;
  page.level[part] = static_cast<uint8_t>(content.level);
  for (int64_t token = 0; token < rt::kPageTokens; ++token)
    for (int64_t dim = 0; dim < headDim; ++dim) {
      auto i = static_cast<size_t>(token * headDim + dim);
      if (content.level == 16) {
        image.setCode(page, part, token, dim, content.values[i]);
        continue;
      }
      image.setCode(page, part, token, dim, content.codes[i]);
      auto group =
          static_cast<size_t>(reference::groupOf(format, headDim, token, dim));
      image.setParameter(page, part, token, dim, kMinimum,
                         content.minimum[group]);
      image.setParameter(page, part, token, dim, kRange, content.range[group]);
    }
}

/// Lowers `content` to `to` and writes it; a KernelStatus.
template <typename Image>
int32_t lowerInto(Image &image, const rt::PageEntry &page, rt::Part part,
                  reference::PagePart content, int32_t to) {
  rt::Status status = reference::lowerPart(
      arithmetic->problem.format[part], arithmetic->info.headDim, to, content);
  if (!status.ok())
    return rt::kKernelNotRepresentable;
  writePart(image, page, part, content);
  return rt::kKernelOk;
}

//===----------------------------------------------------------------------===//
// The CPU
//===----------------------------------------------------------------------===//

inline uint16_t *fixedRows(const rt::CacheView &cache, int32_t sequence,
                           int32_t head, int32_t part) {
  const rt::ProgramInfo &info = arithmetic->info;
  int64_t area = int64_t{sequence} * info.kvHeads + head;
  return cache.fixed + (area * rt::kParts + part) *
                           (info.sinkTokens + rt::kPageTokens) * info.headDim;
}

inline rt::PageEntry &entryOf(const rt::CacheView &cache,
                              const rt::PageTask &task) {
  int64_t table = int64_t{task.sequence} * arithmetic->info.kvHeads + task.head;
  return cache.pages[table * cache.maxPages + task.page];
}

inline HostImage hostImage(const rt::CacheView &cache) {
  return {arithmetic->problem.image(), cache.blocks, cache.parameters};
}

template <rt::Part part, int32_t to>
int32_t arithmeticFlush(void *const *operands, int64_t index) {
  const rt::PageTask &task = static_cast<rt::PageTask *>(operands[1])[index];
  const rt::CacheView &cache =
      static_cast<rt::CacheView *>(operands[0])[task.layer];
  const int64_t headDim = arithmetic->info.headDim;
  const uint16_t *window = fixedRows(cache, task.sequence, task.head, part) +
                           arithmetic->info.sinkTokens * headDim;
  reference::PagePart content;
  content.values.assign(window, window + rt::kPageTokens * headDim);
  HostImage image = hostImage(cache);
  return lowerInto(image, entryOf(cache, task), part, std::move(content), to);
}

template <rt::Part part, int32_t from>
int32_t arithmeticRequantize(void *const *operands, int64_t index) {
  const rt::PageTask &task = static_cast<rt::PageTask *>(operands[1])[index];
  const rt::CacheView &cache =
      static_cast<rt::CacheView *>(operands[0])[task.layer];
  HostImage image = hostImage(cache);
  const rt::PageEntry &page = entryOf(cache, task);
  EXPECT_EQ(page.level[part], from);
  return lowerInto(image, page, part, readPart(image, page, part), from / 2);
}

inline int32_t arithmeticAppend(void *const *operands, int64_t row) {
  const auto &cache = *static_cast<rt::CacheView *>(operands[0]);
  const rt::Row &place = static_cast<rt::StepArgs *>(operands[1])->rows[row];
  const rt::ProgramInfo &info = arithmetic->info;
  for (int32_t head = 0; head < info.kvHeads; ++head)
    for (int32_t part = 0; part < rt::kParts; ++part) {
      const float *from = static_cast<float *>(operands[2 + part]) +
                          (row * info.kvHeads + head) * info.headDim;
      uint16_t *to = fixedRows(cache, place.sequence, head, part) +
                     int64_t{place.fixedIndex} * info.headDim;
      for (int64_t dim = 0; dim < info.headDim; ++dim)
        to[dim] = reference::floatToBf16(from[dim]);
    }
  return rt::kKernelOk;
}

inline int32_t arithmeticAttend(void *const *, int64_t) {
  return rt::kKernelOk;
}

/// All tokens of a part that a row of so many pages and fixed tokens sees.
inline std::vector<double> hostValues(const rt::CacheView &cache,
                                      int32_t sequence, int32_t head,
                                      rt::Part part, int32_t pages,
                                      int64_t fixedTokens) {
  const int64_t headDim = arithmetic->info.headDim;
  std::vector<double> values;
  HostImage image = hostImage(cache);
  for (int32_t page = 0; page < pages; ++page) {
    std::vector<double> decoded = reference::decodePart(
        arithmetic->problem.format[part], headDim,
        readPart(image, entryOf(cache, {0, sequence, head, page}), part));
    values.insert(values.end(), decoded.begin(), decoded.end());
  }
  const uint16_t *fixed = fixedRows(cache, sequence, head, part);
  for (int64_t i = 0; i < fixedTokens * headDim; ++i)
    values.push_back(reference::bf16ToFloat(fixed[i]));
  return values;
}

/// All of attention, for the tasks' parts are nothing of interest here.
inline int32_t arithmeticMerge(void *const *operands, int64_t index) {
  if (!arithmetic->attends)
    return rt::kKernelOk;
  const auto &args = *static_cast<rt::StepArgs *>(operands[0]);
  const rt::MergeTask &task = args.mergeTasks[index];
  const rt::ProgramInfo &info = arithmetic->info;
  const rt::CacheView &cache = args.caches[arithmetic->layer];
  const rt::Row &last = args.rows[task.row + task.rows - 1];
  int32_t position = args.positions[task.row + task.rows - 1];
  int32_t pages = (position - last.fixedIndex) / rt::kPageTokens;
  std::vector<double> keys = hostValues(cache, last.sequence, task.head,
                                        rt::kKey, pages, last.fixedIndex + 1);
  std::vector<double> values = hostValues(
      cache, last.sequence, task.head, rt::kValue, pages, last.fixedIndex + 1);
  const int64_t group = info.queryHeads / info.kvHeads;
  std::vector<double> output(static_cast<size_t>(info.headDim));
  for (int32_t row = task.row; row < task.row + task.rows; ++row)
    for (int64_t i = 0; i < group; ++i) {
      int64_t at = (int64_t{row} * info.queryHeads + task.head * group + i) *
                   info.headDim;
      std::vector<double> query(arithmetic->queries.begin() + at,
                                arithmetic->queries.begin() + at +
                                    info.headDim);
      reference::attend(query.data(), keys.data(), values.data(),
                        args.positions[row] + 1, info.headDim,
                        arithmetic->problem.scale(), {}, output.data());
      std::copy(output.begin(), output.end(),
                static_cast<float *>(operands[1]) + at);
    }
  return rt::kKernelOk;
}

inline int32_t arithmeticStep(rt::StepArgs *args) {
  const rt::ProgramInfo &info = arithmetic->info;
  const int64_t kv = int64_t{info.kvHeads} * info.headDim;
  const int64_t q = int64_t{info.queryHeads} * info.headDim;
  auto fill = [&](int64_t width, uint32_t seed) {
    std::vector<float> rows;
    for (int64_t row = 0; row < args->rowCount; ++row)
      for (int64_t i = 0; i < width; ++i)
        rows.push_back(noise(static_cast<uint32_t>(args->tokens[row]),
                             static_cast<uint32_t>(args->positions[row]),
                             static_cast<uint32_t>(i), seed));
    return rows;
  };
  int32_t status = rt::kKernelOk;
  auto launch = [&](rt::KernelFn kernel, std::vector<void *> operands,
                    int64_t tasks) {
    status = std::max(
        status, pmkvq_rt_launch(args->runtime, kernel, operands.data(), tasks));
  };
  arithmetic->outputs.assign(
      static_cast<size_t>(info.layers * args->rowCount * q), 0.0f);
  for (int32_t layer = 0; layer < info.layers; ++layer) {
    auto seed = static_cast<uint32_t>(layer) * 3;
    std::vector<float> keys = fill(kv, seed), values = fill(kv, seed + 1);
    for (int64_t row = 0; row < args->rowCount; ++row)
      if (args->tokens[row] == arithmetic->poison)
        keys[static_cast<size_t>(row * kv + info.headDim)] = NAN;
      else if (args->tokens[row] == arithmetic->wide)
        keys[static_cast<size_t>(row * kv + info.headDim)] = 100;
    arithmetic->layer = layer;
    arithmetic->queries = fill(q, seed + 2);
    rt::CacheView *cache = args->caches + layer;
    float *outputs = arithmetic->outputs.data() + layer * args->rowCount * q;
    launch(arithmeticAppend, {cache, args, keys.data(), values.data()},
           args->rowCount);
    launch(arithmeticAttend, {cache, args, arithmetic->queries.data()},
           args->attendTaskCount);
    launch(arithmeticMerge, {args, outputs}, args->mergeTaskCount);
  }
  for (int64_t i = 0; i < args->outputCount; ++i)
    for (int64_t token = 0; token < info.vocabSize; ++token)
      args->logits[i * info.vocabSize + token] =
          noise(static_cast<uint32_t>(args->tokens[args->outputs[i]]),
                static_cast<uint32_t>(args->positions[args->outputs[i]]),
                static_cast<uint32_t>(token), 99);
  return status;
}

inline void arithmeticDescribe(rt::ProgramInfo *info) {
  *info = arithmetic->info;
}

template <rt::Part part> void addPageKernels(rt::ProgramEntries &entries) {
  entries.flush[part][0] = arithmeticFlush<part, 16>;
  entries.flush[part][1] = arithmeticFlush<part, 8>;
  entries.flush[part][2] = arithmeticFlush<part, 4>;
  entries.flush[part][3] = arithmeticFlush<part, 2>;
  entries.requantize[part][0] = arithmeticRequantize<part, 16>;
  entries.requantize[part][1] = arithmeticRequantize<part, 8>;
  entries.requantize[part][2] = arithmeticRequantize<part, 4>;
}

inline rt::ProgramEntries arithmeticEntries() {
  rt::ProgramEntries entries = {};
  entries.describe = arithmeticDescribe;
  entries.step = arithmeticStep;
  addPageKernels<rt::kKey>(entries);
  addPageKernels<rt::kValue>(entries);
  return entries;
}

//===----------------------------------------------------------------------===//
// The stand-in GPU
//===----------------------------------------------------------------------===//

inline void deviceAppend(const rt::AppendArgs &args, unsigned blocks) {
  const rt::ProgramInfo &info = arithmetic->info;
  const int64_t partBytes =
      rt::deviceFixedTokens(info.sinkTokens) * info.headDim * 2;
  // Thread blocks run in any order: the last first.
  for (unsigned block = blocks; block-- > 0;) {
    int64_t row = block / info.kvHeads, head = block % info.kvHeads;
    const rt::AppendTask &task = args.tasks[row];
    for (rt::Part part : {rt::kKey, rt::kValue}) {
      uint8_t *area = args.codes + int64_t{task.fixed} * rt::kDeviceGrainBytes +
                      (head * rt::kParts + part) * partBytes;
      if (task.token % 16 == 0)
        std::memset(area + task.token / 16 * rt::blockBytes(info.headDim), 0,
                    static_cast<size_t>(rt::blockBytes(info.headDim)));
      const float *from = (part == rt::kKey ? args.keys : args.values) +
                          int64_t{block} * info.headDim;
      for (int64_t dim = 0; dim < info.headDim; ++dim)
        DeviceImage::setFixedValue(area, part, info.headDim, task.token, dim,
                                   reference::floatToBf16(from[dim]));
    }
  }
}

template <typename Image>
bool hasWideRange(const Image &image, const rt::PageEntry &page,
                  rt::Part part) {
  bool isWide = false;
  for (int64_t token = 0; token < rt::kPageTokens; ++token)
    for (int64_t dim = 0; dim < arithmetic->info.headDim; ++dim)
      isWide |= image.parameter(page, part, token, dim, kRange) >
                rt::kNarrowRangeBits;
  return isWide;
}

/// Flushes if `from` is 0.
inline void deviceLower(const rt::PagesArgs &args, unsigned blocks,
                        rt::Part part, int32_t from, int32_t to) {
  const rt::ProgramInfo &info = arithmetic->info;
  DeviceImage image(arithmetic->problem.image(), args.codes, args.parameters);
  for (unsigned block = 0; block < blocks; ++block) {
    const rt::PagePartTask &task = args.tasks[block];
    rt::PageEntry page = {};
    std::copy_n(task.blocks, rt::kMaxBlocksPerPart, page.blocks[part]);
    page.slot = task.slot;
    page.level[part] = static_cast<uint8_t>(from ? from : 16);
    reference::PagePart content;
    if (from) {
      content = readPart(image, page, part);
    } else {
      const uint8_t *area =
          args.codes + int64_t{task.window} * rt::kDeviceGrainBytes;
      for (int64_t token = 0; token < rt::kPageTokens; ++token)
        for (int64_t dim = 0; dim < info.headDim; ++dim)
          content.values.push_back(DeviceImage::fixedValue(
              area, part, info.headDim, info.sinkTokens + token, dim));
    }
    const bool quantizes = content.level == 16 && to < 16;
    if (lowerInto(image, page, part, std::move(content), to)) {
      args.outcomes[block] = rt::kPageNotRepresentable;
      continue;
    }
    page.level[part] = static_cast<uint8_t>(to);
    if (quantizes && hasWideRange(image, page, part))
      args.outcomes[block] = rt::kPageHasWideRange;
  }
}

inline double runArithmetic(const StandInLaunch &launch, const void *argument) {
  if (launch.kernel == rt::kAppendKernel)
    deviceAppend(*static_cast<const rt::AppendArgs *>(argument), launch.blocks);
  // "decode8": of segments of up to 8 rows; "decode8pages": of pages.
  const std::string decode = "decode", pages = "pages";
  if (launch.kernel.compare(0, decode.size(), decode) == 0 &&
      arithmetic->attends)
    StandInDecode(arithmetic->problem,
                  std::stoll(launch.kernel.substr(decode.size())),
                  launch.kernel.find(pages) != std::string::npos)
        .run(*static_cast<const rt::DecodeArgs *>(argument), launch.blocks);
  for (rt::Part part : {rt::kKey, rt::kValue})
    for (int32_t level : rt::kLadder) {
      const auto &args = *static_cast<const rt::PagesArgs *>(argument);
      if (launch.kernel == rt::flushKernel(part, level))
        deviceLower(args, launch.blocks, part, 0, level);
      if (launch.kernel == rt::requantizeKernel(part, level))
        deviceLower(args, launch.blocks, part, level, level / 2);
    }
  return 1;
}

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_ARITHMETICPROGRAM_H
