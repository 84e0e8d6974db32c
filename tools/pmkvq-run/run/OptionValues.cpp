//===- OptionValues.cpp - Values of options, checked ----------------------===//
//
// Neighbours: OptionValues.h.
//
//===----------------------------------------------------------------------===//

#include "run/OptionValues.h"
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <utility>

using namespace pmkvq::run;
namespace rt = ::pmkvq::rt;

rt::Status pmkvq::run::refusal(const std::string &message) {
  return {rt::StatusCode::InvalidArgument, message};
}

rt::Status pmkvq::run::optionError(const Option &option,
                                   const std::string &expected,
                                   const std::string &actual) {
  return refusal("--" + option.name + ": expected " + expected + ", got '" +
                 actual + "'");
}

rt::Result<int64_t> pmkvq::run::readCount(const StringOption &option,
                                          int64_t max) {
  std::optional<int64_t> count = parseWhole(option);
  if (!count || *count < 1 || *count > max)
    return optionError(
        option, "a whole number from 1 to " + std::to_string(max), option);
  return *count;
}

rt::Result<std::string> pmkvq::run::readChoice(const StringOption &option) {
  if (!option.given())
    return option.choices.front();
  std::string all;
  for (const std::string &choice : option.choices) {
    if (option == choice)
      return choice;
    all += (all.empty() ? "" : " or ") + choice;
  }
  return optionError(option, all, option);
}

rt::Status pmkvq::run::readNumber(const StringOption &option, double &value) {
  if (!option.given())
    return rt::Status();
  std::optional<double> number = parseNumber(option);
  if (!number)
    return optionError(option, "a number", option);
  value = *number;
  return rt::Status();
}

std::vector<std::string> pmkvq::run::splitList(const std::string &text,
                                               char mark) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t end; (end = text.find(mark, begin)) != std::string::npos;
       begin = end + 1)
    parts.push_back(text.substr(begin, end - begin));
  parts.push_back(text.substr(begin));
  return parts;
}

std::optional<int64_t> pmkvq::run::parseWhole(const std::string &text) {
  int64_t value;
  const char *end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end)
    return std::nullopt;
  return value;
}

std::optional<double> pmkvq::run::parseNumber(const std::string &text) {
  // strtod takes leading white space, and the empty text as nothing.
  if (text.empty() || std::isspace(static_cast<unsigned char>(text.front())))
    return std::nullopt;
  char *end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (end != text.c_str() + text.size() || !std::isfinite(value))
    return std::nullopt;
  return value;
}

std::optional<int64_t> pmkvq::run::parseSize(const std::string &text) {
  constexpr std::pair<const char *, int64_t> units[] = {
      {"", 1},
      {"b", 1},
      {"kb", 1000},
      {"kib", 1 << 10},
      {"mb", 1000000},
      {"mib", 1 << 20},
      {"gb", 1000000000},
      {"gib", 1 << 30},
      {"tb", 1000000000000},
      {"tib", int64_t(1) << 40}};
  size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  std::string number = text.substr(0, digits), unit;
  for (char c : text.substr(digits))
    if (!std::isspace(static_cast<unsigned char>(c)))
      unit += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const auto *found =
      std::find_if(std::begin(units), std::end(units),
                   [&](const auto &known) { return known.first == unit; });
  if (found == std::end(units))
    return std::nullopt;
  if (std::optional<int64_t> whole = parseWhole(number)) {
    int64_t bytes;
    bool fits = !__builtin_mul_overflow(*whole, found->second, &bytes);
    return fits && bytes > 0 ? std::optional(bytes) : std::nullopt;
  }
  // A part of a byte is none.
  std::optional<double> fraction = parseNumber(number);
  if (!fraction || found->second == 1)
    return std::nullopt;
  double bytes = std::floor(*fraction * static_cast<double>(found->second));
  if (!(bytes >= 1 && bytes < 0x1p62))
    return std::nullopt;
  return static_cast<int64_t>(bytes);
}

std::optional<double> pmkvq::run::parseBits(const std::string &text) {
  constexpr double maxBits = 32;
  std::optional<double> bits = parseNumber(text);
  return bits && *bits > 0 && *bits <= maxBits ? bits : std::nullopt;
}

rt::Result<FormatText> pmkvq::run::parseFormatText(const std::string &text) {
  std::vector<std::string> parts = splitList(text, '+');
  FormatText format;
  format.name = parts.front();
  bool isName =
      !format.name.empty() &&
      std::all_of(format.name.begin(), format.name.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
      });
  if (!isName)
    return refusal("expected the name of a format");
  parts.erase(parts.begin());
  for (const std::string &part : parts) {
    const std::string clip = "clip=";
    if (format.name == "paper")
      return refusal("expected paper alone: it has no options");
    if (part == "hadamard" || part == "plain") {
      if (!format.rotation.empty())
        return refusal("expected one of +hadamard and +plain");
      format.rotation = part;
    } else if (part.compare(0, clip.size(), clip) == 0 &&
               parseNumber(part.substr(clip.size()))) {
      format.clip = parseNumber(part.substr(clip.size()));
    } else if (part == "feedback") {
      format.feedback = true;
    } else {
      return refusal("expected +hadamard, +plain, +clip=F or +feedback after "
                     "the format's name");
    }
  }
  return format;
}
