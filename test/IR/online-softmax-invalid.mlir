// Constraints of online_softmax, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// C1: no query.
func.func @f() {
  // expected-error @+1 {{(C1) expected one, two or four queries a lane, got 0}}
  "pmkvq.online_softmax"() : () -> ()
  return
}

// -----

// C1: three queries.
func.func @f(%m: f32, %x: vector<1xf32>) {
  // expected-error @+1 {{(C1) expected one, two or four queries a lane, got 3}}
  %r:15 = pmkvq.online_softmax maxima(%m, %m, %m) sums(%m, %m, %m) offsets(%m, %m, %m)
    outputs(%x, %x, %x) products(%x, %x, %x) factors(%x, %x, %x) biases(%x, %x, %x)
    : (f32, f32, f32, f32, f32, f32, f32, f32, f32,
       vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>,
       vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
      -> (f32, f32, f32, f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>,
          vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
  return
}

// -----

// C1: results of two queries, operands of one.
func.func @f(%m: f32, %x: vector<1xf32>) {
  // expected-error @+1 {{(C1) expected 7 operands and 5 results a query, got 7 and 10}}
  %r:10 = pmkvq.online_softmax maxima(%m) sums(%m) offsets(%m) outputs(%x)
    products(%x) factors(%x) biases(%x)
    : (f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
      -> (f32, f32, f32, f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
  return
}

// -----

// C1: a result that is none of the five.
func.func @f(%m: f32, %x: vector<1xf32>) {
  // expected-error @+1 {{(C1) expected 7 operands and 5 results a query, got 7 and 6}}
  %r:6 = pmkvq.online_softmax maxima(%m) sums(%m) offsets(%m) outputs(%x)
    products(%x) factors(%x) biases(%x)
    : (f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>, vector<1xf32>)
      -> (f32, f32, f32, vector<1xf32>, vector<1xf32>, vector<1xf32>)
  return
}

// -----

// C2: factors are missing.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<4xf32>, %y: vector<2xf32>) {
  // expected-error @+1 {{(C2) expected as many products, factors, biases and weights, got 4, 2, 4 and 4}}
  %r:5 = pmkvq.online_softmax maxima(%m) sums(%m) offsets(%m) outputs(%o)
    products(%x) factors(%y) biases(%x)
    : (f32, f32, f32, vector<8xf32>, vector<4xf32>, vector<2xf32>, vector<4xf32>)
      -> (f32, f32, f32, vector<8xf32>, vector<4xf32>)
  return
}

// -----

// C2: biases of the second query are missing.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<4xf32>, %y: vector<2xf32>) {
  // expected-error @+1 {{(C2) expected as many products, factors, biases and weights, got 4, 4, 2 and 4}}
  %r:10 = pmkvq.online_softmax maxima(%m, %m) sums(%m, %m) offsets(%m, %m) outputs(%o, %o)
    products(%x, %x) factors(%x, %x) biases(%x, %y)
    : (f32, f32, f32, f32, f32, f32, vector<8xf32>, vector<8xf32>, vector<4xf32>, vector<4xf32>,
       vector<4xf32>, vector<4xf32>, vector<4xf32>, vector<2xf32>)
      -> (f32, f32, f32, f32, f32, f32, vector<8xf32>, vector<8xf32>, vector<4xf32>, vector<4xf32>)
  return
}

// -----

// C2: a weight is lost.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<4xf32>) {
  // expected-error @+1 {{(C2) expected as many products, factors, biases and weights, got 4, 4, 4 and 3}}
  %r:5 = pmkvq.online_softmax maxima(%m) sums(%m) offsets(%m) outputs(%o)
    products(%x) factors(%x) biases(%x)
    : (f32, f32, f32, vector<8xf32>, vector<4xf32>, vector<4xf32>, vector<4xf32>)
      -> (f32, f32, f32, vector<8xf32>, vector<3xf32>)
  return
}

// -----

// C3: outputs are lost.
func.func @f(%m: f32, %o: vector<8xf32>, %x: vector<2xf32>) {
  // expected-error @+1 {{(C3) expected 8 next outputs, got 4}}
  %r:5 = pmkvq.online_softmax maxima(%m) sums(%m) offsets(%m) outputs(%o)
    products(%x) factors(%x) biases(%x)
    : (f32, f32, f32, vector<8xf32>, vector<2xf32>, vector<2xf32>, vector<2xf32>)
      -> (f32, f32, f32, vector<4xf32>, vector<2xf32>)
  return
}
