// Every constraint of the ops on whole caches, violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// weight C1: dynamic, and not bf16.
// expected-error @+1 {{(C1) expected a static bf16 tensor, got 'tensor<?x64xbf16>'}}
pmkvq.weight @w : tensor<?x64xbf16> from "w"

// -----

// expected-error @+1 {{(C1) expected a static bf16 tensor, got 'tensor<64xf32>'}}
pmkvq.weight @w : tensor<64xf32> from "w"

// -----

// weight C2: no such dimension, and a block that does not divide it.
// expected-error @+1 {{(C2) rotation of dimension 1, but the weight has rank 1}}
pmkvq.weight @w : tensor<64xbf16> from "w" rotate [#pmkvq.rotation<dim = 1, block = 2>]

// -----

// expected-error @+1 {{(C2) expected a rotation block that divides 96, got 64}}
pmkvq.weight @w : tensor<96xbf16> from "w" rotate [#pmkvq.rotation<dim = 0, block = 64>]

// -----

// weight C3: a row before the tensor, and of a tensor that has none.
// expected-error @+1 {{(C3) expected a first row of at least 0, got -1}}
pmkvq.weight @w : tensor<64xbf16> from "w" first_row -1

// -----

// expected-error @+1 {{(C3) expected a weight with rows, got 'tensor<bf16>'}}
pmkvq.weight @w : tensor<bf16> from "w" first_row 0

// -----

// weight C4: other rows than exponents, and of a tensor that has none.
// expected-error @+1 {{(C4) expected an exponent for each of 3 rows, got 2}}
pmkvq.weight @w : tensor<3x64xbf16> from "w" scale_rows [1, 2]

// -----

// expected-error @+1 {{(C4) expected an exponent for each of 0 rows, got 1}}
pmkvq.weight @w : tensor<bf16> from "w" scale_rows [1]

// -----

// get_weight C1: no such weight, another symbol, another type.
func.func @missing_weight() {
  // expected-error @+1 {{(C1) expected a pmkvq.weight named 'w', there is none}}
  %w = pmkvq.get_weight @w : tensor<64xbf16>
  return
}

// -----

func.func @not_a_weight() {
  // expected-error @+1 {{(C1) expected a pmkvq.weight named 'not_a_weight', there is none}}
  %w = pmkvq.get_weight @not_a_weight : tensor<64xbf16>
  return
}

// -----

pmkvq.weight @w : tensor<64xbf16> from "w"
func.func @f() {
  // expected-error @+1 {{(C1) expected the weight's type 'tensor<64xbf16>', got 'tensor<32xbf16>'}}
  %w = pmkvq.get_weight @w : tensor<32xbf16>
  return
}

// -----

// create C1: layer and max_tokens.
// expected-error @+1 {{(C1) expected a layer of at least 0, got -1}}
%c = pmkvq.create layer -1 max_tokens 128 : !pmkvq.cache<kv_heads = 2, head_dim = 64>

// -----

// expected-error @+1 {{(C1) expected max_tokens of 1 to 2147483647, got 0}}
%c = pmkvq.create layer 0 max_tokens 0 : !pmkvq.cache<kv_heads = 2, head_dim = 64>

// -----

// expected-error @+1 {{(C1) expected max_tokens of 1 to 2147483647, got 4294967296}}
%c = pmkvq.create layer 0 max_tokens 4294967296 : !pmkvq.cache<kv_heads = 2, head_dim = 64>

// -----

// create C2.
// expected-error @+1 {{(C2) expected a budget of at least 1 byte, got -1}}
%c = pmkvq.create layer 0 max_tokens 128 budget -1 : !pmkvq.cache<kv_heads = 2, head_dim = 64>

// -----

// create C3.
// expected-error @+1 {{(C3) the ladder does not hold the value floor 2}}
%c = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 4, value_floor = 2>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, ladder = [16, 8, 4]>

// -----

// create C4.
// expected-error @+1 {{(C4) expected a schedule for a planned cache}}
%c = pmkvq.create layer 0 max_tokens 128
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_token>, value = <per_token>>

// -----

// create C6: 2 layers of 2 heads, each with 129 tokens of fixed area (33,024
// bytes) and a page at 2 bits: 72 bytes of table, 768 of parameters, 2 blocks.
// expected-error @+1 {{(C6) the budget of 151839 bytes lacks 1: one sequence up to its first page takes 151840 in layers 0 to 1}}
%c = pmkvq.create layer 1 max_tokens 4096 schedule <page, key_floor = 2, value_floor = 2> budget 151839
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

// -----

// create C6: sequences that fit the fixed areas need no page.
// expected-error @+1 {{(C6) the budget of 1 bytes lacks 66047}}
%c = pmkvq.create layer 0 max_tokens 129 budget 1 : !pmkvq.cache<kv_heads = 2, head_dim = 64>

// -----

// create C6: what a budget lacks does not leave 64 bits.
// expected-error @+1 {{(C6) the budget of 1 bytes lacks}}
%c = pmkvq.create layer 9223372036854775807 max_tokens 4096 budget 1 : !pmkvq.cache<kv_heads = 1024, head_dim = 128>

// -----

// create C7: squares of another number, and none.
// expected-error @+1 {{(C7) expected 128 query_squares, got 2}}
%c = pmkvq.create layer 0 max_tokens 128 calibration <query_squares = [0.0, 1.0]>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64>

// -----

// expected-error @+1 {{(C7) expected a calibration with query_squares for keys that fall with feedback}}
%c = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard, feedback>, value = <per_token>>

// -----

// expected-error @+1 {{(C7) expected a calibration with query_squares for keys that fall with feedback}}
%c = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 2, value_floor = 2>
  calibration <key_clip = 0.77>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard, feedback>, value = <per_token>>

// -----

// create C8: shares that are not as many for each kv head, and too many.
// expected-error @+1 {{(C8) expected page_shares of 1 to 64 pages for each of 2 kv heads, got 3}}
%c = pmkvq.create layer 0 max_tokens 128 calibration <page_shares = [0.0, 1.0, 0.5]>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64>

// -----

// create C9: a schedule by losses without those of values.
// expected-error @+1 {{(C9) expected a calibration with the losses of values for the schedule least_loss}}
%c = pmkvq.create layer 0 max_tokens 128 schedule <least_loss, key_floor = 2, value_floor = 2>
  calibration <key_loss = [0.0, 0.1, 0.2]>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

// -----

// expected-error @+1 {{(C9) expected a calibration with the losses of keys for the schedule least_loss}}
%c = pmkvq.create layer 0 max_tokens 128 schedule <least_loss, key_floor = 2, value_floor = 2>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

// -----

// A floor of 1 without the losses there.
// expected-error @+1 {{(C9) expected a calibration with the losses of values at 1 bit for the floor of 1}}
%c = pmkvq.create layer 0 max_tokens 128 schedule <least_loss, key_floor = 2, value_floor = 1>
  calibration <key_loss = [0.0, 0.1, 0.2], value_loss = [0.0, 0.1, 0.2]>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4, 2, 1]>

// -----

// append C1: kv heads, head_dim, element type, rank, rows that are known.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @heads(%c: !kv, %k: tensor<?x4x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C1) expected keys and values of [?, 2, 64] in f32, got 'tensor<?x4x64xf32>'}}
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x4x64xf32>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @head_dim(%c: !kv, %k: tensor<?x2x128xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C1) expected keys and values of [?, 2, 64] in f32}}
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x2x128xf32>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @element_type(%c: !kv, %k: tensor<?x2x64xbf16>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C1) expected keys and values of [?, 2, 64] in f32}}
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x2x64xbf16>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @rank(%c: !kv, %k: tensor<?x128xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C1) expected keys and values of [?, 2, 64] in f32}}
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x128xf32>
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
func.func @rows(%c: !kv, %k: tensor<4x2x64xf32>, %b: !pmkvq.batch) {
  // expected-error @+1 {{(C1) expected keys and values of [?, 2, 64] in f32}}
  %r = pmkvq.append %c, %k, %k, %b : !kv, tensor<4x2x64xf32>
  return
}
