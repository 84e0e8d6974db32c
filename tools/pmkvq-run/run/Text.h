//===- Text.h - Text in and out of token ids --------------------*- C++ -*-===//
//
// The model's tokenizer, in a Python child.  Neighbours: Child.h;
// python/pmkvq/text.py is the other end.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_TEXT_H
#define PMKVQ_TOOLS_RUN_RUN_TEXT_H

#include "run/Child.h"
#include <cstdint>
#include <optional>

namespace pmkvq::run {

/// Starts `python -m ARGUMENTS` with the modules of pmkvq.
///
/// Errors: as Child::start.
rt::Result<Child> startPython(std::vector<std::string> arguments);

/// Why a Python child failed, in its own words if it has any.
std::string pythonFailure(const std::string &module, const Child &child,
                          int code);

/// A tokenizer; its process starts with the first use.
class TextServer {
public:
  /// `place` is a model's folder or an artifact.
  TextServer(std::string place, bool hasTokenizer)
      : place(std::move(place)), exists(hasTokenizer) {}

  /// Whether the place has a tokenizer.
  bool hasTokenizer() const { return exists; }

  /// A text as the user's turn in the model's chat template, or as it is if
  /// the model has none.
  rt::Result<std::vector<int64_t>> encode(const std::string &text);

  /// What `tokens` add to the text of a sequence; at its end also what was
  /// held back for an incomplete character.
  rt::Result<std::string> stream(int32_t sequence,
                                 const std::vector<int32_t> &tokens, bool end);

  /// Starts the process if it does not run.
  rt::Status start();

private:
  rt::Result<std::string> ask(const std::string &request);

  std::string place;
  bool exists;
  std::optional<Child> child;
};

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_TEXT_H
