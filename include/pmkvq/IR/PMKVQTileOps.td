//===- PMKVQTileOps.td - Ops on the tiles of one kv head ---*- tablegen -*-===//
//
// The lower floor, the joint of the project: every kernel of every target is
// lowered from these ops.  Neighbours: PMKVQOps.td (which includes this file),
// PMKVQRowsOps.td and PMKVQSoftmaxOps.td (which it includes), lib/Conversion
// (the lowerings).
//
// Mental model.  A kernel is a function of operands and a task index.  It takes
// its share from a work list, works on values (tiles, rows, softmax states),
// and stores results.  Attention in it, for one kv head:
//
//   %s0 = softmax_init
//   for each page:  %x      = by_level key: scores %q, %tile
//                   %s1, %p = softmax_update %s0, %x
//                   %s2     = by_level value: accumulate %s1, %p, %tile
//   fixed area:     the same with a causal_mask
//   store_partial; the merge kernel merges partial states in order.
//
// `scores` and `accumulate` are products with a tile that needs decoding.
// `fold-parameters` turns them into `contract`, a product with bare codes, and
// algebra around it that the tile's format gives.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_TILE_OPS_TD
#define PMKVQ_TILE_OPS_TD

class PMKVQ_VectorOf<int rank, Type element> : VectorOfRankAndType<[rank], [element]>;
def PMKVQ_F32Vector : PMKVQ_VectorOf<1, F32>;

//===----------------------------------------------------------------------===//
// Kernels
//===----------------------------------------------------------------------===//

def PMKVQ_KernelOp : PMKVQ_Op<"kernel",
    [IsolatedFromAbove, FunctionOpInterface]> {
  let summary = "a kernel in tile form";
  let description = [{
    Runs once a task; returns whether everything it was asked to store could be
    represented.

    (C1) The last argument is the task's index; the only result is an i1.
    (C2) The body is one block that ends in `return`.

    Lowers to: a function of an operand array and a task index (KernelFn in
    pmkvq_rt/Abi.h).

    ```mlir
    pmkvq.kernel @nothing(%batch: !pmkvq.batch, %task: index) -> i1 {
      %ok = arith.constant true
      pmkvq.return %ok
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
                       TypeAttrOf<FunctionType>:$function_type,
                       OptionalAttr<DictArrayAttr>:$arg_attrs,
                       OptionalAttr<DictArrayAttr>:$res_attrs);
  let regions = (region AnyRegion:$body);
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    ::llvm::ArrayRef<::mlir::Type> getArgumentTypes() {
      return getFunctionType().getInputs();
    }
    ::llvm::ArrayRef<::mlir::Type> getResultTypes() {
      return getFunctionType().getResults();
    }
    ::mlir::Region *getCallableRegion() { return &getBody(); }
  }];
}

def PMKVQ_ReturnOp : PMKVQ_Op<"return",
    [Pure, HasParent<"KernelOp">, Terminator, ReturnLike]> {
  let summary = "ends a kernel: was everything representable?";
  let description = [{
    ```mlir
    pmkvq.kernel @nothing(%task: index) -> i1 {
      %ok = arith.constant true
      pmkvq.return %ok
    }
    ```
  }];
  let arguments = (ins I1:$ok);
  let assemblyFormat = "$ok attr-dict";
}

def PMKVQ_LaunchOp : PMKVQ_Op<"launch",
    [AttrSizedOperandSegments, DestinationStyleOpInterface,
     DeclareOpInterfaceMethods<MemoryEffectsOpInterface>,
     DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "runs a kernel over a work list";
  let description = [{
    The kernel's arguments are `cache` (if any), `batch`, `ins`, `outs` and the
    task index, in this order.

    (C1) `kernel` names a `pmkvq.kernel` whose arguments fit.
    (C2) Results are the tensors among `outs`.
    (C3) `ins` and `outs` are all tensors or all memrefs.

    Lowers to: a call of pmkvq_rt_launch.

    ```mlir
    pmkvq.kernel @zero(%b: !pmkvq.batch, %out: memref<?x2x64xf32>,
                       %task: index) -> i1 {
      %ok = arith.constant true
      pmkvq.return %ok
    }
    func.func @f(%b: !pmkvq.batch, %out: tensor<?x2x64xf32>)
        -> tensor<?x2x64xf32> {
      %r = pmkvq.launch @zero over rows, %b outs(%out : tensor<?x2x64xf32>)
        -> tensor<?x2x64xf32>
      return %r : tensor<?x2x64xf32>
    }
    ```
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel, PMKVQ_WorkListAttr:$over,
                       Optional<PMKVQ_CacheType>:$cache, PMKVQ_BatchType:$batch,
                       Variadic<AnyShaped>:$inputs, Variadic<AnyShaped>:$outputs);
  let results = (outs Variadic<AnyRankedTensor>:$results);
  let assemblyFormat = [{
    $kernel `over` $over `,` $batch (`cache` `(` $cache^ `:` type($cache) `)`)?
    (`ins` `(` $inputs^ `:` type($inputs) `)`)?
    (`outs` `(` $outputs^ `:` type($outputs) `)`)?
    attr-dict (`->` type($results)^)?
  }];
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::MutableOperandRange getDpsInitsMutable() {
      return getOutputsMutable();
    }
  }];
}

//===----------------------------------------------------------------------===//
// Work lists
//===----------------------------------------------------------------------===//

def PMKVQ_RowPlaceOp : PMKVQ_Op<"row_place", [Pure]> {
  let summary = "sequence and place in the fixed area of a batch's row";
  let description = [{
    Lowers to: loads from the batch.

    ```mlir
    func.func @f(%b: !pmkvq.batch, %row: index) -> (index, index) {
      %sequence, %token = pmkvq.row_place %b[%row]
      return %sequence, %token : index, index
    }
    ```
  }];
  let arguments = (ins PMKVQ_BatchType:$batch, Index:$row);
  let results = (outs Index:$sequence, Index:$token);
  let assemblyFormat = "$batch `[` $row `]` attr-dict";
}

def PMKVQ_SingleRowsOp : PMKVQ_Op<"single_rows", [Pure]> {
  let summary = "whether every attention task of a batch holds one row";
  let description = [{
    Lowers to: a load from the batch and a comparison.

    ```mlir
    func.func @f(%b: !pmkvq.batch) -> i1 {
      %single = pmkvq.single_rows %b
      return %single : i1
    }
    ```
  }];
  let arguments = (ins PMKVQ_BatchType:$batch);
  let results = (outs I1:$result);
  let assemblyFormat = "$batch attr-dict";
}

def PMKVQ_AttendTaskOp : PMKVQ_Op<"attend_task", [Pure]> {
  let summary = "one entry of the work list of attention";
  let description = [{
    `rows` rows from `row` on, of `sequence`, over pages `page_begin` to
    `page_end` and, where `fixed_count` is not 0, the fixed area, of which the
    first row sees `fixed_count` tokens and each next row one more.  `partial`
    is where the result goes.  With `ahead`: the entry that the list names as the
    one whose first page to fetch while this one is worked on; if there is none,
    the entry itself.

    Lowers to: loads from the batch.

    ```mlir
    func.func @f(%b: !pmkvq.batch, %task: index) -> (index, index) {
      %sequence, %head, %row, %rows, %begin, %end, %fixed, %partial =
        pmkvq.attend_task %b[%task]
      return %begin, %end : index, index
    }
    ```
  }];
  let arguments = (ins PMKVQ_BatchType:$batch, Index:$task, UnitAttr:$ahead);
  let results = (outs Index:$sequence, Index:$head, Index:$row, Index:$rows,
                      Index:$page_begin, Index:$page_end, Index:$fixed_count,
                      Index:$partial);
  let assemblyFormat = "$batch `[` $task `]` (`ahead` $ahead^)? attr-dict";
}

def PMKVQ_MergeTaskOp : PMKVQ_Op<"merge_task", [Pure]> {
  let summary = "one entry of the list of merges";
  let description = [{
    Lowers to: loads from the batch.

    ```mlir
    func.func @f(%b: !pmkvq.batch, %task: index) -> (index, index) {
      %head, %row, %rows, %first, %count = pmkvq.merge_task %b[%task]
      return %first, %count : index, index
    }
    ```
  }];
  let arguments = (ins PMKVQ_BatchType:$batch, Index:$task);
  let results = (outs Index:$head, Index:$row, Index:$rows, Index:$first,
                      Index:$count);
  let assemblyFormat = "$batch `[` $task `]` attr-dict";
}

def PMKVQ_PageTaskOp : PMKVQ_Op<"page_task",
    [Pure, AllTypesMatch<["caches", "cache"]>]> {
  let summary = "one entry of a page list, and the cache of its layer";
  let description = [{
    With `ahead`: the entry that the list names as the one to fetch while this
    one is worked on; if there is none, the entry itself.

    Lowers to: loads from the list.

    ```mlir
    !kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
    func.func @f(%p: !pmkvq.pages, %task: index, %caches: !kv) -> !kv {
      %cache, %sequence, %head, %page = pmkvq.page_task %p[%task] of %caches : !kv
      return %cache : !kv
    }
    ```
  }];
  let arguments = (ins PMKVQ_PagesType:$pages, Index:$task,
                       PMKVQ_CacheType:$caches, UnitAttr:$ahead);
  let results = (outs PMKVQ_CacheType:$cache, Index:$sequence, Index:$head,
                      Index:$page);
  let assemblyFormat = [{
    $pages `[` $task `]` `of` $caches (`ahead` $ahead^)? attr-dict
    `:` type($caches)
  }];
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

def PMKVQ_FetchOp : PMKVQ_Op<"fetch", [
    TypesMatchWith<"the page is one of the cache", "result", "cache",
                   "::llvm::cast<PageType>($_self).getCache()">]> {
  let summary = "a page, through the page table";
  let description = [{
    Lowers to: the page's entry.

    ```mlir
    !kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
    !page = !pmkvq.page<<kv_heads = 2, head_dim = 64>>
    func.func @f(%c: !kv, %sequence: index, %head: index, %i: index) -> !page {
      %page = pmkvq.fetch %c[%sequence, %head, %i] : !page
      return %page : !page
    }
    ```
  }];
  let arguments = (ins PMKVQ_CacheType:$cache, Index:$sequence, Index:$head,
                       Index:$page);
  let results = (outs PMKVQ_PageType:$result);
  let assemblyFormat = [{
    $cache `[` $sequence `,` $head `,` $page `]` attr-dict `:` type($result)
  }];
}

def PMKVQ_TakeOp : PMKVQ_Op<"take"> {
  let summary = "one part of a page whose level is known";
  let description = [{
    (C1) The tile is a whole part of the page's cache type.
    (C2) Its level is on the ladder.

    Lowers to: the addresses of its blocks and parameters.

    ```mlir
    !page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                         value = <per_token>, ladder = [4, 2]>>
    !k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
    func.func @f(%page: !page) -> !k4 {
      %tile = pmkvq.take %page : !page -> !k4
      return %tile : !k4
    }
    ```
  }];
  let arguments = (ins PMKVQ_PageType:$page);
  let results = (outs PMKVQ_TileType:$tile);
  let assemblyFormat = "$page attr-dict `:` type($page) `->` type($tile)";
  let hasVerifier = 1;
}

def PMKVQ_ByLevelOp : PMKVQ_Op<"by_level", [
    RecursiveMemoryEffects, SingleBlock,
    SingleBlockImplicitTerminator<"YieldOp">]> {
  let summary = "picks the code for the level that a part of a page is at";
  let description = [{
    One region a level of the ladder, from the highest; each takes the tile at
    that level.  The branch is uniform over a worker.

    (C1) There are as many regions as levels on the ladder.
    (C2) Region i takes one argument, the whole part at level i.
    (C3) Each region yields the op's results.

    Lowers to: a switch over the level in the page's entry.

    ```mlir
    !page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                         value = <per_token>, ladder = [4, 2]>>
    !k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
    !k2 = !pmkvq.tile<key, 2, 128, 64, <per_channel>>
    !x = !pmkvq.rows<3, 128>
    func.func @f(%q: !pmkvq.rows<3, 64>, %page: !page) -> !x {
      %x = pmkvq.by_level key %page : !page -> !x {
      ^bb0(%tile: !k4):
        %x4 = pmkvq.scores %q, %tile : !pmkvq.rows<3, 64>, !k4 -> !x
        pmkvq.yield %x4 : !x
      }, {
      ^bb0(%tile: !k2):
        %x2 = pmkvq.scores %q, %tile : !pmkvq.rows<3, 64>, !k2 -> !x
        pmkvq.yield %x2 : !x
      }
      return %x : !x
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, PMKVQ_PageType:$page);
  let results = (outs Variadic<AnyType>:$results);
  let regions = (region VariadicRegion<SizedRegion<1>>:$levels);
  let assemblyFormat = [{
    $part $page attr-dict `:` type($page) (`->` type($results)^)? $levels
  }];
  let hasVerifier = 1;
}

def PMKVQ_YieldOp : PMKVQ_Op<"yield",
    [Pure, ReturnLike, Terminator,
     ParentOneOf<["ByLevelOp", "ForPageOp", "ForSegmentOp", "ForUnitOp"]>]> {
  let summary = "results of a region: a level's code, a unit's, a segment's";
  let description = [{
    ```mlir
    !page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                         value = <per_token>, ladder = [2]>>
    func.func @f(%page: !page) -> i1 {
      %low = pmkvq.by_level value %page : !page -> i1 {
      ^bb0(%tile: !pmkvq.tile<value, 2, 128, 64, <per_token>>):
        %true = arith.constant true
        pmkvq.yield %true : i1
      }
      return %low : i1
    }
    ```
  }];
  let arguments = (ins Variadic<AnyType>:$results);
  let assemblyFormat = "attr-dict ($results^ `:` type($results))?";
  let builders = [OpBuilder<(ins), [{ }]>];
}

def PMKVQ_FetchFixedOp : PMKVQ_Op<"fetch_fixed"> {
  let summary = "tokens of a fixed area, as a raw tile";
  let description = [{
    `count` tokens from token `first` on (sink tokens come first, then the
    window).

    (C1) The tile has no format, and the cache's head_dim.

    Lowers to: an address and a count.

    ```mlir
    !kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
    !raw = !pmkvq.tile<key, 16, 129, 64>
    func.func @f(%c: !kv, %sequence: index, %head: index, %first: index,
                 %count: index) -> !raw {
      %tile = pmkvq.fetch_fixed %c[%sequence, %head] from %first count %count
        : !kv -> !raw
      return %tile : !raw
    }
    ```
  }];
  let arguments = (ins PMKVQ_CacheType:$cache, Index:$sequence, Index:$head,
                       Index:$first, Index:$count);
  let results = (outs PMKVQ_TileType:$tile);
  let assemblyFormat = [{
    $cache `[` $sequence `,` $head `]` `from` $first `count` $count attr-dict
    `:` type($cache) `->` type($tile)
  }];
  let hasVerifier = 1;
}

def PMKVQ_StoreFixedOp : PMKVQ_Op<"store_fixed"> {
  let summary = "writes one token of a fixed area, rounded to bf16";
  let description = [{
    (C1) `rows` is one row of head_dim elements.

    Lowers to: a rounding and a store.

    ```mlir
    !kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
    func.func @f(%row: !pmkvq.rows<1, 64>, %c: !kv, %sequence: index,
                 %head: index, %token: index) {
      pmkvq.store_fixed key %row, %c[%sequence, %head, %token]
        : !pmkvq.rows<1, 64>, !kv
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, PMKVQ_RowsType:$rows,
                       PMKVQ_CacheType:$cache, Index:$sequence, Index:$head,
                       Index:$token);
  let assemblyFormat = [{
    $part $rows `,` $cache `[` $sequence `,` $head `,` $token `]` attr-dict
    `:` type($rows) `,` type($cache)
  }];
  let hasVerifier = 1;
}

def PMKVQ_FetchFeedbackOp : PMKVQ_Op<"fetch_feedback", [Pure]> {
  let summary = "what keys of a kv head fall with";
  let description = [{
    (C1) Keys of the cache's type fall with feedback.

    Lowers to: an address.

    ```mlir
    !kv = !pmkvq.cache<kv_heads = 2, head_dim = 64,
                       key = <per_channel, hadamard, feedback>,
                       value = <per_token>>
    func.func @f(%c: !kv, %head: index) -> !pmkvq.feedback {
      %feedback = pmkvq.fetch_feedback %c[%head] : !kv
      return %feedback : !pmkvq.feedback
    }
    ```
  }];
  let arguments = (ins PMKVQ_CacheType:$cache, Index:$head);
  let results = (outs PMKVQ_FeedbackType:$result);
  let assemblyFormat = "$cache `[` $head `]` attr-dict `:` type($cache)";
  let hasVerifier = 1;
}

def PMKVQ_AheadOfTheSource : OptionalTypesMatchWith<
    "`ahead` has the type of the source", "source", "ahead", "$_self">;

def PMKVQ_QuantizeOp : PMKVQ_Op<"quantize", [Pure, PMKVQ_AheadOfTheSource]> {
  let summary = "a raw tile to codes and parameters";
  let description = [{
    The format gives parameters from each group's extremes, then codes.  `ok` is
    false if a value is not finite or a parameter cannot be represented.  It
    loses bits, so nothing that decodes its result folds with it.

    (C1) `source` is raw, the result at the first level of its format, all else
         is equal.
    (C2) `ahead`, a tile that will be read next and is fetched meanwhile, has the
         type of the source.

    Lowers to: minimum and maximum a group, then the format's algebra.

    ```mlir
    !raw = !pmkvq.tile<key, 16, 128, 64>
    !k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
    func.func @f(%raw: !raw) -> (!k8, i1) {
      %codes, %ok = pmkvq.quantize %raw : !raw -> !k8
      return %codes, %ok : !k8, i1
    }
    ```
  }];
  let arguments = (ins PMKVQ_TileType:$source,
                       Optional<PMKVQ_TileType>:$ahead);
  let results = (outs PMKVQ_TileType:$result, I1:$ok);
  let builders = [
    OpBuilder<(ins "Type":$result, "Type":$ok, "Value":$source),
              [{ build($_builder, $_state, result, ok, source, Value()); }]>];
  let assemblyFormat = [{
    $source (`ahead` $ahead^)? attr-dict
    `:` type($source) `->` type($result)
  }];
  let hasVerifier = 1;
}

def PMKVQ_ShiftOp : PMKVQ_Op<"shift",
    [Pure, PMKVQ_AheadOfTheSource, AttrSizedOperandSegments]> {
  let summary = "lowers the codes of a tile to fewer bits";
  let description = [{
    The right shift, by way of every level between.  A shift of a shift is one
    shift; for `paper`, whose every step rounds code / (2^b + 1), the way does
    not even matter: 16 -> 8 -> 4 -> 2 equals 16 -> 2, for all codes.

    With `feedback`, what each head dim of a token loses is fed back into those
    after it, and codes are the nearest to what they are to make good
    (pmkvq/Reference/Quantize.h has the arithmetic).

    (C1) The source holds codes; the result's level is below its, all else is
         equal.
    (C2) The format's grid is linear at every level but the last.
    (C3) `ahead`, a tile that will be read next and is fetched meanwhile, has the
         type of the source.
    (C4) Keys whose format says so fall with `feedback`, whole pages of them at
         8 or 4 bits; nothing else does.

    Lowers to: the format's algebra on packed codes, once a level, and on
    parameters where it rewrites them.

    ```mlir
    !k8 = !pmkvq.tile<key, 8, 128, 64, <per_channel>>
    !k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
    func.func @f(%tile: !k8) -> !k4 {
      %low = pmkvq.shift %tile : !k8 -> !k4
      return %low : !k4
    }
    ```
  }];
  let arguments = (ins PMKVQ_TileType:$source,
                       Optional<PMKVQ_TileType>:$ahead,
                       Optional<PMKVQ_FeedbackType>:$feedback);
  let results = (outs PMKVQ_TileType:$result);
  let builders = [
    OpBuilder<(ins "Type":$result, "Value":$source),
              [{ build($_builder, $_state, result, source, Value(), Value());
              }]>];
  let assemblyFormat = [{
    $source (`ahead` $ahead^)? (`feedback` $feedback^)? attr-dict
    `:` type($source) `->` type($result)
  }];
  let hasCanonicalizeMethod = 1;
  let hasVerifier = 1;
}

def PMKVQ_StoreOp : PMKVQ_Op<"store"> {
  let summary = "writes a tile's codes to the page's blocks";
  let description = [{
    Writes the blocks that the part owns at the tile's level, and the
    parameters too where `with_parameters` says so.

    (C1) The tile is a whole part of the page's cache type; a raw tile without a
         format is one where level 16 is raw.

    Lowers to: one copy a block.

    ```mlir
    !page = !pmkvq.page<<kv_heads = 2, head_dim = 64, key = <per_channel>,
                         value = <per_token>, ladder = [4]>>
    !k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
    func.func @f(%tile: !k4, %page: !page) {
      pmkvq.store %tile, %page with_parameters : !k4, !page
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_TileType:$tile, PMKVQ_PageType:$page,
                       UnitAttr:$with_parameters);
  let assemblyFormat = [{
    $tile `,` $page (`with_parameters` $with_parameters^)? attr-dict
    `:` type($tile) `,` type($page)
  }];
  let hasVerifier = 1;
}

include "pmkvq/IR/PMKVQRowsOps.td"
include "pmkvq/IR/PMKVQSoftmaxOps.td"
include "pmkvq/IR/PMKVQUnitOps.td"

#endif // PMKVQ_TILE_OPS_TD
