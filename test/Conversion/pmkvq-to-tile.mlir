// RUN: pmkvq-opt %s --convert-pmkvq-to-tile --split-input-file | FileCheck %s

// Appends that share type and flags share a kernel; the cache is passed on.
// CHECK-LABEL: func @append
// CHECK-SAME: (%[[C:.*]]: !pmkvq.cache<{{.*}}>, %[[K:.*]]: tensor<?x2x64xf32>, %[[B:.*]]: !pmkvq.batch)
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
func.func @append(%c: !kv, %k: tensor<?x2x64xf32>, %b: !pmkvq.batch) -> !kv {
  // CHECK: pmkvq.launch @append_0 over rows, %[[B]] cache(%[[C]] : {{.*}}) ins(%[[K]], %[[K]] :
  %0 = pmkvq.append %c, %k, %k, %b : !kv, tensor<?x2x64xf32>
  // CHECK: pmkvq.launch @append_0 over rows, %[[B]] cache(%[[C]] :
  %1 = pmkvq.append %0, %k, %k, %b : !kv, tensor<?x2x64xf32>
  // CHECK: pmkvq.launch @append_1 over rows
  %2 = pmkvq.append %1, %k, %k, %b values_rotated : !kv, tensor<?x2x64xf32>
  // CHECK: return %[[C]]
  return %2 : !kv
}
// Each head's row is rotated and stored at its place in the fixed area.
// CHECK-LABEL: kernel @append_0
// CHECK: %[[S:.*]], %[[T:.*]] = pmkvq.row_place
// CHECK: scf.for %[[H:.*]] =
// CHECK: pmkvq.load_rows
// CHECK-NEXT: pmkvq.hadamard
// CHECK-NEXT: pmkvq.store_fixed key %{{.*}}, %{{.*}}[%[[S]], %[[H]], %[[T]]]
// CHECK: pmkvq.load_rows
// CHECK-NEXT: pmkvq.hadamard
// CHECK-NEXT: pmkvq.store_fixed value
// CHECK-LABEL: kernel @append_1
// CHECK: pmkvq.hadamard
// CHECK-NOT: pmkvq.hadamard
// CHECK: pmkvq.store_fixed value

// -----

// Attention is a kernel over the work list and one that merges.
// CHECK-LABEL: func @attend
// CHECK-SAME: (%[[Q:.*]]: tensor<?x6x64xf32>, %[[C:.*]]: !pmkvq.cache<{{.*}}>, %[[B:.*]]: !pmkvq.batch)
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token>, ladder = [4, 2], sink = 4>
func.func @attend(%q: tensor<?x6x64xf32>, %c: !kv, %b: !pmkvq.batch) -> tensor<?x6x64xf32> {
  // CHECK: pmkvq.launch @attend_0 over attend, %[[B]] cache(%[[C]] : {{.*}}) ins(%[[Q]] : tensor<?x6x64xf32>)
  // CHECK: %[[E:.*]] = tensor.empty(%{{.*}}) : tensor<?x6x64xf32>
  // CHECK: %[[R:.*]] = pmkvq.launch @merge_0 over merge, %[[B]] outs(%[[E]] : tensor<?x6x64xf32>)
  // CHECK: return %[[R]]
  %0 = pmkvq.attend %q, %c, %b scale 0.125 : tensor<?x6x64xf32>, !kv
  return %0 : tensor<?x6x64xf32>
}
// Queries are rotated as keys are; the factor is scale / ln 2.
// CHECK-LABEL: kernel @attend_0
// CHECK: pmkvq.single_rows
// CHECK: %[[L:.*]] = pmkvq.load_rows {{.*}} group 3 : memref<?x6x64xf32> -> <3, 64>
// CHECK-NEXT: %[[H:.*]] = pmkvq.hadamard %[[L]]
// CHECK-NEXT: %[[F:.*]] = arith.constant dense<0.180336878> : vector<64xf32>
// CHECK-NEXT: pmkvq.scale %[[H]], %[[F]]
// CHECK: scf.for
// CHECK: pmkvq.by_level key
// CHECK: ^bb0(%{{.*}}: !pmkvq.tile<key, 4,
// CHECK: ^bb0(%{{.*}}: !pmkvq.tile<key, 2,
// CHECK: pmkvq.softmax_update
// CHECK: pmkvq.by_level value
// Sink and window: 4 + 128 tokens at level 16, masked.
// CHECK: pmkvq.fetch_fixed {{.*}} -> <key, 16, 132, 64
// CHECK: pmkvq.causal_mask %{{.*}} visible %{{.*}} group 3 : <3, 132>
// CHECK: pmkvq.store_partial
// Prefill: 8 rows a task.
// CHECK: pmkvq.load_rows {{.*}} -> <24, 64>
// CHECK-LABEL: kernel @merge_0
// CHECK: %[[HEAD:.*]], %[[ROW:.*]], %[[ROWS:.*]], %[[FIRST:.*]], %[[COUNT:.*]] = pmkvq.merge_task
// CHECK: scf.for %{{.*}} = %[[FIRST]] to
// CHECK: pmkvq.merge_partial
// CHECK: %[[O:.*]] = pmkvq.softmax_finish
// CHECK-NEXT: pmkvq.store_rows %[[O]], %{{.*}}[%[[ROW]], %[[HEAD]]] count %[[ROWS]] group 3

// -----

// Where values are rotated, so is the result, unless a weight does it.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token, hadamard>>
func.func @rotations(%q: tensor<?x2x64xf32>, %c: !kv, %b: !pmkvq.batch) -> tensor<?x2x64xf32> {
  %0 = pmkvq.attend %q, %c, %b scale 0.125 : tensor<?x2x64xf32>, !kv
  %1 = pmkvq.attend %0, %c, %b scale 0.125 result_rotated : tensor<?x2x64xf32>, !kv
  return %1 : tensor<?x2x64xf32>
}
// CHECK-LABEL: kernel @attend_0
// CHECK-NOT: pmkvq.hadamard
// CHECK-LABEL: kernel @merge_0
// CHECK: pmkvq.hadamard
// CHECK-LABEL: kernel @merge_1
// CHECK-NOT: pmkvq.hadamard
