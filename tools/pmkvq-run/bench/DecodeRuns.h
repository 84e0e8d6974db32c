//===- DecodeRuns.h - Launches of decode attention, timed -------*- C++ -*-===//
//
// What benchmarks of attention on a GPU have in common: kernels, sets of
// inputs, checks and times.  Neighbours: DeviceBench.cpp and LowerBench.cpp
// (which differ in kernels and work lists), DeviceBench.h (the method).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_DECODERUNS_H
#define PMKVQ_TOOLS_RUN_BENCH_DECODERUNS_H

#include "DeviceBench.h"

#include <functional>

namespace pmkvq::bench {

/// A kernel ready to be launched.
struct DecodeKernel {
  rt::cuda::Function function;
  rt::cuda::LaunchShape shape;
  /// Thread blocks that the device runs at once.
  int32_t resident = 0;
  int64_t slotBytes = 0;
  /// As in DeviceCode.
  int64_t rows = 1;
  bool takesPages = false;
};

/// One set of inputs, and where its results go.
struct DecodeSet {
  rt::cuda::CachePool pool;
  rt::cuda::DeviceMemory queries, results;
  rt::cuda::DecodeWork work;

  rt::DecodeArgs arguments() const;
};

/// The kernel on the device, which may take its shared memory from then on.
///
/// Errors: those of `code` and of the driver.
rt::Result<rt::cuda::Function> loadKernel(const rt::cuda::DeviceRef &device,
                                          const rt::Result<DeviceCode> &code);

rt::Result<DecodeKernel> loadDecodeKernel(const rt::cuda::DeviceRef &device,
                                          const rt::Result<DeviceCode> &code,
                                          bool dependent);

/// Units or pages for the query rows of every pair, and whose they are.
template <typename Entry> struct Pairs {
  std::vector<std::vector<Entry>> entries;
  std::vector<rt::PairQueries> queries;
};

/// As a session would list them, for segments of at most `most` rows.
/// `addPage(pair, page, entries)` adds a page, `addFixed(pair, tokens, more,
/// entries)` a fixed area.
template <typename Entry, typename AddPage, typename AddFixed>
rt::Result<Pairs<Entry>> listPairs(const Case &content, int64_t most,
                                   AddPage addPage, AddFixed addFixed) {
  const Problem &problem = content.problem();
  Pairs<Entry> all;
  for (int64_t pair = 0; pair < problem.pairs(); ++pair)
    for (int64_t row = 0; row < problem.rows; row += most) {
      const int64_t more = std::min(most, problem.rows - row) - 1;
      std::vector<Entry> &entries = all.entries.emplace_back();
      all.queries.push_back(
          {static_cast<uint32_t>(problem.queryPair(pair, row)),
           static_cast<int32_t>(more)});
      for (int64_t page = 0; page < content.length(pair).pages; ++page)
        if (rt::Status status = addPage(pair, page, entries); !status.ok())
          return status;
      const int64_t later = problem.rows - 1 - row;
      if (rt::Status status = addFixed(
              pair, content.length(pair).fixedTokens - later, more, entries);
          !status.ok())
        return status;
      rt::spreadKinds(entries);
    }
  return all;
}

/// Costs of a kernel's units where `blocks` thread blocks run at once.
rt::UnitCosts decodeCosts(const rt::cuda::Device &device,
                          const Problem &problem, int32_t blocks);

/// The sets that launches rotate over; the first is copied from the host.
/// `spareBytes`: zeros behind the content of each.
rt::Result<std::vector<DecodeSet>>
makeDecodeSets(const rt::cuda::DeviceRef &device, const DecodeKernel &kernel,
               const Case &content, const rt::DeviceWorkList &list,
               int64_t count, int64_t spareBytes = 0);

rt::Status launchDecode(const DecodeKernel &kernel,
                        const rt::cuda::Stream &stream, const DecodeSet &set);

/// Errors of a kernel's results; `results` receives them if it is not null.
rt::Result<Errors> checkDecode(const DecodeKernel &kernel,
                               const rt::cuda::Stream &stream, DecodeSet &set,
                               Case &content, std::vector<float> *results);

/// Times attention over the sets.  What the timed launches leave, which may
/// overlap, must be the checked results in every set.
rt::Result<Timing> timeDecode(const DecodeKernel &kernel,
                              const rt::cuda::Stream &stream,
                              std::vector<DecodeSet> &sets,
                              const std::vector<float> &checked);

/// Reading the sets' bytes with the best of a few grids.
rt::Result<double> timeReads(const DecodeKernel &kernel,
                             const rt::cuda::Stream &stream,
                             const std::vector<DecodeSet> &sets, int64_t bytes);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_DECODERUNS_H
