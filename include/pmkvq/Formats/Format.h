//===- Format.h - What a cache format computes ------------------*- C++ -*-===//
//
// The interface behind `#pmkvq.format`: a format says once how parameters and
// codes are made, shifted and decoded.  Neighbours: lib/Formats (the formats),
// lib/Transforms/FoldParameters.cpp and lib/Conversion (who asks).
//
// Mental model.  A format is elementwise algebra.  A group of elements shares a
// few fp16 parameters; the elements become 8-bit codes, lower levels come from
// higher codes, and an element decodes as
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

class FormatModel {
public:
  virtual ~FormatModel();

  /// The keyword in `#pmkvq.format<...>`.
  virtual llvm::StringRef getName() const = 0;

  virtual GroupAxis getGroupAxis() const = 0;

  /// Number of fp16 parameters a group.
  virtual unsigned getNumParameters() const = 0;

  struct Parameters {
    /// One fp16 vector a parameter.
    llvm::SmallVector<Value> values;
    /// i1 vector: whether the group can be represented.
    Value representable;
  };

  /// Parameters from each group's extremes.
  /// Shapes: `min`, `max` are f32 vectors of any one length.  A NaN or infinity
  /// among the elements shows as a NaN or infinity in them.
  virtual Parameters emitParameters(ImplicitLocOpBuilder &b, FormatAttr format,
                                    Value min, Value max) const = 0;

  /// 8-bit codes of elements.
  /// Shapes: `x` and each of `parameters` (converted to f32) are f32 vectors of
  /// one length; the result is an i32 vector of codes 0 .. 255.
  virtual Value emitCode(ImplicitLocOpBuilder &b, FormatAttr format, Value x,
                         ValueRange parameters) const = 0;

  /// Codes at level `from` / 2 from codes at level `from` (8 or 4).
  /// Shapes: i16 vectors.  Intermediates must fit unsigned 16 bits.
  virtual Value emitShift(ImplicitLocOpBuilder &b, FormatAttr format,
                          Value codes, int64_t from) const = 0;

  struct Affine {
    Value offset;
    Value step;
  };

  /// Offset and step of each group at a level below 16.
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
