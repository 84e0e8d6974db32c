// Page functions become kernels, creates the program's description.
// RUN: pmkvq-opt %s --convert-pmkvq-to-tile | FileCheck %s --implicit-check-not="pmkvq.{{create|flush|requantize}}"

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, sink = 4>

// To level 16 a window is copied as it is.
// CHECK-LABEL: kernel @pmkvq_flush_key_16(
// CHECK: %[[PAGE:.*]] = pmkvq.fetch
// CHECK-DAG: %[[SINK:.*]] = arith.constant 4 : index
// CHECK-DAG: %[[TOKENS:.*]] = arith.constant 128 : index
// CHECK: %[[W:.*]] = pmkvq.fetch_fixed %{{.*}} from %[[SINK]] count %[[TOKENS]]
// CHECK-NEXT: pmkvq.store %[[W]], %[[PAGE]] : <key, 16
// CHECK: %[[TRUE:.*]] = arith.constant true
// CHECK: pmkvq.return %[[TRUE]]
func.func @flush_key_16(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.flush key %c, %p to 16 : !kv
  return %r : !kv
}

// Below, it is quantized to 8 bits and shifted; nothing is written unless all
// is representable.
// CHECK-LABEL: kernel @pmkvq_flush_value_2(
// CHECK: %[[W:.*]] = pmkvq.fetch_fixed {{.*}} -> <value, 16
// CHECK: %[[T8:.*]], %[[OK:.*]] = pmkvq.quantize %[[W]] : {{.*}} -> <value, 8
// CHECK: %[[T4:.*]] = pmkvq.shift %[[T8]] : {{.*}} -> <value, 4
// CHECK: %[[T2:.*]] = pmkvq.shift %[[T4]] : {{.*}} -> <value, 2
// CHECK: scf.if %[[OK]] {
// CHECK-NEXT: pmkvq.store %[[T2]], %{{.*}} with_parameters
// CHECK: pmkvq.return %[[OK]]
func.func @flush_value_2(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.flush value %c, %p to 2 : !kv
  return %r : !kv
}

// From level 16 a page gets its parameters.
// CHECK-LABEL: kernel @pmkvq_requantize_key_16_8(
// CHECK: %[[T:.*]] = pmkvq.take {{.*}} -> <key, 16
// CHECK: %[[T8:.*]], %[[OK:.*]] = pmkvq.quantize %[[T]]
// CHECK-NEXT: scf.if %[[OK]]
// CHECK-NEXT: pmkvq.store %[[T8]], %{{.*}} with_parameters
func.func @requantize_key_16_8(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.requantize key %c, %p from 16 to 8 : !kv
  return %r : !kv
}

// From 4 bits it keeps them.
// CHECK-LABEL: kernel @pmkvq_requantize_value_4_2(
// CHECK: %[[T:.*]] = pmkvq.take {{.*}} -> <value, 4
// CHECK: %[[T2:.*]] = pmkvq.shift %[[T]] : {{.*}} -> <value, 2
// CHECK-NEXT: pmkvq.store %[[T2]], %{{.*}} : <value, 2
func.func @requantize_value_4_2(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.requantize value %c, %p from 4 to 2 : !kv
  return %r : !kv
}
