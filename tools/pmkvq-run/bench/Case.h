//===- Case.h - A cache of random content, and its reference ----*- C++ -*-===//
//
// Memory of a problem in the order of the CPU or of a GPU, queries, and
// attention over it in double precision.  Neighbours: Shape.h (problems),
// CacheImage.h (orders), DeviceBench.h and HostBench.h (who measures it).
//
// Content.  Codes are uniform, so they are random bytes whatever the order.
// Minima of keys lie in -2.5 .. -1, of values in -2.2 .. -1.2, ranges in 3 ..
// 5; raw values and queries are normal; Inputs.h says what else they may be.
// Block ids and slots are in random order, keys and values of a page apart.
//
// One range of memory holds [blocks][fixed areas][parameter slots].  On the CPU
// a fixed area is rows of bf16, on a GPU units of 16 tokens.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_BENCH_CASE_H
#define PMKVQ_TOOLS_RUN_BENCH_CASE_H

#include "Shape.h"
#include "pmkvq_rt/Arena.h"

#include <cstdint>
#include <functional>

namespace pmkvq::bench {

/// How far results are from the reference.
struct Errors {
  /// Root mean square of the differences, relative to that of the outputs.
  double rms = 0;
  /// Largest difference, relative to the root mean square of its output.
  double largest = 0;
};

class Case {
public:
  /// Errors: OutOfMemory, before anything is allocated, with what the case
  /// takes and what the machine has left.
  static rt::Result<Case> create(const Problem &problem, Order order,
                                 uint64_t seed);

  const Problem &problem() const { return problem_; }

  /// Pages of pair (sequence * kvHeads + head): [pair][maxPages].
  const rt::PageEntry &page(int64_t pair, int64_t page) const {
    return pages_[static_cast<size_t>(pair * maxPages_ + page)];
  }
  const std::vector<rt::PageEntry> &pages() const { return pages_; }
  int64_t maxPages() const { return maxPages_; }
  const Length &length(int64_t pair) const {
    return problem_.lengths[static_cast<size_t>(pair / problem_.shape.kvHeads)];
  }

  uint8_t *memory() const { return memory_.data(); }
  int64_t memoryBytes() const { return memory_.bytes(); }
  int64_t blocks() const { return blocks_; }
  int64_t slots() const { return slots_; }
  int64_t slotBytes() const { return slotBytes_; }
  /// 0 if no sequence has one, else one a pair.
  int64_t fixedAreas() const { return fixedAreas_; }
  int64_t fixedOffset(int64_t pair, rt::Part part) const {
    return blocks_ * rt::blockBytes(problem_.shape.headDim) +
           (pair * rt::kParts + part) * fixedPartBytes_;
  }
  int64_t slotOffset() const { return fixedOffset(fixedAreas_, rt::kKey); }

  /// Bytes that attention must read: codes, parameters, fixed tokens.
  int64_t bytes() const { return bytes_; }

  /// [sequences * rows][kvHeads][group][headDim]; in the keys' basis on a GPU,
  /// unrotated on the CPU, whose kernels rotate.
  const std::vector<float> &queries() const { return queries_; }

  /// Compares results, laid out as queries, with the reference: the first and
  /// the last pair and one between, all queries.
  ///
  /// Errors: Internal if anything was not written, or is not a number where
  ///         the reference has one, or is one where it has none.
  rt::Result<Errors> compare(const std::vector<float> &results);

  /// Keys or values of a pair, in the basis that they are stored in:
  /// [tokens][headDim], pages, then the fixed area.
  std::vector<double> elements(int64_t pair, rt::Part part) const;

private:
  Case(const Problem &problem, Order order);
  rt::Status checkSize() const;
  void placePages(uint64_t seed);
  void fillBlocks(uint64_t seed);
  void fillRaw(uint8_t *at, int64_t bytes, uint64_t &state) const;
  void fillParameters(uint64_t seed);
  /// Calls `what` with the image of the order.
  template <typename What> void withImage(What what) const;
  void changeRaw(rt::Part part,
                 const std::function<double(int64_t dim, double)> &change);
  uint16_t fixedValue(int64_t pair, rt::Part part, int64_t token,
                      int64_t dim) const;
  void setFixedValue(int64_t pair, rt::Part part, int64_t token, int64_t dim,
                     uint16_t value);
  void plantNotNumbers();
  void addReference(int64_t pair);
  const double *referenceOf(int64_t queryPair) const;
  rt::Status checkNumbers(const std::vector<float> &results) const;

  Problem problem_;
  Order order_;
  std::vector<rt::PageEntry> pages_;
  int64_t maxPages_ = 0;
  rt::Arena memory_;
  int64_t blocks_ = 0, slots_ = 0, slotBytes_ = 0;
  int64_t fixedAreas_ = 0, fixedPartBytes_ = 0;
  int64_t bytes_ = 0;
  std::vector<float> queries_;
  /// Query rows and kv heads (Problem::queryPair) that are compared, and what
  /// they must give.
  std::vector<int64_t> referencePairs_;
  std::vector<double> reference_;
};

} // namespace pmkvq::bench

#endif // PMKVQ_TOOLS_RUN_BENCH_CASE_H
