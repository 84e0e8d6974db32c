//===- CachePlan.cpp - Formats, levels and bytes of a run -----------------===//
//
// Neighbours: CachePlan.h.
//
//===----------------------------------------------------------------------===//

#include "CachePlan.h"
#include "mlir/AsmParser/AsmParser.h"
#include "mlir/IR/Diagnostics.h"
#include "pmkvq/IR/HeadDims.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq/Import/ImportModel.h"
#include "pmkvq/Target/HostProgram.h"

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using mlir::pmkvq::CacheType;
using mlir::pmkvq::FormatAttr;
using mlir::pmkvq::LayerCalibration;
using mlir::pmkvq::ModelConfig;
using mlir::pmkvq::PlanOptions;

Error pmkvq::run::toError(const rt::Status &status) {
  return llvm::createStringError(status.message());
}

/// `format` with the rotation that it has unless `text` says one.
static FormatAttr withDefaultRotation(FormatAttr format, StringRef text) {
  if (text.contains("hadamard") || text.contains("plain"))
    return format;
  return FormatAttr::get(format.getName(), format.getModel().rotatesByDefault(),
                         format.getClip(), format.getGroup());
}

/// The format that `text` stands for; `text` becomes its full form.
static Expected<FormatAttr> readFormat(StringRef option, std::string &text,
                                       mlir::MLIRContext &context) {
  std::string message;
  mlir::ScopedDiagnosticHandler handler(&context,
                                        [&](mlir::Diagnostic &diagnostic) {
                                          if (message.empty())
                                            message = diagnostic.str();
                                          return mlir::success();
                                        });
  auto attribute = mlir::parseAttribute("#pmkvq.format" + text, &context);
  if (auto format = llvm::dyn_cast_or_null<FormatAttr>(attribute)) {
    format = withDefaultRotation(format, text);
    std::string full;
    llvm::raw_string_ostream(full) << format;
    text = full.substr(full.find('<'));
    return format;
  }
  // Constraints are numbered for readers of the IR.
  StringRef reason = message;
  if (reason.starts_with("("))
    reason = reason.substr(reason.find(')') + 1).ltrim();
  return llvm::createStringError("--" + option + ": " + reason);
}

/// The type of the planned caches.
static Expected<CacheType> makeCacheType(PlanOptions &plan,
                                         const ModelConfig &config,
                                         mlir::MLIRContext &context) {
  context.loadDialect<mlir::pmkvq::PMKVQDialect>();
  Expected<FormatAttr> key = readFormat("key-format", plan.keyFormat, context);
  if (!key)
    return key.takeError();
  Expected<FormatAttr> value =
      readFormat("value-format", plan.valueFormat, context);
  if (!value)
    return value.takeError();
  llvm::SmallVector<int64_t> ladder(rt::kLadder.begin(), rt::kLadder.end());
  return CacheType::get(&context, config.kvHeads, config.headDim, *key, *value,
                        ladder, mlir::pmkvq::kImportedSink);
}

/// What the program will say of itself, before there is one.
static rt::ProgramInfo describe(const PlanOptions &plan,
                                const ModelConfig &config, CacheType cache) {
  rt::ProgramInfo info = {};
  info.abiVersion = rt::kAbiVersion;
  info.layers = static_cast<int32_t>(config.layers);
  info.kvHeads = static_cast<int32_t>(config.kvHeads);
  info.queryHeads = static_cast<int32_t>(config.heads);
  info.headDim = static_cast<int32_t>(config.headDim);
  info.sinkTokens = static_cast<int32_t>(cache.getSink());
  info.vocabSize = static_cast<int32_t>(config.vocabSize);
  info.maxPositions = static_cast<int32_t>(config.maxPositions);
  for (mlir::pmkvq::Part part :
       {mlir::pmkvq::Part::Key, mlir::pmkvq::Part::Value})
    info.parameterBytes[static_cast<int>(part)] =
        static_cast<int32_t>(cache.getParameterBytes(part));
  // Options.cpp lets no other name through.
  info.schedule = cache.getContext()
                      ->getLoadedDialect<mlir::pmkvq::PMKVQDialect>()
                      ->lookupSchedule(plan.schedule)
                      ->kind;
  info.floor[rt::kKey] = static_cast<int32_t>(plan.keyFloor);
  info.floor[rt::kValue] = static_cast<int32_t>(plan.valueFloor);
  return info;
}

/// Floors of all layers before any are allocated; `kept` become the layers that
/// the user has given some.
static Expected<allocation::Levels> givenLevels(const Options &options,
                                                const ModelConfig &config,
                                                std::vector<int64_t> &kept) {
  allocation::Levels levels(config.layers,
                            {static_cast<int32_t>(options.keyFloor),
                             static_cast<int32_t>(options.valueFloor)});
  for (const std::string &text : options.layerFloors) {
    auto floors = allocation::parseLayerFloors(text);
    if (!floors.ok())
      return toError(floors.status());
    if (floors->last >= config.layers)
      return llvm::createStringError("--layer-floors: expected layers 0 to " +
                                     llvm::Twine(config.layers - 1) +
                                     ", got '" + text + "'");
    for (int32_t layer = floors->first; layer <= floors->last; ++layer) {
      levels[layer] = floors->floor;
      kept.push_back(layer);
    }
  }
  return levels;
}

/// What each layer may be at, from its given floors up, and loses there; none
/// where that is not known.
static allocation::Choices
makeChoices(const CachePlan &plan, const ModelConfig &config, CacheType cache) {
  allocation::Choices choices;
  // The integer program knows no level of 1 bit.
  if (!config.calibration || plan.compiler.valueFloor == 1)
    return choices;
  for (auto [layer, found] : llvm::enumerate(config.calibration->layers)) {
    bool kept = llvm::is_contained(plan.compiler.keptLayers,
                                   static_cast<int64_t>(layer));
    auto &parts = choices.emplace_back();
    for (auto part : {mlir::pmkvq::Part::Key, mlir::pmkvq::Part::Value}) {
      auto i = static_cast<size_t>(part);
      parts[i].lowest = static_cast<int32_t>(cache.getFormat(part).getLastLevel(
          rt::kLadder.front(), plan.levels[layer][i]));
      parts[i].highest = kept ? parts[i].lowest : rt::kLadder.front();
      llvm::copy(found.loss[i], parts[i].loss.begin() + 1);
    }
  }
  return choices;
}

/// In what the plan's formats differ from those that were calibrated.  What
/// nearest codes lose is more than what feedback does, and no difference.
static Expected<std::string> compareFormats(const ModelConfig &config,
                                            CacheType cache,
                                            const CachePlan &plan) {
  constexpr StringRef fields[] = {"calibration: settings.key_format",
                                  "calibration: settings.value_format"};
  constexpr StringRef options[] = {"--key-format", "--value-format"};
  for (auto part : {mlir::pmkvq::Part::Key, mlir::pmkvq::Part::Value}) {
    auto i = static_cast<size_t>(part);
    std::string text = config.calibration->formats[i];
    auto found = readFormat(fields[i], text, *cache.getContext());
    if (!found)
      return found.takeError();
    FormatAttr planned = cache.getFormat(part);
    // Clips are the calibration's in either case.
    if (planned.withClip(found->getClip()) != *found)
      return ("its " + mlir::pmkvq::stringifyPart(part) + "s are " +
              config.calibration->formats[i] + ", the plan's are <" +
              planned.getName().getValue() +
              (planned.getHadamard() ? ", hadamard" : ", plain") + "> (" +
              options[i] + ")")
          .str();
  }
  if (plan.workload.info.floor[rt::kValue] == 1 &&
      config.calibration->layers.front().divergence->back().size() <
          rt::kLossLevels)
    return std::string("its values end at 2 bits, the plan's at 1 "
                       "(--value-floor)");
  const bool falls = plan.workload.info.floor[rt::kKey] < 8;
  if (config.calibration->fedBackDivergences && falls && !plan.feedback)
    return std::string("its keys fall with feedback, the plan's to the nearest "
                       "codes (--rounding, or a file without squares of "
                       "queries)");
  if (config.calibration->scaledDivergences == config.foldKeyScales)
    return std::string();
  return std::string(config.foldKeyScales
                         ? "its keys are not scaled, the plan's are "
                           "(--key-scales)"
                         : "its keys are scaled (--key-scales), the plan's "
                           "are not");
}

/// Notes the KL that calibration found, if it did, and what it is of.
static Error addDivergences(CachePlan &plan, const ModelConfig &config,
                            CacheType cache) {
  if (!config.calibration || !config.calibration->layers.front().divergence)
    return Error::success();
  for (const auto &layer : config.calibration->layers) {
    auto &parts = plan.divergences.emplace_back();
    for (int32_t part = 0; part < rt::kParts; ++part)
      llvm::copy((*layer.divergence)[part], parts[part].loss.begin() + 1);
  }
  Expected<std::string> unmeasured = compareFormats(config, cache, plan);
  if (!unmeasured)
    return unmeasured.takeError();
  plan.unmeasured = *unmeasured;
  return Error::success();
}

/// What the compiler makes of a layer's calibration (PMKVQToTile.cpp).
static rt::LayerLosses lossesOf(const LayerCalibration &layer,
                                int64_t kvHeads) {
  rt::LayerLosses losses;
  for (size_t part = 0; part < rt::kParts; ++part)
    llvm::transform(layer.loss[part], losses.level[part].begin(),
                    [](double loss) { return static_cast<float>(loss); });
  losses.setShares(layer.pageShares, kvHeads);
  return losses;
}

/// Notes what pages cost, and lets them fall by it unless another schedule is
/// asked for, or the file does not know enough.
///
/// Errors: it is asked for, and the file knows too little.
static Error chooseSchedule(CachePlan &plan, const Options &options,
                            const ModelConfig &config) {
  if (!config.calibration)
    return Error::success();
  const auto &layers = config.calibration->layers;
  const bool hasShares = !layers.front().pageShares.empty();
  if (options.schedule == "least_loss" && !hasShares)
    return llvm::createStringError(
        "--schedule=least_loss: " + options.calibrationFile +
        ": layers[0].page_shares: expected shares of pages, got none; "
        "calibrate again");
  if (options.schedule == "least_loss" && options.valueFloor == 1 &&
      layers.front().loss[rt::kValue].size() < rt::kLossLevels)
    return llvm::createStringError(
        "--schedule=least_loss: " + options.calibrationFile +
        ": layers[0].value: expected losses at 1 bit (--value-floor=1), got "
        "none; calibrate again");
  for (const LayerCalibration &layer : layers)
    plan.workload.losses.push_back(lossesOf(layer, config.kvHeads));
  if (options.schedule.empty() && config.calibration->byDivergence &&
      hasShares && plan.unmeasured.empty()) {
    plan.compiler.schedule = "least_loss";
    plan.workload.info.schedule = rt::kScheduleLeastLoss;
  }
  return Error::success();
}

/// Gives layers the floors that lose least, here and in the compiler.
static Error allocateFloors(CachePlan &plan) {
  allocation::Workload &workload = plan.workload;
  if (allocation::countPageHeads(workload) == 0)
    return Error::success(); // Windows hold all: no floor matters.
  rt::Result<int64_t> blocks = allocation::blocksForPages(workload);
  if (!blocks.ok())
    return toError(blocks.status());
  rt::Result<allocation::Levels> levels =
      allocation::allocateLevels(plan.choices, *blocks);
  if (!levels.ok())
    return toError(levels.status());
  plan.levels = *levels;
  allocation::setFloors(plan.levels, workload.info);
  plan.compiler.allocate = true;
  for (const rt::SequencePlan &sequence : workload.session.plans)
    plan.compiler.tokens.push_back(sequence.promptTokens +
                                   sequence.maxNewTokens - 1);
  return Error::success();
}

/// Values at 1 bit lie in vectors of 64 head dims, and two heads in a block.
static Error checkOneBit(const Options &options, const ModelConfig &config) {
  if (options.valueFloor != 1)
    return Error::success();
  if (!mlir::pmkvq::hasLevel1(config.headDim))
    return llvm::createStringError(
        "--value-floor=1: expected a head_dim that is a multiple of " +
        llvm::Twine(mlir::pmkvq::kLevel1HeadDim) + ", the model has " +
        llvm::Twine(config.headDim));
  if (config.layers * config.kvHeads % 2)
    return llvm::createStringError(
        "--value-floor=1: expected an even number of layers times kv heads, "
        "the model has " +
        llvm::Twine(config.layers) + " x " + llvm::Twine(config.kvHeads));
  return Error::success();
}

/// Whether keys fall with feedback.
///
/// Errors: it is asked for, and they cannot.
static Expected<bool> chooseRounding(const Options &options,
                                     const ModelConfig &config,
                                     CacheType cache) {
  const bool asked = options.rounding == "feedback";
  if (options.rounding == "nearest" || !config.calibration)
    return false;
  if (!cache.getKey().canFeedBack()) {
    if (!asked)
      return false;
    return llvm::createStringError(
        "--rounding=feedback: expected keys that are rotated and have ranges "
        "(--key-format=per_channel+hadamard)");
  }
  // All layers have squares, or none.
  bool known = !config.calibration->layers.front().querySquares.empty();
  if (asked && !known)
    return llvm::createStringError(
        "--rounding=feedback: " + options.calibrationFile +
        ": layers[0].query_squares: expected squares of queries, got none; "
        "calibrate again");
  return known;
}

Expected<CachePlan>
pmkvq::run::planCaches(const Options &options, const ModelConfig &config,
                       const std::vector<std::vector<int32_t>> &prompts,
                       mlir::MLIRContext &context) {
  if (Error error = checkOneBit(options, config))
    return error;
  CachePlan plan;
  if (!options.keyFormat.empty())
    plan.compiler.keyFormat = options.keyFormat;
  if (!options.valueFormat.empty())
    plan.compiler.valueFormat = options.valueFormat;
  if (!options.schedule.empty())
    plan.compiler.schedule = options.schedule;
  plan.compiler.keyFloor = options.keyFloor;
  plan.compiler.valueFloor = options.valueFloor;
  plan.compiler.layerFloors = options.layerFloors;
  plan.compiler.registerBytes =
      mlir::pmkvq::HostProgram::registerBytes(options.host.cpu);
  Expected<CacheType> cache = makeCacheType(plan.compiler, config, context);
  if (!cache)
    return cache.takeError();
  Expected<bool> feedback = chooseRounding(options, config, *cache);
  if (!feedback)
    return feedback.takeError();
  plan.feedback = plan.compiler.feedback = *feedback;
  auto levels = givenLevels(options, config, plan.compiler.keptLayers);
  if (!levels)
    return levels.takeError();
  plan.levels = *levels;
  plan.workload.info = describe(plan.compiler, config, *cache);
  allocation::setFloors(plan.levels, plan.workload.info);
  if (Error error = addDivergences(plan, config, *cache))
    return error;
  if (Error error = chooseSchedule(plan, options, config))
    return error;
  if (prompts.empty()) {
    plan.compiler.budgetBytes = options.budgetBytes.value_or(0);
    return plan;
  }
  rt::SessionOptions &session = plan.workload.session;
  session = planSession(options, prompts);
  plan.choices = makeChoices(plan, config, *cache);
  auto budget = chooseBudget(options, plan.workload);
  if (!budget.ok())
    return toError(budget.status());
  if (!*budget)
    return plan;
  session.budgetBytes = **budget;
  if (options.allocate)
    if (Error error = allocateFloors(plan))
      return error;
  // A program must have room for a page.  These sequences may end before one;
  // the session keeps to the budget, whatever the program's own is.
  plan.compiler.budgetBytes =
      std::max(**budget, rt::firstPageBytes(plan.workload.info));
  return plan;
}
