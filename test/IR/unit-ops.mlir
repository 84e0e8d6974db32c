// Round trip of the ops on segments and units, custom form and generic form.
// RUN: pmkvq-opt %s | pmkvq-opt | FileCheck %s
// RUN: pmkvq-opt %s --mlir-print-op-generic | pmkvq-opt | FileCheck %s

!state = !pmkvq.softmax<4, 128>
!raw_k = !pmkvq.tile<key, 16, 16, 128>
!raw_v = !pmkvq.tile<value, 16, 16, 128>
!k4 = !pmkvq.tile<key, 4, 64, 128, <per_channel>>
!v2 = !pmkvq.tile<value, 2, 64, 128, <per_token>>
!k2 = !pmkvq.tile<key, 2, 64, 128, <per_channel>>

// CHECK-LABEL: kernel @decode(%{{.*}}: !pmkvq.work, %{{.*}}: memref<?x8x128xf32>, %{{.*}}: index) -> i1
pmkvq.kernel @decode(%work: !pmkvq.work, %out: memref<?x8x128xf32>, %block: index) -> i1 {
  // CHECK: pmkvq.for_segment %{{.*}}[%{{.*}}] kv_heads 2 {
  pmkvq.for_segment %work[%block] kv_heads 2 {
  // CHECK-NEXT: ^bb0(%[[SEGMENT:.*]]: !pmkvq.segment, %[[ROW:.*]]: index, %[[COUNT:.*]]: index, %[[HEAD:.*]]: index):
  ^bb0(%segment: !pmkvq.segment, %row: index, %count: index, %head: index):
    %init = pmkvq.softmax_init : !state
    // CHECK: %[[R:.*]] = pmkvq.for_unit %[[SEGMENT]] from %{{.*}} kinds [16, 16, 4, 2] : <4, 128> {
    %r = pmkvq.for_unit %segment from %init kinds [16, 16, 4, 2] : !state {
    // CHECK-NEXT: ^bb0(%[[S:.*]]: !pmkvq.softmax<4, 128>, %{{.*}}: index, %{{.*}}: !pmkvq.tile<key, 16, 16, 128>, %{{.*}}: !pmkvq.tile<value, 16, 16, 128>):
    ^bb0(%s: !state, %tokens: index, %k: !raw_k, %v: !raw_v):
      // CHECK-NEXT: pmkvq.yield %[[S]] : !pmkvq.softmax<4, 128>
      pmkvq.yield %s : !state
    // CHECK-NEXT: }, {
    }, {
    ^bb0(%s: !state, %tokens: index, %k: !k4, %v: !v2):
      %low = pmkvq.shift %k : !k4 -> !k2
      // CHECK: pmkvq.store_lowered %{{.*}} : <key, 2, 64, 128, <per_channel>>
      pmkvq.store_lowered %low : !k2
      pmkvq.yield %s : !state
    }
    // CHECK: pmkvq.store_merged %[[R]] of %[[SEGMENT]], %{{.*}}[%[[ROW]], %[[HEAD]]] count %[[COUNT]] group 4 : <4, 128>, memref<?x8x128xf32>
    pmkvq.store_merged %r of %segment, %out[%row, %head] count %count group 4 : !state, memref<?x8x128xf32>
  }
  %ok = arith.constant true
  pmkvq.return %ok
}
