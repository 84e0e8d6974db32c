//===- PMKVQOperandOps.td - Decoding many tokens on a GPU ---*- tablegen -*-===//
//
// The steps that attention of many queries of a pair goes through, where a
// page's codes are left operands of matrix instructions.  Neighbours:
// PMKVQWarpgroupOps.td (prefill, where queries are; its tile form),
// PMKVQUnitOps.td (includes this file), pmkvq/Target/WarpgroupLayout.h (who has
// which codes).
//
// Mental model.  A thread block has up to 64 queries of one kv head, n of them
// with padding, and a run of its pages, which its warpgroups take in turns, each
// with a state of its own.  Rows and columns change places: a page's codes
// become left operands in the registers that they were loaded to (OperandShare),
// queries and weights are right operands in shared memory.
//
//   decode_operands -> multiply_operands -> scores [token][query]
//   -> mask_columns -> weigh_columns -> store_weights
//   decode_operands -> multiply_operands -> outputs [dim][query]
//
// Where queries are few, steps and offsets are *folded*: of keys into queries,
// of values into weights, so that codes are multiplied as they are
// (FoldedUnits).  An offset is what all elements of a column have, so that it
// adds the same to a query's scores, or to its outputs.
//
// n accumulators of a lane: of two products of 64 rows n / 2 each, in which
// 4 j + 2 u + v is row 16 (2 w + m) + 8 u + g of product m and column
// 8 j + 2 t + v.  So a lane has n / 4 queries: 8 (i / 2) + 2 t + i % 2.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_OPERAND_OPS_TD
#define PMKVQ_OPERAND_OPS_TD

def PMKVQ_DecodeOperandsOp : PMKVQ_Op<"decode_operands", [Pure]> {
  let summary = "codes of a block of columns to left operands";
  let description = [{
    offset + step * code of the warp's rows and the 32 columns of `block`, in
    units of HalfTile::kUnit; at level 16 they are raw bf16, keys in units of
    HalfTile::kRawUnit.  `groups` are
    steps of pairs of columns (e0 e2), (e1 e3) of both halves, for fields at the
    lowest exponent, then offsets; with `wide` steps are 2^kWideExponent less.
    With `exponents` they are codes alone, in units of 2^-24, or raw elements in
    kRawUnit, of rows 8 u + g of product m times 2 to the power of exponent
    2 m + u.
    Four words for each product and each half of the columns.

    (C1) `level` is on the ladder, `block` below 4, and `words` are those of a
         piece of OperandShare.
    (C2) Below level 16 there are a format and eight words of groups, or
         exponents; else neither of the former is there, and nothing is `wide`.
    (C3) 16 words of operands.
    (C4) Exponents are four, of 0 to 6.

    Lowers to: for two elements one AND (and a shift where a field is not in the
    low byte) and, without exponents, one multiply-add of f16, before which
    `wide` ones are multiplied.

    ```mlir
    func.func @f(%words: vector<16xi32>, %groups: vector<8xi32>)
        -> vector<16xi32> {
      %a = pmkvq.decode_operands key 4 format <per_channel> block 1 of %words
        groups(%groups : vector<8xi32>) : vector<16xi32> -> vector<16xi32>
      return %a : vector<16xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, I64Attr:$level,
                       OptionalAttr<PMKVQ_FormatAttr>:$format, UnitAttr:$wide,
                       OptionalAttr<DenseI32ArrayAttr>:$exponents,
                       I64Attr:$block, PMKVQ_LaneVector<I32>:$words,
                       Optional<PMKVQ_LaneVector<I32>>:$groups);
  let results = (outs PMKVQ_LaneVector<I32>:$left);
  let assemblyFormat = [{
    $part $level (`format` $format^)? (`wide` $wide^)?
    (`exponents` $exponents^)? `block` $block `of` $words
    (`groups` `(` $groups^ `:` type($groups) `)`)? attr-dict
    `:` type($words) `->` type($left)
  }];
  let hasVerifier = 1;
}

def PMKVQ_MultiplyOperandsOp : PMKVQ_Op<"multiply_operands"> {
  let summary = "starts adding products of 128 rows with queries or weights";
  let description = [{
    Both products of 64 rows, of 32 columns: `left` are those of
    `decode_operands` of `block`, `rows` is where the right operand begins.
    Without `accumulators` nothing is added to.

    (C1) 16 words of operands, `block` below 4.
    (C2) n accumulators, a multiple of 8 up to 64.

    Lowers to: a fence, 4 `wgmma` with the left operand from registers, a commit,
    and a wait for the product before.

    ```mlir
    func.func @f(%x: vector<16xf32>, %a: vector<16xi32>, %rows: !llvm.ptr<3>)
        -> vector<16xf32> {
      %r = pmkvq.multiply_operands %a, %rows block 1 to %x : vector<16xf32>
        : vector<16xi32>, !llvm.ptr<3> -> vector<16xf32>
      return %r : vector<16xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<I32>:$left, PMKVQ_Shared:$rows,
                       Optional<PMKVQ_LaneVector<F32>>:$accumulators,
                       I64Attr:$block);
  let results = (outs PMKVQ_LaneVector<F32>:$next);
  let assemblyFormat = [{
    $left `,` $rows `block` $block
    (`to` $accumulators^ `:` type($accumulators))? attr-dict
    `:` type($left) `,` type($rows) `->` type($next)
  }];
  let hasVerifier = 1;
}

def PMKVQ_MaskColumnsOp : PMKVQ_Op<"mask_columns",
    [Pure, AllTypesMatch<["scores", "result"]>]> {
  let summary = "hides the tokens that a lane's queries must not see";
  let description = [{
    Scores of tokens from `visible` on become minus infinity, for each of the
    lane's queries.  `token` is the lane's first.

    (C1) n scores, n / 4 words of `visible`.

    Lowers to: a comparison with a constant and a selection for each score.

    ```mlir
    func.func @f(%x: vector<16xf32>, %t: i32, %n: vector<4xi32>)
        -> vector<16xf32> {
      %r = pmkvq.mask_columns %x from %t visible %n
        : vector<16xf32>, vector<4xi32>
      return %r : vector<16xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$scores, I32:$token,
                       PMKVQ_LaneVector<I32>:$visible);
  let results = (outs PMKVQ_LaneVector<F32>:$result);
  let assemblyFormat = [{
    $scores `from` $token `visible` $visible attr-dict
    `:` type($scores) `,` type($visible)
  }];
  let hasVerifier = 1;
}

def PMKVQ_LargestOfColumnsOp : PMKVQ_Op<"largest_of_columns", [Pure]> {
  let summary = "largest score of each query among the warp's tokens";
  let description = [{
    (C1) n scores, n / 4 results.

    Lowers to: maxima in the lane, then over the 8 lanes of a query.

    ```mlir
    func.func @f(%x: vector<16xf32>) -> vector<4xf32> {
      %r = pmkvq.largest_of_columns %x : vector<16xf32> -> vector<4xf32>
      return %r : vector<4xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$scores);
  let results = (outs PMKVQ_LaneVector<F32>:$largest);
  let assemblyFormat = "$scores attr-dict `:` type($scores) `->` type($largest)";
  let hasVerifier = 1;
}

def PMKVQ_WeighColumnsOp : PMKVQ_Op<"weigh_columns",
    [Pure, AttrSizedOperandSegments, AllTypesMatch<["maxima", "sums"]>]> {
  let summary = "weights of scores against maxima that seldom rise";
  let description = [{
    weight = 2^(score * factor - maximum), with the factor of the token, one of
    the lane's four, 2 m + u; as words of two neighbouring queries: word
    (2 m + u) n / 8 + j has elements 4 j + 2 u and the next of product m.
    `sums` are of the lane's weights of this page; `above` says that one of them
    is 2 or more, whereupon maxima are to rise.

    `folding` are factors of weights and then offsets of the lane's tokens:
    words have weights times factors, `offset_sums` are of weights times
    offsets.

    (C1) n scores, 4 factors, n / 4 maxima, n / 2 words.
    (C2) With 8 of folding there are n / 4 offset sums, else none of either.

    Lowers to: a multiply-add, 2^x, an addition and half a logical operation and
    a conversion for each score, and two operations more with `folding`.

    ```mlir
    func.func @f(%x: vector<16xf32>, %s: f32, %m: vector<4xf32>,
                 %f: vector<8xf32>) -> vector<8xi32> {
      %w, %sums, %above = pmkvq.weigh_columns %x factors(%s, %s, %s, %s)
        maxima %m : vector<16xf32>, vector<4xf32> -> vector<8xi32>
      %v, %sums2, %above2, %offsets = pmkvq.weigh_columns %x
        factors(%s, %s, %s, %s) maxima %m folding %f : vector<8xf32> to vector<4xf32>
        : vector<16xf32>, vector<4xf32> -> vector<8xi32>
      return %v : vector<8xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$scores,
                       Variadic<F32>:$factors,
                       PMKVQ_LaneVector<F32>:$maxima,
                       Optional<PMKVQ_LaneVector<F32>>:$folding);
  let results = (outs PMKVQ_LaneVector<I32>:$words,
                      PMKVQ_LaneVector<F32>:$sums, I1:$above,
                      Optional<PMKVQ_LaneVector<F32>>:$offset_sums);
  let assemblyFormat = [{
    $scores `factors` `(` $factors `)` `maxima` $maxima
    (`folding` $folding^ `:` type($folding) `to` type($offset_sums))? attr-dict
    `:` type($scores) `,` type($maxima) `->` type($words)
  }];
  let hasVerifier = 1;
}

def PMKVQ_StoreWeightsOp : PMKVQ_Op<"store_weights"> {
  let summary = "weights to a right operand of the values' product";
  let description = [{
    `words` are those of `weigh_columns`; `tile` has a row of 128 tokens for each
    query.

    (C1) n / 2 words, n a multiple of 8 up to 64.

    Lowers to: `stmatrix` of two or four transposed matrices.

    ```mlir
    func.func @f(%w: vector<8xi32>, %tile: !llvm.ptr<3>, %warp: i32, %lane: i32) {
      pmkvq.store_weights %w of %warp, %lane into %tile
        : vector<8xi32>, !llvm.ptr<3>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<I32>:$words, I32:$warp, I32:$lane,
                       PMKVQ_Shared:$tile);
  let assemblyFormat = [{
    $words `of` $warp `,` $lane `into` $tile attr-dict
    `:` type($words) `,` type($tile)
  }];
  let hasVerifier = 1;
}

def PMKVQ_MergeWarpgroupsOp : PMKVQ_Op<"merge_warpgroups",
    [AllTypesMatch<["maxima", "sums"]>]> {
  let summary = "merges the states of a thread block's warpgroups";
  let description = [{
    As `merge_warps` does those of warps: for each query of the lane a maximum
    and a sum over its tokens, and n outputs in units of HalfTile::kUnit; or,
    with `offsets` of the lane's queries, which are added, of
    FoldedUnits::kCode times powers of two, of rows 8 u + g of product m exponent
    2 m + u.
    `shared` is the thread block's memory, `warpgroups` how many states there
    are.

    (C1) `group` * `rows` lies in 1 .. 64, n is that rounded up to a multiple of
         8, maxima, sums and offsets are n / 4.
    (C2) `warpgroups` lies in 1 .. 4.
    (C3) There are four exponents, of 0 to 30, if there are offsets, else none;
         n is at most 16 then.

    Lowers to: sums over the lanes of a query, stores to shared memory, a
    barrier, a sum over warpgroups in their order, a store.

    ```mlir
    func.func @f(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                 %i: i32, %m: vector<4xf32>, %o: vector<16xf32>) {
      pmkvq.merge_warpgroups pair %i shares %i partial %i (%m, %m, %o) through
        %shared to %out, %partials group 4 rows 4 more %i stride 32 warpgroups 3
        : vector<4xf32>, vector<16xf32>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_Shared:$shared, AnyType:$out,
                       AnyType:$partials, I32:$pair, I32:$shares, I32:$partial,
                       PMKVQ_LaneVector<F32>:$maxima,
                       PMKVQ_LaneVector<F32>:$sums,
                       PMKVQ_LaneVector<F32>:$outputs,
                       Optional<PMKVQ_LaneVector<F32>>:$offsets,
                       OptionalAttr<DenseI32ArrayAttr>:$exponents,
                       I32:$more_rows, I64Attr:$group, I64Attr:$rows,
                       I64Attr:$stride, I64Attr:$warpgroups);
  let assemblyFormat = [{
    `pair` $pair `shares` $shares `partial` $partial `(` $maxima `,` $sums `,`
    $outputs `)` (`plus` $offsets^ `:` type($offsets))?
    (`exponents` $exponents^)? `through` $shared `to` $out `,` $partials
    `group` $group `rows` $rows `more` $more_rows `stride` $stride `warpgroups` $warpgroups attr-dict
    `:` type($maxima) `,` type($outputs) `,` type($shared) `,` type($out) `,`
    type($partials)
  }];
  let hasVerifier = 1;
}

#endif // PMKVQ_OPERAND_OPS_TD
