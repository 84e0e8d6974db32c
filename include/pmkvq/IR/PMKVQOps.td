//===- PMKVQOps.td - Ops on whole caches -------------------*- tablegen -*-===//
//
// The upper floor: what a model does with its caches, and weights by name.
// Neighbours: PMKVQTileOps.td (the lower floor, included at the end).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_OPS_TD
#define PMKVQ_OPS_TD

include "pmkvq/IR/PMKVQTypes.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/DestinationStyleOpInterface.td"
include "mlir/Interfaces/FunctionInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class PMKVQ_Op<string opMnemonic, list<Trait> traits = []>
    : Op<PMKVQ_Dialect, opMnemonic, traits>;

//===----------------------------------------------------------------------===//
// Weights
//===----------------------------------------------------------------------===//

def PMKVQ_WeightOp : PMKVQ_Op<"weight", [Symbol]> {
  let summary = "a weight that lies outside the module, by name";
  let description = [{
    Declares the tensor `source` of the checkpoint, or as many of its rows as
    `type` has, from `first_row` on: some checkpoints keep several weights in
    one tensor.  When the program's weight table is made, `rotations` are applied
    to it, in order, and then its rows, or the elements of a vector, are
    multiplied by the powers of two whose exponents are `scale_rows`.

    (C1) `type` is a static bf16 tensor.
    (C2) Each rotation's `dim` exists and its `block` divides that dimension.
    (C3) `first_row` is at least 0, and the type has a dimension.
    (C4) `scale_rows` has as many exponents as the first dimension has indices.

    Lowers to: one entry of the weight table.

    ```mlir
    pmkvq.weight @v0 : tensor<256x384xbf16> from "layers.0.v_proj.weight"
    pmkvq.weight @r0 : tensor<256x384xbf16> from "layers.0.v_proj.weight"
      rotate [#pmkvq.rotation<dim = 0, block = 128>]
    pmkvq.weight @v1 : tensor<256x384xbf16> from "layers.0.qkv_proj.weight"
      first_row 1024
    pmkvq.weight @n0 : tensor<4xbf16> from "layers.0.k_norm.weight"
      scale_rows [-3, 0, -3, 0]
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
                       TypeAttrOf<AnyRankedTensor>:$type, StrAttr:$source,
                       OptionalAttr<I64Attr>:$first_row,
                       OptionalAttr<TypedArrayAttrBase<PMKVQ_RotationAttr,
                                    "rotations">>:$rotations,
                       OptionalAttr<DenseI8ArrayAttr>:$scale_rows);
  let assemblyFormat = [{
    $sym_name `:` $type `from` $source (`first_row` $first_row^)?
    (`rotate` $rotations^)? (`scale_rows` $scale_rows^)? attr-dict
  }];
  let hasVerifier = 1;
}

def PMKVQ_GetWeightOp : PMKVQ_Op<"get_weight",
    [Pure, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "the value of a weight";
  let description = [{
    (C1) `weight` names a `pmkvq.weight` whose shape and element type are the
         result's.

    Lowers to: a load of the pointer from the step's weight table.

    ```mlir
    pmkvq.weight @w : tensor<8x4xbf16> from "w"
    func.func @f() -> tensor<8x4xbf16> {
      %w = pmkvq.get_weight @w : tensor<8x4xbf16>
      return %w : tensor<8x4xbf16>
    }
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$weight);
  let results = (outs AnyTypeOf<[AnyRankedTensor, AnyMemRef]>:$result);
  let assemblyFormat = "$weight attr-dict `:` type($result)";
}

//===----------------------------------------------------------------------===//
// Caches
//===----------------------------------------------------------------------===//

def PMKVQ_CreateOp : PMKVQ_Op<"create"> {
  let summary = "makes the cache of one layer";
  let description = [{
    `max_tokens` bounds a sequence's length; `budget` is what the caches of all
    layers and sequences may take together, in bytes, everything counted.

    (C1) `layer` is not negative; `max_tokens` is positive and fits 32 bits.
    (C2) `budget`, if given, is positive.
    (C3) The schedule's floors are on the cache's ladder.
    (C4) A planned cache has a schedule.
    (C5) Its formats' grids are linear at every level above the floors.
    (C6) The budget holds, for layers 0 to this one and a single sequence, fixed
         areas and the first page of each kv head: this layer's at its floor,
         others' at the ladder's last level.
    (C7) `query_squares` of its calibration, if there are any, are one a kv head
         and head dim; keys that fall with feedback have them.

    (C8) `page_shares` of its calibration, if there are any, are as many for each kv
         head, 1 to 64.
    (C9) A schedule that goes by losses (`least_loss`) has a calibration with the
         losses of keys and of values, once the cache is planned; with a floor
         of 1 of values at 1 bit, too.

    Floors may differ from layer to layer; the schedule's name may not.

    `calibration` is what is known of this layer alone; its clips have an effect
    once `pmkvq-apply-calibration` has put them into the cache's type.

    Lowers to: the program's description of itself.

    ```mlir
    func.func @create() -> !pmkvq.cache<kv_heads = 2, head_dim = 128> {
      %c = pmkvq.create layer 0 max_tokens 8192
        schedule <page, key_floor = 2, value_floor = 2> budget 268435456
        calibration <key_clip = 0.77, value_clip = 0.82>
        : !pmkvq.cache<kv_heads = 2, head_dim = 128>
      return %c : !pmkvq.cache<kv_heads = 2, head_dim = 128>
    }
    ```
  }];
  let arguments = (ins I64Attr:$layer, I64Attr:$max_tokens,
                       OptionalAttr<PMKVQ_ScheduleAttr>:$schedule,
                       OptionalAttr<I64Attr>:$budget,
                       OptionalAttr<PMKVQ_CalibrationAttr>:$calibration);
  let results = (outs PMKVQ_CacheType:$cache);
  let assemblyFormat = [{
    `layer` $layer `max_tokens` $max_tokens (`schedule` $schedule^)?
    (`budget` $budget^)? (`calibration` $calibration^)?
    attr-dict `:` type($cache)
  }];
  let hasVerifier = 1;
}

def PMKVQ_AppendOp : PMKVQ_Op<"append",
    [AllTypesMatch<["cache", "result"]>, AllTypesMatch<["key", "value"]>]> {
  let summary = "adds the keys and values of a batch's rows to a cache";
  let description = [{
    Row r goes to the place that `batch` names: a sink token or a token of the
    window.  Where the format says `hadamard`, keys and values are rotated
    first; `values_rotated` says that the values already are.

    (C1) `key` and `value` are [?, kv_heads, head_dim] in f32, with the cache's
         sizes.

    Lowers to: one kernel over the rows.

    ```mlir
    func.func @f(%c: !pmkvq.cache<kv_heads = 2, head_dim = 64>,
                 %k: tensor<?x2x64xf32>, %v: tensor<?x2x64xf32>,
                 %b: !pmkvq.batch) -> !pmkvq.cache<kv_heads = 2, head_dim = 64> {
      %r = pmkvq.append %c, %k, %v, %b
        : !pmkvq.cache<kv_heads = 2, head_dim = 64>, tensor<?x2x64xf32>
      return %r : !pmkvq.cache<kv_heads = 2, head_dim = 64>
    }
    ```
  }];
  let arguments = (ins PMKVQ_CacheType:$cache, AnyRankedTensor:$key,
                       AnyRankedTensor:$value, PMKVQ_BatchType:$batch,
                       UnitAttr:$values_rotated);
  let results = (outs PMKVQ_CacheType:$result);
  let assemblyFormat = [{
    $cache `,` $key `,` $value `,` $batch (`values_rotated` $values_rotated^)?
    attr-dict `:` type($cache) `,` type($key)
  }];
  let hasVerifier = 1;
}

def PMKVQ_AttendOp : PMKVQ_Op<"attend", [AllTypesMatch<["query", "result"]>]> {
  let summary = "attention of a batch's rows over a cache";
  let description = [{
    softmax(scale * q . k) v over the tokens of the row's sequence up to the row
    itself: sink, pages at whatever level they are, window.  Where the key
    format says `hadamard`, the query is rotated; where the value format does,
    the result is rotated back, unless `result_rotated` says to leave that out.

    (C1) `query` is [?, query_heads, head_dim] in f32 with the cache's head_dim.
    (C2) `query_heads` is a multiple of the cache's kv_heads, at most 16 of
         them.

    Lowers to: one kernel over the work list of attention, one that merges.

    ```mlir
    func.func @f(%q: tensor<?x6x64xf32>, %b: !pmkvq.batch,
                 %c: !pmkvq.cache<kv_heads = 2, head_dim = 64>)
        -> tensor<?x6x64xf32> {
      %o = pmkvq.attend %q, %c, %b scale 1.250000e-01
        : tensor<?x6x64xf32>, !pmkvq.cache<kv_heads = 2, head_dim = 64>
      return %o : tensor<?x6x64xf32>
    }
    ```
  }];
  let arguments = (ins AnyRankedTensor:$query, PMKVQ_CacheType:$cache,
                       PMKVQ_BatchType:$batch, F32Attr:$scale,
                       UnitAttr:$result_rotated);
  let results = (outs AnyRankedTensor:$result);
  let assemblyFormat = [{
    $query `,` $cache `,` $batch `scale` $scale
    (`result_rotated` $result_rotated^)? attr-dict
    `:` type($query) `,` type($cache)
  }];
  let hasVerifier = 1;
}

def PMKVQ_FlushOp : PMKVQ_Op<"flush", [AllTypesMatch<["caches", "result"]>]> {
  let summary = "turns full windows into pages, at one level";
  let description = [{
    Writes one part of each page in `pages` from the window of its sequence and
    head: at level 16 as it is, below by quantizing to 8 bits and shifting.

    (C1) `to` is on the cache's ladder.
    (C2) The cache is planned.
    (C3) The format's grid is linear at every level of codes above `to`.

    Lowers to: one kernel over the page list.

    ```mlir
    !kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>,
                       value = <per_token>>
    func.func @f(%c: !kv, %p: !pmkvq.pages) -> !kv {
      %r = pmkvq.flush key %c, %p to 4 : !kv
      return %r : !kv
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, PMKVQ_CacheType:$caches,
                       PMKVQ_PagesType:$pages, I64Attr:$to);
  let results = (outs PMKVQ_CacheType:$result);
  let assemblyFormat = [{
    $part $caches `,` $pages `to` $to attr-dict `:` type($caches)
  }];
  let hasVerifier = 1;
}

def PMKVQ_RequantizeOp : PMKVQ_Op<"requantize",
    [AllTypesMatch<["caches", "result"]>]> {
  let summary = "halves the code width of one part of pages, in place";
  let description = [{
    (C1) `to` is half of `from`.
    (C2) The cache's ladder contains both.
    (C3) The cache is planned.
    (C4) The format's grid is linear at `from`, if that level has codes.

    Lowers to: one in-place kernel over the page list.

    ```mlir
    !kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>,
                       value = <per_token>>
    func.func @f(%c: !kv, %p: !pmkvq.pages) -> !kv {
      %r = pmkvq.requantize value %c, %p from 8 to 4 : !kv
      return %r : !kv
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, PMKVQ_CacheType:$caches,
                       PMKVQ_PagesType:$pages, I64Attr:$from, I64Attr:$to);
  let results = (outs PMKVQ_CacheType:$result);
  let assemblyFormat = [{
    $part $caches `,` $pages `from` $from `to` $to attr-dict `:` type($caches)
  }];
  let hasVerifier = 1;
}

include "pmkvq/IR/PMKVQTileOps.td"

#endif // PMKVQ_OPS_TD
