//===- Shape.cpp - What a benchmark of attention measures -----------------===//
//
// Neighbours: Shape.h has the syntax.
//
//===----------------------------------------------------------------------===//

#include "Shape.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <random>

using namespace pmkvq;
using namespace pmkvq::bench;
namespace rt = ::pmkvq::rt;
using rt::Result;
using rt::Status;
using rt::StatusCode;

/// Tokens of one sequence at most: far beyond any model, and all sums fit.
static constexpr int64_t kMaxTokens = int64_t(1) << 26;

static Status expected(const std::string &what, const std::string &actual) {
  return {StatusCode::InvalidArgument,
          "expected " + what + ", got '" + actual + "'"};
}

/// A whole number that is all of `text`.
static bool readNumber(std::string_view text, int64_t &number) {
  auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

/// Takes `prefix` off the front.
static bool consume(std::string_view &text, std::string_view prefix) {
  if (text.substr(0, prefix.size()) != prefix)
    return false;
  text.remove_prefix(prefix.size());
  return true;
}

//===----------------------------------------------------------------------===//
// Lengths
//===----------------------------------------------------------------------===//

/// Sink, whole pages, and a window of at least one token.
static Length cutSequence(int64_t tokens) {
  int64_t pages =
      std::max<int64_t>(0, (tokens - kSinkTokens - 1) / rt::kPageTokens);
  return {pages, tokens - pages * rt::kPageTokens};
}

/// The same before `rows` query tokens, which a session appends to one window:
/// a page is flushed before them, not between them.
static Length cutBefore(int64_t tokens, int64_t rows) {
  return {tokens / rt::kPageTokens, tokens % rt::kPageTokens + rows};
}

/// Tokens of a sink and a full window.
static constexpr int64_t kMostFixed = kSinkTokens + rt::kPageTokens;

/// Takes "+4" off the end: several query tokens.
static bool readRows(std::string_view &text, int64_t &rows) {
  size_t plus = text.find('+');
  if (plus == text.npos)
    return true;
  bool isNumber = readNumber(text.substr(plus + 1), rows);
  text = text.substr(0, plus);
  return isNumber && rows >= 1 && rows <= rt::kMaxSegmentRows;
}

static Result<std::vector<Length>> readContext(const Shape &shape,
                                               int64_t &rows) {
  std::string what = "a context of 1 to " + std::to_string(kMaxTokens) +
                     " tokens, 32768 or ragged:100-32768, then perhaps 1 to " +
                     std::to_string(rt::kMaxSegmentRows) + " query tokens, +4";
  std::string_view text = shape.context;
  std::vector<Length> lengths;
  if (!readRows(text, rows))
    return expected(what, shape.context);
  if (!consume(text, "ragged:")) {
    int64_t tokens = 0;
    if (!readNumber(text, tokens) || tokens < 1 || tokens > kMaxTokens)
      return expected(what, shape.context);
    Length length = rows > 1                   ? cutBefore(tokens, rows)
                    : tokens % rt::kPageTokens ? cutSequence(tokens)
                                               : cutBefore(tokens, 0);
    if (length.fixedTokens > kMostFixed)
      return expected(
          "query tokens that fit a window, so a context of " +
              std::to_string(tokens / rt::kPageTokens * rt::kPageTokens) +
              " or up to " + std::to_string(kMostFixed - rows) + " more",
          shape.context);
    lengths.assign(static_cast<size_t>(shape.batch), length);
    return lengths;
  }
  size_t dash = text.find('-');
  int64_t low = 0, high = 0;
  if (dash == text.npos || !readNumber(text.substr(0, dash), low) ||
      !readNumber(text.substr(dash + 1), high) || low < 1 || high < low ||
      high > kMaxTokens)
    return expected(what, shape.context);
  // The generator's numbers are the same everywhere, distributions' are not.
  std::mt19937_64 random(5);
  for (int64_t i = 0; i < shape.batch; ++i) {
    auto drawn = low + static_cast<int64_t>(
                           random() % static_cast<uint64_t>(high - low + 1));
    int64_t tokens = i == 0 ? low : i == 1 ? high : drawn;
    Length length = rows > 1 ? cutBefore(tokens, rows) : cutSequence(tokens);
    length.fixedTokens = std::min(length.fixedTokens, kMostFixed);
    lengths.push_back(length);
  }
  return lengths;
}

//===----------------------------------------------------------------------===//
// Levels
//===----------------------------------------------------------------------===//

/// "4" or "k4v2".
static bool readKind(std::string_view text, rt::UnitKind &kind) {
  int64_t key = 0, value = 0;
  if (consume(text, "k")) {
    size_t v = text.find('v');
    if (v == text.npos || !readNumber(text.substr(0, v), key) ||
        !readNumber(text.substr(v + 1), value))
      return false;
  } else {
    if (!readNumber(text, key))
      return false;
    value = key;
  }
  kind = {static_cast<int32_t>(key), static_cast<int32_t>(value)};
  return key <= 16 && value <= 16 && rt::isLevel(kind.key) &&
         rt::isLevel(kind.value);
}

Result<rt::UnitKind> bench::parseLevel(const std::string &text) {
  rt::UnitKind kind;
  if (readKind(text, kind))
    return kind;
  return expected("a level, 16, 8, 4 or 2, or k4v2 (keys 4, values 2)", text);
}

static std::string kindText(rt::UnitKind kind) {
  std::string key = std::to_string(kind.key);
  return kind.key == kind.value ? key
                                : "k" + key + "v" + std::to_string(kind.value);
}

static Result<LevelMix> readLevels(const std::string &levels) {
  const std::string what =
      "levels like 16, 8, 4, 2, k4v2 or mixed:2=192/4=48/8=16";
  std::string_view text = levels;
  LevelMix mix;
  if (!consume(text, "mixed:")) {
    mix.emplace_back(rt::UnitKind(), 1);
    if (!readKind(text, mix.back().first))
      return expected(what, levels);
    return mix;
  }
  while (true) {
    size_t slash = std::min(text.find('/'), text.size());
    std::string_view part = text.substr(0, slash);
    size_t equals = part.find('=');
    rt::UnitKind kind;
    int64_t weight = 0;
    if (equals == part.npos || !readKind(part.substr(0, equals), kind) ||
        !readNumber(part.substr(equals + 1), weight) || weight < 1 ||
        weight > kMaxTokens)
      return expected(what, levels);
    for (auto &[other, _] : mix)
      if (other == kind)
        return expected("levels that a mix names once, not " + kindText(kind) +
                            " again",
                        levels);
    mix.emplace_back(kind, weight);
    if (slash == text.size())
      return mix;
    text.remove_prefix(slash + 1);
  }
}

int64_t Problem::firstPage(size_t part, int64_t pages) const {
  int64_t total = 0, before = 0;
  for (size_t i = 0; i < mix.size(); ++i) {
    before += i < part ? mix[i].second : 0;
    total += mix[i].second;
  }
  return pages * before / total;
}

rt::UnitKind Problem::kindOf(int64_t page, int64_t pages) const {
  size_t part = 0;
  while (part + 1 < mix.size() && page >= firstPage(part + 1, pages))
    ++part;
  return mix[part].first;
}

std::vector<rt::UnitKind> Problem::kinds() const {
  std::vector<rt::UnitKind> kinds;
  auto add = [&](rt::UnitKind kind) {
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end())
      kinds.push_back(kind);
  };
  for (const Length &length : lengths) {
    for (size_t i = 0; i < mix.size(); ++i)
      if (firstPage(i, length.pages) < firstPage(i + 1, length.pages))
        add(mix[i].first);
    if (length.fixedTokens)
      add({16, 16});
  }
  return kinds;
}

PoolCounts Problem::counts() const {
  PoolCounts counts;
  for (const Length &length : lengths)
    for (size_t i = 0; i < mix.size(); ++i) {
      int64_t pages = shape.kvHeads * (firstPage(i + 1, length.pages) -
                                       firstPage(i, length.pages));
      rt::UnitKind kind = mix[i].first;
      counts.blocks +=
          pages * (rt::blocksAtLevel(kind.key) + rt::blocksAtLevel(kind.value));
      counts.slots += kind.key < 16 || kind.value < 16 ? pages : 0;
    }
  return counts;
}

Status bench::checkOrder(const Problem &problem) {
  for (size_t i = 1; i < problem.mix.size(); ++i) {
    rt::UnitKind older = problem.mix[i - 1].first, newer = problem.mix[i].first;
    if (older.key > newer.key || older.value > newer.value)
      return expected("a mix whose levels do not fall from the oldest pages to "
                      "the newest, as in a cache, not " +
                          kindText(older) + " before " + kindText(newer),
                      problem.shape.levels);
  }
  return {};
}

Result<int32_t> bench::oneLevel(const Problem &problem, int32_t lowest) {
  rt::UnitKind kind = problem.mix.front().first;
  if (problem.mix.size() == 1 && kind.key == kind.value && kind.key >= lowest)
    return kind.key;
  return Status(StatusCode::InvalidArgument,
                "expected levels of 16, 8" +
                    std::string(lowest == 4 ? " or 4" : ", 4 or 2") +
                    ", the same for keys and values, got " +
                    problem.shape.levels);
}

Result<int64_t> bench::countPages(const Problem &problem) {
  int64_t count = 0;
  for (const Length &length : problem.lengths)
    count += length.pages * problem.shape.kvHeads;
  if (count > 0)
    return count;
  return Status(StatusCode::InvalidArgument,
                "expected a context of at least one page of 128 tokens, got " +
                    problem.shape.context);
}

bool Problem::isRaw() const {
  for (rt::UnitKind kind : kinds())
    if (kind.key != 16 || kind.value != 16)
      return false;
  return true;
}

//===----------------------------------------------------------------------===//
// Formats and the rest
//===----------------------------------------------------------------------===//

std::string bench::plainFormat(const std::string &attribute) {
  std::string plain;
  for (size_t i = 0; i < attribute.size(); ++i) {
    char c = attribute[i];
    if (c == ',')
      plain += '+';
    else if (c != '<' && c != '>' && c != ' ')
      plain += c;
  }
  return plain;
}

static Result<reference::UniformFormat>
readFormat(const std::string &attribute) {
  std::string text = plainFormat(attribute);
  reference::UniformFormat format;
  std::string_view rest = text;
  std::string_view name = rest.substr(0, rest.find('+'));
  if (name == "per_channel")
    format.axis = reference::Axis::PerChannel;
  else if (name == "per_token" || name == "per_token_symmetric")
    format.axis = reference::Axis::PerToken;
  else
    return Status(StatusCode::Unimplemented,
                  "the benchmark knows the formats per_channel, per_token and, "
                  "of values, per_token_symmetric, got '" +
                      text + "'");
  format.symmetric = name == "per_token_symmetric";
  format.hadamard = rest.find("hadamard") != rest.npos;
  if (size_t at = rest.find("clip="); at != rest.npos)
    format.clip = std::strtod(rest.data() + at + 5, nullptr);
  if (Status status = reference::validateFormat(format); !status.ok())
    return status;
  return format;
}

double Problem::scale() const {
  return 1.0 / std::sqrt(static_cast<double>(shape.headDim));
}

ImageShape Problem::image() const {
  return {shape.headDim,
          {format[rt::kKey].axis == reference::Axis::PerToken,
           format[rt::kValue].axis == reference::Axis::PerToken},
          format[rt::kValue].symmetric};
}

/// Blocks and slots have ids of 32 bits.
static Status checkCounts(const Problem &problem) {
  constexpr int64_t most = std::numeric_limits<uint32_t>::max();
  PoolCounts counts = problem.counts();
  if (counts.blocks <= most && counts.slots <= most)
    return {};
  return {StatusCode::InvalidArgument,
          "expected a cache of at most " + std::to_string(most) +
              " blocks, whose ids have 32 bits, got " +
              std::to_string(std::max(counts.blocks, counts.slots)) + " for " +
              std::to_string(problem.shape.batch) + " x " +
              problem.shape.context + " tokens of " +
              std::to_string(problem.shape.kvHeads) +
              " kv heads; use fewer sequences, tokens or heads"};
}

static Status checkHeads(const Shape &shape) {
  constexpr int64_t most = 1 << 16;
  const std::pair<const char *, int64_t> counts[] = {
      {"kv heads", shape.kvHeads},
      {"query heads", shape.queryHeads},
      {"sequences", shape.batch}};
  for (auto [name, count] : counts)
    if (count < 1 || count > most)
      return expected("1 to " + std::to_string(most) + " " + name,
                      std::to_string(count));
  if (shape.queryHeads % shape.kvHeads)
    return expected("a multiple of " + std::to_string(shape.kvHeads) +
                        " query heads",
                    std::to_string(shape.queryHeads));
  if (shape.headDim < 32 || shape.headDim > 512 || shape.headDim % 16)
    return {
        StatusCode::Unimplemented,
        "expected a head_dim that is a multiple of 16 from 32 to 512, got " +
            std::to_string(shape.headDim)};
  return {};
}

Result<Problem> bench::understand(const Shape &shape) {
  if (Status status = checkHeads(shape); !status.ok())
    return status;
  Problem problem;
  problem.shape = shape;
  Result<std::vector<Length>> lengths = readContext(shape, problem.rows);
  if (!lengths.ok())
    return lengths.status();
  problem.lengths = std::move(*lengths);
  Result<LevelMix> mix = readLevels(shape.levels);
  if (!mix.ok())
    return mix.status();
  problem.mix = std::move(*mix);
  if (Status status = checkCounts(problem); !status.ok())
    return status;
  for (rt::Part part : {rt::kKey, rt::kValue}) {
    Result<reference::UniformFormat> format =
        readFormat(part == rt::kKey ? shape.keyFormat : shape.valueFormat);
    if (!format.ok())
      return format.status();
    problem.format[part] = *format;
  }
  if (problem.format[rt::kKey].symmetric)
    return Status(StatusCode::Unimplemented,
                  "the benchmark knows per_token_symmetric of values alone");
  auto feedsBack = [](const std::string &format) {
    return plainFormat(format).find("+feedback") != std::string::npos;
  };
  if (feedsBack(shape.valueFormat) ||
      (feedsBack(shape.keyFormat) && !problem.format[rt::kKey].hadamard))
    return expected("feedback of keys alone, with +hadamard",
                    plainFormat(feedsBack(shape.valueFormat)
                                    ? shape.valueFormat
                                    : shape.keyFormat));
  if (feedsBack(shape.keyFormat))
    problem.feedback =
        drawFeedback(shape.kvHeads, shape.headDim, problem.format[rt::kKey]);
  const Inputs *inputs = findInputs(shape.inputs);
  if (!inputs)
    return expected(
        "inputs like normal, outliers, tiny, huge, hundreds, thousands, "
        "myriads, sharp, constant or nan",
        shape.inputs);
  problem.inputs = *inputs;
  return problem;
}
