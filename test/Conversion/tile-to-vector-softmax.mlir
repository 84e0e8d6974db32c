// Softmax states lie in memory: maxima, sums, outputs.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector --cse | FileCheck %s --implicit-check-not="pmkvq."

!s = !pmkvq.softmax<3, 64>
!q = !pmkvq.rows<3, 64>

// The merge: 3 * (64 + 2) floats a state; both are rescaled to the new maximum.
// CHECK-LABEL: func.func @merge
pmkvq.kernel @merge(%b: !pmkvq.batch, %out: memref<?x3x64xf32>, %task: index) -> i1 {
  %head, %row, %rows, %first, %count = pmkvq.merge_task %b[%task]
  // CHECK: "llvm.intr.memset"(%[[S:.*]], %{{.*}}, %[[BYTES:.*]]) <{
  // CHECK: arith.constant -1.000000e+30 : f32
  %s = pmkvq.softmax_init : !s
  // CHECK: arith.muli %{{.*}}, %[[BYTES]]
  // CHECK: %[[THEIRS:.*]] = llvm.load %{{.*}} : !llvm.ptr -> f32
  // CHECK: %[[OURS:.*]] = llvm.load %{{.*}} : !llvm.ptr -> f32
  // CHECK: %[[HIGHER:.*]] = arith.cmpf ogt, %[[THEIRS]], %[[OURS]] : f32
  // CHECK: %[[MAX:.*]] = arith.select %[[HIGHER]], %[[THEIRS]], %[[OURS]] : f32
  // CHECK-NEXT: arith.subf %[[OURS]], %[[MAX]]
  // CHECK: arith.subf %[[THEIRS]], %[[MAX]]
  // CHECK: llvm.intr.fmuladd
  // CHECK: arith.addf
  %n = pmkvq.merge_partial %s, %b[%first] : !s
  // CHECK: %[[ONE:.*]] = arith.constant 1.000000e+00 : f32
  // CHECK: arith.divf %[[ONE]], %{{.*}} : f32
  %o = pmkvq.softmax_finish %n : !s -> !q
  // CHECK: scf.for
  pmkvq.store_rows %o, %out[%row, %head] count %rows group 3 : !q, memref<?x3x64xf32>
  %ok = arith.constant true
  pmkvq.return %ok
}

// A row's weights are 2^(x - maximum), and their sum joins the state's.
// CHECK-LABEL: func.func @update
pmkvq.kernel @update(%m: memref<?x3x64xf32>, %b: !pmkvq.batch, %task: index) -> i1 {
  %one = arith.constant 1 : index
  %x = pmkvq.load_rows %m[%task, %task] count %one group 3 : memref<?x3x64xf32> -> !q
  // Columns past the limit become minus infinity.
  // CHECK: %[[INF:.*]] = arith.constant dense<0xFF800000> : vector<8xf32>
  // CHECK: %[[KEEP:.*]] = arith.cmpi slt, %{{.*}} : vector<8xi32>
  // CHECK: arith.select %[[KEEP]], %{{.*}}, %[[INF]]
  %masked = pmkvq.causal_mask %x visible %task group 3 : !q
  %s = pmkvq.softmax_init : !s
  // The largest of three rows, in one vector: rows are joined in pairs; 2^n from
  // the bits of 1.5 * 2^23 + n.
  // CHECK: %[[X:.*]]:3 = scf.for
  // CHECK: vector.shuffle %[[X]]#0, %[[X]]#1 [0, 8, 1, 9, 4, 12, 5, 13]
  // CHECK: vector.shuffle %[[X]]#0, %[[X]]#1 [2, 10, 3, 11, 6, 14, 7, 15]
  // CHECK: vector.shuffle %[[X]]#2, %[[X]]#2 [0, 8, 1, 9, 4, 12, 5, 13]
  // CHECK: vector.shuffle %{{.*}}, %{{.*}} [0, 1, 8, 9, 4, 5, 12, 13]
  // CHECK: arith.constant dense<0x4B400000> : vector<4xf32>
  // CHECK-COUNT-6: llvm.intr.fmuladd
  // Outputs are rescaled where the maximum rose.
  // CHECK: %[[RAISED:.*]] = arith.cmpf une
  // CHECK: scf.if %[[RAISED]]
  // CHECK: arith.constant dense<0x4B400000> : vector<8xf32>
  // CHECK-COUNT-6: llvm.intr.fmuladd
  // CHECK: arith.addf %{{.*}} : vector<4xf32>
  %n, %w = pmkvq.softmax_update %s, %masked : !s, !q
  %done = pmkvq.softmax_add %n, %w : !s, !q
  // CHECK: "llvm.intr.memcpy"
  pmkvq.store_partial %done, %b[%task] : !s
  %ok = arith.constant true
  pmkvq.return %ok
}

// One butterfly a power of two, then 1 / sqrt(64).
// CHECK-LABEL: func.func @hadamard
pmkvq.kernel @hadamard(%m: memref<?x3x64xf32>, %task: index) -> i1 {
  %one = arith.constant 1 : index
  %x = pmkvq.load_rows %m[%task, %task] count %one group 3 : memref<?x3x64xf32> -> !q
  // CHECK-COUNT-6: vector.shuffle %{{.*}} : vector<64xf32>, vector<64xf32>
  // CHECK-NOT: vector.shuffle
  // CHECK: arith.constant dense<1.250000e-01> : vector<64xf32>
  %h = pmkvq.hadamard %x : !q
  pmkvq.store_rows %h, %m[%task, %task] count %one group 3 : !q, memref<?x3x64xf32>
  %ok = arith.constant true
  pmkvq.return %ok
}
