// Buffers of the step are places in StepArgs::scratch: those of rows behind
// those of fixed size, those of outputs last; a place is used again.
// RUN: pmkvq-opt %s --pmkvq-lower-host | FileCheck %s --implicit-check-not="memref.{{alloc|dealloc}}"

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>

func.func private @use(memref<4xf32>, memref<?x16xf32>, memref<?x3xf32>)

// CHECK-LABEL: func @pmkvq_step
// CHECK-SAME: (%[[ARGS:.*]]: !llvm.ptr) -> i32
func.func @step(%batch: !pmkvq.batch, %tokens: memref<?xi32>, %positions: memref<?xi32>,
                %outputs: memref<?xi32>, %logits: memref<?x16xf32>, %c0: !kv) -> !kv {
  // CHECK: %[[AT:.*]] = llvm.getelementptr %[[ARGS]][128]
  // CHECK: %[[SCRATCH:.*]] = llvm.load %[[AT]] : !llvm.ptr -> !llvm.ptr
  // CHECK: %[[ROWS:.*]] = llvm.load %{{.*}} : !llvm.ptr -> i64
  // CHECK: %[[OUTPUTS:.*]] = llvm.load %{{.*}} : !llvm.ptr -> i64
  // CHECK: %[[OF_ROWS:.*]] = llvm.getelementptr %[[SCRATCH]][%{{.*}}]
  // 64 bytes a row hold 16 floats; a second buffer is in use with the first.
  // CHECK: %[[PER_ROW:.*]] = llvm.mlir.constant(128 : i64)
  // CHECK: %[[BYTES:.*]] = llvm.mul %[[ROWS]], %[[PER_ROW]]
  // CHECK: %[[OF_OUTPUTS:.*]] = llvm.getelementptr %[[OF_ROWS]][%[[BYTES]]]
  %zero = arith.constant 0 : index
  %rows = memref.dim %tokens, %zero : memref<?xi32>
  %wanted = memref.dim %outputs, %zero : memref<?xi32>
  // CHECK: %[[FIRST:.*]] = llvm.mlir.constant(0 : i64)
  // CHECK: %[[BYTES:.*]] = llvm.mul %[[ROWS]], %[[FIRST]]
  // CHECK: llvm.getelementptr %[[OF_ROWS]][%[[BYTES]]]
  %a = memref.alloc(%rows) : memref<?x16xf32>
  // CHECK: %[[SECOND:.*]] = llvm.mlir.constant(64 : i64)
  // CHECK: %[[BYTES:.*]] = llvm.mul %[[ROWS]], %[[SECOND]]
  // CHECK: llvm.getelementptr %[[OF_ROWS]][%[[BYTES]]]
  %b = memref.alloc(%rows) : memref<?x16xf32>
  memref.dealloc %a : memref<?x16xf32>
  // The place of the first; its size comes through views of another buffer.
  // CHECK: %[[BYTES:.*]] = llvm.mul %[[ROWS]]
  // CHECK: llvm.getelementptr %[[OF_ROWS]][%[[BYTES]]]
  %view = memref.expand_shape %b [[0], [1, 2]] output_shape [%rows, 4, 4] : memref<?x16xf32> into memref<?x4x4xf32>
  %same = memref.dim %view, %zero : memref<?x4x4xf32>
  %c = memref.alloc(%same) : memref<?x16xf32>
  %fixed = memref.alloc() : memref<4xf32>
  // CHECK: %[[BYTES:.*]] = llvm.mul %[[OUTPUTS]]
  // CHECK: llvm.getelementptr %[[OF_OUTPUTS]][%[[BYTES]]]
  %d = memref.alloc(%wanted) : memref<?x3xf32>
  call @use(%fixed, %b, %d) : (memref<4xf32>, memref<?x16xf32>, memref<?x3xf32>) -> ()
  call @use(%fixed, %c, %d) : (memref<4xf32>, memref<?x16xf32>, memref<?x3xf32>) -> ()
  memref.dealloc %b : memref<?x16xf32>
  memref.dealloc %c : memref<?x16xf32>
  memref.dealloc %d : memref<?x3xf32>
  memref.dealloc %fixed : memref<4xf32>
  return %c0 : !kv
}

// CHECK-LABEL: func @pmkvq_scratch
// CHECK-SAME: (%[[R:.*]]: i64, %[[O:.*]]: i64) -> i64
// CHECK: %[[STEP:.*]] = llvm.mlir.constant(64 : i64)
// CHECK: %[[A:.*]] = llvm.mlir.constant(128 : i64)
// CHECK: %[[ROW_BYTES:.*]] = llvm.mul %[[R]], %[[A]]
// CHECK: %[[SUM:.*]] = llvm.add %[[STEP]], %[[ROW_BYTES]]
// CHECK: %[[B:.*]] = llvm.mlir.constant(64 : i64)
// CHECK: %[[OUTPUT_BYTES:.*]] = llvm.mul %[[O]], %[[B]]
// CHECK: %[[ALL:.*]] = llvm.add %[[SUM]], %[[OUTPUT_BYTES]]
// CHECK: return %[[ALL]]
