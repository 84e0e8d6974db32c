// Queries that the kernel rotates: butterflies where they are staged, not where
// the next segment's are loaded ahead.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-lanes | FileCheck %s

!state = !pmkvq.softmax<3, 128>
!q = !pmkvq.rows<3, 128>
!k = !pmkvq.tile<key, 16, 16, 128>
!v = !pmkvq.tile<value, 16, 16, 128>

pmkvq.kernel @decode(%work: !pmkvq.work, %in: memref<?x6x128xf32>,
                     %out: memref<?x6x128xf32>, %block: index) -> i1 {
  %scale = arith.constant dense<0.125> : vector<128xf32>
  pmkvq.for_segment %work[%block] kv_heads 2 {
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %rows = pmkvq.load_rows %in[%row, %head] count %count group 3 : memref<?x6x128xf32> -> !q
    %rotated = pmkvq.hadamard %rows : !q
    %q = pmkvq.scale %rotated, %scale : !q, vector<128xf32>
    %init = pmkvq.softmax_init : !state
    %r = pmkvq.for_unit %segment from %init kinds [16, 16] : !state {
    ^bb0(%s: !state, %tokens: index, %k: !k, %v: !v):
      pmkvq.yield %s : !state
    }
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 3 : !state, memref<?x6x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}

// A lane has 4 dims: two butterflies are its own, five are with other lanes.
// CHECK: scf.for
// CHECK: scf.if
// CHECK-COUNT-4: arith.subf
// CHECK-COUNT-20: nvvm.shfl.sync bfly
// CHECK-NOT: nvvm.shfl.sync bfly
// CHECK: nvvm.barrier0
// CHECK: scf.if %{{.*}} -> (f32, f32, f32, f32)
