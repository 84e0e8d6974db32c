//===- Bytes.cpp - What a run must have -----------------------------------===//
//
// Bytes from lengths, without a look at levels in between.  Neighbours: Plan.h,
// Session.h (rt::minimumBytes).
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Allocation/Plan.h"

#include <algorithm>
#include <cmath>

using namespace pmkvq;
using namespace pmkvq::allocation;

static rt::Program programOf(const Workload &workload) {
  rt::Program program;
  program.info = workload.info;
  return program;
}

rt::Result<int64_t> allocation::minimumBytes(const Workload &workload) {
  return rt::minimumBytes(programOf(workload), workload.session,
                          workload.session.plans);
}

int64_t allocation::countPageHeads(const Workload &workload) {
  const rt::ProgramInfo &info = workload.info;
  int64_t pages = 0;
  for (const rt::SequencePlan &plan : workload.session.plans)
    pages += rt::pagesForTokens(plan.promptTokens + plan.maxNewTokens - 1,
                                info.sinkTokens);
  return pages * info.layers * info.kvHeads;
}

/// What minimumBytes counts of pages.
static int64_t pagesAtFloor(const Workload &workload) {
  int64_t bytes = 0;
  for (const rt::SequencePlan &plan : workload.session.plans)
    if (int64_t pages =
            rt::pagesForTokens(plan.promptTokens + plan.maxNewTokens - 1,
                               workload.info.sinkTokens))
      bytes += pages * rt::floorPagesBytes(workload.info) +
               rt::newestPageBytes(workload.info);
  return bytes;
}

rt::Result<int64_t> allocation::budgetForBits(const Workload &workload,
                                              double bits) {
  rt::Result<int64_t> minimum = minimumBytes(workload);
  if (!minimum.ok())
    return minimum;
  int64_t elements =
      int64_t(rt::kParts) * rt::kPageTokens * workload.info.headDim;
  int64_t heads = countPageHeads(workload);
  double wanted = static_cast<double>(heads) * elements * bits / 8;
  return *minimum + static_cast<int64_t>(std::floor(wanted)) -
         pagesAtFloor(workload);
}

/// Whether every sequence can have `count` new tokens.
static bool reaches(Workload workload, int64_t count) {
  rt::SessionOptions &session = workload.session;
  session.maxTokens = 0;
  for (rt::SequencePlan &plan : session.plans) {
    plan.maxNewTokens = count;
    session.maxTokens =
        std::max(session.maxTokens, plan.promptTokens + count - 1);
  }
  rt::Result<int64_t> bytes = minimumBytes(workload);
  return bytes.ok() &&
         (session.budgetBytes <= 0 || *bytes <= session.budgetBytes);
}

int64_t allocation::mostNewTokens(const Workload &workload) {
  int64_t low = 0;
  int64_t high = int64_t(workload.info.maxPositions) + 1;
  while (low + 1 < high) {
    int64_t middle = low + (high - low) / 2;
    (reaches(workload, middle) ? low : high) = middle;
  }
  return low;
}
