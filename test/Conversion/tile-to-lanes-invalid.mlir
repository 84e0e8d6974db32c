// Kernels that have no lane form.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters,pmkvq-hoist-constants),canonicalize,cse,convert-pmkvq-tile-to-lanes)"

// One warp stages two queries at most.
!state = !pmkvq.softmax<17, 128>
!q = !pmkvq.rows<17, 128>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
// expected-error @+1 {{has 17 queries a kv head; a GPU supports up to 16}}
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x34x128xf32>, %block: index) -> i1 {
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 17 : memref<?x34x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %rows, %by : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      %x = pmkvq.scores %q, %k : !q, !k -> !pmkvq.rows<17, 64>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<17, 64>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<17, 64>, !v
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %m[%row, %head] count %count group 17 : !state, memref<?x34x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// Queries are normalized by a power of two: one factor for all dims.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
// expected-error @+1 {{expected queries times a constant}}
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<"0x0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F0000803F00000040"> : vector<128xf32>
    %q = pmkvq.scale %rows, %by : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      %x = pmkvq.scores %q, %k : !q, !k -> !pmkvq.rows<4, 64>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<4, 64>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<4, 64>, !v
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %m[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}
