//===- WorkList.cpp - Attention of a step as tasks ------------------------===//
//
// Splitting rows and pages.  Neighbours: WorkList.h has the mental model.
//
//===----------------------------------------------------------------------===//

#include "pmkvq_rt/WorkList.h"

#include <algorithm>

using namespace pmkvq::rt;

/// Page ranges of a sequence; one without pages has an empty range, which
/// carries the fixed area.
static int64_t countRanges(int64_t pages) {
  return std::max<int64_t>(1, (pages + kPagesPerTask - 1) / kPagesPerTask);
}

int64_t pmkvq::rt::countParts(int64_t rows, int64_t pages, int64_t kvHeads,
                              int64_t rowsPerTask) {
  return (rows + rowsPerTask - 1) / rowsPerTask * kvHeads * countRanges(pages);
}

/// Rows [first, first + rows) of `run`, one kv head.
static void addGroup(const RowRun &run, int32_t first, int32_t rows,
                     int32_t head, WorkList &list) {
  int32_t ranges = static_cast<int32_t>(countRanges(run.pages));
  int32_t firstPart = static_cast<int32_t>(list.parts);
  for (int32_t range = 0; range < ranges; ++range) {
    bool last = range == ranges - 1;
    AttendTask task;
    task.sequence = run.sequence;
    task.head = head;
    task.row = run.row + first;
    task.rows = rows;
    task.pageBegin = range * kPagesPerTask;
    task.pageEnd = last ? run.pages : task.pageBegin + kPagesPerTask;
    task.fixedIndex = last ? run.fixedIndex + first : -1;
    task.part = firstPart + range;
    list.attendTasks.push_back(task);
  }
  list.mergeTasks.push_back({head, run.row + first, rows, firstPart, ranges});
  list.parts += ranges;
}

void pmkvq::rt::buildWorkList(const std::vector<RowRun> &runs, int32_t kvHeads,
                              WorkList &list) {
  list.attendTasks.clear();
  list.mergeTasks.clear();
  list.parts = 0;
  bool single = std::all_of(runs.begin(), runs.end(),
                            [](const RowRun &run) { return run.rows == 1; });
  list.rowsPerTask = single ? 1 : kRowsPerPrefillTask;
  for (const RowRun &run : runs)
    for (int32_t first = 0; first < run.rows; first += list.rowsPerTask)
      for (int32_t head = 0; head < kvHeads; ++head)
        addGroup(run, first, std::min(list.rowsPerTask, run.rows - first), head,
                 list);
}
