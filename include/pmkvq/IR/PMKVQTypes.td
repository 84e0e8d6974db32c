//===- PMKVQTypes.td - Caches, pages, tiles ----------------*- tablegen -*-===//
//
// Types of both floors of the dialect.
// Neighbours: PMKVQAttrs.td (formats), pmkvq_rt/Geometry.h (sizes).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TYPES_TD
#define PMKVQ_TYPES_TD

include "pmkvq/IR/PMKVQAttrs.td"

class PMKVQ_Type<string name, string typeMnemonic> : TypeDef<PMKVQ_Dialect, name> {
  let mnemonic = typeMnemonic;
}

def PMKVQ_CacheType : PMKVQ_Type<"Cache", "cache"> {
  let summary = "the key-value cache of one layer, all sequences";
  let description = [{
    `key` and `value` are the formats of the two parts; a cache without formats
    is one whose formats have not been chosen yet.  `ladder` lists the levels
    (bits a code) that a page may be at, `sink` is the number of first tokens
    that stay bf16.  A page is 128 tokens.

    (C1) `kv_heads` lies in 1 .. 1024.
    (C2) `head_dim` is 64, 80, 96, 128 or 256.
    (C3) `ladder` is a strictly falling run of 16, 8, 4, 2, 1, without a gap;
         keys have none below 2, values may have 1.
    (C4) `sink` lies in 0 .. 16.
    (C5) `key` and `value` are both there or both missing.
    (C6) A format's group divides its axis: 128 tokens, or `head_dim`.
    (C7) A ladder to 1 has a `head_dim` that is a multiple of 64.
    (C8) Values fall without feedback.

    Example:
    ```mlir
    !pmkvq.cache<kv_heads = 2, head_dim = 128,
                 key = <per_channel, hadamard, clip = 0.8>,
                 value = <per_token, hadamard, clip = 0.8>,
                 ladder = [16, 8, 4, 2], sink = 1>
    ```
  }];
  let parameters = (ins "int64_t":$kv_heads, "int64_t":$head_dim,
                        OptionalParameter<"FormatAttr">:$key,
                        OptionalParameter<"FormatAttr">:$value,
                        ArrayRefParameter<"int64_t">:$ladder,
                        "int64_t":$sink);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    bool isPlanned() const { return static_cast<bool>(getKey()); }
    FormatAttr getFormat(Part part) const {
      return part == Part::Key ? getKey() : getValue();
    }
    /// The levels that a part may have: keys have none below 2.
    ::llvm::ArrayRef<int64_t> getLevels(Part part) const {
      return part == Part::Key && getLadder().back() == 1
                 ? getLadder().drop_back()
                 : getLadder();
    }
    bool hasLevel(Part part, int64_t bits) const {
      return ::llvm::is_contained(getLevels(part), bits);
    }
    /// This type with other formats.
    CacheType withFormats(FormatAttr key, FormatAttr value) const {
      return CacheType::get(getContext(), getKvHeads(), getHeadDim(), key,
                            value, getLadder(), getSink());
    }
    /// A planned type with default clips: what all layers of a program have in
    /// common, for only decoding depends on a clip.
    CacheType withoutClips() const {
      return withFormats(getKey().withClip(FormatAttr::kDefaultClip),
                         getValue().withClip(FormatAttr::kDefaultClip));
    }
    /// Bytes that the parameters of one part of a page take.
    int64_t getParameterBytes(Part part) const;
  }];
}

def PMKVQ_BatchType : PMKVQ_Type<"Batch", "batch"> {
  let summary = "the ragged batch of rows that a step works on";
  let description = [{
    A row is one token of one sequence.  The batch knows each row's sequence and
    place in the cache, and the work list of attention.
  }];
}

def PMKVQ_PagesType : PMKVQ_Type<"Pages", "pages"> {
  let summary = "a list of pages to work on: layer, sequence, head, page";
}

def PMKVQ_FeedbackType : PMKVQ_Type<"Feedback", "feedback"> {
  let summary = "what rounds a kv head's keys to where queries are small";
  let description = [{
    Of one layer and kv head: where 2-bit codes lie in a range, and how what one
    head dim loses changes those after it (pmkvq_rt/Abi.h).
  }];
}

def PMKVQ_PageType : PMKVQ_Type<"Page", "page"> {
  let summary = "one page of one kv head, at levels known at run time";
  let parameters = (ins "CacheType":$cache);
  let assemblyFormat = "`<` $cache `>`";
}

def PMKVQ_TileType : PMKVQ_Type<"Tile", "tile"> {
  let summary = "codes and parameters of up to `tokens` tokens of one part";
  let description = [{
    A value: codes at `level` bits, [tokens, head_dim], and the parameters by
    which `format` decodes them.  A tile without a format is raw: bf16 values, a
    run-time number of tokens, at most `tokens`.  So is a whole part at level 16
    of a format whose first level is below 16.

    (C1) `level` is 16, 8, 4 or 2, or 1 for values.
    (C2) A tile with a format is a page, 128 tokens, or a unit of 64, 32 or 16;
         one without has 1 to 144.
    (C3) `head_dim` is 64, 80, 96, 128 or 256.
    (C4) A tile without a format is at level 16.
    (C5) The format's group divides its axis.
    (C6) At level 1 `head_dim` is a multiple of 64.

    Example: `!pmkvq.tile<key, 4, 128, 128, <per_channel, hadamard, clip = 0.8>>`
  }];
  let parameters = (ins EnumParameter<PMKVQ_Part>:$part, "int64_t":$level,
                        "int64_t":$tokens, "int64_t":$head_dim,
                        OptionalParameter<"FormatAttr">:$format);
  let assemblyFormat = [{
    `<` $part `,` $level `,` $tokens `,` $head_dim (`,` $format^)? `>`
  }];
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    /// The elements that a product with this tile sums over: head dims for keys,
    /// tokens for values.  The other axis is the product's width.
    int64_t getReduction() const {
      return getPart() == Part::Key ? getHeadDim() : getTokens();
    }
    int64_t getWidth() const {
      return getPart() == Part::Key ? getTokens() : getHeadDim();
    }
    /// Whether the elements are bf16 values.
    bool isRaw() const;
    /// Number of parameter groups: head dims or tokens, as the format says, or
    /// several times that if groups are smaller than the axis.
    int64_t getGroups() const;
    /// Whether groups are smaller than the axis.
    bool hasPartialGroups() const;
    /// Whether groups lie along the summed axis.
    bool groupsAlongReduction() const;
    /// The raw tile of the same size.
    TileType raw() const {
      return TileType::get(getContext(), getPart(), 16, getTokens(),
                           getHeadDim(), FormatAttr());
    }
    TileType withLevel(int64_t level) const {
      return TileType::get(getContext(), getPart(), level, getTokens(),
                           getHeadDim(), getFormat());
    }
  }];
}

def PMKVQ_RowsType : PMKVQ_Type<"Rows", "rows"> {
  let summary = "a small f32 matrix: one row a query";
  let description = [{
    Queries [queries, head_dim], scores and probabilities [queries, tokens], or
    outputs [queries, head_dim]; where the elements lie is the target's choice.

    (C1) Both sizes are positive.
  }];
  let parameters = (ins "int64_t":$queries, "int64_t":$width);
  let assemblyFormat = "`<` $queries `,` $width `>`";
  let genVerifyDecl = 1;
}

def PMKVQ_IntegerRowsType : PMKVQ_Type<"IntegerRows", "integer_rows"> {
  let summary = "rows rounded to 16-bit integers";
  let description = [{
    An operand of products of integers: -32767 to 32767, in units that each row
    has of its own.

    (C1) Both sizes are positive.
  }];
  let parameters = (ins "int64_t":$queries, "int64_t":$width);
  let assemblyFormat = "`<` $queries `,` $width `>`";
  let genVerifyDecl = 1;
}

def PMKVQ_SoftmaxType : PMKVQ_Type<"Softmax", "softmax"> {
  let summary = "running state of an online softmax over values";
  let description = [{
    Per query: the maximum m and the sum l of 2^(x - m), and the sum of
    2^(x - m) * value, [queries, head_dim].  A state is used once: every op on
    it gives the next state.

    (C1) Both sizes are positive.
  }];
  let parameters = (ins "int64_t":$queries, "int64_t":$head_dim);
  let assemblyFormat = "`<` $queries `,` $head_dim `>`";
  let genVerifyDecl = 1;
}

#endif // PMKVQ_TYPES_TD
