// Attention over pages becomes attention of 4 rows a segment, whose pages several
// workers share.
// RUN: pmkvq-opt %s --pmkvq-split-rows=rows=4 | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel, hadamard>, value = <per_token>, ladder = [16, 8]>
// CHECK-LABEL: kernel @attend
// CHECK-SAME: (%[[WORK:.*]]: !pmkvq.work, %[[Q:.*]]: memref<?x8x128xf32>, %[[OUT:.*]]: memref<?x8x128xf32>, %[[BLOCK:.*]]: index) -> i1
// CHECK-NOT: pmkvq.attend_task
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
  %by = arith.constant dense<0.125> : vector<128xf32>
  %rotated = pmkvq.hadamard %loaded : !pmkvq.rows<4, 128>
  %q = pmkvq.scale %rotated, %by : !pmkvq.rows<4, 128>, vector<128xf32>
  %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  %ok = arith.constant true
  pmkvq.return %ok
}
// CHECK: pmkvq.for_segment %[[WORK]][%[[BLOCK]]] kv_heads 2
// CHECK: ^bb0(%[[SEGMENT:.*]]: !pmkvq.segment, %[[ROW:.*]]: index, %[[COUNT:.*]]: index, %[[HEAD:.*]]: index):
// CHECK: %[[LOADED:.*]] = pmkvq.load_rows %[[Q]][%[[ROW]], %[[HEAD]]] count %[[COUNT]] group 4 : memref<?x8x128xf32> -> <16, 128>
// CHECK: %[[ROTATED:.*]] = pmkvq.hadamard %[[LOADED]]
// CHECK: %[[SCALED:.*]] = pmkvq.scale %[[ROTATED]],
// CHECK: %[[INIT:.*]] = pmkvq.softmax_init : <16, 128>
// CHECK: %[[R:.*]] = pmkvq.for_page %[[SEGMENT]] from %[[INIT]]
// CHECK: pmkvq.by_level key
// CHECK: pmkvq.dequantize %{{.*}} : <key, 8, 128, 128, <per_channel, hadamard>> -> <key, 16, 128, 128>
// CHECK: pmkvq.scores %[[SCALED]],
// CHECK: pmkvq.causal_mask {{.*}} group 4
// The states of all workers are merged.
// CHECK: pmkvq.store_merged %[[R]] of %[[SEGMENT]], %[[OUT]][%[[ROW]], %[[HEAD]]] count %[[COUNT]] group 4
