//===- PMKVQWarpgroupOps.td - Prefill on a GPU -------------*- tablegen -*-===//
//
// Attention of many query rows a task: its tile form, and the steps that its
// lowering to warpgroups goes through.  Neighbours: PMKVQUnitOps.td (decode's;
// includes this file), pmkvq/Target/WarpgroupLayout.h (tiles and lanes),
// pmkvq_rt/DeviceAbi.h (tasks and page lists).
//
// Mental model.  A thread block has 128 query rows of one kv head and goes over
// a list of pages.  One warpgroup makes f16 tiles of a page's keys and values,
// of whatever levels they are; two others, of 64 rows each, multiply:
//
//   dequantize warpgroup     load_fragments -> dequantize_fragments -> tile
//   each other one           tile -> score_product -> mask_scores
//                            -> tile_softmax -> pack_weights -> value_product
//
// Only the first two know levels and formats.  Tiles pass to the others through
// a ring, and come back when both have read them.
//
// Lane 4 g + t of warp w has rows 16 w + g and 16 w + g + 8 of its warpgroup's:
// elements 4 i, 4 i + 1 of a vector of 64 are columns 8 i + 2 t and the next of
// the first row, 4 i + 2 and 4 i + 3 those of the second.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_WARPGROUP_OPS_TD
#define PMKVQ_WARPGROUP_OPS_TD

//===----------------------------------------------------------------------===//
// Tile form
//===----------------------------------------------------------------------===//

def PMKVQ_PrefillTaskOp : PMKVQ_Op<"prefill_task", [Pure]> {
  let summary = "one entry of the work list of prefill attention";
  let description = [{
    `rows` query rows from `row` on, of kv head `head`, over the pages of
    `segment`.

    Lowers to: loads from the list.

    ```mlir
    func.func @f(%work: !pmkvq.work, %block: index) -> index {
      %segment, %row, %rows, %head = pmkvq.prefill_task %work[%block]
      return %rows : index
    }
    ```
  }];
  let arguments = (ins PMKVQ_WorkType:$work, Index:$worker);
  let results = (outs PMKVQ_SegmentType:$segment, Index:$row, Index:$rows,
                      Index:$head);
  let assemblyFormat = "$work `[` $worker `]` attr-dict";
}

def PMKVQ_ForPageOp : PMKVQ_Op<"for_page", [
    RecursiveMemoryEffects, AllTypesMatch<["init", "result"]>,
    SingleBlock, SingleBlockImplicitTerminator<"YieldOp">]> {
  let summary = "attends over a list of pages";
  let description = [{
    (C1) The region takes the state, a page, and how many of its tokens the
         first row sees; each next row sees one more, up to those that count.
    (C2) It yields the next state.

    Lowers to: the loops of the warpgroups.

    ```mlir
    !state = !pmkvq.softmax<128, 128>
    !page = !pmkvq.page<<kv_heads = 2, head_dim = 128, key = <per_channel>,
                         value = <per_token>, ladder = [4]>>
    func.func @f(%segment: !pmkvq.segment, %init: !state) -> !state {
      %r = pmkvq.for_page %segment from %init : !state {
      ^bb0(%state: !state, %page: !page, %visible: index):
        pmkvq.yield %state : !state
      }
      return %r : !state
    }
    ```
  }];
  let arguments = (ins PMKVQ_SegmentType:$segment, PMKVQ_SoftmaxType:$init);
  let results = (outs PMKVQ_SoftmaxType:$result);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $segment `from` $init attr-dict `:` type($init) $body
  }];
  let hasVerifier = 1;
}

def PMKVQ_DequantizeOp : PMKVQ_Op<"dequantize", [Pure]> {
  let summary = "the elements that a tile's codes stand for";
  let description = [{
    offset + step * grid(code), as the format has it; a tile at level 16 is what
    it was.

    (C1) The result has no format; part, tokens and head_dim are the source's.

    Lowers to: `load_fragments` and `dequantize_fragments`.

    ```mlir
    !k4 = !pmkvq.tile<key, 4, 128, 128, <per_channel>>
    !raw = !pmkvq.tile<key, 16, 128, 128>
    func.func @f(%tile: !k4) -> !raw {
      %x = pmkvq.dequantize %tile : !k4 -> !raw
      return %x : !raw
    }
    ```
  }];
  let arguments = (ins PMKVQ_TileType:$source);
  let results = (outs PMKVQ_TileType:$result);
  let assemblyFormat = "$source attr-dict `:` type($source) `->` type($result)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// The dequantizing warpgroups
//===----------------------------------------------------------------------===//

def PMKVQ_LoadFragmentsOp : PMKVQ_Op<"load_fragments"> {
  let summary = "codes of a warp's share of a page";
  let description = [{
    `count` vectors from the warp's `first` on, of one part of a page at
    `level`, four words each (WarpShare, FragmentLayout.h).  `blocks` are the
    addresses of those that the warp reads, in grains from `codes`.

    (C1) `level` is on the ladder, the vectors are of the share.
    (C2) There are as many `blocks` as the share has, and four words a vector.

    Lowers to: 16-byte loads.

    ```mlir
    func.func @f(%codes: !llvm.ptr<1>, %block: i32, %warp: i32, %lane: i32)
        -> vector<16xi32> {
      %words = pmkvq.load_fragments key 4 vectors 0, 4 of %warp, %lane
        from %codes at %block : !llvm.ptr<1> -> vector<16xi32>
      return %words : vector<16xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, I64Attr:$level, I64Attr:$first,
                       I64Attr:$count, I32:$warp, I32:$lane, AnyType:$codes,
                       Variadic<I32>:$blocks);
  let results = (outs PMKVQ_LaneVector<I32>:$words);
  let assemblyFormat = [{
    $part $level `vectors` $first `,` $count `of` $warp `,` $lane `from` $codes
    `at` $blocks attr-dict `:` type($codes) `->` type($words)
  }];
  let hasVerifier = 1;
}

def PMKVQ_LoadGroupsOp : PMKVQ_Op<"load_groups"> {
  let summary = "parameters of the columns of a warp's share";
  let description = [{
    For each block of 32 columns four words of ranges, then four of minima, in
    pairs of columns (e0 e2), (e1 e3) of both halves.  `parameters` is where the
    part's begin in the page's slot.

    With `block` they are those of that one block, whose number does not depend
    on the warp.

    (C1) `level` is one with parameters, `block` below 4.
    (C2) There are eight words for each block of columns.

    Lowers to: 16-byte loads and byte permutations.

    ```mlir
    func.func @f(%parameters: !llvm.ptr<1>, %warp: i32, %lane: i32)
        -> vector<16xi32> {
      %words = pmkvq.load_groups key 4 of %warp, %lane from %parameters
        : !llvm.ptr<1> -> vector<16xi32>
      return %words : vector<16xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, I64Attr:$level,
                       OptionalAttr<I64Attr>:$block, I32:$warp, I32:$lane,
                       AnyType:$parameters);
  let results = (outs PMKVQ_LaneVector<I32>:$words);
  let assemblyFormat = [{
    $part $level (`block` $block^)? `of` $warp `,` $lane `from` $parameters attr-dict
    `:` type($parameters) `->` type($words)
  }];
  let hasVerifier = 1;
}

def PMKVQ_DequantizeFragmentsOp : PMKVQ_Op<"dequantize_fragments"> {
  let summary = "codes of a warp's share to elements of a tile";
  let description = [{
    Writes offset + step * code of the vectors in `words` to the f16 tile at
    `tile`, in units of HalfTile::kUnit; without `format` they are raw bf16.
    `wide` ranges may be any fp16, others are at most rt::kNarrowRange.

    (C1) `words` are those of `load_fragments` with the same attributes.
    (C2) With a format there are the words of `load_groups`, else none, and
         nothing is `wide`.
    (C3) Of raw vectors both halves of 32 columns are there.

    Lowers to: for two elements one AND (and a shift where a field is not in the
    low byte), of `wide` ranges a multiplication, and one multiply-add of f16;
    for eight, a 16-byte store.

    ```mlir
    func.func @f(%tile: !llvm.ptr<3>, %words: vector<16xi32>,
                 %groups: vector<16xi32>, %warp: i32, %lane: i32) {
      pmkvq.dequantize_fragments key 4 format <per_channel> vectors 0, 4
        of %warp, %lane %words groups(%groups : vector<16xi32>) into %tile
        : vector<16xi32>, !llvm.ptr<3>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, I64Attr:$level,
                       OptionalAttr<PMKVQ_FormatAttr>:$format, UnitAttr:$wide,
                       I64Attr:$first, I64Attr:$count, I32:$warp, I32:$lane,
                       PMKVQ_LaneVector<I32>:$words,
                       Optional<PMKVQ_LaneVector<I32>>:$groups,
                       PMKVQ_Shared:$tile);
  let assemblyFormat = [{
    $part $level (`format` $format^)? (`wide` $wide^)? `vectors` $first `,` $count
    `of` $warp `,` $lane $words (`groups` `(` $groups^ `:` type($groups) `)`)? `into` $tile
    attr-dict `:` type($words) `,` type($tile)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// The multiplying warpgroups
//===----------------------------------------------------------------------===//

def PMKVQ_ScoreProductOp : PMKVQ_Op<"score_product",
    [AllTypesMatch<["registers", "scores"]>]> {
  let summary = "starts the product of 64 queries with a tile of keys";
  let description = [{
    `queries` and `keys` are where the warpgroup's rows and the tile begin.  The
    product goes to the registers of `registers`, whose values it does not read;
    it is there after `await_products`.

    (C1) 64 accumulators.

    Lowers to: 8 `wgmma` of 16 dims each, and a commit.

    ```mlir
    func.func @f(%queries: !llvm.ptr<3>, %keys: !llvm.ptr<3>, %x: vector<64xf32>)
        -> vector<64xf32> {
      %s = pmkvq.score_product %queries, %keys in %x
        : !llvm.ptr<3>, !llvm.ptr<3>, vector<64xf32>
      return %s : vector<64xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_Shared:$queries, PMKVQ_Shared:$keys,
                       PMKVQ_LaneVector<F32>:$registers);
  let results = (outs PMKVQ_LaneVector<F32>:$scores);
  let assemblyFormat = [{
    $queries `,` $keys `in` $registers attr-dict
    `:` type($queries) `,` type($keys) `,` type($registers)
  }];
  let hasVerifier = 1;
}

def PMKVQ_ValueProductOp : PMKVQ_Op<"value_product",
    [AllTypesMatch<["outputs", "next"]>]> {
  let summary = "starts adding the product of weights with a tile of values";
  let description = [{
    (C1) 64 accumulators, 32 words of weights.

    Lowers to: 8 `wgmma` of 16 tokens each with weights from registers, and a
    commit.

    ```mlir
    func.func @f(%o: vector<64xf32>, %p: vector<32xi32>, %values: !llvm.ptr<3>)
        -> vector<64xf32> {
      %n = pmkvq.value_product %o, %p, %values
        : vector<64xf32>, vector<32xi32>, !llvm.ptr<3>
      return %n : vector<64xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$outputs,
                       PMKVQ_LaneVector<I32>:$weights, PMKVQ_Shared:$values);
  let results = (outs PMKVQ_LaneVector<F32>:$next);
  let assemblyFormat = [{
    $outputs `,` $weights `,` $values attr-dict
    `:` type($outputs) `,` type($weights) `,` type($values)
  }];
  let hasVerifier = 1;
}

def PMKVQ_AwaitProductsOp : PMKVQ_Op<"await_products",
    [AllTypesMatch<["registers", "results"]>]> {
  let summary = "waits for products, all but the last `pending`";
  let description = [{
    Registers of a product under way must not be touched: what comes after this
    takes its result.

    Lowers to: one wait, to which the registers are tied.

    ```mlir
    func.func @f(%x: vector<64xf32>) -> vector<64xf32> {
      %r = pmkvq.await_products %x pending 1 : vector<64xf32>
      return %r : vector<64xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$registers, I64Attr:$pending);
  let results = (outs PMKVQ_LaneVector<F32>:$results);
  let assemblyFormat = "$registers `pending` $pending attr-dict `:` type($registers)";
}

def PMKVQ_MaskScoresOp : PMKVQ_Op<"mask_scores",
    [Pure, AllTypesMatch<["scores", "result"]>]> {
  let summary = "hides the tokens that a lane's rows must not see";
  let description = [{
    Scores of tokens from `visible` on become minus infinity, in each of the
    lane's two rows.

    (C1) 64 scores.

    Lowers to: a comparison with a constant and a selection for each score.

    ```mlir
    func.func @f(%x: vector<64xf32>, %t: i32, %n: i32) -> vector<64xf32> {
      %r = pmkvq.mask_scores %x lane %t visible %n, %n : vector<64xf32>
      return %r : vector<64xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$scores, I32:$lane, I32:$first,
                       I32:$second);
  let results = (outs PMKVQ_LaneVector<F32>:$result);
  let assemblyFormat = [{
    $scores `lane` $lane `visible` $first `,` $second attr-dict
    `:` type($scores)
  }];
  let hasVerifier = 1;
}

def PMKVQ_TileSoftmaxOp : PMKVQ_Op<"tile_softmax",
    [AllTypesMatch<["scores", "weights"]>]> {
  let summary = "weights of a tile against a maximum that seldom rises";
  let description = [{
    For each of the lane's two rows weight = 2^(score * factor - maximum).  The
    maximum is not searched for: weights are taken against the one there is, and
    if any of the warp's is 2 or more, their bits say so: it rises to 2^4 above
    the largest weight, and sums and weights become what they would have been.
    `rescaled` says that it rose, `rescale` what outputs are worth then.  With
    `first` there is no maximum yet: it is set to 4 above the largest score.

    Weights of scores that are 2^7 above the maximum, in log2, are infinite.
    With `far` the maximum rises before weights are made, to 5 above the largest
    score, where the signs of distances from it say that one is above it; factors
    are positive.

    Sums are the lane's own.

    (C1) 64 scores; two maxima, sums and factors.

    Lowers to: a multiply-add, 2^x, an addition and half a logical operation for
    each score, a vote, and a branch seldom taken.

    ```mlir
    func.func @f(%x: vector<64xf32>, %m: f32, %l: f32, %c: f32) -> vector<64xf32> {
      %w, %m0, %m1, %l0, %l1, %rescaled, %a0, %a1 = pmkvq.tile_softmax %x
        maxima(%m, %m) sums(%l, %l) factors(%c, %c) : vector<64xf32>
      return %w : vector<64xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$scores, F32:$max0, F32:$max1,
                       F32:$sum0, F32:$sum1, F32:$factor0, F32:$factor1,
                       UnitAttr:$first, UnitAttr:$far);
  let results = (outs PMKVQ_LaneVector<F32>:$weights, F32:$next_max0,
                      F32:$next_max1, F32:$next_sum0, F32:$next_sum1,
                      I1:$rescaled, F32:$rescale0, F32:$rescale1);
  let assemblyFormat = [{
    (`first` $first^)? (`far` $far^)? $scores `maxima` `(` $max0 `,` $max1 `)` `sums` `(` $sum0
    `,` $sum1 `)` `factors` `(` $factor0 `,` $factor1 `)` attr-dict
    `:` type($scores)
  }];
  let hasVerifier = 1;
}

def PMKVQ_PackWeightsOp : PMKVQ_Op<"pack_weights", [Pure]> {
  let summary = "weights from accumulators to operands of the values' product";
  let description = [{
    Columns of scores are columns of values, so nothing moves between lanes.

    (C1) Two weights a word.

    Lowers to: a conversion for two weights.

    ```mlir
    func.func @f(%w: vector<64xf32>) -> vector<32xi32> {
      %p = pmkvq.pack_weights %w : vector<64xf32> -> vector<32xi32>
      return %p : vector<32xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$weights);
  let results = (outs PMKVQ_LaneVector<I32>:$words);
  let assemblyFormat = "$weights attr-dict `:` type($weights) `->` type($words)";
  let hasVerifier = 1;
}

#endif // PMKVQ_WARPGROUP_OPS_TD
