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
      %20 = arith.index_cast %in : i32 to index
      %21 = linalg.index 1 : index
      %extracted = tensor.extract %0[%20, %21] : tensor<1000x128xbf16>
      %22 = arith.extf %extracted : bf16 to f32
      linalg.yield %22 : f32
    } -> tensor<?x128xf32>
    %7 = tensor.empty(%dim) : tensor<?x256xf32>
    %8 = linalg.fill ins(%cst : f32) outs(%7 : tensor<?x256xf32>) -> tensor<?x256xf32>
    %9 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%6, %1 : tensor<?x128xf32>, tensor<256x128xbf16>) outs(%8 : tensor<?x256xf32>) -> tensor<?x256xf32>
    %10 = linalg.fill ins(%cst : f32) outs(%5 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %11 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%6, %2 : tensor<?x128xf32>, tensor<128x128xbf16>) outs(%10 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %12 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%6, %3 : tensor<?x128xf32>, tensor<128x128xbf16>) outs(%10 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %expanded = tensor.expand_shape %9 [[0], [1, 2]] output_shape [%dim, 4, 64] : tensor<?x256xf32> into tensor<?x4x64xf32>
    %expanded_0 = tensor.expand_shape %11 [[0], [1, 2]] output_shape [%dim, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
    %expanded_1 = tensor.expand_shape %12 [[0], [1, 2]] output_shape [%dim, 2, 64] : tensor<?x128xf32> into tensor<?x2x64xf32>
    pmkvq.launch @append_0 over  rows, %arg0 cache(%arg5 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>) ins(%expanded_0, %expanded_1 : tensor<?x2x64xf32>, tensor<?x2x64xf32>)
    pmkvq.launch @attend_0 over  attend, %arg0 cache(%arg5 : !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>) ins(%expanded : tensor<?x4x64xf32>)
    %dim_2 = tensor.dim %expanded, %c0 : tensor<?x4x64xf32>
    %13 = tensor.empty(%dim_2) : tensor<?x4x64xf32>
    %14 = pmkvq.launch @merge_0 over  merge, %arg0 outs(%13 : tensor<?x4x64xf32>) -> tensor<?x4x64xf32>
    %collapsed = tensor.collapse_shape %14 [[0], [1, 2]] : tensor<?x4x64xf32> into tensor<?x256xf32>
    %15 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%collapsed, %4 : tensor<?x256xf32>, tensor<128x256xbf16>) outs(%6 : tensor<?x128xf32>) -> tensor<?x128xf32>
    %dim_3 = tensor.dim %arg3, %c0 : tensor<?xi32>
    %16 = tensor.empty(%dim_3) : tensor<?x128xf32>
    %17 = linalg.generic {indexing_maps = [#map, #map1], iterator_types = ["parallel", "parallel"]} ins(%arg3 : tensor<?xi32>) outs(%16 : tensor<?x128xf32>) {
    ^bb0(%in: i32, %out: f32):
      %20 = arith.index_cast %in : i32 to index
      %21 = linalg.index 1 : index
      %extracted = tensor.extract %15[%20, %21] : tensor<?x128xf32>
      linalg.yield %extracted : f32
    } -> tensor<?x128xf32>
    %18 = linalg.fill ins(%cst : f32) outs(%arg4 : tensor<?x1000xf32>) -> tensor<?x1000xf32>
    %19 = linalg.matmul indexing_maps = [#map2, #map3, #map4] ins(%17, %0 : tensor<?x128xf32>, tensor<1000x128xbf16>) outs(%18 : tensor<?x1000xf32>) -> tensor<?x1000xf32>
    return %19, %arg5 : tensor<?x1000xf32>, !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
  }
  func.func @pmkvq_describe(%arg0: !llvm.ptr) {
    %0 = llvm.mlir.constant(512 : i32) : i32
    %1 = llvm.mlir.constant(256 : i32) : i32
    %2 = llvm.mlir.constant(0 : i64) : i64
    %3 = llvm.mlir.constant(8192 : i32) : i32
    %4 = llvm.mlir.constant(1000 : i32) : i32
    %5 = llvm.mlir.constant(64 : i32) : i32
    %6 = llvm.mlir.constant(4 : i32) : i32
    %7 = llvm.mlir.constant(2 : i32) : i32
    %8 = llvm.mlir.constant(1 : i32) : i32
    llvm.store %8, %arg0 : i32, !llvm.ptr
    %9 = llvm.getelementptr %arg0[4] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %8, %9 : i32, !llvm.ptr
    %10 = llvm.getelementptr %arg0[8] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %7, %10 : i32, !llvm.ptr
    %11 = llvm.getelementptr %arg0[12] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %6, %11 : i32, !llvm.ptr
    %12 = llvm.getelementptr %arg0[16] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %5, %12 : i32, !llvm.ptr
    %13 = llvm.getelementptr %arg0[20] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %8, %13 : i32, !llvm.ptr
    %14 = llvm.getelementptr %arg0[32] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %4, %14 : i32, !llvm.ptr
    %15 = llvm.getelementptr %arg0[36] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %3, %15 : i32, !llvm.ptr
    %16 = llvm.getelementptr %arg0[40] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %8, %16 : i32, !llvm.ptr
    %17 = llvm.getelementptr %arg0[56] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %2, %17 : i64, !llvm.ptr
    %18 = llvm.getelementptr %arg0[24] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %1, %18 : i32, !llvm.ptr
    %19 = llvm.getelementptr %arg0[44] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %7, %19 : i32, !llvm.ptr
    %20 = llvm.getelementptr %arg0[28] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %0, %20 : i32, !llvm.ptr
    %21 = llvm.getelementptr %arg0[48] : (!llvm.ptr) -> !llvm.ptr, i8
    llvm.store %7, %21 : i32, !llvm.ptr
    return
  }
  pmkvq.kernel @append_0(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.batch, %arg2: memref<?x2x64xf32>, %arg3: memref<?x2x64xf32>, %arg4: index) -> i1 {
    %true = arith.constant true
    %c2 = arith.constant 2 : index
    %c1 = arith.constant 1 : index
    %c0 = arith.constant 0 : index
    %sequence, %token = pmkvq.row_place %arg1[%arg4]
    scf.for %arg5 = %c0 to %c2 step %c1 {
      %0 = pmkvq.load_rows %arg2[%arg4, %arg5] count %c1 group 1 : memref<?x2x64xf32> -> <1, 64>
      %1 = pmkvq.hadamard %0 : <1, 64>
      pmkvq.store_fixed  key %1, %arg0[%sequence, %arg5, %token] : <1, 64>, <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
      %2 = pmkvq.load_rows %arg3[%arg4, %arg5] count %c1 group 1 : memref<?x2x64xf32> -> <1, 64>
      pmkvq.store_fixed  value %2, %arg0[%sequence, %arg5, %token] : <1, 64>, <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    }
    pmkvq.return %true
  }
  pmkvq.kernel @attend_0(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.batch, %arg2: memref<?x4x64xf32>, %arg3: index) -> i1 {
    %true = arith.constant true
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %cst = arith.constant dense<0.180336878> : vector<64xf32>
    %sequence, %head, %row, %rows, %page_begin, %page_end, %fixed_count, %partial = pmkvq.attend_task %arg1[%arg3]
    %0 = pmkvq.single_rows %arg1
    scf.if %0 {
      %1 = pmkvq.load_rows %arg2[%row, %head] count %rows group 2 : memref<?x4x64xf32> -> <2, 64>
      %2 = pmkvq.hadamard %1 : <2, 64>
      %3 = pmkvq.scale %2, %cst : <2, 64>, vector<64xf32>
      %4 = pmkvq.softmax_init : <2, 64>
      %5 = scf.for %arg4 = %page_begin to %page_end step %c1 iter_args(%arg5 = %4) -> (!pmkvq.softmax<2, 64>) {
        %8 = pmkvq.fetch %arg0[%sequence, %head, %arg4] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
        %9 = pmkvq.by_level  key %8 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> !pmkvq.rows<2, 128> {
        ^bb0(%arg6: !pmkvq.tile<key, 16, 128, 64, <per_channel, hadamard>>):
          %11 = pmkvq.scores %3, %arg6 : <2, 64>, <key, 16, 128, 64, <per_channel, hadamard>> -> <2, 128>
          pmkvq.yield %11 : !pmkvq.rows<2, 128>
        }, {
        ^bb0(%arg6: !pmkvq.tile<key, 8, 128, 64, <per_channel, hadamard>>):
          %11 = pmkvq.scores %3, %arg6 : <2, 64>, <key, 8, 128, 64, <per_channel, hadamard>> -> <2, 128>
          pmkvq.yield %11 : !pmkvq.rows<2, 128>
        }, {
        ^bb0(%arg6: !pmkvq.tile<key, 4, 128, 64, <per_channel, hadamard>>):
          %11 = pmkvq.scores %3, %arg6 : <2, 64>, <key, 4, 128, 64, <per_channel, hadamard>> -> <2, 128>
          pmkvq.yield %11 : !pmkvq.rows<2, 128>
        }, {
        ^bb0(%arg6: !pmkvq.tile<key, 2, 128, 64, <per_channel, hadamard>>):
          %11 = pmkvq.scores %3, %arg6 : <2, 64>, <key, 2, 128, 64, <per_channel, hadamard>> -> <2, 128>
          pmkvq.yield %11 : !pmkvq.rows<2, 128>
        }
        %next, %weights = pmkvq.softmax_update %arg5, %9 : <2, 64>, <2, 128>
        %10 = pmkvq.by_level  value %8 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> !pmkvq.softmax<2, 64> {
        ^bb0(%arg6: !pmkvq.tile<value, 16, 128, 64, <per_token, hadamard>>):
          %11 = pmkvq.accumulate %next, %weights, %arg6 : <2, 64>, <2, 128>, <value, 16, 128, 64, <per_token, hadamard>>
          pmkvq.yield %11 : !pmkvq.softmax<2, 64>
        }, {
        ^bb0(%arg6: !pmkvq.tile<value, 8, 128, 64, <per_token, hadamard>>):
          %11 = pmkvq.accumulate %next, %weights, %arg6 : <2, 64>, <2, 128>, <value, 8, 128, 64, <per_token, hadamard>>
          pmkvq.yield %11 : !pmkvq.softmax<2, 64>
        }, {
        ^bb0(%arg6: !pmkvq.tile<value, 4, 128, 64, <per_token, hadamard>>):
          %11 = pmkvq.accumulate %next, %weights, %arg6 : <2, 64>, <2, 128>, <value, 4, 128, 64, <per_token, hadamard>>
          pmkvq.yield %11 : !pmkvq.softmax<2, 64>
        }, {
        ^bb0(%arg6: !pmkvq.tile<value, 2, 128, 64, <per_token, hadamard>>):
          %11 = pmkvq.accumulate %next, %weights, %arg6 : <2, 64>, <2, 128>, <value, 2, 128, 64, <per_token, hadamard>>
          pmkvq.yield %11 : !pmkvq.softmax<2, 64>
        }
        scf.yield %10 : !pmkvq.softmax<2, 64>
      }
      %6 = arith.cmpi ne, %fixed_count, %c0 : index
      %7 = scf.if %6 -> (!pmkvq.softmax<2, 64>) {
        %8 = arith.subi %rows, %c1 : index
        %9 = arith.addi %fixed_count, %8 : index
        %10 = pmkvq.fetch_fixed %arg0[%sequence, %head] from %c0 count %9 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <key, 16, 129, 64, <per_channel, hadamard>>
        %11 = pmkvq.scores %3, %10 : <2, 64>, <key, 16, 129, 64, <per_channel, hadamard>> -> <2, 129>
        %12 = pmkvq.causal_mask %11 visible %fixed_count group 2 : <2, 129>
        %next, %weights = pmkvq.softmax_update %5, %12 : <2, 64>, <2, 129>
        %13 = pmkvq.fetch_fixed %arg0[%sequence, %head] from %c0 count %9 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <value, 16, 129, 64, <per_token, hadamard>>
        %14 = pmkvq.accumulate %next, %weights, %13 : <2, 64>, <2, 129>, <value, 16, 129, 64, <per_token, hadamard>>
        scf.yield %14 : !pmkvq.softmax<2, 64>
      } else {
        scf.yield %5 : !pmkvq.softmax<2, 64>
      }
      pmkvq.store_partial %7, %arg1[%partial] : <2, 64>
    } else {
      %1 = pmkvq.load_rows %arg2[%row, %head] count %rows group 2 : memref<?x4x64xf32> -> <16, 64>
      %2 = pmkvq.hadamard %1 : <16, 64>
      %3 = pmkvq.scale %2, %cst : <16, 64>, vector<64xf32>
      %4 = pmkvq.softmax_init : <16, 64>
      %5 = scf.for %arg4 = %page_begin to %page_end step %c1 iter_args(%arg5 = %4) -> (!pmkvq.softmax<16, 64>) {
        %8 = pmkvq.fetch %arg0[%sequence, %head, %arg4] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
        %9 = pmkvq.by_level  key %8 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> !pmkvq.rows<16, 128> {
        ^bb0(%arg6: !pmkvq.tile<key, 16, 128, 64, <per_channel, hadamard>>):
          %11 = pmkvq.scores %3, %arg6 : <16, 64>, <key, 16, 128, 64, <per_channel, hadamard>> -> <16, 128>
          pmkvq.yield %11 : !pmkvq.rows<16, 128>
        }, {
        ^bb0(%arg6: !pmkvq.tile<key, 8, 128, 64, <per_channel, hadamard>>):
          %11 = pmkvq.scores %3, %arg6 : <16, 64>, <key, 8, 128, 64, <per_channel, hadamard>> -> <16, 128>
          pmkvq.yield %11 : !pmkvq.rows<16, 128>
        }, {
        ^bb0(%arg6: !pmkvq.tile<key, 4, 128, 64, <per_channel, hadamard>>):
          %11 = pmkvq.scores %3, %arg6 : <16, 64>, <key, 4, 128, 64, <per_channel, hadamard>> -> <16, 128>
          pmkvq.yield %11 : !pmkvq.rows<16, 128>
        }, {
        ^bb0(%arg6: !pmkvq.tile<key, 2, 128, 64, <per_channel, hadamard>>):
          %11 = pmkvq.scores %3, %arg6 : <16, 64>, <key, 2, 128, 64, <per_channel, hadamard>> -> <16, 128>
          pmkvq.yield %11 : !pmkvq.rows<16, 128>
        }
        %next, %weights = pmkvq.softmax_update %arg5, %9 : <16, 64>, <16, 128>
        %10 = pmkvq.by_level  value %8 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> !pmkvq.softmax<16, 64> {
        ^bb0(%arg6: !pmkvq.tile<value, 16, 128, 64, <per_token, hadamard>>):
          %11 = pmkvq.accumulate %next, %weights, %arg6 : <16, 64>, <16, 128>, <value, 16, 128, 64, <per_token, hadamard>>
          pmkvq.yield %11 : !pmkvq.softmax<16, 64>
        }, {
        ^bb0(%arg6: !pmkvq.tile<value, 8, 128, 64, <per_token, hadamard>>):
          %11 = pmkvq.accumulate %next, %weights, %arg6 : <16, 64>, <16, 128>, <value, 8, 128, 64, <per_token, hadamard>>
          pmkvq.yield %11 : !pmkvq.softmax<16, 64>
        }, {
        ^bb0(%arg6: !pmkvq.tile<value, 4, 128, 64, <per_token, hadamard>>):
          %11 = pmkvq.accumulate %next, %weights, %arg6 : <16, 64>, <16, 128>, <value, 4, 128, 64, <per_token, hadamard>>
          pmkvq.yield %11 : !pmkvq.softmax<16, 64>
        }, {
        ^bb0(%arg6: !pmkvq.tile<value, 2, 128, 64, <per_token, hadamard>>):
          %11 = pmkvq.accumulate %next, %weights, %arg6 : <16, 64>, <16, 128>, <value, 2, 128, 64, <per_token, hadamard>>
          pmkvq.yield %11 : !pmkvq.softmax<16, 64>
        }
        scf.yield %10 : !pmkvq.softmax<16, 64>
      }
      %6 = arith.cmpi ne, %fixed_count, %c0 : index
      %7 = scf.if %6 -> (!pmkvq.softmax<16, 64>) {
        %8 = arith.subi %rows, %c1 : index
        %9 = arith.addi %fixed_count, %8 : index
        %10 = pmkvq.fetch_fixed %arg0[%sequence, %head] from %c0 count %9 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <key, 16, 129, 64, <per_channel, hadamard>>
        %11 = pmkvq.scores %3, %10 : <16, 64>, <key, 16, 129, 64, <per_channel, hadamard>> -> <16, 129>
        %12 = pmkvq.causal_mask %11 visible %fixed_count group 2 : <16, 129>
        %next, %weights = pmkvq.softmax_update %5, %12 : <16, 64>, <16, 129>
        %13 = pmkvq.fetch_fixed %arg0[%sequence, %head] from %c0 count %9 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <value, 16, 129, 64, <per_token, hadamard>>
        %14 = pmkvq.accumulate %next, %weights, %13 : <16, 64>, <16, 129>, <value, 16, 129, 64, <per_token, hadamard>>
        scf.yield %14 : !pmkvq.softmax<16, 64>
      } else {
        scf.yield %5 : !pmkvq.softmax<16, 64>
      }
      pmkvq.store_partial %7, %arg1[%partial] : <16, 64>
    }
    pmkvq.return %true
  }
  pmkvq.kernel @merge_0(%arg0: !pmkvq.batch, %arg1: memref<?x4x64xf32>, %arg2: index) -> i1 {
    %true = arith.constant true
    %c1 = arith.constant 1 : index
    %head, %row, %rows, %first, %count = pmkvq.merge_task %arg0[%arg2]
    %0 = pmkvq.single_rows %arg0
    scf.if %0 {
      %1 = pmkvq.softmax_init : <2, 64>
      %2 = arith.addi %first, %count : index
      %3 = scf.for %arg3 = %first to %2 step %c1 iter_args(%arg4 = %1) -> (!pmkvq.softmax<2, 64>) {
        %5 = pmkvq.merge_partial %arg4, %arg0[%arg3] : <2, 64>
        scf.yield %5 : !pmkvq.softmax<2, 64>
      }
      %4 = pmkvq.softmax_finish %3 : <2, 64> -> <2, 64>
      pmkvq.store_rows %4, %arg1[%row, %head] count %rows group 2 : <2, 64>, memref<?x4x64xf32>
    } else {
      %1 = pmkvq.softmax_init : <16, 64>
      %2 = arith.addi %first, %count : index
      %3 = scf.for %arg3 = %first to %2 step %c1 iter_args(%arg4 = %1) -> (!pmkvq.softmax<16, 64>) {
        %5 = pmkvq.merge_partial %arg4, %arg0[%arg3] : <16, 64>
        scf.yield %5 : !pmkvq.softmax<16, 64>
      }
      %4 = pmkvq.softmax_finish %3 : <16, 64> -> <16, 64>
      pmkvq.store_rows %4, %arg1[%row, %head] count %rows group 2 : <16, 64>, memref<?x4x64xf32>
    }
    pmkvq.return %true
  }
  pmkvq.kernel @pmkvq_flush_key_16(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %true = arith.constant true
    %c128 = arith.constant 128 : index
    %c1 = arith.constant 1 : index
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.fetch_fixed %cache[%sequence, %head] from %c1 count %c128 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <key, 16, 128, 64, <per_channel, hadamard>>
    pmkvq.store %1, %0 : <key, 16, 128, 64, <per_channel, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    pmkvq.return %true
  }
  pmkvq.kernel @pmkvq_requantize_key_16_8(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.take %0 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> <key, 16, 128, 64, <per_channel, hadamard>>
    %result, %ok = pmkvq.quantize %1 : <key, 16, 128, 64, <per_channel, hadamard>> -> <key, 8, 128, 64, <per_channel, hadamard>>
    scf.if %ok {
      pmkvq.store %result, %0 with_parameters : <key, 8, 128, 64, <per_channel, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    }
    pmkvq.return %ok
  }
  pmkvq.kernel @pmkvq_flush_key_8(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %c128 = arith.constant 128 : index
    %c1 = arith.constant 1 : index
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.fetch_fixed %cache[%sequence, %head] from %c1 count %c128 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <key, 16, 128, 64, <per_channel, hadamard>>
    %result, %ok = pmkvq.quantize %1 : <key, 16, 128, 64, <per_channel, hadamard>> -> <key, 8, 128, 64, <per_channel, hadamard>>
    scf.if %ok {
      pmkvq.store %result, %0 with_parameters : <key, 8, 128, 64, <per_channel, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    }
    pmkvq.return %ok
  }
  pmkvq.kernel @pmkvq_requantize_key_8_4(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %true = arith.constant true
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.take %0 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> <key, 8, 128, 64, <per_channel, hadamard>>
    %2 = pmkvq.shift %1 : <key, 8, 128, 64, <per_channel, hadamard>> -> <key, 4, 128, 64, <per_channel, hadamard>>
    pmkvq.store %2, %0 : <key, 4, 128, 64, <per_channel, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    pmkvq.return %true
  }
  pmkvq.kernel @pmkvq_flush_key_4(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %c128 = arith.constant 128 : index
    %c1 = arith.constant 1 : index
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.fetch_fixed %cache[%sequence, %head] from %c1 count %c128 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <key, 16, 128, 64, <per_channel, hadamard>>
    %result, %ok = pmkvq.quantize %1 : <key, 16, 128, 64, <per_channel, hadamard>> -> <key, 8, 128, 64, <per_channel, hadamard>>
    %2 = pmkvq.shift %result : <key, 8, 128, 64, <per_channel, hadamard>> -> <key, 4, 128, 64, <per_channel, hadamard>>
    scf.if %ok {
      pmkvq.store %2, %0 with_parameters : <key, 4, 128, 64, <per_channel, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    }
    pmkvq.return %ok
  }
  pmkvq.kernel @pmkvq_requantize_key_4_2(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %true = arith.constant true
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.take %0 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> <key, 4, 128, 64, <per_channel, hadamard>>
    %2 = pmkvq.shift %1 : <key, 4, 128, 64, <per_channel, hadamard>> -> <key, 2, 128, 64, <per_channel, hadamard>>
    pmkvq.store %2, %0 : <key, 2, 128, 64, <per_channel, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    pmkvq.return %true
  }
  pmkvq.kernel @pmkvq_flush_key_2(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %c128 = arith.constant 128 : index
    %c1 = arith.constant 1 : index
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.fetch_fixed %cache[%sequence, %head] from %c1 count %c128 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <key, 16, 128, 64, <per_channel, hadamard>>
    %result, %ok = pmkvq.quantize %1 : <key, 16, 128, 64, <per_channel, hadamard>> -> <key, 8, 128, 64, <per_channel, hadamard>>
    %2 = pmkvq.shift %result : <key, 8, 128, 64, <per_channel, hadamard>> -> <key, 4, 128, 64, <per_channel, hadamard>>
    %3 = pmkvq.shift %2 : <key, 4, 128, 64, <per_channel, hadamard>> -> <key, 2, 128, 64, <per_channel, hadamard>>
    scf.if %ok {
      pmkvq.store %3, %0 with_parameters : <key, 2, 128, 64, <per_channel, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    }
    pmkvq.return %ok
  }
  pmkvq.kernel @pmkvq_flush_value_16(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %true = arith.constant true
    %c128 = arith.constant 128 : index
    %c1 = arith.constant 1 : index
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.fetch_fixed %cache[%sequence, %head] from %c1 count %c128 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <value, 16, 128, 64, <per_token, hadamard>>
    pmkvq.store %1, %0 : <value, 16, 128, 64, <per_token, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    pmkvq.return %true
  }
  pmkvq.kernel @pmkvq_requantize_value_16_8(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.take %0 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> <value, 16, 128, 64, <per_token, hadamard>>
    %result, %ok = pmkvq.quantize %1 : <value, 16, 128, 64, <per_token, hadamard>> -> <value, 8, 128, 64, <per_token, hadamard>>
    scf.if %ok {
      pmkvq.store %result, %0 with_parameters : <value, 8, 128, 64, <per_token, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    }
    pmkvq.return %ok
  }
  pmkvq.kernel @pmkvq_flush_value_8(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %c128 = arith.constant 128 : index
    %c1 = arith.constant 1 : index
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.fetch_fixed %cache[%sequence, %head] from %c1 count %c128 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <value, 16, 128, 64, <per_token, hadamard>>
    %result, %ok = pmkvq.quantize %1 : <value, 16, 128, 64, <per_token, hadamard>> -> <value, 8, 128, 64, <per_token, hadamard>>
    scf.if %ok {
      pmkvq.store %result, %0 with_parameters : <value, 8, 128, 64, <per_token, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    }
    pmkvq.return %ok
  }
  pmkvq.kernel @pmkvq_requantize_value_8_4(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %true = arith.constant true
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.take %0 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> <value, 8, 128, 64, <per_token, hadamard>>
    %2 = pmkvq.shift %1 : <value, 8, 128, 64, <per_token, hadamard>> -> <value, 4, 128, 64, <per_token, hadamard>>
    pmkvq.store %2, %0 : <value, 4, 128, 64, <per_token, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    pmkvq.return %true
  }
  pmkvq.kernel @pmkvq_flush_value_4(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %c128 = arith.constant 128 : index
    %c1 = arith.constant 1 : index
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.fetch_fixed %cache[%sequence, %head] from %c1 count %c128 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <value, 16, 128, 64, <per_token, hadamard>>
    %result, %ok = pmkvq.quantize %1 : <value, 16, 128, 64, <per_token, hadamard>> -> <value, 8, 128, 64, <per_token, hadamard>>
    %2 = pmkvq.shift %result : <value, 8, 128, 64, <per_token, hadamard>> -> <value, 4, 128, 64, <per_token, hadamard>>
    scf.if %ok {
      pmkvq.store %2, %0 with_parameters : <value, 4, 128, 64, <per_token, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    }
    pmkvq.return %ok
  }
  pmkvq.kernel @pmkvq_requantize_value_4_2(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %true = arith.constant true
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.take %0 : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>> -> <value, 4, 128, 64, <per_token, hadamard>>
    %2 = pmkvq.shift %1 : <value, 4, 128, 64, <per_token, hadamard>> -> <value, 2, 128, 64, <per_token, hadamard>>
    pmkvq.store %2, %0 : <value, 2, 128, 64, <per_token, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    pmkvq.return %true
  }
  pmkvq.kernel @pmkvq_flush_value_2(%arg0: !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>, %arg1: !pmkvq.pages, %arg2: index) -> i1 {
    %c128 = arith.constant 128 : index
    %c1 = arith.constant 1 : index
    %cache, %sequence, %head, %page = pmkvq.page_task %arg1[%arg2] of %arg0 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>
    %0 = pmkvq.fetch %cache[%sequence, %head, %page] : <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    %1 = pmkvq.fetch_fixed %cache[%sequence, %head] from %c1 count %c128 : <kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>> -> <value, 16, 128, 64, <per_token, hadamard>>
    %result, %ok = pmkvq.quantize %1 : <value, 16, 128, 64, <per_token, hadamard>> -> <value, 8, 128, 64, <per_token, hadamard>>
    %2 = pmkvq.shift %result : <value, 8, 128, 64, <per_token, hadamard>> -> <value, 4, 128, 64, <per_token, hadamard>>
    %3 = pmkvq.shift %2 : <value, 4, 128, 64, <per_token, hadamard>> -> <value, 2, 128, 64, <per_token, hadamard>>
    scf.if %ok {
      pmkvq.store %3, %0 with_parameters : <value, 2, 128, 64, <per_token, hadamard>>, <<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token, hadamard>>>
    }
    pmkvq.return %ok
  }
}

