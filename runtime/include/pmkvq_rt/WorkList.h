//===- WorkList.h - Attention of a step as tasks ----------------*- C++ -*-===//
//
// Cuts the attention of a step into tasks of bounded size.  Neighbours: Abi.h
// defines the tasks, SessionStep.cpp asks for them.
//
// Mental model.  Rows of one sequence go in groups of `rowsPerTask`; for each
// group and kv head the pages go in ranges of kPagesPerTask, and the last range
// also covers the fixed area.  Each range writes one partial result; one merge
// task a group and head combines them in page order.  Nothing here depends on
// the number of threads, so neither do the bits of a result.
//
// Example: 1 row, 40 pages, 1 head: tasks over pages [0, 16), [16, 32) and
// [32, 40) with the fixed area; one merge of parts 0, 1, 2.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_WORKLIST_H
#define PMKVQ_RT_WORKLIST_H

#include "pmkvq_rt/Abi.h"

#include <cstdint>
#include <vector>

namespace pmkvq::rt {

/// The rows of one sequence in a step: consecutive tokens.
struct RowRun {
  int32_t sequence;
  /// First row of the step, and how many.
  int32_t row;
  int32_t rows;
  /// Index of the first token in the fixed area.
  int32_t fixedIndex;
  /// Pages of the sequence, each attended by every row.
  int32_t pages;
};

struct WorkList {
  std::vector<AttendTask> attendTasks;
  std::vector<MergeTask> mergeTasks;
  /// Partial results that the tasks write.
  int64_t parts = 0;
  /// 1 or kRowsPerPrefillTask.
  int32_t rowsPerTask = 1;
};

/// Fills `list` for `runs`; what it held before is gone.
void buildWorkList(const std::vector<RowRun> &runs, int32_t kvHeads,
                   WorkList &list);

/// Partial results that `rows` rows over `pages` pages need, all heads.
int64_t countParts(int64_t rows, int64_t pages, int64_t kvHeads,
                   int64_t rowsPerTask);

} // namespace pmkvq::rt

#endif // PMKVQ_RT_WORKLIST_H
