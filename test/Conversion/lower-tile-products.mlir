// Products of tiles become matrix instructions of warpgroups.
// RUN: pmkvq-opt %s --pmkvq-lower-tile-products --canonicalize --cse | FileCheck %s

// Eight steps of 16 dims, in one group; the first overwrites the registers.
// CHECK-LABEL: func @scores
// CHECK: nvvm.wgmma.fence.aligned
// CHECK: nvvm.wgmma.mma_async {{.*}}, <m = 64, n = 128, k = 16>, D[<f32>, <zero>], A[<f16>, <one>, <row>], B[<f16>, <one>, <col>]
// A step further is 32 bytes, two units of a descriptor; so of both operands.
// CHECK-COUNT-2: arith.addi %{{.*}}, %c2_i32
// CHECK: nvvm.wgmma.mma_async {{.*}}, <m = 64, n = 128, k = 16>, D[<f32>, <one>]
// CHECK-COUNT-6: nvvm.wgmma.mma_async
// CHECK-NOT: nvvm.wgmma.mma_async
// CHECK: nvvm.wgmma.commit.group.sync.aligned
func.func @scores(%q: !llvm.ptr<3>, %k: !llvm.ptr<3>, %x: vector<64xf32>) -> vector<64xf32> {
  %s = pmkvq.score_product %q, %k in %x : !llvm.ptr<3>, !llvm.ptr<3>, vector<64xf32>
  return %s : vector<64xf32>
}

// Weights come from registers, four words a step.
// CHECK-LABEL: func @values
// CHECK: nvvm.wgmma.fence.aligned
// CHECK-COUNT-8: llvm.inline_asm has_side_effects {{.*}}wgmma.mma_async
// CHECK: nvvm.wgmma.commit.group.sync.aligned
func.func @values(%o: vector<64xf32>, %p: vector<32xi32>, %v: !llvm.ptr<3>) -> vector<64xf32> {
  %n = pmkvq.value_product %o, %p, %v : vector<64xf32>, vector<32xi32>, !llvm.ptr<3>
  return %n : vector<64xf32>
}

// Registers are tied to the wait, so that nothing reads them before.
// CHECK-LABEL: func @await
// CHECK: llvm.inline_asm has_side_effects {{.*}}"wgmma.wait_group.sync.aligned 1;", "=f,=f,0,1"
func.func @await(%x: vector<2xf32>) -> vector<2xf32> {
  %r = pmkvq.await_products %x pending 1 : vector<2xf32>
  return %r : vector<2xf32>
}
