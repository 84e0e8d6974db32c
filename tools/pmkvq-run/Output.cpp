//===- Output.cpp - What pmkvq-run prints ---------------------------------===//
//
// Neighbours: Output.h.
//
//===----------------------------------------------------------------------===//

#include "Output.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FormatVariadic.h"
#include "llvm/Support/raw_ostream.h"
#include <cstdio>
#include <nlohmann/json.hpp>
#include <unistd.h>

using namespace pmkvq::run;
using namespace pmkvq;
using llvm::Error;
using llvm::Expected;
using llvm::StringRef;
using llvm::Twine;
using nlohmann::ordered_json;

//===----------------------------------------------------------------------===//
// Progress
//===----------------------------------------------------------------------===//

Progress::Progress() : isTerminal(isatty(STDERR_FILENO)) {}

void Progress::show(const Twine &text) {
  if (!isTerminal)
    return;
  llvm::errs() << "\r\033[K" << text;
  isShown = true;
  last = std::chrono::steady_clock::now();
}

void Progress::update(const Twine &text) {
  constexpr std::chrono::milliseconds interval(100);
  if (std::chrono::steady_clock::now() - last >= interval)
    show(text);
}

void Progress::clear() {
  if (isShown)
    llvm::errs() << "\r\033[K";
  isShown = false;
}

//===----------------------------------------------------------------------===//
// Timing
//===----------------------------------------------------------------------===//

static double rate(int64_t tokens, double seconds) {
  return static_cast<double>(tokens) / std::max(seconds, 1e-9);
}

double Timing::prefillTokensPerSecond() const {
  return rate(promptTokens, prefillSeconds);
}

double Timing::tokensPerSecond() const {
  int64_t decoded = newTokens - sequences;
  return decoded > 0 ? rate(decoded, decodeSeconds)
                     : rate(newTokens, prefillSeconds + decodeSeconds);
}

//===----------------------------------------------------------------------===//
// Summary
//===----------------------------------------------------------------------===//

static ordered_json toJson(const rt::LevelCounts &counts) {
  ordered_json object;
  for (int32_t bits : rt::kLadder)
    object[std::to_string(bits)] = counts[rt::ladderIndex(bits)];
  return object;
}

static rt::LevelCounts totalLevels(const rt::Session &session, rt::Part part) {
  rt::LevelCounts total = {};
  for (int32_t layer = 0; layer < session.program().info.layers; ++layer) {
    rt::LevelCounts counts = session.levels(layer, part);
    for (size_t i = 0; i < counts.size(); ++i)
      total[i] += counts[i];
  }
  return total;
}

static ordered_json levelsJson(const rt::Session &session) {
  ordered_json levels = {{"key", toJson(totalLevels(session, rt::kKey))},
                         {"value", toJson(totalLevels(session, rt::kValue))},
                         {"layers", ordered_json::array()}};
  for (int32_t layer = 0; layer < session.program().info.layers; ++layer)
    levels["layers"].push_back(
        {{"key", toJson(session.levels(layer, rt::kKey))},
         {"value", toJson(session.levels(layer, rt::kValue))}});
  return levels;
}

static ordered_json checkJson(const check::Report &report) {
  return {{"steps", report.steps},
          {"outputs", report.outputs},
          {"largest", report.largest},
          {"rms", report.rms},
          {"worst",
           {{"step", report.worst.step},
            {"sequence", report.worst.sequence},
            {"position", report.worst.position},
            {"layer", report.worst.layer},
            {"head", report.worst.head}}}};
}

static ordered_json summaryJson(const rt::Session &session,
                                const Timing &timing) {
  rt::CacheBytes bytes = session.bytes();
  return {{"tokens_per_second", timing.tokensPerSecond()},
          {"prefill_tokens_per_second", timing.prefillTokensPerSecond()},
          {"kv_bytes_peak", bytes.peak},
          {"kv_budget_bytes",
           bytes.budget ? ordered_json(bytes.budget) : ordered_json()},
          {"kv_bytes_bf16", bytes.bf16Equivalent},
          {"levels", levelsJson(session)}};
}

/// "16: 0  8: 3  4: 9  2: 0".
static std::string levelsText(const rt::LevelCounts &counts) {
  std::string text;
  for (int32_t bits : rt::kLadder)
    text += (text.empty() ? "" : "  ") + std::to_string(bits) + ": " +
            std::to_string(counts[rt::ladderIndex(bits)]);
  return text;
}

static std::string kibText(int64_t bytes) {
  return llvm::formatv("{0:N} KiB", bytes / 1024);
}

static void printSummary(const rt::Session &session, const Timing &timing,
                         const std::optional<check::Report> &checked) {
  rt::CacheBytes bytes = session.bytes();
  llvm::errs() << llvm::formatv(
      "tokens  {0} in, {1} out; {2:F1} a second, prefill {3:F1}\n",
      timing.promptTokens, timing.newTokens, timing.tokensPerSecond(),
      timing.prefillTokensPerSecond());
  llvm::errs() << "cache   " << kibText(bytes.peak)
               << (bytes.budget ? " of " + kibText(bytes.budget)
                                : ", without a budget")
               << "; bf16 would take " << kibText(bytes.bf16Equivalent) << "\n";
  llvm::errs() << "pages   keys " << levelsText(totalLevels(session, rt::kKey))
               << "; values " << levelsText(totalLevels(session, rt::kValue))
               << "\n";
  if (checked)
    llvm::errs() << llvm::formatv("check   {0:N} outputs of {1:N} steps; "
                                  "relative errors: {2}\n",
                                  checked->outputs, checked->steps,
                                  checked->text());
}

//===----------------------------------------------------------------------===//
// stdout
//===----------------------------------------------------------------------===//

Error pmkvq::run::printOut(StringRef text) {
  // Not llvm::outs(), which ends the process when the reader is gone.
  bool ok = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
            std::fflush(stdout) == 0;
  return ok ? Error::success()
            : llvm::createStringError("stdout: cannot write");
}

//===----------------------------------------------------------------------===//
// Printer
//===----------------------------------------------------------------------===//

Printer::Printer(Options::Output form, int32_t sequences, TextServer &text)
    : form(form), sequences(sequences), text(text) {}

void Printer::prepare() {
  if (form != Options::Output::Text || !text.hasTokenizer())
    return;
  Expected<std::string> nothing = text.stream(0, {}, /*end=*/false);
  asText = static_cast<bool>(nothing);
  if (!asText)
    llvm::errs() << "pmkvq-run: note: token ids instead of text: "
                 << llvm::toString(nothing.takeError()) << "\n";
}

Error Printer::token(const rt::TokenEvent &event) {
  // Several texts at once cannot be told apart while they grow.
  if (form != Options::Output::Text || sequences != 1)
    return Error::success();
  if (!asText)
    return printOut((event.index ? " " : "") + std::to_string(event.token));
  Expected<std::string> added =
      text.stream(event.sequence, event.token, /*end=*/false);
  return added ? printOut(*added) : added.takeError();
}

static std::string joinIds(llvm::ArrayRef<int32_t> tokens) {
  std::string line;
  llvm::raw_string_ostream os(line);
  llvm::interleave(tokens, os, " ");
  return line;
}

Error Printer::printTexts(const std::vector<rt::Generated> &results) {
  if (sequences == 1) {
    std::string rest = "\n";
    if (asText) {
      Expected<std::string> held = text.stream(0, {}, /*end=*/true);
      if (!held)
        return held.takeError();
      rest = *held + rest;
    }
    return printOut(rest);
  }
  for (size_t i = 0; i < results.size(); ++i) {
    std::string line = joinIds(results[i].tokens);
    if (asText) {
      Expected<std::string> whole =
          text.stream(static_cast<int32_t>(i), results[i].tokens, /*end=*/true);
      if (!whole)
        return whole.takeError();
      line = *whole;
    }
    if (Error error = printOut("[" + std::to_string(i) + "] " + line + "\n"))
      return error;
  }
  return Error::success();
}

Error Printer::printJsonLines(const std::vector<rt::Generated> &results,
                              const rt::Session &session, const Timing &timing,
                              const std::optional<check::Report> &checked) {
  std::string lines;
  for (size_t i = 0; i < results.size(); ++i)
    lines +=
        ordered_json({{"index", i}, {"tokens", results[i].tokens}}).dump() +
        "\n";
  ordered_json summary;
  summary["summary"] = summaryJson(session, timing);
  if (checked)
    summary["summary"]["check"] = checkJson(*checked);
  return printOut(lines + summary.dump() + "\n");
}

Error Printer::finish(const std::vector<rt::Generated> &results,
                      const rt::Session &session, const Timing &timing,
                      const std::optional<check::Report> &checked) {
  if (form == Options::Output::JsonLines)
    return printJsonLines(results, session, timing, checked);
  if (Error error = printTexts(results))
    return error;
  printSummary(session, timing, checked);
  return Error::success();
}
