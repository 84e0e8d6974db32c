//===- SessionSequences.cpp - Sequences that come, fork and go ------------===//
//
// Plans, release and fork.  Neighbours: Session.h has the mental model,
// SessionSnapshot.cpp brings sequences in from bytes.
//
//===----------------------------------------------------------------------===//

#include "Bytes.h"
#include "Guard.h"
#include "pmkvq_rt/Session.h"

#include <algorithm>

using namespace pmkvq::rt;

//===----------------------------------------------------------------------===//
// Plans
//===----------------------------------------------------------------------===//

static int64_t tokensOf(const SequencePlan &plan) {
  return saturatingSum({plan.promptTokens, plan.maxNewTokens - 1});
}

Status Session::checkPlans(const std::vector<SequencePlan> &plans) const {
  std::vector<bool> seen(maxSequences_, false);
  for (const SequencePlan &plan : plans) {
    std::string name = "sequence " + std::to_string(plan.sequence);
    if (Status s = checkSequence(plan.sequence); !s.ok())
      return s;
    if (seen[plan.sequence])
      return Status(StatusCode::InvalidArgument, name + " occurs twice");
    seen[plan.sequence] = true;
    if (plan.promptTokens < 0 || plan.maxNewTokens < 1)
      return Status(StatusCode::InvalidArgument,
                    name + ": " + std::to_string(plan.promptTokens) +
                        " prompt tokens, " + std::to_string(plan.maxNewTokens) +
                        " new ones; at least 0 and 1 are needed");
    int64_t tokens =
        saturatingSum({sequences_[plan.sequence].tokens, tokensOf(plan)});
    if (tokens > maxTokens_)
      return Status(StatusCode::InvalidArgument,
                    name + " would have " + std::to_string(tokens) +
                        " tokens cached; the session is for " +
                        std::to_string(maxTokens_));
  }
  return Status();
}

/// What each sequence has cached or was promised, whichever is more.
void Session::promisedTokens(std::vector<int64_t> &tokens) const {
  tokens.resize(maxSequences_);
  for (int32_t i = 0; i < maxSequences_; ++i)
    tokens[i] = std::max(sequences_[i].tokens, sequences_[i].planned);
}

/// Can all sequences have so many tokens at a time?
///
/// Shapes: tokens [maxSequences], each at least what is cached.
/// Errors: OutOfMemory, naming the bytes missing at the floor.
Status Session::checkReach(const std::vector<int64_t> &tokens) const {
  // A shared page is one of the pages that exist; all new ones are apart.
  int64_t pages = slots_.inUse() / pageHeads();
  int64_t newest = 0;
  for (int32_t i = 0; i < maxSequences_; ++i) {
    int64_t own = pagesForTokens(tokens[i], program_.info.sinkTokens);
    pages += own - sequences_[i].pageCount();
    newest += own > 0;
  }
  int64_t needed = saturatingSum(
      {fixedBytes_, tableBytes_,
       saturatingProduct({floorPagesBytes(program_.info), pages}),
       saturatingProduct({newestPageBytes(program_.info), newest})});
  if (needed > budget_)
    return missingBytes(needed, budget_, "the sequences to their end");
  return Status();
}

/// Could `plans` be admitted beside the plans of all other sequences?
Status Session::checkAdmission(const std::vector<SequencePlan> &plans) const {
  if (Status s = checkPlans(plans); !s.ok())
    return s;
  std::vector<int64_t> tokens;
  promisedTokens(tokens);
  for (const SequencePlan &plan : plans)
    tokens[plan.sequence] =
        std::max(tokens[plan.sequence],
                 sequences_[plan.sequence].tokens + tokensOf(plan));
  return checkReach(tokens);
}

Status Session::admit(const std::vector<SequencePlan> &plans) {
  return guarded([&]() -> Status {
    if (Status s = usable(); !s.ok())
      return s;
    if (Status s = checkPlans(plans); !s.ok())
      return s;
    std::vector<int64_t> tokens;
    promisedTokens(tokens);
    for (const SequencePlan &plan : plans)
      tokens[plan.sequence] = sequences_[plan.sequence].tokens + tokensOf(plan);
    if (Status s = checkReach(tokens); !s.ok())
      return s;
    reservePlanned(tokens);
    for (const SequencePlan &plan : plans)
      sequences_[plan.sequence].planned = tokens[plan.sequence];
    return Status();
  });
}

/// Grows every list that decode steps fill to what it will hold when sequences
/// have so many tokens, so that such a step allocates nothing.
///
/// Shapes: tokens [maxSequences].
void Session::reservePlanned(const std::vector<int64_t> &tokens) {
  const ProgramInfo &info = program_.info;
  int64_t allPages = 0, newPages = 0, parts = 0;
  for (int32_t i = 0; i < maxSequences_; ++i) {
    int64_t pages = pagesForTokens(tokens[i], info.sinkTokens);
    Sequence &sequence = sequences_[i];
    sequence.pages.reserve(pages);
    allPages += pages;
    newPages += std::max<int64_t>(0, pages - sequence.pageCount());
    parts += countParts(1, pages, info.kvHeads, 1);
  }
  plan_.reserve(allPages * pageHeads());
  pageTasks_.reserve(allPages * pageHeads());
  newHolders_.reserve(maxSequences_);
  spareHolders_.reserve(newPages);
  while (static_cast<int64_t>(spareHolders_.size()) < newPages)
    spareHolders_.push_back(std::make_shared<Holders>(1, 0));
  workList_.attendTasks.reserve(parts);
  workList_.mergeTasks.reserve(int64_t(maxSequences_) * info.kvHeads);
  partials_.reserve(parts * partialFloats(program_.groupSize(), info.headDim));
}

//===----------------------------------------------------------------------===//
// Release
//===----------------------------------------------------------------------===//

/// Gives back slot and blocks of one page of every layer and kv head.
Status Session::releasePage(int32_t sequence, int32_t page) {
  for (int32_t layer = 0; layer < program_.info.layers; ++layer)
    for (int32_t head = 0; head < program_.info.kvHeads; ++head) {
      const PageEntry &old = entry({layer, sequence, head, page});
      bool shares =
          ownsNoBlock(old.level[kValue], {layer, sequence, head, page});
      for (int32_t part = 0; part < (shares ? kValue : kParts); ++part)
        if (Status s =
                blocks_.free(old.blocks[part], blocksAtLevel(old.level[part]));
            !s.ok())
          return s;
      if (Status s = slots_.free(&old.slot, 1); !s.ok())
        return s;
    }
  return Status();
}

Status Session::release(int32_t sequence) {
  if (Status s = checkSequence(sequence); !s.ok())
    return s;
  if (Status s = usable(); !s.ok())
    return s;
  for (int32_t page = 0; page < pages(sequence); ++page) {
    Holders &holders = *sequences_[sequence].pages[page];
    if (holders.size() == 1)
      if (Status s = releasePage(sequence, page); !s.ok())
        return breakSession(s);
    holders.erase(std::find(holders.begin(), holders.end(), sequence));
  }
  sequences_[sequence] = Sequence();
  return Status();
}

//===----------------------------------------------------------------------===//
// Fork
//===----------------------------------------------------------------------===//

/// Copies page tables.
void Session::copyTables(int32_t parent, int32_t child) {
  const ProgramInfo &info = program_.info;
  for (int32_t layer = 0; layer < info.layers; ++layer)
    for (int32_t head = 0; head < info.kvHeads; ++head)
      std::copy_n(&entry({layer, parent, head, 0}), pages(parent),
                  &entry({layer, child, head, 0}));
}

Status Session::fork(int32_t parent, int32_t child) {
  return guarded([&]() -> Status {
    if (Status s = usable(); !s.ok())
      return s;
    if (Status s = checkSequence(parent); !s.ok())
      return s;
    if (Status s = checkSequence(child); !s.ok())
      return s;
    if (parent == child)
      return Status(StatusCode::InvalidArgument,
                    "sequence " + std::to_string(parent) +
                        " cannot be forked into itself");
    if (sequences_[child].tokens)
      return Status(StatusCode::FailedPrecondition,
                    "sequence " + std::to_string(child) + " has " +
                        std::to_string(sequences_[child].tokens) +
                        " tokens; release it first");
    Sequence copy = sequences_[parent];
    copy.planned = sequences_[child].planned;
    for (const std::shared_ptr<Holders> &holders : copy.pages)
      holders->reserve(holders->size() + 1);
    // The child's areas are nobody's yet.
    if (Status s = store_->copyFixed(parent, child); !s.ok())
      return s;
    // From here on nothing can fail.
    copyTables(parent, child);
    for (const std::shared_ptr<Holders> &holders : copy.pages)
      holders->insert(std::upper_bound(holders->begin(), holders->end(), child),
                      child);
    sequences_[child] = std::move(copy);
    return Status();
  });
}
