//===- DeviceTiming.h - Times of launches on a GPU --------------*- C++ -*-===//
//
// Neighbours: DeviceBench.h and WriteBench.h (what is timed), Measurement.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_DEVICETIMING_H
#define PMKVQ_TOOLS_RUN_BENCH_DEVICETIMING_H

#include "Measurement.h"
#include "pmkvq_rt/cuda/Device.h"

#include <functional>

namespace pmkvq::bench {

/// Times `repeats` graphs of launch(0), launch(1), ..., launch(launches - 1);
/// before each, `restore` is run and not timed.
///
/// Units:  microseconds of one launch.
/// Errors: those of launches and of the driver.
rt::Result<Timing> timeGraph(const rt::cuda::Stream &stream, int64_t launches,
                             int32_t repeats,
                             const std::function<rt::Status(int64_t)> &launch,
                             const std::function<rt::Status()> &restore = {});

/// Time of the driver's copy of `bytes`, over `sets` ranges.
rt::Result<double> timeCopy(const rt::cuda::Stream &stream, int64_t bytes,
                            int64_t sets);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_DEVICETIMING_H
