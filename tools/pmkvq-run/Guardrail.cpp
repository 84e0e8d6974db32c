//===- Guardrail.cpp - Plans that lose too much ---------------------------===//
//
// Neighbours: Guardrail.h.
//
//===----------------------------------------------------------------------===//

#include "Guardrail.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/Support/Format.h"
#include "llvm/Support/raw_ostream.h"
#include <algorithm>

using namespace pmkvq;
using namespace pmkvq::run;
using llvm::Error;
using llvm::Expected;

std::string pmkvq::run::formatLoss(double loss) {
  std::string text;
  llvm::raw_string_ostream(text) << llvm::format("%.3g", loss);
  return text;
}

std::string PredictedLoss::worst() const {
  constexpr size_t most = 3;
  constexpr const char *names[rt::kParts] = {" keys ", " values "};
  std::vector<std::pair<size_t, int32_t>> places;
  for (size_t layer = 0; layer < parts.size(); ++layer)
    for (int32_t part = 0; part < rt::kParts; ++part)
      places.emplace_back(layer, part);
  llvm::sort(places, [&](auto a, auto b) {
    double first = parts[a.first][a.second], second = parts[b.first][b.second];
    return first != second ? first > second : a < b;
  });
  places.resize(std::min(places.size(), most));
  std::string text;
  for (auto [layer, part] : places)
    text += (text.empty() ? "layer " : ", layer ") + std::to_string(layer) +
            names[part] + formatLoss(parts[layer][part]);
  return text;
}

/// Whether a page may be below 16 bits.
static bool lowers(const CachePlan &plan) {
  return llvm::any_of(plan.levels, [](const auto &layer) {
    return llvm::any_of(
        layer, [](int32_t bits) { return bits < rt::kLadder.front(); });
  });
}

Expected<std::optional<PredictedLoss>>
pmkvq::run::predictLoss(const CachePlan &plan, const Options &options) {
  if (plan.divergences.empty() || plan.workload.session.plans.empty())
    return std::nullopt;
  PredictedLoss loss;
  loss.parts.resize(plan.divergences.size());
  if (!lowers(plan) || allocation::countPageHeads(plan.workload) == 0)
    return loss;
  if (!plan.unmeasured.empty())
    return llvm::createStringError(
        options.calibrationFile + " does not say what this plan loses: " +
        plan.unmeasured + "; calibrate so, or --accept-loss");
  rt::Result<allocation::Plan> run = allocation::makePlan(plan.workload);
  if (!run.ok())
    return toError(run.status());
  loss.parts = allocation::weighLosses(plan.divergences, run->weights);
  for (const auto &layer : loss.parts)
    for (double part : layer)
      loss.sum += part;
  return loss;
}

Error pmkvq::run::checkLoss(const CachePlan &plan, const Options &options) {
  if (options.acceptLoss)
    return Error::success();
  auto loss = predictLoss(plan, options);
  if (!loss)
    return loss.takeError();
  if (!*loss && options.maxLoss)
    return llvm::createStringError(
        "--max-loss: " + options.calibrationFile +
        " has no divergences to predict a loss from; calibrate with "
        "--kl-samples");
  double limit = options.maxLoss.value_or(kMaxLoss);
  if (!*loss || (*loss)->sum <= limit)
    return Error::success();
  return llvm::createStringError(
      "this plan is predicted to lose " + formatLoss((*loss)->sum) +
      " nats of KL a token at its end, more than " + formatLoss(limit) +
      " (--max-loss), by " + options.calibrationFile + ": " + (*loss)->worst() +
      "; give a larger budget, higher floors or other formats, or "
      "--accept-loss");
}
