// RUN: pmkvq-opt %s --split-input-file --pmkvq-add-page-functions | FileCheck %s

// Under `page`: a flush to every level and a requantize for every step, down to
// each part's own floor.
// CHECK-LABEL: func @page
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4]>
func.func @page() -> !kv {
  %c = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 8, value_floor = 4> : !kv
  return %c : !kv
}
// CHECK: func @flush_key_16(%[[C:.*]]: !pmkvq.cache<{{.*}}>, %[[P:.*]]: !pmkvq.pages) -> !pmkvq.cache<
// CHECK-NEXT: %[[R:.*]] = pmkvq.flush key %[[C]], %[[P]] to 16
// CHECK-NEXT: return %[[R]]
// CHECK: func @requantize_key_16_8(
// CHECK-NEXT: pmkvq.requantize key %{{.*}}, %{{.*}} from 16 to 8
// CHECK: func @flush_key_8(
// CHECK-NOT: func @{{.*}}_key
// CHECK: func @flush_value_16(
// CHECK: func @requantize_value_16_8(
// CHECK: func @flush_value_8(
// CHECK: func @requantize_value_8_4(
// CHECK: func @flush_value_4(
// CHECK-NOT: func @

// -----

// Under `none` a part is written at its floor and stays there.
// CHECK-LABEL: func @none
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [8, 4]>
func.func @none() -> !kv {
  %c = pmkvq.create layer 0 max_tokens 128 schedule <none, key_floor = 8, value_floor = 4> : !kv
  return %c : !kv
}
// CHECK: func @flush_key_8(
// CHECK-NOT: func @
// CHECK: func @flush_value_4(
// CHECK-NOT: func @

// -----

// The functions are added once for all layers.
// CHECK-LABEL: func @layers
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [2]>
func.func @layers() -> (!kv, !kv) {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <none, key_floor = 2, value_floor = 2> : !kv
  %1 = pmkvq.create layer 1 max_tokens 128 schedule <none, key_floor = 2, value_floor = 2> : !kv
  return %0, %1 : !kv, !kv
}
// CHECK: func @flush_key_2(
// CHECK: func @flush_value_2(
// CHECK-NOT: func @

// -----

// Without a cache there is nothing to do.
// CHECK-LABEL: func @no_cache
// CHECK-NOT: func @
func.func @no_cache() {
  return
}
