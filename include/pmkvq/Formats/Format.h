//===- Format.h - What a cache format computes ------------------*- C++ -*-===//
//
// The interface behind `#pmkvq.format`: a format says once how parameters and
// codes are made, shifted and decoded.  Neighbours: lib/Formats (the formats),
// lib/Transforms/FoldParameters.cpp and lib/Conversion (who asks).
//
// Mental model.  A format is elementwise algebra.  A group of elements shares a
// few small parameters; the elements become codes at the format's first level,
// lower levels come from higher codes, and an element decodes as
//
//   x  ~  offset + step * grid(code)
//
// where offset and step follow from the group's parameters and the level, and
// grid(code) is the code itself unless the format has a code book.  Lowerings
// never look further: they fold offset and step out of products, and place the
// other algebra where their layout has the operands.  All methods emit ops on
// vectors of any length, so both targets use them as they are.
//
// Worked example, per_channel with clip 0.8 at 2 bits: parameters (min, range);
// step = range * 0.8 / 3, offset = min + range * 0.1.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_FORMATS_FORMAT_H
#define PMKVQ_FORMATS_FORMAT_H

#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"

namespace mlir {
class DialectRegistry;
namespace pmkvq {
class FormatAttr;

/// The axis that tells groups apart: with HeadDim, the 128 tokens of a page
/// share parameters per head dim; with Token, a token's head dims share them.
enum class GroupAxis { HeadDim, Token };

/// How a parameter is stored.  E5M3 is the upper byte of an fp16 without its
/// sign: five bits of exponent and three of mantissa, of numbers that are not
/// negative.
enum class ParameterType { F16, BF16, E5M3 };

constexpr int64_t bytesOf(ParameterType type) {
  return type == ParameterType::E5M3 ? 1 : 2;
}

/// Methods may look at `format`, but only emitAffine, emitGrid and
/// getPartsOfRange may depend on its clip: codes of layers with clips of their
/// own are made and shifted by the same kernels.
class FormatModel {
public:
  virtual ~FormatModel();

  /// The keyword in `#pmkvq.format<...>`.
  virtual llvm::StringRef getName() const = 0;

  virtual GroupAxis getGroupAxis() const = 0;

  /// Number of parameters a group.
  virtual unsigned getNumParameters() const = 0;

  /// What parameters are stored as; fp16 unless a format says otherwise.
  virtual ParameterType getParameterType() const { return ParameterType::F16; }

  /// Bytes of a group's parameters.
  int64_t getGroupBytes() const {
    return getNumParameters() * bytesOf(getParameterType());
  }

  /// The level that bf16 values are quantized to, from which all lower levels
  /// come: 8, so that pages at level 16 are the values themselves, or 16.
  virtual int64_t getFirstLevel() const { return 8; }

  /// Whether vectors are rotated unless the user says otherwise.
  virtual bool rotatesByDefault() const { return true; }

  struct Parameters {
    /// One vector a parameter: f16, i16 with the bits of bf16, or i8 with those
    /// of E5M3.
    llvm::SmallVector<Value> values;
    /// i1 vector: whether the group can be represented.
    Value representable;
  };

  /// Parameters from each group's extremes.
  /// Shapes: `min`, `max` are f32 vectors of any one length.  A NaN or infinity
  /// among the elements shows as a NaN or infinity in them.
  virtual Parameters emitParameters(ImplicitLocOpBuilder &b, FormatAttr format,
                                    Value min, Value max) const = 0;

  /// Codes of elements at the first level.
  /// Shapes: `x` and each of `parameters` (converted to f32) are f32 vectors of
  /// one length; the result is an i32 vector of codes.
  virtual Value emitCode(ImplicitLocOpBuilder &b, FormatAttr format, Value x,
                         ValueRange parameters) const = 0;

  /// Whether the codes of a level are evenly spaced.  A code book's are not:
  /// no shift leads further down from it, so it can only be the last level.
  virtual bool hasLinearGrid(int64_t level) const { return true; }

  /// Codes at level `from` / 2 from codes at level `from`, whose grid is
  /// linear. Shapes: i16 vectors from level 8 and 4, i32 vectors from 16.
  /// Intermediates must fit the unsigned lanes.
  virtual Value emitShift(ImplicitLocOpBuilder &b, FormatAttr format,
                          Value codes, int64_t from) const = 0;

  /// Parameters at level `from` / 2 from those at `from`, both in f32 before
  /// they are stored; empty if parameters are written once.
  virtual llvm::SmallVector<Value>
  emitShiftedParameters(ImplicitLocOpBuilder &b, FormatAttr format,
                        ValueRange parameters, int64_t from) const;

  /// Whether a shift rewrites parameters.
  virtual bool rewritesParameters() const { return false; }

  /// Whether the last parameter is a range of which step and offset, but for
  /// the group's lowest value, are constant parts.
  virtual bool hasRanges() const { return false; }

  /// Parts of a range: from a group's lowest value to the lowest code's, and
  /// from code to code.
  struct PartsOfRange {
    double offset, step;
  };
  /// Of a format with ranges, at a level that has codes.
  virtual PartsOfRange getPartsOfRange(FormatAttr format, int64_t level) const;

  struct Affine {
    Value offset;
    Value step;
  };

  /// Offset and step of each group at a level that has codes.
  /// Shapes: f32 vectors, one element a group.
  virtual Affine emitAffine(ImplicitLocOpBuilder &b, FormatAttr format,
                            ValueRange parameters, int64_t level) const = 0;

  /// The grid value of each code: an f32 vector from an i32 vector.  The code
  /// itself, unless a format has a code book.
  virtual Value emitGrid(ImplicitLocOpBuilder &b, FormatAttr format,
                         Value codes, int64_t level) const;
};

/// Makes every format of this library known when the dialect is loaded.
void registerFormats(DialectRegistry &registry);

} // namespace pmkvq
} // namespace mlir

#endif // PMKVQ_FORMATS_FORMAT_H
