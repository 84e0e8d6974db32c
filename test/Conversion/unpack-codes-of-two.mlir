// Products with codes where a lane has two queries: one operand of high parts,
// one of low ones.
// RUN: pmkvq-opt %s --pmkvq-unpack-codes --canonicalize --cse | FileCheck %s

// Codes are loaded and masked once for both operands.
// CHECK-LABEL: func @codes
// CHECK-COUNT-1: llvm.load
// CHECK-NOT: llvm.load
// CHECK-COUNT-4: arith.andi %{{.*}}, %c{{-?252645}}
// CHECK: nvvm.mma.sync A[%[[A:.*]], %{{.*}}, %{{.*}}, %{{.*}}] B[%[[X:.*]], %{{.*}}]
// CHECK: nvvm.mma.sync A[%[[A]], %{{.*}}, %{{.*}}, %{{.*}}] B[%[[Y:.*]], %{{.*}}]
func.func @codes(%codes: !llvm.ptr<3>, %high: vector<4xi32>, %low: vector<4xi32>)
    -> (vector<2xf32>, vector<2xf32>) {
  %s:2 = pmkvq.multiply_codes key 4 tokens 16 head_dim 64 in %codes, %high, %low
    : !llvm.ptr<3>, vector<4xi32>, vector<4xi32> -> vector<2xf32>, vector<2xf32>
  return %s#0, %s#1 : vector<2xf32>, vector<2xf32>
}

// Columns 2 t and 2 t + 1 of accumulators are the lane's queries: the first
// result has those of rows g and g + 8 of the one, the second of the other.
// CHECK-LABEL: func @sums
// CHECK-SAME: (%{{.*}}: !llvm.ptr<3>, %[[HIGH:.*]]: vector<2xi32>, %[[LOW:.*]]: vector<2xi32>)
// CHECK-DAG: %[[UNITS:.*]] = arith.constant 2.540000e+02 : f32
// CHECK-DAG: %[[BIASES:.*]] = arith.constant -3.20864256E+9 : f32
// CHECK-DAG: %[[BIAS:.*]] = arith.constant 0x4B400000 : f32
// CHECK-DAG: %[[HB:.*]] = vector.extract %[[HIGH]][0]
// CHECK-DAG: %[[LB:.*]] = vector.extract %[[LOW]][0]
// CHECK-DAG: %[[START:.*]] = llvm.bitcast %[[BIAS]] : f32 to i32
// CHECK-DAG: %[[H:.*]] = nvvm.mma.sync A[{{.*}}] B[%[[HB]], %{{.*}}] C[%[[START]], %[[START]], %[[START]], %[[START]]]
// CHECK-DAG: %[[L:.*]] = nvvm.mma.sync A[{{.*}}] B[%[[LB]], %{{.*}}] C[%[[START]], %[[START]], %[[START]], %[[START]]]
// CHECK-DAG: %[[H0:.*]] = llvm.extractvalue %[[H]][0]
// CHECK-DAG: %[[H1:.*]] = llvm.extractvalue %[[H]][1]
// CHECK-DAG: %[[H2:.*]] = llvm.extractvalue %[[H]][2]
// CHECK-DAG: %[[H3:.*]] = llvm.extractvalue %[[H]][3]
// CHECK-DAG: %[[L0:.*]] = llvm.extractvalue %[[L]][0]
// CHECK-DAG: %[[L1:.*]] = llvm.extractvalue %[[L]][1]
// CHECK-DAG: %[[L2:.*]] = llvm.extractvalue %[[L]][2]
// CHECK-DAG: %[[L3:.*]] = llvm.extractvalue %[[L]][3]
// CHECK-DAG: %[[HF0:.*]] = llvm.bitcast %[[H0]]
// CHECK-DAG: %[[HF1:.*]] = llvm.bitcast %[[H1]]
// CHECK-DAG: %[[HF2:.*]] = llvm.bitcast %[[H2]]
// CHECK-DAG: %[[HF3:.*]] = llvm.bitcast %[[H3]]
// CHECK-DAG: %[[LF0:.*]] = llvm.bitcast %[[L0]]
// CHECK-DAG: %[[LF1:.*]] = llvm.bitcast %[[L1]]
// CHECK-DAG: %[[LF2:.*]] = llvm.bitcast %[[L2]]
// CHECK-DAG: %[[LF3:.*]] = llvm.bitcast %[[L3]]
// CHECK-DAG: %[[U0:.*]] = llvm.intr.fma(%[[HF0]], %[[UNITS]], %[[BIASES]])
// CHECK-DAG: %[[U1:.*]] = llvm.intr.fma(%[[HF1]], %[[UNITS]], %[[BIASES]])
// CHECK-DAG: %[[U2:.*]] = llvm.intr.fma(%[[HF2]], %[[UNITS]], %[[BIASES]])
// CHECK-DAG: %[[U3:.*]] = llvm.intr.fma(%[[HF3]], %[[UNITS]], %[[BIASES]])
// CHECK-DAG: %[[S0:.*]] = arith.addf %[[U0]], %[[LF0]]
// CHECK-DAG: %[[S1:.*]] = arith.addf %[[U1]], %[[LF1]]
// CHECK-DAG: %[[S2:.*]] = arith.addf %[[U2]], %[[LF2]]
// CHECK-DAG: %[[S3:.*]] = arith.addf %[[U3]], %[[LF3]]
// CHECK-DAG: %[[FIRST:.*]] = vector.from_elements %[[S0]], %[[S2]]
// CHECK-DAG: %[[SECOND:.*]] = vector.from_elements %[[S1]], %[[S3]]
// CHECK: return %[[FIRST]], %[[SECOND]]
func.func @sums(%codes: !llvm.ptr<3>, %high: vector<2xi32>, %low: vector<2xi32>)
    -> (vector<2xf32>, vector<2xf32>) {
  %s:2 = pmkvq.multiply_codes key 8 tokens 16 head_dim 32 in %codes, %high, %low
    : !llvm.ptr<3>, vector<2xi32>, vector<2xi32> -> vector<2xf32>, vector<2xf32>
  return %s#0, %s#1 : vector<2xf32>, vector<2xf32>
}

// Raw parts add up.
// CHECK-LABEL: func @raw
// CHECK-SAME: (%{{.*}}: !llvm.ptr<3>, %[[HIGH:.*]]: vector<2xi32>, %[[REST:.*]]: vector<2xi32>)
// CHECK-DAG: %[[HB:.*]] = vector.extract %[[HIGH]][0]
// CHECK-DAG: %[[RB:.*]] = vector.extract %[[REST]][0]
// CHECK-DAG: %[[H:.*]] = nvvm.mma.sync A[{{.*}}] B[%[[HB]], %{{.*}}] C[%cst, %cst, %cst, %cst]
// CHECK-DAG: %[[R:.*]] = nvvm.mma.sync A[{{.*}}] B[%[[RB]], %{{.*}}] C[%cst, %cst, %cst, %cst]
// CHECK-DAG: %[[H0:.*]] = llvm.extractvalue %[[H]][0]
// CHECK-DAG: %[[H1:.*]] = llvm.extractvalue %[[H]][1]
// CHECK-DAG: %[[H2:.*]] = llvm.extractvalue %[[H]][2]
// CHECK-DAG: %[[H3:.*]] = llvm.extractvalue %[[H]][3]
// CHECK-DAG: %[[R0:.*]] = llvm.extractvalue %[[R]][0]
// CHECK-DAG: %[[R1:.*]] = llvm.extractvalue %[[R]][1]
// CHECK-DAG: %[[R2:.*]] = llvm.extractvalue %[[R]][2]
// CHECK-DAG: %[[R3:.*]] = llvm.extractvalue %[[R]][3]
// CHECK-DAG: %[[S0:.*]] = arith.addf %[[H0]], %[[R0]]
// CHECK-DAG: %[[S1:.*]] = arith.addf %[[H1]], %[[R1]]
// CHECK-DAG: %[[S2:.*]] = arith.addf %[[H2]], %[[R2]]
// CHECK-DAG: %[[S3:.*]] = arith.addf %[[H3]], %[[R3]]
// CHECK-DAG: %[[FIRST:.*]] = vector.from_elements %[[S0]], %[[S2]]
// CHECK-DAG: %[[SECOND:.*]] = vector.from_elements %[[S1]], %[[S3]]
// CHECK: return %[[FIRST]], %[[SECOND]]
func.func @raw(%codes: !llvm.ptr<3>, %high: vector<2xi32>, %rest: vector<2xi32>)
    -> (vector<2xf32>, vector<2xf32>) {
  %s:2 = pmkvq.multiply_codes key 16 tokens 16 head_dim 16 in %codes, %high, %rest
    : !llvm.ptr<3>, vector<2xi32>, vector<2xi32> -> vector<2xf32>, vector<2xf32>
  return %s#0, %s#1 : vector<2xf32>, vector<2xf32>
}
