// Groups of queries, and keys with groups per token.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters,pmkvq-hoist-constants),canonicalize,cse,convert-pmkvq-tile-to-lanes,canonicalize,cse)" | FileCheck %s

!state = !pmkvq.softmax<5, 128>
!q = !pmkvq.rows<5, 128>
!k4 = !pmkvq.tile<key, 4, 64, 128, <per_token>>
!v4 = !pmkvq.tile<value, 4, 64, 128, <per_token>>

pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x10x128xf32>,
                     %out: memref<?x10x128xf32>, %block: index) -> i1 {
  %one = arith.constant 1 : index
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %one group 5 : memref<?x10x128xf32> -> !q
    %q = pmkvq.scale %rows, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 4] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k4, %v: !v4):
      %x = pmkvq.scores %q, %k : !q, !k4 -> !pmkvq.rows<5, 64>
      %t, %w = pmkvq.softmax_update %s, %x : !state, !pmkvq.rows<5, 64>
      %u = pmkvq.accumulate %t, %w, %v : !state, !pmkvq.rows<5, 64>, !v4
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] group 5 : !state, memref<?x10x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// Parameters of tokens are copied from where the unit's begin.
// CHECK: pmkvq.ring_issue {{.*}} kinds [4, 4] slot_bytes 8704 head_dim 128 keys_per_token true
// Queries are split without ranges, once for each operand of up to 4.
// CHECK: pmkvq.ring_wait
// CHECK-NOT: llvm.fmul
// CHECK: %[[B0:.*]], %{{.*}} = pmkvq.split_rows
// CHECK: %[[B1:.*]], %{{.*}} = pmkvq.split_rows
// CHECK-NOT: pmkvq.weigh_rows
// Codes are read once for both.
// CHECK: pmkvq.multiply_codes key 4 tokens 64 head_dim 128 in %{{.*}}, %[[B0]], %[[B1]] :
// Ranges and minima of a token come to its scores as f32, two in a word.
// CHECK: llvm.bitcast %{{.*}} : i32 to vector<2xf16>
// CHECK: arith.extf
// CHECK: pmkvq.sum_bytes %[[B0]]
// CHECK: pmkvq.sum_bytes %[[B1]]
// CHECK-COUNT-2: pmkvq.lazy_softmax
// CHECK-COUNT-2: pmkvq.repack_weights
// CHECK: pmkvq.multiply_codes value 4 tokens 64 head_dim 128 in %{{.*}}, %{{.*}}, %{{.*}} :
// CHECK: pmkvq.merge_warps {{.*}} group 5 head_dim 128
