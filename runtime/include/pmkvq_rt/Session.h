//===- Session.h - A program with caches ------------------------*- C++ -*-===//
//
// Owns the caches of a batch of sequences and runs a program over them within a
// byte budget.  Neighbours: Program.h (code), BlockPool.h (memory), Schedule.h
// (levels), WorkList.h (attention as tasks), Sampling.h (tokens), Snapshot.h (a
// sequence as bytes), Runtime.h (the same in C).
//
// Mental model.  A token goes to a *fixed area* first: the first sinkTokens to
// the sink, all others to the window of 128.  A window stays full until the
// next token comes; then it is *flushed* and becomes a page of every layer and
// kv head, after older pages have been lowered as far as the budget demands.
//
//   tokens cached                 pages   window
//   sink + 128                    0       128
//   sink + 129                    1       1
//   sink + 128 + 128 n + m        n + 1   m         (1 <= m <= 128)
//
// Bytes against the budget, each counted whole: fixed areas and page tables of
// all sequences (at open), a parameter slot a page, blocks.  At no moment are
// they above the budget.  A Session is for one thread at a time.
//
// A sequence is a place, 0 .. maxSequences-1: it comes to life with its first
// token, by fork or by restore, and is free again after release.  While it
// lives, others may come and go.  A *plan* that was admitted is a promise: what
// it still needs at the floor is left free by all later calls, until release.
//
// Sequences that fork *share* the pages they have in common: one copy of codes
// and parameters, an entry in each one's page table.  A shared page counts once
// in bytes, falls once, for all its holders, and is given back with the last of
// them.  Its owner, under whom it is listed, is the holder of lowest index.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_RT_SESSION_H
#define PMKVQ_RT_SESSION_H

#include "pmkvq_rt/Arena.h"
#include "pmkvq_rt/BlockPool.h"
#include "pmkvq_rt/CacheStore.h"
#include "pmkvq_rt/Launch.h"
#include "pmkvq_rt/Program.h"
#include "pmkvq_rt/Sampling.h"
#include "pmkvq_rt/Schedule.h"
#include "pmkvq_rt/Snapshot.h"
#include "pmkvq_rt/WorkList.h"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace pmkvq::rt {

//===----------------------------------------------------------------------===//
// What a session is asked for
//===----------------------------------------------------------------------===//

/// What a sequence is to do: prompt tokens, then at most this many new ones.
/// The last new token is never cached: promptTokens + maxNewTokens - 1 are.
struct SequencePlan {
  int32_t sequence;
  int64_t promptTokens;
  /// At least 1.
  int64_t maxNewTokens;
};

struct SessionOptions {
  int32_t maxSequences = 1;
  /// Tokens that each sequence may have cached; 0: the program's maxPositions.
  int64_t maxTokens = 0;
  /// Bytes of all caches together; 0: the program's own budget; -1: no limit.
  int64_t budgetBytes = 0;
  /// Threads, the caller included; 0: one per core.
  int32_t threads = 0;
  /// Admitted at once: open refuses a budget that these cannot keep to.
  std::vector<SequencePlan> plans;
  /// Chooses levels in place of the program's own schedule; null: that one.
  std::shared_ptr<const SchedulePolicy> policy;
  /// Where the caches live, for this session alone; null: in the CPU's memory.
  std::shared_ptr<CacheStore> store;
};

/// Which rows of a run give logits.
enum class Outputs : int32_t { None = 0, Last = 1, All = 2 };

/// Consecutive tokens that a step appends to one sequence.
struct StepRun {
  int32_t sequence;
  const int32_t *tokens;
  int32_t count;
  Outputs outputs = Outputs::Last;
};

/// Logits of a step, in the order of the runs.
struct StepLogits {
  /// [rows][vocab], f32; valid until the next step.
  const float *logits;
  int64_t rows;
};

struct Prompt {
  int32_t sequence;
  std::vector<int32_t> tokens;
};

struct DecodeRequest {
  int32_t sequence;
  /// At least 1.
  int64_t maxNewTokens;
  /// Stream of random numbers, so that a sequence draws the same tokens at
  /// whatever place it runs, alone or in a batch; 0: sequence + 1.
  uint64_t stream = 0;
};

/// A token that decoding has chosen.
struct TokenEvent {
  int32_t sequence;
  int32_t token;
  /// 0 for the first new token of this call.
  int64_t index;
};

/// Greedy by default; see Sampling.h.
struct DecodeOptions : SamplingOptions {
  /// A sequence ends with the first of these; it is part of the result.
  std::vector<int32_t> stopTokens;
  /// Called for every token in the order chosen; false ends all sequences.
  std::function<bool(const TokenEvent &)> onToken;
};

enum class FinishReason : int32_t { Length = 0, Stop = 1, Cancelled = 2 };

struct Generated {
  std::vector<int32_t> tokens;
  FinishReason reason = FinishReason::Length;
};

/// The logits at one position of forced decoding: what the program expects
/// after `token`.
struct PositionLogits {
  int32_t sequence;
  /// Position of `token` in the sequence.
  int64_t position;
  int32_t token;
  /// [vocab], f32; valid during the call.
  const float *logits;
};

/// Returns false to end the call.
using LogitsCallback = std::function<bool(const PositionLogits &)>;

/// Called after every prefill step with prompt tokens done and in total.
using PrefillProgress = std::function<void(int64_t done, int64_t total)>;

/// Bytes of the caches by kind; inUse is the sum of the first four.
struct CacheBytes {
  /// Sinks and windows, and page tables: of all sequences, from open on.
  int64_t fixedAreas = 0;
  int64_t pageTables = 0;
  /// A shared page counts once.
  int64_t parameterSlots = 0;
  int64_t blocks = 0;
  int64_t inUse = 0;
  /// Most ever in use: together, and of each kind that changes (these need not
  /// have been at one moment).
  int64_t peak = 0;
  int64_t peakParameterSlots = 0;
  int64_t peakBlocks = 0;
  /// 0: no limit.
  int64_t budget = 0;
  /// What the cached tokens of every sequence would take as bf16, without
  /// pages, windows and sharing.
  int64_t bf16Equivalent = 0;
};

/// Pages at each level, by ladderIndex: 16, 8, 4, 2, 1.
using LevelCounts = std::array<int64_t, kValueLadder.size()>;

/// Pages of a sequence with `tokens` tokens cached.
int64_t pagesForTokens(int64_t tokens, int64_t sinkTokens);

/// The fewest bytes in which `plans` can run to their end side by side: fixed
/// areas and tables for options.maxSequences of options.maxTokens, pages at the
/// floor.  The schedule `layer` needs no more: shares are what floors take.
///
/// Errors: InvalidArgument if a size is out of range or too large to count.
Result<int64_t> minimumBytes(const Program &program,
                             const SessionOptions &options,
                             const std::vector<SequencePlan> &plans);

//===----------------------------------------------------------------------===//
// The session
//===----------------------------------------------------------------------===//

class Session {
public:
  /// Reserves caches and starts threads.  The program's code and weights must
  /// outlive the session; `program.owner` is kept.
  ///
  /// Errors: InvalidArgument for options out of range; DataLoss if the program
  /// lacks a page kernel; OutOfMemory, naming the bytes missing, if the budget
  /// cannot hold fixed areas and tables, or the plans to their end.
  static Result<std::unique_ptr<Session>> open(Program program,
                                               SessionOptions options);

  Session(const Session &) = delete;
  Session &operator=(const Session &) = delete;

  /// Promises, before the first token, that sequences can reach their end at
  /// the floor, beside what the others have cached and were promised.  The
  /// promise holds until the sequence is released; a second plan for it takes
  /// the place of the first.
  ///
  /// Errors: InvalidArgument if a plan exceeds maxTokens or maxPositions or
  /// names a sequence twice; OutOfMemory, naming the bytes missing.  Nothing is
  /// promised then.
  Status admit(const std::vector<SequencePlan> &plans);

  /// Appends tokens and runs the program over them.
  ///
  /// Shapes: runs [any], each sequence at most once; tokens of a run at most
  /// room(sequence).
  /// Errors: InvalidArgument; OutOfMemory if the budget does not suffice for
  /// this and for what was promised to others; nothing has happened then.
  /// NotRepresentable if a kernel fails or a logit is not finite, and those of
  /// a device; the session may not be usable any more then, see usable().
  Result<StepLogits> step(const std::vector<StepRun> &runs);

  /// Tokens that the next step may append to a sequence: what is left of sink
  /// and window, a full window counting as flushed; 0 for a bad sequence.
  int32_t room(int32_t sequence) const;

  /// Appends prompts in chunks, all sequences side by side, and chooses each
  /// one's first new token (see nextToken).  A sequence that has tokens goes
  /// on; after a decode, its last new token is not cached yet and must be the
  /// first of the prompt.
  ///
  /// Errors: as admit and step; checked before the first token.
  Status prefill(const std::vector<Prompt> &prompts,
                 const PrefillProgress &progress = nullptr);

  /// Feeds given tokens, whatever the program would choose, and hands out the
  /// logits at every position: the first `firstChunk` tokens of a sequence in
  /// one step, the others one by one, all sequences side by side.  Afterwards
  /// decoding may go on.
  ///
  /// Shapes: firstChunk in tokens, at most room(sequence) are taken; 0: as many
  /// as there is room for.  Logits of at most one first chunk, or of one token
  /// a sequence, are held at a time.
  /// Errors: as prefill.
  Status force(const std::vector<Prompt> &given, const LogitsCallback &onLogits,
               int64_t firstChunk = 0);

  /// Decodes, all sequences side by side; one that is done drops out.  Greedy
  /// ties go to the smallest token id.  A further call goes on where this one
  /// ended.  With a temperature, the token at a position depends on seed,
  /// stream, position and logits alone.
  ///
  /// Shapes: result [requests].
  /// Errors: InvalidArgument for a temperature or top-p out of range;
  /// FailedPrecondition for a sequence without a prefill; else as
  /// admit and step.
  Result<std::vector<Generated>>
  decode(const std::vector<DecodeRequest> &requests,
         const DecodeOptions &options = {});

  /// admit, prefill and decode.
  ///
  /// Shapes: prompts [n], maxNewTokens [n], result [n].
  Result<std::vector<Generated>>
  generate(const std::vector<Prompt> &prompts,
           const std::vector<int64_t> &maxNewTokens,
           const DecodeOptions &options = {},
           const PrefillProgress &progress = nullptr);

  /// Forgets a sequence and its plan; gives back the pages that no other holds.
  ///
  /// Errors: InvalidArgument for a bad sequence.
  Status release(int32_t sequence);

  /// Makes the free sequence `child` what `parent` is: it shares the pages,
  /// gets a copy of the fixed areas, and goes on by itself.  A plan admitted
  /// for either stays as it is.  Takes no bytes of the budget.
  ///
  /// Errors: InvalidArgument for a bad sequence or parent == child;
  /// FailedPrecondition if the child has tokens; those of a device.  Nothing
  /// has happened then.
  Status fork(int32_t parent, int32_t child);

  /// A sequence as bytes, see Snapshot.h; shared pages are part of it.
  ///
  /// Errors: InvalidArgument for a bad sequence; those of a device.
  Result<std::vector<uint8_t>> snapshot(int32_t sequence) const;

  /// Makes the free `sequence` what a snapshot holds; decoding goes on as it
  /// would have there.  Where room is short, pages of the session and of the
  /// snapshot fall as the schedule has it, the latter before they come in.
  ///
  /// Shapes: data [size].
  /// Errors: DataLoss if the bytes are damaged or of another version;
  /// InvalidArgument if they are of another geometry, or longer than maxTokens;
  /// FailedPrecondition if the sequence has tokens; OutOfMemory, naming the
  /// bytes missing.  Nothing has happened then.
  Status restore(int32_t sequence, const uint8_t *data, size_t size);

  /// Shows every launch of the following steps to `observer`, for tools that
  /// check or measure what kernels do; null ends it.  Page kernels, which run
  /// before a step, are not part of it.
  void observeLaunches(LaunchObserver observer) {
    context_.observer = std::move(observer);
  }

  // Queries.
  const Program &program() const { return program_; }
  int32_t maxSequences() const { return maxSequences_; }
  int64_t maxTokens() const { return maxTokens_; }
  int32_t threads() const { return context_.threads->threads(); }
  CacheBytes bytes() const;
  /// Pages of all sequences in one layer, a shared one once; zeros for a bad
  /// layer.
  LevelCounts levels(int32_t layer, Part part) const;
  /// Pages of one sequence in one layer; zeros for a bad sequence or layer.
  LevelCounts levels(int32_t sequence, int32_t layer, Part part) const;
  /// Tokens cached; 0 for a bad sequence.
  int64_t tokens(int32_t sequence) const;
  /// Pages a layer and kv head; 0 for a bad sequence.
  int32_t pages(int32_t sequence) const;
  /// Of these, pages that other sequences hold too.
  int32_t sharedPages(int32_t sequence) const;
  /// Tokens that a plan promises to the sequence, those cached included; 0:
  /// there is no plan.
  int64_t plannedTokens(int32_t sequence) const;
  /// The lowest sequence without tokens and plan; -1 if there is none.
  int32_t freeSequence() const;
  /// The token that greedy decoding goes on with; -1 if there is none.
  int32_t nextToken(int32_t sequence) const;
  /// A page's entry; null if there is no such page.
  const PageEntry *pageEntry(int32_t layer, int32_t sequence, int32_t head,
                             int32_t page) const;
  /// What kernels get.  [layers]
  const std::vector<CacheView> &caches() const { return caches_; }
  /// Ok, or why the session is not usable any more.
  Status usable() const;

private:
  /// The sequences that hold a page, ascending; one list a page, the same for
  /// all its layers and kv heads.
  using Holders = std::vector<int32_t>;

  struct Sequence {
    int64_t tokens = 0;
    int32_t window = 0;
    /// [pages]
    std::vector<std::shared_ptr<Holders>> pages;
    /// Tokens that a plan promises; 0: none.
    int64_t planned = 0;
    /// Chosen, not cached; -1: none.
    int32_t next = -1;
    /// `next` was already part of a result.
    bool nextEmitted = false;
    /// [vocab], those from which `next` is to be chosen; empty once it is
    /// beyond a change of mind.
    std::vector<float> logits;

    int32_t pageCount() const { return static_cast<int32_t>(pages.size()); }
  };

  Session() = default;

  // Session.cpp
  Status reserve(const SessionOptions &options);
  Status reserveMemory(int64_t heads);
  Status choosePolicy(const SessionOptions &options);
  Status attachStore(std::shared_ptr<CacheStore> store);
  std::vector<PageLevels> levelPairs() const;
  Status checkSequence(int32_t sequence) const;
  int64_t bytesInUse() const;
  int64_t pageHeads() const {
    return int64_t(program_.info.layers) * program_.info.kvHeads;
  }
  bool isSequence(int32_t sequence) const {
    return sequence >= 0 && sequence < maxSequences_;
  }
  PageEntry &entry(const PageTask &place);
  const PageEntry &entry(const PageTask &place) const;
  Status breakSession(Status reason);

  // SessionSequences.cpp
  Status checkPlans(const std::vector<SequencePlan> &plans) const;
  Status checkAdmission(const std::vector<SequencePlan> &plans) const;
  Status checkReach(const std::vector<int64_t> &tokens) const;
  void promisedTokens(std::vector<int64_t> &tokens) const;
  void reservePlanned(const std::vector<int64_t> &tokens);
  Status releasePage(int32_t sequence, int32_t page);
  void copyTables(int32_t parent, int32_t child);

  // SessionSnapshot.cpp
  SnapshotGeometry snapshotGeometry() const;
  Status eachFixedPart(
      int32_t sequence,
      const std::function<Status(const FixedPart &place)> &visit) const;
  Status copyOut(const std::vector<const PageEntry *> &pages,
                 uint8_t *parameters, uint8_t *codes) const;
  Status checkRestore(int32_t sequence, const SnapshotView &view) const;
  Status planRestore(int32_t sequence, const SnapshotView &view);
  Sequence restoredSequence(int32_t sequence, const SnapshotView &view) const;
  Status lowerStaged(size_t first, SnapshotStage &stage);
  Status lowerStagedPart(size_t first, int32_t part, int32_t from,
                         SnapshotStage &stage);
  Status bringIn(size_t first, const SnapshotStage &stage);

  // SessionFlush.cpp
  Status flush(const std::vector<int32_t> &sequences, const StepArgs &step);
  Status prepareFlushed(size_t existing, const StepArgs &step);
  void exchangeLevels(size_t existing);
  ScheduleLimits limitsWith(int64_t newPageHeads) const;
  void collectPages(const std::vector<int32_t> &sequences);
  Status lowerPages(size_t existing);
  Status lowerPart(int32_t part, int32_t from);
  Status makePage(const PageState &state);
  PageEntry &partnerOf(const PageTask &place);
  bool ownsNoBlock(int32_t level, const PageTask &place) const;
  void shareBlock(const PageTask &place);
  Status joinPartner(const PageTask &place);
  Status writePages(size_t existing);
  std::shared_ptr<Holders> takeHolders(int32_t sequence);
  PageLaunch pageLaunch(int32_t part, int32_t from, int32_t to);
  Status judgePages(const PageLaunch &launch,
                    const Result<LaunchResult> &result) const;
  Status runPageKernel(const PageLaunch &launch);

  // SessionStep.cpp
  Status checkRuns(const std::vector<StepRun> &runs);
  Status checkRoomFor(const std::vector<StepRun> &runs);
  void fillRows(const std::vector<StepRun> &runs);
  Status makeScratch();
  StepArgs stepArgs();
  Status runStep(StepArgs &args);
  Status checkLogits() const;

  // Generate.cpp
  Status checkPrompts(const std::vector<Prompt> &prompts) const;
  Status checkRequests(const std::vector<DecodeRequest> &requests) const;
  bool emitTokens(const std::vector<DecodeRequest> &requests,
                  const DecodeOptions &options, std::vector<size_t> &active,
                  std::vector<Generated> &results);
  void nextPrefillStep(const std::vector<Prompt> &prompts,
                       const std::vector<int64_t> &done, size_t &cursor,
                       std::vector<StepRun> &runs,
                       std::vector<size_t> &members) const;
  void keepLogits(int32_t sequence, const float *logits);
  Status forceChunk(const Prompt &given, int64_t count,
                    const LogitsCallback &onLogits, bool &cancelled);
  Status forceRest(const std::vector<Prompt> &given, std::vector<int64_t> done,
                   const LogitsCallback &onLogits);

  Program program_;
  int32_t maxSequences_ = 0;
  int64_t maxTokens_ = 0;
  int64_t maxPages_ = 0;
  /// kUnlimitedBytes: none.
  int64_t budget_ = kUnlimitedBytes;
  int64_t peak_ = 0;
  int64_t fixedBytes_ = 0;
  int64_t tableBytes_ = 0;
  Status broken_;

  HookContext context_;
  std::shared_ptr<CacheStore> store_;
  std::shared_ptr<const SchedulePolicy> policy_;
  LevelUse levelUse_ = LevelUse::All;
  Arena fixed_;
  Arena tables_;
  BlockPool blocks_;
  BlockPool slots_;
  std::vector<CacheView> caches_;
  std::vector<Sequence> sequences_;

  // Scratch of a flush: the plan, the tasks of one launch, the lists of holders
  // of the new pages, and lists that were made for them at admission.
  std::vector<PageState> plan_;
  std::vector<PageTask> pageTasks_;
  std::vector<std::shared_ptr<Holders>> newHolders_;
  std::vector<std::shared_ptr<Holders>> spareHolders_;

  // Scratch of a step.
  std::vector<uint8_t> seen_;
  std::vector<int64_t> promised_;
  std::vector<int32_t> fullSequences_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<Row> rows_;
  std::vector<RowRun> rowRuns_;
  std::vector<int32_t> outputs_;
  std::vector<float> logits_;
  std::vector<float> partials_;
  WorkList workList_;
  Arena scratch_;
  Sampler sampler_;
};

} // namespace pmkvq::rt

#endif // PMKVQ_RT_SESSION_H
