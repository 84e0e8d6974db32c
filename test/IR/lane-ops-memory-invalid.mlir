// Constraints of the ops on lanes that read shared memory, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// multiply_codes C1.
func.func @f(%p: !llvm.ptr<3>, %c: vector<8xi32>) {
  // expected-error @+1 {{(C1) expected codes of whole operands, got 64 tokens of 128 dims at level 3}}
  %s = pmkvq.multiply_codes key 3 tokens 64 head_dim 128 in %p, %c
    : !llvm.ptr<3>, vector<8xi32> -> vector<8xf32>
  return
}

// -----

// multiply_codes C1: at 2 bits two blocks of 16 rows share a word.
func.func @f(%p: !llvm.ptr<3>, %c: vector<8xi32>) {
  // expected-error @+1 {{(C1) expected codes of whole operands, got 16 tokens of 128 dims at level 2}}
  %s = pmkvq.multiply_codes key 2 tokens 16 head_dim 128 in %p, %c
    : !llvm.ptr<3>, vector<8xi32> -> vector<2xf32>
  return
}

// -----

// multiply_codes C1: bytes take 32 tokens of values at a time.
func.func @f(%p: !llvm.ptr<3>, %c: vector<2xi32>) {
  // expected-error @+1 {{(C1) expected codes of whole operands, got 16 tokens of 128 dims at level 8}}
  %s = pmkvq.multiply_codes value 8 tokens 16 head_dim 128 in %p, %c
    : !llvm.ptr<3>, vector<2xi32> -> vector<16xf32>
  return
}

// -----

// multiply_codes C2: no query.
func.func @f(%p: !llvm.ptr<3>) {
  // expected-error @+1 {{(C2) expected one, two or four queries a lane, got 0}}
  "pmkvq.multiply_codes"(%p) <{part = #pmkvq<part key>, level = 4 : i64,
                               tokens = 64 : i64, head_dim = 128 : i64}>
    : (!llvm.ptr<3>) -> ()
  return
}

// -----

// multiply_codes C2: three operands.
func.func @f(%p: !llvm.ptr<3>, %c: vector<8xi32>) {
  // expected-error @+1 {{(C2) expected one, two or four queries a lane, got 3}}
  %s:3 = pmkvq.multiply_codes key 4 tokens 64 head_dim 128 in %p, %c, %c, %c
    : !llvm.ptr<3>, vector<8xi32>, vector<8xi32>, vector<8xi32>
      -> vector<8xf32>, vector<8xf32>, vector<8xf32>
  return
}

// -----

// multiply_codes C2: raw keys have 8 blocks of 16 dims.
func.func @f(%p: !llvm.ptr<3>, %c: vector<8xi32>) {
  // expected-error @+1 {{(C2) expected columns of 16 words, got 8}}
  %s = pmkvq.multiply_codes key 16 tokens 16 head_dim 128 in %p, %c
    : !llvm.ptr<3>, vector<8xi32> -> vector<2xf32>
  return
}

// -----

// multiply_codes C3: rows g and g + 8 of four blocks.
func.func @f(%p: !llvm.ptr<3>, %c: vector<8xi32>) {
  // expected-error @+1 {{(C3) expected 1 results of type 'vector<8xf32>', got 'vector<16xf32>'}}
  %s = pmkvq.multiply_codes key 4 tokens 64 head_dim 128 in %p, %c
    : !llvm.ptr<3>, vector<8xi32> -> vector<16xf32>
  return
}

// -----

// multiply_codes C3: one result an operand.
func.func @f(%p: !llvm.ptr<3>, %c: vector<8xi32>) {
  // expected-error @+1 {{(C3) expected 2 results of type 'vector<8xf32>', got 'vector<8xf32>'}}
  %s = pmkvq.multiply_codes key 4 tokens 64 head_dim 128 in %p, %c, %c
    : !llvm.ptr<3>, vector<8xi32>, vector<8xi32> -> vector<8xf32>
  return
}

// -----

// multiply_codes C4: 255 * 127 * 160, on either side of zero, in five blocks.
func.func @f(%p: !llvm.ptr<3>, %c: vector<10xi32>) {
  // expected-error @+1 {{(C4) expected sums of up to 8388607, got 10363200 over 5 blocks of k that 2 do not divide}}
  %s = pmkvq.multiply_codes key 8 tokens 16 head_dim 160 in %p, %c
    : !llvm.ptr<3>, vector<10xi32> -> vector<2xf32>
  return
}

// -----

// ring_issue C1.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %n: i32, %l: i1, %p: i64) {
  // expected-error @+1 {{(C1) expected pairs of levels of 16, 8, 4 or 2, got [2, 2, 4]}}
  pmkvq.ring_issue %n into %s, %s if %l from %g, %g at %n, %n, %n info %n policy %p
    kinds [2, 2, 4] slots 2 slot_bytes 9216 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// ring_issue C2: parameters and codes are 512 + 512 + 4096 + 4096 bytes.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %n: i32, %l: i1, %p: i64) {
  // expected-error @+1 {{(C2) expected a slot of at least 9216 bytes for units of levels 2 and 2, got 8192}}
  pmkvq.ring_issue %n into %s, %s if %l from %g, %g at %n, %n, %n info %n policy %p
    kinds [16, 16, 2, 2] slots 2 slot_bytes 8192 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// ring_issue C2: pieces of a slot are aligned.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %n: i32, %l: i1, %p: i64) {
  // expected-error @+1 {{(C2) expected a multiple of 128 bytes a slot, got 9220}}
  pmkvq.ring_issue %n into %s, %s if %l from %g, %g at %n, %n, %n info %n policy %p
    kinds [2, 2] slots 2 slot_bytes 9220 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// ring_issue C4.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %n: i32, %l: i1, %p: i64) {
  // expected-error @+1 {{(C4) expected parameters of 4 bytes or 1 a token, got 2}}
  pmkvq.ring_issue %n into %s, %s if %l from %g, %g at %n, %n, %n info %n policy %p
    kinds [2, 2] slots 2 slot_bytes 9216 head_dim 128 keys_per_token false value_bytes 2
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// merge_warps C1.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %i: i32, %x: f32) {
  // expected-error @+1 {{(C1) expected 1 to 16 queries, got 17}}
  pmkvq.merge_warps pair %i shares %i partial %i (%x, %x, %x, %x) through %s to %g, %g
    group 17 head_dim 128 ring_bytes 256 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// merge_warps C1: of five queries a lane has two.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %i: i32, %x: f32) {
  // expected-error @+1 {{(C1) expected 38 values of states, got 4}}
  pmkvq.merge_warps pair %i shares %i partial %i (%x, %x, %x, %x) through %s to %g, %g
    group 5 head_dim 128 ring_bytes 256 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// merge_warps C2.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %i: i32, %x: f32) {
  // expected-error @+1 {{(C2) expected a head_dim that 16 divides, got 72}}
  pmkvq.merge_warps pair %i shares %i partial %i (%x, %x, %x, %x) through %s to %g, %g
    group 4 head_dim 72 ring_bytes 256 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// merge_shares C1.
func.func @f(%g: !llvm.ptr<1>, %i: i32) {
  // expected-error @+1 {{(C1) expected 1 to 64 queries, got 0}}
  pmkvq.merge_shares pair %i shares %i partial %i from %g to %g group 0 head_dim 128
    : !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// merge_shares C2.
func.func @f(%g: !llvm.ptr<1>, %i: i32) {
  // expected-error @+1 {{(C2) expected a head_dim that 16 divides, got 72}}
  pmkvq.merge_shares pair %i shares %i partial %i from %g to %g group 4 head_dim 72
    : !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// merge_warps C1: rows of queries count, too.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %i: i32, %x: f32) {
  // expected-error @+1 {{(C1) expected 1 to 16 queries, got 20}}
  pmkvq.merge_warps pair %i shares %i partial %i (%x, %x, %x, %x) through %s to %g, %g
    group 4 rows 5 more %i stride 8 head_dim 128 ring_bytes 256 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// merge_warps C3.
func.func @f(%s: !llvm.ptr<3>, %g: !llvm.ptr<1>, %i: i32, %x: f32) {
  // expected-error @+1 {{(C3) expected all of rows, more and stride, or none}}
  pmkvq.merge_warps pair %i shares %i partial %i (%x, %x, %x, %x) through %s to %g, %g
    group 2 rows 2 more %i head_dim 128 ring_bytes 256 : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// merge_shares C3.
func.func @f(%g: !llvm.ptr<1>, %i: i32) {
  // expected-error @+1 {{(C3) expected all of rows, more and stride, or none}}
  pmkvq.merge_shares pair %i shares %i partial %i from %g to %g group 4 stride 8 head_dim 128
    : !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

// shift_codes C1: a level that has a lower one of whole vectors.
func.func @f(%codes: !llvm.ptr<3>, %place: !llvm.ptr<1>, %falls: i1) {
  // expected-error @+1 {{(C1) expected codes at level 8 or 4 that fill whole vectors there and at half of it, got 64 tokens of 128 dims at level 2}}
  pmkvq.shift_codes key 2 tokens 64 head_dim 128 format <per_channel>
    in %codes to %place if %falls : !llvm.ptr<3>, !llvm.ptr<1>
  return
}

// -----

// shift_codes C1: 16 tokens of 64 dims are whole vectors at 8 bits only.
func.func @f(%codes: !llvm.ptr<3>, %place: !llvm.ptr<1>, %falls: i1) {
  // expected-error @+1 {{(C1) expected codes at level 8 or 4 that fill whole vectors there and at half of it, got 16 tokens of 64 dims at level 4}}
  pmkvq.shift_codes key 4 tokens 16 head_dim 64 format <per_channel>
    in %codes to %place if %falls : !llvm.ptr<3>, !llvm.ptr<1>
  return
}

// -----

// shift_codes C1: the last 16 of 80 dims lie in shorter vectors.
func.func @f(%codes: !llvm.ptr<3>, %place: !llvm.ptr<1>, %falls: i1) {
  // expected-error @+1 {{(C1) expected codes at level 8 or 4 that fill whole vectors there and at half of it, got 32 tokens of 80 dims at level 8}}
  pmkvq.shift_codes key 8 tokens 32 head_dim 80 format <per_channel>
    in %codes to %place if %falls : !llvm.ptr<3>, !llvm.ptr<1>
  return
}

// -----

// shift_codes C2.
func.func @f(%codes: !llvm.ptr<3>, %place: !llvm.ptr<1>, %falls: i1) {
  // expected-error @+1 {{(C2) expected a format whose parameters are written once, got #pmkvq.format<paper}}
  pmkvq.shift_codes key 8 tokens 32 head_dim 128 format <paper>
    in %codes to %place if %falls : !llvm.ptr<3>, !llvm.ptr<1>
  return
}
