//===- CacheStore.h - Where a session's caches live -------------*- C++ -*-===//
//
// The memory behind a session's page tables and who runs kernels on it.
// Neighbours: Session.h (levels, ids and tables, which are its own), Launch.h
// (kernels on threads), cuda/DeviceCache.h (the same on a GPU).
//
// Mental model.  A session decides which pages there are, at which levels, in
// which blocks and slots; these ids mean the same in every store.  What the
// bytes of a block are is the store's alone: a session moves them only as whole
// pages and fixed areas, in the order of the CPU's kernels, into and out of
// snapshots.  This class is the CPU: bytes lie where a session's CacheViews
// point, and a program's kernels run on its threads.  The memory behind
// CacheViews is reserved for every store, and touched by this one alone.
//
// A call that fails before anything is changed says so by its Status; what a
// launch needs is therefore asked for beforehand, by preparePages and
// prepareStep, and a launch needs no memory of its own.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_CACHESTORE_H
#define PMKVQ_RT_CACHESTORE_H

#include "pmkvq_rt/Launch.h"
#include "pmkvq_rt/Schedule.h"
#include "pmkvq_rt/Status.h"
#include "pmkvq_rt/WorkList.h"

#include <cstdint>
#include <vector>

namespace pmkvq::rt {

/// Sizes of the caches that a store is to hold.
struct CacheGeometry {
  int32_t layers;
  int32_t kvHeads;
  int32_t queryHeads;
  int32_t headDim;
  int32_t sinkTokens;
  /// In the order of the CPU's kernels.
  int32_t parameterBytes[kParts];
  int32_t maxSequences;
  /// Ids of blocks and slots are below these.
  int64_t blocks;
  int64_t slots;
  /// Levels that pages may come to, each pair once; a snapshot may bring
  /// others.
  std::vector<PageLevels> pairs;

  /// Of both parts.
  int64_t slotBytes() const {
    return int64_t{parameterBytes[kKey]} + parameterBytes[kValue];
  }
};

/// A launch of a page kernel: one part of each page goes to level `to`.
struct PageLaunch {
  KernelFn kernel;
  Part part;
  /// The level before; 0: windows become pages.
  int32_t from;
  int32_t to;
  CacheView *caches;
  const PageTask *tasks;
  int64_t count;
};

/// Runs a launch on threads, on the memory that its CacheViews point to.
LaunchResult launchPages(ThreadPool &threads, const PageLaunch &launch);

/// One part of a fixed area.
struct FixedPart {
  int32_t layer;
  int32_t sequence;
  int32_t head;
  int32_t part;
};

class CacheStore {
public:
  CacheStore() = default;
  CacheStore(const CacheStore &) = delete;
  CacheStore &operator=(const CacheStore &) = delete;
  virtual ~CacheStore();

  /// Called once, by Session::open: reserves all that the caches may take.
  /// `caches` [layers] and `threads` are the session's and live as long as it
  /// makes calls.
  ///
  /// Errors: FailedPrecondition if a session has the store; OutOfMemory.
  virtual Status attach(const CacheGeometry &geometry, CacheView *caches,
                        ThreadPool &threads);

  /// Makes room for launches of up to `tasks` pages.
  ///
  /// Errors: OutOfMemory; nothing has changed then.
  virtual Status preparePages(int64_t tasks);

  /// Runs a page kernel; entries have the levels before, blocks and slots.
  ///
  /// Errors: those of a device, which leave the pages undefined.  A part that
  /// cannot be represented is part of the result.
  virtual Result<LaunchResult> writePages(const PageLaunch &launch);

  /// Makes room for all launches of a step; the page tables are as they will
  /// be in it.  Before a flush, a first call has the levels to come, of new
  /// pages no blocks yet; the second call needs no more room than the first.
  ///
  /// Errors: OutOfMemory and whatever a device refuses; nothing has changed
  /// then.
  virtual Status prepareStep(const StepArgs &args,
                             const std::vector<RowRun> &runs);

  /// Runs a launch of the step.  Returns a KernelStatus; kKernelNoDevice: see
  /// failure().
  virtual int32_t launch(const LaunchRecord &record);

  /// Why a launch returned kKernelNoDevice.
  virtual Status failure() const;

  /// Makes the fixed areas of `child` those of `parent`.
  ///
  /// Errors: those of a device; the child's are undefined then.
  virtual Status copyFixed(int32_t parent, int32_t child);

  /// Moves values at level 1 from where one entry says to where another does.
  ///
  /// Errors: those of a device.
  virtual Status moveValues(const PageEntry &from, const PageEntry &to);

  /// Copies a page out and in.  Level 1 is the first half of a block here, and
  /// the second is 0.
  ///
  /// Shapes: parameters of both parts; codes [part][level / 2][32 headDim],
  /// each part apart. Errors: those of a device.
  virtual Status readPage(const PageEntry &page, uint8_t *parameters,
                          uint8_t *const (&codes)[kParts]);
  virtual Status writePage(const PageEntry &page, const uint8_t *parameters,
                           const uint8_t *const (&codes)[kParts]);

  /// The same for the first `tokens` tokens of a fixed area's part.
  ///
  /// Shapes: [tokens][headDim] bf16, at any alignment.
  virtual Status readFixed(const FixedPart &place, int64_t tokens, void *to);
  virtual Status writeFixed(const FixedPart &place, int64_t tokens,
                            const void *from);

protected:
  const CacheGeometry &geometry() const { return geometry_; }
  const CacheView *caches() const { return caches_; }
  ThreadPool &threads() const { return *threads_; }

private:
  uint8_t *fixedPart(const FixedPart &place) const;
  /// Values at level 1.
  uint8_t *sharedHalf(const PageEntry &page) const;

  CacheGeometry geometry_ = {};
  CacheView *caches_ = nullptr;
  ThreadPool *threads_ = nullptr;
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_CACHESTORE_H
