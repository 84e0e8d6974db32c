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

// -----

// store_lowered C1: by one level, of a side of the unit.
!state = !pmkvq.softmax<4, 128>
!k = !pmkvq.tile<key, 8, 32, 128, <per_channel>>
!v = !pmkvq.tile<value, 8, 32, 128, <per_token>>
!low = !pmkvq.tile<key, 2, 32, 128, <per_channel>>
func.func @f(%segment: !pmkvq.segment, %init: !state) -> !state {
  %r = pmkvq.for_unit %segment from %init kinds [8, 8] : !state {
  ^bb0(%s: !state, %tokens: index, %keys: !k, %values: !v):
    %x = pmkvq.shift %keys : !k -> !low
    // expected-error @+1 {{(C1) expected a tile of the region at half its level, got '!pmkvq.tile<key, 2, 32, 128, <per_channel>>'}}
    pmkvq.store_lowered %x : !low
    pmkvq.yield %s : !state
  }
  return %r : !state
}

// -----

// store_lowered C2: parameters at the lower level are others.
!state = !pmkvq.softmax<4, 128>
!k = !pmkvq.tile<key, 8, 32, 128, <paper>>
!v = !pmkvq.tile<value, 8, 32, 128, <per_token>>
!low = !pmkvq.tile<key, 4, 32, 128, <paper>>
func.func @f(%segment: !pmkvq.segment, %init: !state) -> !state {
  %r = pmkvq.for_unit %segment from %init kinds [8, 8] : !state {
  ^bb0(%s: !state, %tokens: index, %keys: !k, %values: !v):
    %x = pmkvq.shift %keys : !k -> !low
    // expected-error @+1 {{(C2) expected a format whose parameters are written once, got #pmkvq.format<paper}}
    pmkvq.store_lowered %x : !low
    pmkvq.yield %s : !state
  }
  return %r : !state
}

// -----

// store_lowered stands in a region of for_unit.
func.func @f(%x: !pmkvq.tile<key, 4, 64, 128, <per_channel>>) {
  // expected-error @+1 {{expects parent op 'pmkvq.for_unit'}}
  pmkvq.store_lowered %x : !pmkvq.tile<key, 4, 64, 128, <per_channel>>
  return
}
