// Queries times ranges become pairs of bytes.
// RUN: pmkvq-opt %s --pmkvq-split-queries --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @split_rows
// CHECK-SAME: (%[[ROWS:.*]]: vector<4xi32>)
func.func @split_rows(%rows: vector<4xi32>) -> (vector<2xi32>, f32) {
  // The largest exponent is that of the lanes with the same g, at least 5.
  // CHECK: %[[WORD:.*]] = vector.extract %[[ROWS]][0]
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c1_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c2_i32
  // CHECK-NOT: nvvm.shfl.sync bfly
  // CHECK: %[[BITS:.*]] = arith.shrui %{{.*}}, %c10_i32
  // CHECK: %[[E:.*]] = arith.maxui %[[BITS]], %c5_i32
  // CHECK: %[[INVERSE:.*]] = arith.subi %c35_i32, %[[E]]
  // Lanes with odd g (bit 2 of the lane) take what the high part left, times 254.
  // CHECK: %[[ODD:.*]] = arith.andi %{{.*}}, %c4_i32
  // CHECK: %[[LOW:.*]] = arith.cmpi ne, %[[ODD]], %c0_i32
  // CHECK: %[[SIGN:.*]] = arith.select %[[LOW]], %c-1140802560_i32, %c0_i32
  // CHECK: %[[BACK:.*]] = arith.select %[[LOW]], %c1711302144_i32, %c0_i32
  // CHECK: %[[UNIT:.*]] = arith.select %[[LOW]], %c1542478832_i32, %c1006648320_i32
  // Four multiply-adds a word, one permutation for two words.
  // CHECK-COUNT-16: llvm.intr.fma
  // CHECK-NOT: llvm.intr.fma
  // CHECK: nvvm.prmt <default> %c25632_i32
  // CHECK: nvvm.prmt <default> %c25632_i32
  // The scale of query t is in lane 8 t: 2^(E - 20) / 254.
  // CHECK-DAG: %[[SUM:.*]] = arith.addi %[[E]], %c107_i32
  // CHECK-DAG: %[[POWER:.*]] = arith.shli %[[SUM]], %c23_i32
  // CHECK-DAG: %[[T:.*]] = arith.andi %{{.*}}, %c3_i32
  // CHECK-DAG: %[[FROM:.*]] = arith.shli %[[T]], %c3_i32
  // CHECK: nvvm.shfl.sync idx %{{.*}}, %[[POWER]], %[[FROM]]
  // CHECK: arith.mulf %{{.*}}, %cst
  %b, %s = pmkvq.split_rows %rows : vector<4xi32> -> vector<2xi32>, f32
  return %b, %s : vector<2xi32>, f32
}

// A loaded quad of weights is the A operand as it is: rows 0 to 7 take words 0
// and 2, rows 8 to 15 words 1 and 3, and each half of the result is right for
// its own.
// CHECK-LABEL: func @weigh_rows
// CHECK-SAME: (%[[ROWS:.*]]: vector<4xi32>, %[[BY:.*]]: vector<4xi32>)
func.func @weigh_rows(%rows: vector<4xi32>, %by: vector<4xi32>) -> f32 {
  // CHECK-DAG: %[[R0:.*]] = vector.extract %[[ROWS]][0] : i32
  // CHECK-DAG: %[[R1:.*]] = vector.extract %[[ROWS]][1] : i32
  // CHECK-DAG: %[[R2:.*]] = vector.extract %[[ROWS]][2] : i32
  // CHECK-DAG: %[[R3:.*]] = vector.extract %[[ROWS]][3] : i32
  // CHECK-DAG: %[[Y0:.*]] = vector.extract %[[BY]][0] : i32
  // CHECK-DAG: %[[A0:.*]] = llvm.bitcast %[[Y0]]
  // CHECK-DAG: %[[B0:.*]] = llvm.bitcast %[[R0]]
  // CHECK-DAG: %[[B2:.*]] = llvm.bitcast %[[R2]]
  // CHECK: %[[X:.*]] = nvvm.mma.sync A[%[[A0]], %{{.*}}, %{{.*}}, %{{.*}}] B[%[[B0]], %[[B2]]]
  // CHECK: %[[FIRST:.*]] = llvm.extractvalue %[[X]][0]
  // CHECK-DAG: %[[B1:.*]] = llvm.bitcast %[[R1]]
  // CHECK-DAG: %[[B3:.*]] = llvm.bitcast %[[R3]]
  // CHECK: %[[Y:.*]] = nvvm.mma.sync A[%[[A0]], %{{.*}}, %{{.*}}, %{{.*}}] B[%[[B1]], %[[B3]]]
  // CHECK: %[[SECOND:.*]] = llvm.extractvalue %[[Y]][2]
  // CHECK: arith.addf %[[FIRST]], %[[SECOND]]
  %r = pmkvq.weigh_rows %rows, %by : vector<4xi32> -> f32
  return %r : f32
}

// Ones for codes; columns 2 t and 2 t + 1 are high and low bytes.
// CHECK-LABEL: func @sum_bytes
func.func @sum_bytes(%bytes: vector<4xi32>) -> f32 {
  // CHECK-COUNT-2: nvvm.mma.sync A[%c16843009_i32, %c16843009_i32, %c16843009_i32, %c16843009_i32]
  // CHECK: %[[HIGH:.*]] = llvm.extractvalue %[[SUM:.*]][0]
  // CHECK: %[[LOW:.*]] = llvm.extractvalue %[[SUM]][1]
  // CHECK: %[[UNITS:.*]] = arith.muli %[[HIGH]], %c254_i32
  // CHECK: %[[ALL:.*]] = arith.addi %[[UNITS]], %[[LOW]]
  // CHECK: arith.sitofp %[[ALL]]
  %r = pmkvq.sum_bytes %bytes : (vector<4xi32>) -> f32
  return %r : f32
}
