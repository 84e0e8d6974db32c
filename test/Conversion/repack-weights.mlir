// Weights become B operands of the values' product.
// RUN: pmkvq-opt %s --pmkvq-repack-weights --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @bytes
// CHECK-SAME: (%[[W:.*]]: vector<2xf32>, %[[R:.*]]: vector<1xi32>)
func.func @bytes(%w: vector<2xf32>, %r: vector<1xi32>) -> (vector<1xi32>, f32, f32) {
  // The largest range of the unit: over the lanes with another g.
  // CHECK-DAG: %[[LARGEST:.*]] = arith.constant 6.500000e+04 : f32
  // CHECK-DAG: %[[SMALLEST:.*]] = arith.constant 5.96046448E-8 : f32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c4_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c8_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c16_i32
  // CHECK: %[[RANGE:.*]] = llvm.intr.maxnum(%{{.*}}, %[[SMALLEST]])
  // CHECK: %[[INVERSE:.*]] = llvm.call_intrinsic "llvm.nvvm.rcp.approx.ftz.f"(%[[RANGE]])
  // CHECK: %[[SCALE:.*]] = arith.mulf %[[INVERSE]], %[[LARGEST]]
  // weight * range * scale + 2^23 (0x4b000000) has the integer in its low bits.
  // CHECK: %[[ROUNDER:.*]] = llvm.bitcast %c1258291200_i32 : i32 to f32
  // CHECK: %[[FACTOR:.*]] = arith.mulf %{{.*}}, %[[SCALE]]
  // CHECK: %[[OTHER:.*]] = arith.mulf %{{.*}}, %[[SCALE]]
  // CHECK: %[[A:.*]] = llvm.intr.fma(%{{.*}}, %[[FACTOR]], %[[ROUNDER]])
  // CHECK: %[[AI:.*]] = llvm.bitcast %[[A]]
  // CHECK: %[[C:.*]] = llvm.intr.fma(%{{.*}}, %[[OTHER]], %[[ROUNDER]])
  // CHECK: %[[CI:.*]] = llvm.bitcast %[[C]]
  // {high a, high c, low a, low c} (0x4051), then queries and tokens change
  // places.
  // CHECK-DAG: %[[P:.*]] = nvvm.prmt <default> %c16465_i32, %[[AI]], %[[CI]]
  // CHECK-DAG: %[[T:.*]] = llvm.inline_asm {{.*}} "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r" %[[P]]
  // CHECK-DAG: %[[O:.*]] = vector.broadcast %[[T]]
  // The sum of the integers, without two times 2^23's bits, and what turns sums
  // back.
  // CHECK-DAG: %[[BITS:.*]] = arith.addi %[[AI]], %[[CI]]
  // CHECK-DAG: %[[N:.*]] = arith.subi %[[BITS]], %c-1778384896_i32
  // CHECK-DAG: %[[F:.*]] = arith.sitofp %[[N]]
  // CHECK-DAG: %[[UNSCALE:.*]] = arith.mulf %[[RANGE]], %cst
  // CHECK-DAG: %[[SUM:.*]] = arith.mulf %[[F]], %[[UNSCALE]]
  // CHECK: return %[[O]], %[[UNSCALE]], %[[SUM]]
  %o, %u, %s = pmkvq.repack_weights %r, %w : (vector<1xi32>, vector<2xf32>) -> (vector<1xi32>, f32, f32)
  return %o, %u, %s : vector<1xi32>, f32, f32
}

// With two queries a lane, one operand takes the high bytes of both (0x5410),
// the other the low ones (0x7632), each query in a column of its own.
// CHECK-LABEL: func @bytes_of_two
// CHECK-SAME: (%[[W:.*]]: vector<2xf32>, %[[X:.*]]: vector<2xf32>, %[[R:.*]]: vector<1xi32>)
func.func @bytes_of_two(%w: vector<2xf32>, %x: vector<2xf32>, %r: vector<1xi32>)
    -> (vector<1xi32>, vector<1xi32>, f32, f32, f32) {
  // Ranges are a token's: factors are made once.
  // CHECK: %[[RANGE:.*]] = llvm.intr.maxnum
  // CHECK: %[[ROUNDER:.*]] = llvm.bitcast %c1258291200_i32 : i32 to f32
  // CHECK: %[[F0:.*]] = arith.mulf
  // CHECK: %[[F1:.*]] = arith.mulf
  // CHECK-NOT: arith.mulf
  // CHECK: %[[W0:.*]] = vector.extract %[[W]][0]
  // CHECK-DAG: %[[W1:.*]] = vector.extract %[[W]][1]
  // CHECK-DAG: %[[X0:.*]] = vector.extract %[[X]][0]
  // CHECK-DAG: %[[X1:.*]] = vector.extract %[[X]][1]
  // CHECK-DAG: %[[A0:.*]] = llvm.intr.fma(%[[W0]], %[[F0]], %[[ROUNDER]])
  // CHECK-DAG: %[[A1:.*]] = llvm.intr.fma(%[[W1]], %[[F1]], %[[ROUNDER]])
  // CHECK-DAG: %[[C0:.*]] = llvm.intr.fma(%[[X0]], %[[F0]], %[[ROUNDER]])
  // CHECK-DAG: %[[C1:.*]] = llvm.intr.fma(%[[X1]], %[[F1]], %[[ROUNDER]])
  // CHECK-DAG: %[[AI0:.*]] = llvm.bitcast %[[A0]]
  // CHECK-DAG: %[[AI1:.*]] = llvm.bitcast %[[A1]]
  // CHECK-DAG: %[[CI0:.*]] = llvm.bitcast %[[C0]]
  // CHECK-DAG: %[[CI1:.*]] = llvm.bitcast %[[C1]]
  // CHECK-DAG: %[[P:.*]] = nvvm.prmt <default> %c16465_i32, %[[AI0]], %[[AI1]]
  // CHECK-DAG: %[[Q:.*]] = nvvm.prmt <default> %c16465_i32, %[[CI0]], %[[CI1]]
  // CHECK-DAG: %[[HIGH:.*]] = nvvm.prmt <default> %c21520_i32, %[[P]], %[[Q]]
  // CHECK-DAG: %[[LOW:.*]] = nvvm.prmt <default> %c30258_i32, %[[P]], %[[Q]]
  // CHECK-DAG: %[[HT:.*]] = llvm.inline_asm {{.*}}movmatrix{{.*}} %[[HIGH]]
  // CHECK-DAG: %[[LT:.*]] = llvm.inline_asm {{.*}}movmatrix{{.*}} %[[LOW]]
  // CHECK-DAG: %[[HO:.*]] = vector.broadcast %[[HT]]
  // CHECK-DAG: %[[LO:.*]] = vector.broadcast %[[LT]]
  // CHECK-DAG: %[[SA:.*]] = arith.addi %[[AI0]], %[[AI1]]
  // CHECK-DAG: %[[NA:.*]] = arith.subi %[[SA]], %c-1778384896_i32
  // CHECK-DAG: %[[FA:.*]] = arith.sitofp %[[NA]]
  // CHECK-DAG: %[[SC:.*]] = arith.addi %[[CI0]], %[[CI1]]
  // CHECK-DAG: %[[NC:.*]] = arith.subi %[[SC]], %c-1778384896_i32
  // CHECK-DAG: %[[FC:.*]] = arith.sitofp %[[NC]]
  // CHECK-DAG: %[[UNSCALE:.*]] = arith.mulf %[[RANGE]], %cst
  // CHECK-DAG: %[[S0:.*]] = arith.mulf %[[FA]], %[[UNSCALE]]
  // CHECK-DAG: %[[S1:.*]] = arith.mulf %[[FC]], %[[UNSCALE]]
  // CHECK: return %[[HO]], %[[LO]], %[[UNSCALE]], %[[S0]], %[[S1]]
  %o:2, %u, %s:2 = pmkvq.repack_weights %r, %w, %x
    : (vector<1xi32>, vector<2xf32>, vector<2xf32>) -> (vector<1xi32>, vector<1xi32>, f32, f32, f32)
  return %o#0, %o#1, %u, %s#0, %s#1 : vector<1xi32>, vector<1xi32>, f32, f32, f32
}

// Raw values take bf16 and, in the next column, what its rounding left.
// CHECK-LABEL: func @raw
// CHECK-SAME: (%[[W:.*]]: vector<1xf32>)
func.func @raw(%w: vector<1xf32>) -> vector<1xi32> {
  // CHECK: %[[X:.*]] = vector.extract %[[W]][0]
  // CHECK: llvm.call_intrinsic "llvm.nvvm.ff2bf16x2.rn"(%{{.*}}, %[[X]])
  // CHECK: %[[BITS:.*]] = arith.shli %{{.*}}, %c16_i32
  // CHECK: %[[BACK:.*]] = llvm.bitcast %[[BITS]]
  // CHECK: %[[REST:.*]] = arith.subf %[[X]], %[[BACK]]
  // CHECK: llvm.call_intrinsic "llvm.nvvm.ff2bf16x2.rn"(%[[REST]], %[[X]])
  // CHECK: movmatrix
  %o = pmkvq.repack_raw_weights %w : (vector<1xf32>) -> vector<1xi32>
  return %o : vector<1xi32>
}

// Of two queries a lane, one operand takes the weights, the other the rests.
// CHECK-LABEL: func @raw_of_two
// CHECK-SAME: (%[[W:.*]]: vector<1xf32>, %[[V:.*]]: vector<1xf32>)
func.func @raw_of_two(%w: vector<1xf32>, %v: vector<1xf32>) -> (vector<1xi32>, vector<1xi32>) {
  // CHECK-DAG: %[[X:.*]] = vector.extract %[[W]][0]
  // CHECK-DAG: %[[Y:.*]] = vector.extract %[[V]][0]
  // CHECK-DAG: %[[XREST:.*]] = arith.subf %[[X]], %{{.*}}
  // CHECK-DAG: %[[YREST:.*]] = arith.subf %[[Y]], %{{.*}}
  // CHECK-DAG: %[[HIGH:.*]] = llvm.call_intrinsic "llvm.nvvm.ff2bf16x2.rn"(%[[Y]], %[[X]])
  // CHECK-DAG: %[[LOW:.*]] = llvm.call_intrinsic "llvm.nvvm.ff2bf16x2.rn"(%[[YREST]], %[[XREST]])
  // CHECK-DAG: %[[H:.*]] = llvm.bitcast %[[HIGH]]
  // CHECK-DAG: %[[L:.*]] = llvm.bitcast %[[LOW]]
  // CHECK-DAG: %[[HT:.*]] = llvm.inline_asm {{.*}}movmatrix{{.*}} %[[H]]
  // CHECK-DAG: %[[LT:.*]] = llvm.inline_asm {{.*}}movmatrix{{.*}} %[[L]]
  // CHECK-DAG: %[[HO:.*]] = vector.broadcast %[[HT]]
  // CHECK-DAG: %[[LO:.*]] = vector.broadcast %[[LT]]
  // CHECK: return %[[HO]], %[[LO]]
  %o:2 = pmkvq.repack_raw_weights %w, %v : (vector<1xf32>, vector<1xf32>) -> (vector<1xi32>, vector<1xi32>)
  return %o#0, %o#1 : vector<1xi32>, vector<1xi32>
}

// One permutation and one transposition for a block of 16 tokens.
// CHECK-LABEL: func @blocks
func.func @blocks(%w: vector<8xf32>, %r: vector<4xi32>) -> vector<4xi32> {
  // CHECK-COUNT-4: movmatrix
  // CHECK-NOT: movmatrix
  %o, %u, %s = pmkvq.repack_weights %r, %w : (vector<4xi32>, vector<8xf32>) -> (vector<4xi32>, f32, f32)
  return %o : vector<4xi32>
}
