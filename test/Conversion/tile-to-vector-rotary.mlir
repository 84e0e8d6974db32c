// Positions of keys are embedded half against half of a row.
// RUN: pmkvq-opt %s --convert-pmkvq-tile-to-vector | FileCheck %s

// CHECK-LABEL: @positions
// CHECK: %[[LOWER:.*]] = llvm.load %{{.*}} vector<8xf32>
// CHECK: llvm.store %[[LOWER]]
// CHECK: %[[LOWER:.*]] = llvm.load %{{.*}} vector<8xf32>
// CHECK: %[[UPPER:.*]] = llvm.load %{{.*}} vector<8xf32>
// CHECK: %[[COS:.*]] = llvm.load %{{.*}} vector<8xf32>
// CHECK: %[[SIN:.*]] = llvm.load %{{.*}} vector<8xf32>
// CHECK-DAG: %[[LC:.*]] = arith.mulf %[[LOWER]], %[[COS]]
// CHECK-DAG: %[[US:.*]] = arith.mulf %[[UPPER]], %[[SIN]]
// CHECK-DAG: %[[UC:.*]] = arith.mulf %[[UPPER]], %[[COS]]
// CHECK-DAG: %[[LS:.*]] = arith.mulf %[[LOWER]], %[[SIN]]
// CHECK-DAG: %[[FIRST:.*]] = arith.subf %[[LC]], %[[US]]
// CHECK-DAG: %[[SECOND:.*]] = arith.addf %[[UC]], %[[LS]]
// CHECK: llvm.store %[[FIRST]]
// CHECK: llvm.store %[[SECOND]]
pmkvq.kernel @positions(%k: memref<?x2x64xf32>, %out: memref<?x2x64xf32>,
                        %cos: memref<?x32xf32>, %sin: memref<?x32xf32>,
                        %row: index) -> i1 {
  %one = arith.constant 1 : index
  %rows = pmkvq.load_rows %k[%row, %one] count %one group 1
    : memref<?x2x64xf32> -> !pmkvq.rows<1, 64>
  %r = pmkvq.rotary %rows by %cos, %sin[%row]
    : !pmkvq.rows<1, 64>, memref<?x32xf32>
  pmkvq.store_rows %r, %out[%row, %one] count %one group 1
    : !pmkvq.rows<1, 64>, memref<?x2x64xf32>
  %ok = arith.constant true
  pmkvq.return %ok
}
