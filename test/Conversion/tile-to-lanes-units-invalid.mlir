// Units that have no lane form.
// RUN: pmkvq-opt %s -split-input-file -verify-diagnostics --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters,pmkvq-hoist-constants),canonicalize,cse,convert-pmkvq-tile-to-lanes)"

// A format whose parameters are no minimum and range in fp16.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!k = !pmkvq.tile<key, 4, 64, 128, <paper>>
!v = !pmkvq.tile<value, 4, 64, 128, <paper>>
// expected-error @+1 {{has keys of the format 'paper' at level 4, which a GPU does not support; use per_channel or per_token}}
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
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

// -----

// Values per channel: their ranges would scale the outputs, unit by unit.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_channel>>
// expected-error @+1 {{has values of the format 'per_channel' at level 4, which a GPU does not support; use per_token}}
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
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

// -----

// Keys of one kernel share a parameter layout.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!k8 = !pmkvq.tile<key, 8, 32, 128, <per_token>>
!v8 = !pmkvq.tile<value, 8, 32, 128, <per_token>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %rows, %by : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [8, 8, 4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k8, %v: !v8):
      %x = pmkvq.scores %q, %k : !q, !k8 -> !pmkvq.rows<4, 32>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<4, 32>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<4, 32>, !v8
      pmkvq.yield %u : !state
    }, {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      // expected-error @+1 {{disagrees with the kernel's parameter layout}}
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

// -----

// An op with no lane form.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %rows, %by : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      // expected-error @+1 {{has no lane form}}
      %h = pmkvq.hadamard %q : !q
      %x = pmkvq.scores %h, %k : !q, !k -> !pmkvq.rows<4, 64>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<4, 64>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<4, 64>, !v
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %m[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// Rows from outside that are not the queries: nothing has staged them.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!x = !pmkvq.rows<4, 64>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %more = pmkvq.load_rows %m[%head, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %rows, %by : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      %y = pmkvq.scores %q, %k : !q, !k -> !x
      // expected-error @+1 {{neither the segment's scaled queries nor a splat constant}}
      %z = pmkvq.scores %more, %k : !q, !k -> !x
      %ones = arith.constant dense<1.0> : vector<64xf32>
      %sum = pmkvq.reduce %z, %ones : !x, vector<64xf32> -> vector<4xf32>
      %x = pmkvq.add_outer %y, %sum, %ones : !x, vector<4xf32>, vector<64xf32>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !x
      %u = pmkvq.accumulate %t, %w, %v : !state, !x, !v
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %m[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// A vector from outside that is not the same number everywhere.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!x = !pmkvq.rows<4, 64>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %rows, %by : !q, vector<128xf32>
    %bias = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : vector<4xf32>
    %ones = arith.constant dense<1.0> : vector<64xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      %y = pmkvq.scores %q, %k : !q, !k -> !x
      // expected-error @+1 {{neither the segment's scaled queries nor a splat constant}}
      %x = pmkvq.add_outer %y, %bias, %ones : !x, vector<4xf32>, vector<64xf32>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !x
      %u = pmkvq.accumulate %t, %w, %v : !state, !x, !v
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %m[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// A mask by something else than the tokens that count.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!x = !pmkvq.rows<4, 64>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %rows, %by : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      %y = pmkvq.scores %q, %k : !q, !k -> !x
      // expected-error @+1 {{has no lane form for an operand from outside the unit}}
      %x = pmkvq.causal_mask %y visible %one group 4 : !x
      %t, %w = pmkvq.softmax_update %s, %x : !state, !x
      %u = pmkvq.accumulate %t, %w, %v : !state, !x, !v
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %m[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// A state that is not carried from unit to unit.
!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!x = !pmkvq.rows<4, 64>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 4, 64, 128, <per_token>>
pmkvq.kernel @decode(%work: !pmkvq.work, %m: memref<?x8x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %m[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %by = arith.constant dense<0.125> : vector<128xf32>
    %q = pmkvq.scale %rows, %by : !q, vector<128xf32>
    %other = pmkvq.softmax_init : !state
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      %x = pmkvq.scores %q, %k : !q, !k -> !x
      // expected-error @+1 {{expected the newest state of the unit}}
      %t, %w = pmkvq.softmax_update %other, %x : !state, !x
      %u = pmkvq.accumulate %t, %w, %v : !state, !x, !v
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %m[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}
