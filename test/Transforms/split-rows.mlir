// Attention over pages becomes attention of 128 query rows over a page list.
// RUN: pmkvq-opt %s -split-input-file --pmkvq-split-rows | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>, value = <per_token>, ladder = [16, 8]>
// CHECK-LABEL: kernel @attend
// CHECK-SAME: (%[[WORK:.*]]: !pmkvq.work, %[[Q:.*]]: memref<?x8x128xf32>, %[[OUT:.*]]: memref<?x8x128xf32>, %[[BLOCK:.*]]: index) -> i1
// CHECK-NOT: pmkvq.attend_task
pmkvq.kernel @attend(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x8x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 4 : memref<?x8x128xf32> -> !pmkvq.rows<4, 128>
  %by = arith.constant dense<0.125> : vector<128xf32>
  %q = pmkvq.scale %loaded, %by : !pmkvq.rows<4, 128>, vector<128xf32>
  %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  %ok = arith.constant true
  pmkvq.return %ok
}
// CHECK: %[[SEGMENT:.*]], %[[ROW:.*]], %[[ROWS:.*]], %[[HEAD:.*]] = pmkvq.prefill_task %[[WORK]][%[[BLOCK]]]
// All heads of a group beside each other: 32 rows of 4.
// CHECK: %[[LOADED:.*]] = pmkvq.load_rows %[[Q]][%[[ROW]], %[[HEAD]]] count %[[ROWS]] group 4 : memref<?x8x128xf32> -> <128, 128>
// CHECK: %[[SCALED:.*]] = pmkvq.scale %[[LOADED]],
// CHECK: %[[INIT:.*]] = pmkvq.softmax_init : <128, 128>
// CHECK: %[[R:.*]] = pmkvq.for_page %[[SEGMENT]] from %[[INIT]]
// CHECK: ^bb0(%[[S:.*]]: !pmkvq.softmax<128, 128>, %[[PAGE:.*]]: !pmkvq.page<{{.*}}>, %[[VISIBLE:.*]]: index):
// Levels end at the elements: what follows is one code for all.
// CHECK: %[[K:.*]] = pmkvq.by_level key %[[PAGE]]
// CHECK: pmkvq.dequantize %{{.*}} : <key, 16, 128, 128, <per_channel>> -> <key, 16, 128, 128>
// CHECK: pmkvq.dequantize %{{.*}} : <key, 8, 128, 128, <per_channel>> -> <key, 16, 128, 128>
// CHECK: %[[X:.*]] = pmkvq.scores %[[SCALED]], %[[K]]
// CHECK: %[[M:.*]] = pmkvq.causal_mask %[[X]] visible %[[VISIBLE]] group 4
// CHECK: %[[N:.*]], %[[W:.*]] = pmkvq.softmax_update %[[S]], %[[M]]
// CHECK: %[[V:.*]] = pmkvq.by_level value %[[PAGE]]
// CHECK: %[[A:.*]] = pmkvq.accumulate %[[N]], %[[W]], %[[V]]
// CHECK: pmkvq.yield %[[A]]
// CHECK: %[[O:.*]] = pmkvq.softmax_finish %[[R]]
// CHECK: pmkvq.store_rows %[[O]], %[[OUT]][%[[ROW]], %[[HEAD]]] count %[[ROWS]] group 4

// -----

// Groups that do not divide 128 leave rows unused: 42 rows of 3.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 128, key = <per_channel>, value = <per_token>, ladder = [4]>
// CHECK-LABEL: kernel @three
// CHECK: pmkvq.load_rows {{.*}} group 3 : memref<?x6x128xf32> -> <126, 128>
pmkvq.kernel @three(%c: !kv, %batch: !pmkvq.batch, %in: memref<?x6x128xf32>, %task: index) -> i1 {
  %seq, %head, %row, %rows, %begin, %end, %fixed, %partial = pmkvq.attend_task %batch[%task]
  %loaded = pmkvq.load_rows %in[%row, %head] count %rows group 3 : memref<?x6x128xf32> -> !pmkvq.rows<3, 128>
  %by = arith.constant dense<0.125> : vector<128xf32>
  %q = pmkvq.scale %loaded, %by : !pmkvq.rows<3, 128>, vector<128xf32>
  %page = pmkvq.fetch %c[%seq, %head, %begin] : !pmkvq.page<!kv>
  %ok = arith.constant true
  pmkvq.return %ok
}

// -----

// Other kernels stay as they are.
// CHECK-LABEL: kernel @other
// CHECK-NOT: prefill_task
pmkvq.kernel @other(%batch: !pmkvq.batch, %task: index) -> i1 {
  %ok = arith.constant true
  pmkvq.return %ok
}
