//===- KernelHarness.h - Compiled kernels on hand-made caches ---*- C++ -*-===//
//
// Compiles the kernels of one cache type through every stage and lets tests
// call them on memory that they own, without a runtime session.  Neighbours:
// Compiler*Test.cpp.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TEST_UNIT_KERNELHARNESS_H
#define PMKVQ_TEST_UNIT_KERNELHARNESS_H

#include "pmkvq/Reference/Quantize.h"
#include "pmkvq/Target/HostProgram.h"
#include "pmkvq_rt/Abi.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace mlir {
class DialectRegistry;
}

namespace pmkvq::test {

/// What a test compiles for.
struct KernelShape {
  int64_t kvHeads = 1;
  int64_t queryHeads = 1;
  int64_t headDim = 128;
  /// Format attributes as text, without `#pmkvq.format`.
  std::string key = "<per_channel>";
  std::string value = "<per_token>";
  int64_t sink = 1;
  /// Clips of a calibration that replace those of the formats; 0: none.
  double keyClip = 0, valueClip = 0;
  /// Mean squares of queries, [kvHeads * headDim]; keys fall with feedback.
  std::vector<float> querySquares;
  /// 1 lets values fall to one bit.
  int64_t valueFloor = 2;
};

/// Kernels of one shape, compiled for this machine.
class Kernels {
public:
  /// Fails the test and returns null if anything does not compile.  `extend`
  /// may add to the registry, a format for example.
  static std::unique_ptr<Kernels>
  compile(const KernelShape &shape,
          const std::function<void(mlir::DialectRegistry &)> &extend = {});

  rt::KernelFn find(const std::string &name) const;
  rt::KernelFn flush(int32_t part, int32_t level) const;
  rt::KernelFn requantize(int32_t part, int32_t from) const;
  /// What the layer's keys fall with; null: nothing.
  const float *keyFeedback() const;

  const KernelShape shape;

private:
  explicit Kernels(KernelShape shape) : shape(std::move(shape)) {}
  std::unique_ptr<mlir::pmkvq::HostProgram> program;
};

/// One layer's cache for one or more sequences, in plain vectors.  Block ids
/// are handed out in a scattered order, so that kernels must go by the table.
class TestCache {
public:
  TestCache(const KernelShape &shape, int64_t parameterBytesKey,
            int64_t parameterBytesValue, int32_t sequences, int32_t maxPages);

  /// Sets levels, slot and block ids of a page.
  void makePage(int32_t sequence, int32_t head, int32_t page, int32_t keyLevel,
                int32_t valueLevel);

  rt::PageEntry &entry(int32_t sequence, int32_t head, int32_t page);
  /// Token `token` of the fixed area (sink first), head_dim bf16 values.
  uint16_t *fixed(int32_t sequence, int32_t head, int32_t part, int64_t token);

  /// The code at (token, dim) of a part, by the layout as the tests know it.
  uint32_t code(const rt::PageEntry &entry, int32_t part, int64_t token,
                int64_t dim) const;
  /// bf16 bits of a part at level 16.
  uint16_t raw(const rt::PageEntry &entry, int32_t part, int64_t token,
               int64_t dim) const;
  /// Stored parameter `index` of a group, of formats with 16-bit ones.
  uint16_t parameter(const rt::PageEntry &entry, int32_t part, int64_t index,
                     int64_t group, int64_t groups) const;
  /// Minimum and range of a group, fp16 bits.
  std::array<uint16_t, 2> parameters(const rt::PageEntry &entry, int32_t part,
                                     const reference::UniformFormat &format,
                                     int64_t group) const;

  rt::CacheView *view() { return &cacheView; }
  std::vector<uint8_t> blocks;

private:
  const uint8_t *slot(const rt::PageEntry &entry, int32_t part) const;

  KernelShape shape;
  int64_t slotBytes, keyBytes;
  int32_t maxPages;
  std::vector<uint8_t> slots;
  std::vector<rt::PageEntry> pages;
  std::vector<uint16_t> fixedArea;
  std::vector<uint32_t> freeBlocks;
  uint32_t nextSlot = 0;
  rt::CacheView cacheView;
};

/// The reference's view of a format attribute's text; a calibrated clip, if
/// not 0, replaces the text's.
reference::UniformFormat referenceFormat(const std::string &text,
                                         double calibratedClip = 0);

} // namespace pmkvq::test

#endif // PMKVQ_TEST_UNIT_KERNELHARNESS_H
