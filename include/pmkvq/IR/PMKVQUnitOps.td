//===- PMKVQUnitOps.td - Units of a GPU --------------------*- tablegen -*-===//
//
// The tile form of a GPU kernel: segments and units.  Neighbours:
// PMKVQTileOps.td (tiles; includes this file), PMKVQLaneOps.td (what they are
// lowered to), pmkvq_rt/Units.h and DeviceAbi.h (units, work lists).
//
// Mental model.  A thread block owns a row of a work list.  For each of its
// segments it attends over units with 8 warps, each with a state of its own:
//
//   for_segment %s of %work[%block]:
//     %q = load_rows;  %s0 = softmax_init
//     %s1 = for_unit %s from %s0: one region a kind of unit, with its tiles
//     store_merged %s1
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_UNIT_OPS_TD
#define PMKVQ_UNIT_OPS_TD

def PMKVQ_WorkType : PMKVQ_Type<"Work", "work"> {
  let summary = "the work list of a GPU kernel: rows of segments of units";
}

def PMKVQ_SegmentType : PMKVQ_Type<"Segment", "segment"> {
  let summary = "units of one sequence and kv head in one row of a work list";
}

//===----------------------------------------------------------------------===//
// Segments and units
//===----------------------------------------------------------------------===//

def PMKVQ_ForSegmentOp : PMKVQ_Op<"for_segment", [
    RecursiveMemoryEffects, SingleBlock,
    SingleBlockImplicitTerminator<"YieldOp">]> {
  let summary = "a thread block's segments, one after the other";
  let description = [{
    (C1) The region takes the segment, its first row of queries, their number
         and its kv head.
    (C2) `kv_heads` is positive.

    Lowers to: a loop over the row's segments.

    ```mlir
    pmkvq.kernel @segments(%work: !pmkvq.work, %block: index) -> i1 {
      pmkvq.for_segment %work[%block] kv_heads 2 {
      ^bb0(%segment: !pmkvq.segment, %row: index, %count: index,
           %head: index):
      }
      %ok = arith.constant true
      pmkvq.return %ok
    }
    ```
  }];
  let arguments = (ins PMKVQ_WorkType:$work, Index:$worker,
                       I64Attr:$kv_heads);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    $work `[` $worker `]` `kv_heads` $kv_heads attr-dict-with-keyword $body
  }];
  let hasVerifier = 1;
}

def PMKVQ_ForUnitOp : PMKVQ_Op<"for_unit", [
    RecursiveMemoryEffects, AllTypesMatch<["init", "result"]>,
    SingleBlock, SingleBlockImplicitTerminator<"YieldOp">]> {
  let summary = "attends over the units of a segment";
  let description = [{
    One region a kind of unit that can occur: (key level, value level) pairs.
    Each takes the state, the number of tokens that count (for the first row of
    queries: may be 0 or less where there are more), and the unit's tiles of
    keys and values, and yields the next state.  Warps take units in turns,
    each with its own state.

    (C1) `kinds` lists pairs of levels, one a region.
    (C2) A region takes a state, an index, a tile of keys and a tile of values
         at its kind's levels, both of the kind's number of tokens and of the
         state's head_dim.

    Lowers to: the ring of staged units, and a switch over the kind.

    ```mlir
    !state = !pmkvq.softmax<4, 128>
    !k = !pmkvq.tile<key, 2, 128, 128, <per_channel>>
    !v = !pmkvq.tile<value, 2, 128, 128, <per_token>>
    func.func @f(%segment: !pmkvq.segment, %init: !state) -> !state {
      %r = pmkvq.for_unit %segment from %init kinds [2, 2] : !state {
      ^bb0(%state: !state, %tokens: index, %keys: !k, %values: !v):
        pmkvq.yield %state : !state
      }
      return %r : !state
    }
    ```
  }];
  let arguments = (ins PMKVQ_SegmentType:$segment, PMKVQ_SoftmaxType:$init,
                       DenseI64ArrayAttr:$kinds);
  let results = (outs PMKVQ_SoftmaxType:$result);
  let regions = (region VariadicRegion<SizedRegion<1>>:$bodies);
  let assemblyFormat = [{
    $segment `from` $init `kinds` $kinds attr-dict `:` type($init) $bodies
  }];
  let hasVerifier = 1;
}

def PMKVQ_StoreLoweredOp : PMKVQ_Op<"store_lowered", [HasParent<"ForUnitOp">]> {
  let summary = "writes a unit's codes one level lower, if its page falls";
  let description = [{
    Where the unit's entry of the work list says that the page of `tile`'s part
    falls after it is read, stores the tile in blocks that the entry names, in
    the order of its level.  Those blocks are read by nobody in this launch, so
    that units may be worked on in any order, and read by others too.
    Parameters stay where they are.

    (C1) `tile` is the region's tile of its part at half its level.
    (C2) Its format's parameters are written once.

    Lowers to: `shift_codes`.

    ```mlir
    !state = !pmkvq.softmax<4, 128>
    !k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
    !v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
    func.func @f(%segment: !pmkvq.segment, %init: !state) -> !state {
      %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
      ^bb0(%state: !state, %tokens: index, %keys: !k, %values: !v):
        %low = pmkvq.shift %keys : !k -> !pmkvq.tile<key, 2, 64, 128, <per_channel>>
        pmkvq.store_lowered %low : <key, 2, 64, 128, <per_channel>>
        pmkvq.yield %state : !state
      }
      return %r : !state
    }
    ```
  }];
  let arguments = (ins PMKVQ_TileType:$tile);
  let assemblyFormat = "$tile attr-dict `:` type($tile)";
  let hasVerifier = 1;
}

def PMKVQ_StoreMergedOp : PMKVQ_Op<"store_merged"> {
  let summary = "merges the states of all workers of a pair, stores the result";
  let description = [{
    Workers are the warps of this thread block and, where several thread blocks
    share the pair, those of the others.  They are merged in a fixed order;
    who has the last share stores `count` rows from `row` on, head `head`, of
    `out`: query r * group + g is that of head g of row r.

    (C1) `out` is a contiguous memref [rows, heads, head_dim] in f32, its
         heads known; `group` divides the number of the state's queries.

    Lowers to: a merge through shared memory, then through partial results.

    ```mlir
    func.func @f(%state: !pmkvq.softmax<4, 128>, %segment: !pmkvq.segment,
                 %out: memref<?x8x128xf32>, %row: index, %head: index,
                 %count: index) {
      pmkvq.store_merged %state of %segment, %out[%row, %head] count %count
        group 4 : !pmkvq.softmax<4, 128>, memref<?x8x128xf32>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_SoftmaxType:$state, PMKVQ_SegmentType:$segment,
                       AnyShaped:$out, Index:$row, Index:$head, Index:$count,
                       I64Attr:$group);
  let assemblyFormat = [{
    $state `of` $segment `,` $out `[` $row `,` $head `]` `count` $count
    `group` $group attr-dict `:` type($state) `,` type($out)
  }];
  let hasVerifier = 1;
}

include "pmkvq/IR/PMKVQLaneOps.td"
include "pmkvq/IR/PMKVQWarpgroupOps.td"
include "pmkvq/IR/PMKVQOperandOps.td"

#endif // PMKVQ_UNIT_OPS_TD
