//===- DevicePasses.td - Passes to GPU code, in order ------*- tablegen -*-===//
//
// Included by Passes.td, where they stand between those of the tile form and of
// host code.  Neighbours: lib/Conversion (all but the splits), lib/Transforms.
//
//===----------------------------------------------------------------------===//

//===----------------------------------------------------------------------===//
// GPU: from tile form to lanes, step by step
//===----------------------------------------------------------------------===//

def SplitUnits : Pass<"pmkvq-split-units", "::mlir::ModuleOp"> {
  let summary = "Turn attention over pages into attention over units";
  let description = [{
    A kernel that attends over pages, one row a task, becomes one whose workers
    take units of constant bytes from a work list, for one row of queries or for
    up to `rows` neighbouring ones: the loop over pages and the
    fixed area become `for_segment` and `for_unit`, the merge kernel becomes
    `store_merged`.

    With `lowers` each side at 8 or 4 bits is stored one level lower after it is
    read, where its unit's entry says so: `shift` and `store_lowered`.  A page
    falls whole, so that a side beside level 16, of which a unit has half a
    grain, does not; neither do pages at 16 bits, for their groups span units.

    Precondition: parameters are not folded yet; queries are scaled as
    they are loaded, or rotated in between.
    Postcondition: no `attend_task` is left.
  }];
  let options = [
    ListOption<"kinds", "kinds", "int64_t",
               "Key and value level of each kind of unit that can occur; the "
               "ladder's levels, both sides alike, if empty">,
    Option<"rows", "rows", "int64_t", /*default=*/"1",
           "Rows of queries that a segment may have, 1 to 16: tokens that are "
           "decoded at once">,
    Option<"lowers", "lowers", "bool", /*default=*/"false",
           "Whether pages may fall after they are read">];
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::pmkvq::PMKVQDialect"];
}

def HoistConstants : Pass<"pmkvq-hoist-constants", "::mlir::pmkvq::KernelOp"> {
  let summary = "Move constant factors of formats behind products with codes";
  let description = [{
    Before: `contract (scale %q, (mulf %range, dense<c>)), %k`
    After:  `scale (contract (scale %q, %range), %k), dense<c>`

    and the same for the constant parts of offsets, which are sums of parameters
    times constants.

    Precondition: `pmkvq-fold-parameters` ran.
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::pmkvq::PMKVQDialect"];
  let statistics = [Statistic<"numHoisted", "hoisted", "Factors moved">];
}

def ConvertTileToLanes : Pass<"convert-pmkvq-tile-to-lanes",
                              "::mlir::ModuleOp"> {
  let summary = "Say what each lane of a warp holds";
  let description = [{
    Kernels over units become functions of a `gpu.module`: rows become vectors
    of each lane's elements, tiles places in shared memory, loops over segments
    and units loops over a work list.  What is more than elementwise arithmetic
    becomes an op that a later step lowers: the ring, products with codes, the
    split of queries, the online softmax, the repacking of weights, the merges.

    Precondition: `pmkvq-split-units`, `pmkvq-fold-parameters` and
    `pmkvq-hoist-constants` ran.
    Postcondition: no kernel over units is left.
  }];
  let options = [
    Option<"dependentLaunch", "dependent-launch", "bool", "false",
           "Start while the launch before may still run">,
    Option<"bulkCopies", "bulk-copies", "bool", "true",
           "Whether the ring's copies are to be bulk copies">,
    Option<"sharedBytes", "shared-bytes", "int64_t", "232448",
           "Shared memory that a thread block can have">,
    Option<"keysPerToken", "keys-per-token", "bool", "false",
           "Whether keys have parameters a token, if no unit's say so: where "
           "all are raw, slots have a place for them">,
    Option<"valueBytes", "value-bytes", "int64_t", "4",
           "Bytes of parameters of a token's values, likewise">];
  // Dependent dialects: lib/Conversion/LaneBuilder.cpp.
}

def ConvertAppendToLanes : Pass<"convert-pmkvq-append-to-lanes",
                                "::mlir::ModuleOp"> {
  let summary = "Say which dims of a new token each lane rotates and stores";
  let description = [{
    The kernel that appends a row becomes a function of a `gpu.module`, with a
    warp for each row and kv head.

    Postcondition: no kernel that appends is left.
  }];
  // Dependent dialects: lib/Conversion/LaneBuilder.cpp.
}

def ConvertPagesToLanes : Pass<"convert-pmkvq-pages-to-lanes",
                               "::mlir::ModuleOp"> {
  let summary = "Say which codes of a page each lane writes";
  let description = [{
    Kernels that flush or requantize one part of a page become functions of a
    `gpu.module`.  A thread block takes one part, a warp a slice of it that has
    whole groups.  Codes stay in the lane that has them at every level; extremes
    of groups go over its neighbours; a part is read whole before it is written.

    Postcondition: no kernel over a list of pages is left.
  }];
  // Dependent dialects: lib/Conversion/LaneBuilder.cpp.
}

class PMKVQ_LanePass<string flag> : Pass<flag, "::mlir::ModuleOp"> {
  // Dependent dialects: lib/Conversion/LaneBuilder.cpp.
}

def LowerRing : PMKVQ_LanePass<"pmkvq-lower-ring"> {
  let summary = "Lower the ring of staged units to copies";
  let description = [{
    `ring_issue` becomes one bulk copy for each piece of a unit, `ring_wait` a
    wait for its barrier's phase; without bulk copies, `cp.async` of 16 bytes by
    every lane, and a wait for all of them.
  }];
  let options = [
    Option<"bulkCopies", "bulk-copies", "bool", "true",
           "Whether the chip has bulk copies">];
}

def SplitQueries : PMKVQ_LanePass<"pmkvq-split-queries"> {
  let summary = "Lower queries times ranges to pairs of bytes";
  let description = [{
    `split_rows`, `weigh_rows` and `sum_bytes` become f16 arithmetic, byte
    permutations and matrix instructions.
  }];
  let options = [
    Option<"absoluteMaximum", "absolute-maximum", "bool", "true",
           "Whether the chip has an instruction for max(|a|, |b|)">];
}

def UnpackCodes : PMKVQ_LanePass<"pmkvq-unpack-codes"> {
  let summary = "Lower products with codes to AND and matrix instructions";
  let description = [{
    `multiply_codes` becomes one 16-byte load a vector, an AND for each register
    of an operand at 4 and 2 bits, and `nvvm.mma.sync`.
  }];
}

def ShiftCodes : PMKVQ_LanePass<"pmkvq-shift-codes"> {
  let summary = "Lower codes that fall to shifts of words";
  let description = [{
    `shift_codes` becomes a branch with the loads of the vectors that become one,
    the format's shift of the four codes of a word, and a 16-byte store that leaves
    the cache first.
  }];
}

def LowerOnlineSoftmax : PMKVQ_LanePass<"pmkvq-lower-online-softmax"> {
  let summary = "Lower the softmax against the largest score so far";
  let description = [{
    `online_softmax` becomes multiply-adds, 2^x, maxima over lanes and products.
  }];
}

def RepackWeights : PMKVQ_LanePass<"pmkvq-repack-weights"> {
  let summary = "Lower weights to B operands of the values' product";
  let description = [{
    `repack_weights` and `repack_raw_weights` become conversions, byte
    permutations and 8x8 transpositions.
  }];
}

def LowerMerges : PMKVQ_LanePass<"pmkvq-lower-merges"> {
  let summary = "Lower the merges of warps and thread blocks";
  let description = [{
    `merge_warps`, `merge_warpgroups` and `merge_shares` become sums in a fixed
    order, through shared memory and through partial results.
  }];
}

def CheckLowered : Pass<"pmkvq-check-lowered", "::mlir::ModuleOp"> {
  let summary = "Diagnose what a pipeline cannot lower, or has not lowered";
  let description = [{
    An error on each op of the dialect, the outermost alone.  With
    `allow-kernels`, before the first step, kernels and what is in them may
    stay: launches and caches around them are diagnosed before steps rewrite
    the kernels that they name.

    Before: `pmkvq.kernel @append ...`
    After:  error: 'pmkvq.kernel' op 'append' is not lowered by any step of
            this pipeline
  }];
  let options = [Option<"allowKernels", "allow-kernels", "bool", "false",
                        "Kernels may be there still">];
  let dependentDialects = ["::mlir::pmkvq::PMKVQDialect"];
}

//===----------------------------------------------------------------------===//
// Prefill on a GPU
//===----------------------------------------------------------------------===//

def SplitRows : Pass<"pmkvq-split-rows", "::mlir::ModuleOp"> {
  let summary = "Turn attention over pages into attention of 128 rows a task";
  let description = [{
    A kernel that attends over pages becomes one whose workers take 128 query
    rows of a kv head (all heads of its group beside each other) over a list of
    pages; fixed areas and the rows' own tokens are pages at level 16 there.
    Tiles are dequantized before products, not folded into them: a tile is used
    by so many rows that decoding it costs less than rescaling these.

    With `rows` workers take segments instead, as `pmkvq-split-units` makes
    them, for up to so many neighbouring rows of queries: but of pages, and
    without folding in this form.

    Precondition: parameters are not folded; queries come rotated, or `rows` is
    given and they are rotated where they are loaded.
    Postcondition: no `attend_task` is left.
  }];
  let options = [
    Option<"rows", "rows", "int64_t", "0",
           "Rows of queries that a segment may have, 1 to 16; 0: no segments, "
           "tasks of 128 queries">];
  let dependentDialects = ["::mlir::arith::ArithDialect",
                           "::mlir::pmkvq::PMKVQDialect"];
}

def ConvertTileToWarpgroups : Pass<"convert-pmkvq-tile-to-warpgroups",
                                   "::mlir::ModuleOp"> {
  let summary = "Say what each warpgroup of a prefill kernel does";
  let description = [{
    Kernels over 128 rows become functions of a `gpu.module` in which two
    warpgroups dequantize and two multiply, with rings of tiles between them.
    In kernels over segments of pages one warpgroup copies, and the others take
    pages in turns and multiply codes where they are loaded.
    What is more than loops, barriers and addresses becomes an op that a later
    step lowers.  Of up to 16 queries over narrow ranges steps and offsets are
    folded into queries and weights.

    Precondition: `pmkvq-split-rows` ran.
    Postcondition: no kernel over rows is left.
  }];
  let options = [
    ListOption<"keys", "keys", "int64_t",
               "Levels of keys that can occur; the ladder's if empty">,
    ListOption<"values", "values", "int64_t",
               "Levels of values that can occur; the ladder's if empty">,
    Option<"stages", "stages", "int64_t", "2",
           "Tiles of keys, and of values, that may be under way: 2 or 3">,
    Option<"warpgroups", "warpgroups", "int64_t", "0",
           "Of kernels over segments, 1 to 4; 0: as many as queries leave "
           "registers for">,
    Option<"dependentLaunch", "dependent-launch", "bool", "false",
           "Of kernels over segments: start while the launch before may still "
           "run">,
    Option<"wideRanges", "wide-ranges", "bool", "false",
           "Take ranges of groups of all fp16, which costs a multiplication for "
           "two codes, and that nothing is folded; and in tasks of 128 queries scores that are far apart">];
  // Dependent dialects: lib/Conversion/WarpgroupBuilder.cpp.
}

def DequantizeTiles : PMKVQ_LanePass<"pmkvq-dequantize-tiles"> {
  let summary = "Lower codes to elements of f16 tiles";
  let description = [{
    `load_fragments` and `load_groups` become 16-byte loads,
    `dequantize_fragments` an AND and a multiply-add for two elements and a
    swizzled store for eight, `decode_operands` the same without the store, or
    with exponents the AND alone; of `wide` ranges fields are multiplied first.
    Masks come from FragmentLayout, offset and step from the format.
  }];
}

def LowerTileSoftmax : PMKVQ_LanePass<"pmkvq-lower-tile-softmax"> {
  let summary = "Lower the softmax whose maximum seldom rises";
  let description = [{
    `mask_scores` and `mask_columns` become comparisons with constants,
    `tile_softmax` multiply-adds, 2^x, a vote and a branch, `weigh_columns` the
    same without these, `pack_weights` conversions, `largest_of_columns` maxima,
    `store_weights` transposing stores of matrices.
  }];
}

def LowerTileProducts : PMKVQ_LanePass<"pmkvq-lower-tile-products"> {
  let summary = "Lower products of tiles to wgmma";
  let description = [{
    `score_product` and `value_product` become a fence, 8 instructions and a
    commit each, `multiply_operands` the same with 4, `await_products` a wait.
  }];
}
