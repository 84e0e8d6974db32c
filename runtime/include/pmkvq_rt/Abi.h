//===- Abi.h - What compiled code and the runtime pass each other -*- C++
//-*-===//
//
// Structs, entry points and hooks between generated code and the runtime.  The
// compiler includes this header to address fields by `offsetof`, the runtime to
// fill them: a signature is written once.  Neighbours: Geometry.h (sizes).
//
// Mental model.  A *program* is compiled code: entry points that the runtime
// looks up by name.  `pmkvq_describe` tells the runtime the geometry; the
// runtime allocates pools and tables accordingly.  A *step* runs the model over
// a ragged batch of rows (a row is one token of one sequence): before it, the
// runtime flushes full windows and lowers pages by calling the program's page
// kernels; in it, generated code appends the rows' keys and values to the fixed
// areas and attends over fixed areas and pages, through `pmkvq_rt_launch`.
// The runtime never looks into a code, a parameter or an activation.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_ABI_H
#define PMKVQ_RT_ABI_H

#include "pmkvq_rt/Geometry.h"

#include <cstddef>
#include <cstdint>

namespace pmkvq::rt {

/// Changes whenever a struct or signature below does.
inline constexpr int32_t kAbiVersion = 6;

//===----------------------------------------------------------------------===//
// The cache as kernels see it
//===----------------------------------------------------------------------===//

/// One page of one layer, sequence and kv head.
struct PageEntry {
  /// Block ids, [part][block]; the first blocksAtLevel(level[part]) are valid.
  /// At level 1 the second says which half of the block it is, 0 or 1.
  uint32_t blocks[kParts][kMaxBlocksPerPart];
  /// Slot in the parameter pool, taken when the page is made.
  uint32_t slot;
  /// Bits a code, per part.
  uint8_t level[kParts];
  uint16_t reserved;
};
static_assert(sizeof(PageEntry) == 72);

/// What keys of one kv head fall with, where their format has feedback; floats:
/// at kKeyFeedbackOffset and kKeyFeedbackStep where 2-bit codes lie in a range,
/// as parts of it, and from kKeyFeedbackFactor on the factor,
/// [headDim][headDim] (pmkvq/Target/KeyFeedback.h).
inline constexpr int64_t kKeyFeedbackOffset = 0;
inline constexpr int64_t kKeyFeedbackStep = 1;
inline constexpr int64_t kKeyFeedbackFactor = 16; // a cache line
constexpr int64_t keyFeedbackFloats(int64_t headDim) {
  return kKeyFeedbackFactor + headDim * headDim;
}

/// The cache of one layer, all sequences.
struct CacheView {
  /// Block pool: block i starts at blocks + i * blockBytes(headDim).
  uint8_t *blocks;
  /// Parameter pool: slot i starts at parameters + i * (keyParameterBytes +
  /// valueParameterBytes); the key's parameters come first.
  uint8_t *parameters;
  /// Page tables, [sequence][kvHead][maxPages].
  PageEntry *pages;
  /// Fixed areas, [sequence][kvHead][part][sinkTokens + 128][headDim], bf16.
  uint16_t *fixed;
  /// Stride of `pages` in entries.
  int64_t maxPages;
  /// [kvHeads][keyFeedbackFloats(headDim)]; null: keys fall without.
  const float *keyFeedback = nullptr;
};

//===----------------------------------------------------------------------===//
// A step
//===----------------------------------------------------------------------===//

/// Where a row's key and value go: token `fixedIndex` of the fixed area of
/// `sequence` (0 .. sinkTokens-1: sink; from sinkTokens on: window).
struct Row {
  int32_t sequence;
  int32_t fixedIndex;
};

/// Attention of up to `rowsPerTask` consecutive rows of one sequence, one kv
/// head, over a range of pages and, in one part only, over the fixed area.
struct AttendTask {
  int32_t sequence;
  int32_t head;
  /// First row of the step, and how many.
  int32_t row;
  int32_t rows;
  /// Pages [pageBegin, pageEnd).
  int32_t pageBegin;
  int32_t pageEnd;
  /// Index in the fixed area of the first row's own token; -1 if this part
  /// leaves the fixed area out.  Row i sees fixed tokens 0 .. fixedIndex + i.
  int32_t fixedIndex;
  /// Index of the partial result that this task writes.
  int32_t part;
  /// Tasks from this one to that whose first page is fetched meanwhile; 0:
  /// none.
  int32_t ahead = 0;
};

/// Combines the partial results `firstPart .. firstPart + parts - 1`, in this
/// order, into rows `row .. row + rows - 1` of kv head `head`.
struct MergeTask {
  int32_t head;
  int32_t row;
  int32_t rows;
  int32_t firstPart;
  int32_t parts;
};

/// Rows that one attention task may hold in a step with several rows a
/// sequence; a step with one row a sequence uses 1.
inline constexpr int32_t kRowsPerPrefillTask = 8;

/// Pages that one attention task covers at most.  Fixed, so that results do not
/// depend on the number of threads.
inline constexpr int32_t kPagesPerTask = 16;

/// Floats of one partial result: maximum, sum and output per query.
constexpr int64_t partialFloats(int64_t queries, int64_t headDim) {
  return queries * (headDim + 2);
}

struct StepArgs {
  /// The runtime's own state, handed back to the hooks.
  void *runtime;
  /// The program's weights, in the order of its weight table.
  const void *const *weights;
  /// [layers]
  CacheView *caches;

  /// Per row: token id, position, place.  [rowCount]
  const int32_t *tokens;
  const int32_t *positions;
  const Row *rows;
  int64_t rowCount;

  /// Rows whose logits are wanted, and where these go.
  /// outputs: [outputCount]; logits: [outputCount][vocab], f32.
  const int32_t *outputs;
  int64_t outputCount;
  float *logits;

  /// The work list of attention, the same for every layer.
  const AttendTask *attendTasks;
  int64_t attendTaskCount;
  const MergeTask *mergeTasks;
  int64_t mergeTaskCount;
  /// 1 or kRowsPerPrefillTask.
  int64_t rowsPerTask;
  /// [parts][partialFloats(groupSize * rowsPerTask, headDim)]
  float *partials;

  /// Memory for activations: [ProgramEntries::scratchBytes(rowCount,
  /// outputCount)], aligned to 64 bytes.  What is in it between steps is
  /// nobody's.
  uint8_t *scratch;
};

//===----------------------------------------------------------------------===//
// Page kernels: flush and requantize
//===----------------------------------------------------------------------===//

/// One part of one page.  A flush kernel reads the window of (sequence, head)
/// and writes the blocks and parameters of the page's entry; a requantize
/// kernel rewrites the page's blocks in place.  The entry's block ids and slot
/// must be set before; its levels are the runtime's to change afterwards.
struct PageTask {
  int32_t layer;
  int32_t sequence;
  int32_t head;
  int32_t page;
  /// How far behind this task in its list the one is whose page should be
  /// fetched while this one is worked on; 0: none.
  int32_t ahead = 0;
};

/// What a kernel returns.
enum KernelStatus : int32_t {
  kKernelOk = 0,
  /// A value is not finite, or a parameter lies outside fp16; nothing of this
  /// task was written.
  kKernelNotRepresentable = 1,
  /// The device that holds the caches failed; CacheStore::failure says why.
  kKernelNoDevice = 2,
};

/// Every kernel: operands as its launch lists them, and the task's index.
using KernelFn = int32_t (*)(void *const *operands, int64_t task);

//===----------------------------------------------------------------------===//
// Entry points of a program
//===----------------------------------------------------------------------===//

/// Schedule.h defines each.
enum ScheduleKind : int32_t {
  kScheduleNone = 0,
  kSchedulePage = 1,
  kScheduleLayer = 2,
  kScheduleKeysLast = 3,
  kScheduleLeastLoss = 4,
  /// From here on: policies that the runtime does not bring; a session of such
  /// a program is given its policy in SessionOptions.
  kScheduleExternal = 1000,
};

/// Which order codes and parameters have in blocks and slots.  Only snapshots
/// ask: bytes move between programs of one layout alone.
enum LayoutKind : int32_t {
  /// lib/Conversion/CodeLayout.h: rows at level 16, bundles of vectors below.
  kLayoutCpu = 0,
};

/// Layers that a program may have: far above any model.
inline constexpr int32_t kMaxLayers = 1024;

/// Ages of pages that losses tell apart; older ones are as the last.
inline constexpr int32_t kLossAges = 64;

/// Levels that losses tell apart: 8, 4, 2 and 1 bits.
inline constexpr int32_t kLossLevels = 4;

/// What a program says of itself.
struct ProgramInfo {
  int32_t abiVersion;
  int32_t layers;
  int32_t kvHeads;
  int32_t queryHeads;
  int32_t headDim;
  int32_t sinkTokens;
  /// Bytes of parameters a page part takes; the formats' choice.
  int32_t parameterBytes[kParts];
  int32_t vocabSize;
  /// Tokens that a sequence may have.
  int32_t maxPositions;
  int32_t schedule; // ScheduleKind
  /// Lowest level of any layer's part; under kScheduleNone pages are written at
  /// their floor and stay there.
  int32_t floor[kParts];
  /// Bytes that the caches of all sequences may take together; 0: no limit.
  int64_t budgetBytes;
  int32_t layout; // LayoutKind
  int32_t reserved;
  /// Tells formats of equal sizes apart, as any hash of what decides the
  /// meaning of a code or a parameter; 0: not told.
  uint64_t formatHash;
  /// Floors of single layers; 0: as `floor` says.
  uint8_t layerFloor[kMaxLayers][kParts];
};

/// The lowest level of a part in one layer, in bits.
constexpr int32_t floorOf(const ProgramInfo &info, int32_t layer, Part part) {
  int32_t own = info.layerFloor[layer][part];
  return own ? own : info.floor[part];
}

/// Whether some layer has other floors than the first.
constexpr bool layersDiffer(const ProgramInfo &info) {
  for (int32_t layer = 1; layer < info.layers; ++layer)
    for (Part part : {kKey, kValue})
      if (floorOf(info, layer, part) != floorOf(info, 0, part))
        return true;
  return false;
}

/// Bytes of one page of every layer and kv head, all parts at their floors.
constexpr int64_t floorPagesBytes(const ProgramInfo &info) {
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < info.layers; ++layer)
    bytes += info.kvHeads * pageBytes(info.headDim,
                                      int64_t(info.parameterBytes[kKey]) +
                                          info.parameterBytes[kValue],
                                      floorOf(info, layer, kKey),
                                      floorOf(info, layer, kValue));
  return bytes;
}

/// By how much a sequence's newest page is above floorPagesBytes: its values
/// fall to level 1 only once there is a newer one.
constexpr int64_t newestPageBytes(const ProgramInfo &info) {
  return info.floor[kValue] >= kLadder.back()
             ? 0
             : int64_t(info.layers) * info.kvHeads *
                   (codeBytes(info.headDim, kLadder.back()) -
                    codeBytes(info.headDim, info.floor[kValue]));
}

/// Bytes of one sequence that has just made its first page, at the floor, or
/// is too short for one: what a budget must at least be.  Session.h's
/// minimumBytes says the same of any plans.
constexpr int64_t firstPageBytes(const ProgramInfo &info) {
  bool page = info.maxPositions > info.sinkTokens + kPageTokens;
  return int64_t(info.layers) * info.kvHeads *
             (fixedAreaBytes(info.headDim, info.sinkTokens) +
              page * int64_t(sizeof(PageEntry))) +
         page * (floorPagesBytes(info) + newestPageBytes(info));
}

/// Names of the entry points that a program exports:
///   void    pmkvq_describe(ProgramInfo *)
///   int32_t pmkvq_step(StepArgs *)                          (KernelStatus)
///   int64_t pmkvq_scratch(int64_t rows, int64_t outputs)    (bytes)
///   const float *pmkvq_key_feedback(int64_t layer)          (CacheView)
///   const float *pmkvq_page_losses(int64_t layer)           (LayerLosses)
///   KernelFn pmkvq_flush_{key,value}_{16,8,4,2}             (by target level)
///   KernelFn pmkvq_requantize_{key,value}_{16_8,8_4,4_2}
///   KernelFn pmkvq_requantize_value_2_1
/// A part falls in its own blocks, to level 1 as well: the runtime moves the
/// second of two partners to the first's block afterwards.
/// Operands of the page kernels: {CacheView *caches, const PageTask *tasks}.
struct ProgramEntries {
  void (*describe)(ProgramInfo *);
  int32_t (*step)(StepArgs *);
  /// [part][ladderIndex(to)]; null for levels that the program never writes.
  KernelFn flush[kParts][4];
  /// [part][ladderIndex(from)]: from -> from / 2; null where never used.
  KernelFn requantize[kParts][4];
  /// Bytes of StepArgs::scratch; null: a step needs none.  Grows with both.
  int64_t (*scratchBytes)(int64_t rows, int64_t outputs);
  /// CacheView::keyFeedback; null: keys of all layers fall without.
  const float *(*keyFeedback)(int64_t layer);
  /// What pages of a layer cost, [kParts][kLossLevels], then the shares of one
  /// page, [kvHeads][kLossAges] (LayerLosses in Schedule.h); null: not known,
  /// and the schedule is not kScheduleLeastLoss.
  const float *(*pageLosses)(int64_t layer);
};

} // namespace pmkvq::rt

//===----------------------------------------------------------------------===//
// Hooks that generated code calls
//===----------------------------------------------------------------------===//

extern "C" {

/// Runs kernel(operands, task) for task = 0 .. tasks-1 on the runtime's
/// threads and waits.  Returns the first KernelStatus that is not kKernelOk.
int32_t pmkvq_rt_launch(void *runtime, ::pmkvq::rt::KernelFn kernel,
                        void *const *operands, int64_t tasks);

/// y += x * w^T.
/// Shapes: x [m, k] f32, w [n, k] bf16 bits, y [m, n] f32, all contiguous.
void pmkvq_rt_linear(void *runtime, const float *x, const uint16_t *w, float *y,
                     int64_t m, int64_t n, int64_t k);
}

#endif // PMKVQ_RT_ABI_H
