// The step's entry point: arguments and weights come from StepArgs, launches
// are calls, the worst status is the result.
// RUN: pmkvq-opt %s --pmkvq-lower-host | FileCheck %s --implicit-check-not="pmkvq.{{launch|get_weight}}"

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64>

pmkvq.weight @first : tensor<8xbf16> from "first"
pmkvq.weight @second : tensor<4x8xbf16> from "second"

// CHECK: func private @pmkvq_rt_launch(!llvm.ptr, !llvm.ptr, !llvm.ptr, i64) -> i32
func.func @kernel(%operands: !llvm.ptr, %task: i64) -> i32 {
  %ok = arith.constant 0 : i32
  return %ok : i32
}
func.func private @use(memref<?xi32>, memref<?x16xf32>, memref<4x8xbf16>, !llvm.ptr)
func.func private @pmkvq_runtime() -> !llvm.ptr

// CHECK-LABEL: func @pmkvq_step
// CHECK-SAME: (%[[ARGS:.*]]: !llvm.ptr) -> i32
func.func @step(%batch: !pmkvq.batch, %tokens: memref<?xi32>, %positions: memref<?xi32>,
                %outputs: memref<?xi32>, %logits: memref<?x16xf32>, %c0: !kv, %c1: !kv) -> (!kv, !kv) {
  // tokens and rowCount, logits and outputCount.
  // CHECK: llvm.getelementptr %[[ARGS]][24]
  // CHECK: llvm.getelementptr %[[ARGS]][48]
  // CHECK: %[[TOKENS:.*]] = builtin.unrealized_conversion_cast %{{.*}} to memref<?xi32>
  // CHECK: llvm.getelementptr %[[ARGS]][72]
  // CHECK: llvm.getelementptr %[[ARGS]][64]
  // CHECK: %[[LOGITS:.*]] = builtin.unrealized_conversion_cast %{{.*}} to memref<?x16xf32>
  // Layer 1's view follows layer 0's, 48 bytes.
  // CHECK: %[[AT:.*]] = llvm.getelementptr %[[ARGS]][16]
  // CHECK: %[[CACHES:.*]] = llvm.load %[[AT]]
  // CHECK: %[[C1:.*]] = llvm.getelementptr %[[CACHES]][48]
  // CHECK: %[[OK:.*]] = arith.constant 0 : i32

  // The second weight of the module is entry 1 of the table.
  // CHECK: %[[AT:.*]] = llvm.getelementptr %[[ARGS]][8]
  // CHECK: %[[TABLE:.*]] = llvm.load %[[AT]]
  // CHECK: llvm.getelementptr %[[TABLE]][8]
  // CHECK: %[[W:.*]] = builtin.unrealized_conversion_cast %{{.*}} to memref<4x8xbf16>
  %w = pmkvq.get_weight @second : memref<4x8xbf16>
  %rt = call @pmkvq_runtime() : () -> !llvm.ptr
  // CHECK: call @use(%[[TOKENS]], %[[LOGITS]], %[[W]], %{{.*}})
  call @use(%tokens, %logits, %w, %rt) : (memref<?xi32>, memref<?x16xf32>, memref<4x8xbf16>, !llvm.ptr) -> ()

  // Operands of a launch: cache, batch, ins, outs.
  // CHECK: %[[AT:.*]] = llvm.getelementptr %[[OPERANDS:.*]][0]
  // CHECK-NEXT: llvm.store %[[C1]], %[[AT]]
  // CHECK: %[[AT:.*]] = llvm.getelementptr %[[OPERANDS]][8]
  // CHECK: llvm.store %[[ARGS]], %[[AT]]
  // CHECK: llvm.getelementptr %[[OPERANDS]][16]
  // CHECK: constant @kernel : (!llvm.ptr, i64) -> i32
  // CHECK: %[[S:.*]] = call @pmkvq_rt_launch(%{{.*}}, %{{.*}}, %[[OPERANDS]], %{{.*}})
  // CHECK: %[[WORST:.*]] = arith.maxsi %[[OK]], %[[S]]
  pmkvq.launch @kernel over rows, %batch cache(%c1 : !kv) ins(%logits : memref<?x16xf32>)
  // The merge has a list of its own.
  // CHECK: llvm.getelementptr %[[ARGS]][104]
  // CHECK: %[[S2:.*]] = call @pmkvq_rt_launch
  // CHECK: %[[WORST2:.*]] = arith.maxsi %[[WORST]], %[[S2]]
  pmkvq.launch @kernel over merge, %batch outs(%logits : memref<?x16xf32>)
  // CHECK: return %[[WORST2]] : i32
  return %c0, %c1 : !kv, !kv
}
