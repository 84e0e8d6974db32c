//===- OptionValues.h - Values of options, checked --------------*- C++ -*-===//
//
// What all who read options share.  Neighbours: CommandLine.h (the options),
// RunOptions.h and Options.h (what becomes of them).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TOOLS_RUN_RUN_OPTIONVALUES_H
#define PMKVQ_TOOLS_RUN_RUN_OPTIONVALUES_H

#include "run/CommandLine.h"
#include <cstdint>
#include <optional>

namespace pmkvq::run {

/// A refusal in one line.
rt::Status refusal(const std::string &message);

/// "--name: expected THIS, got 'THAT'".
rt::Status optionError(const Option &option, const std::string &expected,
                       const std::string &actual);

rt::Result<int64_t> readCount(const StringOption &option, int64_t max);

/// The option's value if it is one of its choices; the first by default.
rt::Result<std::string> readChoice(const StringOption &option);

/// Sets `value` to the option's number, if it is given.
rt::Status readNumber(const StringOption &option, double &value);

/// The parts of a comma list.
std::vector<std::string> splitList(const std::string &text, char mark = ',');

/// All of `text` as a number; none if it is not one, or does not fit.
std::optional<int64_t> parseWhole(const std::string &text);
std::optional<double> parseNumber(const std::string &text);

/// "512MiB" as bytes; none if `text` is not a size of at least one byte.
std::optional<int64_t> parseSize(const std::string &text);

/// A number of bits, as --kv-bits has it; none if `text` is not one.
std::optional<double> parseBits(const std::string &text);

/// A format as the user writes it: "per_token+plain+clip=0.8".
struct FormatText {
  std::string name;
  /// "hadamard" or "plain"; empty: the format's own choice.
  std::string rotation;
  std::optional<double> clip;
  /// Whether keys fall with feedback.
  bool feedback = false;
};

/// Errors: what was expected; that the format exists is not checked.
rt::Result<FormatText> parseFormatText(const std::string &text);

} // namespace pmkvq::run

#endif // PMKVQ_TOOLS_RUN_RUN_OPTIONVALUES_H
