// Codes that fall become shifts of words, in the lane that has them.
// RUN: pmkvq-opt %s --pmkvq-shift-codes --canonicalize --cse | FileCheck %s

// Keys at 4 bits of two row blocks: their four vectors become two.
// CHECK-LABEL: func @four_bits
// CHECK-SAME: (%[[CODES:.*]]: !llvm.ptr<3>, %[[PLACE:.*]]: !llvm.ptr<1>, %[[FALLS:.*]]: i1)
func.func @four_bits(%codes: !llvm.ptr<3>, %place: !llvm.ptr<1>, %falls: i1) {
  // CHECK: scf.if %[[FALLS]] {
  // CHECK: nvvm.bar.warp.sync
  // CHECK: %[[LANE:.*]] = arith.andi %{{.*}}, %c31_i32
  // CHECK: %[[MINE:.*]] = arith.shli %[[LANE]], %c4_i32
  // CHECK: llvm.getelementptr %[[CODES]][%[[MINE]]]
  // CHECK: llvm.getelementptr %[[PLACE]][%[[MINE]]]
  // CHECK-COUNT-2: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
  // CHECK: llvm.inline_asm {{.*}}"st.global.L2::cache_hint.v4.b32 [$0], {$1, $2, $3, $4}, $5;"
  // CHECK-COUNT-2: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<3> -> vector<4xi32>
  // CHECK: llvm.inline_asm {{.*}}"st.global.L2::cache_hint.v4.b32 [$0], {$1, $2, $3, $4}, $5;"
  // CHECK-NOT: st.global
  pmkvq.shift_codes key 4 tokens 32 head_dim 128 format <per_channel>
    in %codes to %place if %falls : !llvm.ptr<3>, !llvm.ptr<1>
  return
}

// Keys at 8 bits: two vectors become one, whose words hold the first rows in
// the low and the next eight in the high half of each byte.
// CHECK-LABEL: func @eight_bits
func.func @eight_bits(%codes: !llvm.ptr<3>, %place: !llvm.ptr<1>, %falls: i1) {
  // CHECK: %[[W:.*]] = llvm.load %{{.*}} : !llvm.ptr<3> -> vector<4xi32>
  // CHECK: %[[W0:.*]] = llvm.extractelement %[[W]][%c0
  // CHECK: %[[EVEN:.*]] = arith.andi %[[W0]], %c16711935_i32
  // CHECK: %[[SUM:.*]] = arith.addi %[[EVEN]], %c524296_i32
  // CHECK: %[[PRODUCT:.*]] = arith.muli %[[SUM]], %c241_i32
  // CHECK: arith.shrui %[[PRODUCT]], %c12_i32
  // CHECK: %[[HIGH:.*]] = arith.shli %{{.*}}, %c4_i32
  // CHECK: arith.ori %{{.*}}, %[[HIGH]]
  // CHECK: llvm.load %{{.*}} : !llvm.ptr<3> -> vector<4xi32>
  // CHECK: llvm.inline_asm {{.*}}"st.global.L2::cache_hint.v4.b32 [$0], {$1, $2, $3, $4}, $5;"
  // CHECK-NOT: st.global
  pmkvq.shift_codes key 8 tokens 16 head_dim 64 format <per_token>
    in %codes to %place if %falls : !llvm.ptr<3>, !llvm.ptr<1>
  return
}
