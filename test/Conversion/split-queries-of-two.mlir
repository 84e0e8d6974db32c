// Two queries a lane: high and low bytes are operands of their own.
// RUN: pmkvq-opt %s --pmkvq-split-queries --canonicalize --cse | FileCheck %s
// RUN: pmkvq-opt %s --pmkvq-split-queries --canonicalize --cse | FileCheck %s --check-prefix=COUNT

// Each lane makes both bytes of column g, for an operand each, with as many
// multiply-adds as for one: what rounds to the high byte is also what the low
// one is the rest of.
// COUNT-LABEL: func @split_rows
// COUNT-NOT: arith.select
// COUNT-COUNT-16: llvm.intr.fma
// COUNT-NOT: llvm.intr.fma
// COUNT-COUNT-4: nvvm.prmt <default> %c25632_i32
// COUNT-NOT: nvvm.prmt
// COUNT-COUNT-2: nvvm.shfl.sync idx
// COUNT-NOT: arith.select
// COUNT-LABEL: func

// CHECK-LABEL: func @split_rows
// CHECK-SAME: (%[[ROWS:.*]]: vector<4xi32>)
func.func @split_rows(%rows: vector<4xi32>)
    -> (vector<2xi32>, vector<2xi32>, f32, f32) {
  // CHECK-DAG: %[[W0:.*]] = vector.extract %[[ROWS]][0]
  // CHECK-DAG: %[[W1:.*]] = vector.extract %[[ROWS]][1]
  // CHECK-DAG: %[[X0:.*]] = llvm.bitcast %[[W0]]
  // CHECK-DAG: %[[X1:.*]] = llvm.bitcast %[[W1]]
  // CHECK: %[[E:.*]] = arith.maxui %{{.*}}, %c5_i32
  // CHECK: %[[EXPONENTS:.*]] = arith.muli %{{.*}}, %c65537_i32
  // CHECK-DAG: %[[SCALE:.*]] = llvm.bitcast %[[EXPONENTS]]
  // CHECK-DAG: %[[ROUNDER:.*]] = llvm.bitcast %c1711302144_i32
  // CHECK-DAG: %[[MINUS:.*]] = llvm.bitcast %c-1140802560_i32
  // CHECK-DAG: %[[UNITS:.*]] = llvm.bitcast %c1542478832_i32
  // CHECK-DAG: %[[HIGH0:.*]] = llvm.intr.fma(%[[X0]], %[[SCALE]], %[[ROUNDER]])
  // CHECK-DAG: %[[HIGH1:.*]] = llvm.intr.fma(%[[X1]], %[[SCALE]], %[[ROUNDER]])
  // CHECK-DAG: %[[BACK0:.*]] = llvm.intr.fma(%[[HIGH0]], %[[MINUS]], %[[ROUNDER]])
  // CHECK-DAG: %[[BACK1:.*]] = llvm.intr.fma(%[[HIGH1]], %[[MINUS]], %[[ROUNDER]])
  // CHECK-DAG: %[[REST0:.*]] = llvm.intr.fma(%[[X0]], %[[SCALE]], %[[BACK0]])
  // CHECK-DAG: %[[REST1:.*]] = llvm.intr.fma(%[[X1]], %[[SCALE]], %[[BACK1]])
  // CHECK-DAG: %[[LOW0:.*]] = llvm.intr.fma(%[[REST0]], %[[UNITS]], %[[ROUNDER]])
  // CHECK-DAG: %[[LOW1:.*]] = llvm.intr.fma(%[[REST1]], %[[UNITS]], %[[ROUNDER]])
  // CHECK-DAG: %[[H0:.*]] = llvm.bitcast %[[HIGH0]]
  // CHECK-DAG: %[[H1:.*]] = llvm.bitcast %[[HIGH1]]
  // CHECK-DAG: %[[L0:.*]] = llvm.bitcast %[[LOW0]]
  // CHECK-DAG: %[[L1:.*]] = llvm.bitcast %[[LOW1]]
  // CHECK-DAG: %[[HP:.*]] = nvvm.prmt <default> %c25632_i32, %[[H0]], %[[H1]]
  // CHECK-DAG: %[[LP:.*]] = nvvm.prmt <default> %c25632_i32, %[[L0]], %[[L1]]
  // CHECK-DAG: %[[HS:.*]] = vector.from_elements %[[HP]], %{{.*}} : vector<2xi32>
  // CHECK-DAG: %[[LS:.*]] = vector.from_elements %[[LP]], %{{.*}} : vector<2xi32>
  // Columns 2 t and 2 t + 1 are those of lanes 8 t and 8 t + 4.
  // CHECK-DAG: %[[SUM:.*]] = arith.addi %[[E]], %c107_i32
  // CHECK-DAG: %[[POWER:.*]] = arith.shli %[[SUM]], %c23_i32
  // CHECK-DAG: %[[T:.*]] = arith.andi %{{.*}}, %c3_i32
  // CHECK-DAG: %[[FIRST:.*]] = arith.shli %[[T]], %c3_i32
  // CHECK-DAG: %[[SECOND:.*]] = arith.addi %[[FIRST]], %c4_i32
  // CHECK-DAG: %[[P0:.*]] = nvvm.shfl.sync idx %{{.*}}, %[[POWER]], %[[FIRST]]
  // CHECK-DAG: %[[P1:.*]] = nvvm.shfl.sync idx %{{.*}}, %[[POWER]], %[[SECOND]]
  // CHECK-DAG: %[[F0:.*]] = llvm.bitcast %[[P0]]
  // CHECK-DAG: %[[F1:.*]] = llvm.bitcast %[[P1]]
  // CHECK-DAG: %[[S0:.*]] = arith.mulf %[[F0]], %cst
  // CHECK-DAG: %[[S1:.*]] = arith.mulf %[[F1]], %cst
  // CHECK: return %[[HS]], %[[LS]], %[[S0]], %[[S1]]
  %h, %l, %s:2 = pmkvq.split_rows %rows : vector<4xi32> -> vector<2xi32>, vector<2xi32>, f32, f32
  return %h, %l, %s#0, %s#1 : vector<2xi32>, vector<2xi32>, f32, f32
}

// The lane's second query is the next column of the same instructions.
// CHECK-LABEL: func @weigh_rows
func.func @weigh_rows(%rows: vector<4xi32>, %by: vector<4xi32>) -> (f32, f32) {
  // CHECK: %[[X:.*]] = nvvm.mma.sync
  // CHECK-DAG: %[[X0:.*]] = llvm.extractvalue %[[X]][0]
  // CHECK-DAG: %[[X1:.*]] = llvm.extractvalue %[[X]][1]
  // CHECK: %[[Y:.*]] = nvvm.mma.sync
  // CHECK-DAG: %[[Y2:.*]] = llvm.extractvalue %[[Y]][2]
  // CHECK-DAG: %[[Y3:.*]] = llvm.extractvalue %[[Y]][3]
  // CHECK-NOT: nvvm.mma.sync
  // CHECK-DAG: %[[S0:.*]] = arith.addf %[[X0]], %[[Y2]]
  // CHECK-DAG: %[[S1:.*]] = arith.addf %[[X1]], %[[Y3]]
  // CHECK: return %[[S0]], %[[S1]]
  %r:2 = pmkvq.weigh_rows %rows, %by : vector<4xi32> -> f32, f32
  return %r#0, %r#1 : f32, f32
}

// High bytes are in one operand, low bytes in the other; columns 2 t and
// 2 t + 1 are the lane's queries.
// CHECK-LABEL: func @sum_bytes
// CHECK-SAME: (%[[HIGH:.*]]: vector<2xi32>, %[[LOW:.*]]: vector<2xi32>)
func.func @sum_bytes(%high: vector<2xi32>, %low: vector<2xi32>) -> (f32, f32) {
  // CHECK-DAG: %[[H0:.*]] = vector.extract %[[HIGH]][0]
  // CHECK-DAG: %[[H1:.*]] = vector.extract %[[HIGH]][1]
  // CHECK-DAG: %[[L0:.*]] = vector.extract %[[LOW]][0]
  // CHECK-DAG: %[[L1:.*]] = vector.extract %[[LOW]][1]
  // CHECK-DAG: %[[HS:.*]] = nvvm.mma.sync A[%c16843009_i32, {{.*}}] B[%[[H0]], %[[H1]]]
  // CHECK-DAG: %[[LS:.*]] = nvvm.mma.sync A[%c16843009_i32, {{.*}}] B[%[[L0]], %[[L1]]]
  // CHECK-DAG: %[[HIGH0:.*]] = llvm.extractvalue %[[HS]][0]
  // CHECK-DAG: %[[HIGH1:.*]] = llvm.extractvalue %[[HS]][1]
  // CHECK-DAG: %[[LOW0:.*]] = llvm.extractvalue %[[LS]][0]
  // CHECK-DAG: %[[LOW1:.*]] = llvm.extractvalue %[[LS]][1]
  // CHECK-DAG: %[[UNITS0:.*]] = arith.muli %[[HIGH0]], %c254_i32
  // CHECK-DAG: %[[UNITS1:.*]] = arith.muli %[[HIGH1]], %c254_i32
  // CHECK-DAG: %[[ALL0:.*]] = arith.addi %[[UNITS0]], %[[LOW0]]
  // CHECK-DAG: %[[ALL1:.*]] = arith.addi %[[UNITS1]], %[[LOW1]]
  // CHECK-DAG: %[[R0:.*]] = arith.sitofp %[[ALL0]]
  // CHECK-DAG: %[[R1:.*]] = arith.sitofp %[[ALL1]]
  // CHECK: return %[[R0]], %[[R1]]
  %r:2 = pmkvq.sum_bytes %high, %low : (vector<2xi32>, vector<2xi32>) -> (f32, f32)
  return %r#0, %r#1 : f32, f32
}
