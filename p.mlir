#map = affine_map<(d0, d1) -> (d0)>
#map1 = affine_map<(d0, d1) -> (d0, d1)>
#map2 = affine_map<(d0, d1, d2) -> (d0, d2)>
#map3 = affine_map<(d0, d1, d2) -> (d1, d2)>
#map4 = affine_map<(d0, d1, d2) -> (d0, d1)>
module {
  pmkvq.weight @embedding : tensor<1000x128xbf16> from "embedding"
  pmkvq.weight @query : tensor<256x128xbf16> from "query"
  pmkvq.weight @key : tensor<128x128xbf16> from "key"
  pmkvq.weight @value : tensor<128x128xbf16> from "value" rotate [#pmkvq.rotation<dim = 0, block = 64>]
  pmkvq.weight @output : tensor<128x256xbf16> from "output" rotate [#pmkvq.rotation<dim = 1, block = 64>]
  func.func @create() -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.create layer 0 max_tokens 8192 schedule <page, key_floor = 2, value_floor = 2> : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @step(%arg0: !pmkvq.batch, %arg1: tensor<?xi32>, %arg2: tensor<?xi32>, %arg3: tensor<?xi32>, %arg4: tensor<?x1000xf32>, %arg5: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>) -> (tensor<?x1000xf32>, !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>) {
    %c0 = arith.constant 0 : index
    %cst = arith.constant 0.000000e+00 : f32
    %dim = tensor.dim %arg1, %c0 : tensor<?xi32>
    %0 = pmkvq.get_weight @embedding : tensor<1000x128xbf16>
    %1 = pmkvq.get_weight @query : tensor<256x128xbf16>
    %2 = pmkvq.get_weight @key : tensor<128x128xbf16>
    %3 = pmkvq.get_weight @value : tensor<128x128xbf16>
    %4 = pmkvq.get_weight @output : tensor<128x256xbf16>
    %5 = tensor.empty(%dim) : tensor<?x128xf32>
    %6 = linalg.generic {indexing_maps = [#map, #map1], iterator_types = ["parallel", "parallel"]} ins(%arg1 : tensor<?xi32>) outs(%5 : tensor<?x128xf32>) {
    ^bb0(%in: i32, %out: f32):
      %21 = arith.index_cast %in : i32 to index
      %22 = linalg.index 1 : index
      %extracted = tensor.extract %0[%21, %22] : tensor<1000x128xbf16>
      %23 = arith.extf %extracted : bf16 to f32
      linalg.yield %23 : f32
    } -> tensor<?x128xf32>
    %7 = tensor.empty(%dim) : tensor<?x256xf32>
    %8 = linalg.fill ins(%cst : f32) outs(%7 : tensor<?x256xf32>) -> tensor<?x256xf32>
    %9 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%6, %1 : tensor<?x128xf32>, tensor<256x128xbf16>) outs(%8 : tensor<?x256xf32>) -> tensor<?x256xf32>
    %10 = linalg.fill ins(%cst : f32) outs(%5 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %11 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%6, %2 : tensor<?x128xf32>, tensor<128x128xbf16>) outs(%10 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %12 = linalg.fill ins(%cst : f32) outs(%5 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %13 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%6, %3 : tensor<?x128xf32>, tensor<128x128xbf16>) outs(%12 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %expanded = tensor.expand_shape %9 [[0], [1, 2]] output_shape [%dim, 4, 64] : tensor<?x256xf32> into tensor<?x4x64xf32>
    %expanded_0 = tensor.expand_shape %11 [[0], [1, 2]] output_shape [%dim, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
    %expanded_1 = tensor.expand_shape %13 [[0], [1, 2]] output_shape [%dim, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
    %14 = pmkvq.append %arg5, %expanded_0, %expanded_1, %arg0 values_rotated : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, tensor<?x2x64xf32>
    %15 = pmkvq.attend %expanded, %14, %arg0 scale 1.250000e-01 result_rotated : tensor<?x4x64xf32>, <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %collapsed = tensor.collapse_shape %15 [[0], [1, 2]] : tensor<?x4x64xf32> into tensor<?x256xf32>
    %16 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%collapsed, %4 : tensor<?x256xf32>, tensor<128x256xbf16>) outs(%6 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %dim_2 = tensor.dim %arg3, %c0 : tensor<?xi32>
    %17 = tensor.empty(%dim_2) : tensor<?x128xf32>
    %18 = linalg.generic {indexing_maps = [#map, #map1], iterator_types = ["parallel", "parallel"]} ins(%arg3 : tensor<?xi32>) outs(%17 : tensor<?x128xf32>) {
    ^bb0(%in: i32, %out: f32):
      %21 = arith.index_cast %in : i32 to index
      %22 = linalg.index 1 : index
      %extracted = tensor.extract %16[%21, %22] : tensor<?x128xf32>
      linalg.yield %extracted : f32
    } -> tensor<?x128xf32>
    %19 = linalg.fill ins(%cst : f32) outs(%arg4 : tensor<?x1000xf32>) -> tensor<?x1000xf32>
    %20 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%18, %0 : tensor<?x128xf32>, tensor<1000x128xbf16>) outs(%19 : tensor<?x1000xf32>) -> tensor<?x1000xf32>
    return %20, %14 : tensor<?x1000xf32>, !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @flush_key_16(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.flush  key %arg0, %arg1 to 16 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @requantize_key_16_8(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.requantize  key %arg0, %arg1 from 16 to 8 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @flush_key_8(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.flush  key %arg0, %arg1 to 8 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @requantize_key_8_4(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.requantize  key %arg0, %arg1 from 8 to 4 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @flush_key_4(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.flush  key %arg0, %arg1 to 4 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @requantize_key_4_2(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.requantize  key %arg0, %arg1 from 4 to 2 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @flush_key_2(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.flush  key %arg0, %arg1 to 2 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @flush_value_16(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.flush  value %arg0, %arg1 to 16 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @requantize_value_16_8(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.requantize  value %arg0, %arg1 from 16 to 8 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @flush_value_8(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.flush  value %arg0, %arg1 to 8 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @requantize_value_8_4(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.requantize  value %arg0, %arg1 from 8 to 4 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @flush_value_4(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.flush  value %arg0, %arg1 to 4 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @requantize_value_4_2(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.requantize  value %arg0, %arg1 from 4 to 2 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @flush_value_2(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages) -> !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> {
    %0 = pmkvq.flush  value %arg0, %arg1 to 2 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    return %0 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
}

