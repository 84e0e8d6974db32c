// Kernels over pages become code of lanes: a thread block a part, a warp a
// slice.
// RUN: pmkvq-opt %s --convert-pmkvq-to-tile --convert-pmkvq-pages-to-lanes --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel>, value = <per_token>, sink = 1>

// A lane lowers the codes that it has: two vectors of 16 bytes become one.  All
// is read before anything is written.
// CHECK-LABEL: llvm.func @pmkvq_requantize_key_4
// CHECK-SAME: nvvm.minctasm = 4 : i32, nvvm.reqntid = array<i32: 128>
// CHECK: %[[TASK:.*]] = llvm.getelementptr %{{.*}}[%{{.*}}] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, i8
// Slices of 32 tokens: two of each block.
// CHECK: %[[SLICE:.*]] = arith.shrui %{{.*}}, %c5_i32 : i32
// CHECK: %[[UPPER:.*]] = arith.andi %[[SLICE]], %c2_i32
// CHECK-COUNT-2: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
// Codes of 4 bits in bytes, then two bits of each, two codes at a time in words.
// CHECK: arith.andi %{{.*}}, %c16711935_i32
// CHECK: nvvm.barrier0
// CHECK-NOT: llvm.load %{{.*}} {alignment = 16
// CHECK-COUNT-1: llvm.store %{{.*}} {alignment = 16 : i64} : vector<4xi32>
// CHECK-NOT: llvm.store
// CHECK: llvm.return
func.func @requantize_key_4_2(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.requantize key %c, %p from 4 to 2 : !kv
  return %r : !kv
}

// Values have groups along k: extremes go over the eight lanes that have a
// token's dims, in words of two tokens.  What one lane cannot represent, no
// lane writes.
// CHECK-LABEL: llvm.func @pmkvq_requantize_value_16
// CHECK-SAME: nvvm.reqntid = array<i32: 128>
// CHECK-COUNT-8: llvm.load %{{.*}} {alignment = 16 : i64} : !llvm.ptr<1> -> vector<4xi32>
// CHECK: llvm.intr.minimum({{.*}}) : (vector<2xbf16>, vector<2xbf16>) -> vector<2xbf16>
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c4_i32
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c8_i32
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c16_i32
// CHECK: %[[WIDE:.*]] = arith.cmpf ogt, %{{.*}}, %{{.*}} : f32
// CHECK: arith.divf {{.*}} : vector<4xf32>
// CHECK: nvvm.prmt
// CHECK: %[[ALL:.*]] = llvm.call_intrinsic "llvm.nvvm.barrier.cta.red.and.aligned.all"
// CHECK: scf.if %[[ALL]] {
// CHECK-COUNT-4: llvm.store %{{.*}} {alignment = 16 : i64} : vector<4xi32>
// Parameters, by the lanes with the first of the rows.
// CHECK: scf.if
// CHECK-COUNT-16: llvm.store %{{.*}} {alignment = 2 : i64} : f16
// What is written with a wide range, or cannot be represented, sets the word of
// its task.
// CHECK: scf.if %[[WIDE]] {
// CHECK: llvm.store %c2_i32, %{{.*}} {alignment = 4 : i64} : i32
// CHECK: } else {
// CHECK-NEXT: %[[OFFSET:.*]] = arith.shli %{{.*}}, %c2_i32
// CHECK-NEXT: %[[WORD:.*]] = llvm.getelementptr %{{.*}}[%[[OFFSET]]]
// CHECK-NEXT: llvm.store %c1_i32, %[[WORD]] {alignment = 4 : i64} : i32
func.func @requantize_value_16_8(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.requantize value %c, %p from 16 to 8 : !kv
  return %r : !kv
}

// A window's first token follows the sink, so its elements are found one by one.
// CHECK-LABEL: llvm.func @pmkvq_flush_key_16
// CHECK-SAME: nvvm.minctasm = 2 : i32
// CHECK: arith.addi %{{.*}}, %c1_i32
// CHECK: llvm.load %{{.*}} {alignment = 2 : i64} : !llvm.ptr<1> -> i16
// CHECK: nvvm.barrier0
// CHECK-COUNT-8: llvm.store %{{.*}} {alignment = 16 : i64} : vector<4xi32>
func.func @flush_key_16(%c: !kv, %p: !pmkvq.pages) -> !kv {
  %r = pmkvq.flush key %c, %p to 16 : !kv
  return %r : !kv
}
