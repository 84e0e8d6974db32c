// Weights against a maximum that is seldom raised.
// RUN: pmkvq-opt %s --pmkvq-lower-lazy-softmax --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @softmax
// CHECK-SAME: (%[[MAX:.*]]: f32, %[[SUM:.*]]: f32, %[[OUT:[^:]*]]: vector<1xf32>, %[[X:[^:]*]]: vector<2xf32>, %[[F:[^:]*]]: vector<2xf32>, %[[B:[^:]*]]: vector<2xf32>)
func.func @softmax(%m: f32, %sum: f32, %o: vector<1xf32>, %x: vector<2xf32>,
                   %f: vector<2xf32>, %b: vector<2xf32>) -> (f32, f32, vector<1xf32>, vector<2xf32>) {
  // A weight is 2^(product * factor + bias - maximum - 2).
  // CHECK: %[[O:.*]] = vector.extract %[[OUT]][0]
  // CHECK: %[[START:.*]] = arith.addf %[[MAX]], %cst
  // CHECK: %[[BELOW:.*]] = arith.subf %{{.*}}, %[[START]]
  // CHECK: %[[SCORE:.*]] = llvm.intr.fma(%{{.*}}, %{{.*}}, %[[BELOW]])
  // CHECK: %[[W0:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[SCORE]])
  // CHECK: %[[W1:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // CHECK: llvm.call_intrinsic "llvm.nvvm.ff2f16x2.rn"(%[[W1]], %[[W0]])
  // The warp votes: does a weight exceed 1 (0x3c00)?  One branch for all lanes.
  // CHECK: arith.cmpi ugt, %{{.*}}, %c15360_i32
  // CHECK: arith.cmpi ugt, %{{.*}}, %c15360_i32
  // CHECK: %[[ANY:.*]] = nvvm.vote.sync any
  // CHECK: %{{.*}} = scf.if %[[ANY]]
  // If so, the maximum becomes the largest score of the query's 8 lanes,
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c4_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c8_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c16_i32
  // CHECK: %[[NEXT:.*]] = llvm.intr.maxnum(%{{.*}}, %[[MAX]])
  // and sums and outputs so far are worth less.
  // CHECK: %[[DROP:.*]] = arith.subf %[[MAX]], %[[NEXT]]
  // CHECK: %[[RESCALE:.*]] = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[DROP]])
  // CHECK: %[[SUM2:.*]] = arith.mulf %[[SUM]], %[[RESCALE]]
  // CHECK: %[[O2:.*]] = arith.mulf %[[O]], %[[RESCALE]]
  // CHECK: scf.yield %[[NEXT]], %[[SUM2]], %[[O2]],
  // If not, they stay, without an instruction.
  // CHECK: } else {
  // CHECK-NEXT: scf.yield %[[MAX]], %[[SUM]], %[[O]], %[[W0]], %[[W1]] :
  %r:5 = pmkvq.lazy_softmax %m sums(%sum) outputs %o products %x factors %f bias %b
    : (f32, f32, vector<1xf32>, vector<2xf32>, vector<2xf32>, vector<2xf32>)
      -> (f32, f32, vector<1xf32>, vector<2xf32>, vector<1xi32>)
  return %r#0, %r#1, %r#2, %r#3 : f32, f32, vector<1xf32>, vector<2xf32>
}

// Weights that share a bias share its difference from the maximum.
// CHECK-LABEL: func @one_bias
func.func @one_bias(%m: f32, %o: vector<1xf32>, %x: vector<4xf32>, %b: f32) -> vector<4xf32> {
  // CHECK-COUNT-1: arith.subf
  // CHECK-NOT: arith.subf
  // CHECK: nvvm.vote.sync
  %bias = vector.from_elements %b, %b, %b, %b : vector<4xf32>
  %r:4 = pmkvq.lazy_softmax %m sums() outputs %o products %x factors %x bias %bias
    : (f32, vector<1xf32>, vector<4xf32>, vector<4xf32>, vector<4xf32>)
      -> (f32, vector<1xf32>, vector<4xf32>, vector<2xi32>)
  return %r#2 : vector<4xf32>
}
