// Layers that differ in floors have the functions of all of them.
// RUN: pmkvq-opt %s --split-input-file --pmkvq-add-page-functions | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [8, 4, 2]>

// CHECK-LABEL: func @none
// CHECK-DAG: func @flush_key_8
// CHECK-DAG: func @flush_key_2
// CHECK-DAG: func @flush_value_4
// CHECK-NOT: func @requantize
// CHECK-NOT: func @flush_key_4
// CHECK-NOT: func @flush_value_2
func.func @none() {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <none, key_floor = 8, value_floor = 4> : !kv
  %1 = pmkvq.create layer 1 max_tokens 128 schedule <none, key_floor = 2, value_floor = 4> : !kv
  return
}

// -----

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4]>

// CHECK-LABEL: func @page
// CHECK-DAG: func @requantize_key_8_4
// CHECK-DAG: func @requantize_value_16_8
// CHECK-NOT: func @requantize_value_8_4
func.func @page() {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <page, key_floor = 8, value_floor = 8> : !kv
  %1 = pmkvq.create layer 1 max_tokens 128 schedule <page, key_floor = 4, value_floor = 8> : !kv
  return
}

// -----

// Values fall to level 1, and are never written at it; keys end at 2.
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, ladder = [16, 8, 4, 2, 1]>

// CHECK-LABEL: func @one_bit
// CHECK-DAG: func @requantize_key_4_2
// CHECK-DAG: func @flush_value_2
// CHECK-DAG: func @requantize_value_2_1
// CHECK-NOT: func @flush_value_1(
// CHECK-NOT: func @requantize_key_2_1
func.func @one_bit() {
  %0 = pmkvq.create layer 0 max_tokens 128 schedule <keys_last, key_floor = 2, value_floor = 1> : !kv
  return
}
