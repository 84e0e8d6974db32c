// Round trip of the ops on whole caches, custom form and generic form.
// RUN: pmkvq-opt %s | pmkvq-opt | FileCheck %s
// RUN: pmkvq-opt %s --mlir-print-op-generic | pmkvq-opt | FileCheck %s

!unplanned = !pmkvq.cache<kv_heads = 2, head_dim = 64>
!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>,
                   value = <per_token>>

// CHECK: pmkvq.weight @plain : tensor<128x64xbf16> from "layers.0.v_proj.weight"{{$}}
pmkvq.weight @plain : tensor<128x64xbf16> from "layers.0.v_proj.weight"

// CHECK: pmkvq.weight @rotated : tensor<128x64xbf16> from "w" rotate
// CHECK-SAME: [#pmkvq.rotation<dim = 0, block = 64>, #pmkvq.rotation<dim = 1, block = 32>]
pmkvq.weight @rotated : tensor<128x64xbf16> from "w"
  rotate [#pmkvq.rotation<dim = 0, block = 64>, #pmkvq.rotation<dim = 1, block = 32>]

// CHECK: pmkvq.weight @scaled : tensor<4x64xbf16> from "w" first_row 8 scale_rows [-3, 0, 13, -13]{{$}}
pmkvq.weight @scaled : tensor<4x64xbf16> from "w" first_row 8
  scale_rows [-3, 0, 13, -13]

// CHECK-LABEL: func @weight_as_tensor_and_memory
func.func @weight_as_tensor_and_memory() -> (tensor<128x64xbf16>, memref<128x64xbf16>) {
  // CHECK: pmkvq.get_weight @plain : tensor<128x64xbf16>
  %a = pmkvq.get_weight @plain : tensor<128x64xbf16>
  // CHECK: pmkvq.get_weight @rotated : memref<128x64xbf16>
  %b = pmkvq.get_weight @rotated : memref<128x64xbf16>
  return %a, %b : tensor<128x64xbf16>, memref<128x64xbf16>
}

// CHECK-LABEL: func @create_unplanned
func.func @create_unplanned() -> !unplanned {
  // CHECK: pmkvq.create layer 0 max_tokens 8192 : <kv_heads = 2, head_dim = 64>
  %c = pmkvq.create layer 0 max_tokens 8192 : !unplanned
  return %c : !unplanned
}

// CHECK-LABEL: func @create_planned
func.func @create_planned() -> !kv {
  // CHECK: pmkvq.create layer 3 max_tokens 4096
  // CHECK-SAME: schedule <page, key_floor = 4, value_floor = 2> budget 268435456 :
  %c = pmkvq.create layer 3 max_tokens 4096
    schedule <page, key_floor = 4, value_floor = 2> budget 268435456 : !kv
  return %c : !kv
}

// CHECK-LABEL: func @create_calibrated
func.func @create_calibrated() -> !unplanned {
  // CHECK: pmkvq.create layer 0 max_tokens 4096
  // CHECK-SAME: calibration <key_clip = 7.700000e-01 : f64, value_clip = 8.200000e-01 : f64, key_loss = [1.000000e-04, 3.000000e-03, 7.000000e-02], value_loss = [0.000000e+00, 1.000000e-03, 1.300000e-02]> :
  %c = pmkvq.create layer 0 max_tokens 4096
    calibration <key_clip = 0.77, value_clip = 0.82,
                 key_loss = [1.0e-4, 3.0e-3, 7.0e-2],
                 value_loss = [0.0, 1.0e-3, 1.3e-2]> : !unplanned
  return %c : !unplanned
}

// Squares of queries are one a kv head and head dim.
// CHECK-LABEL: func @create_with_squares
func.func @create_with_squares() -> !pmkvq.cache<kv_heads = 1, head_dim = 64> {
  // CHECK: calibration <query_squares = [0.000000e+00, 2.500000e-01{{(, 1\.000000e\+00){62}[]]}}> :
  %c = pmkvq.create layer 0 max_tokens 4096 calibration <query_squares = [
      0.0, 0.25, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
      1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]>
    : !pmkvq.cache<kv_heads = 1, head_dim = 64>
  return %c : !pmkvq.cache<kv_heads = 1, head_dim = 64>
}

// CHECK-LABEL: func @append
func.func @append(%c: !kv, %k: tensor<?x2x64xf32>, %v: tensor<?x2x64xf32>,
                  %b: !pmkvq.batch) -> !kv {
  // CHECK: pmkvq.append %{{.*}}, %{{.*}}, %{{.*}}, %{{.*}} : <kv_heads = 2
  %0 = pmkvq.append %c, %k, %v, %b : !kv, tensor<?x2x64xf32>
  // CHECK: pmkvq.append {{.*}} values_rotated : <kv_heads = 2
  // CHECK-SAME: , tensor<?x2x64xf32>
  %1 = pmkvq.append %0, %k, %v, %b values_rotated : !kv, tensor<?x2x64xf32>
  return %1 : !kv
}

// CHECK-LABEL: func @attend
func.func @attend(%q: tensor<?x6x64xf32>, %c: !unplanned,
                  %b: !pmkvq.batch) -> tensor<?x6x64xf32> {
  // CHECK: pmkvq.attend %{{.*}}, %{{.*}}, %{{.*}} scale 1.250000e-01 : tensor<?x6x64xf32>, <kv_heads = 2
  %0 = pmkvq.attend %q, %c, %b scale 0.125 : tensor<?x6x64xf32>, !unplanned
  // CHECK: pmkvq.attend {{.*}} scale 1.250000e-01 result_rotated : tensor<?x6x64xf32>
  %1 = pmkvq.attend %0, %c, %b scale 0.125 result_rotated : tensor<?x6x64xf32>, !unplanned
  return %1 : tensor<?x6x64xf32>
}

// CHECK-LABEL: func @flush
func.func @flush(%c: !kv, %p: !pmkvq.pages) -> !kv {
  // CHECK: pmkvq.flush key %{{.*}}, %{{.*}} to 16 : <kv_heads = 2
  %0 = pmkvq.flush key %c, %p to 16 : !kv
  // CHECK: pmkvq.flush value %{{.*}}, %{{.*}} to 2 : <kv_heads = 2
  %1 = pmkvq.flush value %0, %p to 2 : !kv
  return %1 : !kv
}

// CHECK-LABEL: func @requantize
func.func @requantize(%c: !kv, %p: !pmkvq.pages) -> !kv {
  // CHECK: pmkvq.requantize key %{{.*}}, %{{.*}} from 16 to 8 : <kv_heads = 2
  %0 = pmkvq.requantize key %c, %p from 16 to 8 : !kv
  // CHECK: pmkvq.requantize value %{{.*}}, %{{.*}} from 4 to 2 : <kv_heads = 2
  %1 = pmkvq.requantize value %0, %p from 4 to 2 : !kv
  return %1 : !kv
}
