//===- PMKVQLaneOps.td - What a lane of a warp does --------*- tablegen -*-===//
//
// The steps that the lowering of a GPU kernel to lanes goes through.
// Neighbours: PMKVQUnitOps.td (what they come from; includes this file),
// pmkvq/Target/FragmentLayout.h (which lane has which code).
//
// Mental model.  `convert-pmkvq-tile-to-lanes` says what each of 32 lanes holds.
// Lane 4 g + t of a warp has, for a block of 16 rows of codes:
//
//   query operand    queries' dims in the order of a B operand, column g
//   scores, weights  its queries, tokens g and g + 8 of each block
//   outputs          its queries, dims g and g + 8 of each block
//
// A lane's queries: t where there are up to 4 (the 8 columns of an operand are
// two bytes of 4 queries), 2 t and 2 t + 1 where there are up to 8 (one operand
// of 8 high bytes, one of 8 low ones), and these and 8 more where there are up
// to 16 (a second set of such operands).
//
// Each step that is more than elementwise arithmetic is an op here, which a
// pass of its own lowers.
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_LANE_OPS_TD
#define PMKVQ_LANE_OPS_TD

//===----------------------------------------------------------------------===//
// The query operand
//===----------------------------------------------------------------------===//

class PMKVQ_LaneVector<Type element>
    : FixedVectorOfRankAndType<[1], [element]>;
def PMKVQ_Shared
    : Type<CPred<"$_self.getDialect().getNamespace() == \"llvm\"">,
           "pointer to shared memory">;

def PMKVQ_SplitRowsOp : PMKVQ_Op<"split_rows",
    [Pure, SameVariadicResultSize]> {
  let summary = "queries times ranges as two signed bytes an element";
  let description = [{
    Quantizes the elements of column g, spread over the lanes with the same g:
    E is the largest exponent field among them, high = rint(x * 2^(20 - E))
    in units of 2^(E - 20), low what is left in 1/254 of that; both fit a signed
    byte, since |x| < 2^(E - 14).

    With one result, columns 2 q and 2 q + 1 of `rows` are both query q, and of
    `bytes` its high and its low bytes.  With two, column q is query q, and the
    first has the high, the second the low bytes.  `scales` turn sums of
    254 * high + low back, one for each query of the lane: t, or 2 t and
    2 t + 1.

    (C1) `rows` are words of two f16, a multiple of four; `bytes` have half as
         many words, of four bytes.
    (C2) A lane has one or two queries, as many operands of bytes and scales.

    Lowers to: a maximum of exponents over lanes, 4 multiply-adds a word and one
    or two byte permutations for two words.

    ```mlir
    func.func @f(%rows: vector<16xi32>) -> vector<8xi32> {
      %high, %low, %scales:2 = pmkvq.split_rows %rows
        : vector<16xi32> -> vector<8xi32>, vector<8xi32>, f32, f32
      return %low : vector<8xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<I32>:$rows);
  let results = (outs Variadic<PMKVQ_LaneVector<I32>>:$bytes,
                      Variadic<F32>:$scales);
  let assemblyFormat = [{
    $rows attr-dict `:` type($rows) `->` type(results)
  }];
  let hasVerifier = 1;
}

def PMKVQ_WeighRowsOp : PMKVQ_Op<"weigh_rows",
    [Pure, AllTypesMatch<["rows", "by"]>]> {
  let summary = "sum of every query's row, weighted";
  let description = [{
    sum_d rows[q][d] * by[d] for each query of the lane, both operands in the
    order of the query operand (see `split_rows`), in f32.

    (C1) Both are words of two f16, a multiple of four.
    (C2) A lane has one or two queries.

    Lowers to: one f16 matrix instruction for 4 elements a lane.

    ```mlir
    func.func @f(%rows: vector<16xi32>, %minima: vector<16xi32>) -> f32 {
      %r = pmkvq.weigh_rows %rows, %minima : vector<16xi32> -> f32
      return %r : f32
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<I32>:$rows, PMKVQ_LaneVector<I32>:$by);
  let results = (outs Variadic<F32>:$sums);
  let assemblyFormat = [{
    $rows `,` $by attr-dict `:` type($rows) `->` type($sums)
  }];
  let hasVerifier = 1;
}

def PMKVQ_SumBytesOp : PMKVQ_Op<"sum_bytes", [Pure]> {
  let summary = "sum of 254 * high + low over every query's row";
  let description = [{
    Exact, for each query of the lane, as f32 in the unit of `split_rows`'
    scales.

    (C1) `bytes` are pairs of words, one a matrix instruction, as many in each.
    (C2) A lane has one or two queries, as many as there are operands.

    Lowers to: matrix instructions with ones for codes.

    ```mlir
    func.func @f(%bytes: vector<8xi32>) -> f32 {
      %r = pmkvq.sum_bytes %bytes : (vector<8xi32>) -> f32
      return %r : f32
    }
    ```
  }];
  let arguments = (ins Variadic<PMKVQ_LaneVector<I32>>:$bytes);
  let results = (outs Variadic<F32>:$sums);
  let assemblyFormat = "$bytes attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

def PMKVQ_MultiplyCodesOp : PMKVQ_Op<"multiply_codes"> {
  let summary = "matrix product of staged codes with B operands";
  let description = [{
    `codes` is where the side of the unit lies in shared memory, in the order of
    FragmentLayout.  `columns` are queries or weights in two parts: bytes, which
    count U * high + low (U is 254 for keys and 256 for values), or at level 16
    bf16, which add up.  One operand has both parts in neighbouring columns, two
    have one each (see `split_rows`).

    One result a query of the lane: for every block of 16 rows, those of rows g
    and g + 8, to a unit in 24 bits.  Fields are read where they lie: row r
    is too large by 2^exponent(r).

    (C1) `level`, `tokens` and `head_dim` describe a FragmentLayout of whole
         operands: 32 tokens at a time (16 at level 16, and of keys above 2
         bits), head dims that are a multiple of 64, or 16 or 32 more.
    (C2) Each of `columns` has two words for every block of k, of half a block
         too; there are one, two or four.
    (C3) Each of `sums` has two elements for every block of rows, and there are
         as many as `columns`.
    (C4) Where sums over all of k may leave the 23 bits that the lowering has
         for them, parts of k whose sums do not divide its blocks.

    Lowers to: one load a vector, an AND for each register of an operand (none
    at 8 bits and above), one matrix instruction for each operand, two f32
    operations for each result (one at level 16).

    ```mlir
    func.func @f(%codes: !llvm.ptr<3>, %bytes: vector<8xi32>) -> vector<8xf32> {
      %sums = pmkvq.multiply_codes key 4 tokens 64 head_dim 128 in %codes, %bytes
        : !llvm.ptr<3>, vector<8xi32> -> vector<8xf32>
      return %sums : vector<8xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, I64Attr:$level, I64Attr:$tokens,
                       I64Attr:$head_dim, PMKVQ_Shared:$codes,
                       Variadic<PMKVQ_LaneVector<I32>>:$columns);
  let results = (outs Variadic<PMKVQ_LaneVector<F32>>:$sums);
  let assemblyFormat = [{
    $part $level `tokens` $tokens `head_dim` $head_dim `in` $codes `,` $columns
    attr-dict `:` type($codes) `,` type($columns) `->` type($sums)
  }];
  let hasVerifier = 1;
}

def PMKVQ_ShiftCodesOp : PMKVQ_Op<"shift_codes"> {
  let summary = "writes staged codes one level lower";
  let description = [{
    If `falls`, the side of a unit that lies at `codes`, in the order of
    FragmentLayout, is written to `place` at half its level, in that level's
    order.  A lane has the same elements at both: vectors that become one are in
    the same lane.  All lanes of the warp agree on `falls`.

    (C1) `level` is 8 or 4, and `level`, `tokens` and `head_dim` describe a
         FragmentLayout of whole vectors at both levels.
    (C2) `format` has a linear grid at `level` and writes its parameters once.

    Lowers to: a branch; in it, for each vector that is written, 16-byte loads
    of those that become it, the format's shift of four codes at a time, a
    16-byte store that leaves the cache first.

    ```mlir
    func.func @f(%codes: !llvm.ptr<3>, %place: !llvm.ptr<1>, %falls: i1) {
      pmkvq.shift_codes key 4 tokens 64 head_dim 128 format <per_channel>
        in %codes to %place if %falls : !llvm.ptr<3>, !llvm.ptr<1>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, I64Attr:$level, I64Attr:$tokens,
                       I64Attr:$head_dim, PMKVQ_FormatAttr:$format,
                       PMKVQ_Shared:$codes, AnyType:$place, I1:$falls);
  let assemblyFormat = [{
    $part $level `tokens` $tokens `head_dim` $head_dim `format` $format
    `in` $codes `to` $place `if` $falls attr-dict
    `:` type($codes) `,` type($place)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Softmax
//===----------------------------------------------------------------------===//

def PMKVQ_OnlineSoftmaxOp : PMKVQ_Op<"online_softmax",
    [SameVariadicOperandSize, SameVariadicResultSize]> {
  let summary = "weights against the largest score so far";
  let description = [{
    For each query of the lane: a score is product * factor + bias, in units of
    log2.  The next maximum is the largest of the warp's scores and the maximum
    so far; sum, offset and outputs are worth 2^(maximum - next maximum) of what
    they were.  A weight is 2^(score - next maximum - 1), and the next sum has
    the weights added.  `maxima` are the same in all lanes of a query; the rest
    is the lane's own.

    A score that is no number makes the sum none.

    (C1) One, two or four queries; as many of each operand, and five results for
         each.
    (C2) Products, factors, biases and weights of a query are as many.
    (C3) Outputs are as many as those they become.

    Lowers to: two multiply-adds, a maximum, one 2^x and one addition for each
    weight, a maximum over lanes, a product for each output.

    ```mlir
    func.func @f(%maximum: f32, %sum: f32, %outputs: vector<16xf32>,
                 %x: vector<4xf32>) -> vector<4xf32> {
      %next:5 = pmkvq.online_softmax maxima(%maximum) sums(%sum) offsets(%sum)
        outputs(%outputs) products(%x) factors(%x) biases(%x)
        : (f32, f32, f32, vector<16xf32>, vector<4xf32>, vector<4xf32>, vector<4xf32>)
          -> (f32, f32, f32, vector<16xf32>, vector<4xf32>)
      return %next#4 : vector<4xf32>
    }
    ```
  }];
  let arguments = (ins Variadic<F32>:$maxima, Variadic<F32>:$sums,
                       Variadic<F32>:$offsets,
                       Variadic<PMKVQ_LaneVector<F32>>:$outputs,
                       Variadic<PMKVQ_LaneVector<F32>>:$products,
                       Variadic<PMKVQ_LaneVector<F32>>:$factors,
                       Variadic<PMKVQ_LaneVector<F32>>:$biases);
  let results = (outs Variadic<F32>:$next_maxima, Variadic<F32>:$next_sums,
                      Variadic<F32>:$next_offsets,
                      Variadic<PMKVQ_LaneVector<F32>>:$next_outputs,
                      Variadic<PMKVQ_LaneVector<F32>>:$weights);
  let assemblyFormat = [{
    `maxima` `(` $maxima `)` `sums` `(` $sums `)` `offsets` `(` $offsets `)`
    `outputs` `(` $outputs `)` `products` `(` $products `)`
    `factors` `(` $factors `)` `biases` `(` $biases `)` attr-dict
    `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def PMKVQ_RepackWeightsOp : PMKVQ_Op<"repack_weights",
    [SameVariadicResultSize]> {
  let summary = "weights from accumulators to B operands of bytes";
  let description = [{
    n = weight * range * 65000 / (largest range of the unit), rounded, in two
    bytes.  With one query a lane, columns 2 q and 2 q + 1 of the operand hold
    the high and low bytes of query q; with two, column q of the first its high
    and of the second its low bytes.  `unscale` turns 256 * high + low sums
    back; `sums` are the lane's own of n, times `unscale`.

    (C1) `ranges` and each of `columns` have a word for two weights.
    (C2) One, two or four queries, as many operands and sums.

    Lowers to: a multiply-add that leaves the integer in the low bits of a
    float, byte permutations and one 8x8 transposition for a block of 16 tokens
    and operand, integer additions.

    ```mlir
    func.func @f(%weights: vector<4xf32>, %ranges: vector<2xi32>) -> vector<2xi32> {
      %columns, %unscale, %sum = pmkvq.repack_weights %ranges, %weights
        : (vector<2xi32>, vector<4xf32>) -> (vector<2xi32>, f32, f32)
      return %columns : vector<2xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<I32>:$ranges,
                       Variadic<PMKVQ_LaneVector<F32>>:$weights);
  let results = (outs Variadic<PMKVQ_LaneVector<I32>>:$columns, F32:$unscale,
                      Variadic<F32>:$sums);
  let assemblyFormat = [{
    $ranges `,` $weights attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def PMKVQ_RepackRawWeightsOp : PMKVQ_Op<"repack_raw_weights"> {
  let summary = "weights from accumulators to B operands of bf16";
  let description = [{
    Weights rounded to bf16, and what the rounding left: columns 2 q and 2 q + 1
    of one operand, or column q of each of two.

    (C1) Each of `columns` has a word for each weight.
    (C2) One, two or four queries, as many operands.

    Lowers to: two conversions, one transposition for 8 tokens and operand.

    ```mlir
    func.func @f(%weights: vector<2xf32>) -> vector<2xi32> {
      %columns = pmkvq.repack_raw_weights %weights : (vector<2xf32>) -> vector<2xi32>
      return %columns : vector<2xi32>
    }
    ```
  }];
  let arguments = (ins Variadic<PMKVQ_LaneVector<F32>>:$weights);
  let results = (outs Variadic<PMKVQ_LaneVector<I32>>:$columns);
  let assemblyFormat = "$weights attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// The ring
//===----------------------------------------------------------------------===//

def PMKVQ_RingIssueOp : PMKVQ_Op<"ring_issue"> {
  let summary = "starts the copies of one unit into a slot";
  let description = [{
    Unit `number` of this warp goes into slot `number` mod `slots` of the ring
    at `ring`, if it `exists`.  All lanes of the warp agree.

    (C1) `kinds` lists pairs of levels, as in `for_unit`.
    (C2) A slot holds a unit of each kind and is a multiple of 128 bytes.
    (C3) `slots` is 1 or 2.
    (C4) `value_bytes`, bytes of parameters of a token's values, is 1 or 4, and
         4 if it is absent.

    Lowers to: an expected byte count and one bulk copy for each piece of the
    unit, by one lane, whose arrival completes the slot's barrier; or 16-byte
    copies by all lanes, and the end of a group of copies.

    ```mlir
    func.func @f(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %n: i32,
                 %exists: i1, %codes: !llvm.ptr<1>, %parameters: !llvm.ptr<1>,
                 %key: i32, %value: i32, %slot: i32, %info: i32, %policy: i64) {
      pmkvq.ring_issue %n into %ring, %barriers if %exists from %codes, %parameters
        at %key, %value, %slot info %info policy %policy
        kinds [2, 2] slots 2 slot_bytes 9216 head_dim 128 keys_per_token false
        : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_Shared:$ring, PMKVQ_Shared:$barriers, I32:$number,
                       I1:$exists, AnyType:$codes, AnyType:$parameters,
                       I32:$key, I32:$value, I32:$slot, I32:$info, I64:$policy,
                       DenseI64ArrayAttr:$kinds, I64Attr:$slots,
                       I64Attr:$slot_bytes,
                       I64Attr:$head_dim, BoolAttr:$keys_per_token,
                       OptionalAttr<I64Attr>:$value_bytes);
  let assemblyFormat = [{
    $number `into` $ring `,` $barriers `if` $exists `from` $codes `,` $parameters
    `at` $key `,` $value `,` $slot `info` $info `policy` $policy
    `kinds` $kinds `slots` $slots `slot_bytes` $slot_bytes `head_dim` $head_dim
    `keys_per_token` $keys_per_token (`value_bytes` $value_bytes^)? attr-dict
    `:` type($ring) `,` type($barriers) `,` type($codes) `,` type($parameters)
  }];
  let hasVerifier = 1;
}

def PMKVQ_RingWaitOp : PMKVQ_Op<"ring_wait"> {
  let summary = "waits for a unit and gives its slot";
  let description = [{
    (C1) `slots` is 1 or 2.

    Lowers to: a wait for the phase of the slot's barrier, or for this lane's
    copies and then the warp.

    ```mlir
    func.func @f(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %n: i32)
        -> !llvm.ptr<3> {
      %slot = pmkvq.ring_wait %n of %ring, %barriers slots 2 slot_bytes 9216
        : !llvm.ptr<3>, !llvm.ptr<3> -> !llvm.ptr<3>
      return %slot : !llvm.ptr<3>
    }
    ```
  }];
  let arguments = (ins PMKVQ_Shared:$ring, PMKVQ_Shared:$barriers, I32:$number,
                       I64Attr:$slots, I64Attr:$slot_bytes);
  let results = (outs PMKVQ_Shared:$slot);
  let assemblyFormat = [{
    $number `of` $ring `,` $barriers `slots` $slots `slot_bytes` $slot_bytes
    attr-dict `:` type($ring) `,` type($barriers) `->` type($slot)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Merges
//===----------------------------------------------------------------------===//

def PMKVQ_MergeWarpsOp : PMKVQ_Op<"merge_warps", [AttrSizedOperandSegments]> {
  let summary = "merges the states of a thread block's warps";
  let description = [{
    Takes, for each query of the lane, a maximum, a sum, an offset and the
    outputs.  The result goes to `out` of `pair` if `shares` is
    1, else to partial result `partial`.  On the way outputs lie behind the
    rings, or from `record` on: a slot of this warp's ring, as an offset from
    `shared`, that nothing is copied to before the next barrier.

    A segment may have several rows of queries, of which `more_rows` beside the
    first exist: query r * group + g is that of head g of row r, and results of
    the rows lie `stride` queries apart.

    (C1) `group` * `rows` lies in 1 .. 16, and `states` has 3 + head_dim / 8
         values for each query of the lane.
    (C2) 16 divides `head_dim`.
    (C3) `rows`, `more_rows` and `stride` come together.

    Lowers to: sums over the lanes of a query, stores to shared memory, a
    barrier, a sum over warps in their order, a store.

    ```mlir
    func.func @f(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                 %i: i32, %x: f32) {
      pmkvq.merge_warps pair %i shares %i partial %i
        (%x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x,
         %x) through %shared
        to %out, %partials group 3 head_dim 128 ring_bytes 18432
        : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_Shared:$shared, AnyType:$out,
                       AnyType:$partials, I32:$pair, I32:$shares, I32:$partial,
                       Variadic<F32>:$states, Optional<I32>:$record,
                       Optional<I32>:$more_rows, I64Attr:$group,
                       OptionalAttr<I64Attr>:$rows,
                       OptionalAttr<I64Attr>:$stride, I64Attr:$head_dim,
                       I64Attr:$ring_bytes);
  let assemblyFormat = [{
    `pair` $pair `shares` $shares `partial` $partial `(` $states `)` `through`
    $shared (`at` $record^)? `to` $out `,` $partials `group` $group
    (`rows` $rows^)? (`more` $more_rows^)? (`stride` $stride^)? `head_dim`
    $head_dim `ring_bytes` $ring_bytes attr-dict
    `:` type($shared) `,` type($out) `,` type($partials)
  }];
  let hasVerifier = 1;
}

def PMKVQ_MergeSharesOp : PMKVQ_Op<"merge_shares"> {
  let summary = "merges partial results of a pair that thread blocks share";
  let description = [{
    Waits for all `shares` partial results from `partial` on, adds them in their
    order and stores the result.  Run by the thread block of the last share.

    `threads` are those of the thread block, 256 if it is not said.

    (C1) `group` * `rows` lies in 1 .. 64, `threads` is a multiple of 128.
    (C2) 16 divides `head_dim`.
    (C3) `rows`, `more_rows` and `stride`, which mean what they do in
         `merge_warps`, come together.

    Lowers to: 16-byte loads of up to 16 shares at a time, again until each has
    its tag.

    ```mlir
    func.func @f(%out: !llvm.ptr<1>, %partials: !llvm.ptr<1>, %i: i32) {
      pmkvq.merge_shares pair %i shares %i partial %i from %partials to %out
        group 4 head_dim 128 : !llvm.ptr<1>, !llvm.ptr<1>
      return
    }
    ```
  }];
  let arguments = (ins AnyType:$out, AnyType:$partials, I32:$pair, I32:$shares,
                       I32:$partial, Optional<I32>:$more_rows, I64Attr:$group,
                       OptionalAttr<I64Attr>:$rows,
                       OptionalAttr<I64Attr>:$stride, I64Attr:$head_dim,
                       OptionalAttr<I64Attr>:$threads);
  let assemblyFormat = [{
    `pair` $pair `shares` $shares `partial` $partial `from` $partials `to` $out
    `group` $group (`rows` $rows^)? (`more` $more_rows^)? (`stride` $stride^)?
    `head_dim` $head_dim (`threads` $threads^)? attr-dict
    `:` type($partials) `,` type($out)
  }];
  let hasVerifier = 1;
}

#endif // PMKVQ_LANE_OPS_TD
