//===- Output.cpp - What pmkvq-run prints ---------------------------------===//
//
// Neighbours: Output.h.
//
//===----------------------------------------------------------------------===//

#include "run/Output.h"
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <unistd.h>

using namespace pmkvq::run;
using namespace pmkvq;
using nlohmann::ordered_json;

//===----------------------------------------------------------------------===//
// Progress
//===----------------------------------------------------------------------===//

Progress::Progress() : isTerminal(isatty(STDERR_FILENO)) {}

void Progress::show(const std::string &text) {
  if (!isTerminal)
    return;
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
  isShown = true;
  last = std::chrono::steady_clock::now();
}

void Progress::update(const std::string &text) {
  constexpr std::chrono::milliseconds interval(100);
  if (std::chrono::steady_clock::now() - last >= interval)
    show(text);
}

void Progress::clear() {
  if (isShown)
    std::fputs("\r\033[K", stderr);
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

/// Levels that a part may have at all, or does have.
static bool isListed(const rt::LevelCounts &counts, int32_t bits) {
  return bits >= rt::kLadder.back() || counts[rt::ladderIndex(bits)];
}

static ordered_json toJson(const rt::LevelCounts &counts) {
  ordered_json object;
  for (int32_t bits : rt::kValueLadder)
    if (isListed(counts, bits))
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
  for (int32_t bits : rt::kValueLadder)
    if (isListed(counts, bits))
      text += (text.empty() ? "" : "  ") + std::to_string(bits) + ": " +
              std::to_string(counts[rt::ladderIndex(bits)]);
  return text;
}

std::string pmkvq::run::withCommas(int64_t value) {
  std::string text = std::to_string(value);
  for (size_t end = text.size(); end > size_t(3 + (value < 0)); end -= 3)
    text.insert(end - 3, ",");
  return text;
}

static std::string kibText(int64_t bytes) {
  return withCommas(bytes / 1024) + " KiB";
}

static void printSummary(const rt::Session &session, const Timing &timing,
                         const std::optional<CheckedText> &checked) {
  rt::CacheBytes bytes = session.bytes();
  std::fprintf(stderr,
               "tokens  %lld in, %lld out; %.1f a second, prefill %.1f\n",
               static_cast<long long>(timing.promptTokens),
               static_cast<long long>(timing.newTokens),
               timing.tokensPerSecond(), timing.prefillTokensPerSecond());
  std::string lines =
      "cache   " + kibText(bytes.peak) +
      (bytes.budget ? " of " + kibText(bytes.budget) : ", without a budget") +
      "; bf16 would take " + kibText(bytes.bf16Equivalent) + "\npages   keys " +
      levelsText(totalLevels(session, rt::kKey)) + "; values " +
      levelsText(totalLevels(session, rt::kValue)) + "\n";
  if (checked)
    lines += checked->line + "\n";
  std::fputs(lines.c_str(), stderr);
}

//===----------------------------------------------------------------------===//
// stdout
//===----------------------------------------------------------------------===//

rt::Status pmkvq::run::printOut(const std::string &text) {
  bool ok = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
            std::fflush(stdout) == 0;
  return ok ? rt::Status()
            : rt::Status(rt::StatusCode::FailedPrecondition,
                         "stdout: cannot write");
}

//===----------------------------------------------------------------------===//
// Printer
//===----------------------------------------------------------------------===//

Printer::Printer(RunOptions::Output form, int32_t sequences, TextServer &text)
    : form(form), sequences(sequences), text(text) {}

void Printer::prepare() {
  if (form != RunOptions::Output::Text || !text.hasTokenizer())
    return;
  rt::Result<std::string> nothing = text.stream(0, {}, /*end=*/false);
  asText = nothing.ok();
  if (!asText)
    std::fprintf(stderr, "pmkvq-run: note: token ids instead of text: %s\n",
                 nothing.status().message().c_str());
}

rt::Status Printer::token(const rt::TokenEvent &event) {
  // Several texts at once cannot be told apart while they grow.
  if (form != RunOptions::Output::Text || sequences != 1)
    return rt::Status();
  if (!asText)
    return printOut((event.index ? " " : "") + std::to_string(event.token));
  rt::Result<std::string> added =
      text.stream(event.sequence, {event.token}, /*end=*/false);
  return added.ok() ? printOut(*added) : added.status();
}

static std::string joinIds(const std::vector<int32_t> &tokens) {
  std::string line;
  for (int32_t token : tokens)
    line += (line.empty() ? "" : " ") + std::to_string(token);
  return line;
}

rt::Status Printer::printTexts(const std::vector<rt::Generated> &results) {
  if (sequences == 1) {
    std::string rest = "\n";
    if (asText) {
      rt::Result<std::string> held = text.stream(0, {}, /*end=*/true);
      if (!held.ok())
        return held.status();
      rest = *held + rest;
    }
    return printOut(rest);
  }
  for (size_t i = 0; i < results.size(); ++i) {
    std::string line = joinIds(results[i].tokens);
    if (asText) {
      rt::Result<std::string> whole =
          text.stream(static_cast<int32_t>(i), results[i].tokens, /*end=*/true);
      if (!whole.ok())
        return whole.status();
      line = *whole;
    }
    if (rt::Status s = printOut("[" + std::to_string(i) + "] " + line + "\n");
        !s.ok())
      return s;
  }
  return rt::Status();
}

rt::Status Printer::printJsonLines(const std::vector<rt::Generated> &results,
                                   const rt::Session &session,
                                   const Timing &timing,
                                   const std::optional<CheckedText> &checked) {
  std::string lines;
  for (size_t i = 0; i < results.size(); ++i)
    lines +=
        ordered_json({{"index", i}, {"tokens", results[i].tokens}}).dump() +
        "\n";
  ordered_json summary;
  summary["summary"] = summaryJson(session, timing);
  if (checked)
    summary["summary"]["check"] = ordered_json::parse(checked->json);
  return printOut(lines + summary.dump() + "\n");
}

rt::Status Printer::finish(const std::vector<rt::Generated> &results,
                           const rt::Session &session, const Timing &timing,
                           const std::optional<CheckedText> &checked) {
  if (form == RunOptions::Output::JsonLines)
    return printJsonLines(results, session, timing, checked);
  if (rt::Status s = printTexts(results); !s.ok())
    return s;
  printSummary(session, timing, checked);
  return rt::Status();
}
