//===- Generate.cpp - Prefill, forced and free decoding -------------------===//
//
// Loops over steps: prompts in chunks, then a token at a time.  Neighbours:
// SessionStep.cpp does a step, Sampling.h chooses a token.
//
//===----------------------------------------------------------------------===//

#include "Guard.h"
#include "pmkvq_rt/Session.h"

#include <algorithm>
#include <numeric>

using namespace pmkvq::rt;

/// Rows of one prefill step at most: enough to keep a product busy, few enough
/// that activations stay small.
static constexpr int64_t kMaxStepRows = 2048;

/// Bytes of partial results of one prefill step at most.  Many rows over many
/// pages would otherwise take gigabytes.
static constexpr int64_t kMaxPartialBytes = int64_t(256) << 20;

/// The stream of random numbers of a request.
static uint64_t streamOf(const DecodeRequest &request) {
  return request.stream ? request.stream : uint64_t(request.sequence) + 1;
}

/// Keeps what the next token will be chosen from: a later call may say how.
void Session::keepLogits(int32_t sequence, const float *logits) {
  Sequence &state = sequences_[sequence];
  state.logits.assign(logits, logits + program_.info.vocabSize);
  state.next = argmax(logits, program_.info.vocabSize);
  state.nextEmitted = false;
}

//===----------------------------------------------------------------------===//
// Prefill
//===----------------------------------------------------------------------===//

Status Session::checkPrompts(const std::vector<Prompt> &prompts) const {
  std::vector<SequencePlan> plans;
  for (const Prompt &prompt : prompts) {
    std::string name =
        "the prompt of sequence " + std::to_string(prompt.sequence);
    if (prompt.tokens.empty())
      return Status(StatusCode::InvalidArgument, name + " is empty");
    for (int32_t token : prompt.tokens)
      if (token < 0 || token >= program_.info.vocabSize)
        return Status(StatusCode::InvalidArgument,
                      name + " has token id " + std::to_string(token) +
                          "; the vocabulary has " +
                          std::to_string(program_.info.vocabSize));
    plans.push_back(
        {prompt.sequence, static_cast<int64_t>(prompt.tokens.size()), 1});
  }
  return checkAdmission(plans);
}

/// Fills `runs` with the next chunks, `members` with their prompts.  Prompts
/// take turns, from `cursor` on, where one step cannot hold all.
void Session::nextPrefillStep(const std::vector<Prompt> &prompts,
                              const std::vector<int64_t> &done, size_t &cursor,
                              std::vector<StepRun> &runs,
                              std::vector<size_t> &members) const {
  const ProgramInfo &info = program_.info;
  int64_t partBytes =
      4 * partialFloats(int64_t(program_.groupSize()) * kRowsPerPrefillTask,
                        info.headDim);
  int64_t rows = 0;
  int64_t bytes = 0;
  size_t start = cursor;
  for (size_t i = 0; i < prompts.size(); ++i) {
    size_t index = (start + i) % prompts.size();
    const Prompt &prompt = prompts[index];
    int64_t left = static_cast<int64_t>(prompt.tokens.size()) - done[index];
    if (left == 0)
      continue;
    int32_t count =
        static_cast<int32_t>(std::min<int64_t>(left, room(prompt.sequence)));
    // One page more than now: the window may be flushed first.
    int64_t more = partBytes * countParts(count, pages(prompt.sequence) + 1,
                                          info.kvHeads, kRowsPerPrefillTask);
    if (!runs.empty() &&
        (rows + count > kMaxStepRows || bytes + more > kMaxPartialBytes))
      break;
    rows += count;
    bytes += more;
    runs.push_back({prompt.sequence, prompt.tokens.data() + done[index], count,
                    count == left ? Outputs::Last : Outputs::None});
    members.push_back(index);
    cursor = (index + 1) % prompts.size();
  }
}

Status Session::prefill(const std::vector<Prompt> &prompts,
                        const PrefillProgress &progress) {
  return guarded([&]() -> Status {
    if (Status s = usable(); !s.ok())
      return s;
    if (Status s = checkPrompts(prompts); !s.ok())
      return s;
    int64_t total = 0;
    for (const Prompt &prompt : prompts)
      total += static_cast<int64_t>(prompt.tokens.size());
    std::vector<int64_t> done(prompts.size(), 0);
    std::vector<StepRun> runs;
    std::vector<size_t> members;
    size_t cursor = 0;
    for (int64_t sum = 0; sum < total;) {
      runs.clear();
      members.clear();
      nextPrefillStep(prompts, done, cursor, runs, members);
      Result<StepLogits> logits = step(runs);
      if (!logits.ok())
        return logits.status();
      const float *row = logits->logits;
      for (size_t i = 0; i < runs.size(); ++i) {
        if (runs[i].outputs == Outputs::Last) {
          keepLogits(runs[i].sequence, row);
          row += program_.info.vocabSize;
        }
        done[members[i]] += runs[i].count;
        sum += runs[i].count;
      }
      if (progress)
        progress(sum, total);
    }
    return Status();
  });
}

//===----------------------------------------------------------------------===//
// Forced decoding
//===----------------------------------------------------------------------===//

/// The first `count` tokens of one sequence in one step.
Status Session::forceChunk(const Prompt &given, int64_t count,
                           const LogitsCallback &onLogits, bool &cancelled) {
  int64_t position = tokens(given.sequence);
  Result<StepLogits> logits =
      step({{given.sequence, given.tokens.data(), static_cast<int32_t>(count),
             Outputs::All}});
  if (!logits.ok())
    return logits.status();
  int64_t vocab = program_.info.vocabSize;
  keepLogits(given.sequence, logits->logits + (count - 1) * vocab);
  for (int64_t i = 0; i < count && !cancelled; ++i)
    cancelled = !onLogits({given.sequence, position + i, given.tokens[i],
                           logits->logits + i * vocab});
  return Status();
}

/// All tokens from done[i] on of given[i], one a step.
Status Session::forceRest(const std::vector<Prompt> &given,
                          std::vector<int64_t> done,
                          const LogitsCallback &onLogits) {
  std::vector<StepRun> runs;
  std::vector<size_t> members;
  for (;;) {
    runs.clear();
    members.clear();
    for (size_t i = 0; i < given.size(); ++i)
      if (done[i] < static_cast<int64_t>(given[i].tokens.size())) {
        runs.push_back(
            {given[i].sequence, given[i].tokens.data() + done[i]++, 1});
        members.push_back(i);
      }
    if (runs.empty())
      return Status();
    Result<StepLogits> logits = step(runs);
    if (!logits.ok())
      return logits.status();
    bool going = true;
    for (size_t i = 0; i < runs.size(); ++i) {
      int32_t sequence = runs[i].sequence;
      const float *row = logits->logits + i * program_.info.vocabSize;
      if (done[members[i]] ==
          static_cast<int64_t>(given[members[i]].tokens.size()))
        keepLogits(sequence, row);
      going = going && onLogits({sequence, tokens(sequence) - 1,
                                 runs[i].tokens[0], row});
    }
    if (!going)
      return Status();
  }
}

Status Session::force(const std::vector<Prompt> &given,
                      const LogitsCallback &onLogits, int64_t firstChunk) {
  return guarded([&]() -> Status {
    if (Status s = usable(); !s.ok())
      return s;
    if (!onLogits || firstChunk < 0)
      return Status(StatusCode::InvalidArgument,
                    onLogits ? "a first chunk of " +
                                   std::to_string(firstChunk) + " tokens"
                             : "forced decoding without a callback");
    if (Status s = checkPrompts(given); !s.ok())
      return s;
    std::vector<int64_t> done;
    bool cancelled = false;
    for (const Prompt &prompt : given) {
      int64_t count = std::min<int64_t>(
          static_cast<int64_t>(prompt.tokens.size()), room(prompt.sequence));
      if (firstChunk)
        count = std::min(count, firstChunk);
      done.push_back(count);
      Status s = forceChunk(prompt, count, onLogits, cancelled);
      if (!s.ok() || cancelled)
        return s;
    }
    return forceRest(given, std::move(done), onLogits);
  });
}

//===----------------------------------------------------------------------===//
// Decode
//===----------------------------------------------------------------------===//

Status
Session::checkRequests(const std::vector<DecodeRequest> &requests) const {
  std::vector<SequencePlan> plans;
  for (const DecodeRequest &request : requests) {
    // A token that an earlier call gave out is cached by this one.
    bool pending = isSequence(request.sequence) &&
                   sequences_[request.sequence].nextEmitted;
    plans.push_back({request.sequence, pending ? 1 : 0, request.maxNewTokens});
  }
  if (Status s = checkAdmission(plans); !s.ok())
    return s;
  for (const DecodeRequest &request : requests)
    if (sequences_[request.sequence].next < 0)
      return Status(StatusCode::FailedPrecondition,
                    "sequence " + std::to_string(request.sequence) +
                        " has no token to go on from; prefill it first");
  return Status();
}

/// Gives out the next token of each active request and drops those that are
/// done from `active`.  Returns false if the callback ends the call.
bool Session::emitTokens(const std::vector<DecodeRequest> &requests,
                         const DecodeOptions &options,
                         std::vector<size_t> &active,
                         std::vector<Generated> &results) {
  size_t going = 0;
  bool cancelled = false;
  for (size_t index : active) {
    Sequence &sequence = sequences_[requests[index].sequence];
    Generated &result = results[index];
    if (!sequence.nextEmitted && !cancelled) {
      // Logits that an earlier call kept: only now is it known how to choose.
      if (!sequence.logits.empty())
        sequence.next = sampler_.sample(
            sequence.logits.data(), program_.info.vocabSize, options,
            streamOf(requests[index]), static_cast<uint64_t>(sequence.tokens));
      sequence.logits.clear();
      sequence.nextEmitted = true;
      result.tokens.push_back(sequence.next);
      int64_t count = static_cast<int64_t>(result.tokens.size());
      if (options.onToken)
        cancelled = !options.onToken(
            {requests[index].sequence, sequence.next, count - 1});
      bool stop = std::count(options.stopTokens.begin(),
                             options.stopTokens.end(), sequence.next);
      result.reason = stop ? FinishReason::Stop : FinishReason::Length;
      if (stop || count == requests[index].maxNewTokens)
        continue;
    }
    active[going++] = index;
  }
  active.resize(going);
  return !cancelled;
}

Result<std::vector<Generated>>
Session::decode(const std::vector<DecodeRequest> &requests,
                const DecodeOptions &options) {
  return guarded([&]() -> Result<std::vector<Generated>> {
    if (Status s = usable(); !s.ok())
      return s;
    if (Status s = checkSampling(options); !s.ok())
      return s;
    if (Status s = checkRequests(requests); !s.ok())
      return s;
    std::vector<Generated> results(requests.size());
    // No more than that can be cached, and one is not.
    for (size_t i = 0; i < requests.size(); ++i)
      results[i].tokens.reserve(
          std::min(requests[i].maxNewTokens, maxTokens_ + 1));
    std::vector<size_t> active(requests.size());
    std::iota(active.begin(), active.end(), size_t{0});
    std::vector<int32_t> fed;
    std::vector<StepRun> runs;
    for (;;) {
      if (!emitTokens(requests, options, active, results)) {
        for (size_t index : active)
          results[index].reason = FinishReason::Cancelled;
        return results;
      }
      if (active.empty())
        return results;
      fed.clear();
      runs.clear();
      for (size_t index : active)
        fed.push_back(sequences_[requests[index].sequence].next);
      for (size_t i = 0; i < active.size(); ++i)
        runs.push_back({requests[active[i]].sequence, &fed[i], 1});
      Result<StepLogits> logits = step(runs);
      if (!logits.ok())
        return logits.status();
      for (size_t i = 0; i < active.size(); ++i) {
        Sequence &sequence = sequences_[requests[active[i]].sequence];
        sequence.next = sampler_.sample(
            logits->logits + i * program_.info.vocabSize,
            program_.info.vocabSize, options, streamOf(requests[active[i]]),
            static_cast<uint64_t>(sequence.tokens));
        sequence.nextEmitted = false;
      }
    }
  });
}

Result<std::vector<Generated>>
Session::generate(const std::vector<Prompt> &prompts,
                  const std::vector<int64_t> &maxNewTokens,
                  const DecodeOptions &options,
                  const PrefillProgress &progress) {
  return guarded([&]() -> Result<std::vector<Generated>> {
    if (prompts.size() != maxNewTokens.size())
      return Status(StatusCode::InvalidArgument,
                    std::to_string(prompts.size()) + " prompts, but " +
                        std::to_string(maxNewTokens.size()) +
                        " numbers of new tokens");
    std::vector<SequencePlan> plans;
    std::vector<DecodeRequest> requests;
    for (size_t i = 0; i < prompts.size(); ++i) {
      plans.push_back({prompts[i].sequence,
                       static_cast<int64_t>(prompts[i].tokens.size()),
                       maxNewTokens[i]});
      requests.push_back({prompts[i].sequence, maxNewTokens[i]});
    }
    if (Status s = usable(); !s.ok())
      return s;
    if (Status s = checkSampling(options); !s.ok())
      return s;
    if (Status s = checkAdmission(plans); !s.ok())
      return s;
    if (Status s = prefill(prompts, progress); !s.ok())
      return s;
    return decode(requests, options);
  });
}
