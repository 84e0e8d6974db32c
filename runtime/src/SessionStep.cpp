//===- SessionStep.cpp - One step of a batch ------------------------------===//
//
// Checks what is asked, flushes full windows, and calls the program with rows
// and work lists.  Neighbours: SessionFlush.cpp, WorkList.h, Abi.h (StepArgs).
//
//===----------------------------------------------------------------------===//

#include "Guard.h"
#include "pmkvq_rt/Session.h"

#include <algorithm>
#include <cmath>
#include <limits>

using namespace pmkvq::rt;

Result<StepLogits> Session::step(const std::vector<StepRun> &runs) {
  return guarded([&]() -> Result<StepLogits> {
    if (Status s = usable(); !s.ok())
      return s;
    if (Status s = checkRuns(runs); !s.ok())
      return s;
    if (Status s = checkRoomFor(runs); !s.ok())
      return s;
    fillRows(runs);
    if (Status s = makeScratch(); !s.ok())
      return s;
    StepArgs args = stepArgs();
    if (Status s = flush(fullSequences_, args); !s.ok())
      return s;
    if (Status s = store_->prepareStep(args, rowRuns_); !s.ok())
      return s;
    if (Status s = runStep(args); !s.ok())
      return breakSession(s);
    for (const StepRun &run : runs) {
      Sequence &sequence = sequences_[run.sequence];
      int64_t sinkLeft =
          std::max<int64_t>(0, program_.info.sinkTokens - sequence.tokens);
      sequence.tokens += run.count;
      sequence.window +=
          static_cast<int32_t>(std::max<int64_t>(0, run.count - sinkLeft));
      sequence.next = -1;
      sequence.nextEmitted = false;
      sequence.logits.clear();
    }
    if (Status s = checkLogits(); !s.ok())
      return breakSession(s);
    return StepLogits{logits_.data(), static_cast<int64_t>(outputs_.size())};
  });
}

int32_t Session::room(int32_t sequence) const {
  if (!isSequence(sequence))
    return 0;
  const Sequence &state = sequences_[sequence];
  int64_t sink = std::max<int64_t>(0, program_.info.sinkTokens - state.tokens);
  int32_t window = state.window == kPageTokens ? 0 : state.window;
  return static_cast<int32_t>(
      std::min(sink + kPageTokens - window, maxTokens_ - state.tokens));
}

Status Session::checkRuns(const std::vector<StepRun> &runs) {
  if (runs.empty())
    return Status(StatusCode::InvalidArgument, "a step without tokens");
  seen_.assign(maxSequences_, 0);
  int64_t rows = 0;
  for (const StepRun &run : runs) {
    std::string name = "sequence " + std::to_string(run.sequence);
    if (!isSequence(run.sequence))
      return Status(StatusCode::InvalidArgument,
                    name + "; there are " + std::to_string(maxSequences_));
    if (seen_[run.sequence])
      return Status(StatusCode::InvalidArgument, name + " occurs twice");
    seen_[run.sequence] = 1;
    if (!run.tokens || run.count < 1)
      return Status(StatusCode::InvalidArgument, name + " has no tokens");
    if (run.count > room(run.sequence))
      return Status(StatusCode::InvalidArgument,
                    name + ": " + std::to_string(run.count) +
                        " tokens, there is room for " +
                        std::to_string(room(run.sequence)) + " in this step (" +
                        std::to_string(maxTokens_) + " in all)");
    for (int32_t i = 0; i < run.count; ++i)
      if (run.tokens[i] < 0 || run.tokens[i] >= program_.info.vocabSize)
        return Status(StatusCode::InvalidArgument,
                      name + ": token id " + std::to_string(run.tokens[i]) +
                          "; the vocabulary has " +
                          std::to_string(program_.info.vocabSize));
    rows += run.count;
  }
  if (rows > std::numeric_limits<int32_t>::max())
    return Status(StatusCode::InvalidArgument,
                  std::to_string(rows) + " rows in one step");
  return Status();
}

/// Errors: OutOfMemory if runs that go beyond their sequence's plan take what
/// was promised to others.
Status Session::checkRoomFor(const std::vector<StepRun> &runs) {
  if (budget_ == kUnlimitedBytes)
    return Status();
  bool beyond = false;
  promisedTokens(promised_);
  for (const StepRun &run : runs) {
    int64_t after = sequences_[run.sequence].tokens + run.count;
    beyond |= after > promised_[run.sequence];
    promised_[run.sequence] = std::max(promised_[run.sequence], after);
  }
  return beyond ? checkReach(promised_) : Status();
}

/// Fills the lists of a step from its runs; full windows count as flushed.
void Session::fillRows(const std::vector<StepRun> &runs) {
  const ProgramInfo &info = program_.info;
  tokens_.clear();
  positions_.clear();
  rows_.clear();
  rowRuns_.clear();
  outputs_.clear();
  fullSequences_.clear();
  for (const StepRun &run : runs) {
    const Sequence &sequence = sequences_[run.sequence];
    if (sequence.window == kPageTokens)
      fullSequences_.push_back(run.sequence);
    int32_t firstRow = static_cast<int32_t>(rows_.size());
    int32_t pages =
        sequence.pageCount() + (sequence.window == kPageTokens ? 1 : 0);
    // Pages exist only once the sink is full, so the tokens that are not in
    // pages are exactly those of the fixed area, in order.
    int32_t fixedIndex =
        static_cast<int32_t>(sequence.tokens - int64_t{pages} * kPageTokens);
    for (int32_t i = 0; i < run.count; ++i) {
      tokens_.push_back(run.tokens[i]);
      positions_.push_back(static_cast<int32_t>(sequence.tokens + i));
      rows_.push_back({run.sequence, fixedIndex + i});
      bool last = i == run.count - 1;
      if (run.outputs == Outputs::All || (run.outputs == Outputs::Last && last))
        outputs_.push_back(firstRow + i);
    }
    rowRuns_.push_back({run.sequence, firstRow, run.count, fixedIndex, pages});
  }
  buildWorkList(rowRuns_, info.kvHeads, workList_);
  nameTasksAhead(workList_.attendTasks.data(),
                 static_cast<int64_t>(workList_.attendTasks.size()),
                 context_.threads->threads());
  logits_.resize(outputs_.size() * info.vocabSize);
  // Only ever grows: clearing it anew each step would cost more than reading
  // a short cache.
  size_t floats =
      workList_.parts *
      partialFloats(int64_t(program_.groupSize()) * workList_.rowsPerTask,
                    info.headDim);
  if (partials_.size() < floats)
    partials_.resize(floats);
}

/// Memory for the activations of the step; only ever grows.
///
/// Errors: OutOfMemory.
Status Session::makeScratch() {
  if (!program_.entries.scratchBytes)
    return Status();
  int64_t bytes =
      program_.entries.scratchBytes(static_cast<int64_t>(rows_.size()),
                                    static_cast<int64_t>(outputs_.size()));
  if (bytes <= scratch_.bytes())
    return Status();
  Result<Arena> arena = Arena::reserve(bytes);
  if (!arena.ok())
    return Status(arena.status().code(),
                  "activations of a step: " + arena.status().message());
  scratch_ = std::move(*arena);
  return Status();
}

StepArgs Session::stepArgs() {
  StepArgs args = {};
  args.runtime = &context_;
  args.weights = program_.weights.data();
  args.caches = caches_.data();
  args.tokens = tokens_.data();
  args.positions = positions_.data();
  args.rows = rows_.data();
  args.rowCount = static_cast<int64_t>(rows_.size());
  args.outputs = outputs_.data();
  args.outputCount = static_cast<int64_t>(outputs_.size());
  args.logits = logits_.data();
  args.attendTasks = workList_.attendTasks.data();
  args.attendTaskCount = static_cast<int64_t>(workList_.attendTasks.size());
  args.mergeTasks = workList_.mergeTasks.data();
  args.mergeTaskCount = static_cast<int64_t>(workList_.mergeTasks.size());
  args.rowsPerTask = workList_.rowsPerTask;
  args.partials = partials_.data();
  args.scratch = scratch_.data();
  return args;
}

Status Session::runStep(StepArgs &args) {
  int32_t status = program_.entries.step(&args);
  if (status == kKernelOk)
    return Status();
  if (Status s = store_->failure(); !s.ok())
    return s;
  return Status(StatusCode::NotRepresentable,
                "the program's step ended with kernel status " +
                    std::to_string(status) +
                    ": a value is not finite or outside its format");
}

Status Session::checkLogits() const {
  int64_t vocab = program_.info.vocabSize;
  for (size_t i = 0; i < logits_.size(); ++i)
    if (!std::isfinite(logits_[i])) {
      int64_t row = outputs_[i / vocab];
      return Status(StatusCode::NotRepresentable,
                    "the logit of token id " + std::to_string(i % vocab) +
                        " at position " + std::to_string(positions_[row]) +
                        " of sequence " + std::to_string(rows_[row].sequence) +
                        " is not finite");
    }
  return Status();
}
