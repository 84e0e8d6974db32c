//===- PMKVQAttrs.td - Formats and schedules ---------------*- tablegen -*-===//
//
// Attributes: what a format is, how a weight is rotated, when pages fall.
// Neighbours: pmkvq/Formats/Format.h (what a format's name stands for).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_ATTRS_TD
#define PMKVQ_ATTRS_TD

include "pmkvq/IR/PMKVQBase.td"
include "mlir/IR/AttrTypeBase.td"

class PMKVQ_Attr<string name, string attrMnemonic> : AttrDef<PMKVQ_Dialect, name> {
  let mnemonic = attrMnemonic;
  let genVerifyDecl = 1;
}

def PMKVQ_FormatAttr : PMKVQ_Attr<"Format", "format"> {
  let summary = "how one part of a page is quantized";
  let description = [{
    `name` picks the format's algebra (pmkvq/Formats/Format.h); `hadamard` says
    that vectors are rotated by the normalized Walsh-Hadamard transform before
    they are stored (`plain`, the default, that they are not); `clip` is the middle part of the range that 2-bit codes
    cover.

    (C1) `name` is a known format.
    (C2) `clip` lies in (0.7, 0.9), where the nearest level of a 4-bit code is
         its upper half.

    Example: `#pmkvq.format<per_channel, hadamard, clip = 0.8>`
  }];
  let parameters = (ins "::mlir::StringAttr":$name,
                        "bool":$hadamard, "::mlir::FloatAttr":$clip_attr);
  let hasCustomAssemblyFormat = 1;
  let builders = [
    AttrBuilderWithInferredContext<(ins "::mlir::StringAttr":$name,
                                        "bool":$hadamard, "double":$clip), [{
      ::mlir::Builder builder(name.getContext());
      return $_get(name.getContext(), name, hadamard,
                   builder.getF64FloatAttr(clip));
    }]>];
  let extraClassDeclaration = [{
    double getClip() const { return getClipAttr().getValueAsDouble(); }
    /// The algebra behind the name; never null in a verified attribute.
    const FormatModel &getModel() const;
    /// Default clip of the design: 0.8.
    static constexpr double kDefaultClip = 0.8;
  }];
}

def PMKVQ_RotationAttr : PMKVQ_Attr<"Rotation", "rotation"> {
  let summary = "a Walsh-Hadamard rotation of a weight";
  let description = [{
    The weight's dimension `dim` is cut into consecutive blocks of `block`
    elements, each multiplied by the normalized Walsh-Hadamard matrix.

    (C1) `block` is a power of two; `dim` is not negative.

    Example: `#pmkvq.rotation<dim = 0, block = 128>`
  }];
  let parameters = (ins "int64_t":$dim, "int64_t":$block);
  let assemblyFormat = "`<` struct(params) `>`";
}

def PMKVQ_ScheduleAttr : PMKVQ_Attr<"Schedule", "schedule"> {
  let summary = "when pages are lowered, and how far";
  let description = [{
    `none` writes every page at its floor; `page` lowers as few pages as the
    next flush needs, highest level first, then oldest; `layer` lowers all pages
    of a layer together when its share of the budget is exceeded (the paper's).

    (C1) Floors are 16, 8, 4 or 2.

    Example: `#pmkvq.schedule<page, key_floor = 2, value_floor = 2>`
  }];
  let parameters = (ins EnumParameter<PMKVQ_ScheduleKind>:$kind,
                        "int64_t":$key_floor, "int64_t":$value_floor);
  let assemblyFormat = "`<` $kind `,` struct($key_floor, $value_floor) `>`";
  let extraClassDeclaration = [{
    int64_t getFloor(Part part) const {
      return part == Part::Key ? getKeyFloor() : getValueFloor();
    }
  }];
}

#endif // PMKVQ_ATTRS_TD
