//===- PMKVQTypes.cpp - Caches, pages, tiles ------------------------------===//
//
// Parsing, printing and verification of types.
// Neighbours: PMKVQTypes.td (the constraints cited here).
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/DialectImplementation.h"
#include "pmkvq/IR/HeadDims.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Geometry.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

#define GET_TYPEDEF_CLASSES
#include "pmkvq/IR/PMKVQTypes.cpp.inc"

void PMKVQDialect::registerTypes() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "pmkvq/IR/PMKVQTypes.cpp.inc"
      >();
}

/// Most sink tokens of a cache.
static constexpr int64_t kMaxSink = 16;

/// Groups of a part of `tokens` tokens.
static int64_t countGroups(FormatAttr format, int64_t tokens, int64_t headDim) {
  return tokens * headDim / format.getGroupSize(tokens, headDim);
}

static LogicalResult verifyGroup(function_ref<InFlightDiagnostic()> emitError,
                                 StringRef constraint, FormatAttr format,
                                 int64_t headDim) {
  if (!format)
    return success();
  int64_t axis = format.getAxisSize(rt::kPageTokens, headDim);
  int64_t group = format.getGroupSize(rt::kPageTokens, headDim);
  if (axis % group == 0)
    return success();
  return emitError() << constraint << " expected a group that divides the "
                     << axis << " elements of the axis of '"
                     << format.getName().getValue() << "', got " << group;
}

//===----------------------------------------------------------------------===//
// CacheType
//===----------------------------------------------------------------------===//

int64_t CacheType::getParameterBytes(Part part) const {
  FormatAttr format = getFormat(part);
  return format.getModel().getGroupBytes() *
         countGroups(format, rt::kPageTokens, getHeadDim());
}

namespace {
/// The pieces of a cache type as they are parsed.
struct CacheParameters {
  int64_t kvHeads = 0;
  int64_t headDim = 0;
  FormatAttr key, value;
  SmallVector<int64_t> ladder{rt::kLadder.begin(), rt::kLadder.end()};
  int64_t sink = 1;
};

ParseResult parseFormat(AsmParser &parser, FormatAttr &format) {
  // Accepts the short form `<...>` and the full `#pmkvq.format<...>`.
  Attribute attribute;
  OptionalParseResult full = parser.parseOptionalAttribute(attribute);
  if (full.has_value()) {
    if (failed(*full))
      return failure();
    format = dyn_cast<FormatAttr>(attribute);
    if (!format)
      return parser.emitError(parser.getCurrentLocation(),
                              "expected a #pmkvq.format");
    return success();
  }
  format = dyn_cast_or_null<FormatAttr>(FormatAttr::parse(parser, {}));
  return success(static_cast<bool>(format));
}

ParseResult parseLadder(AsmParser &parser, SmallVectorImpl<int64_t> &ladder) {
  ladder.clear();
  return parser.parseCommaSeparatedList(AsmParser::Delimiter::Square, [&] {
    return parser.parseInteger(ladder.emplace_back());
  });
}

ParseResult parseCacheField(AsmParser &parser, CacheParameters &fields) {
  StringRef name;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseKeyword(&name) || parser.parseEqual())
    return failure();
  if (name == "kv_heads")
    return parser.parseInteger(fields.kvHeads);
  if (name == "head_dim")
    return parser.parseInteger(fields.headDim);
  if (name == "key")
    return parseFormat(parser, fields.key);
  if (name == "value")
    return parseFormat(parser, fields.value);
  if (name == "ladder")
    return parseLadder(parser, fields.ladder);
  if (name == "sink")
    return parser.parseInteger(fields.sink);
  return parser.emitError(loc, "unknown field '")
         << name
         << "', expected kv_heads, head_dim, key, value, ladder or sink";
}
} // namespace

Type CacheType::parse(AsmParser &parser) {
  CacheParameters fields;
  if (parser.parseCommaSeparatedList(AsmParser::Delimiter::LessGreater, [&] {
        return parseCacheField(parser, fields);
      }))
    return {};
  return parser.getChecked<CacheType>(parser.getContext(), fields.kvHeads,
                                      fields.headDim, fields.key, fields.value,
                                      fields.ladder, fields.sink);
}

void CacheType::print(AsmPrinter &printer) const {
  printer << "<kv_heads = " << getKvHeads() << ", head_dim = " << getHeadDim();
  if (isPlanned()) {
    printer << ", key = ";
    getKey().print(printer);
    printer << ", value = ";
    getValue().print(printer);
  }
  if (getLadder() != ArrayRef<int64_t>(CacheParameters().ladder)) {
    printer << ", ladder = [";
    llvm::interleaveComma(getLadder(), printer.getStream());
    printer << ']';
  }
  if (getSink() != CacheParameters().sink)
    printer << ", sink = " << getSink();
  printer << '>';
}

static LogicalResult verifyLadder(function_ref<InFlightDiagnostic()> emitError,
                                  ArrayRef<int64_t> ladder) {
  if (ladder.empty())
    return emitError() << "(C3) expected at least one level";
  for (auto [i, level] : llvm::enumerate(ladder)) {
    if (!rt::isLevelOf(rt::kValue, level))
      return emitError() << "(C3) expected levels of 16, 8, 4, 2 or 1, got "
                         << level;
    if (i > 0 && level * 2 != ladder[i - 1])
      return emitError() << "(C3) expected each level to be half of the one "
                            "before, got "
                         << level << " after " << ladder[i - 1];
  }
  // Keys need one, too.
  if (ladder.front() == 1)
    return emitError() << "(C3) expected a level above 1";
  return success();
}

LogicalResult CacheType::verify(function_ref<InFlightDiagnostic()> emitError,
                                int64_t kvHeads, int64_t headDim,
                                FormatAttr key, FormatAttr value,
                                ArrayRef<int64_t> ladder, int64_t sink) {
  constexpr int64_t maxKvHeads = 1024;
  if (kvHeads <= 0 || kvHeads > maxKvHeads)
    return emitError() << "(C1) expected 1 to " << maxKvHeads
                       << " kv_heads, got " << kvHeads;
  if (!isHeadDim(headDim))
    return emitError() << "(C2) expected a head_dim of " << kHeadDimsText
                       << ", got " << headDim;
  if (failed(verifyLadder(emitError, ladder)))
    return failure();
  if (ladder.back() == 1 && !hasLevel1(headDim))
    return emitError() << "(C7) expected a head_dim that is a multiple of "
                       << kLevel1HeadDim << " for values at level 1, got "
                       << headDim;
  if (sink < 0 || sink > kMaxSink)
    return emitError() << "(C4) expected a sink of 0 to " << kMaxSink
                       << " tokens, got " << sink;
  if (static_cast<bool>(key) != static_cast<bool>(value))
    return emitError() << "(C5) expected formats for key and value, or for "
                          "neither; only "
                       << (key ? "key" : "value") << " has one";
  for (FormatAttr format : {key, value})
    if (failed(verifyGroup(emitError, "(C6)", format, headDim)))
      return failure();
  if (value && value.getFeedback())
    return emitError() << "(C8) expected values without feedback, got "
                       << value;
  return success();
}

//===----------------------------------------------------------------------===//
// TileType
//===----------------------------------------------------------------------===//

int64_t TileType::getGroups() const {
  return countGroups(getFormat(), getTokens(), getHeadDim());
}

bool TileType::groupsAlongReduction() const {
  GroupAxis summed =
      getPart() == Part::Key ? GroupAxis::HeadDim : GroupAxis::Token;
  return getFormat().getModel().getGroupAxis() == summed;
}

bool TileType::hasPartialGroups() const {
  return getFormat() && getFormat().getGroupSize(getTokens(), getHeadDim()) <
                            getFormat().getAxisSize(getTokens(), getHeadDim());
}

bool TileType::isRaw() const {
  return !getFormat() || getLevel() > getFormat().getModel().getFirstLevel();
}

LogicalResult TileType::verify(function_ref<InFlightDiagnostic()> emitError,
                               Part part, int64_t level, int64_t tokens,
                               int64_t headDim, FormatAttr format) {
  if (!rt::isLevelOf(static_cast<rt::Part>(part), level))
    return emitError() << "(C1) expected a level of 16, 8, 4 or 2, or of 1 for "
                          "values, got "
                       << level;
  if (level == 1 && !hasLevel1(headDim))
    return emitError() << "(C6) expected a head_dim that is a multiple of "
                       << kLevel1HeadDim << " at level 1, got " << headDim;
  if (format && !llvm::is_contained({16, 32, 64, rt::kPageTokens}, tokens))
    return emitError() << "(C2) expected 128, 64, 32 or 16 tokens in a tile "
                          "with a format, got "
                       << tokens;
  constexpr int64_t maxTokens = kMaxSink + rt::kPageTokens;
  if (tokens <= 0 || tokens > maxTokens)
    return emitError() << "(C2) expected 1 to " << maxTokens << " tokens, got "
                       << tokens;
  if (!isHeadDim(headDim))
    return emitError() << "(C3) expected a head_dim of " << kHeadDimsText
                       << ", got " << headDim;
  if (!format && level != 16)
    return emitError() << "(C4) expected a format below level 16";
  return verifyGroup(emitError, "(C5)", format, headDim);
}

//===----------------------------------------------------------------------===//
// RowsType and SoftmaxType
//===----------------------------------------------------------------------===//

static LogicalResult
verifyPositive(function_ref<InFlightDiagnostic()> emitError, int64_t queries,
               int64_t width) {
  if (queries <= 0 || width <= 0)
    return emitError() << "(C1) expected positive sizes, got " << queries
                       << " x " << width;
  return success();
}

LogicalResult RowsType::verify(function_ref<InFlightDiagnostic()> emitError,
                               int64_t queries, int64_t width) {
  return verifyPositive(emitError, queries, width);
}

LogicalResult
IntegerRowsType::verify(function_ref<InFlightDiagnostic()> emitError,
                        int64_t queries, int64_t width) {
  return verifyPositive(emitError, queries, width);
}

LogicalResult SoftmaxType::verify(function_ref<InFlightDiagnostic()> emitError,
                                  int64_t queries, int64_t headDim) {
  return verifyPositive(emitError, queries, headDim);
}
