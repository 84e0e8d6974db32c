//===- Generate.cpp - Prompts in, tokens out ------------------------------===//
//
// Neighbours: Generate.h.
//
//===----------------------------------------------------------------------===//

#include "run/Generate.h"
#include "run/Logits.h"

using namespace pmkvq;
using namespace pmkvq::run;

static double secondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
      .count();
}

static rt::Status prefill(rt::Session &session, const RunOptions &options,
                          int64_t vocab, const Prompts &prompts,
                          Progress &progress, Timing &timing) {
  std::vector<rt::Prompt> batch;
  for (const std::vector<int32_t> &prompt : prompts) {
    timing.promptTokens += static_cast<int64_t>(prompt.size());
    batch.push_back({static_cast<int32_t>(batch.size()), prompt});
  }
  timing.sequences = static_cast<int64_t>(batch.size());
  auto show = [&](int64_t done, int64_t total) {
    progress.update("reading the prompt: " + std::to_string(done) + " of " +
                    std::to_string(total) + " tokens");
  };
  auto begin = std::chrono::steady_clock::now();
  rt::Status status =
      options.logitsFile.empty()
          ? session.prefill(batch, show)
          : writeLogits(session, prompts, vocab, options.logitsFile, show);
  timing.prefillSeconds = secondsSince(begin);
  return status;
}

static rt::Result<std::vector<rt::Generated>>
decode(rt::Session &session, const RunOptions &options,
       const std::vector<int32_t> &stopTokens, Printer &printer,
       Progress &progress, Timing &timing) {
  std::vector<rt::DecodeRequest> requests;
  for (int32_t i = 0; i < session.maxSequences(); ++i)
    requests.push_back({i, options.maxTokens});
  rt::Status printing;
  bool streams =
      options.output == RunOptions::Output::Text && session.maxSequences() == 1;
  rt::DecodeOptions decodeOptions;
  static_cast<rt::SamplingOptions &>(decodeOptions) = options.sampling;
  decodeOptions.stopTokens = stopTokens;
  decodeOptions.onToken = [&](const rt::TokenEvent &event) {
    ++timing.newTokens;
    if (streams)
      progress.clear();
    else
      progress.update("generating: " + std::to_string(timing.newTokens) +
                      " tokens");
    printing = printer.token(event);
    return printing.ok();
  };
  auto begin = std::chrono::steady_clock::now();
  rt::Result<std::vector<rt::Generated>> results =
      session.decode(requests, decodeOptions);
  timing.decodeSeconds = secondsSince(begin);
  if (!printing.ok())
    return printing;
  return results;
}

rt::Status
pmkvq::run::generateAndPrint(const ModelFacts &model, const Prompts &prompts,
                             const RunOptions &options, rt::Session &session,
                             TextServer &text, Progress &progress,
                             const std::function<CheckedText()> &checked) {
  Timing timing;
  rt::Status status =
      prefill(session, options, model.vocabSize, prompts, progress, timing);
  if (!status.ok())
    return status;
  Printer printer(options.output, session.maxSequences(), text);
  progress.clear();
  printer.prepare();
  auto results =
      decode(session, options, model.stopTokens, printer, progress, timing);
  progress.clear();
  if (!results.ok())
    return results.status();
  std::optional<CheckedText> found;
  if (checked)
    found = checked();
  return printer.finish(*results, session, timing, found);
}
