//===- PMKVQAttrs.cpp - Formats, rotations, schedules, calibration --------===//
//
// Parsing, printing and verification of attributes.
// Neighbours: PMKVQAttrs.td (the constraints cited here).
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/DialectImplementation.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Abi.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

/// A name, written as a keyword.
static ParseResult parseName(AsmParser &parser, StringAttr &name) {
  StringRef keyword;
  if (parser.parseKeyword(&keyword))
    return failure();
  name = parser.getBuilder().getStringAttr(keyword);
  return success();
}

static void printName(AsmPrinter &printer, StringAttr name) {
  printer << name.getValue();
}

/// What is wrong with a name, and which ones there are.
static LogicalResult unknown(function_ref<InFlightDiagnostic()> emitError,
                             StringRef what, StringAttr name,
                             ArrayRef<StringRef> known) {
  InFlightDiagnostic diagnostic = emitError();
  diagnostic << what << " '" << name.getValue() << "', expected one of: ";
  llvm::interleaveComma(known, diagnostic);
  return diagnostic;
}

#define GET_ATTRDEF_CLASSES
#include "pmkvq/IR/PMKVQAttrs.cpp.inc"

void PMKVQDialect::registerAttributes() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "pmkvq/IR/PMKVQAttrs.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// FormatAttr
//===----------------------------------------------------------------------===//

const FormatModel &FormatAttr::getModel() const {
  auto *dialect = getContext()->getLoadedDialect<PMKVQDialect>();
  const FormatModel *model = dialect->lookupFormat(getName());
  assert(model && "verified formats are known");
  return *model;
}

int64_t FormatAttr::getLastLevel(int64_t from, int64_t to) const {
  // Above the first level pages hold values, which are quantized, not shifted.
  const FormatModel &model = getModel();
  while (from > to &&
         (from > model.getFirstLevel() || model.hasLinearGrid(from)))
    from /= 2;
  return from;
}

bool FormatAttr::canFeedBack() const {
  return getHadamard() && getModel().hasRanges();
}

int64_t FormatAttr::getAxisSize(int64_t tokens, int64_t headDim) const {
  return getModel().getGroupAxis() == GroupAxis::HeadDim ? tokens : headDim;
}

/// One `, field` of a format.
static ParseResult parseField(AsmParser &parser, bool &hadamard, double &clip,
                              int64_t &group, bool &feedback) {
  SMLoc loc = parser.getCurrentLocation();
  StringRef field;
  if (failed(parser.parseOptionalKeyword(
          &field, {"hadamard", "plain", "clip", "group", "feedback"})))
    return parser.emitError(
        loc, "expected 'clip', 'feedback', 'group', 'hadamard' or 'plain'");
  if (field == "hadamard" || field == "plain") {
    hadamard = field == "hadamard";
    return success();
  }
  if (field == "feedback") {
    feedback = true;
    return success();
  }
  if (parser.parseEqual())
    return failure();
  if (field == "clip")
    return parser.parseFloat(clip);
  if (parser.parseInteger(group))
    return failure();
  // 0 stands for the whole axis, which is written by leaving the field out.
  return group != 0 ? success()
                    : parser.emitError(loc, "(C3) expected a group of at "
                                            "least 1 element, got 0");
}

Attribute FormatAttr::parse(AsmParser &parser, Type) {
  StringRef keyword;
  bool hadamard = false;
  double clip = kDefaultClip;
  int64_t group = 0;
  bool feedback = false;
  if (parser.parseLess() || parser.parseKeyword(&keyword))
    return {};
  while (succeeded(parser.parseOptionalComma()))
    if (parseField(parser, hadamard, clip, group, feedback))
      return {};
  if (parser.parseGreater())
    return {};
  return parser.getChecked<FormatAttr>(
      parser.getContext(), parser.getBuilder().getStringAttr(keyword), hadamard,
      parser.getBuilder().getF64FloatAttr(clip), group, feedback);
}

void FormatAttr::print(AsmPrinter &printer) const {
  printer << '<' << getName().getValue();
  if (getHadamard())
    printer << ", hadamard";
  if (getClip() != kDefaultClip) {
    printer << ", clip = ";
    printer.printFloat(APFloat(getClip()));
  }
  if (getGroup())
    printer << ", group = " << getGroup();
  if (getFeedback())
    printer << ", feedback";
  printer << '>';
}

LogicalResult FormatAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                 StringAttr name, bool hadamard,
                                 FloatAttr clipAttr, int64_t group,
                                 bool feedback) {
  auto *dialect = name.getContext()->getLoadedDialect<PMKVQDialect>();
  if (!dialect->lookupFormat(name))
    return unknown(emitError, "(C1) unknown format", name,
                   dialect->formatNames());
  double clip = clipAttr.getValueAsDouble();
  if (!isClip(clip))
    return emitError() << "(C2) expected clip in (0.7, 0.9), got " << clip;
  if (group < 0)
    return emitError() << "(C3) expected a group of at least 1 element, got "
                       << group;
  if (feedback && !(hadamard && dialect->lookupFormat(name)->hasRanges()))
    return emitError() << "(C4) expected feedback with hadamard and a format "
                          "that has ranges, got "
                       << name.getValue()
                       << (hadamard ? ", hadamard" : ", plain");
  return success();
}

//===----------------------------------------------------------------------===//
// RotationAttr
//===----------------------------------------------------------------------===//

LogicalResult RotationAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                   int64_t dim, int64_t block) {
  if (dim < 0)
    return emitError() << "(C1) expected a dimension of at least 0, got "
                       << dim;
  if (block <= 0 || !llvm::isPowerOf2_64(block))
    return emitError() << "(C1) expected a block that is a power of two, got "
                       << block;
  return success();
}

//===----------------------------------------------------------------------===//
// ScheduleAttr
//===----------------------------------------------------------------------===//

const ScheduleModel &ScheduleAttr::getModel() const {
  auto *dialect = getContext()->getLoadedDialect<PMKVQDialect>();
  const ScheduleModel *model = dialect->lookupSchedule(getName());
  assert(model && "verified schedules are known");
  return *model;
}

LogicalResult ScheduleAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                   StringAttr name, int64_t keyFloor,
                                   int64_t valueFloor) {
  if (!rt::isLevel(keyFloor))
    return emitError() << "(C1) expected a floor of 16, 8, 4 or 2, got "
                       << keyFloor;
  if (!rt::isLevelOf(rt::kValue, valueFloor))
    return emitError() << "(C1) expected a floor of 16, 8, 4, 2 or 1 for "
                          "values, got "
                       << valueFloor;
  auto *dialect = name.getContext()->getLoadedDialect<PMKVQDialect>();
  if (!dialect->lookupSchedule(name))
    return unknown(emitError, "(C2) unknown schedule", name,
                   dialect->scheduleNames());
  if (valueFloor == 1 && !dialect->lookupSchedule(name)->pairsValues)
    return emitError() << "(C3) expected a schedule that lowers values to 1 "
                          "bit in pairs, page, keys_last or "
                          "least_loss, got "
                       << name.getValue();
  return success();
}

//===----------------------------------------------------------------------===//
// CalibrationAttr
//===----------------------------------------------------------------------===//

/// A loss is given for each of the levels 8, 4 and 2, of values for 1, too.
static LogicalResult verifyLoss(function_ref<InFlightDiagnostic()> emitError,
                                Part part, DenseF64ArrayAttr loss) {
  if (!loss)
    return success();
  const bool values = part == Part::Value;
  if (loss.size() != rt::kLossLevels - 1 &&
      !(values && loss.size() == rt::kLossLevels))
    return emitError() << "(C2) expected losses of " << stringifyPart(part)
                       << "s at 8, 4 and 2 bits" << (values ? ", maybe 1" : "")
                       << ", got " << loss.size() << " numbers";
  for (double nats : loss.asArrayRef())
    if (!(nats >= 0 && std::isfinite(nats)))
      return emitError() << "(C2) expected losses that are finite and not "
                            "negative, got "
                         << nats;
  return success();
}

LogicalResult CalibrationAttr::verify(
    function_ref<InFlightDiagnostic()> emitError, FloatAttr keyClip,
    FloatAttr valueClip, DenseF64ArrayAttr keyLoss, DenseF64ArrayAttr valueLoss,
    DenseF32ArrayAttr querySquares, DenseF32ArrayAttr pageShares) {
  for (FloatAttr clip : {keyClip, valueClip})
    if (clip && !FormatAttr::isClip(clip.getValueAsDouble()))
      return emitError() << "(C1) expected clips in (0.7, 0.9), got "
                         << clip.getValueAsDouble();
  const std::pair<DenseF32ArrayAttr, StringRef> lists[] = {
      {querySquares, "squares"}, {pageShares, "shares"}};
  for (const auto &[list, name] : lists)
    for (float number : list ? list.asArrayRef() : ArrayRef<float>())
      if (!(number >= 0 && std::isfinite(number)))
        return emitError() << "(C3) expected " << name
                           << " that are finite and not negative, got "
                           << number;
  return success(succeeded(verifyLoss(emitError, Part::Key, keyLoss)) &&
                 succeeded(verifyLoss(emitError, Part::Value, valueLoss)));
}
