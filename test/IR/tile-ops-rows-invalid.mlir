// Constraints of the ops on rows, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// load_rows C1: width, rank, heads, strides, group.
func.func @f(%m: memref<?x6x128xf32>, %i: index) {
  // expected-error @+1 {{(C1) expected a contiguous memref [rows, heads, 64] in f32, its heads known, got 'memref<?x6x128xf32>'}}
  %q = pmkvq.load_rows %m[%i, %i] count %i group 3 : memref<?x6x128xf32> -> !pmkvq.rows<6, 64>
  return
}

// -----

func.func @f(%m: memref<*xf32>, %i: index) {
  // expected-error @+1 {{(C1) expected a contiguous memref [rows, heads, 64] in f32, its heads known, got 'memref<*xf32>'}}
  %q = pmkvq.load_rows %m[%i, %i] count %i group 3 : memref<*xf32> -> !pmkvq.rows<6, 64>
  return
}

// -----

func.func @f(%m: memref<?x?x64xf32>, %i: index) {
  // expected-error @+1 {{its heads known, got 'memref<?x?x64xf32>'}}
  %q = pmkvq.load_rows %m[%i, %i] count %i group 3 : memref<?x?x64xf32> -> !pmkvq.rows<6, 64>
  return
}

// -----

!m = memref<?x6x64xf32, strided<[768, 128, 2]>>
func.func @f(%m: !m, %i: index) {
  // expected-error @+1 {{(C1) expected a contiguous memref [rows, heads, 64]}}
  %q = pmkvq.load_rows %m[%i, %i] count %i group 3 : !m -> !pmkvq.rows<6, 64>
  return
}

// -----

func.func @f(%m: memref<?x6x64xf32>, %i: index) {
  // expected-error @+1 {{(C1) expected a group that divides 6 queries, got 4}}
  %q = pmkvq.load_rows %m[%i, %i] count %i group 4 : memref<?x6x64xf32> -> !pmkvq.rows<6, 64>
  return
}

// -----

func.func @f(%m: memref<?x6x64xf32>, %i: index) {
  // expected-error @+1 {{(C1) expected a group that divides 6 queries, got 0}}
  %q = pmkvq.load_rows %m[%i, %i] count %i group 0 : memref<?x6x64xf32> -> !pmkvq.rows<6, 64>
  return
}

// -----

// store_rows C1.
!q = !pmkvq.rows<6, 64>
func.func @f(%q: !q, %m: memref<?x6x64xbf16>, %i: index) {
  // expected-error @+1 {{(C1) expected a contiguous memref [rows, heads, 64] in f32, its heads known, got 'memref<?x6x64xbf16>'}}
  pmkvq.store_rows %q, %m[%i, %i] count %i group 3 : !q, memref<?x6x64xbf16>
  return
}

// -----

// store_fixed C1.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>
!q = !pmkvq.rows<2, 64>
func.func @f(%q: !q, %c: !kv, %i: index) {
  // expected-error @+1 {{(C1) expected one row of 64 elements, got '!pmkvq.rows<2, 64>'}}
  pmkvq.store_fixed key %q, %c[%i, %i, %i] : !q, !kv
  return
}

// -----

// load_parameters C1: number of results, and their length.
!t = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
func.func @f(%t: !t) {
  // expected-error @+1 {{(C1) expected 2 results of 'vector<64xf32>'}}
  %p = pmkvq.load_parameters %t : !t -> vector<64xf32>
  return
}

// -----

!t = !pmkvq.tile<key, 4, 128, 64, <per_token>>
func.func @f(%t: !t) {
  // expected-error @+1 {{(C1) expected 2 results of 'vector<128xf32>'}}
  %p:2 = pmkvq.load_parameters %t : !t -> vector<64xf32>, vector<64xf32>
  return
}

// -----

// load_parameters C2.
!t = !pmkvq.tile<key, 16, 128, 64, <per_channel>>
func.func @f(%t: !t) {
  // expected-error @+1 {{(C2) expected a tile that has parameters}}
  %p:2 = pmkvq.load_parameters %t : !t -> vector<64xf32>, vector<64xf32>
  return
}

// -----

// scale C1.
!q = !pmkvq.rows<6, 64>
func.func @f(%q: !q, %v: vector<6xf32>) {
  // expected-error @+1 {{(C1) expected a vector of 64 elements, got 6}}
  %r = pmkvq.scale %q, %v : !q, vector<6xf32>
  return
}

// -----

// reduce C1: the vector, and the result.
!q = !pmkvq.rows<6, 64>
func.func @f(%q: !q, %v: vector<6xf32>) {
  // expected-error @+1 {{(C1) expected a vector of 64 elements, got 6}}
  %r = pmkvq.reduce %q, %v : !q, vector<6xf32> -> vector<6xf32>
  return
}

// -----

!q = !pmkvq.rows<6, 64>
func.func @f(%q: !q, %v: vector<64xf32>) {
  // expected-error @+1 {{(C1) expected a vector of 6 elements, got 64}}
  %r = pmkvq.reduce %q, %v : !q, vector<64xf32> -> vector<64xf32>
  return
}

// -----

// add_outer C1: left, and right.
!q = !pmkvq.rows<6, 64>
func.func @f(%q: !q, %v: vector<64xf32>) {
  // expected-error @+1 {{(C1) expected a vector of 6 elements, got 64}}
  %r = pmkvq.add_outer %q, %v, %v : !q, vector<64xf32>, vector<64xf32>
  return
}

// -----

!q = !pmkvq.rows<6, 64>
func.func @f(%q: !q, %v: vector<6xf32>) {
  // expected-error @+1 {{(C1) expected a vector of 64 elements, got 6}}
  %r = pmkvq.add_outer %q, %v, %v : !q, vector<6xf32>, vector<6xf32>
  return
}

// -----

// round_rows C1: the factors, the units.
!i = !pmkvq.integer_rows<6, 64>
func.func @f(%q: !pmkvq.rows<6, 64>, %by: vector<32xf32>) {
  // expected-error @+1 {{(C1) expected a vector of 64 elements, got 32}}
  %i, %u, %l = pmkvq.round_rows %q by %by : !pmkvq.rows<6, 64>, vector<32xf32> -> !i, vector<6xf32>
  return
}

// -----

!i = !pmkvq.integer_rows<6, 64>
func.func @f(%q: !pmkvq.rows<6, 64>) {
  // expected-error @+1 {{(C1) expected a vector of 6 elements, got 5}}
  %i, %u, %l = pmkvq.round_rows %q : !pmkvq.rows<6, 64> -> !i, vector<5xf32>
  return
}

// -----

// round_rows C2.
!i = !pmkvq.integer_rows<5, 64>
func.func @f(%q: !pmkvq.rows<6, 64>) {
  // expected-error @+1 {{(C2) expected integers of 6 x 64, a multiple of 16, got '!pmkvq.integer_rows<5, 64>'}}
  %i, %u, %l = pmkvq.round_rows %q : !pmkvq.rows<6, 64> -> !i, vector<6xf32>
  return
}

// -----

// contract_integers C1: widths, the units.
!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!i = !pmkvq.integer_rows<6, 128>
func.func @f(%i: !i, %k: !k4, %u: vector<6xf32>) {
  // expected-error @+1 {{(C1) expected rows of 64 elements, got '!pmkvq.integer_rows<6, 128>'}}
  %x = pmkvq.contract_integers %i, %k unit %u bias %u : !i, !k4, vector<6xf32> -> !pmkvq.rows<6, 128>
  return
}

// -----

!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!i = !pmkvq.integer_rows<6, 64>
func.func @f(%i: !i, %k: !k4, %u: vector<6xf32>) {
  // expected-error @+1 {{(C1) expected a result of '!pmkvq.rows<6, 128>', got '!pmkvq.rows<6, 64>'}}
  %x = pmkvq.contract_integers %i, %k unit %u bias %u : !i, !k4, vector<6xf32> -> !pmkvq.rows<6, 64>
  return
}

// -----

!k4 = !pmkvq.tile<key, 4, 128, 64, <per_channel>>
!i = !pmkvq.integer_rows<6, 64>
func.func @f(%i: !i, %k: !k4, %u: vector<3xf32>) {
  // expected-error @+1 {{(C1) expected a vector of 6 elements, got 3}}
  %x = pmkvq.contract_integers %i, %k unit %u bias %u : !i, !k4, vector<3xf32> -> !pmkvq.rows<6, 128>
  return
}

// -----

// contract_integers C2.
!k16 = !pmkvq.tile<key, 16, 128, 64, <per_channel>>
!i = !pmkvq.integer_rows<6, 64>
func.func @f(%i: !i, %k: !k16, %u: vector<6xf32>) {
  // expected-error @+1 {{(C2) expected codes of 8 bits or fewer on a linear grid, got '!pmkvq.tile<key, 16}}
  %x = pmkvq.contract_integers %i, %k unit %u bias %u : !i, !k16, vector<6xf32> -> !pmkvq.rows<6, 128>
  return
}
