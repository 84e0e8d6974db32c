//===- PMKVQSoftmaxOps.td - Attention on tiles --------------*- tablegen -*-===//
//
// Scores, masks, the online softmax and its partial results.  Neighbours:
// PMKVQTileOps.td (tiles and rows; includes this file and holds the mental
// model).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_SOFTMAX_OPS_TD
#define PMKVQ_SOFTMAX_OPS_TD

def PMKVQ_ScoresOp : PMKVQ_Op<"scores", [Pure]> {
  let summary = "scores of queries against the keys of a tile";
  let description = [{
    (C1) The tile holds keys; `queries` is as wide as its head_dim, the result
         as its tokens.

    Lowers to: `contract` and the format's algebra.

    ```mlir
    !k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
    func.func @f(%q: !pmkvq.rows<3, 64>, %tile: !k4) -> !pmkvq.rows<3, 128> {
      %x = pmkvq.scores %q, %tile
        : !pmkvq.rows<3, 64>, !k4 -> !pmkvq.rows<3, 128>
      return %x : !pmkvq.rows<3, 128>
    }
    ```
  }];
  let arguments = (ins PMKVQ_RowsType:$queries, PMKVQ_TileType:$keys);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = [{
    $queries `,` $keys attr-dict
    `:` type($queries) `,` type($keys) `->` type($result)
  }];
  let hasVerifier = 1;
}

def PMKVQ_CausalMaskOp : PMKVQ_Op<"causal_mask",
    [Pure, AllTypesMatch<["scores", "result"]>]> {
  let summary = "hides the tokens that a row must not see";
  let description = [{
    Row q keeps the columns below `visible` + q / group; the others become minus
    infinity.

    (C1) `group` divides the queries.

    Lowers to: a comparison and a selection.

    ```mlir
    func.func @f(%x: !pmkvq.rows<24, 129>, %visible: index)
        -> !pmkvq.rows<24, 129> {
      %r = pmkvq.causal_mask %x visible %visible group 3 : !pmkvq.rows<24, 129>
      return %r : !pmkvq.rows<24, 129>
    }
    ```
  }];
  let arguments = (ins PMKVQ_RowsType:$scores, Index:$visible, I64Attr:$group);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = [{
    $scores `visible` $visible `group` $group attr-dict `:` type($scores)
  }];
  let hasVerifier = 1;
}

def PMKVQ_SoftmaxInitOp : PMKVQ_Op<"softmax_init"> {
  let summary = "the state before any token";
  let description = [{
    Lowers to: constants.

    ```mlir
    func.func @f() -> !pmkvq.softmax<3, 64> {
      %state = pmkvq.softmax_init : !pmkvq.softmax<3, 64>
      return %state : !pmkvq.softmax<3, 64>
    }
    ```
  }];
  let results = (outs PMKVQ_SoftmaxType:$state);
  let assemblyFormat = "attr-dict `:` type($state)";
}

def PMKVQ_SoftmaxUpdateOp : PMKVQ_Op<"softmax_update",
    [AllTypesMatch<["state", "next"]>, AllTypesMatch<["scores", "weights"]>]> {
  let summary = "takes a tile's scores into the state";
  let description = [{
    Raises the maximum, rescales the state, and gives 2^(score - maximum): scores
    are in units of log2.

    (C1) `scores` has as many rows as the state has queries.
    (C2) `state` has no other use.

    Lowers to: a maximum a row, 2^x by a polynomial, a sum a row.

    ```mlir
    !state = !pmkvq.softmax<3, 64>
    !x = !pmkvq.rows<3, 128>
    func.func @f(%state: !state, %x: !x) -> (!state, !x) {
      %next, %weights = pmkvq.softmax_update %state, %x : !state, !x
      return %next, %weights : !state, !x
    }
    ```
  }];
  let arguments = (ins PMKVQ_SoftmaxType:$state, PMKVQ_RowsType:$scores);
  let results = (outs PMKVQ_SoftmaxType:$next, PMKVQ_RowsType:$weights);
  let assemblyFormat = [{
    $state `,` $scores attr-dict `:` type($state) `,` type($scores)
  }];
  let hasVerifier = 1;
}

def PMKVQ_AccumulateOp : PMKVQ_Op<"accumulate",
    [AllTypesMatch<["state", "next"]>]> {
  let summary = "adds weighted values of a tile to the state";
  let description = [{
    (C1) The tile holds values; `weights` is as wide as its tokens.
    (C2) `state` has no other use.

    Lowers to: `contract`, the format's algebra, `softmax_add`.

    ```mlir
    !state = !pmkvq.softmax<3, 64>
    !x = !pmkvq.rows<3, 128>
    !v4 = !pmkvq.tile<value, 4, 128, 64, <per_token>>
    func.func @f(%state: !state, %weights: !x, %tile: !v4) -> !state {
      %next = pmkvq.accumulate %state, %weights, %tile : !state, !x, !v4
      return %next : !state
    }
    ```
  }];
  let arguments = (ins PMKVQ_SoftmaxType:$state, PMKVQ_RowsType:$weights,
                       PMKVQ_TileType:$values);
  let results = (outs PMKVQ_SoftmaxType:$next);
  let assemblyFormat = [{
    $state `,` $weights `,` $values attr-dict
    `:` type($state) `,` type($weights) `,` type($values)
  }];
  let hasVerifier = 1;
}

def PMKVQ_SoftmaxAddOp : PMKVQ_Op<"softmax_add",
    [AllTypesMatch<["state", "next"]>]> {
  let summary = "adds rows to the state's sum of values";
  let description = [{
    (C1) `rows` is [queries, head_dim].
    (C2) `state` has no other use.

    Lowers to: additions.

    ```mlir
    !state = !pmkvq.softmax<3, 64>
    func.func @f(%state: !state, %rows: !pmkvq.rows<3, 64>) -> !state {
      %next = pmkvq.softmax_add %state, %rows : !state, !pmkvq.rows<3, 64>
      return %next : !state
    }
    ```
  }];
  let arguments = (ins PMKVQ_SoftmaxType:$state, PMKVQ_RowsType:$rows);
  let results = (outs PMKVQ_SoftmaxType:$next);
  let assemblyFormat = [{
    $state `,` $rows attr-dict `:` type($state) `,` type($rows)
  }];
  let hasVerifier = 1;
}

def PMKVQ_StorePartialOp : PMKVQ_Op<"store_partial"> {
  let summary = "leaves a state for the merge";
  let description = [{
    Lowers to: stores to the batch's partial results.

    ```mlir
    !state = !pmkvq.softmax<3, 64>
    func.func @f(%state: !state, %b: !pmkvq.batch, %partial: index) {
      pmkvq.store_partial %state, %b[%partial] : !state
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_SoftmaxType:$state, PMKVQ_BatchType:$batch,
                       Index:$partial);
  let assemblyFormat = "$state `,` $batch `[` $partial `]` attr-dict `:` type($state)";
}

def PMKVQ_MergePartialOp : PMKVQ_Op<"merge_partial",
    [AllTypesMatch<["state", "next"]>]> {
  let summary = "takes a stored state into this one";
  let description = [{
    (C1) `state` has no other use.

    Lowers to: a maximum, two rescalings, a sum.

    ```mlir
    !state = !pmkvq.softmax<3, 64>
    func.func @f(%state: !state, %b: !pmkvq.batch, %partial: index) -> !state {
      %next = pmkvq.merge_partial %state, %b[%partial] : !state
      return %next : !state
    }
    ```
  }];
  let arguments = (ins PMKVQ_SoftmaxType:$state, PMKVQ_BatchType:$batch,
                       Index:$partial);
  let results = (outs PMKVQ_SoftmaxType:$next);
  let assemblyFormat = [{
    $state `,` $batch `[` $partial `]` attr-dict `:` type($state)
  }];
  let hasVerifier = 1;
}

def PMKVQ_SoftmaxFinishOp : PMKVQ_Op<"softmax_finish", [Pure]> {
  let summary = "the attention output of a state";
  let description = [{
    (C1) The result is [queries, head_dim].

    Lowers to: one division a row.

    ```mlir
    !state = !pmkvq.softmax<3, 64>
    func.func @f(%state: !state) -> !pmkvq.rows<3, 64> {
      %out = pmkvq.softmax_finish %state : !state -> !pmkvq.rows<3, 64>
      return %out : !pmkvq.rows<3, 64>
    }
    ```
  }];
  let arguments = (ins PMKVQ_SoftmaxType:$state);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = "$state attr-dict `:` type($state) `->` type($result)";
  let hasVerifier = 1;
}

#endif // PMKVQ_SOFTMAX_OPS_TD
