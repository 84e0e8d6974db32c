//===- PMKVQLaneOps.td - What a lane of a warp does --------*- tablegen -*-===//
//
// The steps that the lowering of a GPU kernel to lanes goes through.
// Neighbours: PMKVQUnitOps.td (what they come from; includes this file),
// pmkvq/Target/FragmentLayout.h (which lane has which code).
//
// Mental model.  `convert-pmkvq-tile-to-lanes` says what each of 32 lanes holds.
// Lane 4 g + t of a warp has, for a block of 16 rows of codes and up to 4
// queries:
//
//   query operand    queries' dims in the order of a B operand, column g
//   scores, weights  query t, tokens g and g + 8 of each block
//   outputs          query t, dims g and g + 8 of each block
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

def PMKVQ_SplitRowsOp : PMKVQ_Op<"split_rows", [Pure]> {
  let summary = "queries times ranges as two signed bytes an element";
  let description = [{
    Quantizes the elements of column g, spread over the lanes with the same g:
    E is the largest exponent among them, high = rint(x * 2^(20 - E))
    in units of 2^(E - 20), low what is left in 1/254 of that; both fit a signed
    byte, since |x| < 2^(E - 14).  Lanes with even g
    give the high bytes of query g / 2, lanes with odd g the low ones.  `scale`
    turns sums of 254 * high + low of query t back.

    (C1) `rows` are words of two f16, a multiple of four; `bytes` has half as
         many words, of four bytes.

    Lowers to: a maximum of exponents over lanes, 4 multiply-adds and a byte
    permutation for 4 elements.

    ```mlir
    func.func @f(%rows: vector<16xi32>) -> vector<8xi32> {
      %bytes, %scale = pmkvq.split_rows %rows : vector<16xi32> -> vector<8xi32>
      return %bytes : vector<8xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<I32>:$rows);
  let results = (outs PMKVQ_LaneVector<I32>:$bytes, F32:$scale);
  let assemblyFormat = "$rows attr-dict `:` type($rows) `->` type($bytes)";
  let hasVerifier = 1;
}

def PMKVQ_WeighRowsOp : PMKVQ_Op<"weigh_rows",
    [Pure, AllTypesMatch<["rows", "by"]>]> {
  let summary = "sum of every query's row, weighted";
  let description = [{
    sum_d rows[q][d] * by[d] for query t, both operands in the order of the
    query operand, in f32.

    (C1) Both are words of two f16, a multiple of four.

    Lowers to: one f16 matrix instruction for 4 elements a lane.

    ```mlir
    func.func @f(%rows: vector<16xi32>, %minima: vector<16xi32>) -> f32 {
      %r = pmkvq.weigh_rows %rows, %minima : vector<16xi32>
      return %r : f32
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<I32>:$rows, PMKVQ_LaneVector<I32>:$by);
  let results = (outs F32:$result);
  let assemblyFormat = "$rows `,` $by attr-dict `:` type($rows)";
  let hasVerifier = 1;
}

def PMKVQ_SumBytesOp : PMKVQ_Op<"sum_bytes", [Pure]> {
  let summary = "sum of 254 * high + low over every query's row";
  let description = [{
    Exact, for query t, as f32 in the unit of `split_rows`' scale.

    (C1) `bytes` are pairs of words, one a matrix instruction.

    Lowers to: matrix instructions with ones for codes.

    ```mlir
    func.func @f(%bytes: vector<8xi32>) -> f32 {
      %r = pmkvq.sum_bytes %bytes : vector<8xi32>
      return %r : f32
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<I32>:$bytes);
  let results = (outs F32:$result);
  let assemblyFormat = "$bytes attr-dict `:` type($bytes)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

def PMKVQ_MultiplyCodesOp : PMKVQ_Op<"multiply_codes"> {
  let summary = "matrix product of staged codes with B operands";
  let description = [{
    `codes` is where the side of the unit lies in shared memory, in the order of
    FragmentLayout.  One result a B operand: for every block of 16 rows, the
    lane's four accumulators.  Fields are read where they lie: row r of the
    accumulators is too large by 2^exponent(r).

    (C1) `level`, `tokens` and `head_dim` describe a FragmentLayout of whole
         vectors.
    (C2) Each of `columns` has two words for every block of k; there is at least
         one.
    (C3) Each of `sums` has four elements for every block of rows: f32 at level
         16, else i32.

    Lowers to: one 16-byte load a vector, an AND for each register of an
    operand (none at 8 bits and above), one matrix instruction for each operand.

    ```mlir
    func.func @f(%codes: !llvm.ptr<3>, %bytes: vector<8xi32>) -> vector<16xi32> {
      %sums = pmkvq.multiply_codes key 4 tokens 64 head_dim 128 in %codes, %bytes
        : !llvm.ptr<3>, vector<8xi32> -> vector<16xi32>
      return %sums : vector<16xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_PartAttr:$part, I64Attr:$level, I64Attr:$tokens,
                       I64Attr:$head_dim, PMKVQ_Shared:$codes,
                       Variadic<PMKVQ_LaneVector<I32>>:$columns);
  let results = (outs Variadic<AnyType>:$sums);
  let assemblyFormat = [{
    $part $level `tokens` $tokens `head_dim` $head_dim `in` $codes `,` $columns
    attr-dict `:` type($codes) `,` type($columns) `->` type($sums)
  }];
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// Softmax
//===----------------------------------------------------------------------===//

def PMKVQ_LazySoftmaxOp : PMKVQ_Op<"lazy_softmax"> {
  let summary = "weights against a maximum that is seldom raised";
  let description = [{
    A score is product * factor + bias, in units of log2; its weight is
    2^(score - maximum - 2).  Only if a weight of the warp exceeds 1 is the
    maximum raised to the largest score of each query, and sums and outputs are
    rescaled: a uniform branch that few units take.  `maximum` is the same in
    all lanes of a query; `sums` and `outputs` are the lane's own.

    `packed` are the weights as f16 pairs, one for each block of 16 tokens.

    (C1) Products, factors, bias and weights are as many, an even number.
    (C2) `packed` has a word for two weights.
    (C3) Sums and outputs are as many as those they become.

    Lowers to: one multiply-add, one 2^x for each weight, a packed maximum, a
    vote, and the branch.

    ```mlir
    func.func @f(%maximum: f32, %sum: f32, %outputs: vector<16xf32>,
                 %x: vector<4xf32>) -> vector<4xf32> {
      %next:5 = pmkvq.lazy_softmax %maximum sums(%sum) outputs %outputs
        products %x factors %x bias %x
        : (f32, f32, vector<16xf32>, vector<4xf32>, vector<4xf32>, vector<4xf32>)
          -> (f32, f32, vector<16xf32>, vector<4xf32>, vector<2xi32>)
      return %next#3 : vector<4xf32>
    }
    ```
  }];
  let arguments = (ins F32:$maximum, Variadic<F32>:$sums,
                       PMKVQ_LaneVector<F32>:$outputs,
                       PMKVQ_LaneVector<F32>:$products,
                       PMKVQ_LaneVector<F32>:$factors,
                       PMKVQ_LaneVector<F32>:$bias);
  let results = (outs F32:$next_maximum, Variadic<F32>:$next_sums,
                      PMKVQ_LaneVector<F32>:$next_outputs,
                      PMKVQ_LaneVector<F32>:$weights,
                      PMKVQ_LaneVector<I32>:$packed);
  let assemblyFormat = [{
    $maximum `sums` `(` $sums `)` `outputs` $outputs `products` $products
    `factors` $factors `bias` $bias attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def PMKVQ_RepackWeightsOp : PMKVQ_Op<"repack_weights"> {
  let summary = "weights from accumulators to a B operand of bytes";
  let description = [{
    n = weight * range * 65000 / (largest range of the unit), rounded, in two
    bytes; columns 2 q and 2 q + 1 hold the high and low bytes of query q.
    `unscale` turns 256 * high + low sums back.

    (C1) `ranges` and `operand` have a word for two weights.

    Lowers to: a multiply-add that leaves the integer in the low bits of a
    float, one byte permutation and one 8x8 transposition for a block of 16
    tokens.

    ```mlir
    func.func @f(%weights: vector<4xf32>, %ranges: vector<2xi32>) -> vector<2xi32> {
      %operand, %unscale = pmkvq.repack_weights %weights, %ranges
        : vector<4xf32>, vector<2xi32> -> vector<2xi32>
      return %operand : vector<2xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$weights,
                       PMKVQ_LaneVector<I32>:$ranges);
  let results = (outs PMKVQ_LaneVector<I32>:$operand, F32:$unscale);
  let assemblyFormat = [{
    $weights `,` $ranges attr-dict `:` type($weights) `,` type($ranges) `->`
    type($operand)
  }];
  let hasVerifier = 1;
}

def PMKVQ_RepackRawWeightsOp : PMKVQ_Op<"repack_raw_weights"> {
  let summary = "weights from accumulators to a B operand of bf16";
  let description = [{
    Columns 2 q and 2 q + 1 hold query q's weights rounded to bf16 and what the
    rounding left.

    (C1) `operand` has a word for each weight.

    Lowers to: two conversions, one transposition for 8 tokens.

    ```mlir
    func.func @f(%weights: vector<2xf32>) -> vector<2xi32> {
      %operand = pmkvq.repack_raw_weights %weights : vector<2xf32> -> vector<2xi32>
      return %operand : vector<2xi32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_LaneVector<F32>:$weights);
  let results = (outs PMKVQ_LaneVector<I32>:$operand);
  let assemblyFormat = "$weights attr-dict `:` type($weights) `->` type($operand)";
  let hasVerifier = 1;
}

//===----------------------------------------------------------------------===//
// The ring
//===----------------------------------------------------------------------===//

def PMKVQ_RingIssueOp : PMKVQ_Op<"ring_issue"> {
  let summary = "starts the copies of one unit into a slot";
  let description = [{
    Unit `number` of this warp goes into slot `number` mod 2 of the ring at
    `ring`; its arrival completes the slot's barrier.  One lane issues.

    (C1) `kinds` lists pairs of levels, as in `for_unit`.
    (C2) A slot holds a unit of each kind and is a multiple of 128 bytes.

    Lowers to: an expected byte count and one bulk copy for each piece of the
    unit.

    ```mlir
    func.func @f(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %n: i32,
                 %leader: i1, %codes: !llvm.ptr<1>, %parameters: !llvm.ptr<1>,
                 %key: i32, %value: i32, %slot: i32, %info: i32, %policy: i64) {
      pmkvq.ring_issue %n into %ring, %barriers if %leader from %codes, %parameters
        at %key, %value, %slot info %info policy %policy
        kinds [2, 2] slot_bytes 9216 head_dim 128 keys_per_token false
        : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_Shared:$ring, PMKVQ_Shared:$barriers, I32:$number,
                       I1:$leader, AnyType:$codes, AnyType:$parameters,
                       I32:$key, I32:$value, I32:$slot, I32:$info, I64:$policy,
                       DenseI64ArrayAttr:$kinds, I64Attr:$slot_bytes,
                       I64Attr:$head_dim, BoolAttr:$keys_per_token);
  let assemblyFormat = [{
    $number `into` $ring `,` $barriers `if` $leader `from` $codes `,` $parameters
    `at` $key `,` $value `,` $slot `info` $info `policy` $policy
    `kinds` $kinds `slot_bytes` $slot_bytes `head_dim` $head_dim
    `keys_per_token` $keys_per_token attr-dict
    `:` type($ring) `,` type($barriers) `,` type($codes) `,` type($parameters)
  }];
  let hasVerifier = 1;
}

def PMKVQ_RingWaitOp : PMKVQ_Op<"ring_wait"> {
  let summary = "waits for a unit and gives its slot";
  let description = [{
    Lowers to: a wait for the phase of the slot's barrier.

    ```mlir
    func.func @f(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %n: i32)
        -> !llvm.ptr<3> {
      %slot = pmkvq.ring_wait %n of %ring, %barriers slot_bytes 9216
        : !llvm.ptr<3>, !llvm.ptr<3> -> !llvm.ptr<3>
      return %slot : !llvm.ptr<3>
    }
    ```
  }];
  let arguments = (ins PMKVQ_Shared:$ring, PMKVQ_Shared:$barriers, I32:$number,
                       I64Attr:$slot_bytes);
  let results = (outs PMKVQ_Shared:$slot);
  let assemblyFormat = [{
    $number `of` $ring `,` $barriers `slot_bytes` $slot_bytes attr-dict
    `:` type($ring) `,` type($barriers) `->` type($slot)
  }];
}

//===----------------------------------------------------------------------===//
// Merges
//===----------------------------------------------------------------------===//

def PMKVQ_MergeWarpsOp : PMKVQ_Op<"merge_warps"> {
  let summary = "merges the states of a thread block's warps";
  let description = [{
    Takes, for each B operand (4 queries), a maximum, a sum, an offset and the
    outputs of the lane.  The result goes to `out` of `pair` if `shares` is
    1, else to partial result `partial`.

    (C1) `group` lies in 1 .. 8, and `states` has 3 + head_dim / 8 values for
         each B operand.
    (C2) 128 divides `head_dim`: a thread merges at least two outputs.

    Lowers to: sums over the lanes of a query, stores to shared memory, a
    barrier, a sum over warps in their order, a store.

    ```mlir
    func.func @f(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                 %i: i32, %x: f32) {
      pmkvq.merge_warps pair %i shares %i partial %i
        (%x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x, %x,
         %x) through %shared
        to %out, %partials group 3 head_dim 128 slot_bytes 9216
        : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
      return
    }
    ```
  }];
  let arguments = (ins PMKVQ_Shared:$shared, AnyType:$out,
                       AnyType:$partials, I32:$pair, I32:$shares, I32:$partial,
                       Variadic<F32>:$states, I64Attr:$group, I64Attr:$head_dim,
                       I64Attr:$slot_bytes);
  let assemblyFormat = [{
    `pair` $pair `shares` $shares `partial` $partial `(` $states `)` `through`
    $shared `to` $out `,` $partials `group` $group `head_dim` $head_dim
    `slot_bytes` $slot_bytes attr-dict
    `:` type($shared) `,` type($out) `,` type($partials)
  }];
  let hasVerifier = 1;
}

def PMKVQ_MergeSharesOp : PMKVQ_Op<"merge_shares"> {
  let summary = "merges partial results of a pair that thread blocks share";
  let description = [{
    Waits for all `shares` partial results from `partial` on, adds them in their
    order and stores the result.  Run by the thread block of the last share.

    (C1) `group` lies in 1 .. 8.
    (C2) 128 divides `head_dim`.

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
                       I32:$partial, I64Attr:$group, I64Attr:$head_dim);
  let assemblyFormat = [{
    `pair` $pair `shares` $shares `partial` $partial `from` $partials `to` $out
    `group` $group `head_dim` $head_dim attr-dict
    `:` type($partials) `,` type($out)
  }];
  let hasVerifier = 1;
}

#endif // PMKVQ_LANE_OPS_TD
