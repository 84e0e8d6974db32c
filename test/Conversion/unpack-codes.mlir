// Products with codes become AND and matrix instructions.
// RUN: pmkvq-opt %s --pmkvq-unpack-codes --canonicalize --cse | FileCheck %s
// Fields stay where they lie, whatever the level.
// RUN: pmkvq-opt %s --pmkvq-unpack-codes --canonicalize --cse | FileCheck %s --check-prefix=NOSHIFT
// NOSHIFT-NOT: arith.shr
// NOSHIFT-NOT: llvm.lshr

// At 2 bits a vector is four operands: two words of it each give two, whose
// registers are one AND each.
// CHECK-LABEL: func @two_bits
// CHECK-DAG: %[[BIT0:.*]] = arith.constant 50529027 : i32
// CHECK-DAG: %[[BIT2:.*]] = arith.constant 202116108 : i32
// CHECK-DAG: %[[BIT4:.*]] = arith.constant 808464432 : i32
// CHECK-DAG: %[[BIT6:.*]] = arith.constant -1061109568 : i32
// CHECK: %[[W:.*]] = llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
// CHECK: %[[W0:.*]] = llvm.extractelement %[[W]][%c0
// CHECK: %[[W1:.*]] = llvm.extractelement %[[W]][%c1
// CHECK: %[[A0:.*]] = arith.andi %[[W0]], %[[BIT0]]
// CHECK: %[[A1:.*]] = arith.andi %[[W0]], %[[BIT2]]
// CHECK: %[[A2:.*]] = arith.andi %[[W1]], %[[BIT0]]
// CHECK: %[[A3:.*]] = arith.andi %[[W1]], %[[BIT2]]
// CHECK: %[[FIRST:.*]] = nvvm.mma.sync A[%[[A0]], %[[A1]], %[[A2]], %[[A3]]] B[%[[B0:.*]], %[[B1:.*]]] C[%c0
// CHECK-SAME: multiplicandAPtxType = #nvvm.mma_type<u8>, multiplicandBPtxType = #nvvm.mma_type<s8>, shape = #nvvm.shape<m = 16, n = 8, k = 32>
// CHECK: %[[C0:.*]] = llvm.extractvalue %[[FIRST]][0]
// The next 16 rows, of the same words, by the same columns.
// CHECK: arith.andi %[[W0]], %[[BIT4]]
// CHECK: arith.andi %[[W0]], %[[BIT6]]
// CHECK: nvvm.mma.sync A[{{.*}}] B[%[[B0]], %[[B1]]] C[%c0
// The next block of k adds to the first's sums.
// CHECK: nvvm.mma.sync A[{{.*}}] B[%{{.*}}, %{{.*}}] C[%[[C0]],
// CHECK: nvvm.mma.sync
// CHECK-NOT: nvvm.mma.sync
func.func @two_bits(%codes: !llvm.ptr<3>, %c: vector<4xi32>) -> vector<8xi32> {
  %s = pmkvq.multiply_codes key 2 tokens 32 head_dim 64 in %codes, %c
    : !llvm.ptr<3>, vector<4xi32> -> vector<8xi32>
  return %s : vector<8xi32>
}

// At 4 bits two.
// CHECK-LABEL: func @four_bits
// CHECK-DAG: %[[LOW:.*]] = arith.constant 252645135 : i32
// CHECK-DAG: %[[HIGH:.*]] = arith.constant -252645136 : i32
// CHECK: %[[W:.*]] = llvm.load
// CHECK: %[[W0:.*]] = llvm.extractelement %[[W]][%c0
// CHECK: %[[W1:.*]] = llvm.extractelement %[[W]][%c1
// CHECK: %[[A0:.*]] = arith.andi %[[W0]], %[[LOW]]
// CHECK: %[[A1:.*]] = arith.andi %[[W0]], %[[HIGH]]
// CHECK: %[[A2:.*]] = arith.andi %[[W1]], %[[LOW]]
// CHECK: %[[A3:.*]] = arith.andi %[[W1]], %[[HIGH]]
// CHECK: nvvm.mma.sync A[%[[A0]], %[[A1]], %[[A2]], %[[A3]]]
// CHECK: nvvm.mma.sync
// CHECK-NOT: nvvm.mma.sync
func.func @four_bits(%codes: !llvm.ptr<3>, %c: vector<4xi32>) -> vector<4xi32> {
  %s = pmkvq.multiply_codes key 4 tokens 16 head_dim 64 in %codes, %c
    : !llvm.ptr<3>, vector<4xi32> -> vector<4xi32>
  return %s : vector<4xi32>
}

// At 8 bits a vector is an operand as it is.  Weights are unsigned.
// CHECK-LABEL: func @eight_bits
// CHECK: %[[LANE:.*]] = arith.andi %{{.*}}, %c31
// CHECK: %[[W:.*]] = llvm.load
// CHECK: %[[A0:.*]] = llvm.extractelement %[[W]][%c0
// CHECK: %[[A1:.*]] = llvm.extractelement %[[W]][%c1
// CHECK: %[[A2:.*]] = llvm.extractelement %[[W]][%c2
// CHECK: %[[A3:.*]] = llvm.extractelement %[[W]][%c3
// CHECK-NOT: arith.andi
// CHECK: nvvm.mma.sync A[%[[A0]], %[[A1]], %[[A2]], %[[A3]]]
// CHECK-SAME: multiplicandBPtxType = #nvvm.mma_type<u8>
// CHECK-NOT: arith.andi
// CHECK: return
func.func @eight_bits(%codes: !llvm.ptr<3>, %c: vector<2xi32>) -> vector<16xi32> {
  %s = pmkvq.multiply_codes value 8 tokens 32 head_dim 64 in %codes, %c
    : !llvm.ptr<3>, vector<2xi32> -> vector<16xi32>
  return %s : vector<16xi32>
}

// Raw codes are bf16 and their sums f32.
// CHECK-LABEL: func @raw
// CHECK-NOT: arith.andi %{{.*}}, %c{{[^3]}}
// CHECK: nvvm.mma.sync A[{{.*}}] B[{{.*}}] C[%cst, %cst, %cst, %cst]
// CHECK-SAME: multiplicandAPtxType = #nvvm.mma_type<bf16>, multiplicandBPtxType = #nvvm.mma_type<bf16>, shape = #nvvm.shape<m = 16, n = 8, k = 16>
func.func @raw(%codes: !llvm.ptr<3>, %c: vector<2xi32>) -> vector<4xf32> {
  %s = pmkvq.multiply_codes key 16 tokens 16 head_dim 16 in %codes, %c
    : !llvm.ptr<3>, vector<2xi32> -> vector<4xf32>
  return %s : vector<4xf32>
}

// Eight queries are two operands of columns: codes are loaded and masked once.
// CHECK-LABEL: func @two_operands
// CHECK-COUNT-1: llvm.load
// CHECK-NOT: llvm.load
// CHECK-COUNT-4: arith.andi %{{.*}}, %c{{-?252645}}
// CHECK: nvvm.mma.sync A[%[[A:.*]], %{{.*}}, %{{.*}}, %{{.*}}] B[%[[X:.*]], %{{.*}}]
// CHECK: nvvm.mma.sync A[%[[A]], %{{.*}}, %{{.*}}, %{{.*}}] B[%[[Y:.*]], %{{.*}}]
func.func @two_operands(%codes: !llvm.ptr<3>, %c: vector<4xi32>, %d: vector<4xi32>)
    -> (vector<4xi32>, vector<4xi32>) {
  %s:2 = pmkvq.multiply_codes key 4 tokens 16 head_dim 64 in %codes, %c, %d
    : !llvm.ptr<3>, vector<4xi32>, vector<4xi32> -> vector<4xi32>, vector<4xi32>
  return %s#0, %s#1 : vector<4xi32>, vector<4xi32>
}
