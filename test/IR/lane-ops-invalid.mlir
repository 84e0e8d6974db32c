// Constraints of the ops on lanes: sizes that must agree, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// split_rows C1: words come in fours.
func.func @f(%rows: vector<6xi32>) {
  // expected-error @+1 {{(C1) expected a multiple of 4 words, got 6}}
  %b, %s = pmkvq.split_rows %rows : vector<6xi32> -> vector<3xi32>, f32
  return
}

// -----

// split_rows C1: two f16 a word become two bytes.
func.func @f(%rows: vector<8xi32>) {
  // expected-error @+1 {{(C1) expected 4 words of bytes, got 8}}
  %b, %s = pmkvq.split_rows %rows : vector<8xi32> -> vector<8xi32>, f32
  return
}

// -----

// split_rows C1: of low bytes, too.
func.func @f(%rows: vector<8xi32>) {
  // expected-error @+1 {{(C1) expected 4 words of bytes, got 2}}
  %b:2, %s:2 = pmkvq.split_rows %rows : vector<8xi32> -> vector<4xi32>, vector<2xi32>, f32, f32
  return
}

// -----

// split_rows C2.
func.func @f(%rows: vector<8xi32>) {
  // expected-error @+1 {{(C2) expected one or two queries a lane, got 3}}
  %b:3, %s:3 = pmkvq.split_rows %rows
    : vector<8xi32> -> vector<4xi32>, vector<4xi32>, vector<4xi32>, f32, f32, f32
  return
}

// -----

// weigh_rows C1.
func.func @f(%rows: vector<2xi32>) {
  // expected-error @+1 {{(C1) expected a multiple of 4 words, got 2}}
  %r = pmkvq.weigh_rows %rows, %rows : vector<2xi32> -> f32
  return
}

// -----

// weigh_rows C2.
func.func @f(%rows: vector<4xi32>) {
  // expected-error @+1 {{(C2) expected one or two queries a lane, got 3}}
  %r:3 = pmkvq.weigh_rows %rows, %rows : vector<4xi32> -> f32, f32, f32
  return
}

// -----

// sum_bytes C1.
func.func @f(%bytes: vector<3xi32>) {
  // expected-error @+1 {{(C1) expected a multiple of 2 words, got 3}}
  %r = pmkvq.sum_bytes %bytes : (vector<3xi32>) -> f32
  return
}

// -----

// sum_bytes C1: low bytes, too.
func.func @f(%high: vector<2xi32>, %low: vector<1xi32>) {
  // expected-error @+1 {{(C1) expected a multiple of 2 words, got 1}}
  %r:2 = pmkvq.sum_bytes %high, %low : (vector<2xi32>, vector<1xi32>) -> (f32, f32)
  return
}

// -----

// sum_bytes C2.
func.func @f(%bytes: vector<2xi32>) {
  // expected-error @+1 {{(C2) expected one or two queries a lane, got 3}}
  %r:3 = pmkvq.sum_bytes %bytes, %bytes, %bytes
    : (vector<2xi32>, vector<2xi32>, vector<2xi32>) -> (f32, f32, f32)
  return
}

// -----

// sum_bytes C2: a query is lost.
func.func @f(%bytes: vector<2xi32>) {
  // expected-error @+1 {{(C2) expected a result for each of 2 operands, got 1}}
  %r = pmkvq.sum_bytes %bytes, %bytes : (vector<2xi32>, vector<2xi32>) -> f32
  return
}

// -----

// repack_weights C1: ranges of two tokens share a word.
func.func @f(%w: vector<4xf32>, %r: vector<4xi32>) {
  // expected-error @+1 {{(C1) expected a word of ranges for two of 4 weights, got 4}}
  %o, %u, %s = pmkvq.repack_weights %r, %w
    : (vector<4xi32>, vector<4xf32>) -> (vector<4xi32>, f32, f32)
  return
}

// -----

// repack_weights C1: so do bytes of the operand.
func.func @f(%w: vector<4xf32>, %r: vector<2xi32>) {
  // expected-error @+1 {{(C1) expected operands of 2 words, got 1}}
  %o, %u, %s = pmkvq.repack_weights %r, %w
    : (vector<2xi32>, vector<4xf32>) -> (vector<1xi32>, f32, f32)
  return
}

// -----

// repack_weights C1: both queries have the unit's tokens.
func.func @f(%w: vector<4xf32>, %v: vector<2xf32>, %r: vector<2xi32>) {
  // expected-error @+1 {{(C1) expected a word of ranges for two of 2 weights, got 2}}
  %o:2, %u, %s:2 = pmkvq.repack_weights %r, %w, %v
    : (vector<2xi32>, vector<4xf32>, vector<2xf32>) -> (vector<2xi32>, vector<2xi32>, f32, f32, f32)
  return
}

// -----

// repack_weights C2.
func.func @f(%w: vector<2xf32>, %r: vector<1xi32>) {
  // expected-error @+1 {{(C2) expected one, two or four queries a lane, got 3}}
  %o:3, %u, %s:3 = pmkvq.repack_weights %r, %w, %w, %w
    : (vector<1xi32>, vector<2xf32>, vector<2xf32>, vector<2xf32>)
      -> (vector<1xi32>, vector<1xi32>, vector<1xi32>, f32, f32, f32, f32)
  return
}

// -----

// repack_weights C2: a query is lost.
func.func @f(%w: vector<2xf32>, %r: vector<1xi32>) {
  // expected-error @+1 {{(C2) expected a result for each of 2 operands, got 1}}
  %o, %u, %s = pmkvq.repack_weights %r, %w, %w
    : (vector<1xi32>, vector<2xf32>, vector<2xf32>) -> (vector<1xi32>, f32, f32)
  return
}

// -----

// repack_raw_weights C1.
func.func @f(%w: vector<4xf32>) {
  // expected-error @+1 {{(C1) expected operands of 4 words, got 2}}
  %o = pmkvq.repack_raw_weights %w : (vector<4xf32>) -> vector<2xi32>
  return
}

// -----

// repack_raw_weights C2.
func.func @f(%w: vector<1xf32>) {
  // expected-error @+1 {{(C2) expected one, two or four queries a lane, got 3}}
  %o:3 = pmkvq.repack_raw_weights %w, %w, %w
    : (vector<1xf32>, vector<1xf32>, vector<1xf32>) -> (vector<1xi32>, vector<1xi32>, vector<1xi32>)
  return
}

// -----

// repack_raw_weights C2: a query is lost.
func.func @f(%w: vector<1xf32>) {
  // expected-error @+1 {{(C2) expected a result for each of 2 operands, got 1}}
  %o = pmkvq.repack_raw_weights %w, %w : (vector<1xf32>, vector<1xf32>) -> vector<1xi32>
  return
}

// -----

func.func @split_with_a_scale_too_many(%rows: vector<4xi32>) {
  // expected-error @+1 {{(C2) expected as many scales as operands of bytes, got 3 results}}
  %b, %s:2 = pmkvq.split_rows %rows : vector<4xi32> -> vector<2xi32>, f32, f32
  return
}

// -----

func.func @sum_of_unequal_operands(%high: vector<4xi32>, %low: vector<2xi32>) {
  // expected-error @+1 {{(C1) expected operands of as many words, got 4 and 2}}
  %r:2 = pmkvq.sum_bytes %high, %low : (vector<4xi32>, vector<2xi32>) -> (f32, f32)
  return
}

// -----

func.func @repack_with_a_sum_too_many(%r: vector<1xi32>, %w: vector<2xf32>) {
  // expected-error @+1 {{(C2) expected as many sums as operands, and one unscale, got 4 results}}
  %o, %u, %s:2 = pmkvq.repack_weights %r, %w : (vector<1xi32>, vector<2xf32>) -> (vector<1xi32>, f32, f32, f32)
  return
}
