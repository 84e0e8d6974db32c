//===- PMKVQAttrs.td - Formats and schedules ---------------*- tablegen -*-===//
//
// Attributes: what a format is, how a weight is rotated, when pages fall, what
// calibration found.
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
    they are stored (`plain`, the default, that they are not); `clip` is the
    middle part of the range that 2-bit codes cover; `group` is the number of
    elements along the format's axis that share parameters, by default the
    whole axis: the tokens of a page per channel, the head dims of a token per
    token.  How many elements an axis has, the cache's type says, which checks
    that the group divides it.  Only whole axes are lowered today.  `feedback` says
    that keys fall to 4 and 2 bits with feedback: not each to the nearest code,
    but so that what is lost of a token lies where queries are small; `shift`
    then takes what calibration found of them.  Codes decode as without.

    (C1) `name` is a known format.
    (C2) `clip` lies in (0.7, 0.9), where the nearest level of a 4-bit code is
         its upper half.
    (C3) `group`, where it is given, is positive.
    (C4) `feedback` needs `hadamard`, without which no channel can make good what
         another loses, and a format with ranges.

    Example: `#pmkvq.format<per_channel, hadamard, clip = 0.8, group = 32>`
  }];
  let parameters = (ins "::mlir::StringAttr":$name,
                        "bool":$hadamard, "::mlir::FloatAttr":$clip_attr,
                        "int64_t":$group, "bool":$feedback);
  let hasCustomAssemblyFormat = 1;
  let builders = [
    AttrBuilderWithInferredContext<(ins "::mlir::StringAttr":$name,
                                        "bool":$hadamard, "double":$clip,
                                        CArg<"int64_t", "0">:$group,
                                        CArg<"bool", "false">:$feedback), [{
      ::mlir::Builder builder(name.getContext());
      return $_get(name.getContext(), name, hadamard,
                   builder.getF64FloatAttr(clip), group, feedback);
    }]>];
  let extraClassDeclaration = [{
    double getClip() const { return getClipAttr().getValueAsDouble(); }
    /// The lowest level, at least `to`, that pages at `from` can fall to: a
    /// level whose grid is not linear is the last.
    int64_t getLastLevel(int64_t from, int64_t to) const;
    /// The algebra behind the name; never null in a verified attribute.
    const FormatModel &getModel() const;
    /// Default clip of the design: 0.8.
    static constexpr double kDefaultClip = 0.8;
    /// Whether 2-bit codes of this clip are the upper halves of 4-bit codes.
    static bool isClip(double clip) { return clip > 0.7 && clip < 0.9; }
    FormatAttr withClip(double clip) const {
      return FormatAttr::get(getName(), getHadamard(), clip, getGroup(),
                             getFeedback());
    }
    FormatAttr withFeedback(bool feedback) const {
      return FormatAttr::get(getName(), getHadamard(), getClip(), getGroup(),
                             feedback);
    }
    /// Whether keys of this format can fall with feedback.
    bool canFeedBack() const;
    /// Elements along the axis whose elements may share parameters.
    int64_t getAxisSize(int64_t tokens, int64_t headDim) const;
    /// Elements that share parameters.
    int64_t getGroupSize(int64_t tokens, int64_t headDim) const {
      return getGroup() ? getGroup() : getAxisSize(tokens, headDim);
    }
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
    of a layer together when its share of the budget is exceeded (the paper's;
    shares are equal, or in proportion to the layers' blocks at their floors);
    `keys_last` is `page`, but for pages at 4 bits: values of all fall to 2
    before keys of any do; `least_loss` lowers keys or values of one page where
    that adds the least loss for a byte, by the losses of each layer's
    `calibration`.
    Others may be added (docs/new-schedule.md).

    (C1) Floors are 16, 8, 4 or 2, that of values may be 1.
    (C2) `name` is a known schedule.
    (C3) At a floor of 1 it is `page`, `keys_last` or `least_loss`.

    Example: `#pmkvq.schedule<page, key_floor = 2, value_floor = 2>`
  }];
  let parameters = (ins "::mlir::StringAttr":$name,
                        "int64_t":$key_floor, "int64_t":$value_floor);
  let assemblyFormat = [{
    `<` custom<Name>($name) `,` struct($key_floor, $value_floor) `>`
  }];
  let extraClassDeclaration = [{
    /// What the compiler knows of the schedule.
    const ScheduleModel &getModel() const;
    int64_t getFloor(Part part) const {
      return part == Part::Key ? getKeyFloor() : getValueFloor();
    }
  }];
}

def PMKVQ_CalibrationAttr : PMKVQ_Attr<"Calibration", "calibration"> {
  let summary = "what a calibration run found for one layer";
  let description = [{
    Each field may be missing.  `key_clip` and `value_clip` take the place of
    the formats' clips in this layer.  `key_loss` and `value_loss` say what the
    part costs at 8, 4 and 2 bits, of values maybe at 1, while all else is at 16: the
    KL divergence from the full cache in nats a token, or any other measure that
    adds up over layers and parts, the same for all of a program.
    `query_squares` has the mean square of each channel of the queries of each
    kv head, [kv_heads * head_dim], after RoPE and before rotation: what keys
    that fall with feedback go by.  `page_shares` says how much of the losses one
    page bears, [kv_heads * ages]: the newest page first, older ones than the
    last as the last, and at most 64 ages; without, all pages are alike.

    (C1) Clips lie in (0.7, 0.9), as those of formats.
    (C2) A loss is three finite numbers that are not negative, that of values may be four.
    (C3) Squares and shares are finite and not negative.

    Example: `#pmkvq.calibration<key_clip = 0.77, value_clip = 0.82,
      key_loss = [1.0e-04, 3.0e-03, 7.0e-02], value_loss = [0.0, 1.0e-03, 1.3e-02]>`
  }];
  let parameters = (ins OptionalParameter<"::mlir::FloatAttr">:$key_clip,
                        OptionalParameter<"::mlir::FloatAttr">:$value_clip,
                        OptionalParameter<"::mlir::DenseF64ArrayAttr">:$key_loss,
                        OptionalParameter<"::mlir::DenseF64ArrayAttr">:$value_loss,
                        OptionalParameter<"::mlir::DenseF32ArrayAttr">:$query_squares,
                        OptionalParameter<"::mlir::DenseF32ArrayAttr">:$page_shares);
  let assemblyFormat = "`<` struct(params) `>`";
  let extraClassDeclaration = [{
    /// Null where calibration left the clip open.
    ::mlir::FloatAttr getClip(Part part) const {
      return part == Part::Key ? getKeyClip() : getValueClip();
    }
    /// [8, 4, 2 bits], of values maybe [8, 4, 2, 1]; null where nothing was
    /// measured.
    ::mlir::DenseF64ArrayAttr getLoss(Part part) const {
      return part == Part::Key ? getKeyLoss() : getValueLoss();
    }
  }];
}

#endif // PMKVQ_ATTRS_TD
