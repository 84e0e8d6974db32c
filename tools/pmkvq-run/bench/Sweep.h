//===- Sweep.h - Many shapes, one table -------------------------*- C++ -*-===//
//
// Lists of options as shapes, known times of other kernels, and the table of
// results.  Neighbours: Shape.h (one shape), data/peers-h200.csv (the times).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_SWEEP_H
#define PMKVQ_TOOLS_RUN_BENCH_SWEEP_H

#include "Measurement.h"

#include <optional>

namespace pmkvq::bench {

/// Values of each option; every combination is measured.
struct Sweep {
  std::vector<int64_t> kvHeads = {8};
  std::vector<int64_t> queryHeads = {32};
  std::vector<int64_t> headDims = {128};
  std::vector<int64_t> batches = {1};
  /// Empty: the device's default.
  std::vector<std::string> contexts;
  std::vector<std::string> levels = {"16", "8", "4", "2"};
  std::vector<std::string> keyFormats = {"<per_channel, hadamard>"};
  std::vector<std::string> valueFormats = {"<per_token, hadamard>"};
  /// Of all.
  std::string inputs = Shape().inputs;
};

/// Tokens of a context that is not given.
inline constexpr const char *kDeviceContext = "32768";
inline constexpr const char *kHostContext = "4096";

/// Errors: InvalidArgument if there are more combinations than anybody waits
/// for, and memory holds.
rt::Status checkCount(const Sweep &sweep);

/// All combinations; levels change fastest, heads slowest.
std::vector<Shape> expand(const Sweep &sweep,
                          const std::string &defaultContext);

/// "8 x 32768, 32 query and 8 kv heads of 128, levels 4": for messages.
std::string describe(const Shape &shape);

/// The fastest kernel of others that is known for a shape.
struct Peer {
  std::string kernel;
  double microseconds = 0;
};

/// None if nobody has measured this shape.
std::optional<Peer> findPeer(const Shape &shape);

/// The table's first line; `hasRates` where lines end with TFLOP/s.
std::string csvHeader(bool hasRates = false);

/// One line of it; ends with a line feed.
std::string csvLine(const Shape &shape, const Measurement &row);

/// The same for people.
std::string textHeader();
std::string textLine(const Shape &shape, const Measurement &row);

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_SWEEP_H
