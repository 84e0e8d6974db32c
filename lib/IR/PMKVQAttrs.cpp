//===- PMKVQAttrs.cpp - Formats, rotations, schedules, calibration --------===//
//
// Parsing, printing and verification of attributes.
// Neighbours: PMKVQAttrs.td (the constraints cited here).
//
//===----------------------------------------------------------------------===//

#include "mlir/IR/DialectImplementation.h"
#include "pmkvq/IR/PMKVQ.h"
#include "pmkvq_rt/Geometry.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"
#include <cmath>

using namespace mlir;
using namespace mlir::pmkvq;
namespace rt = ::pmkvq::rt;

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

Attribute FormatAttr::parse(AsmParser &parser, Type) {
  StringRef keyword;
  bool hadamard = false;
  double clip = kDefaultClip;
  if (parser.parseLess() || parser.parseKeyword(&keyword))
    return {};
  while (succeeded(parser.parseOptionalComma())) {
    if (succeeded(parser.parseOptionalKeyword("hadamard"))) {
      hadamard = true;
    } else if (succeeded(parser.parseOptionalKeyword("plain"))) {
      hadamard = false;
    } else if (parser.parseKeyword("clip", ", 'hadamard' or 'plain'") ||
               parser.parseEqual() || parser.parseFloat(clip)) {
      return {};
    }
  }
  if (parser.parseGreater())
    return {};
  return parser.getChecked<FormatAttr>(
      parser.getContext(), parser.getBuilder().getStringAttr(keyword), hadamard,
      parser.getBuilder().getF64FloatAttr(clip));
}

void FormatAttr::print(AsmPrinter &printer) const {
  printer << '<' << getName().getValue();
  if (getHadamard())
    printer << ", hadamard";
  if (getClip() != kDefaultClip) {
    printer << ", clip = ";
    printer.printFloat(APFloat(getClip()));
  }
  printer << '>';
}

LogicalResult FormatAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                 StringAttr name, bool, FloatAttr clipAttr) {
  auto *dialect = name.getContext()->getLoadedDialect<PMKVQDialect>();
  if (!dialect->lookupFormat(name)) {
    InFlightDiagnostic diagnostic = emitError();
    diagnostic << "(C1) unknown format '" << name.getValue()
               << "', expected one of: ";
    llvm::interleaveComma(dialect->formatNames(), diagnostic);
    return diagnostic;
  }
  double clip = clipAttr.getValueAsDouble();
  if (!isClip(clip))
    return emitError() << "(C2) expected clip in (0.7, 0.9), got " << clip;
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

LogicalResult ScheduleAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                   pmkvq::ScheduleKind, int64_t keyFloor,
                                   int64_t valueFloor) {
  for (int64_t floor : {keyFloor, valueFloor})
    if (!rt::isLevel(floor))
      return emitError() << "(C1) expected a floor of 16, 8, 4 or 2, got "
                         << floor;
  return success();
}

//===----------------------------------------------------------------------===//
// CalibrationAttr
//===----------------------------------------------------------------------===//

/// A loss is given for each of the levels 8, 4 and 2.
static constexpr int64_t kLossLevels = rt::kLadder.size() - 1;

static LogicalResult verifyLoss(function_ref<InFlightDiagnostic()> emitError,
                                DenseF64ArrayAttr loss) {
  if (!loss)
    return success();
  if (loss.size() != kLossLevels)
    return emitError() << "(C2) expected losses at 8, 4 and 2 bits, got "
                       << loss.size() << " numbers";
  for (double nats : loss.asArrayRef())
    if (!(nats >= 0 && std::isfinite(nats)))
      return emitError() << "(C2) expected losses that are finite and not "
                            "negative, got "
                         << nats;
  return success();
}

LogicalResult
CalibrationAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                        FloatAttr keyClip, FloatAttr valueClip,
                        DenseF64ArrayAttr keyLoss,
                        DenseF64ArrayAttr valueLoss) {
  for (FloatAttr clip : {keyClip, valueClip})
    if (clip && !FormatAttr::isClip(clip.getValueAsDouble()))
      return emitError() << "(C1) expected clips in (0.7, 0.9), got "
                         << clip.getValueAsDouble();
  return success(succeeded(verifyLoss(emitError, keyLoss)) &&
                 succeeded(verifyLoss(emitError, valueLoss)));
}
