// Without bulk copies every lane copies 16 bytes at a time.
// RUN: pmkvq-opt %s --pmkvq-lower-ring="bulk-copies=false" --canonicalize --cse | FileCheck %s

// CHECK-LABEL: func @issue
// CHECK-SAME: {{.*}}%[[EXISTS:[a-z0-9]+]]: i1) {
func.func @issue(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %codes: !llvm.ptr<1>,
                 %parameters: !llvm.ptr<1>, %n: i32, %policy: i64, %key: i32,
                 %value: i32, %slot: i32, %info: i32, %exists: i1) {
  // CHECK-NOT: mbarrier
  // CHECK: scf.if %[[EXISTS]] {
  // Parameters of keys are 512 bytes, one copy of a warp.
  // CHECK: %[[LANE:.*]] = arith.andi %{{.*}}, %c31_i32
  // CHECK: %[[MINE:.*]] = arith.shli %[[LANE]], %c4_i32
  // CHECK: nvvm.cp.async.shared.global %{{.*}}, %{{.*}}, 16, cache = cg
  // Those of 64 tokens' values are 256: half a warp's.
  // CHECK: %[[HAS:.*]] = arith.cmpi ult, %[[LANE]], %c16_i32
  // CHECK: scf.if %[[HAS]] {
  // CHECK-NEXT: nvvm.cp.async.shared.global
  // CHECK-NEXT: }
  // Codes are 4096 bytes of keys and 2048 of values.
  // CHECK-COUNT-12: nvvm.cp.async.shared.global
  // CHECK-NOT: nvvm.cp.async.shared
  // CHECK: nvvm.cp.async.commit.group
  pmkvq.ring_issue %n into %ring, %barriers if %exists from %codes, %parameters
    at %key, %value, %slot info %info policy %policy
    kinds [4, 2] slots 2 slot_bytes 7168 head_dim 128 keys_per_token false
    : !llvm.ptr<3>, !llvm.ptr<3>, !llvm.ptr<1>, !llvm.ptr<1>
  return
}

// A lane waits for its own copies, then for the other lanes.  One slot needs no
// number.
// CHECK-LABEL: func @wait
// CHECK-SAME: (%[[RING:.*]]: !llvm.ptr<3>, %{{.*}}: !llvm.ptr<3>, %{{.*}}: i32)
func.func @wait(%ring: !llvm.ptr<3>, %barriers: !llvm.ptr<3>, %n: i32) -> !llvm.ptr<3> {
  // CHECK: nvvm.cp.async.wait.group 0
  // CHECK-NEXT: nvvm.bar.warp.sync
  // CHECK: return %[[RING]]
  %slot = pmkvq.ring_wait %n of %ring, %barriers slots 1 slot_bytes 9216
    : !llvm.ptr<3>, !llvm.ptr<3> -> !llvm.ptr<3>
  return %slot : !llvm.ptr<3>
}
