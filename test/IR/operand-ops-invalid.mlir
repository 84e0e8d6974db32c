// Ops on operands of warpgroups whose sizes do not agree.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

func.func @level(%words: vector<16xi32>) -> vector<16xi32> {
  // expected-error @+1 {{(C1) expected a level of 16, 8, 4 or 2, got 3}}
  %a = pmkvq.decode_operands key 3 block 0 of %words : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// -----

func.func @block(%words: vector<16xi32>) -> vector<16xi32> {
  // expected-error @+1 {{(C1) expected a block below 4, got 4}}
  %a = pmkvq.decode_operands key 16 block 4 of %words : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// -----

func.func @words(%words: vector<16xi32>, %groups: vector<8xi32>) -> vector<16xi32> {
  // expected-error @+1 {{(C1) expected 8 words of codes, got 16}}
  %a = pmkvq.decode_operands key 2 format <per_channel> block 0 of %words
    groups(%groups : vector<8xi32>) : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// -----

func.func @format(%words: vector<16xi32>) -> vector<16xi32> {
  // expected-error @+1 {{(C2) expected a format and groups below level 16 without exponents, and none elsewhere}}
  %a = pmkvq.decode_operands key 4 block 0 of %words : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// -----

func.func @exponents_and_format(%words: vector<16xi32>, %groups: vector<8xi32>) -> vector<16xi32> {
  // expected-error @+1 {{(C2) expected a format and groups below level 16 without exponents, and none elsewhere}}
  %a = pmkvq.decode_operands key 4 format <per_channel> exponents [0, 4, 0, 4] block 0 of %words
    groups(%groups : vector<8xi32>) : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// -----

func.func @wide_exponents(%words: vector<16xi32>) -> vector<16xi32> {
  // expected-error @+1 {{(C2) expected no wide ranges at level 16 or with exponents}}
  %a = pmkvq.decode_operands key 4 wide exponents [0, 4, 0, 4] block 0 of %words : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// -----

func.func @exponents(%words: vector<16xi32>) -> vector<16xi32> {
  // expected-error @+1 {{(C4) expected 4 exponents of 0 to 6}}
  %a = pmkvq.decode_operands key 4 exponents [0, 4, 0, 7] block 0 of %words : vector<16xi32> -> vector<16xi32>
  return %a : vector<16xi32>
}

// -----

func.func @operands(%words: vector<16xi32>) -> vector<8xi32> {
  // expected-error @+1 {{(C3) expected 16 words of operands, got 8}}
  %a = pmkvq.decode_operands key 16 block 0 of %words : vector<16xi32> -> vector<8xi32>
  return %a : vector<8xi32>
}

// -----

func.func @groups(%parameters: !llvm.ptr<3>, %w: i32) -> vector<16xi32> {
  // expected-error @+1 {{(C2) expected 8 words, got 16}}
  %words = pmkvq.load_groups key 2 block 1 of %w, %w from %parameters : !llvm.ptr<3> -> vector<16xi32>
  return %words : vector<16xi32>
}

// -----

func.func @accumulators(%x: vector<8xf32>, %a: vector<16xi32>, %rows: !llvm.ptr<3>) -> vector<16xf32> {
  // expected-error @+1 {{(C2) expected as many accumulators as results, got 8 and 16}}
  %r = pmkvq.multiply_operands %a, %rows block 1 to %x : vector<8xf32> : vector<16xi32>, !llvm.ptr<3> -> vector<16xf32>
  return %r : vector<16xf32>
}

// -----

func.func @columns(%a: vector<16xi32>, %rows: !llvm.ptr<3>) -> vector<72xf32> {
  // expected-error @+1 {{(C2) expected a multiple of 8 queries up to 64, got 72}}
  %r = pmkvq.multiply_operands %a, %rows block 1 : vector<16xi32>, !llvm.ptr<3> -> vector<72xf32>
  return %r : vector<72xf32>
}

// -----

func.func @visible(%x: vector<16xf32>, %t: i32, %n: vector<8xi32>) -> vector<16xf32> {
  // expected-error @+1 {{(C1) expected 4 numbers of tokens, got 8}}
  %r = pmkvq.mask_columns %x from %t visible %n : vector<16xf32>, vector<8xi32>
  return %r : vector<16xf32>
}

// -----

func.func @largest(%x: vector<16xf32>) -> vector<8xf32> {
  // expected-error @+1 {{(C1) expected 4 maxima, got 8}}
  %r = pmkvq.largest_of_columns %x : vector<16xf32> -> vector<8xf32>
  return %r : vector<8xf32>
}

// -----

func.func @weigh(%x: vector<16xf32>, %s: f32, %m: vector<4xf32>) -> vector<16xi32> {
  // expected-error @+1 {{(C1) expected 8 words of weights, got 16}}
  %w, %sums, %above = pmkvq.weigh_columns %x factors(%s, %s, %s, %s) maxima %m : vector<16xf32>, vector<4xf32> -> vector<16xi32>
  return %w : vector<16xi32>
}

// -----

func.func @factors(%x: vector<16xf32>, %s: f32, %m: vector<4xf32>) -> vector<8xi32> {
  // expected-error @+1 {{(C1) expected 4 factors, got 2}}
  %w, %sums, %above = pmkvq.weigh_columns %x factors(%s, %s) maxima %m : vector<16xf32>, vector<4xf32> -> vector<8xi32>
  return %w : vector<8xi32>
}

// -----

func.func @folding(%x: vector<16xf32>, %s: f32, %m: vector<4xf32>) -> vector<8xi32> {
  // expected-error @+1 {{(C2) expected 8 of folding and 4 offset sums, or none of either, got 4 and 4}}
  %w, %sums, %above, %offsets = pmkvq.weigh_columns %x factors(%s, %s, %s, %s) maxima %m folding %m : vector<4xf32> to vector<4xf32>
    : vector<16xf32>, vector<4xf32> -> vector<8xi32>
  return %w : vector<8xi32>
}

// -----

func.func @store(%w: vector<6xi32>, %tile: !llvm.ptr<3>, %lane: i32) {
  // expected-error @+1 {{(C1) expected a multiple of 8 queries up to 64, got 12}}
  pmkvq.store_weights %w of %lane, %lane into %tile : vector<6xi32>, !llvm.ptr<3>
  return
}

// -----

func.func @merge(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %i: i32, %m: vector<4xf32>, %o: vector<16xf32>) {
  // expected-error @+1 {{(C1) expected 2 maxima, got 4}}
  pmkvq.merge_warpgroups pair %i shares %i partial %i (%m, %m, %o) through %shared to %out, %out
    group 4 rows 2 more %i stride 32 warpgroups 3
    : vector<4xf32>, vector<16xf32>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

func.func @offsets(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %i: i32, %m: vector<4xf32>, %o: vector<16xf32>) {
  // expected-error @+1 {{(C1) expected 4 offsets, got 16}}
  pmkvq.merge_warpgroups pair %i shares %i partial %i (%m, %m, %o) plus %o : vector<16xf32> exponents [0, 4, 0, 4] through %shared to %out, %out
    group 4 rows 4 more %i stride 32 warpgroups 3
    : vector<4xf32>, vector<16xf32>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

func.func @many_offsets(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %i: i32, %m: vector<8xf32>, %o: vector<32xf32>) {
  // expected-error @+1 {{(C3) expected offsets of up to 16 queries, got 32}}
  pmkvq.merge_warpgroups pair %i shares %i partial %i (%m, %m, %o) plus %m : vector<8xf32> exponents [13, 17, 13, 17]
    through %shared to %out, %out group 4 rows 8 more %i stride 32 warpgroups 3
    : vector<8xf32>, vector<32xf32>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

func.func @offsets_alone(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %i: i32, %m: vector<4xf32>, %o: vector<16xf32>) {
  // expected-error @+1 {{(C3) expected exponents with offsets, and no others}}
  pmkvq.merge_warpgroups pair %i shares %i partial %i (%m, %m, %o) plus %m : vector<4xf32> through %shared to %out, %out
    group 4 rows 4 more %i stride 32 warpgroups 3
    : vector<4xf32>, vector<16xf32>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

func.func @warpgroups(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %i: i32, %m: vector<4xf32>, %o: vector<16xf32>) {
  // expected-error @+1 {{(C2) expected 1 to 4 warpgroups, got 5}}
  pmkvq.merge_warpgroups pair %i shares %i partial %i (%m, %m, %o) through %shared to %out, %out
    group 4 rows 4 more %i stride 32 warpgroups 5
    : vector<4xf32>, vector<16xf32>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// -----

func.func @threads(%out: !llvm.ptr<1>, %i: i32) {
  // expected-error @+1 {{(C1) expected a multiple of 128 threads, got 200}}
  pmkvq.merge_shares pair %i shares %i partial %i from %out to %out
    group 4 head_dim 128 threads 200 : !llvm.ptr<1>, !llvm.ptr<1>
  return
}
