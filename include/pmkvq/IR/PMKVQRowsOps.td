//===- PMKVQRowsOps.td - Rows, and products with tiles -----*- tablegen -*-===//
//
// Queries, scores and outputs of one kv head, parameters, and products with bare
// codes.  Neighbours: PMKVQTileOps.td (tiles; includes this file and holds the
// mental model).
//
//===----------------------------------------------------------------------===//

#ifndef PMKVQ_ROWS_OPS_TD
#define PMKVQ_ROWS_OPS_TD

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

    ```mlir
    func.func @f(%q: memref<?x6x64xf32>, %row: index, %head: index,
                 %count: index) -> !pmkvq.rows<24, 64> {
      %rows = pmkvq.load_rows %q[%row, %head] count %count group 3
        : memref<?x6x64xf32> -> !pmkvq.rows<24, 64>
      return %rows : !pmkvq.rows<24, 64>
    }
    ```
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

    ```mlir
    func.func @f(%rows: !pmkvq.rows<24, 64>, %out: memref<?x6x64xf32>,
                 %row: index, %head: index, %count: index) {
      pmkvq.store_rows %rows, %out[%row, %head] count %count group 3
        : !pmkvq.rows<24, 64>, memref<?x6x64xf32>
      return
    }
    ```
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

    ```mlir
    func.func @f(%q: !pmkvq.rows<3, 64>) -> !pmkvq.rows<3, 64> {
      %r = pmkvq.hadamard %q : !pmkvq.rows<3, 64>
      return %r : !pmkvq.rows<3, 64>
    }
    ```
  }];
  let arguments = (ins PMKVQ_RowsType:$source);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = "$source attr-dict `:` type($source)";
}

def PMKVQ_RotaryOp : PMKVQ_Op<"rotary",
    [Pure, AllTypesMatch<["source", "result"]>,
     AllTypesMatch<["cosines", "sines"]>]> {
  let summary = "rotary position embedding of each row";
  let description = [{
    With c and s the cosines and sines of step row `row`, and h half the width,
    elements i and i + h of a row become x[i] c[i] - x[i + h] s[i] and
    x[i + h] c[i] + x[i] s[i] (as in Llama's checkpoints; RoFormer, arXiv
    2104.09864).

    (C1) `cosines` and `sines` are contiguous memrefs [rows, width / 2] in f32.

    Lowers to: two products and a sum an element.

    ```mlir
    func.func @f(%k: !pmkvq.rows<1, 64>, %cos: memref<?x32xf32>,
                 %sin: memref<?x32xf32>, %row: index) -> !pmkvq.rows<1, 64> {
      %r = pmkvq.rotary %k by %cos, %sin[%row]
        : !pmkvq.rows<1, 64>, memref<?x32xf32>
      return %r : !pmkvq.rows<1, 64>
    }
    ```
  }];
  let arguments = (ins PMKVQ_RowsType:$source, AnyShaped:$cosines,
                       AnyShaped:$sines, Index:$row);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = [{
    $source `by` $cosines `,` $sines `[` $row `]` attr-dict
    `:` type($source) `,` type($cosines)
  }];
  let hasVerifier = 1;
}

def PMKVQ_AheadOfTheTile : OptionalTypesMatchWith<
    "`ahead` has the type of the tile", "tile", "ahead", "$_self">;

def PMKVQ_LoadParametersOp : PMKVQ_Op<"load_parameters",
    [Pure, PMKVQ_AheadOfTheTile]> {
  let summary = "the stored parameters of a tile";
  let description = [{
    One vector a parameter of the format, each [groups], in f32.

    (C1) There is one result a parameter of the tile's format, each with one
         element a group.
    (C2) The tile is not raw.
    (C3) `ahead`, which is that of `contract`, has the type of the tile.

    Lowers to: loads and conversions from the stored type.

    ```mlir
    !k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
    func.func @f(%tile: !k4) -> (vector<64xf32>, vector<64xf32>) {
      %min, %range = pmkvq.load_parameters %tile
        : !k4 -> vector<64xf32>, vector<64xf32>
      return %min, %range : vector<64xf32>, vector<64xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_TileType:$tile, Optional<PMKVQ_TileType>:$ahead);
  let results = (outs Variadic<PMKVQ_F32Vector>:$parameters);
  let builders = [
    OpBuilder<(ins "TypeRange":$parameters, "Value":$tile),
              [{ build($_builder, $_state, parameters, tile, Value()); }]>];
  let assemblyFormat = [{
    $tile (`ahead` $ahead^)? attr-dict `:` type($tile) `->` type($parameters)
  }];
  let hasVerifier = 1;
}

def PMKVQ_ScaleOp : PMKVQ_Op<"scale", [Pure, AllTypesMatch<["rows", "result"]>]> {
  let summary = "multiplies every row by a vector, elementwise";
  let description = [{
    (C1) `by` has one element a column.

    Lowers to: multiplications.

    ```mlir
    func.func @f(%q: !pmkvq.rows<3, 64>, %step: vector<64xf32>)
        -> !pmkvq.rows<3, 64> {
      %r = pmkvq.scale %q, %step : !pmkvq.rows<3, 64>, vector<64xf32>
      return %r : !pmkvq.rows<3, 64>
    }
    ```
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

    ```mlir
    func.func @f(%q: !pmkvq.rows<3, 64>, %offset: vector<64xf32>)
        -> vector<3xf32> {
      %bias = pmkvq.reduce %q, %offset
        : !pmkvq.rows<3, 64>, vector<64xf32> -> vector<3xf32>
      return %bias : vector<3xf32>
    }
    ```
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

    ```mlir
    func.func @f(%x: !pmkvq.rows<3, 128>, %bias: vector<3xf32>,
                 %ones: vector<128xf32>) -> !pmkvq.rows<3, 128> {
      %r = pmkvq.add_outer %x, %bias, %ones
        : !pmkvq.rows<3, 128>, vector<3xf32>, vector<128xf32>
      return %r : !pmkvq.rows<3, 128>
    }
    ```
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

def PMKVQ_ContractOp : PMKVQ_Op<"contract",
    [Pure, PMKVQ_AheadOfTheTile]> {
  let summary = "product of rows with the bare codes of a tile";
  let description = [{
    result[q][j] = sum_i rows[q][i] * code[i][j]: for keys i are head dims and j
    tokens, for values the reverse.  A code is its integer, in a raw tile the
    bf16 value.  Columns past the tile's token count are undefined for keys.
    `ahead` is a tile that will be read next: what it holds is fetched into a
    cache while this product is taken.

    (C1) `rows` is as wide as the tile's summed axis, the result as its other.
    (C2) `ahead` has the type of the tile.

    Lowers to: unpacking by the layout and multiply-adds; a prefetch for each
    line read.

    ```mlir
    !k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
    func.func @f(%q: !pmkvq.rows<3, 64>, %tile: !k4) -> !pmkvq.rows<3, 128> {
      %x = pmkvq.contract %q, %tile
        : !pmkvq.rows<3, 64>, !k4 -> !pmkvq.rows<3, 128>
      return %x : !pmkvq.rows<3, 128>
    }
    ```
  }];
  let arguments = (ins PMKVQ_RowsType:$rows, PMKVQ_TileType:$tile,
                       Optional<PMKVQ_TileType>:$ahead);
  let results = (outs PMKVQ_RowsType:$result);
  let builders = [
    OpBuilder<(ins "Type":$result, "Value":$rows, "Value":$tile),
              [{ build($_builder, $_state, result, rows, tile, Value()); }]>];
  let assemblyFormat = [{
    $rows `,` $tile (`ahead` $ahead^)? attr-dict
    `:` type($rows) `,` type($tile) `->` type($result)
  }];
  let hasVerifier = 1;
}

def PMKVQ_RoundRowsOp : PMKVQ_Op<"round_rows",
    [Pure, AllTypesMatch<["unit", "lost"]>]> {
  let summary = "rows as 16-bit integers, and each row's unit";
  let description = [{
    With v[q][i] = rows[q][i] * by[i], or rows[q][i] if `by` is not given,
    unit[q] is the largest |v[q][i]| / 32767, integers[q][i] is
    v[q][i] / unit[q], rounded to nearest, and lost[q] is
    sum_i v[q][i] - unit[q] * integers[q][i].  A unit is at least 1e-30 / 32767;
    it is not finite if an element of its row is not.

    (C1) `by` has one element a column, `unit` one a row.
    (C2) The integers have the shape of `rows`, and an even number of vectors a
         row.

    Lowers to: a maximum of magnitudes a row, multiplications and conversions.

    ```mlir
    func.func @f(%q: !pmkvq.rows<3, 64>, %step: vector<64xf32>)
        -> (!pmkvq.integer_rows<3, 64>, vector<3xf32>, vector<3xf32>) {
      %integers, %unit, %lost = pmkvq.round_rows %q by %step
        : !pmkvq.rows<3, 64>, vector<64xf32>
        -> !pmkvq.integer_rows<3, 64>, vector<3xf32>
      return %integers, %unit, %lost
        : !pmkvq.integer_rows<3, 64>, vector<3xf32>, vector<3xf32>
    }
    ```
  }];
  let arguments = (ins PMKVQ_RowsType:$rows, Optional<PMKVQ_F32Vector>:$by);
  let results = (outs PMKVQ_IntegerRowsType:$integers, PMKVQ_F32Vector:$unit,
                      PMKVQ_F32Vector:$lost);
  let assemblyFormat = [{
    $rows (`by` $by^)? attr-dict `:` type($rows) (`,` type($by)^)?
    `->` type($integers) `,` type($unit)
  }];
  let hasVerifier = 1;
}

def PMKVQ_ContractIntegersOp : PMKVQ_Op<"contract_integers",
    [Pure, AllTypesMatch<["unit", "bias"]>, PMKVQ_AheadOfTheTile]> {
  let summary = "product of integer rows with the bare codes of a tile";
  let description = [{
    result[q][j] = unit[q] * sum_i integers[q][i] * code[i][j] + bias[q], the sum
    exact in 32 bits; i and j are those of `contract`, and so is `ahead`.

    (C1) `integers` is as wide as the tile's summed axis, the result as its
         other; `unit` and `bias` have one element a row.
    (C2) The tile's level is 8, 4 or 2, and its grid is linear there.
    (C3) Sums of 255 * 32767 fit 32 bits: the summed axis has at most 256
         elements.
    (C4) `ahead` has the type of the tile.

    Lowers to: masks, which leave a field where it is in its byte; products of
    16-bit pairs; one conversion and one multiply-add an output, which also takes
    the field's exponent.

    ```mlir
    !k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
    func.func @f(%q: !pmkvq.integer_rows<3, 64>, %unit: vector<3xf32>,
                 %bias: vector<3xf32>, %tile: !k4) -> !pmkvq.rows<3, 128> {
      %x = pmkvq.contract_integers %q, %tile unit %unit bias %bias
        : !pmkvq.integer_rows<3, 64>, !k4, vector<3xf32> -> !pmkvq.rows<3, 128>
      return %x : !pmkvq.rows<3, 128>
    }
    ```
  }];
  let arguments = (ins PMKVQ_IntegerRowsType:$integers, PMKVQ_TileType:$tile,
                       PMKVQ_F32Vector:$unit, PMKVQ_F32Vector:$bias,
                       Optional<PMKVQ_TileType>:$ahead);
  let results = (outs PMKVQ_RowsType:$result);
  let assemblyFormat = [{
    $integers `,` $tile `unit` $unit `bias` $bias (`ahead` $ahead^)? attr-dict
    `:` type($integers) `,` type($tile) `,` type($unit) `->` type($result)
  }];
  let hasVerifier = 1;
}

#endif // PMKVQ_ROWS_OPS_TD
