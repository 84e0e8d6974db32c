// Values come from one linear layer and go into one: its weights rotate.
// RUN: pmkvq-opt %s --pmkvq-fold-value-rotation | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
!plain = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token>>
#x = affine_map<(m, n, k) -> (m, k)>
#w = affine_map<(m, n, k) -> (n, k)>
#y = affine_map<(m, n, k) -> (m, n)>
#i = affine_map<(i, j) -> (j)>
#ij = affine_map<(i, j) -> (i, j)>

// Rows of the value's weight and elements of its bias; columns of the output's.
// CHECK-DAG: pmkvq.weight @wv : {{.*}} rotate [#pmkvq.rotation<dim = 0, block = 64>]
// CHECK-DAG: pmkvq.weight @bias : {{.*}} rotate [#pmkvq.rotation<dim = 0, block = 64>]
// CHECK-DAG: pmkvq.weight @wo : {{.*}} rotate [#pmkvq.rotation<dim = 1, block = 64>]
// CHECK-DAG: pmkvq.weight @unrotated : tensor<128x32xbf16> from "u"{{$}}
pmkvq.weight @wv : tensor<128x32xbf16> from "v"
pmkvq.weight @bias : tensor<128xbf16> from "b"
pmkvq.weight @wo : tensor<32x128xbf16> from "o"
pmkvq.weight @unrotated : tensor<128x32xbf16> from "u"

// CHECK-LABEL: func @append
// CHECK: pmkvq.append {{.*}} values_rotated
func.func @append(%c: !kv, %k: tensor<?x2x64xf32>, %x: tensor<?x32xf32>, %e: tensor<?x128xf32>,
                  %n: index, %b: !pmkvq.batch) -> !kv {
  %bias = pmkvq.get_weight @bias : tensor<128xbf16>
  %init = linalg.generic {indexing_maps = [#i, #ij], iterator_types = ["parallel", "parallel"]} ins(%bias : tensor<128xbf16>) outs(%e : tensor<?x128xf32>) {
  ^bb0(%in: bf16, %out: f32):
    %f = arith.extf %in : bf16 to f32
    linalg.yield %f : f32
  } -> tensor<?x128xf32>
  %w = pmkvq.get_weight @wv : tensor<128x32xbf16>
  %y = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %w : tensor<?x32xf32>, tensor<128x32xbf16>) outs(%init : tensor<?x128xf32>) -> tensor<?x128xf32>
  %v = tensor.expand_shape %y [[0], [1, 2]] output_shape [%n, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
  %r = pmkvq.append %c, %k, %v, %b : !kv, tensor<?x2x64xf32>
  return %r : !kv
}

// CHECK-LABEL: func @attend
// CHECK: pmkvq.attend {{.*}} result_rotated
func.func @attend(%c: !kv, %q: tensor<?x2x64xf32>, %res: tensor<?x32xf32>, %b: !pmkvq.batch) -> tensor<?x32xf32> {
  %a = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  %f = tensor.collapse_shape %a [[0], [1, 2]] : tensor<?x2x64xf32> into tensor<?x128xf32>
  %w = pmkvq.get_weight @wo : tensor<32x128xbf16>
  %y = linalg.matmul indexing_maps = [#x, #w, #y] ins(%f, %w : tensor<?x128xf32>, tensor<32x128xbf16>) outs(%res : tensor<?x32xf32>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

// A format without `hadamard` leaves all as it is.
// CHECK-LABEL: func @no_hadamard
// CHECK-NOT: values_rotated
func.func @no_hadamard(%c: !plain, %k: tensor<?x2x64xf32>, %x: tensor<?x32xf32>, %e: tensor<?x128xf32>,
                       %n: index, %b: !pmkvq.batch) -> !plain {
  %zero = arith.constant 0.0 : f32
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<?x128xf32>) -> tensor<?x128xf32>
  %w = pmkvq.get_weight @unrotated : tensor<128x32xbf16>
  %y = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %w : tensor<?x32xf32>, tensor<128x32xbf16>) outs(%init : tensor<?x128xf32>) -> tensor<?x128xf32>
  %v = tensor.expand_shape %y [[0], [1, 2]] output_shape [%n, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
  %r = pmkvq.append %c, %k, %v, %b : !plain, tensor<?x2x64xf32>
  return %r : !plain
}
