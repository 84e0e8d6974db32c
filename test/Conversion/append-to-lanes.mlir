// A warp appends one row's keys and values of one kv head.
// RUN: pmkvq-opt %s --convert-pmkvq-append-to-lanes --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 64, key = <per_channel, hadamard>, value = <per_token>, sink = 1>
!row = !pmkvq.rows<1, 64>
!heads = memref<?x2x64xf32>
!angles = memref<?x32xf32>

// CHECK-LABEL: llvm.func @append
// CHECK-SAME: nvvm.reqntid = array<i32: 32>
// CHECK: %[[BLOCK:.*]] = nvvm.read.ptx.sreg.ctaid.x
// CHECK: %[[ROW:.*]] = arith.divui %[[BLOCK]], %c2_i32
// The first token of a unit of 16 clears the others': four vectors a part.
// CHECK: %[[BEGINS:.*]] = arith.cmpi eq
// CHECK: scf.if %[[BEGINS]] {
// CHECK-COUNT-8: llvm.store %{{.*}} {alignment = 16 : i64} : vector<4xi32>
// CHECK: nvvm.bar.warp.sync
// A lane has two dims; its partner of the position's pairs is 16 lanes on, its
// partners of the transform in itself and 1, 2, ... 16 lanes on.
// CHECK: %[[ABOVE:.*]] = arith.addi %[[LANE:.*]], %c16_i32
// CHECK: %[[OTHER:.*]] = arith.select %{{.*}}, %[[ABOVE]], %{{.*}} : i32
// CHECK: nvvm.shfl.sync idx %{{.*}}, %{{.*}}, %[[OTHER]]
// CHECK: arith.subf
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c1_i32
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c2_i32
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c4_i32
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c8_i32
// CHECK: arith.mulf %{{.*}}, %cst
// Neighbouring dims are one word of keys, and apart in values.
// CHECK: llvm.store %{{.*}} {alignment = 4 : i64} : i32
// CHECK-COUNT-2: llvm.store %{{.*}} {alignment = 2 : i64} : i16
// CHECK-NOT: llvm.store
pmkvq.kernel @append(%c: !kv, %b: !pmkvq.batch, %k: !heads, %v: !heads,
                     %cos: !angles, %sin: !angles, %row: index) -> i1 {
  %sequence, %token = pmkvq.row_place %b[%row]
  %zero = arith.constant 0 : index
  %one = arith.constant 1 : index
  %two = arith.constant 2 : index
  scf.for %head = %zero to %two step %one {
    %k0 = pmkvq.load_rows %k[%row, %head] count %one group 1 : !heads -> !row
    %k1 = pmkvq.rotary %k0 by %cos, %sin[%row] : !row, !angles
    %k2 = pmkvq.hadamard %k1 : !row
    pmkvq.store_fixed key %k2, %c[%sequence, %head, %token] : !row, !kv
    %v0 = pmkvq.load_rows %v[%row, %head] count %one group 1 : !heads -> !row
    pmkvq.store_fixed value %v0, %c[%sequence, %head, %token] : !row, !kv
  }
  %ok = arith.constant true
  pmkvq.return %ok
}
