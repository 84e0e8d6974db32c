// Constraints of the ops on lanes: sizes that must agree, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// split_rows C1: words come in fours.
func.func @f(%rows: vector<6xi32>) {
  // expected-error @+1 {{(C1) expected a multiple of 4 words, got 6}}
  %b, %s = pmkvq.split_rows %rows : vector<6xi32> -> vector<3xi32>
  return
}

// -----

// split_rows C1: two f16 a word become two bytes.
func.func @f(%rows: vector<8xi32>) {
  // expected-error @+1 {{(C1) expected 4 words of bytes, got 8}}
  %b, %s = pmkvq.split_rows %rows : vector<8xi32> -> vector<8xi32>
  return
}

// -----

// weigh_rows C1.
func.func @f(%rows: vector<2xi32>) {
  // expected-error @+1 {{(C1) expected a multiple of 4 words, got 2}}
  %r = pmkvq.weigh_rows %rows, %rows : vector<2xi32>
  return
}

// -----

// sum_bytes C1.
func.func @f(%bytes: vector<3xi32>) {
  // expected-error @+1 {{(C1) expected a multiple of 2 words, got 3}}
  %r = pmkvq.sum_bytes %bytes : vector<3xi32>
  return
}

// -----

// lazy_softmax C1: a factor is missing.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<4xf32>, %y: vector<2xf32>) {
  // expected-error @+1 {{(C1) expected as many products, factors, biases and weights, an even number, got 4, 2, 4 and 4}}
  %r:4 = pmkvq.lazy_softmax %m sums() outputs %o products %x factors %y bias %x
    : (f32, vector<8xf32>, vector<4xf32>, vector<2xf32>, vector<4xf32>)
      -> (f32, vector<8xf32>, vector<4xf32>, vector<2xi32>)
  return
}

// -----

// lazy_softmax C1: an odd number.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<3xf32>) {
  // expected-error @+1 {{(C1) expected as many products, factors, biases and weights, an even number, got 3, 3, 3 and 3}}
  %r:4 = pmkvq.lazy_softmax %m sums() outputs %o products %x factors %x bias %x
    : (f32, vector<8xf32>, vector<3xf32>, vector<3xf32>, vector<3xf32>)
      -> (f32, vector<8xf32>, vector<3xf32>, vector<1xi32>)
  return
}

// -----

// lazy_softmax C2.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<4xf32>) {
  // expected-error @+1 {{(C2) expected a word for two of 4 weights, got 4}}
  %r:4 = pmkvq.lazy_softmax %m sums() outputs %o products %x factors %x bias %x
    : (f32, vector<8xf32>, vector<4xf32>, vector<4xf32>, vector<4xf32>)
      -> (f32, vector<8xf32>, vector<4xf32>, vector<4xi32>)
  return
}

// -----

// lazy_softmax C3: a sum is lost.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<2xf32>) {
  // expected-error @+1 {{(C3) expected 1 next sums, got 0}}
  %r:4 = pmkvq.lazy_softmax %m sums(%m) outputs %o products %x factors %x bias %x
    : (f32, f32, vector<8xf32>, vector<2xf32>, vector<2xf32>, vector<2xf32>)
      -> (f32, vector<8xf32>, vector<2xf32>, vector<1xi32>)
  return
}

// -----

// lazy_softmax C3: outputs are lost.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<2xf32>) {
  // expected-error @+1 {{(C3) expected 8 next outputs, got 4}}
  %r:4 = pmkvq.lazy_softmax %m sums() outputs %o products %x factors %x bias %x
    : (f32, vector<8xf32>, vector<2xf32>, vector<2xf32>, vector<2xf32>)
      -> (f32, vector<4xf32>, vector<2xf32>, vector<1xi32>)
  return
}

// -----

// repack_weights C1: ranges of two tokens share a word.
func.func @f(%w: vector<4xf32>, %r: vector<4xi32>) {
  // expected-error @+1 {{(C1) expected a word for two of 4 weights, got 4}}
  %o, %u = pmkvq.repack_weights %w, %r : vector<4xf32>, vector<4xi32> -> vector<2xi32>
  return
}

// -----

// repack_weights C1: so do bytes of the operand.
func.func @f(%w: vector<4xf32>, %r: vector<2xi32>) {
  // expected-error @+1 {{(C1) expected a word for two of 4 weights, got 1}}
  %o, %u = pmkvq.repack_weights %w, %r : vector<4xf32>, vector<2xi32> -> vector<1xi32>
  return
}

// -----

// repack_raw_weights C1.
func.func @f(%w: vector<4xf32>) {
  // expected-error @+1 {{(C1) expected a word for each of 4 weights, got 2}}
  %o = pmkvq.repack_raw_weights %w : vector<4xf32> -> vector<2xi32>
  return
}
