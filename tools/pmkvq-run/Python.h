//===- Python.h - The tool's Python children --------------------*- C++ -*-===//
//
// Text through the model's tokenizer, and GGUF files through the converter.
// Neighbours: Child.h; python/pmkvq/text.py and gguf_import.py are the other
// ends.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_PYTHON_H
#define PMKVQ_TOOLS_RUN_PYTHON_H

#include "Child.h"
#include <cstdint>
#include <optional>

namespace pmkvq::run {

/// The folder of a model: `model` itself, or what its GGUF file was converted
/// to, now or earlier.
///
/// Errors: `model` does not exist; the converter's message.
llvm::Expected<std::string> findModelFolder(llvm::StringRef model);

/// The tokenizer of a model's folder; its process starts with the first use.
class TextServer {
public:
  explicit TextServer(std::string folder) : folder(std::move(folder)) {}

  /// Whether the folder has a tokenizer.
  bool hasTokenizer() const;

  /// A text as the user's turn in the model's chat template, or as it is if
  /// the model has none.
  llvm::Expected<std::vector<int64_t>> encode(llvm::StringRef text);

  /// What `tokens` add to the text of a sequence; at its end also what was
  /// held back for an incomplete character.
  llvm::Expected<std::string> stream(int32_t sequence,
                                     llvm::ArrayRef<int32_t> tokens, bool end);

  /// Starts the process if it does not run.
  llvm::Error start();

private:
  llvm::Expected<std::string> ask(llvm::StringRef request);

  std::string folder;
  std::optional<Child> child;
};

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_PYTHON_H
