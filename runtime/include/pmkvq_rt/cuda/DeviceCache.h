//===- DeviceCache.h - A session's caches on a GPU --------------*- C++ -*-===//
//
// A CacheStore whose memory and kernels are a GPU's, while everything else of
// a step runs on the CPU.  Neighbours: CacheStore.h (what a session asks for),
// Write.h and Decode.h (the kernels and the memory), DeviceWorkList.h (units).
//
// Mental model.  One CachePool holds the caches of all layers.  Block ids and
// slots are those of the session's page tables; the fixed area of a layer,
// sequence and kv head is number (layer * maxSequences + sequence) * kvHeads +
// head.  A step's launches are told apart by their kernel:
//
//   append_N  rows go up, one AppendTask each, in as few launches as may be
//   attend_N  queries go up; the rows of a chunk are taken several at a time
//             (segmentRows), each sees as many fixed tokens as it may
//   merge_N   results come down: the one wait of a layer
//
// and everything else runs on the threads.  Work lists of all layers are made
// and copied before the first launch of a step; a decode kernel is compiled for
// the levels that pages may come to, again when a snapshot brings others, and
// for 1, 2, 4, .. rows of a sequence when a step first has so many.  Kernels on
// warpgroups are first compiled for narrow ranges: what writes pages says where
// there was a wide one, and from then on all take them.
// Buffers only grow: once they have, a step allocates nothing.
//
// All work is on one stream, in order; copies that snapshots make wait for it.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_CUDA_DEVICECACHE_H
#define PMKVQ_RT_CUDA_DEVICECACHE_H

#include "pmkvq_rt/CacheStore.h"
#include "pmkvq_rt/cuda/Decode.h"
#include "pmkvq_rt/cuda/Write.h"

#include <functional>
#include <map>

namespace pmkvq::rt::cuda {

/// A decode kernel, as the compiler gives it.
struct DecodeCode {
  /// PTX or a cubin.
  std::string code;
  std::string name;
  int32_t threads = 0;
  /// Dynamic shared memory, bytes.
  int32_t sharedBytes = 0;
  /// Rows of queries that a segment may have, at least 1.
  int64_t rows = 1;
  /// Whether its work lists are of pages, not of units.
  bool takesPages = false;
};

/// What a decode kernel is to be compiled for.
struct DecodeNeeds {
  /// Rows of queries that a segment is to have; it may have fewer.
  int64_t rows = 1;
  std::vector<UnitKind> kinds;
  /// Whether groups have ranges above kNarrowRange.
  bool wideRanges = false;
};

/// A page in host memory: block i of its entry at i * blockBytes(headDim), its
/// slot at the beginning of `parameters`.
struct PageBytes {
  uint8_t *blocks;
  uint8_t *parameters;
};

/// Moves codes and parameters between the order of the CPU's kernels and that
/// of a GPU's.
struct PageOrders {
  std::function<Status(const PageEntry &page, const PageBytes &device,
                       const PageBytes &host)>
      toHost, toDevice;
  /// The first `tokens` tokens of a fixed area's part.
  /// Shapes: device whole units of 16 tokens; host [tokens][headDim] bf16, at
  /// any alignment.
  std::function<void(Part part, int64_t tokens, const uint8_t *from,
                     uint8_t *to)>
      fixedToHost, fixedToDevice;
  /// Whether a group of the page has a range above kNarrowRange.
  std::function<bool(const PageEntry &page, const PageBytes &host)>
      hasWideRange;
};

/// What the compiler has to give for a program.
struct DeviceCacheCode {
  /// The program's kernels that the device takes over.
  std::vector<KernelFn> append, attend, merge;
  WriterCode writers;
  /// Bytes of a page's parameters.
  int64_t slotBytes = 0;
  /// [layers]: layers with the same number attend with the same kernel.
  std::vector<int32_t> variants;
  /// Compiles a variant; errors say what is not built.
  std::function<Result<DecodeCode>(int32_t variant, const DecodeNeeds &needs)>
      decode;
  PageOrders orders;
};

class DeviceCache : public CacheStore {
public:
  /// Loads the kernels that write.
  ///
  /// Errors: those of the driver.
  static Result<std::shared_ptr<DeviceCache>> create(const DeviceRef &device,
                                                     DeviceCacheCode code);

  /// Errors: as CacheStore; InvalidArgument for a program that the code is not
  /// of; those of the compiler.
  Status attach(const CacheGeometry &geometry, CacheView *caches,
                ThreadPool &threads) override;
  Status preparePages(int64_t tasks) override;
  Result<LaunchResult> writePages(const PageLaunch &launch) override;
  Status prepareStep(const StepArgs &args,
                     const std::vector<RowRun> &runs) override;
  int32_t launch(const LaunchRecord &record) override;
  Status failure() const override { return failure_; }
  Status copyFixed(int32_t parent, int32_t child) override;
  Status readPage(const PageEntry &page, uint8_t *parameters,
                  uint8_t *const (&codes)[kParts]) override;
  Status writePage(const PageEntry &page, const uint8_t *parameters,
                   const uint8_t *const (&codes)[kParts]) override;
  Status readFixed(const FixedPart &place, int64_t tokens, void *to) override;
  Status writeFixed(const FixedPart &place, int64_t tokens,
                    const void *from) override;

private:
  /// Device memory that only grows; what it held is gone then.
  class Buffer {
  public:
    Status reserve(const DeviceRef &device, int64_t bytes, bool zeroed = false);
    DeviceMemory memory;
  };

  /// A decode kernel and the kinds, by UnitKind::index(), that it knows.
  struct Kernel {
    std::optional<Function> function;
    LaunchShape shape;
    /// Thread blocks that the device runs at once.
    int32_t resident = 0;
    uint32_t kinds = 0;
    /// Whether it takes wide ranges; kernels over units always do.
    bool takesWide = false;
    /// As in DecodeCode.
    int64_t rows = 1;
    bool takesPages = false;
  };

  /// Attention of one layer in the step under way; offsets in step_, bytes.
  struct LayerWork {
    int64_t tasks = 0;
    int64_t list = 0;
    int32_t rows = 0;
    uint32_t rowBytes = 0;
    uint32_t segmentsPerRow = 0;
  };

  DeviceCache(DeviceRef device, DeviceCacheCode code)
      : device_(std::move(device)), code_(std::move(code)) {}

  Status uploadFeedback();
  int64_t fixedArea(int32_t layer, int32_t sequence, int32_t head) const;
  const PageEntry *pages(int32_t layer, int32_t sequence, int32_t head) const;
  uint32_t kindsOf(int32_t layer, const std::vector<RowRun> &runs) const;
  Status provideKernel(int32_t variant, uint32_t kinds);
  Kernel &kernelOf(int32_t layer) {
    return kernels_[{code_.variants[static_cast<size_t>(layer)], stepRows_}];
  }
  template <typename Entry>
  Status listPairs(int32_t layer, const std::vector<RowRun> &runs,
                   std::vector<std::vector<Entry>> &pairs);
  Status listLayer(int32_t layer, const std::vector<RowRun> &runs,
                   int64_t &partials);
  int64_t group() const { return geometry().queryHeads / geometry().kvHeads; }
  void partRows(const StepArgs &args);
  void addAppendTasks(int32_t layer, const StepArgs &args);
  int64_t addToStep(const void *data, size_t bytes);
  Result<LaunchResult> readOutcomes(int64_t count);
  Status append(int32_t layer, const LaunchRecord &record);
  Status attend(int32_t layer, const LaunchRecord &record);
  Status merge(const LaunchRecord &record);
  PageEntry stagedEntry(const PageEntry &page) const;
  PageBytes deviceStage() {
    return {stage_.data(), stage_.data() + maxCodes()};
  }
  PageBytes hostStage();
  /// Bytes of a page's codes at level 16.
  int64_t maxCodes() const {
    return blockBytes(geometry().headDim) * kParts * kMaxBlocksPerPart;
  }

  DeviceRef device_;
  DeviceCacheCode code_;
  Stream stream_;
  std::optional<CacheWriters> writers_;
  std::optional<CachePool> pool_;
  /// What keys fall with, [layers][kvHeads]; empty: nothing.
  DeviceMemory keyFeedback_;
  /// By variant and rows that a segment is to have.
  std::map<std::pair<int32_t, int64_t>, Kernel> kernels_;
  /// Kinds that all kernels know, a bit each.
  uint32_t kinds_ = 0;
  Status failure_;

  // The step under way.
  int64_t rows_ = 0;
  /// Rows that its segments are to have.
  int64_t stepRows_ = 1;
  /// Where the rows of each append launch begin, and their end.
  std::vector<int64_t> appends_;
  std::vector<LayerWork> layers_;
  std::vector<std::vector<UnitTask>> unitPairs_;
  std::vector<std::vector<PrefillPage>> pagePairs_;
  std::vector<PairQueries> owners_;
  std::vector<uint8_t> stepBytes_;
  Buffer step_, keys_, values_, queries_, results_, partials_;

  // Page kernels.
  std::vector<PagePartTask> tasks_;
  std::vector<uint32_t> read_;
  Buffer pageTasks_, outcomes_;
  /// Whether a page of the cache may have a wide range; it stays so.
  bool hasWideRanges_ = false;

  /// A page or part of a fixed area in both orders, a GPU's first.
  std::vector<uint8_t> stage_;
};

} // namespace pmkvq::rt::cuda

#endif // PMKVQ_RT_CUDA_DEVICECACHE_H
