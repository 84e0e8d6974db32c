//===- MirroredCache.h - A device's cache beside the CPU's ------*- C++ -*-===//
//
// A store that writes a session's caches twice, on the CPU and in another
// store, and compares them.  Neighbours: pmkvq_rt/CacheStore.h,
// AttentionCheck.h (which reads the CPU's and sees the device's attention),
// tools/pmkvq-run
// (`--check` with `--cache-device=cuda`).
//
// Mental model.  Both get the same keys, values and page launches, so codes,
// parameters and bf16 tokens must be equal bit for bit.  Attention is the
// device's alone: the program goes on with it, so whatever it does wrong shows
// in all that follows, while the caches stay comparable.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_CHECK_MIRROREDCACHE_H
#define PMKVQ_CHECK_MIRROREDCACHE_H

#include "pmkvq_rt/CacheStore.h"

#include <memory>
#include <vector>

namespace pmkvq::check {

class MirroredCache : public rt::CacheStore {
public:
  /// `append` are the program's kernels that both stores run, `attend` those
  /// that attend and merge, which `device` runs alone.
  MirroredCache(std::shared_ptr<rt::CacheStore> device,
                std::vector<rt::KernelFn> append,
                std::vector<rt::KernelFn> attend)
      : device_(std::move(device)), append_(std::move(append)),
        attend_(std::move(attend)) {}

  rt::Status attach(const rt::CacheGeometry &geometry, rt::CacheView *caches,
                    rt::ThreadPool &threads) override;
  rt::Status preparePages(int64_t tasks) override;
  rt::Result<rt::LaunchResult>
  writePages(const rt::PageLaunch &launch) override;
  rt::Status prepareStep(const rt::StepArgs &args,
                         const std::vector<rt::RowRun> &runs) override;
  int32_t launch(const rt::LaunchRecord &record) override;
  rt::Status failure() const override { return device_->failure(); }
  rt::Status copyFixed(int32_t parent, int32_t child) override;
  rt::Status writePage(const rt::PageEntry &page, const uint8_t *parameters,
                       const uint8_t *const (&codes)[rt::kParts]) override;
  rt::Status writeFixed(const rt::FixedPart &place, int64_t tokens,
                        const void *from) override;

  /// Compares what was written since the last call: pages, and the fixed areas
  /// of the sequences of the last step.
  ///
  /// Errors: Internal, naming the first difference; those of the device.
  rt::Status compareWritten();

  /// Compares every page of the last step's sequences, and their fixed areas.
  rt::Status compareAll();

  /// Pages compared so far.
  int64_t comparedPages() const { return comparedPages_; }

private:
  rt::Status comparePage(const rt::PageTask &place);
  rt::Status compareFixed(const rt::RowRun &run);

  std::shared_ptr<rt::CacheStore> device_;
  std::vector<rt::KernelFn> append_, attend_;
  /// Of the last step.
  std::vector<rt::RowRun> runs_;
  std::vector<rt::PageTask> written_;
  int64_t comparedPages_ = 0;
};

} // namespace pmkvq::check

#endif // PMKVQ_CHECK_MIRROREDCACHE_H
