// Weights become B operands of the values' product.
// RUN: pmkvq-opt %s --pmkvq-repack-weights --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @bytes
// CHECK-SAME: (%[[W:.*]]: vector<2xf32>, %[[R:.*]]: vector<1xi32>)
func.func @bytes(%w: vector<2xf32>, %r: vector<1xi32>) -> (vector<1xi32>, f32) {
  // The largest range of the unit: over the lanes with another g.
  // CHECK-DAG: %[[LARGEST:.*]] = arith.constant 6.500000e+04 : f32
  // CHECK-DAG: %[[ROUNDER:.*]] = arith.constant 0x4B000000 : f32
  // CHECK-DAG: %[[SMALLEST:.*]] = arith.constant 9.99999974E-5 : f32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c4_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c8_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c16_i32
  // CHECK: %[[RANGE:.*]] = llvm.intr.maxnum(%{{.*}}, %[[SMALLEST]])
  // CHECK: %[[INVERSE:.*]] = llvm.call_intrinsic "llvm.nvvm.rcp.approx.ftz.f"(%[[RANGE]])
  // CHECK: %[[SCALE:.*]] = arith.mulf %[[INVERSE]], %[[LARGEST]]
  // weight * range * scale + 2^23 has the integer in its low bits.
  // CHECK: %[[FACTOR:.*]] = arith.mulf %{{.*}}, %[[SCALE]]
  // CHECK: %[[A:.*]] = llvm.intr.fma(%{{.*}}, %[[FACTOR]], %[[ROUNDER]])
  // CHECK: %[[AI:.*]] = llvm.bitcast %[[A]]
  // CHECK: %[[C:.*]] = llvm.intr.fma(%{{.*}}, %{{.*}}, %[[ROUNDER]])
  // CHECK: %[[CI:.*]] = llvm.bitcast %[[C]]
  // {high a, high c, low a, low c} (0x4051), then queries and tokens change
  // places.
  // CHECK: %[[P:.*]] = nvvm.prmt <default> %c16465_i32, %[[AI]], %[[CI]]
  // CHECK: llvm.inline_asm {{.*}} "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r" %[[P]]
  // CHECK: arith.mulf %[[RANGE]],
  %o, %u = pmkvq.repack_weights %w, %r : vector<2xf32>, vector<1xi32> -> vector<1xi32>
  return %o, %u : vector<1xi32>, f32
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
  %o = pmkvq.repack_raw_weights %w : vector<1xf32> -> vector<1xi32>
  return %o : vector<1xi32>
}

// One permutation and one transposition for a block of 16 tokens.
// CHECK-LABEL: func @blocks
func.func @blocks(%w: vector<8xf32>, %r: vector<4xi32>) -> vector<4xi32> {
  // CHECK-COUNT-4: movmatrix
  // CHECK-NOT: movmatrix
  %o, %u = pmkvq.repack_weights %w, %r : vector<8xf32>, vector<4xi32> -> vector<4xi32>
  return %o : vector<4xi32>
}
