//===- Linear.cpp - Products with bf16 weights on the CPU -----------------===//
//
// y += x * w^T.  Many rows of x (prefill) go through oneDNN's f32 product, over
// panels of weights that are converted from bf16 as they are needed; few rows
// (decode) through dot products that read the weights as they lie.  Neighbours:
// Abi.h declares the hook; ThreadPool.h runs the panels.
//
// oneDNN has a bf16 product only on AVX-512 machines, and a converted copy of
// all weights would double what a token reads; a panel that has just been
// converted is read from cache instead.  With few rows even that costs more
// than the product: 8 GB/s of weights a core where dot products read 20.
// Panels have fixed sizes, so a result does not depend on the number of
// threads.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/Abi.h"
#include "pmkvq_rt/Launch.h"

#include <algorithm>
#include <cstring>
#include <dlfcn.h>
#include <dnnl.h>
#include <memory>
#include <new>

using namespace pmkvq::rt;

/// Weight rows of a panel.  With many rows of x a wide panel keeps the product
/// efficient; with few, narrow ones give small layers enough tasks.
static constexpr int64_t kWidePanel = 128;
static constexpr int64_t kNarrowPanel = 32;

/// Rows of x up to which dot products are used; at 8 both ways are equal.
static constexpr int64_t kFewRows = 4;

/// Rows of x up to which oneDNN gets narrow panels.
static constexpr int64_t kNarrowRows = 8;

/// Reduction length of a panel at most: 128 * 1,024 floats are 512 KiB, half
/// of a current server core's second-level cache.
static constexpr int64_t kPanelDepth = 1024;

/// Rows of x in one task: enough that converting a panel costs a few percent
/// of the product, few enough that a prefill step feeds many threads.
static constexpr int64_t kRowBlock = 256;

namespace {
/// One product, cut into panels.
struct LinearJob {
  const float *x;
  const uint16_t *w;
  float *y;
  int64_t m, n, k;
  /// oneDNN only: weight rows and depth of a panel, blocks of rows of x.
  int64_t panel;
  int64_t depth;
  int64_t rowBlocks;
};

/// libgomp's switch for its own threads, if libgomp is there.  Looked up at
/// run time: whoever links this library need not know which OpenMP it has.
struct OpenMP {
  void (*setThreads)(int) = nullptr;
  int (*maxThreads)() = nullptr;

  OpenMP() {
    setThreads = reinterpret_cast<void (*)(int)>(
        ::dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
    maxThreads = reinterpret_cast<int (*)()>(
        ::dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  }
};

/// Keeps oneDNN on this thread while it lives.  The setting belongs to the
/// thread, and the caller's thread is the user's: it gets its value back.
class SequentialOpenMP {
public:
  SequentialOpenMP() {
    if (!available())
      return;
    before_ = openMP().maxThreads();
    if (before_ != 1)
      openMP().setThreads(1);
  }
  ~SequentialOpenMP() {
    if (available() && before_ != 1)
      openMP().setThreads(before_);
  }

private:
  static const OpenMP &openMP() {
    static const OpenMP instance;
    return instance;
  }
  static bool available() { return openMP().setThreads && openMP().maxThreads; }
  int before_ = 1;
};
} // namespace

#if defined(__x86_64__) && defined(__ELF__)
#define PMKVQ_VECTOR_CLONES                                                    \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PMKVQ_VECTOR_CLONES
#endif

/// bf16 is the upper half of f32.
PMKVQ_VECTOR_CLONES
static void widen(float *__restrict to, const uint16_t *__restrict from,
                  int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof(bits));
  }
}

//===----------------------------------------------------------------------===//
// Few rows: dot products
//===----------------------------------------------------------------------===//

namespace {
constexpr int64_t kLanes = 16;
typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
} // namespace

template <typename Vector>
__attribute__((always_inline)) static inline void load(Vector &to,
                                                       const void *from) {
  std::memcpy(&to, from, sizeof(Vector));
}

/// `m` rows of x times weight rows [column, column + columns).  One weight row
/// after the other: a single stream of reads is twice as fast from memory as
/// four side by side.  `chains` sums a row of x hide the latency of the adds.
template <int m, int chains>
__attribute__((always_inline)) static inline void
dotRows(const LinearJob &job, int64_t column, int64_t columns) {
  constexpr int64_t step = chains * kLanes;
  int64_t whole = job.k / step * step;
  for (int64_t n = column; n < column + columns; ++n) {
    const uint16_t *w = job.w + n * job.k;
    Floats sums[m][chains] = {};
    for (int64_t k = 0; k < whole; k += step)
      for (int c = 0; c < chains; ++c) {
        Halves bits;
        load(bits, w + k + c * kLanes);
        Words wide = __builtin_convertvector(bits, Words) << 16;
        Floats weight;
        load(weight, &wide);
        for (int i = 0; i < m; ++i) {
          Floats x;
          load(x, job.x + i * job.k + k + c * kLanes);
          sums[i][c] += weight * x;
        }
      }
    for (int i = 0; i < m; ++i) {
      for (int c = 1; c < chains; ++c)
        sums[i][0] += sums[i][c];
      float sum = 0;
      for (int64_t lane = 0; lane < kLanes; ++lane)
        sum += sums[i][0][lane];
      for (int64_t k = whole; k < job.k; ++k) {
        uint32_t bits = static_cast<uint32_t>(w[k]) << 16;
        float weight;
        std::memcpy(&weight, &bits, sizeof(bits));
        sum += weight * job.x[i * job.k + k];
      }
      job.y[i * job.n + n] += sum;
    }
  }
}

/// Four to eight running sums: enough to hide the latency of an add, and no
/// more than registers hold.
PMKVQ_VECTOR_CLONES
static void dotPanel(const LinearJob &job, int64_t column, int64_t columns) {
  switch (job.m) {
  case 1:
    return dotRows<1, 4>(job, column, columns);
  case 2:
    return dotRows<2, 4>(job, column, columns);
  case 3:
    return dotRows<3, 2>(job, column, columns);
  default:
    return dotRows<kFewRows, 2>(job, column, columns);
  }
}

/// The same for any number of rows of x: slow if they are many, but needs no
/// other library.
static void dotRowBlocks(const LinearJob &job, int64_t column,
                         int64_t columns) {
  for (int64_t row = 0; row < job.m; row += kFewRows) {
    LinearJob block = job;
    block.x += row * job.k;
    block.y += row * job.n;
    block.m = std::min(kFewRows, job.m - row);
    dotPanel(block, column, columns);
  }
}

//===----------------------------------------------------------------------===//
// Many rows: oneDNN over converted panels
//===----------------------------------------------------------------------===//

/// oneDNN's product, or null on a machine without oneDNN.  What is built for
/// other machines cannot link it: it has no archive.
static decltype(&dnnl_sgemm) findProduct() {
#ifdef PMKVQ_LOAD_DNNL
  // Global, so that OpenMP above finds its libgomp.
  for (const char *name : {"libdnnl.so.2", "libdnnl.so.3"})
    if (void *library = ::dlopen(name, RTLD_NOW | RTLD_GLOBAL))
      return reinterpret_cast<decltype(&dnnl_sgemm)>(
          ::dlsym(library, "dnnl_sgemm"));
  return nullptr;
#else
  return &dnnl_sgemm;
#endif
}

static decltype(&dnnl_sgemm) product() {
  static const auto found = findProduct();
  return found;
}

/// Rows [row, row + rows) of x times weight rows [column, column + columns),
/// converted into `panel`, which holds columns * job.depth floats.
static void multiply(const LinearJob &job, int64_t row, int64_t rows,
                     int64_t column, int64_t columns, float *panel) {
  for (int64_t k = 0; k < job.k; k += job.depth) {
    int64_t depth = std::min(job.depth, job.k - k);
    for (int64_t i = 0; i < columns; ++i)
      widen(panel + i * depth, job.w + (column + i) * job.k + k, depth);
    // Sizes are positive and leading dimensions sufficient, the only errors
    // that dnnl_sgemm reports.
    (void)product()('N', 'T', rows, columns, depth, 1.0f,
                    job.x + row * job.k + k, job.k, panel, depth, 1.0f,
                    job.y + row * job.n + column, job.n);
  }
}

/// One panel of weights times one block of rows.
static void runPanel(const LinearJob &job, int64_t task) {
  // On the heap, not in static thread storage: that would be taken from the
  // stack of every thread of the process that links this.
  static thread_local const std::unique_ptr<float[]> scratch(
      new (std::nothrow) float[kWidePanel * kPanelDepth]);
  SequentialOpenMP sequential;
  int64_t row = task % job.rowBlocks * kRowBlock;
  int64_t column = task / job.rowBlocks * job.panel;
  int64_t rows = std::min(kRowBlock, job.m - row);
  int64_t columns = std::min(job.panel, job.n - column);
  if (scratch)
    return multiply(job, row, rows, column, columns, scratch.get());
  // No memory: slowly, one weight row at a time, but right.
  float oneRow[kPanelDepth];
  for (int64_t i = 0; i < columns; ++i)
    multiply(job, row, rows, column + i, 1, oneRow);
}

extern "C" void pmkvq_rt_linear(void *runtime, const float *x,
                                const uint16_t *w, float *y, int64_t m,
                                int64_t n, int64_t k) {
  if (m <= 0 || n <= 0 || k <= 0)
    return;
  ThreadPool &threads = *static_cast<HookContext *>(runtime)->threads;
  LinearJob job{x, w, y, m, n, k, 0, 0, 0};
  if (m <= kFewRows || !product()) {
    threads.parallelFor(
        (n + kNarrowPanel - 1) / kNarrowPanel, [&](int64_t task) {
          int64_t column = task * kNarrowPanel;
          dotRowBlocks(job, column, std::min(kNarrowPanel, n - column));
        });
    return;
  }
  job.panel = m <= kNarrowRows ? kNarrowPanel : kWidePanel;
  // Panels of equal depth: 1,100 is 550 and 550, not 1,024 and 76.
  int64_t depths = (k + kPanelDepth - 1) / kPanelDepth;
  job.depth = (k + depths - 1) / depths;
  job.rowBlocks = (m + kRowBlock - 1) / kRowBlock;
  int64_t panels = (n + job.panel - 1) / job.panel;
  threads.parallelFor(panels * job.rowBlocks,
                      [&](int64_t task) { runPanel(job, task); });
}
