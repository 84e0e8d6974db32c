//===- Plan.cpp - A run that computes nothing -----------------------------===//
//
// Runs a session whose kernels do nothing and takes notes.  Its pools are only
// reserved, never touched, so that a plan needs little memory; what it costs is
// a step's bookkeeping for each token.  Neighbours: Plan.h.
//
//===----------------------------------------------------------------------===//

#include "pmkvq/Allocation/Plan.h"

#include <algorithm>
#include <utility>

using namespace pmkvq;
using namespace pmkvq::allocation;

namespace {
/// Who takes the notes of a run.  Entry points of a program have no state of
/// their own, so the one that runs on this thread is found here.
struct Recorder {
  rt::ProgramInfo info;
  const std::vector<rt::LayerLosses> *losses = nullptr;
  /// A layer's, as a program has them.
  std::vector<float> table;
  rt::Session *session = nullptr;
  Plan *plan = nullptr;
  int64_t pages = 0;
};
} // namespace

static thread_local Recorder *recorder = nullptr;

static rt::LevelCounts filled(int64_t value) {
  rt::LevelCounts counts;
  counts.fill(value);
  return counts;
}

static LevelTable makeTable(const rt::Session &session, int64_t value) {
  return LevelTable(session.program().info.layers,
                    {filled(value), filled(value)});
}

static void countPages(const rt::Session &session, LevelTable &table) {
  for (int32_t layer = 0; layer < static_cast<int32_t>(table.size()); ++layer)
    for (rt::Part part : {rt::kKey, rt::kValue})
      table[layer][part] = session.levels(layer, part);
}

/// What one page bears of its layer's losses, next to the others.
static double shareOf(const std::vector<rt::LayerLosses> &losses, int32_t layer,
                      int32_t head, int32_t age) {
  return losses.empty() ? 1
                        : losses[static_cast<size_t>(layer)].shareOf(head, age);
}

/// Adds up what a layer's pages bear, by the level of one part.
static LevelWeights weighPages(const rt::Session &session,
                               const std::vector<rt::LayerLosses> &losses,
                               int32_t layer, rt::Part part) {
  LevelWeights weights = {};
  double sum = 0;
  for (int32_t i = 0; i < session.maxSequences(); ++i)
    for (int32_t head = 0; head < session.program().info.kvHeads; ++head)
      for (int32_t page = 0; page < session.pages(i); ++page) {
        double share =
            shareOf(losses, layer, head, session.pages(i) - 1 - page);
        int32_t level = session.pageEntry(layer, i, head, page)->level[part];
        weights[rt::ladderIndex(level)] += share;
        sum += share;
      }
  if (sum > 0)
    for (double &weight : weights)
      weight /= sum;
  return weights;
}

/// Notes the levels that pages have come to before a step.
static void noteLevels(Recorder &state) {
  const rt::Session &session = *state.session;
  int64_t pages = 0;
  int64_t tokens = 0;
  for (int32_t i = 0; i < session.maxSequences(); ++i) {
    pages += session.pages(i);
    tokens = std::max(tokens, session.tokens(i));
  }
  // Levels change only where a page is made.
  if (pages == state.pages)
    return;
  state.pages = pages;
  LevelTable &now = state.plan->pages;
  countPages(session, now);
  for (size_t layer = 0; layer < now.size(); ++layer)
    for (int32_t part = 0; part < rt::kParts; ++part)
      for (size_t level = 0; level < rt::kValueLadder.size(); ++level) {
        int64_t &first = state.plan->firstAt[layer][part][level];
        if (first < 0 && now[layer][part][level] > 0)
          first = tokens;
      }
}

static void describe(rt::ProgramInfo *info) { *info = recorder->info; }

static const float *losses(int64_t layer) {
  rt::LayerLosses found = (*recorder->losses)[static_cast<size_t>(layer)];
  recorder->table.clear();
  found.forEach([](float &number) { recorder->table.push_back(number); });
  return recorder->table.data();
}

static int32_t step(rt::StepArgs *args) {
  noteLevels(*recorder);
  std::fill(args->logits, args->logits + args->outputCount, 0.0f);
  return rt::kKernelOk;
}

static int32_t doNothing(void *const *, int64_t) { return rt::kKernelOk; }

/// A program with every entry point.
static rt::Result<rt::Program> makeProgram() {
  rt::ProgramEntries entries = {};
  entries.describe = describe;
  entries.step = step;
  if (!recorder->losses->empty())
    entries.pageLosses = losses;
  for (auto &part : entries.flush)
    std::fill(std::begin(part), std::end(part), doNothing);
  for (auto &part : entries.requantize)
    std::fill(std::begin(part), std::end(part), doNothing);
  return rt::openProgram(entries, {});
}

static double bitsPerElement(const Workload &workload,
                             const rt::CacheBytes &bytes) {
  int64_t elements = countPageHeads(workload) * rt::kParts * rt::kPageTokens *
                     workload.info.headDim;
  if (elements == 0)
    return 0;
  return 8.0 * static_cast<double>(bytes.blocks + bytes.parameterSlots) /
         static_cast<double>(elements);
}

/// Runs every sequence to its end.
static rt::Status runAll(rt::Session &session, const Workload &workload) {
  std::vector<rt::Prompt> prompts;
  std::vector<int64_t> counts;
  for (const rt::SequencePlan &plan : workload.session.plans) {
    prompts.push_back(
        {plan.sequence, std::vector<int32_t>(plan.promptTokens, 0)});
    counts.push_back(plan.maxNewTokens);
  }
  return session.generate(prompts, counts).status();
}

/// Fills a plan that fits.
static rt::Status record(const Workload &workload, Plan &plan) {
  rt::Result<rt::Program> program = makeProgram();
  if (!program.ok())
    return program.status();
  rt::SessionOptions options = workload.session;
  options.threads = 1;
  rt::Result<std::unique_ptr<rt::Session>> session =
      rt::Session::open(std::move(*program), options);
  if (!session.ok())
    return session.status();
  recorder->session = session->get();
  recorder->plan = &plan;
  plan.pages = makeTable(**session, 0);
  plan.firstAt = makeTable(**session, -1);
  if (rt::Status status = runAll(**session, workload); !status.ok())
    return status;
  plan.bytes = (*session)->bytes();
  countPages(**session, plan.pages);
  plan.weights.resize(plan.pages.size());
  for (size_t layer = 0; layer < plan.weights.size(); ++layer)
    for (rt::Part part : {rt::kKey, rt::kValue})
      plan.weights[layer][part] = weighPages(**session, workload.losses,
                                             static_cast<int32_t>(layer), part);
  plan.bitsPerElement = bitsPerElement(workload, plan.bytes);
  return rt::Status();
}

rt::Result<Plan> allocation::makePlan(const Workload &workload) {
  rt::Result<int64_t> minimum = minimumBytes(workload);
  if (!minimum.ok())
    return minimum.status();
  Plan plan;
  plan.minimumBytes = *minimum;
  if (workload.session.budgetBytes > 0)
    plan.missingBytes =
        std::max<int64_t>(0, *minimum - workload.session.budgetBytes);
  if (!plan.fits())
    return plan;
  Recorder state;
  state.info = workload.info;
  state.losses = &workload.losses;
  // One token is all that a program needs which computes nothing.
  state.info.vocabSize = 1;
  state.info.budgetBytes = 0;
  Recorder *outer = std::exchange(recorder, &state);
  rt::Status status = record(workload, plan);
  recorder = outer;
  if (!status.ok())
    return status;
  return plan;
}
