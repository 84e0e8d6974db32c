// Where weights cannot take the rotation, append and attend rotate themselves.
// RUN: pmkvq-opt %s --pmkvq-fold-value-rotation | FileCheck %s --implicit-check-not=rotate

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
#x = affine_map<(m, n, k) -> (m, k)>
#w = affine_map<(m, n, k) -> (n, k)>
#y = affine_map<(m, n, k) -> (m, n)>
#i = affine_map<(i, j) -> (j)>
#ij = affine_map<(i, j) -> (i, j)>

pmkvq.weight @shared : tensor<128x32xbf16> from "s"
pmkvq.weight @w0 : tensor<128x32xbf16> from "0"
pmkvq.weight @w1 : tensor<128x32xbf16> from "1"
pmkvq.weight @bias : tensor<128xbf16> from "b"
pmkvq.weight @columns : tensor<64x128xbf16> from "c"
pmkvq.weight @scaled : tensor<128x32xbf16> from "d"
  scale_rows [1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]

// CHECK-LABEL: func @weight_with_two_uses
func.func @weight_with_two_uses(%c: !kv, %x: tensor<?x32xf32>, %e: tensor<?x128xf32>, %n: index, %b: !pmkvq.batch) -> (!kv, tensor<128x32xbf16>) {
  %zero = arith.constant 0.0 : f32
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<?x128xf32>) -> tensor<?x128xf32>
  %w = pmkvq.get_weight @shared : tensor<128x32xbf16>
  %y = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %w : tensor<?x32xf32>, tensor<128x32xbf16>) outs(%init : tensor<?x128xf32>) -> tensor<?x128xf32>
  %v = tensor.expand_shape %y [[0], [1, 2]] output_shape [%n, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
  // CHECK: pmkvq.append
  %r = pmkvq.append %c, %v, %v, %b : !kv, tensor<?x2x64xf32>
  return %r, %w : !kv, tensor<128x32xbf16>
}

// A constant other than 0 is no bias that a weight holds.
// CHECK-LABEL: func @init_of_ones
func.func @init_of_ones(%c: !kv, %k: tensor<?x2x64xf32>, %x: tensor<?x32xf32>, %e: tensor<?x128xf32>, %n: index, %b: !pmkvq.batch) -> !kv {
  %one = arith.constant 1.0 : f32
  %init = linalg.fill ins(%one : f32) outs(%e : tensor<?x128xf32>) -> tensor<?x128xf32>
  %w = pmkvq.get_weight @w0 : tensor<128x32xbf16>
  %y = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %w : tensor<?x32xf32>, tensor<128x32xbf16>) outs(%init : tensor<?x128xf32>) -> tensor<?x128xf32>
  %v = tensor.expand_shape %y [[0], [1, 2]] output_shape [%n, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
  // CHECK: pmkvq.append
  %r = pmkvq.append %c, %k, %v, %b : !kv, tensor<?x2x64xf32>
  return %r : !kv
}

// A function of the bias does not commute with the rotation.
// CHECK-LABEL: func @bias_squared
func.func @bias_squared(%c: !kv, %k: tensor<?x2x64xf32>, %x: tensor<?x32xf32>, %e: tensor<?x128xf32>, %n: index, %b: !pmkvq.batch) -> !kv {
  %bias = pmkvq.get_weight @bias : tensor<128xbf16>
  %init = linalg.generic {indexing_maps = [#i, #ij], iterator_types = ["parallel", "parallel"]} ins(%bias : tensor<128xbf16>) outs(%e : tensor<?x128xf32>) {
  ^bb0(%in: bf16, %out: f32):
    %square = arith.mulf %in, %in : bf16
    %f = arith.extf %square : bf16 to f32
    linalg.yield %f : f32
  } -> tensor<?x128xf32>
  %w = pmkvq.get_weight @w1 : tensor<128x32xbf16>
  %y = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %w : tensor<?x32xf32>, tensor<128x32xbf16>) outs(%init : tensor<?x128xf32>) -> tensor<?x128xf32>
  %v = tensor.expand_shape %y [[0], [1, 2]] output_shape [%n, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
  // CHECK: pmkvq.append
  %r = pmkvq.append %c, %k, %v, %b : !kv, tensor<?x2x64xf32>
  return %r : !kv
}

// A weight that is not transposed has its outputs in columns.
// CHECK-LABEL: func @weight_not_transposed
func.func @weight_not_transposed(%c: !kv, %k: tensor<?x2x64xf32>, %x: tensor<?x64xf32>, %e: tensor<?x128xf32>, %n: index, %b: !pmkvq.batch) -> !kv {
  %zero = arith.constant 0.0 : f32
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<?x128xf32>) -> tensor<?x128xf32>
  %w = pmkvq.get_weight @columns : tensor<64x128xbf16>
  %y = linalg.matmul ins(%x, %w : tensor<?x64xf32>, tensor<64x128xbf16>) outs(%init : tensor<?x128xf32>) -> tensor<?x128xf32>
  %v = tensor.expand_shape %y [[0], [1, 2]] output_shape [%n, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
  // CHECK: pmkvq.append
  %r = pmkvq.append %c, %k, %v, %b : !kv, tensor<?x2x64xf32>
  return %r : !kv
}

// The result of attention is wanted as it is.
// CHECK-LABEL: func @result_returned
func.func @result_returned(%c: !kv, %q: tensor<?x2x64xf32>, %b: !pmkvq.batch) -> tensor<?x2x64xf32> {
  // CHECK: pmkvq.attend
  %a = pmkvq.attend %q, %c, %b scale 1.0 : tensor<?x2x64xf32>, !kv
  return %a : tensor<?x2x64xf32>
}

// Rotations come before scales of rows.
// CHECK-LABEL: func @scaled_rows
func.func @scaled_rows(%c: !kv, %k: tensor<?x2x64xf32>, %x: tensor<?x32xf32>, %e: tensor<?x128xf32>, %n: index, %b: !pmkvq.batch) -> !kv {
  %zero = arith.constant 0.0 : f32
  %init = linalg.fill ins(%zero : f32) outs(%e : tensor<?x128xf32>) -> tensor<?x128xf32>
  %w = pmkvq.get_weight @scaled : tensor<128x32xbf16>
  %y = linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %w : tensor<?x32xf32>, tensor<128x32xbf16>) outs(%init : tensor<?x128xf32>) -> tensor<?x128xf32>
  %v = tensor.expand_shape %y [[0], [1, 2]] output_shape [%n, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
  // CHECK: pmkvq.append
  %r = pmkvq.append %c, %k, %v, %b : !kv, tensor<?x2x64xf32>
  return %r : !kv
}
