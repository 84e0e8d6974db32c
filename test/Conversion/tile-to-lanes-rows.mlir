// Several rows of queries in a segment: each is loaded from its own place and
// sees one token more than the row before it.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters),convert-pmkvq-tile-to-lanes,canonicalize,cse)" | FileCheck %s

!state = !pmkvq.softmax<6, 128>
!q = !pmkvq.rows<6, 128>
!scores = !pmkvq.rows<6, 16>
!k = !pmkvq.tile<key, 16, 16, 128>
!v = !pmkvq.tile<value, 16, 16, 128>

// CHECK-LABEL: llvm.func @decode
pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x4x128xf32>,
                     %out: memref<?x4x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 2 : memref<?x4x128xf32> -> !q
    %q = pmkvq.scale %rows, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [16, 16] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      %x = pmkvq.scores %q, %k : !q, !k -> !scores
      %m = pmkvq.causal_mask %x visible %tokens group 2 : !scores
      %n, %w = pmkvq.softmax_update %s, %m : !state, !scores
      %a = pmkvq.accumulate %n, %w, %v : !state, !scores, !v
      pmkvq.yield %a : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 2 : !state, memref<?x4x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// The queries of (1 + more rows) * 2 that there are; from row to row those of
// the other kv head lie between.
// CHECK: %[[COUNT:.*]] = arith.muli %{{.*}}, %c2_i32 : i32
// CHECK: arith.cmpi ult, %{{.*}}, %[[COUNT]] : i32
// CHECK: arith.divui
// CHECK: scf.for
// Tokens are a signed byte.
// CHECK: %[[TOKENS:.*]] = arith.shrsi
// CHECK: pmkvq.multiply_codes key 16
// CHECK: %[[ROW:.*]] = arith.divui
// CHECK: %[[VISIBLE:.*]] = arith.addi %[[TOKENS]], %[[ROW]]
// CHECK: arith.cmpi slt, %{{.*}}, %[[VISIBLE]]
// CHECK: pmkvq.merge_warps {{.*}} group 2 rows 3 more %{{.*}} stride 4 head_dim 128
// CHECK: pmkvq.merge_shares {{.*}} group 2 rows 3 more %{{.*}} stride 4 head_dim 128
