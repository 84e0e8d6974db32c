// 80 head dims are four a lane of the first 20.
// RUN: pmkvq-opt %s --convert-pmkvq-append-to-lanes --canonicalize --cse | FileCheck %s --implicit-check-not="pmkvq."

!kv = !pmkvq.cache<kv_heads = 2, head_dim = 80, key = <per_channel, hadamard>, value = <per_token>, sink = 1>
!row = !pmkvq.rows<1, 80>
!heads = memref<?x2x80xf32>
!angles = memref<?x40xf32>

// Lanes without dims read those of the last that has some.
// CHECK-LABEL: llvm.func @append
// CHECK: %[[LANE:.*]] = nvvm.read.ptx.sreg.tid.x
// CHECK: %[[MINE:.*]] = arith.minui %[[LANE]], %c19_i32
// CHECK: %[[LOWER:.*]] = arith.cmpi ult, %[[MINE]], %c10_i32
// CHECK-COUNT-10: llvm.store %{{.*}} {alignment = 16 : i64} : vector<4xi32>
// The partner of a position's pairs is 10 lanes on, or back.
// CHECK: %[[BELOW:.*]] = arith.subi %[[MINE]], %c10_i32
// CHECK: %[[ABOVE:.*]] = arith.addi %[[MINE]], %c10_i32
// CHECK: %[[OTHER:.*]] = arith.select %[[LOWER]], %[[ABOVE]], %[[BELOW]] : i32
// CHECK-COUNT-4: nvvm.shfl.sync idx %{{.*}}, %{{.*}}, %[[OTHER]]
// Blocks of 16 dims are of four lanes.
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c1_i32
// CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c2_i32
// CHECK-NOT: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c4_i32
// CHECK: %[[HAS:.*]] = arith.cmpi ult, %[[LANE]], %c20_i32
// CHECK: scf.if %[[HAS]] {
// CHECK-COUNT-2: llvm.store %{{.*}} {alignment = 4 : i64} : i32
// CHECK: scf.if %[[HAS]] {
// CHECK-COUNT-4: llvm.store %{{.*}} {alignment = 2 : i64} : i16
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
