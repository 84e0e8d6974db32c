// Constraints of the ops on segments, each violated once.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics

// for_segment C1.
func.func @f(%work: !pmkvq.work, %i: index) {
  // expected-error @+1 {{(C1) expected a region that takes a segment and three indices}}
  pmkvq.for_segment %work[%i] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index):
  }
  return
}

// -----

// for_segment C2.
func.func @f(%work: !pmkvq.work, %i: index) {
  // expected-error @+1 {{(C2) expected a positive number of kv heads}}
  pmkvq.for_segment %work[%i] kv_heads 0 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
  }
  return
}

// -----

// store_merged C1.
func.func @f(%state: !pmkvq.softmax<4, 128>, %segment: !pmkvq.segment,
             %out: memref<?x8x64xf32>, %i: index) {
  // expected-error @+1 {{(C1) expected a contiguous memref [rows, heads, 128] in f32, its heads known, got 'memref<?x8x64xf32>'}}
  pmkvq.store_merged %state of %segment, %out[%i, %i] count %i group 4
    : !pmkvq.softmax<4, 128>, memref<?x8x64xf32>
  return
}

// -----

// store_merged C1: a group that does not divide the queries.
func.func @f(%state: !pmkvq.softmax<4, 128>, %segment: !pmkvq.segment,
             %out: memref<?x8x128xf32>, %i: index) {
  // expected-error @+1 {{(C1) expected a group that divides 4 queries, got 8}}
  pmkvq.store_merged %state of %segment, %out[%i, %i] count %i group 8
    : !pmkvq.softmax<4, 128>, memref<?x8x128xf32>
  return
}
