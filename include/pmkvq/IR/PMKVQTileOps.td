//===- PMKVQTileOps.td - Ops on the tiles of one kv head ---*- tablegen -*-===//
//
// The lower floor, the joint of the project: every kernel of every target is
// lowered from these ops.  Neighbours: PMKVQOps.td (which includes this file),
// lib/Conversion (the lowerings).
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
  let description = [{ Lowers to: loads from the batch. }];
  let arguments = (ins PMKVQ_BatchType:$batch, Index:$row);
  let results = (outs Index:$sequence, Index:$token);
  let assemblyFormat = "$batch `[` $row `]` attr-dict";
}

def PMKVQ_SingleRowsOp : PMKVQ_Op<"single_rows", [Pure]> {
  let summary = "whether every attention task of a batch holds one row";
  let description = [{ Lowers to: a load from the batch and a comparison. }];
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
    is where the result goes.

    Lowers to: loads from the batch.
  }];
  let arguments = (ins PMKVQ_BatchType:$batch, Index:$task);
  let results = (outs Index:$sequence, Index:$head, Index:$row, Index:$rows,
                      Index:$page_begin, Index:$page_end, Index:$fixed_count,
                      Index:$partial);
  let assemblyFormat = "$batch `[` $task `]` attr-dict";
}

def PMKVQ_MergeTaskOp : PMKVQ_Op<"merge_task", [Pure]> {
  let summary = "one entry of the list of merges";
  let description = [{ Lowers to: loads from the batch. }];
  let arguments = (ins PMKVQ_BatchType:$batch, Index:$task);
  let results = (outs Index:$head, Index:$row, Index:$rows, Index:$first,
                      Index:$count);
  let assemblyFormat = "$batch `[` $task `]` attr-dict";
}

def PMKVQ_PageTaskOp : PMKVQ_Op<"page_task",
    [Pure, AllTypesMatch<["caches", "cache"]>]> {
  let summary = "one entry of a page list, and the cache of its layer";
  let description = [{ Lowers to: loads from the list. }];
  let arguments = (ins PMKVQ_PagesType:$pages, Index:$task,
                       PMKVQ_CacheType:$caches);
  let results = (outs PMKVQ_CacheType:$cache, Index:$sequence, Index:$head,
                      Index:$page);
  let assemblyFormat = [{
    $pages `[` $task `]` `of` $caches attr-dict `:` type($caches)
  }];
}

//===----------------------------------------------------------------------===//
// Tiles
//===----------------------------------------------------------------------===//

def PMKVQ_FetchOp : PMKVQ_Op<"fetch", [
    TypesMatchWith<"the page is one of the cache", "result", "cache",
                   "::llvm::cast<PageType>($_self).getCache()">]> {
  let summary = "a page, through the page table";
  let description = [{ Lowers to: the page's entry. }];
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
     ParentOneOf<["ByLevelOp", "ForSegmentOp", "ForUnitOp"]>]> {
  let summary = "results of a region: a level's code, a unit's, a segment's";
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

def PMKVQ_QuantizeOp : PMKVQ_Op<"quantize", [Pure]> {
  let summary = "a raw tile to codes and parameters";
  let description = [{
    The format gives parameters from each group's extremes, then codes.  `ok` is
    false if a value is not finite or a parameter cannot be represented.

    (C1) `source` is raw, the result at the first level of its format, all else
         is equal.

    Lowers to: minimum and maximum a group, then the format's algebra.
  }];
  let arguments = (ins PMKVQ_TileType:$source);
  let results = (outs PMKVQ_TileType:$result, I1:$ok);
  let assemblyFormat = "$source attr-dict `:` type($source) `->` type($result)";
  let hasVerifier = 1;
}

def PMKVQ_ShiftOp : PMKVQ_Op<"shift", [Pure]> {
  let summary = "halves the code width of a tile";
  let description = [{
    (C1) The source holds codes; the result's level is half of its, all else is
         equal.

    Lowers to: the format's algebra on packed codes, and on parameters where it
    rewrites them.
  }];
  let arguments = (ins PMKVQ_TileType:$source);
  let results = (outs PMKVQ_TileType:$result);
  let assemblyFormat = "$source attr-dict `:` type($source) `->` type($result)";
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
  }];
  let arguments = (ins PMKVQ_TileType:$tile, PMKVQ_PageType:$page,
                       UnitAttr:$with_parameters);
  let assemblyFormat = [{
    $tile `,` $page (`with_parameters` $with_parameters^)? attr-dict
    `:` type($tile) `,` type($page)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Rows
//===----------------------------------------------------------------------===//

def PMKVQ_LoadRowsOp : PMKVQ_Op<"load_rows"> {
  let summary = "the query rows of one kv head";
  let description = [{
    Row r * group + g of the result is `source`[`row` + r, `head` * group + g],
    for r below `count`; the others are 0.

    (C1) `source` is a contiguous memref [rows, heads, width] in f32, its heads
         known; `group` divides the queries.

    Lowers to: loads.
  }];
  let arguments = (ins AnyShaped:$source, Index:$row, Index:$head, Index:$count,
                       I64Attr:$group);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = [{
    $source `[` $row `,` $head `]` `count` $count `group` $group attr-dict
    `:` type($source) `->` type($result)
  }];
  let hasVerifier = 1;
}

def PMKVQ_StoreRowsOp : PMKVQ_Op<"store_rows"> {
  let summary = "writes the rows of one kv head";
  let description = [{
    The reverse of `load_rows`.

    (C1) `dest` is a contiguous memref [rows, heads, width] in f32, its heads
         known; `group` divides the queries.

    Lowers to: stores.
  }];
  let arguments = (ins PMKVQ_RowsType:$rows, AnyShaped:$dest, Index:$row,
                       Index:$head, Index:$count, I64Attr:$group);
  let assemblyFormat = [{
    $rows `,` $dest `[` $row `,` $head `]` `count` $count `group` $group attr-dict
    `:` type($rows) `,` type($dest)
  }];
  let hasVerifier = 1;
}

def PMKVQ_HadamardOp : PMKVQ_Op<"hadamard",
    [Pure, AllTypesMatch<["source", "result"]>]> {
  let summary = "rotates each row by the normalized Walsh-Hadamard transform";
  let description = [{
    Rows are cut into blocks of the largest power of two that divides the width.

    Lowers to: log2(block) butterflies.
  }];
  let arguments = (ins PMKVQ_RowsType:$source);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = "$source attr-dict `:` type($source)";
}

def PMKVQ_LoadParametersOp : PMKVQ_Op<"load_parameters", [Pure]> {
  let summary = "the stored parameters of a tile";
  let description = [{
    One vector a parameter of the format, each [groups], in f32.

    (C1) There is one result a parameter of the tile's format, each with one
         element a group.
    (C2) The tile is not raw.

    Lowers to: loads and conversions from the stored type.
  }];
  let arguments = (ins PMKVQ_TileType:$tile);
  let results = (outs Variadic<PMKVQ_F32Vector>:$parameters);
  let assemblyFormat = "$tile attr-dict `:` type($tile) `->` type($parameters)";
  let hasVerifier = 1;
}

def PMKVQ_ScaleOp : PMKVQ_Op<"scale", [Pure, AllTypesMatch<["rows", "result"]>]> {
  let summary = "multiplies every row by a vector, elementwise";
  let description = [{
    (C1) `by` has one element a column.

    Lowers to: multiplications.
  }];
  let arguments = (ins PMKVQ_RowsType:$rows, PMKVQ_F32Vector:$by);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = "$rows `,` $by attr-dict `:` type($rows) `,` type($by)";
  let hasVerifier = 1;
}

def PMKVQ_ReduceOp : PMKVQ_Op<"reduce", [Pure]> {
  let summary = "sum of every row, weighted by a vector";
  let description = [{
    (C1) `by` has one element a column, the result one a row.

    Lowers to: products and a sum a row.
  }];
  let arguments = (ins PMKVQ_RowsType:$rows, PMKVQ_F32Vector:$by);
  let results = (outs PMKVQ_F32Vector:$result);
  let assemblyFormat = [{
    $rows `,` $by attr-dict `:` type($rows) `,` type($by) `->` type($result)
  }];
  let hasVerifier = 1;
}

def PMKVQ_AddOuterOp : PMKVQ_Op<"add_outer",
    [Pure, AllTypesMatch<["rows", "result"]>]> {
  let summary = "adds the outer product of two vectors";
  let description = [{
    rows[q][j] + left[q] * right[j].

    (C1) `left` has one element a row, `right` one a column.

    Lowers to: multiply-adds.
  }];
  let arguments = (ins PMKVQ_RowsType:$rows, PMKVQ_F32Vector:$left,
                       PMKVQ_F32Vector:$right);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = [{
    $rows `,` $left `,` $right attr-dict
    `:` type($rows) `,` type($left) `,` type($right)
  }];
  let hasVerifier = 1;
}

def PMKVQ_ContractOp : PMKVQ_Op<"contract", [Pure]> {
  let summary = "product of rows with the bare codes of a tile";
  let description = [{
    result[q][j] = sum_i rows[q][i] * code[i][j]: for keys i are head dims and j
    tokens, for values the reverse.  A code is its integer, in a raw tile the
    bf16 value.  Columns past the tile's token count are undefined for keys.

    (C1) `rows` is as wide as the tile's summed axis, the result as its other.

    Lowers to: unpacking by the layout and multiply-adds.
  }];
  let arguments = (ins PMKVQ_RowsType:$rows, PMKVQ_TileType:$tile);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = [{
    $rows `,` $tile attr-dict `:` type($rows) `,` type($tile) `->` type($result)
  }];
  let hasVerifier = 1;
}

include "pmkvq/IR/PMKVQSoftmaxOps.td"
include "pmkvq/IR/PMKVQUnitOps.td"

#endif // PMKVQ_TILE_OPS_TD
