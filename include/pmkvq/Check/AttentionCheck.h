//===- AttentionCheck.h - Attention of a running program, checked -*- C++
//-*-===//
//
// Compares what a program's attention kernels write in every step with
// lib/Reference's attention in double precision.  Joins what otherwise does not
// meet: the compiler's layout of codes, the runtime's page tables and the
// reference.  Neighbours: Launch.h (how launches are seen), CacheReader.h (how
// caches are decoded), tools/pmkvq-run (`--check`).
//
// Mental model.  A layer's attention is two launches: kernels `attend_N` with
// operands {CacheView *, StepArgs *, queries} leave partial results, kernels
// `merge_N` with {StepArgs *, outputs} combine them.  After a merge the cache
// and the outputs are there and nobody writes them; that is when the reference
// decodes the whole cache from its codes, attends with the queries that the
// first launch had, and compares.  Nothing is taken from the work list: which
// tokens a row must see follows from its position, which pages there are from
// the session.
//
// The error of one query head's output o against the exact r is
//   |o - r| / |sum_t p_t |v_t||,
// norms over head dims, p the softmax: the error of a sum against the sum of
// absolute values, which does not grow where values happen to cancel.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_CHECK_ATTENTIONCHECK_H
#define PMKVQ_CHECK_ATTENTIONCHECK_H

#include "mlir/IR/BuiltinOps.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Session.h"
#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/Support/Error.h"

#include <memory>
#include <string>
#include <vector>

namespace pmkvq::check {

/// The error that an output may have unless the user says otherwise.
///
/// A score's error e, in nats, moves a weight by the factor exp(e), numerator
/// and denominator, so an output by 2 e.  In f32 a score is a sum of head_dim
/// products whose terms are at most |q_d| max_t |k_td|; where key channels have
/// offsets far above their spread, as in Qwen2, these add up to some 10^3 nats:
/// e = sqrt(128 + 32) 2^-24 10^3 = 8e-4 at worst, and 10^-6 on models without
/// them.  Queries and weights held in 15 bits beside a common factor add 2^-16
/// of a score's largest term for each of head_dim products, and of the largest
/// weight for each of 128: some 10^-4 on models.  A page that is left out, read
/// at a wrong level or with the wrong parameters moves an output by 10^-2 and
/// more.
inline constexpr double kTolerance = 1e-3;

/// The same on a GPU, where queries and weights are f16: an element is off by
/// 2^-12 / sqrt(3) of itself, and a score by that times the root of its terms'
/// sum of squares, some 15 nats where a model is as sharp as the one of the
/// tests (2.2e-3 at most there, rms 2.7e-4).
inline constexpr double kDeviceTolerance = 5e-3;

/// What the module says of one layer's attention.
struct Attention {
  mlir::pmkvq::CacheType cache;
  int64_t queryHeads;
  double scale;
  /// Whether the output stays in the values' rotated basis.
  bool resultRotated;
};

/// The attention of every layer, in the order of the step, in a module that
/// has passed the stage `plan`.
std::vector<Attention> collectAttention(mlir::ModuleOp module);

struct AttentionKernels {
  std::vector<rt::KernelFn> attend;
  std::vector<rt::KernelFn> merge;
};

/// The kernels of a program by their names; `lookUp` returns null for a name
/// that there is not.
AttentionKernels
findAttentionKernels(llvm::function_ref<void *(llvm::StringRef)> lookUp);

/// One output: a query head of a row of a step.
struct Place {
  int64_t step = 0;
  int32_t sequence = 0;
  int32_t position = 0;
  int32_t layer = 0;
  /// Query head.
  int32_t head = 0;
};

struct Report {
  int64_t steps = 0;
  int64_t outputs = 0;
  double largest = 0;
  /// Root mean square over all outputs.
  double rms = 0;
  /// Where `largest` is.
  Place worst;
  /// What is wrong with the steps themselves; empty: nothing.
  std::string defect;

  bool within(double tolerance) const {
    // A NaN is not.
    return defect.empty() && largest <= tolerance;
  }
  /// "largest 1.2e-06 (step 3, ...), rms 3.4e-07".
  std::string text() const;
};

class AttentionChecker {
public:
  /// Shapes: layers as the program has them.
  /// Units:  threads as in SessionOptions.
  /// Errors: a format that lib/Reference does not know; kernels that are not
  /// there; threads that cannot be started.
  static llvm::Expected<std::unique_ptr<AttentionChecker>>
  create(std::vector<Attention> layers, AttentionKernels kernels,
         int32_t threads);
  ~AttentionChecker();

  /// Looks at every step of `session` from now on; both must live as long as
  /// steps are made.
  void watch(rt::Session &session);

  Report report() const;

private:
  class Impl;
  explicit AttentionChecker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl;
};

} // namespace pmkvq::check

#endif // PMKVQ_CHECK_ATTENTIONCHECK_H
