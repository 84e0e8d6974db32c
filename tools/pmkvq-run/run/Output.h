//===- Output.h - What pmkvq-run prints -------------------------*- C++ -*-===//
//
// Tokens or text on stdout, progress and the summary on stderr.  Neighbours:
// Generate.cpp (who has something to print), Text.h.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_OUTPUT_H
#define PMKVQ_TOOLS_RUN_RUN_OUTPUT_H

#include "pmkvq_rt/Session.h"
#include "run/RunOptions.h"
#include "run/Text.h"
#include <chrono>

namespace pmkvq::run {

/// One line on stderr that says what takes so long; only if stderr is a
/// terminal.  The destructor wipes it off.
class Progress {
public:
  Progress();
  ~Progress() { clear(); }
  Progress(const Progress &) = delete;
  Progress &operator=(const Progress &) = delete;

  void show(const std::string &text);
  /// The same, but at most ten times a second.
  void update(const std::string &text);
  void clear();

private:
  bool isTerminal;
  bool isShown = false;
  std::chrono::steady_clock::time_point last;
};

/// Writes to stdout at once.
///
/// Errors: nobody reads it, or the disk is full.
rt::Status printOut(const std::string &text);

/// "12,345".
std::string withCommas(int64_t value);

/// What --check has found.
struct CheckedText {
  /// A JSON object, and a line for people.
  std::string json;
  std::string line;
};

/// What a run has taken.
struct Timing {
  double prefillSeconds = 0;
  double decodeSeconds = 0;
  int64_t promptTokens = 0;
  int64_t newTokens = 0;
  int64_t sequences = 0;

  double prefillTokensPerSecond() const;
  /// The first token of each sequence comes out of the prefill; only if there
  /// are no others does it count.
  double tokensPerSecond() const;
};

/// Prints generated tokens, as they come or at the end.
class Printer {
public:
  Printer(RunOptions::Output form, int32_t sequences, TextServer &text);

  /// Finds out whether there can be text; to be called before the first token.
  void prepare();

  /// Takes one token.
  ///
  /// Errors: stdout is closed; the tokenizer fails.
  rt::Status token(const rt::TokenEvent &event);

  /// Prints whatever has not been printed, and the summary, with what --check
  /// has found.
  rt::Status finish(const std::vector<rt::Generated> &results,
                    const rt::Session &session, const Timing &timing,
                    const std::optional<CheckedText> &checked);

private:
  rt::Status printJsonLines(const std::vector<rt::Generated> &results,
                            const rt::Session &session, const Timing &timing,
                            const std::optional<CheckedText> &checked);
  rt::Status printTexts(const std::vector<rt::Generated> &results);

  RunOptions::Output form;
  int32_t sequences;
  TextServer &text;
  /// Text rather than token ids.
  bool asText = false;
};

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_OUTPUT_H
