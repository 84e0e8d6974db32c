// States of warps and thread blocks become one.
// RUN: pmkvq-opt %s --pmkvq-lower-merges --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @warps
// CHECK-SAME: (%[[SHARED:.*]]: !llvm.ptr<3>, %[[OUT:[^:]*]]: !llvm.ptr<1>, %[[PARTIALS:[^:]*]]: !llvm.ptr<1>, %[[PAIR:[^:]*]]: i32, %[[SHARES:[^:]*]]: i32, %[[PARTIAL:[^:]*]]: i32, %[[MAX:[^:]*]]: f32, %[[SUM:[^:]*]]: f32, %[[OFFSET:[^:]*]]: f32, %[[O:[^:]*]]: f32)
func.func @warps(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                 %pair: i32, %shares: i32, %partial: i32, %max: f32, %sum: f32,
                 %offset: f32, %o: f32) {
  // Sum and offset are the lanes' own; the maximum is a query's.
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %[[SUM]], %c4_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %{{.*}}, %c16_i32
  // CHECK: nvvm.shfl.sync bfly %{{.*}}, %[[OFFSET]], %c4_i32
  // What all outputs lack is added when they are stored.
  // CHECK: %[[ALL:.*]] = arith.addf %[[O]], %{{.*}}
  // CHECK-COUNT-8: llvm.store %[[ALL]], %{{.*}} : f32, !llvm.ptr<3>
  // CHECK: llvm.store %[[MAX]], %{{.*}} : f32, !llvm.ptr<3>
  // CHECK: nvvm.barrier0
  // The largest maximum, then the warps in their order.
  // CHECK-COUNT-7: llvm.intr.maxnum
  // CHECK-COUNT-8: llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f32"
  // Threads of the fourth column have no query in a group of 3.
  // CHECK: %[[EXISTS:.*]] = arith.cmpi ult, %{{.*}}, %c3_i32
  // CHECK: scf.if %[[EXISTS]] {
  // CHECK: %[[ALONE:.*]] = arith.cmpi eq, %[[SHARES]], %c1_i32
  // CHECK: scf.if %[[ALONE]] {
  // CHECK: %[[INVERSE:.*]] = llvm.call_intrinsic "llvm.nvvm.rcp.approx.ftz.f"
  // CHECK: %[[RESULT:.*]] = arith.mulf %{{.*}}, %[[INVERSE]]
  // CHECK: %[[TO:.*]] = llvm.getelementptr %[[OUT]]
  // CHECK: llvm.store %[[RESULT]], %[[TO]]
  // Others leave outputs, maximum and sum as they are: (3 * 64 + 2 * 3) * 4 bytes.
  // CHECK: } else {
  // CHECK: %[[BYTES:.*]] = arith.muli %[[PARTIAL]], %c792_i32
  // CHECK: llvm.getelementptr %[[PARTIALS]][%[[BYTES]]]
  // CHECK-NOT: rcp.approx
  // CHECK: llvm.store %{{.*}} : vector<2xf32>, !llvm.ptr<1>
  // CHECK: return
  pmkvq.merge_warps pair %pair shares %shares partial %partial
    (%max, %sum, %offset, %o, %o, %o, %o, %o, %o, %o, %o) through %shared
    to %out, %partials group 3 head_dim 64 slot_bytes 9216
    : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// CHECK-LABEL: func @shares
// CHECK-SAME: (%[[SHARED:.*]]: !llvm.ptr<3>, %[[OUT:[^:]*]]: !llvm.ptr<1>, %[[PARTIALS:[^:]*]]: !llvm.ptr<1>, %[[COUNTERS:[^:]*]]: !llvm.ptr<1>, %[[PAIR:[^:]*]]: i32, %[[SHARES:[^:]*]]: i32, %[[PARTIAL:[^:]*]]: i32)
func.func @shares(%shared: !llvm.ptr<3>, %out: !llvm.ptr<1>, %partials: !llvm.ptr<1>,
                  %counters: !llvm.ptr<1>, %pair: i32, %shares: i32, %partial: i32) {
  // Partial results are stored before one thread announces them.
  // CHECK: nvvm.barrier0
  // CHECK: %[[COUNTER:.*]] = llvm.getelementptr %[[COUNTERS]]
  // CHECK: %[[BEFORE:.*]] = llvm.inline_asm has_side_effects {{.*}} "atom.add.acq_rel.gpu.global.u32 $0, [$1], 1;", "=r,l" %[[COUNTER]]
  // CHECK: %[[COUNT:.*]] = arith.addi %[[BEFORE]], %c1_i32
  // CHECK: %[[LAST:.*]] = arith.cmpi eq, %[[COUNT]], %[[SHARES]]
  // The last resets the counter for the next launch.
  // CHECK: scf.if %[[LAST]] {
  // CHECK-NEXT: llvm.store %c0_i32, %[[COUNTER]]
  // CHECK: nvvm.barrier0
  // CHECK: scf.if
  // Sixteen at a time; those past the last weigh nothing.
  // CHECK: scf.for %{{.*}} = %c0_i32 to %[[SHARES]] step %c16_i32 iter_args(%{{.*}} = %[[NONE:.*]], %{{.*}} = %[[ZERO:.*]], %{{.*}} = %[[ZERO]])
  // CHECK: scf.yield %[[NONE]], %[[ZERO]], %[[ZERO]]
  // CHECK: rcp.approx
  // CHECK: llvm.store %{{.*}} : f32, !llvm.ptr<1>
  pmkvq.merge_shares pair %pair shares %shares partial %partial from %partials, %counters
    to %out through %shared group 4 head_dim 64 slot_bytes 9216
    : !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}
