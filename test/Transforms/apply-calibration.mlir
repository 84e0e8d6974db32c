// RUN: pmkvq-opt %s --pmkvq-apply-calibration --split-input-file | FileCheck %s
// RUN: pmkvq-opt %s --pmkvq-apply-calibration --pmkvq-apply-calibration --split-input-file | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>,
                   value = <per_token, clip = 0.85>>

// Found clips take the place of the formats'; what was not found stays.
// CHECK-LABEL: func @create
// CHECK-SAME: -> (!pmkvq.cache<{{.*}}, key = <per_channel, hadamard, clip = 7.700000e-01>, value = <per_token, clip = 8.200000e-01>>,
// CHECK-SAME: !pmkvq.cache<{{.*}}, key = <per_channel, hadamard>, value = <per_token, clip = 8.500000e-01>>)
func.func @create() -> (!kv, !kv) {
  // CHECK: pmkvq.create layer 0 {{.*}} calibration <key_clip = 7.700000e-01 : f64, value_clip = 8.200000e-01 : f64> : <{{.*}}key = <per_channel, hadamard, clip = 7.700000e-01>, value = <per_token, clip = 8.200000e-01>>
  %0 = pmkvq.create layer 0 max_tokens 128
    schedule <page, key_floor = 2, value_floor = 2>
    calibration <key_clip = 0.77, value_clip = 0.82> : !kv
  // CHECK: pmkvq.create layer 1 {{.*}} calibration <key_loss = [{{.*}}]> : <{{.*}}key = <per_channel, hadamard>, value = <per_token, clip = 8.500000e-01>>
  %1 = pmkvq.create layer 1 max_tokens 128
    schedule <page, key_floor = 2, value_floor = 2>
    calibration <key_loss = [0.0001, 0.003, 0.07]> : !kv
  return %0, %1 : !kv, !kv
}

// In the step, the layer's argument and all that appends make of it follow.
// CHECK-LABEL: func @step
// CHECK-SAME: %[[C0:[a-z0-9]+]]: !pmkvq.cache<{{[^>]*}}clip = 7.700000e-01>, value = <per_token, clip = 8.200000e-01>>,
// CHECK-SAME: %[[C1:[a-z0-9]+]]: !pmkvq.cache<{{[^>]*}}hadamard>, value = <per_token, clip = 8.500000e-01>>)
// CHECK-SAME: -> (tensor<?x2x64xf32>, !pmkvq.cache<{{[^>]*}}clip = 7.700000e-01>,
func.func @step(%q: tensor<?x2x64xf32>, %b: !pmkvq.batch, %c0: !kv, %c1: !kv)
    -> (tensor<?x2x64xf32>, !kv, !kv) {
  // CHECK: pmkvq.append %[[C0]], {{.*}}key = <per_channel, hadamard, clip = 7.700000e-01>
  %a0 = pmkvq.append %c0, %q, %q, %b : !kv, tensor<?x2x64xf32>
  // CHECK: pmkvq.attend {{.*}}key = <per_channel, hadamard, clip = 7.700000e-01>
  %o0 = pmkvq.attend %q, %a0, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  // CHECK: pmkvq.append %[[C1]], {{.*}}key = <per_channel, hadamard>
  %a1 = pmkvq.append %c1, %o0, %o0, %b : !kv, tensor<?x2x64xf32>
  // CHECK: pmkvq.attend {{.*}}key = <per_channel, hadamard>
  %o1 = pmkvq.attend %o0, %a1, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  return %o1, %a0, %a1 : tensor<?x2x64xf32>, !kv, !kv
}

// -----

// A create outside a function has a result to change, and no function's type.
// CHECK: pmkvq.create {{.*}}key = <per_channel, clip = 7.700000e-01>
%c = pmkvq.create layer 0 max_tokens 128
  schedule <page, key_floor = 2, value_floor = 2>
  calibration <key_clip = 0.77>
  : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>>

// -----

// Without a calibration nothing changes.
// CHECK-LABEL: func @create() -> !pmkvq.cache<kv_heads = 2, head_dim = 64> {
func.func @create() -> !pmkvq.cache<kv_heads = 2, head_dim = 64> {
  %0 = pmkvq.create layer 0 max_tokens 128 : !pmkvq.cache<kv_heads = 2, head_dim = 64>
  return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64>
}
