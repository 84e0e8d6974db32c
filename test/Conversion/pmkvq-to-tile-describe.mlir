// The description's fields lie at their offsets in ProgramInfo (pmkvq_rt/Abi.h).
// RUN: pmkvq-opt %s --convert-pmkvq-to-tile --canonicalize | FileCheck %s

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, sink = 5>

// CHECK-NOT: func @create
// CHECK-LABEL: func @pmkvq_describe
// CHECK-SAME: (%[[INFO:.*]]: !llvm.ptr)
func.func @create() -> (!kv, !kv, !kv) {
  %0 = pmkvq.create layer 0 max_tokens 4096 schedule <page, key_floor = 4, value_floor = 2> budget 1048576 : !kv
  %1 = pmkvq.create layer 1 max_tokens 4096 schedule <page, key_floor = 8, value_floor = 2> budget 1048576 : !kv
  %2 = pmkvq.create layer 2 max_tokens 4096 schedule <page, key_floor = 4, value_floor = 2> budget 1048576 : !kv
  return %0, %1, %2 : !kv, !kv, !kv
}
// CHECK-DAG: %[[I1:.*]] = llvm.mlir.constant(1 : i32) : i32
// CHECK-DAG: %[[I2:.*]] = llvm.mlir.constant(2 : i32) : i32
// CHECK-DAG: %[[I3:.*]] = llvm.mlir.constant(3 : i32) : i32
// CHECK-DAG: %[[I4:.*]] = llvm.mlir.constant(4 : i32) : i32
// CHECK-DAG: %[[I5:.*]] = llvm.mlir.constant(5 : i32) : i32
// CHECK-DAG: %[[I6:.*]] = llvm.mlir.constant(6 : i32) : i32
// CHECK-DAG: %[[I64:.*]] = llvm.mlir.constant(64 : i32) : i32
// CHECK-DAG: %[[I1000:.*]] = llvm.mlir.constant(1000 : i32) : i32
// CHECK-DAG: %[[I4096:.*]] = llvm.mlir.constant(4096 : i32) : i32
// CHECK-DAG: %[[BUDGET:.*]] = llvm.mlir.constant(1048576 : i64) : i64

// ABI version 6 and three layers.
// CHECK: llvm.store %[[I6]], %[[INFO]]
// CHECK: %[[AT:.*]] = llvm.getelementptr %[[INFO]][4]
// CHECK-NEXT: llvm.store %[[I3]], %[[AT]]
// kv heads, query heads, head_dim, sink.
// CHECK: llvm.getelementptr %[[INFO]][8]
// CHECK-NEXT: llvm.store %[[I2]]
// CHECK: llvm.getelementptr %[[INFO]][12]
// CHECK-NEXT: llvm.store %[[I6]]
// CHECK: llvm.getelementptr %[[INFO]][16]
// CHECK-NEXT: llvm.store %[[I64]]
// CHECK: llvm.getelementptr %[[INFO]][20]
// CHECK-NEXT: llvm.store %[[I5]]
// Vocabulary, positions, schedule, budget.
// CHECK: llvm.getelementptr %[[INFO]][32]
// CHECK-NEXT: llvm.store %[[I1000]]
// CHECK: llvm.getelementptr %[[INFO]][36]
// CHECK-NEXT: llvm.store %[[I4096]]
// CHECK: llvm.getelementptr %[[INFO]][40]
// CHECK-NEXT: llvm.store %[[I1]]
// CHECK: llvm.getelementptr %[[INFO]][56]
// CHECK-NEXT: llvm.store %[[BUDGET]]
// Layout and hash of the formats, for snapshots.
// CHECK: llvm.getelementptr %[[INFO]][64]
// CHECK-NEXT: llvm.store
// CHECK: llvm.getelementptr %[[INFO]][72]
// CHECK-NEXT: llvm.store %{{.*}} : i64, !llvm.ptr
// Lowest floors of keys and values, and the floor of layer 1's keys.
// CHECK: llvm.getelementptr %[[INFO]][44]
// CHECK-NEXT: llvm.store %[[I4]]
// CHECK: llvm.getelementptr %[[INFO]][82]
// CHECK-NEXT: llvm.store %{{.*}} : i8, !llvm.ptr
// CHECK: llvm.getelementptr %[[INFO]][48]
// CHECK-NEXT: llvm.store %[[I2]]
func.func @step(%q: tensor<?x6x64xf32>, %c: !kv, %d: !kv, %e: !kv, %b: !pmkvq.batch, %l: tensor<?x1000xf32>) -> (tensor<?x1000xf32>, tensor<?x6x64xf32>) {
  %0 = pmkvq.attend %q, %c, %b scale 0.125 : tensor<?x6x64xf32>, !kv
  return %l, %0 : tensor<?x1000xf32>, tensor<?x6x64xf32>
}
