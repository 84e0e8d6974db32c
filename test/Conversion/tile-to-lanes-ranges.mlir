// Values whose tokens have a range alone, in a byte.
// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(pmkvq.kernel(pmkvq-fold-parameters,pmkvq-hoist-constants),canonicalize,cse,convert-pmkvq-tile-to-lanes,canonicalize,cse)" | FileCheck %s

!state = !pmkvq.softmax<4, 128>
!q = !pmkvq.rows<4, 128>
!x = !pmkvq.rows<4, 64>
!k = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v = !pmkvq.tile<value, 2, 64, 128, <per_token_symmetric>>

// CHECK: pmkvq.ring_issue {{.*}} kinds [4, 2] {{.*}} value_bytes 1
// CHECK: %[[SLOT:.*]] = pmkvq.ring_wait
// Lane g finds four bytes of each 32 tokens: two pairs, which a shift makes f16.
// CHECK: pmkvq.online_softmax
// CHECK: %[[W:.*]] = llvm.load %{{.*}} {alignment = 4 : i64} : !llvm.ptr<3> -> i32
// CHECK: %[[FIRST:.*]] = nvvm.prmt {{.*}} %[[W]]
// CHECK: arith.shli %[[FIRST]], %c7_i32
// CHECK: %[[SECOND:.*]] = nvvm.prmt {{.*}} %[[W]]
// CHECK: arith.shli %[[SECOND]], %c7_i32
// The minimum, minus half of the range, and the margin of the clip are one
// factor of the sums of weights times ranges.
// CHECK: %{{.*}}, %{{.*}}, %[[SUM:.*]] = pmkvq.repack_weights
// CHECK-NOT: pmkvq.repack_weights
// CHECK: arith.mulf %[[SUM]], %cst
pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x8x128xf32>,
                     %out: memref<?x8x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 4 : memref<?x8x128xf32> -> !q
    %q = pmkvq.scale %rows, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [4, 2] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      %x = pmkvq.scores %q, %k : !q, !k -> !x
      %t, %w = pmkvq.softmax_update %s, %x : !state, !x
      %u = pmkvq.accumulate %t, %w, %v : !state, !x, !v
      pmkvq.yield %u : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}
