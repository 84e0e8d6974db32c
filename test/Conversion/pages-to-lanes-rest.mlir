// Kernels over pages of 80 head dims: five slices of 16 channels, or four of 32
// tokens.
// RUN: pmkvq-opt %s --convert-pmkvq-to-tile --convert-pmkvq-pages-to-lanes --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 80, key = <per_channel>, value = <per_token>, sink = 1>

// Of the last slice lanes lie 4 or 8 bytes apart below 8 bits; codes at 8 bits
// are words of two, 16 bytes apart in all slices.
// CHECK-LABEL: llvm.func @pmkvq_requantize_key_16
// CHECK-SAME: nvvm.reqntid = array<i32: 160>
// CHECK-COUNT-8: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
// A lane has four channels.
// CHECK: arith.divf {{.*}} : vector<4xf32>
// CHECK: scf.if
// CHECK-COUNT-8: llvm.store %{{.*}} {alignment = 8 : i64} : vector<2xi32>
// CHECK: scf.if
// CHECK-COUNT-8: llvm.store %{{.*}} {alignment = 2 : i64} : f16
func.func @requantize_key_16_8(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.requantize key %c, %p from 16 to 8 : !kv
  return %r : !kv
}

// CHECK-LABEL: llvm.func @pmkvq_flush_key_2
// CHECK-SAME: nvvm.reqntid = array<i32: 160>
// CHECK: scf.if
// CHECK: %[[LAST:.*]] = arith.andi %{{.*}}, %c4_i32
// CHECK: arith.muli %[[LAST]], %c-3_i32
// CHECK-COUNT-4: llvm.store %{{.*}} {alignment = 4 : i64} : i32
func.func @flush_key_2(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.flush key %c, %p to 2 : !kv
  return %r : !kv
}

// 32 tokens are whole vectors and one of a word: at 4 bits of two.
// CHECK-LABEL: llvm.func @pmkvq_requantize_value_4
// CHECK-SAME: nvvm.reqntid = array<i32: 128>
// CHECK-COUNT-2: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
// CHECK: llvm.load %{{.*}} {alignment = 8 : i64} : !llvm.ptr<1> -> vector<2xi32>
// CHECK: nvvm.barrier0
// CHECK: llvm.store %{{.*}} {alignment = 16 : i64} : vector<4xi32>
// CHECK: llvm.store %{{.*}} {alignment = 4 : i64} : i32
// CHECK-NOT: llvm.store
func.func @requantize_value_4_2(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.requantize value %c, %p from 4 to 2 : !kv
  return %r : !kv
}
