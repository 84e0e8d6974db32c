// The softmax of a tile: masks, weights, operands.
// RUN: pmkvq-opt %s --pmkvq-lower-tile-softmax --canonicalize --cse | FileCheck %s

// Lane t is 8 t tokens further on; the first scores are of tokens 0 and 1.
// CHECK-LABEL: func @mask
// CHECK-SAME: (%{{.*}}: vector<64xf32>, %[[T:[^:]*]]: i32, %[[N:[^:]*]]: i32)
// CHECK-DAG: %[[C0:.*]] = arith.constant 0 : i32
// CHECK-DAG: %[[C1:.*]] = arith.constant 1 : i32
// CHECK-DAG: %[[C8:.*]] = arith.constant 8 : i32
// CHECK-DAG: %[[HIDDEN:.*]] = arith.constant 0xFF800000 : f32
// CHECK: %[[FAR:.*]] = arith.muli %[[T]], %[[C8]]
// CHECK: %[[LEFT:.*]] = arith.subi %[[N]], %[[FAR]]
// CHECK: %[[SEES:.*]] = arith.cmpi sgt, %[[LEFT]], %[[C0]]
// CHECK: arith.select %[[SEES]], %{{.*}}, %[[HIDDEN]]
// CHECK: %[[SEES1:.*]] = arith.cmpi sgt, %[[LEFT]], %[[C1]]
// CHECK: arith.select %[[SEES1]],
func.func @mask(%x: vector<64xf32>, %t: i32, %n: i32) -> vector<64xf32> {
  %r = pmkvq.mask_scores %x lane %t visible %n, %n : vector<64xf32>
  return %r : vector<64xf32>
}

// No search for a maximum: weights' bits say whether it must rise.
// CHECK-LABEL: func @softmax
// CHECK-SAME: %[[X:.*]]: vector<64xf32>, %[[M:.*]]: f32, %[[L:.*]]: f32, %[[C:.*]]: f32
// CHECK-DAG: %[[TWO:.*]] = arith.constant 1073741824 : i32
// CHECK-NOT: llvm.intr.maxnum
// CHECK: %[[BELOW:.*]] = arith.subf %{{.*}}, %[[M]]
// CHECK: %[[E:.*]] = llvm.intr.fma(%{{.*}}, %[[C]], %[[BELOW]])
// CHECK: llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[E]])
// CHECK-NOT: llvm.intr.maxnum
// CHECK: %[[BIG:.*]] = arith.andi %{{.*}}, %[[TWO]]
// CHECK: %[[ANY:.*]] = arith.cmpi ne, %[[BIG]],
// CHECK: %[[RISES:.*]] = nvvm.vote.sync any %{{.*}}, %[[ANY]]
// CHECK: scf.if %[[RISES]]
// CHECK: llvm.intr.maxnum
// CHECK: "llvm.nvvm.lg2.approx.ftz.f"
// CHECK: } else {
// CHECK-NOT: llvm.intr.maxnum
func.func @softmax(%x: vector<64xf32>, %m: f32, %l: f32, %c: f32) -> vector<64xf32> {
  %w, %m0, %m1, %l0, %l1, %rescaled, %a0, %a1 = pmkvq.tile_softmax %x
    maxima(%m, %m) sums(%l, %l) factors(%c, %c) : vector<64xf32>
  return %w : vector<64xf32>
}

// Where scores may be far above it, the signs of distances say whether it must
// rise, before weights are made, which would be infinite.
// CHECK-LABEL: func @far
// CHECK-SAME: %[[X:.*]]: vector<64xf32>, %[[M:.*]]: f32, %[[L:.*]]: f32, %[[C:.*]]: f32
// CHECK-NOT: ex2
// CHECK-NOT: num(
// CHECK: %[[MINUS:.*]] = arith.negf %[[C]]
// CHECK: llvm.intr.fma(%{{.*}}, %[[MINUS]], %[[M]])
// CHECK: %[[ABOVE:.*]] = arith.cmpi slt
// CHECK: %[[RISES:.*]] = nvvm.vote.sync any %{{.*}}, %[[ABOVE]]
// CHECK: scf.if %[[RISES]]
// CHECK: llvm.intr.minnum
// CHECK: nvvm.shfl.sync bfly
// CHECK: } else {
// CHECK-NOT: num(
// CHECK: %[[E:.*]] = arith.negf
// CHECK: llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"(%[[E]])
func.func @far(%x: vector<64xf32>, %m: f32, %l: f32, %c: f32) -> vector<64xf32> {
  %w, %m0, %m1, %l0, %l1, %rescaled, %a0, %a1 = pmkvq.tile_softmax far %x
    maxima(%m, %m) sums(%l, %l) factors(%c, %c) : vector<64xf32>
  return %w : vector<64xf32>
}

// The first tile's maximum is searched for, over the four lanes of a row.
// CHECK-LABEL: func @first
// CHECK: llvm.intr.maxnum
// CHECK: nvvm.shfl.sync bfly
// CHECK-NOT: scf.if
func.func @first(%x: vector<64xf32>, %m: f32, %l: f32, %c: f32) -> vector<64xf32> {
  %w, %m0, %m1, %l0, %l1, %rescaled, %a0, %a1 = pmkvq.tile_softmax first %x
    maxima(%m, %m) sums(%l, %l) factors(%c, %c) : vector<64xf32>
  return %w : vector<64xf32>
}

// Neighbours become words.
// CHECK-LABEL: func @pack
// CHECK: %[[LOW:.*]] = vector.extract %{{.*}}[0]
// CHECK: %[[HIGH:.*]] = vector.extract %{{.*}}[1]
// CHECK: llvm.call_intrinsic "llvm.nvvm.ff2f16x2.rn"(%[[HIGH]], %[[LOW]])
func.func @pack(%w: vector<2xf32>) -> vector<1xi32> {
  %p = pmkvq.pack_weights %w : vector<2xf32> -> vector<1xi32>
  return %p : vector<1xi32>
}
