// Products with codes become AND and matrix instructions.
// RUN: pmkvq-opt %s --pmkvq-unpack-codes --canonicalize --cse | FileCheck %s
// Fields stay where they lie, whatever the level.
// RUN: pmkvq-opt %s --pmkvq-unpack-codes --canonicalize --cse | FileCheck %s --check-prefix=NOSHIFT
// NOSHIFT-NOT: arith.shr
// NOSHIFT-NOT: llvm.lshr

// At 2 bits a vector is four operands: two words of it each give two, whose
// registers are one AND each.
// CHECK-LABEL: func @two_bits
// CHECK-DAG: %[[BIAS:.*]] = arith.constant 0x4B400000 : f32
// CHECK-DAG: %[[BIT0:.*]] = arith.constant 50529027 : i32
// CHECK-DAG: %[[BIT2:.*]] = arith.constant 202116108 : i32
// CHECK-DAG: %[[BIT4:.*]] = arith.constant 808464432 : i32
// CHECK-DAG: %[[BIT6:.*]] = arith.constant -1061109568 : i32
// CHECK: %[[START:.*]] = llvm.bitcast %[[BIAS]] : f32 to i32
// CHECK: %[[W:.*]] = llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
// CHECK: %[[W0:.*]] = llvm.extractelement %[[W]][%c0
// CHECK: %[[W1:.*]] = llvm.extractelement %[[W]][%c1
// CHECK: %[[A0:.*]] = arith.andi %[[W0]], %[[BIT0]]
// CHECK: %[[A1:.*]] = arith.andi %[[W0]], %[[BIT2]]
// CHECK: %[[A2:.*]] = arith.andi %[[W1]], %[[BIT0]]
// CHECK: %[[A3:.*]] = arith.andi %[[W1]], %[[BIT2]]
// CHECK: %[[FIRST:.*]] = nvvm.mma.sync A[%[[A0]], %[[A1]], %[[A2]], %[[A3]]] B[%[[B0:.*]], %[[B1:.*]]] C[%[[START]], %[[START]], %[[START]], %[[START]]]
// CHECK-SAME: multiplicandAPtxType = #nvvm.mma_type<u8>, multiplicandBPtxType = #nvvm.mma_type<s8>, shape = #nvvm.shape<m = 16, n = 8, k = 32>
// CHECK: %[[C0:.*]] = llvm.extractvalue %[[FIRST]][0]
// The next 16 rows, of the same words, by the same columns.
// CHECK: arith.andi %[[W0]], %[[BIT4]]
// CHECK: arith.andi %[[W0]], %[[BIT6]]
// CHECK: nvvm.mma.sync A[{{.*}}] B[%[[B0]], %[[B1]]] C[%[[START]],
// The next block of k adds to the first's sums.
// CHECK: nvvm.mma.sync A[{{.*}}] B[%{{.*}}, %{{.*}}] C[%[[C0]],
// CHECK: nvvm.mma.sync
// CHECK-NOT: nvvm.mma.sync
func.func @two_bits(%codes: !llvm.ptr<3>, %c: vector<4xi32>) -> vector<4xf32> {
  %s = pmkvq.multiply_codes key 2 tokens 32 head_dim 64 in %codes, %c
    : !llvm.ptr<3>, vector<4xi32> -> vector<4xf32>
  return %s : vector<4xf32>
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
func.func @four_bits(%codes: !llvm.ptr<3>, %c: vector<4xi32>) -> vector<2xf32> {
  %s = pmkvq.multiply_codes key 4 tokens 16 head_dim 64 in %codes, %c
    : !llvm.ptr<3>, vector<4xi32> -> vector<2xf32>
  return %s : vector<2xf32>
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
func.func @eight_bits(%codes: !llvm.ptr<3>, %c: vector<2xi32>) -> vector<8xf32> {
  %s = pmkvq.multiply_codes value 8 tokens 32 head_dim 64 in %codes, %c
    : !llvm.ptr<3>, vector<2xi32> -> vector<8xf32>
  return %s : vector<8xf32>
}

// Sums start at a bias of 1.5 * 2^23 (0x4b400000), half of a binade on each
// side, so that their bits are those of a float.  high * 254 loses 255 biases,
// and the low part brings one.  A lane has both of a query side by side.
// CHECK-LABEL: func @sums
// CHECK-DAG: %[[UNITS:.*]] = arith.constant 2.540000e+02 : f32
// CHECK-DAG: %[[BIASES:.*]] = arith.constant -3.20864256E+9 : f32
// CHECK: %[[D:.*]] = nvvm.mma.sync
// CHECK-DAG: %[[D0:.*]] = llvm.extractvalue %[[D]][0]
// CHECK-DAG: %[[D1:.*]] = llvm.extractvalue %[[D]][1]
// CHECK-DAG: %[[D2:.*]] = llvm.extractvalue %[[D]][2]
// CHECK-DAG: %[[D3:.*]] = llvm.extractvalue %[[D]][3]
// CHECK-DAG: %[[HIGH:.*]] = llvm.bitcast %[[D0]] : i32 to f32
// CHECK-DAG: %[[LOW:.*]] = llvm.bitcast %[[D1]] : i32 to f32
// CHECK-DAG: %[[HIGH8:.*]] = llvm.bitcast %[[D2]] : i32 to f32
// CHECK-DAG: %[[LOW8:.*]] = llvm.bitcast %[[D3]] : i32 to f32
// CHECK-DAG: %[[SCALED:.*]] = llvm.intr.fma(%[[HIGH]], %[[UNITS]], %[[BIASES]])
// CHECK-DAG: %[[SCALED8:.*]] = llvm.intr.fma(%[[HIGH8]], %[[UNITS]], %[[BIASES]])
// CHECK-DAG: %[[SUM:.*]] = arith.addf %[[SCALED]], %[[LOW]]
// CHECK-DAG: %[[SUM8:.*]] = arith.addf %[[SCALED8]], %[[LOW8]]
// CHECK: %[[R:.*]] = vector.from_elements %[[SUM]], %[[SUM8]]
// CHECK: return %[[R]]
func.func @sums(%codes: !llvm.ptr<3>, %c: vector<2xi32>) -> vector<2xf32> {
  %s = pmkvq.multiply_codes key 8 tokens 16 head_dim 32 in %codes, %c
    : !llvm.ptr<3>, vector<2xi32> -> vector<2xf32>
  return %s : vector<2xf32>
}

// Of weights, which are unsigned, the bias is 2^23 and a high byte 256.
// CHECK-LABEL: func @sums_of_values
// CHECK-DAG: %[[BIAS:.*]] = arith.constant 0x4B000000 : f32
// CHECK-DAG: %[[UNITS:.*]] = arith.constant 2.560000e+02 : f32
// CHECK-DAG: %[[BIASES:.*]] = arith.constant -2.15587226E+9 : f32
// CHECK: %[[START:.*]] = llvm.bitcast %[[BIAS]] : f32 to i32
// CHECK: nvvm.mma.sync A[{{.*}}] B[{{.*}}] C[%[[START]], %[[START]], %[[START]], %[[START]]]
// CHECK: llvm.intr.fma(%{{.*}}, %[[UNITS]], %[[BIASES]])
func.func @sums_of_values(%codes: !llvm.ptr<3>, %c: vector<2xi32>) -> vector<2xf32> {
  %s = pmkvq.multiply_codes value 8 tokens 32 head_dim 16 in %codes, %c
    : !llvm.ptr<3>, vector<2xi32> -> vector<2xf32>
  return %s : vector<2xf32>
}

// Raw codes are bf16, their sums f32, and both parts count the same.
// CHECK-LABEL: func @raw
// CHECK-NOT: arith.andi %{{.*}}, %c{{[^3]}}
// CHECK: %[[D:.*]] = nvvm.mma.sync A[{{.*}}] B[{{.*}}] C[%cst, %cst, %cst, %cst]
// CHECK-SAME: multiplicandAPtxType = #nvvm.mma_type<bf16>, multiplicandBPtxType = #nvvm.mma_type<bf16>, shape = #nvvm.shape<m = 16, n = 8, k = 16>
// CHECK-DAG: %[[D0:.*]] = llvm.extractvalue %[[D]][0]
// CHECK-DAG: %[[D1:.*]] = llvm.extractvalue %[[D]][1]
// CHECK-DAG: %[[D2:.*]] = llvm.extractvalue %[[D]][2]
// CHECK-DAG: %[[D3:.*]] = llvm.extractvalue %[[D]][3]
// CHECK-DAG: %[[SUM:.*]] = arith.addf %[[D0]], %[[D1]]
// CHECK-DAG: %[[SUM8:.*]] = arith.addf %[[D2]], %[[D3]]
// CHECK: vector.from_elements %[[SUM]], %[[SUM8]]
func.func @raw(%codes: !llvm.ptr<3>, %c: vector<2xi32>) -> vector<2xf32> {
  %s = pmkvq.multiply_codes key 16 tokens 16 head_dim 16 in %codes, %c
    : !llvm.ptr<3>, vector<2xi32> -> vector<2xf32>
  return %s : vector<2xf32>
}
