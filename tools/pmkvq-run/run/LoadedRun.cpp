//===- LoadedRun.cpp - A run of an artifact -------------------------------===//
//
// Neighbours: LoadedRun.h.
//
//===----------------------------------------------------------------------===//

#include "run/LoadedRun.h"
#include "pmkvq_rt/Artifact.h"
#include "run/Generate.h"
#include "run/OptionValues.h"
#include "run/SessionPlan.h"

using namespace pmkvq;
using namespace pmkvq::run;

//===----------------------------------------------------------------------===//
// Decisions that an artifact has
//===----------------------------------------------------------------------===//

static rt::Status contradiction(const Option &option, const std::string &given,
                                const std::string &compiled) {
  return refusal("--" + option.name + ": expected '" + compiled +
                 "', which the artifact was compiled with, got '" + given +
                 "'");
}

static rt::Status checkWord(const ChoiceOption &option,
                            const std::string &compiled) {
  rt::Result<std::string> word = readChoice(option);
  if (!option.given() || (word.ok() && *word == compiled))
    return rt::Status();
  return word.ok() ? contradiction(option, *word, compiled) : word.status();
}

/// A format need not be given whole: what it leaves out is not compared.
static rt::Status checkFormat(const StringOption &option,
                              const std::string &compiled) {
  if (!option.given())
    return rt::Status();
  rt::Result<FormatText> given = parseFormatText(option);
  if (!given.ok())
    return refusal("--" + option.name + ": " + given.status().message() +
                   ", got '" + option.text + "'");
  rt::Result<FormatText> ours = parseFormatText(compiled);
  bool same = ours.ok() && given->name == ours->name &&
              (given->rotation.empty() || given->rotation == ours->rotation) &&
              (!given->clip || given->clip == ours->clip.value_or(1)) &&
              (!given->feedback || ours->feedback);
  return same ? rt::Status() : contradiction(option, option.text, compiled);
}

static rt::Status checkDecisions(const CommandLine &line,
                                 const rt::ArtifactDescription &artifact) {
  std::string key = std::to_string(artifact.info.floor[rt::kKey]);
  std::string value = std::to_string(artifact.info.floor[rt::kValue]);
  const std::pair<const ChoiceOption *, const std::string *> words[] = {
      {&line.schedule, &artifact.plan.schedule},
      {&line.floorLevel, &key},
      {&line.floorLevel, &value},
      {&line.keyFloor, &key},
      {&line.valueFloor, &value},
      {&line.cpu, &artifact.target.cpu}};
  for (auto [option, compiled] : words)
    if (rt::Status s = checkWord(*option, *compiled); !s.ok())
      return s;
  if (rt::Status s = checkFormat(line.keyFormat, artifact.plan.keyFormat);
      !s.ok())
    return s;
  return checkFormat(line.valueFormat, artifact.plan.valueFormat);
}

//===----------------------------------------------------------------------===//
// The run
//===----------------------------------------------------------------------===//

static ModelFacts factsOf(const rt::Artifact &artifact) {
  const rt::ArtifactDescription &description = artifact.description();
  ModelFacts facts;
  facts.path = artifact.path();
  facts.vocabSize = description.info.vocabSize;
  facts.maxPositions = description.info.maxPositions;
  facts.stopTokens = description.stopTokens;
  return facts;
}

/// The session of the prompts, in the budget that is given or else the
/// artifact's.
static rt::Result<rt::SessionOptions>
planLoaded(RunOptions options, const Prompts &prompts,
           const rt::ArtifactDescription &artifact) {
  if (!options.budgetBytes && !options.bitsPerElement) {
    if (artifact.plan.bitsPerElement > 0)
      options.bitsPerElement = artifact.plan.bitsPerElement;
    else if (artifact.info.budgetBytes > 0)
      options.budgetBytes = artifact.info.budgetBytes;
  }
  allocation::Workload workload;
  workload.info = artifact.info;
  workload.session = planSession(options, prompts);
  auto budget = chooseBudget(options, workload);
  if (!budget.ok())
    return budget.status();
  workload.session.budgetBytes = budget->value_or(-1);
  return workload.session;
}

rt::Status pmkvq::run::runArtifact(const CommandLine &line) {
  rt::Result<RunOptions> options = readLoadOptions(line);
  if (!options.ok())
    return options.status();
  Progress progress;
  progress.show("loading " + line.load.text);
  auto artifact = rt::Artifact::open(line.load);
  if (!artifact.ok())
    return artifact.status();
  const rt::ArtifactDescription &description = (*artifact)->description();
  if (rt::Status s = checkDecisions(line, description); !s.ok())
    return s;
  ModelFacts facts = factsOf(**artifact);
  TextServer text(line.load, (*artifact)->hasTokenizer());
  rt::Result<Prompts> prompts = readPrompts(*options, facts, text);
  if (!prompts.ok())
    return prompts.status();
  rt::Result<rt::SessionOptions> plan =
      planLoaded(*options, *prompts, description);
  if (!plan.ok())
    return plan.status();
  rt::Result<rt::Program> program = rt::loadProgram(*artifact);
  if (!program.ok())
    return program.status();
  auto session = rt::Session::open(std::move(*program), std::move(*plan));
  if (!session.ok())
    return session.status();
  return generateAndPrint(facts, *prompts, *options, **session, text, progress);
}
