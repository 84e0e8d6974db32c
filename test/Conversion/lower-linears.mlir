// RUN: pmkvq-opt %s --pass-pipeline="builtin.module(func.func(pmkvq-lower-linears))" --split-input-file | FileCheck %s

#x = affine_map<(m, n, k) -> (m, k)>
#w = affine_map<(m, n, k) -> (n, k)>
#y = affine_map<(m, n, k) -> (m, n)>

// CHECK: func private @pmkvq_rt_linear(!llvm.ptr, !llvm.ptr, !llvm.ptr, !llvm.ptr, i64, i64, i64)
// CHECK: func private @pmkvq_runtime() -> !llvm.ptr

// y += x * w^T: pointers, then m, n, k.
// CHECK-LABEL: func @linear
// CHECK-SAME: (%[[X:.*]]: memref<?x64xf32>, %[[W:.*]]: memref<96x64xbf16>, %[[Y:.*]]: memref<?x96xf32>)
func.func @linear(%x: memref<?x64xf32>, %w: memref<96x64xbf16>, %y: memref<?x96xf32>) {
  // CHECK: %[[RT:.*]] = call @pmkvq_runtime()
  // CHECK: memref.extract_aligned_pointer_as_index %[[X]]
  // CHECK: %[[PX:.*]] = llvm.inttoptr
  // CHECK: memref.extract_aligned_pointer_as_index %[[W]]
  // CHECK: %[[PW:.*]] = llvm.inttoptr
  // CHECK: memref.extract_aligned_pointer_as_index %[[Y]]
  // CHECK: %[[PY:.*]] = llvm.inttoptr
  // CHECK: memref.dim %[[X]]
  // CHECK: memref.dim %[[W]]
  // CHECK: memref.dim %[[X]]
  // CHECK: call @pmkvq_rt_linear(%[[RT]], %[[PX]], %[[PW]], %[[PY]], %{{.*}}, %{{.*}}, %{{.*}})
  // CHECK-NOT: linalg.matmul
  linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %w : memref<?x64xf32>, memref<96x64xbf16>) outs(%y : memref<?x96xf32>)
  return
}

// -----

// Other products stay: not transposed, weights in f32, rows apart.
// CHECK-LABEL: func @others
// CHECK-COUNT-3: linalg.matmul
// CHECK-NOT: call
#x = affine_map<(m, n, k) -> (m, k)>
#w = affine_map<(m, n, k) -> (n, k)>
#y = affine_map<(m, n, k) -> (m, n)>
!apart = memref<?x64xf32, strided<[128, 1]>>
func.func @others(%x: memref<?x64xf32>, %a: !apart, %w: memref<64x64xbf16>, %f: memref<64x64xf32>, %y: memref<?x64xf32>) {
  linalg.matmul ins(%x, %w : memref<?x64xf32>, memref<64x64xbf16>) outs(%y : memref<?x64xf32>)
  linalg.matmul indexing_maps = [#x, #w, #y] ins(%x, %f : memref<?x64xf32>, memref<64x64xf32>) outs(%y : memref<?x64xf32>)
  linalg.matmul indexing_maps = [#x, #w, #y] ins(%a, %w : !apart, memref<64x64xbf16>) outs(%y : memref<?x64xf32>)
  return
}
