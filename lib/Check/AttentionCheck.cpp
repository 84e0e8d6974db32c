//===- AttentionCheck.cpp - Attention of a running program, checked -------===//
//
// See AttentionCheck.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Check/AttentionCheck.h"
#include "CacheReader.h"
#include "pmkvq/Reference/Attention.h"
#include "pmkvq_rt/ThreadPool.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/FormatVariadic.h"

#include <cmath>
#include <limits>

using namespace pmkvq;
using namespace pmkvq::check;
using llvm::Expected;
using llvm::StringRef;

std::vector<Attention> check::collectAttention(mlir::ModuleOp module) {
  std::vector<Attention> layers;
  module.walk([&](mlir::pmkvq::AttendOp op) {
    auto query = llvm::cast<mlir::RankedTensorType>(op.getQuery().getType());
    layers.push_back({op.getCache().getType(), query.getDimSize(1),
                      op.getScale().convertToDouble(), op.getResultRotated()});
  });
  return layers;
}

AttentionKernels
check::findAttentionKernels(llvm::function_ref<void *(StringRef)> lookUp) {
  auto find = [&](StringRef prefix) {
    std::vector<rt::KernelFn> kernels;
    while (void *address = lookUp((prefix + llvm::Twine(kernels.size())).str()))
      kernels.push_back(reinterpret_cast<rt::KernelFn>(address));
    return kernels;
  };
  return {find("attend_"), find("merge_")};
}

std::string Report::text() const {
  return llvm::formatv(
      "largest {0:e1} (step {1}, layer {2}, query head {3}; sequence {4}, "
      "position {5}), rms {6:e1}",
      largest, worst.step, worst.layer, worst.head, worst.sequence,
      worst.position, rms);
}

//===----------------------------------------------------------------------===//
// One sequence and kv head of a step
//===----------------------------------------------------------------------===//

namespace {
/// Consecutive rows of one sequence.
struct RowRun {
  int32_t sequence;
  int64_t begin;
  int64_t end;
};

/// What a layer's attention reads and writes in a step.
struct Layer {
  const Attention *attention;
  const CacheReader *reader;
  const rt::CacheView *cache;
  const rt::StepArgs *args;
  /// [rows][queryHeads][headDim].  The queries are a copy: nobody needs theirs
  /// after the attention, and outputs may get their memory.
  std::vector<float> queries;
  const float *outputs;
};

/// |found - exact| / |size|, infinite where that is no number.
double relativeError(const float *found, const std::vector<double> &exact,
                     const std::vector<double> &size) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += (found[i] - exact[i]) * (found[i] - exact[i]);
    norm += size[i] * size[i];
  }
  double relative = error == 0 ? 0 : std::sqrt(error / norm);
  return std::isnan(relative) ? std::numeric_limits<double>::infinity()
                              : relative;
}

/// Errors of the outputs of `run` for one kv head, [rows][group].
std::vector<double> compare(const Layer &layer, const RowRun &run,
                            int32_t pages, int32_t head) {
  const Attention &attention = *layer.attention;
  int64_t headDim = attention.cache.getHeadDim();
  int64_t group = attention.queryHeads / attention.cache.getKvHeads();
  int64_t fixedTokens = layer.args->rows[run.end - 1].fixedIndex + 1;
  auto decode = [&](rt::Part part) {
    return layer.reader->decode(*layer.cache, run.sequence, head, part, pages,
                                fixedTokens);
  };
  std::vector<double> keys = decode(rt::kKey), values = decode(rt::kValue);
  std::vector<double> sizes(values.size());
  llvm::transform(values, sizes.begin(), [](double v) { return std::abs(v); });
  bool keysRotated = attention.cache.getKey().getHadamard();
  bool rotatesBack =
      attention.cache.getValue().getHadamard() && !attention.resultRotated;
  std::vector<double> query(headDim), exact(headDim), size(headDim);
  std::vector<double> errors;
  for (int64_t row = run.begin; row < run.end; ++row)
    for (int64_t i = 0; i < group; ++i) {
      int64_t at = (row * attention.queryHeads + head * group + i) * headDim;
      int64_t visible = int64_t(pages) * rt::kPageTokens +
                        layer.args->rows[row].fixedIndex + 1;
      std::copy_n(layer.queries.begin() + at, headDim, query.begin());
      reference::attend(query.data(), keys.data(), values.data(), visible,
                        headDim, attention.scale, {keysRotated, rotatesBack},
                        exact.data());
      reference::attend(query.data(), keys.data(), sizes.data(), visible,
                        headDim, attention.scale, {keysRotated, false},
                        size.data());
      errors.push_back(relativeError(layer.outputs + at, exact, size));
    }
  return errors;
}
} // namespace

//===----------------------------------------------------------------------===//
// The checker
//===----------------------------------------------------------------------===//

class AttentionChecker::Impl {
public:
  Impl(std::vector<Attention> layers, std::vector<CacheReader> readers,
       AttentionKernels kernels, std::unique_ptr<rt::ThreadPool> threads)
      : layers(std::move(layers)), readers(std::move(readers)),
        kernels(std::move(kernels)), threads(std::move(threads)) {}

  void watch(rt::Session &watched) {
    session = &watched;
    watched.observeLaunches(
        [this](const rt::LaunchRecord &record) { see(record); });
  }

  Report report() const {
    Report result = found;
    result.rms = found.outputs ? std::sqrt(squares / found.outputs) : 0;
    if (next != 0)
      addDefect(result, "has attention for " + llvm::Twine(next) + " of " +
                            llvm::Twine(layers.size()) + " layers");
    return result;
  }

private:
  void see(const rt::LaunchRecord &record) {
    if (llvm::is_contained(kernels.attend, record.kernel)) {
      startLayer(record);
    } else if (llvm::is_contained(kernels.merge, record.kernel)) {
      finishLayer(record);
    }
  }

  /// Operands {CacheView *, StepArgs *, queries}.
  void startLayer(const rt::LaunchRecord &record) {
    found.steps += next == 0;
    auto *cache = static_cast<const rt::CacheView *>(record.operands[0]);
    int64_t index = cache - session->caches().data();
    if (index != static_cast<int64_t>(next))
      addDefect(found, "attends to the cache of layer " + llvm::Twine(index) +
                           " in layer " + llvm::Twine(next));
    auto *args = static_cast<const rt::StepArgs *>(record.operands[1]);
    auto *queries = static_cast<const float *>(record.operands[2]);
    const Attention &attention = layers[next];
    int64_t floats =
        args->rowCount * attention.queryHeads * attention.cache.getHeadDim();
    current = {&attention,
               &readers[next],
               cache,
               args,
               std::vector<float>(queries, queries + floats),
               nullptr};
  }

  /// Operands {StepArgs *, outputs}.
  void finishLayer(const rt::LaunchRecord &record) {
    if (!current.args || record.operands[0] != current.args)
      return addDefect(found, "merges what no attention has left");
    current.outputs = static_cast<const float *>(record.operands[1]);
    compareLayer();
    current = {};
    next = (next + 1) % layers.size();
  }

  std::vector<RowRun> runsOf(const rt::StepArgs &args) {
    std::vector<RowRun> runs;
    for (int64_t row = 0; row < args.rowCount; ++row) {
      int32_t sequence = args.rows[row].sequence;
      if (runs.empty() || runs.back().sequence != sequence)
        runs.push_back({sequence, row, row});
      runs.back().end = row + 1;
      // Each token up to the row's own is in a page or in the fixed area.
      int64_t tokens = int64_t(session->pages(sequence)) * rt::kPageTokens +
                       args.rows[row].fixedIndex + 1;
      if (tokens != args.positions[row] + 1)
        addDefect(found, "has " + llvm::Twine(tokens) +
                             " tokens in the cache at position " +
                             llvm::Twine(args.positions[row]) +
                             " of sequence " + llvm::Twine(sequence));
    }
    return runs;
  }

  void compareLayer() {
    std::vector<RowRun> runs = runsOf(*current.args);
    int64_t heads = current.attention->cache.getKvHeads();
    std::vector<std::vector<double>> errors(runs.size() * heads);
    threads->parallelFor(
        static_cast<int64_t>(errors.size()), [&](int64_t task) {
          const RowRun &run = runs[task / heads];
          errors[task] = compare(current, run, session->pages(run.sequence),
                                 static_cast<int32_t>(task % heads));
        });
    int64_t group = current.attention->queryHeads / heads;
    for (size_t task = 0; task < errors.size(); ++task)
      for (size_t i = 0; i < errors[task].size(); ++i) {
        int64_t row = runs[task / heads].begin + i / group;
        add(errors[task][i],
            {found.steps - 1, runs[task / heads].sequence,
             current.args->positions[row], static_cast<int32_t>(next),
             static_cast<int32_t>(task % heads * group + i % group)});
      }
  }

  void add(double error, const Place &place) {
    ++found.outputs;
    squares += error * error;
    if (found.outputs > 1 && error <= found.largest)
      return;
    found.largest = error;
    found.worst = place;
  }

  /// The first one is kept: others may follow from it.
  static void addDefect(Report &report, const llvm::Twine &what) {
    if (report.defect.empty())
      report.defect =
          ("step " + llvm::Twine(report.steps - 1) + " " + what).str();
  }

  std::vector<Attention> layers;
  /// [layers]
  std::vector<CacheReader> readers;
  AttentionKernels kernels;
  std::unique_ptr<rt::ThreadPool> threads;
  rt::Session *session = nullptr;

  /// The layer under way; its args are null between merge and attend.
  Layer current = {};
  /// The layer that the step's next attention is of.
  size_t next = 0;
  Report found;
  double squares = 0;
};

AttentionChecker::AttentionChecker(std::unique_ptr<Impl> impl)
    : impl(std::move(impl)) {}
AttentionChecker::~AttentionChecker() = default;

Expected<std::unique_ptr<AttentionChecker>>
AttentionChecker::create(std::vector<Attention> layers,
                         AttentionKernels kernels, int32_t threads) {
  if (layers.empty() || kernels.attend.empty() || kernels.merge.empty())
    return llvm::createStringError(
        "expected a program with attention, got " + llvm::Twine(layers.size()) +
        " layers with " + llvm::Twine(kernels.attend.size()) +
        " kernels attend_N and " + llvm::Twine(kernels.merge.size()) +
        " merge_N");
  std::vector<CacheReader> readers;
  for (const Attention &layer : layers) {
    Expected<CacheReader> reader = CacheReader::create(layer.cache);
    if (!reader)
      return reader.takeError();
    readers.push_back(std::move(*reader));
  }
  rt::Result<std::unique_ptr<rt::ThreadPool>> pool =
      rt::ThreadPool::create(threads);
  if (!pool.ok())
    return llvm::createStringError(pool.status().message());
  return std::unique_ptr<AttentionChecker>(new AttentionChecker(
      std::make_unique<Impl>(std::move(layers), std::move(readers),
                             std::move(kernels), std::move(*pool))));
}

void AttentionChecker::watch(rt::Session &session) { impl->watch(session); }

Report AttentionChecker::report() const { return impl->report(); }
